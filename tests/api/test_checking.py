"""The data doctor as Python calls it: what stops training, the files it writes, wrong labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deitkit
from deitkit.api.checking import check, write_check
from deitkit.api.reviewing import Doubtful, find_doubtful
from deitkit.data import open_dataset
from deitkit.errors import ConfigError, DataError
from tests.data import faulty_images as fi
from tests.data.scenes import next_frame, scene
from tests.reporting.page_tree import check_self_contained, parse, words_of
from tests.training.toy import TINY, toy_images


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten scenes in each of two classes."""
    for place, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            scene(100 * place + number).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def page_and_json(folder: Path, out: Path) -> tuple[bytes, dict]:
    write_check(check(folder), out)
    return (out / "report.html").read_bytes(), json.loads((out / "report.json").read_bytes())


def test_nothing_to_complain_about(folder, tmp_path):
    page, found = page_and_json(folder, tmp_path / "out")
    check_self_contained(page)
    assert "Nothing to complain about." in words_of(page)
    assert (found["findings"], found["stops_training"]) == ([], None)
    assert found["data"]["num_images"] == {"train": 20}
    assert found["split_command"] == (
        f"deitkit train data={tmp_path / 'out/split/split.csv'} data.follow_symlinks_outside=true"
    )
    assert found["split_command"] in words_of(page)


def damage(folder: Path) -> None:
    for number in range(8):
        (folder / "cat" / f"cut{number}.jpg").write_bytes(fi.encoded_photo("JPEG", number)[:-300])


def only_one_class(folder: Path) -> None:
    shutil.rmtree(folder / "dog")


def a_single_picture(folder: Path) -> None:
    (folder / "elk").mkdir()
    scene(300).save(folder / "elk" / "0.png")


def contradictions(folder: Path) -> None:
    for number in range(4):
        shutil.copy(folder / "cat" / f"{number}.png", folder / "dog" / f"x{number}.png")


def an_empty_class(folder: Path) -> None:
    (folder / "elk").mkdir()
    (folder / "elk" / "0.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "code", "finding"),
    [
        (damage, "TOO_MANY_BAD", ("truncated", 8)),
        (only_one_class, "ONE_CLASS", None),
        (a_single_picture, "CLASS_TOO_SMALL", ("few_images", 1)),
        (contradictions, "CONFLICTING_LABELS", ("conflict", 8)),
        (an_empty_class, "EMPTY_CLASS", ("empty_file", 1)),
    ],
)
def test_what_stops_training_is_told_and_the_rest_is_examined(
    folder, tmp_path, spoil, code, finding
):
    """In the words of the error that training raises."""
    spoil(folder)
    with pytest.raises(DataError) as caught:
        open_dataset(folder)
    assert caught.value.code == code
    page, found = page_and_json(folder, tmp_path / "out")
    assert found["stops_training"] == str(caught.value)
    assert "Training would stop here." in words_of(page)
    counts = [(one["code"], one["count"]) for one in found["findings"]]
    assert finding is None or finding in counts
    assert found["data"]["class_counts"]["train"]["cat"] == 10


def test_what_cannot_be_listed_is_told_too(tmp_path):
    """D06: images without class folders."""
    (tmp_path / "photos").mkdir()
    scene(0).save(tmp_path / "photos" / "0.png")
    page, found = page_and_json(tmp_path / "photos", tmp_path / "out")
    assert "[NO_CLASSES]" in found["stops_training"]
    assert "put each class into a folder of its own" in words_of(page)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "report.json",
    ]
    with pytest.raises(ConfigError, match="does not exist"):
        check(tmp_path / "nowhere")


