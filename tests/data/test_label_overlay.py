"""Corrections of labels: written and read back, each wrong line named, and laid over a data set."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.data import Dataset, open_dataset, printable
from deitkit.data.label_overlay import (
    ACTIONS,
    CHANGE,
    DROP,
    KEEP,
    LabelEdit,
    apply_overlay,
    image_ids,
    read_overlay,
    write_overlay,
)
from deitkit.errors import ConfigError, DataError
from tests.data import faulty_images as fi

ID = "0123456789abcdef" * 2
HEADER = "id,path,action,label\n"

texts = st.text(
    st.characters(exclude_categories=()) | st.sampled_from("'=+-@\t\r\n\",;\\\x00\ufeff\udcff"),
    max_size=12,
)
edits_of = st.dictionaries(
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.tuples(texts, st.sampled_from(ACTIONS), texts.filter(bool)),
    max_size=8,
)


def as_edits(drawn: dict[str, tuple[str, str, str]]) -> dict[str, LabelEdit]:
    return {
        image_id: LabelEdit(
            image_id=image_id, path=path, action=action, label=label if action == CHANGE else ""
        )
        for image_id, (path, action, label) in drawn.items()
    }


@given(drawn=edits_of)
@settings(max_examples=80)
def test_what_is_written_is_read(drawn, tmp_path_factory):
    """Whatever classes and files are called: ids, actions and labels to the last character, paths
    as people read them, in the same order; and a second writing gives the same bytes."""
    path = tmp_path_factory.mktemp("overlay") / "labels.csv"
    edits = as_edits(drawn)
    write_overlay(path, edits)
    found = read_overlay(path)
    assert list(found) == list(edits)
    for image_id, edit in edits.items():
        got = found[image_id]
        assert (got.action, got.label) == (edit.action, edit.label)
        assert got.path == printable(edit.path)
    before = path.read_bytes()
    write_overlay(path, found)
    assert path.read_bytes() == before


@given(drawn=edits_of)
@settings(max_examples=40)
def test_no_cell_is_a_formula(drawn, tmp_path_factory):
    """S24: neither a file nor a class can make a spreadsheet compute."""
    path = tmp_path_factory.mktemp("overlay") / "labels.csv"
    write_overlay(path, as_edits(drawn))
    with path.open(encoding="utf-8", errors="surrogatepass", newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_the_file_by_hand(tmp_path):
    edits = {
        ID: LabelEdit(image_id=ID, path="a/1.png", action=CHANGE, label="=1+1"),
        "f" * 32: LabelEdit(image_id="f" * 32, path="b,2.png", action=DROP),
    }
    write_overlay(tmp_path / "labels.csv", edits)
    expected = f'{HEADER}{ID},a/1.png,change,\'=1+1\n{"f" * 32},"b,2.png",drop,\n'
    assert (tmp_path / "labels.csv").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_editors_do_to_a_file_is_read(tmp_path, end):
    """A byte order mark, Windows' line ends, empty lines, quotes around everything."""
    lines = ["\ufeffid,path,action,label", f'"{ID}","a/1.png","change","dog"', "", ""]
    (tmp_path / "labels.csv").write_bytes(end.join(lines).encode())
    expected = LabelEdit(image_id=ID, path="a/1.png", action=CHANGE, label="dog")
    assert read_overlay(tmp_path / "labels.csv") == {ID: expected}


