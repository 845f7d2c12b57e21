"""Tar shards in the WebDataset layout: splits, samples, labels, and the same as other sources."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.data import list_images, open_dataset, open_split, open_unlabelled
from deitkit.errors import ConfigError, DataError
from tests.data import faulty_images as fi
from tests.data.tar_files import members, picture, write_tar

LABELS = ["cat", "dog"] * 5


def write_splits(folder):
    for number in range(2):
        name = f"pets-train-{number:06d}.tar"
        write_tar(folder / name, members(LABELS, first=10 * number))
    write_tar(folder / "pets-val-000000.tar", members(["dog", "cat"], first=50))
    write_tar(folder / "pets-test-000000.tar", members(["dog"], first=60))
    return folder


def test_splits_by_name(tmp_path):
    dataset = open_dataset(write_splits(tmp_path))
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train), len(dataset.val)) == (20, 2)
    assert dataset.test_source == str(tmp_path / "pets-test-000000.tar")
    assert dataset.train.labels.tolist() == [0, 1] * 10
    for index in (19, 0, 7, 10, 3):
        np.testing.assert_array_equal(dataset.train.image(index), fi.photo(index, 10, 12))
    shard = tmp_path / "pets-train-000001.tar"
    assert dataset.train.describe(13) == f"{shard}:000013.png"
    images = open_split(tmp_path, class_names=("bee", "dog"))
    assert (images.name, images.labels.tolist()) == ("test", [1])


def test_splits_by_folder_and_one_shard_alone(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", members(LABELS))
    write_tar(tmp_path / "val" / "0.tar", members(["cat"], first=50))
    assert len(open_dataset(tmp_path).val) == 1
    assert len(open_split(tmp_path / "val" / "0.tar", class_names=("cat",))) == 1
    assert len(open_split(tmp_path / "train")) == 10


def test_a_shard_without_a_split_beside_others(tmp_path):
    write_tar(write_splits(tmp_path) / "more.tar", members(LABELS, first=70))
    with pytest.raises(DataError, match=r"BAD_SPLIT.*more\.tar"):
        open_dataset(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    write_tar(tmp_path / "train-00000-of-00002.tar", members(LABELS))
    with pytest.raises(DataError, match=r"MISSING_SHARD.*train-00001-of-00002"):
        open_dataset(tmp_path)
    (tmp_path / "train-00000-of-00002.tar").rename(tmp_path / "x-000.tar")
    write_tar(tmp_path / "x-001.tar", members(LABELS, first=20))
    write_tar(tmp_path / "x-003.tar", members(LABELS, first=40))
    assert "shards x-* lack the numbers 2" in open_dataset(tmp_path).warnings


def test_an_archive_left_beside_its_class_folders_is_no_shard(tmp_path):
    """D10."""
    for number, name in enumerate(LABELS):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{number}.png").write_bytes(picture(number))
    write_tar(tmp_path / "photos.tar", members(LABELS, first=50))
    (tmp_path / "photos.tar.gz").write_bytes(b"\x1f\x8b")
    dataset = open_dataset(tmp_path)
    assert len(dataset.train) + len(dataset.val) == 10


def test_class_names(tmp_path):
    """classes.txt, classes.json as a list or either way round, the numbers; D46."""
    path = write_tar(tmp_path / "x.tar", members(["10", "9"] * 5))
    assert open_dataset(path).class_names == ("9", "10")
    write_tar(path, members(["1", "0"] * 5))
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    dataset = open_dataset(path)
    assert dataset.class_names == ("zebra", "ant")
    (tmp_path / "classes.txt").unlink()
    for text in ('["zebra", "ant"]', '{"zebra": 0, "ant": 1}', '{"1": "ant", "0": "zebra"}'):
        (tmp_path / "classes.json").write_text(text)
        assert open_dataset(tmp_path).fingerprint == dataset.fingerprint
    for text in ("{", "[]", "7", "[1, 2]", '{"zebra": 0, "ant": 2}', '{"a": []}', "[" * 9999):
        (tmp_path / "classes.json").write_text(text)
        with pytest.raises(DataError, match=r"BAD_CLASSES.*classes\.json"):
            open_dataset(path)


def test_labels_of_every_kind(tmp_path):
    """.cls before .json before .txt; fields label, class, cls; endings in capitals; BOM, blanks."""
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("a.png", picture(0)),
            ("a.cls", b"\xef\xbb\xbf cat\r\n"),
            ("a.txt", b"a dog"),
            ("a.json", b'{"label": "dog"}'),
            ("b.PNG", picture(1)),
            ("b.json", b'{"class": "dog", "url": "x"}'),
            ("b.txt", b"of something\nelse"),
            ("c.json", b'{"width": 3}'),
            ("c.txt", b"cat"),
            ("c.png", picture(2)),
            ("deep/er.x/d.jpg", picture(3)),
            ("deep/er.x/d.json", b'{"cls": "cat"}'),
        ],
    )
    images = open_split(path)
    assert [images.class_names[k] for k in images.labels] == ["cat", "dog", "cat", "cat"]
    assert images.report.tally.extension_mismatch == 1, "D15"


def test_samples_need_not_stand_together(tmp_path):
    pictures = [(f"{n}.png", picture(n)) for n in range(10)]
    labels = [(f"{n}.cls", label.encode()) for n, label in enumerate(LABELS)]
    images = open_split(write_tar(tmp_path / "x.tar", labels[::-1] + pictures))
    assert [images.class_names[k] for k in images.labels] == LABELS


def test_the_first_picture_of_a_sample_by_its_ending(tmp_path):
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("a.seg.png", picture(5)),
            ("a.png", picture(1)),
            ("a.jpg", picture(0)),
            ("a.cls", b"cat"),
            ("b.left.png", picture(2)),
            ("b.cls", b"dog"),
        ],
    )
    images = open_split(path)
    assert [images.describe(row).rsplit(":")[-1] for row in range(2)] == ["a.jpg", "b.left.png"]
    assert "2 pictures are not the first of their sample and are not used" in images.report.warnings


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the label is empty"),
        (b"1.5", "no class number"),
        (b"-1", "negative"),
        (b"nan", "no class number"),
        (b"7", "not one of the 2 classes"),
        (b"\xff", "not UTF-8"),
        (b"cat\ndog", "several lines"),
        (b"x" * 2000, "no label"),
        (None, "it has no label"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_bad_labels(tmp_path, content, why):
    """D34: shard and member are named; nothing is coerced."""
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    found = members(["0", "1"] * 3)
    found += [("last.png", picture(9))] + ([] if content is None else [("last.cls", content)])
    path = write_tar(tmp_path / "x.tar", found)
    with pytest.raises(DataError, match=rf"BAD_LABEL.*x\.tar:last\.png.*{why}"):
        open_dataset(path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"label": true}', '{"label": 1.0}', '{"label": null}', "[" * 9999]
)
def test_bad_labels_in_json(tmp_path, text):
    """D34."""
    path = write_tar(tmp_path / "x.tar", [("a.png", picture(0)), ("a.json", text.encode())])
    with pytest.raises(DataError, match=r"BAD_LABEL.*x\.tar:a\.png"):
        open_split(path)


def test_repeated_names(tmp_path):
    """D34, D36: a picture's name twice is skipped and counted; two labels are none."""
    double = [*members(LABELS), ("000003.png", picture(30)), ("000003.cls", b"dog")]
    dataset = open_dataset(write_tar(tmp_path / "x.tar", double))
    assert dataset.report.skip_counts == {"repeated_name": 1}
    double[-1] = ("000003.cls", b"cat")
    with pytest.raises(DataError, match=r"BAD_LABEL.*000003\.png.*'dog' and 'cat'"):
        open_dataset(write_tar(tmp_path / "x.tar", double))