def test_data_with_a_val_split_gets_no_other(folder, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(folder, tmp_path / "splits" / split)
    _, found = page_and_json(tmp_path / "splits", tmp_path / "out")
    assert (found["split_command"], found["split_note"]) == (None, None)
    assert not (tmp_path / "out" / "split").exists()
    assert [(one["code"], one["count"]) for one in found["findings"]] == [("leak", 40)]


def test_why_there_is_no_split(folder, tmp_path):
    """All pictures of a class are frames of one scene: nothing is left for the other side."""
    shutil.rmtree(folder / "dog")
    (folder / "dog").mkdir()
    for frame in range(6):
        next_frame(scene(100), frame).save(folder / "dog" / f"{frame}.png")
    page, found = page_and_json(folder, tmp_path / "out")
    assert found["split_command"] is None
    assert "all pictures of dog look the same" in found["split_note"]
    assert found["split_note"] in words_of(page)


def test_the_data_is_never_written_to(folder, monkeypatch):
    """Also where the home folder is written as ~."""
    monkeypatch.setenv("HOME", str(folder.parent))
    for source in (folder, "~/photos"):
        checked = check(source)
        for out in (folder, folder / "cat" / "report"):
            with pytest.raises(ConfigError) as caught:
                write_check(checked, out)
            assert caught.value.code == "INSIDE_DATA"
    assert sorted(path.name for path in folder.iterdir()) == ["cat", "dog"]


def test_something_else_called_as_the_link_is_left_alone(folder, tmp_path):
    (tmp_path / "out" / "split" / "pictures").mkdir(parents=True)
    kept = tmp_path / "out" / "split" / "pictures" / "mine.txt"
    kept.write_text("mine")
    _, found = page_and_json(folder, tmp_path / "out")
    assert found["split_command"] is None
    assert "is no link of ours" in found["split_note"]
    assert kept.read_text() == "mine"


def test_tables_parquet_and_sequences_are_examined(folder, tmp_path):
    rows = [
        f"photos/{path.parent.name}/{path.name},{path.parent.name}"
        for path in folder.rglob("*.png")
    ]
    (tmp_path / "table.csv").write_text("path,label\n" + "\n".join([*rows, "photos/gone.png,cat"]))
    found = check(tmp_path / "table.csv").to_dict()
    assert [(one["code"], one["count"]) for one in found["findings"]] == [("missing_file", 1)]
    pairs = [(Image.open(path), path.parent.name) for path in folder.rglob("*.png")]
    checked = check(pairs + pairs[:1])
    assert [one.code for one in checked.examined.findings] == ["duplicate"]
    write_check(checked, tmp_path / "out")
    assert not (tmp_path / "out" / "split").exists()


def test_parquet_has_no_files_to_write_a_table_of(tmp_path):
    pytest.importorskip("pyarrow")
    from tests.data.test_parquet import write_shard

    pictures = [fi.encode(np.asarray(scene(seed))) for seed in range(20)]
    write_shard(tmp_path / "data" / "train-0.parquet", [0, 1] * 10, pictures=pictures)
    page, found = page_and_json(tmp_path / "data", tmp_path / "out")
    assert (found["findings"], found["data"]["num_images"]) == ([], {"train": 20})
    assert found["split_command"] is None
    assert "is no file of its own" in found["split_note"]
    assert found["split_note"] in words_of(page)


PAYLOAD = "<img src=x onerror=alert(1)>"


def spoilt_folder(root: Path, name: str) -> Path:
    """Each kind of finding that shows names; EXIF text besides. `name` is in every name."""
    for place, label in enumerate(("a", "b")):
        (root / f"{label} {name}").mkdir(parents=True)
        for number in range(9):
            scene(100 * place + number).save(root / f"{label} {name}" / f"{number} {name}.png")
    first = root / f"a {name}"
    shutil.copy(first / f"0 {name}.png", root / f"b {name}" / f"copy {name}.png")
    next_frame(scene(1), 0).save(first / f"frame {name}.png")
    (first / f"cut {name}.jpg").write_bytes(fi.encoded_photo("JPEG")[:-300])
    exif = Image.Exif()
    exif[270] = exif[315] = f"exif {name}"
    scene(77).save(first / f"z {name}.jpg", quality=95, exif=exif)
    return root


def test_hostile_names_stay_text(tmp_path):
    """S22, S23: of files, classes and the folder; EXIF is shown nowhere."""
    pages = []
    for name in (PAYLOAD, "harmless"):
        folder = spoilt_folder(tmp_path / f"photos {name}", name)
        page, found = page_and_json(folder, tmp_path / f"out-{len(pages)}")
        pages.append(page)
        assert {one["code"] for one in found["findings"]} == {
            "truncated",
            "conflict",
            "near_duplicate",
        }
    hostile, harmless = pages
    check_self_contained(hostile)
    assert parse(hostile).elements == parse(harmless).elements
    for text in (f"cut {PAYLOAD}.jpg", f"copy {PAYLOAD}.png", f"a {PAYLOAD}", f"b {PAYLOAD}"):
        assert text in words_of(hostile)
    assert b"exif" not in hostile


# After a run: labels that are likely wrong.

NUM_CLASSES, NUM_EACH = 3, 24
SWAPPED = {("0", "3"): "1", ("1", "7"): "2", ("2", "11"): "0"}
"""(true class, picture) -> the class folder it lies in."""


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory) -> Path:
    """Patches of colour, three of them in a wrong folder; an own val split without errors."""
    root = tmp_path_factory.mktemp("mislabelled") / "photos"
    rng = np.random.default_rng(0)
    for split, num in (("train", NUM_EACH), ("val", 6)):
        for true in range(NUM_CLASSES):
            for number in range(num):
                pixels = rng.integers(0, 120, (16, 16, 3)).astype(np.uint8)
                pixels[..., true] += 120
                label = (
                    SWAPPED.get((str(true), str(number)), str(true))
                    if split == "train"
                    else str(true)
                )
                target = root / split / label / f"{true}-{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(target)
    return root