GOOD = f"{ID},a.png,keep,\n"
OTHER = "f" * 32


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "has the columns of an empty file"),
        ("id,path\n", 1, "has the columns id, path"),
        ("path,label,split\na.png,cat,train\n", 1, "has the columns path, label, split"),
        (f"{HEADER}{GOOD}{OTHER},b.png,keep\n", 3, "has 3 values, not 4"),
        (f"{HEADER}{GOOD}{OTHER},b.png,keep,,\n", 3, "has 5 values, not 4"),
        (f"{HEADER}{GOOD}xyz,b.png,keep,\n", 3, "has the id 'xyz', not 32 hex digits"),
        (f"{HEADER}{ID.upper()},b.png,keep,\n", 2, "not 32 hex digits"),
        (f"{HEADER}{GOOD}{OTHER},b.png,remove,\n", 3, "says 'remove', not keep, change, drop"),
        (f"{HEADER}{GOOD}{OTHER},b.png,change,\n", 3, "says change with the label ''"),
        (f"{HEADER}{GOOD}{OTHER},b.png,keep,cat\n", 3, "says keep with the label 'cat'"),
        (f"{HEADER}{GOOD}{OTHER},b.png,drop,cat\n", 3, "says drop with the label 'cat'"),
        (f"{HEADER}{GOOD}\n{GOOD}", 4, f"names the picture {ID} again"),
        (f'{HEADER}{GOOD}{OTHER},"b.png"x,keep,\n', 3, "is no CSV"),
        (f'{HEADER}{GOOD}{OTHER},"b.png,keep,\n', 3, "is no CSV"),
        (f'{HEADER}{OTHER},"two\nlines",keep,\n{ID},x,nothing,\n', 4, "says 'nothing'"),
    ],
)
def test_each_malformed_line_is_named(tmp_path, text, line, said):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(DataError) as caught:
        read_overlay(path)
    assert (caught.value.code, caught.value.subject) == ("BAD_LABELS", f"{path}:{line}")
    assert said in caught.value.why
    assert "deitkit review writes" in caught.value.do


def test_other_encodings_and_missing_files(tmp_path):
    """D35: with the byte that cannot be."""
    path = tmp_path / "labels.csv"
    path.write_bytes(HEADER.encode() + b"caf\xe9")
    with pytest.raises(DataError, match="byte 24 is not UTF-8") as caught:
        read_overlay(path)
    assert caught.value.code == "BAD_LABELS"
    path.write_bytes(HEADER.encode("utf-16"))
    with pytest.raises(DataError, match="byte 0 is not UTF-8"):
        read_overlay(path)
    with pytest.raises(ConfigError, match="there is no such file"):
        read_overlay(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="there is no such file"):
        read_overlay(tmp_path)


# Laid over a data set.


@pytest.fixture
def folder(tmp_path) -> Path:
    """train of 6 and val of 3 pictures in each of three classes."""
    fi.write_photos(tmp_path / "photos" / "train", ["cat", "dog", "elk"], 6)
    fi.write_photos(tmp_path / "photos" / "val", ["cat", "dog", "elk"], 3, first_seed=100)
    return tmp_path / "photos"


def id_of(dataset: Dataset, name: str) -> str:
    """The id of train/cat/0.png and the like."""
    for images in (dataset.train, dataset.val):
        for index, image_id in enumerate(image_ids(images)):
            if images.describe(index).endswith(name):
                return image_id
    raise AssertionError(name)


def laid_over(folder: Path, **answers: str) -> Dataset:
    """answers: train_cat_0="dog", or "drop", or "keep"."""
    dataset = open_dataset(folder)
    edits = {}
    for name, answer in answers.items():
        image_id = id_of(dataset, name.replace("_", "/") + ".png")
        action = answer if answer in (KEEP, DROP) else CHANGE
        edits[image_id] = LabelEdit(
            image_id=image_id, path=name, action=action, label=answer if action == CHANGE else ""
        )
    write_overlay(folder.parent / "labels.csv", edits)
    return apply_overlay(open_dataset(folder), folder.parent / "labels.csv")


def labels_of(dataset: Dataset) -> dict[str, str]:
    """Label by split/class/file."""
    return {
        "/".join(Path(images.describe(index)).parts[-3:]): dataset.class_names[label]
        for images in (dataset.train, dataset.val)
        for index, label in enumerate(images.labels.tolist())
    }


