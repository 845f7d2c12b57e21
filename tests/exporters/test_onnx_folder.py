"""The folder of an ONNX export: whole or absent, whatever kills it, wherever the disk is full."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deitkit.artifacts.bundle import Bundle
from deitkit.errors import ResourceError
from deitkit.evaluation.onnx_predictor import OnnxPredictor
from deitkit.exporters import onnx_graph
from deitkit.exporters.onnx_format import export_onnx
from deitkit.runtime.sealed_folder import find_folder, verify_folder
from deitkit.runtime.temporary_names import remove_leftovers
from tests.artifacts.test_kill_sweep import sweep
from tests.exporters.plain_networks import mean_colour_network

EYE = np.eye(3, dtype=np.float32)


@pytest.fixture
def bundles(make_bundle, monkeypatch, tmp_path) -> list[Bundle]:
    """Two that their files tell apart; what is temporary stays in this test's folder."""
    shape = {"depth": 1, "embed_dim": 8, "num_heads": 1}
    made = [
        make_bundle("deit_nano_patch4_16", bundle={"provenance": {"number": number}}, **shape)
        for number in (1, 2)
    ]
    network = mean_colour_network(made[0].preprocessing, EYE)
    monkeypatch.setattr(onnx_graph, "_network", network)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return made


def export(bundle: Bundle, folder: Path, *, int8: bool = False) -> None:
    passed: Any = None
    export_onnx(bundle, folder, int8=int8, gate=lambda path: passed)


def found(folder: Path) -> int:
    """The number of the export that is there, 0 for none: whole, with a file that answers."""
    whole = find_folder(folder)
    if whole is None:
        return 0
    assert verify_folder(whole) == []
    number: int = OnnxPredictor(whole / "model.onnx").metadata["provenance"]["number"]
    return number


@pytest.mark.parametrize("way", ["torn", "power"])
def test_killed_at_any_call(bundles, tmp_path, way):
    """X06: a torn write, a power cut (more than kill -9); the earlier export, then the new one."""
    seen = sweep(
        tmp_path,
        lambda place: export(bundles[0], place / "out"),
        lambda place: export(bundles[1], place / "out"),
        lambda place: found(place / "out"),
        way,
    )
    assert seen == sorted(seen) and set(seen) == {1, 2}


def test_killed_before_there_was_one(bundles, tmp_path):
    """X06: then there is none, or all of it."""
    seen = sweep(
        tmp_path,
        lambda place: None,
        lambda place: export(bundles[1], place / "new" / "out"),
        lambda place: found(place / "new" / "out"),
        "kill",
    )
    assert seen == sorted(seen) and set(seen) == {0, 2}


@pytest.mark.parametrize("place", ["write", "fsync", "rename"])
def test_a_full_disk_at_any_call(bundles, tmp_path, monkeypatch, place):
    """X06: one line for the user, and the earlier export or the new one."""
    original = getattr(os, place)
    faults = 0
    for number in range(30):
        export(bundles[0], tmp_path / "out", int8=True)
        calls = iter(range(30))

        def fail(*args, number=number, calls=calls):
            if next(calls) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args)

        monkeypatch.setattr(os, place, fail)
        try:
            export(bundles[1], tmp_path / "out", int8=True)
        except ResourceError as error:
            assert error.code == "ENOSPC" and str(tmp_path / "out") in str(error)
            faults += 1
        else:
            break
        finally:
            monkeypatch.setattr(os, place, original)
        assert found(tmp_path / "out") in (1, 2)
        remove_leftovers(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert names <= {"out", "out.previous", "temporary"}
        assert list((tmp_path / "temporary").iterdir()) == []
    assert faults >= 2
    assert found(tmp_path / "out") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "manifest.json",
        "model.int8.onnx",
        "model.onnx",
    ]