@pytest.fixture(scope="module")
def judge(tmp_path_factory, mislabelled) -> Path:
    """A student of a teacher that was trained on the same labels."""
    runs = tmp_path_factory.mktemp("runs")
    same = {"data": mislabelled, "batch_size": 12, "workers": 0, "epochs": 5}
    teacher = deitkit.train(out=runs / "teacher", model="small_cnn", **same)
    settings = TINY | {"model": "deit_nano_distilled_patch4_16"}
    deitkit.train(out=runs / "student", teacher=teacher, **same, **settings)
    return runs / "student"


def test_planted_errors_are_the_labels_both_speak_against(mislabelled, judge, tmp_path):
    """Exactly the three swapped pictures, each with the class that both say."""
    checked = check(mislabelled, run=judge)
    rows = checked.to_dict()["doubtful_labels"]
    found = {Path(row["path"]).stem: row for row in rows}
    assert set(found) == {f"{true}-{number}" for true, number in SWAPPED}
    for (true, number), label in SWAPPED.items():
        row = found[f"{true}-{number}"]
        assert row["label"] == label
        assert {judge: said["class"] for judge, said in row["said"].items()} == {
            "student": true,
            "teacher": true,
        }
    write_check(checked, tmp_path / "out")
    words = words_of((tmp_path / "out" / "report.html").read_bytes())
    assert "3 doubtful labels" in words
    assert "Labels that are likely wrong" in words


def test_the_ranking_begins_with_them(judge):
    """For review: the swapped ones first, then all others, each once."""
    doubtful = find_doubtful(judge)
    assert doubtful.notes == ()
    firsts = {Path(row["path"]).stem for row in doubtful.rows(3)}
    assert firsts == {f"{true}-{number}" for true, number in SWAPPED}
    assert len(doubtful.rows(10**6)) == NUM_CLASSES * (NUM_EACH + 6)
    scores = [row["doubt"] for row in doubtful.rows(10**6)]
    assert scores == sorted(scores, reverse=True)


def test_one_voice_against_a_label_by_hand():
    """Labels 0: both say 1; one says 1; they say 1 and 2; both say 0; one says 1, the other 0."""
    images = toy_images(5).relabelled(np.zeros(5, int))
    student = np.eye(3)[[1, 1, 1, 0, 0]]
    teacher = np.eye(3)[[1, 0, 2, 0, 1]] * 0.4 + 0.2
    doubtful = Doubtful(
        images=images,
        order=np.arange(5),
        scores_N=np.zeros(5),
        judges={"student": student, "teacher": teacher},
        class_names=("a", "b", "c"),
        notes=(),
    )
    assert doubtful.contradicted().tolist() == [True, False, False, False, False]