def test_change_drop_and_keep(folder):
    before = labels_of(open_dataset(folder))
    dataset = laid_over(
        folder,
        train_cat_0="dog",
        train_cat_1="drop",
        train_dog_0="keep",
        val_elk_2="cat",
        val_elk_1="drop",
    )
    expected = before | {"train/cat/0.png": "dog", "val/elk/2.png": "cat"}
    del expected["train/cat/1.png"], expected["val/elk/1.png"]
    assert labels_of(dataset) == expected
    assert dataset.report.class_counts == {
        "train": {"cat": 4, "dog": 7, "elk": 6},
        "val": {"cat": 4, "dog": 3, "elk": 1},
    }
    assert dataset.warnings[-1] == (
        "labels.csv: 2 labels changed and 2 images dropped, of them 1 and 1 in validation"
    )
    for images in (dataset.train, dataset.val):
        for index in range(len(images)):
            number = int(Path(images.describe(index)).stem)
            seeds = {"train": 6, "val": 3}
            split, name = Path(images.describe(index)).parts[-3:-1]
            seed = (
                100 * (split == "val") + seeds[split] * ["cat", "dog", "elk"].index(name) + number
            )
            np.testing.assert_array_equal(images.image(index), fi.photo(seed, 10, 12))


def test_the_fingerprint_is_that_of_the_corrected_set(folder):
    """Other labels or fewer images are another data set; the same corrections made by moving and
    deleting files are the same one; looking alone changes nothing."""
    plain = open_dataset(folder).fingerprint
    assert laid_over(folder, train_cat_0="keep", train_dog_1="keep").fingerprint == plain
    changed = laid_over(folder, train_cat_0="dog").fingerprint
    dropped = laid_over(folder, train_cat_1="drop").fingerprint
    both = laid_over(folder, train_cat_0="dog", train_cat_1="drop").fingerprint
    assert len({plain, changed, dropped, both}) == 4
    shutil.move(folder / "train/cat/0.png", folder / "train/dog/moved.png")
    assert open_dataset(folder).fingerprint == changed
    (folder / "train/cat/1.png").unlink()
    assert open_dataset(folder).fingerprint == both


def test_renamed_files_keep_their_corrections(folder):
    """The id is the content: other names, other order, the same labels by content."""
    before = laid_over(folder, train_cat_0="dog", train_elk_3="drop")
    for path in sorted(folder.rglob("*.png")):
        path.rename(path.with_name(f"renamed-{9 - int(path.stem)}.png"))
    after = apply_overlay(open_dataset(folder), folder.parent / "labels.csv")
    assert after.fingerprint == before.fingerprint
    assert labels_of(after)["train/cat/renamed-9.png"] == "dog"
    assert "train/elk/renamed-6.png" not in labels_of(after)


def test_a_correction_is_of_every_copy(folder):
    """The same bytes twice: one answer settles both."""
    shutil.copy(folder / "train/cat/0.png", folder / "train/cat/copy.png")
    labels = labels_of(laid_over(folder, train_cat_0="elk"))
    assert labels["train/cat/0.png"] == labels["train/cat/copy.png"] == "elk"


def test_pictures_that_are_not_there_are_told(folder):
    dataset = laid_over(folder, train_cat_0="dog")
    (folder / "train/cat/0.png").unlink()
    dataset = apply_overlay(open_dataset(folder), folder.parent / "labels.csv")
    assert dataset.warnings[-2:] == [
        "labels.csv: 0 labels changed and 0 images dropped, of them 0 and 0 in validation",
        "labels.csv: 1 lines name pictures that are not there",
    ]


def test_a_class_that_is_not_there(folder):
    with pytest.raises(DataError) as caught:
        laid_over(folder, train_cat_0="fox")
    assert caught.value.code == "BAD_LABELS"
    assert caught.value.why == "names the class 'fox', the data has cat, dog, elk"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({f"train_cat_{k}": "dog" for k in range(6)}, "leaves no training image of cat"),
        ({f"train_cat_{k}": "drop" for k in range(6)}, "leaves no training image of cat"),
        (
            {f"val_{name}_{k}": "drop" for name in ("cat", "dog", "elk") for k in range(3)},
            "leaves no validation image",
        ),
    ],
)
def test_nothing_left_of_a_class(folder, answers, said):
    with pytest.raises(DataError) as caught:
        laid_over(folder, **answers)
    assert (caught.value.code, caught.value.why) == ("EMPTY_CLASS", said)


def test_a_class_may_go_from_validation(folder):
    """As a validation folder may lack one (D08)."""
    dataset = laid_over(folder, **{f"val_cat_{k}": "drop" for k in range(3)})
    assert dataset.report.class_counts["val"] == {"cat": 0, "dog": 3, "elk": 3}