def test_samples_without_a_picture_and_strange_members(tmp_path):
    """D10, D12, D13, D14, D16: skipped by reason or ignored."""
    path = write_tar(
        tmp_path / "x.tar",
        [
            *members(LABELS * 5),
            ("lone.cls", b"cat"),
            ("e.png", b""),
            ("e.cls", b"cat"),
            ("t.jpg", b"<html>no picture</html>"),
            ("t.cls", b"cat"),
            ("p.png", b"%!PS-Adobe"),
            ("p.cls", b"cat"),
            ("c.png", picture(70)[:-40]),
            ("c.cls", b"dog"),
            ("._000001.png", b"mac"),
            ("__MACOSX/000001.png", b"mac"),
            (".hidden/z.png", b"x"),
            ("README", b"x"),
            ("notes.md", b"x"),
        ],
    )
    dataset = open_dataset(path)
    assert dataset.report.skip_counts == {
        "no_image": 1,
        "empty_file": 1,
        "not_an_image": 1,
        "format_not_allowed": 1,
        "truncated": 1,
    }
    assert dataset.report.skipped.paths["no_image"] == [f"{path}:lone.cls"]
    assert dataset.report.skipped.paths["truncated"] == [f"{path}:c.png"]
    assert dataset.report.ignored == 5
    with pytest.raises(DataError, match="BAD_IMAGE"):
        open_dataset(path, bad_images="fail")


