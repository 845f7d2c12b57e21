"""CSV and TSV tables: what they may say, and where exactly they are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deitkit.data import open_dataset, open_split
from deitkit.errors import DataError
from tests.data import faulty_images as fi


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/0.png to images/11.png, all different."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number in range(12):
        picture = fi.encode(fi.photo(number, 10, 12))
        (tmp_path / "data" / "images" / f"{number}.png").write_bytes(picture)
    return tmp_path / "data"


def table(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    encoded = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(encoded)
    return folder / name


def rows(labels: list[str], separator: str = ",") -> str:
    return "".join(f"images/{i}.png{separator}{label}\n" for i, label in enumerate(labels))


CATS_AND_DOGS = ["cat", "dog"] * 6


def data_error(source: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        open_dataset(source)
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize("path_column", ["path", "file", "filename", "image"])
@pytest.mark.parametrize("label_column", ["label", "Class"])
def test_columns_by_their_usual_names(folder, path_column, label_column):
    text = f"note,{path_column},{label_column}\n" + "".join(
        f"n,images/{i}.png,{label}\n" for i, label in enumerate(CATS_AND_DOGS)
    )
    dataset = open_dataset(table(folder, text))
    assert dataset.class_names == ("cat", "dog")
    for image_set in (dataset.train, dataset.val):
        for index, label in enumerate(image_set.labels):
            number = int(Path(image_set.describe(index)).stem)
            assert label == number % 2
            np.testing.assert_array_equal(image_set.image(index), fi.photo(number, 10, 12))


def test_tabs_and_semicolons(folder):
    tabs = table(folder, "path\tlabel\n" + rows(CATS_AND_DOGS, "\t"), "labels.tsv")
    semicolons = table(folder, "path;label\n" + rows(CATS_AND_DOGS, ";"))
    assert open_dataset(tabs).fingerprint == open_dataset(semicolons).fingerprint


def test_a_split_column(folder):
    splits = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    text = "path,label,split\n" + "".join(
        f"images/{i}.png,{CATS_AND_DOGS[i]},{split}\n" for i, split in enumerate(splits)
    )
    dataset = open_dataset(table(folder, text))
    assert (len(dataset.train), len(dataset.val)) == (8, 2)
    assert [Path(dataset.val.describe(i)).stem for i in range(2)] == ["8", "9"]
    images = open_split(folder / "labels.csv", class_names=("dog", "cat"))
    assert images.name == "test"
    assert images.labels.tolist() == [1, 0]
    (folder / "labels.csv").write_text(text.replace("validation", "verification"))
    assert data_error(folder / "labels.csv").code == "BAD_SPLIT"


def test_numbers_are_sorted_by_value(folder):
    assert open_dataset(table(folder, "path,label\n" + rows(["9", "10"] * 6))).class_names == (
        "9",
        "10",
    )


def test_classes_txt_beside_names_the_numbers(folder):
    (folder / "classes.txt").write_text("zebra\nant\n")
    numbers = open_dataset(table(folder, "path,label\n" + rows(["0", "1"] * 6)))
    assert numbers.class_names == ("zebra", "ant")
    names = open_dataset(table(folder, "path,label\n" + rows(["zebra", "ant"] * 6)))
    assert names.fingerprint == numbers.fingerprint


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "images/../../x.png",
        "images/0.png\0.txt",
        "C:\\images\\0.png",
        "C:images/0.png",
        "\\\\server\\share\\0.png",
        "..\\..\\x.png",
        "",
    ],
)
def test_paths_that_lead_out(folder, path):
    """D33."""
    error = data_error(table(folder, f"path,label\nimages/1.png,dog\n{path},cat\n"))
    assert error.code == "PATH_OUTSIDE_ROOT"
    assert error.subject == f"{folder / 'labels.csv'}:3"


def test_links_that_lead_out(folder, tmp_path):
    """D33."""
    (tmp_path / "secret.png").write_bytes(fi.encode(fi.photo(0)))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    for path in ("link.png", "up/secret.png"):
        error = data_error(table(folder, f"path,label\n{path},cat\n"))
        assert error.code == "PATH_OUTSIDE_ROOT"


def test_paths_inside_with_dots_and_backslashes(folder):
    """D33."""
    text = "path,label\n" + rows(CATS_AND_DOGS).replace("images/0", "./images/../images/0")
    dataset = open_dataset(table(folder, text.replace("images/1.png", "images\\1.png")))
    assert len(dataset.train) + len(dataset.val) == 12


@pytest.mark.parametrize("label", ["", "NaN", "nan", "1.5", "-1", "inf", "null", "1e3"])
def test_labels_that_are_none(folder, label):
    """D34."""
    error = data_error(table(folder, "path,label\n" + rows(["0", label, "1"])))
    assert error.code == "BAD_LABEL"
    assert error.subject == f"{folder / 'labels.csv'}:3"
    assert "line 3" in error.why


def test_the_first_ten_cases_are_listed(folder):
    """D34."""
    error = data_error(table(folder, "path,label\n" + rows(["nan"] * 12)))
    assert error.why.startswith("12 labels")
    assert "line 11:" in error.why
    assert "line 12:" not in error.why


@pytest.mark.parametrize("labels", [["0", "2"], ["zebra", "yak"]])
def test_labels_that_classes_txt_does_not_list(folder, labels):
    """D34."""
    (folder / "classes.txt").write_text("zebra\nant\n")
    error = data_error(table(folder, "path,label\n" + rows(labels)))
    assert error.code == "BAD_LABEL"
    assert error.subject.endswith("labels.csv:3")


def test_the_same_path_with_two_labels(folder):
    """D34."""
    text = "path,label\n" + rows(CATS_AND_DOGS) + "images/0.png,dog\n"
    error = data_error(table(folder, text))
    assert error.code == "BAD_LABEL"
    assert "'cat'" in error.why
    assert "line 2" in error.why
    assert error.subject.endswith(":14")


def test_a_row_given_twice_counts_once(folder):
    text = "path,label\n" + rows(CATS_AND_DOGS) + "images/0.png,cat\n"
    dataset = open_dataset(table(folder, text))
    assert len(dataset.train) + len(dataset.val) == 12
    assert dataset.report.ignored == 1


def test_byte_order_mark_windows_lines_and_trailing_commas(folder):
    """D35."""
    plain = "path,label\n" + rows(CATS_AND_DOGS)
    first = open_dataset(table(folder, plain)).fingerprint
    windows = b"\xef\xbb\xbf" + plain.replace("\n", ",\r\n").encode() + b"\r\n"
    assert open_dataset(table(folder, windows)).fingerprint == first


def test_other_encodings(folder):
    """D35."""
    error = data_error(table(folder, b"path,label\nimages/0.png,caf\xe9\n"))
    assert error.code == "BAD_ENCODING"
    assert "byte 27 " in error.why
    assert data_error(table(folder, "path,label\n".encode("utf-16"))).code == "BAD_ENCODING"


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "path\nimages/0.png\n"])
def test_tables_without_the_columns(folder, text):
    error = data_error(table(folder, text))
    assert error.code == "BAD_TABLE"
    assert "label" in error.do


def test_a_table_without_rows(folder):
    assert data_error(table(folder, "path,label\n")).code == "EMPTY"


def test_files_that_are_not_there_are_skipped(folder):
    text = "path,label\n" + rows(CATS_AND_DOGS) + "images/99.png,cat\n"
    assert open_dataset(table(folder, text)).report.skip_counts == {"missing_file": 1}
