"""The road of a model: folder, check, training, report, comparison, explanation, file, server."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.journeys.commands import Ended, installed, serving
from tests.journeys.conftest import TINY, make_splits
from tests.journeys.final_state import files_of

pytest.importorskip("onnxruntime")
pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder with pictures in it; every command starts here."""
    folder = tmp_path_factory.mktemp("user")
    make_splits(folder / "photos", train=10, val=7, test=4)
    return folder


def told(ended: Ended) -> str:
    assert ended.code == 0, ended.err
    return ended.out


def answers(rows: list[dict]) -> dict[str, dict[str, float]]:
    return {short(Path(row["source"])): row["probabilities"] for row in rows}


def short(path: Path) -> str:
    """Class folder and file name."""
    return "/".join(path.parts[-2:])


def test_the_whole_road(commands, folder):
    """Each step as it is typed, through the installed program where no other journey starts that
    verb so; every way to ask gives the same answers (1e-4)."""

    def run(*words: object) -> str:
        return told(commands(*words, folder=folder))

    before = files_of(folder / "photos")
    checked = json.loads(run("check", "data=photos", "--json"))
    assert checked["stops_training"] is None
    assert checked["data"]["num_images"] == {"train": 30, "val": 21, "test": 12}
    for out, more in (
        ("teacher", ["model=small_cnn", *TINY[4:]]),
        ("student", ["teacher=teacher", "model=deit_nano_distilled_patch4_16", *TINY[1:]]),
    ):
        run("train", "data=photos", f"out={out}", *more)
    report = (folder / "student" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in report
    assert "://" not in report.replace("http://www.w3.org/2000/svg", ""), "nothing is fetched"
    compared = json.loads(told(installed("compare", "student", "teacher", "--json", folder=folder)))
    assert [one["name"] for one in compared["runs"]] == ["student", "teacher"]
    evaluated = json.loads(run("evaluate", "student", "data=photos/test", "--json"))
    own_top1 = evaluated["heads"]["fused"]["top1"]
    assert compared["runs"][0]["metrics"]["top1"] == pytest.approx(own_top1)
    picture = next((folder / "photos" / "test").rglob("*.png"))
    told(installed("explain", "student", picture, "out=why.png", folder=folder))
    assert (folder / "why.png").read_bytes().startswith(b"\x89PNG")
    run("export", "student", "to=onnx", "int8=true", "tolerance=0.2")
    pictures = folder / "photos" / "test"
    own = answers(json.loads(run("predict", "student", pictures, "--json")))
    assert len(own) == 12
    for name, tolerance in (("model.onnx", 1e-4), ("model.int8.onnx", 0.2)):
        file = folder / "student" / "export-onnx" / name
        theirs = answers(json.loads(run("predict", file, pictures, "--json")))
        assert_alike(theirs, own, tolerance)
    with commands.serving("student", folder=folder) as address:
        assert_alike(over_http(address, pictures), own, 1e-4)
    with serving("student/export-onnx/model.onnx", folder=folder) as address:
        assert_alike(over_http(address, pictures), own, 1e-4)
    assert files_of(folder / "photos") == before


def assert_alike(theirs: dict, own: dict, tolerance: float) -> None:
    assert theirs.keys() == own.keys()
    for name, probabilities in own.items():
        assert theirs[name] == pytest.approx(probabilities, abs=tolerance), name


def over_http(address: str, pictures: Path) -> dict[str, dict[str, float]]:
    """Probabilities of each picture from `deitkit serve`."""
    found = {}
    for path in sorted(pictures.rglob("*.png")):
        answer = httpx.post(f"{address}/v1/predict", content=path.read_bytes(), timeout=30)
        assert answer.status_code == 200, answer.text
        (prediction,) = answer.json()["predictions"]
        found[short(path)] = {row["class"]: row["probability"] for row in prediction["top"]}
    return found