def test_decoding_rules_are_those_of_files(tmp_path):
    """D17, D22, D25: first frame, orientation, size from the header."""
    frames = [Image.fromarray(fi.photo(k)) for k in range(3)]
    turned = fi.encode(fi.photo(7), "JPEG", exif=_orientation(6))
    found = [
        ("a.gif", fi.encode(frames[0], "GIF", save_all=True, append_images=frames[1:])),
        ("b.jpg", turned),
        ("c.png", fi.encode(Image.new("1", (8000, 8000)))),
    ]
    path = write_tar(tmp_path / "x.tar", found + [(f"{n[0]}.cls", b"x") for n, _ in found])
    images = open_split(path)
    assert images.report.tally.animated == 1
    assert images.report.skip_counts == {"too_large": 1}
    for (name, content), row in zip(found[:2], range(2), strict=True):
        (tmp_path / name).write_bytes(content)
        ((_, load),) = list_images(tmp_path / name)
        np.testing.assert_array_equal(images.image(row), load())


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_classes_across_splits(tmp_path):
    """D04, D05, D07, D08, D09."""
    write_tar(tmp_path / "train.tar", members(LABELS))
    write_tar(tmp_path / "val.tar", members(["cow"], first=50))
    with pytest.raises(DataError, match=r"CLASS_MISMATCH.*cow"):
        open_dataset(tmp_path)
    write_tar(tmp_path / "val.tar", members(["dog"], first=50))
    dataset = open_dataset(tmp_path)
    assert dataset.val.labels.tolist() == [1]
    assert any("no image of cat" in warning for warning in dataset.warnings)
    (tmp_path / "val.tar").unlink()
    for labels, code in ((["cat"], "ONE_CLASS"), (["cat"] * 4 + ["dog"], "CLASS_TOO_SMALL")):
        write_tar(tmp_path / "train.tar", members(labels))
        with pytest.raises(DataError, match=code):
            open_dataset(tmp_path)
    write_tar(tmp_path / "train.tar", members(["Cat", "cat"] * 3))
    with pytest.raises(DataError, match="CLASS_COLLISION"):
        open_dataset(tmp_path)


def test_empty_shards_and_classes(tmp_path):
    """D02, D03."""
    path = write_tar(tmp_path / "x.tar", [])
    with pytest.raises(DataError, match="EMPTY"):
        open_dataset(path)
    (tmp_path / "classes.txt").write_text("ant\nbee\ncow\n")
    write_tar(path, members(["0", "1"] * 3))
    with pytest.raises(DataError, match=r"EMPTY_CLASS.*cow"):
        open_dataset(path)
    assert len(open_dataset(path, allow_empty_class=True).class_names) == 3


