"""Tar shards through every command, and the same run from folder, tar and Parquet."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deitkit.api.verify import state_digest
from deitkit.artifacts.checkpoint import load_newest
from tests.data import faulty_images as fi
from tests.data.tar_files import write_tar
from tests.journeys.conftest import CLASSES, TINY, make_picture
from tests.journeys.final_state import final_state

SIDE = 256
"""Noise of this size takes about 150 kB, so that a few pictures are more than a window."""


def content_of(name: str, number: int, side: int) -> bytes:
    return fi.encode(Image.fromarray(make_picture(name, number, size=(side, side))))


def write_shards(folder: Path, *, side: int) -> Path:
    """Six shards of five pictures to train, one of nine to validate, one of six to test."""
    number = 0
    for split, shards, in_shard in (("train", 6, 5), ("val", 1, 9), ("test", 1, 6)):
        for shard in range(shards):
            found = []
            for _ in range(in_shard):
                name = CLASSES[number % 3]
                found.append((f"{number:04d}.png", content_of(name, number, side)))
                found.append((f"{number:04d}.json", json.dumps({"label": name}).encode()))
                number += 1
            write_tar(folder / f"colours-{split}-{shard:06d}.tar", found)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    """A run that reads windows of two shards or three, and keeps nothing in memory."""
    shards = write_shards(tmp_path_factory.mktemp("shards"), side=SIDE)
    return [
        f"data={shards}",
        *TINY,
        "views.mixup=0.8",
        "views.cutmix=1",
        "data.image_cache=off",
        "data.order=blocks",
        "data.window_mb=2",
    ]


@pytest.fixture(scope="module")
def undisturbed(commands, settings, tmp_path_factory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    start = time.monotonic()
    ended = commands("train", *settings, f"out={out}")
    assert ended.code == 0, ended.err
    seconds = time.monotonic() - start
    return {"out": out, "state": final_state(out), "seconds": seconds}


def test_kill_in_the_middle_of_the_shards(commands, settings, undisturbed, tmp_path):
    """T01, T04, T18: SIGKILLs at random times, other numbers of workers, each time SAME."""
    chance = random.Random(7)
    alone = [word for word in settings if not word.startswith("workers=")]
    num_kills = 0
    for run in range(2):
        out = tmp_path / f"run{run}"
        for attempt in range(3):
            started = commands.start("train", *alone, f"workers={attempt % 3}", f"out={out}")
            if attempt < 2:
                time.sleep(chance.uniform(0.2, 0.9) * undisturbed["seconds"])
                os.kill(started.pid, signal.SIGKILL)
            ended = started.wait()
            killed = ended.code == -signal.SIGKILL
            num_kills += killed
            assert killed or ended.code == 0, ended.err
        assert final_state(out) == undisturbed["state"]
    assert num_kills >= 2


@pytest.mark.parametrize("at", [5, 11])
def test_kill_at_a_step(commands, settings, undisturbed, tmp_path, at):
    """T01: in the middle of an epoch's windows."""
    out = tmp_path / "run"
    hooks = {"names": ["step"], "signal": signal.SIGKILL, "at": at}
    assert commands("train", *settings, f"out={out}", hooks=hooks).code == -signal.SIGKILL
    assert commands("train", f"out={out}").code == 0
    assert final_state(out) == undisturbed["state"]


def _source(settings: list[str]) -> str:
    return settings[0].partition("=")[2]


def test_the_order_matters_and_is_frozen(commands, settings, undisturbed, tmp_path):
    """Block order is not the order of images here; another order on the same run needs a word."""
    rest = [word for word in settings if not word.startswith(("data.order", "data.window"))]
    out = tmp_path / "run"
    assert commands("train", *rest, f"out={out}").code == 0
    assert "order: images" in (out / "config.yaml").read_text(encoding="utf-8")
    assert final_state(out) != undisturbed["state"]
    changed = commands("train", *rest, "data.order=blocks", f"out={out}")
    assert changed.code == 4 and "data.order" in changed.errors[0]


def test_every_command_reads_shards(commands, settings, undisturbed, tmp_path):
    out, source = undisturbed["out"], _source(settings)
    measured = commands("evaluate", out, "--json").json
    assert measured["heads"]["fused"]["num_images"] == 6
    again = commands("evaluate", out, f"data={source}/colours-test-000000.tar", "--json").json
    assert again["heads"] == measured["heads"]
    test_shard = f"{source}/colours-test-000000.tar"
    predicted = commands("predict", out, test_shard, "--json").json
    assert [row["source"] for row in predicted] == [
        f"{test_shard}:{number:04d}.png" for number in range(39, 45)
    ]
    checked = commands("check", f"data={source}", f"out={tmp_path / 'check'}", "--json")
    assert checked.code == 0, checked.err
    sheet = commands("views", source, f"out={tmp_path / 'sheet.png'}", "count=4")
    assert sheet.code == 0, sheet.err


def test_resuming_on_other_shards_is_refused(commands, settings, tmp_path):
    """D41."""
    source = write_shards(tmp_path / "shards", side=16)
    words = [f"data={source}", *TINY, f"out={tmp_path / 'run'}"]
    hooks = {"names": ["step"], "signal": signal.SIGTERM, "at": 4}
    assert commands("train", *words, hooks=hooks).code == 143
    (source / "colours-train-000005.tar").unlink()
    ended = commands("train", *words)
    assert ended.code == 4 and "DATASET_CHANGED" in ended.errors[0]


def test_folder_tar_and_parquet_train_the_same_bits(commands, tmp_path):
    """The same pictures, two epochs, shuffled as images: the weights are equal in every bit."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_shards(tmp_path / "tar", side=16)
    number = 0
    for split, count in (("train", 30), ("val", 9), ("test", 6)):
        rows = []
        for _ in range(count):
            name, content = CLASSES[number % 3], content_of(CLASSES[number % 3], number, 16)
            path = tmp_path / "folder" / split / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            rows.append(({"bytes": content, "path": None}, name))
            number += 1
        images, labels = zip(*rows, strict=True)
        table = pa.table({"image": list(images), "label": list(labels)})
        (tmp_path / "parquet").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "parquet" / f"{split}.parquet", row_group_size=4)
    states = []
    for kind in ("folder", "tar", "parquet"):
        out = tmp_path / "runs" / kind
        words = [word for word in TINY if not word.startswith("epochs")]
        more = ("epochs=2", "data.order=images", "data.image_cache=off", "views.mixup=0.8")
        ended = commands("train", f"data={tmp_path / kind}", *words, *more, f"out={out}")
        assert ended.code == 0, ended.err
        checkpoint = load_newest(out / "last")
        assert checkpoint is not None
        # Weights, average and optimizer; scores are means in the order of the validation images.
        states.append((checkpoint.step, state_digest(checkpoint.tensors, {})))
    assert states[0] == states[1] == states[2]
