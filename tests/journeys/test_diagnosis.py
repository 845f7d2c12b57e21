"""deitkit evaluate teacher=... against=...: what distillation did, from the command to Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import deitkit
from tests.journeys.conftest import TINY, make_splits


@pytest.fixture(scope="module")
def plain(commands, photos, tmp_path_factory) -> Path:
    """The student's settings without its teacher."""
    out = tmp_path_factory.mktemp("plain") / "run"
    settings = ("model=deit_nano_distilled_patch4_16", *TINY[1:])
    ended = commands("train", f"data={photos}", f"out={out}", *settings)
    assert ended.code == 0, ended.err
    return out


def right_of(run: Path, pictures: Path) -> dict[str, str]:
    """Class that a run gives each picture, by the picture's path."""
    return {p.source: p.class_name for p in deitkit.open_run(run).predict(pictures)}


def test_from_the_command(commands, photos, teacher, student, plain, tmp_path):
    """A.25: every number once more from the predictions of the three runs."""
    ended = commands(
        *("evaluate", student, "teacher=own", f"against={plain}", "--json"), folder=tmp_path
    )
    assert ended.code == 0, ended.err
    found = ended.json["diagnostics"]
    own, taught, other = (right_of(run, photos / "test") for run in (student, teacher, plain))
    truth = {path: Path(path).parent.name for path in own}
    assert len(own) == 12 and found["gain"]["share"]["num_images"] == 12

    def num_alike(first: dict[str, str], second: dict[str, str]) -> int:
        return sum(first[path] == second[path] for path in first)

    assert found["agreement"]["fused"]["num_right"] == num_alike(own, taught)
    assert found["agreement"]["other"]["num_right"] == num_alike(other, taught)
    assert found["gain"]["share"]["num_right"] == num_alike(own, truth)
    assert found["gain"]["other"]["num_right"] == num_alike(other, truth)
    for row in found["class_gains"]:
        chosen = {path: name for path, name in truth.items() if name == row["name"]}
        assert row["gain"]["share"]["num_right"] == num_alike(chosen, own)
    assert -1 < found["tokens"]["input"] < 1 and found["tokens"]["num_images"] == 12
    evaluation = deitkit.open_run(student).evaluate(
        teacher=deitkit.open_run(teacher), against=plain
    )
    assert evaluation.diagnostics.to_dict() == found


def test_in_words(commands, student, plain, tmp_path):
    ended = commands("evaluate", student, "teacher=own", "against", plain, folder=tmp_path)
    assert ended.code == 2, "a word too many"
    ended = commands("evaluate", student, "--teacher", "own", f"against={plain}", folder=tmp_path)
    assert ended.code == 0 and ended.err == ""
    text = " ".join(ended.out.split())
    for said in (
        "all 3 classes matched in the same order",
        "agreement with the teacher",
        "the other run",
        "distillation head less class head:",
        "class and distillation token: cosine",
        "gain over the other run:",
        "accuracy by class, in percent",
    ):
        assert said in text, said
    alone = commands("evaluate", student, folder=tmp_path)
    assert "cosine" in alone.out and "agreement" not in alone.out
    assert "cosine" not in commands("evaluate", student, "--json", folder=tmp_path).err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("teacher=own",), 2, "[NO_TEACHER]"),
        (("teacher=auto",), 2, "[TEACHER_NAME]"),
        (("against=nowhere",), 2, "[NO_RUN] nowhere"),
        (("against=pets",), 2, "[OTHER_CLASSES]"),
        (("teacher=pets",), 5, "[TEACHER_CLASSES] pets"),
    ],
    ids=str,
)
def test_who_cannot_answer(commands, plain, pets, words, code, said):
    ended = commands("evaluate", plain, *words, folder=pets.parent)
    assert ended.code == code and ended.out == "" and len(ended.errors) == 1
    assert said in ended.errors[0]


@pytest.fixture(scope="module")
def pets(commands, tmp_path_factory) -> Path:
    """A run on classes of other names."""
    folder = tmp_path_factory.mktemp("pets")
    names = ("cat", "dog", "eel")
    data = make_splits(folder / "photos", train=10, val=3, test=0, classes=names)
    ended = commands(
        *("train", f"data={data}", f"out={folder / 'pets'}", *TINY[4:], "model=small_cnn")
    )
    assert ended.code == 0, ended.err
    return folder / "pets"