def test_repeats_across_shards(tmp_path):
    """D36, D37, D38."""
    write_tar(tmp_path / "train.tar", [*members(LABELS * 10), *members(["cat", "cat"], first=300)])
    same = [("again.png", picture(2)), ("again.cls", b"dog")]
    write_tar(tmp_path / "train-1.tar", [*members(["dog"], first=400), *same])
    write_tar(tmp_path / "val.tar", members(LABELS[:2], first=0))
    report = open_dataset(tmp_path).report
    assert (report.conflicts.count, report.leaks.count) == (2, 2)
    assert report.conflicts.examples == [
        [f"{tmp_path / 'train-1.tar'}:again.png", f"{tmp_path / 'train.tar'}:000002.png"]
    ]
    with pytest.raises(DataError, match="LEAK"):
        open_dataset(tmp_path, fail_on_leak=True)


def test_prediction_and_pictures_without_labels(tmp_path):
    """Shards stand for their pictures, whatever their labels."""
    found = [(name, content) for name, content in members(LABELS) if name.endswith("png")]
    path = write_tar(tmp_path / "more" / "x-000.tar", found)
    listed = list(list_images([path.parent, path]))
    assert [name for name, _ in listed] == [f"{path}:{name}" for name, _ in found] * 2
    np.testing.assert_array_equal(listed[3][1](), fi.photo(3, 10, 12))
    train = open_dataset(write_tar(tmp_path / "x.tar", members(LABELS, first=8))).train
    unlabelled = open_unlabelled(
        path.parent,
        class_names=train.class_names,
        decode=train.decode,
        exclude_digests_M16=train.digests,
    )
    assert len(unlabelled) >= 8 and set(unlabelled.labels.tolist()) == {-1}
    joined = train.joined(unlabelled)
    assert joined.blocks.block_N.max() == 1
    last = len(joined) - 1
    np.testing.assert_array_equal(
        joined.holding(0).image(last), unlabelled.image(last - len(train))
    )


def test_compressed_shards_are_refused_with_what_to_do(tmp_path):
    path = tmp_path / "x-000.tar.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(ConfigError, match=r"NOT_DATA.*unpack it once"):
        open_dataset(path)
    with pytest.raises(DataError, match=r"COMPRESSED.*x-000\.tar\.gz.*unpack it once"):
        open_dataset(tmp_path)
    path.rename(tmp_path / "x-000.tar")
    with pytest.raises(DataError, match=r"COMPRESSED.*gzip.*gunzip"):
        open_dataset(tmp_path)


def test_the_same_pictures_from_folder_tar_and_parquet(tmp_path):
    """Digests, labels, sample ids and the split are those of the contents, whatever holds them."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    labels = ["ant", "bee", "cow"] * 8
    for number, label in enumerate(labels):
        (tmp_path / "folder" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / label / f"{number}.png").write_bytes(picture(number))
    for number in range(3):
        part = members(labels[8 * number :][:8], first=8 * number)
        write_tar(tmp_path / "tar" / f"x-{2 - number}.tar", part)
    rows = [{"bytes": picture(n), "path": None} for n in range(24)]
    table = pa.table({"image": rows, "label": labels})
    (tmp_path / "parquet").mkdir()
    pq.write_table(table, tmp_path / "parquet" / "all.parquet", row_group_size=5)
    opened = [open_dataset(tmp_path / kind) for kind in ("folder", "tar", "parquet")]
    assert len({dataset.fingerprint for dataset in opened}) == 1
    for split in ("train", "val"):
        sets = [getattr(dataset, split) for dataset in opened]
        rows_of = [
            sorted(zip(s.sample_ids.tolist(), s.digests.tolist(), s.labels.tolist(), strict=True))
            for s in sets
        ]
        assert rows_of[0] == rows_of[1] == rows_of[2] and rows_of[0]


def test_a_store_in_another_process_and_open_files(tmp_path):
    """A copy begins without what is held; no file stays open."""
    train = open_dataset(write_splits(tmp_path)).train
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
    copy = pickle.loads(pickle.dumps(train.subset(np.array([15, 2]), "few")))
    np.testing.assert_array_equal(copy.image(0), fi.photo(15, 10, 12))
    np.testing.assert_array_equal(copy.holding(0).image(1), fi.photo(2, 10, 12))
    if before:
        assert len(list(descriptors.iterdir())) == before
