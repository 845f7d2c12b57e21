"""Parquet in the Hugging Face schema: made by hand, and the real files."""

from __future__ import annotations

import json
import pickle
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.data import open_dataset, open_split, parquet
from deitkit.errors import DataError
from tests.data import faulty_images as fi

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write_shard(
    path: Path,
    labels: list[object],
    *,
    names: list[str] | None = None,
    first_seed: int = 0,
    pictures: list[bytes | None] | None = None,
    label_type: object = None,
) -> Path:
    """One shard with row groups of three; the k-th picture is fi.photo(first_seed + k, 10, 12)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = pictures or [
        fi.encode(fi.photo(first_seed + number, 10, 12)) for number in range(len(labels))
    ]
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": picture, "path": "x.png"} for picture in encoded],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "label": pa.array(labels, label_type),
        }
    )
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path, row_group_size=3)
    return path


def test_shards_of_a_folder(tmp_path):
    names = ["zebra", "ant"]
    for number in range(2):
        name = f"train-0000{number}-of-00002.parquet"
        write_shard(tmp_path / name, [0, 1] * 5, names=names, first_seed=10 * number)
    write_shard(tmp_path / "validation-00000-of-00001.parquet", [1, 0], names=names, first_seed=50)
    write_shard(tmp_path / "test-00000-of-00001.parquet", [1], names=names, first_seed=60)
    dataset = open_dataset(tmp_path)
    assert dataset.class_names == ("zebra", "ant")
    assert (len(dataset.train), len(dataset.val)) == (20, 2)
    assert dataset.test_source == str(tmp_path / "test-00000-of-00001.parquet")
    assert dataset.train.labels.tolist() == [0, 1] * 10
    for index in (19, 0, 7, 10, 3):
        np.testing.assert_array_equal(dataset.train.image(index), fi.photo(index, 10, 12))
    shard = tmp_path / "train-00001-of-00002.parquet"
    assert dataset.train.describe(13) == f"{shard} row 3"
    images = open_split(tmp_path, class_names=("ant", "bee", "zebra"))
    assert (images.name, images.labels.tolist()) == ("test", [0])


def test_a_missing_shard_is_named(tmp_path):
    write_shard(tmp_path / "train-00000-of-00002.parquet", [0, 1] * 5)
    with pytest.raises(DataError, match=r"MISSING_SHARD.*train-00001-of-00002"):
        open_dataset(tmp_path)


def test_one_file_names_in_classes_txt_or_none_at_all(tmp_path):
    path = write_shard(tmp_path / "all.parquet", [10, 9] * 5)
    assert open_dataset(path).class_names == ("9", "10")
    write_shard(path, [1, 0] * 5)
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    assert open_dataset(path).class_names == ("zebra", "ant")
    write_shard(path, ["dog", "cat"] * 5)
    (tmp_path / "classes.txt").unlink()
    assert open_dataset(path).class_names == ("cat", "dog")


def test_reading_out_of_order_decodes_no_row_group_twice(tmp_path, monkeypatch):
    path = write_shard(tmp_path / "train.parquet", [0, 1] * 10)
    dataset = open_dataset(path)
    copy = pickle.loads(pickle.dumps(dataset.train))
    loaded = []
    original = parquet.ParquetStore._load
    monkeypatch.setattr(
        parquet.ParquetStore, "_load", lambda self, g: loaded.append(g) or original(self, g)
    )
    for index in np.random.default_rng(0).permutation(len(copy)).tolist() * 2:
        np.testing.assert_array_equal(copy.image(index), dataset.train.image(index))
    assert sorted(loaded) == list(range(7))


def test_a_table_larger_than_the_memory_given_to_it(tmp_path, monkeypatch):
    """Only one row group fits; every image is still the right one."""
    path = write_shard(tmp_path / "train.parquet", [0, 1] * 10)
    monkeypatch.setattr(parquet, "HELD_BYTES", 1)
    dataset = open_dataset(path)
    for index in range(len(dataset.train)):
        row = int(dataset.train.describe(index).rsplit(" ", 1)[1])
        np.testing.assert_array_equal(dataset.train.image(index), fi.photo(row, 10, 12))
    assert len(dataset.train._store._held) == 1


def test_bad_rows_are_skipped_by_reason(tmp_path):
    """D12, D14."""
    pictures: list[bytes | None] = [fi.encode(fi.photo(number)) for number in range(20)]
    pictures[3], pictures[4], pictures[5] = None, b"", pictures[5][:-100]
    path = write_shard(tmp_path / "train.parquet", [0, 1] * 10, pictures=pictures)
    report = open_dataset(path).report
    assert report.skip_counts == {"empty_file": 2, "truncated": 1}
    assert report.skipped.paths["truncated"] == [f"{path} row 5"]


@pytest.mark.parametrize(
    ("labels", "kind"), [([0, None], None), ([0, -1], None), ([0, 2], None), ([0, 1.5], None)]
)
def test_bad_labels(tmp_path, labels, kind):
    """D34."""
    path = write_shard(tmp_path / "a.parquet", labels, names=["x", "y"], label_type=kind)
    with pytest.raises(DataError, match=r"BAD_LABEL.*a\.parquet row"):
        open_dataset(path)


def test_no_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = write_shard(tmp_path / "train.parquet", [0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r'NO_PYARROW.*pip install "deitkit\[parquet\]"'):
        open_dataset(path)


def test_other_columns_and_broken_files(tmp_path):
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), other)
    with pytest.raises(DataError, match=r"BAD_TABLE.*text \(string\)"):
        open_dataset(other)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 this is not one")
    with pytest.raises(DataError, match="BAD_TABLE"):
        open_dataset(broken)


def test_a_shard_that_went_away_or_changed(tmp_path, monkeypatch):
    """D39, D40."""
    monkeypatch.setattr(parquet, "HELD_BYTES", 1)
    path = write_shard(tmp_path / "train.parquet", [0, 1] * 10)
    train = open_dataset(path).train
    write_shard(path, [0, 1] * 11)
    with pytest.raises(DataError, match=r"FILE_CHANGED.*train\.parquet"):
        [train.image(index) for index in range(len(train))]
    path.unlink()
    with pytest.raises(DataError, match=r"FILE_GONE.*train\.parquet"):
        [train.image(index) for index in range(len(train))]


def test_real_imagenette(shared_data):
    """1,000 photographs; Pillow and pyarrow alone give the same pixels."""
    folder = shared_data / "imagenette"
    images = open_split(folder / "test.parquet", keep_bytes=2**30)
    rows = pq.read_table(folder / "test.parquet").to_pylist()
    assert len(images) == len(rows) == 1000
    assert images.class_names == tuple((folder / "classes.txt").read_text().splitlines())
    assert images.labels.tolist() == [row["label"] for row in rows]
    assert images.pixels.shape == (1000, 224, 224, 3)
    for index in (0, 499, 999):
        oracle = Image.open(BytesIO(rows[index]["image"]["bytes"])).convert("RGB")
        np.testing.assert_array_equal(images.image(index), np.asarray(oracle))
    assert images.report.num_skipped == 0


def test_real_cifar10_test_split_by_name(shared_data):
    """10,000 images, 1,000 a class, whatever order the model has its classes in."""
    names = (shared_data / "cifar10" / "classes.txt").read_text().split()
    images = open_split(shared_data / "cifar10", class_names=names[::-1])
    assert images.name == "test"
    assert np.bincount(images.labels).tolist() == [1000] * 10
    rows = pq.read_table(shared_data / "cifar10" / "test-00000-of-00001.parquet", columns=["label"])
    np.testing.assert_array_equal(9 - images.labels, rows.column("label").to_numpy())
    assert set(map(tuple, images.sizes.tolist())) == {(32, 32)}
    assert images.report.duplicates.count == 0
