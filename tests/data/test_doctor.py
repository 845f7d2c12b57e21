"""A folder with each fault planted: every finding is named, with its count and its pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deitkit.data import open_dataset
from deitkit.data.alike_findings import exact_findings, exact_pairs, near_findings
from deitkit.data.doctor import Examined, examine
from deitkit.data.split_table import split_table
from deitkit.data.whole_source import open_whole
from deitkit.errors import DataError
from tests.data import faulty_images as fi
from tests.data.scenes import next_frame, scene


def write_scenes(folder: Path, count: int, *, first: int) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        scene(number, 54, 72).save(folder / f"{number}.png")


def examined(source: Path) -> Examined:
    """As `check` does it: the data set where it opens, and then all there is."""
    try:
        dataset = open_dataset(source)
    except DataError:
        dataset = None
    whole = open_whole(source, dataset=dataset)
    assert whole is not None
    return examine(whole)


def found(one: Examined) -> dict[str, int]:
    return {finding.code: finding.count for finding in one.findings}


def shown(one: Examined, code: str) -> list[list[str]]:
    """The groups of a finding as the names of their files."""
    (finding,) = (finding for finding in one.findings if finding.code == code)
    return [
        sorted(str(Path(one.images.describe(place)).name) for place in group)
        for group in finding.groups
    ]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    """Two classes of twelve scenes each."""
    folder = tmp_path_factory.mktemp("healthy") / "photos"
    write_scenes(folder / "cat", 12, first=0)
    write_scenes(folder / "dog", 12, first=100)
    return folder


@pytest.fixture
def photos(healthy, tmp_path) -> Path:
    return Path(shutil.copytree(healthy, tmp_path / "photos"))


def test_a_healthy_folder_has_no_finding(healthy):
    one = examined(healthy)
    assert one.findings == ()
    assert (len(one.images), one.whole.splits) == (24, ("train",))
    assert one.whole.report.class_counts == {"train": {"cat": 12, "dog": 12}}


Plant = Callable[[Path], None]


def two_files(content: bytes, name: str) -> Plant:
    def plant(folder: Path) -> None:
        for number in range(2):
            (folder / "cat" / f"x{number}-{name}").write_bytes(content)

    return plant


def two_pictures(make: Callable[[int], Image.Image]) -> Plant:
    def plant(folder: Path) -> None:
        for number in range(2):
            make(number).save(folder / "cat" / f"x{number}.png")

    return plant


def copy_within(folder: Path) -> None:
    for number in range(2):
        shutil.copy(folder / "cat" / "0.png", folder / "cat" / f"x{number}.png")


def copy_across(folder: Path) -> None:
    shutil.copy(folder / "cat" / "0.png", folder / "dog" / "x.png")


def burst_within(folder: Path) -> None:
    for number in range(3):
        next_frame(scene(0), number).save(folder / "cat" / f"x{number}.png")


def burst_across(folder: Path) -> None:
    next_frame(scene(0), 0).save(folder / "dog" / "x.png")


def png_called_jpg(folder: Path) -> None:
    for number in range(2):
        scene(200 + number).save(folder / "cat" / f"x{number}.jpg", "PNG")


def animations(folder: Path) -> None:
    frames = [scene(300 + number) for number in range(3)]
    frames[0].save(folder / "cat" / "x.gif", save_all=True, append_images=frames[1:])


def grey(folder: Path) -> None:
    for number in range(3):
        scene(400 + number).convert("L").save(folder / "dog" / f"x{number}.png")


PLANTED: dict[str, tuple[Plant, dict[str, int]]] = {
    "truncated": (two_files(fi.encoded_photo("JPEG")[:-300], "cut.jpg"), {"truncated": 2}),
    "no bytes": (two_files(b"", "empty.jpg"), {"empty_file": 2}),
    "text": (two_files(fi.NOT_IMAGES["text"], "text.jpg"), {"not_an_image": 2}),
    "a web page": (two_files(fi.NOT_IMAGES["html"], "page.png"), {"not_an_image": 2}),
    "PDF": (two_files(fi.FOREIGN["pdf"], "scan.jpg"), {"format_not_allowed": 2}),
    "a bomb": (two_files(fi.png_bomb(), "bomb.png"), {"too_large": 2}),
    "4 pixels wide": (two_pictures(lambda k: scene(500 + k, 40, 4)), {"too_small": 2}),
    "tiny": (two_pictures(lambda k: scene(500 + k, 16, 20)), {"tiny": 2}),
    "oblong": (two_pictures(lambda k: scene(500 + k, 60, 200)), {"cut_off": 2}),
    "blank": (
        lambda folder: [
            Image.new("RGB", (60, 80), (level,) * 3).save(folder / "cat" / f"x{level}.png")
            for level in (0, 255)
        ],
        {"blank": 2, "grey": 0},
    ),
    "copies within a class": (copy_within, {"duplicate": 3}),
    "copies across classes": (copy_across, {"conflict": 2}),
    "a burst within a class": (burst_within, {"near_duplicate": 4}),
    "a burst across classes": (burst_across, {"near_conflict": 2}),
    "another extension": (png_called_jpg, {"extension_mismatch": 2}),
    "animations": (animations, {"animated": 1}),
    "grey among colour": (grey, {"grey": 3}),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_each_planted_fault_is_found_and_nothing_else(photos, fault):
    """D12 to D17, D25, D36, D37 and what is no fault of a file."""
    plant, expected = PLANTED[fault]
    plant(photos)
    assert found(examined(photos)) == {code: num for code, num in expected.items() if num}


def test_findings_show_their_pictures(photos):
    burst_within(photos)
    copy_across(photos)
    (photos / "dog" / "cut.jpg").write_bytes(fi.encoded_photo("JPEG")[:-300])
    one = examined(photos)
    assert shown(one, "near_duplicate") == [["0.png", "x0.png", "x1.png", "x2.png"]]
    assert shown(one, "conflict") == [["0.png", "x.png"]]
    (cut,) = (finding for finding in one.findings if finding.code == "truncated")
    assert [Path(name).name for name in cut.names] == ["cut.jpg"]
    assert [finding.level for finding in one.findings][:2] == ["serious", "serious"]


def test_few_images_and_imbalance(tmp_path):
    """50 of one class, 5 of another: ten times; the validation images that training will set
    aside are counted as what they are, training images."""
    write_scenes(tmp_path / "cat", 50, first=0)
    write_scenes(tmp_path / "dog", 5, first=100)
    one = examined(tmp_path)
    assert found(one) == {"few_images": 1, "imbalance": 50}
    few, imbalance = one.findings
    assert few.names == ("dog: 5",)
    assert imbalance.title == "The largest class has 10 times the images of the smallest"
    assert imbalance.names == ("dog: 5", "cat: 50")
    (tmp_path / "dog" / "more.png").write_bytes(fi.encode(np.asarray(scene(200))))
    assert "imbalance" not in found(examined(tmp_path))


@pytest.mark.parametrize(
    ("first", "second"), [("train", "val"), ("train", "test"), ("val", "test")]
)
def test_copies_and_bursts_across_splits(tmp_path, first, second):
    """D38, and for the test split too: a copy is a leak, the next frame a near leak."""
    for number, split in enumerate(("train", "val", "test")):
        for place, name in enumerate(("cat", "dog")):
            write_scenes(tmp_path / split / name, 12, first=1000 * number + 100 * place)
    copied, framed = sorted((tmp_path / first / "cat").iterdir())[:2]
    shutil.copy(copied, tmp_path / second / "cat" / "copy.png")
    next_frame(Image.open(framed), 0).save(tmp_path / second / "cat" / "frame.png")
    one = examined(tmp_path)
    assert one.whole.splits == ("train", "val", "test")
    assert found(one) == {"leak": 2, "near_leak": 2}
    assert shown(one, "leak") == [sorted([copied.name, "copy.png"])]
    assert shown(one, "near_leak") == [sorted([framed.name, "frame.png"])]


def test_a_leak_under_another_label_is_both(tmp_path):
    """D37 and D38 of one picture."""
    for number, split in enumerate(("train", "val")):
        for place, name in enumerate(("cat", "dog")):
            write_scenes(tmp_path / split / name, 12, first=1000 * number + 100 * place)
    shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "val" / "dog" / "copy.png")
    assert found(examined(tmp_path)) == {"conflict": 2, "leak": 2}


def test_what_training_refuses_is_examined_all_the_same(photos):
    """Many damaged files, a class of one picture, contradicting labels: each is found."""
    for number in range(8):
        (photos / "cat" / f"cut{number}.jpg").write_bytes(fi.encoded_photo("JPEG", number)[:-300])
    for number in range(4):
        shutil.copy(photos / "cat" / f"{number}.png", photos / "dog" / f"x{number}.png")
    write_scenes(photos / "elk", 1, first=300)
    with pytest.raises(DataError):
        open_dataset(photos)
    one = examined(photos)
    assert found(one) == {
        "truncated": 8,
        "conflict": 8,
        "few_images": 1,
        "imbalance": 16,
    }
    assert one.whole.report.class_counts == {"train": {"cat": 12, "dog": 16, "elk": 1}}


def test_classes_that_only_validation_has(tmp_path):
    """D07: named, and the others looked at."""
    for name, first in (("cat", 0), ("dog", 100)):
        write_scenes(tmp_path / "train" / name, 12, first=first)
        write_scenes(tmp_path / "val" / name, 10, first=first + 50)
    write_scenes(tmp_path / "val" / "elk", 3, first=300)
    one = examined(tmp_path)
    assert found(one) == {"unknown_class": 1}
    assert one.findings[0].names == ("val: elk: 3",)
    assert len(one.images) == 44


def test_a_source_without_a_usable_picture(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "x.jpg").write_bytes(b"")
    assert open_whole(tmp_path) is None
    with pytest.raises(DataError):
        open_whole(tmp_path / "cat")


def test_only_a_test_split(tmp_path):
    write_scenes(tmp_path / "test" / "cat", 10, first=0)
    write_scenes(tmp_path / "test" / "dog", 10, first=100)
    one = examined(tmp_path)
    assert (one.whole.splits, found(one), one.whole.can_be_split) == (("test",), {}, False)


@given(
    contents=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=30
    )
)
@settings(max_examples=100)
def test_copies_are_counted_as_a_dictionary_counts_them(contents):
    """(content, label, split) of each picture."""
    same_N, labels_N, splits_N = (np.array(column) for column in zip(*contents, strict=True))
    same_N = np.unique(same_N, return_inverse=True)[1]
    expected = {"conflict": 0, "leak": 0, "duplicate": 0}
    for content in set(same_N.tolist()):
        own = [k for k in range(len(contents)) if same_N[k] == content]
        num_labels = len({int(labels_N[k]) for k in own})
        num_splits = len({int(splits_N[k]) for k in own})
        expected["conflict"] += len(own) * (num_labels > 1)
        expected["leak"] += len(own) * (num_splits > 1)
        expected["duplicate"] += len(own) * (len(own) > 1 and num_labels == num_splits == 1)
    counts = {one.code: one.count for one in exact_findings(same_N, labels_N, splits_N)}
    assert counts == {code: count for code, count in expected.items() if count}
    firsts = {int(content): same_N.tolist().index(content) for content in same_N}
    assert [tuple(pair) for pair in exact_pairs(same_N).tolist()] == [
        (firsts[int(content)], k) for k, content in enumerate(same_N) if firsts[int(content)] != k
    ]


def test_near_pairs_by_hand():
    """0-1 in one class, 1-2 across classes, 3-4 across splits and classes: the last is a leak."""
    pairs = np.array([[0, 1], [1, 2], [3, 4]])
    labels, splits = np.array([0, 0, 1, 0, 1]), np.array([0, 0, 0, 0, 1])
    counts = {one.code: (one.count, one.groups) for one in near_findings(pairs, labels, splits)}
    assert counts == {
        "near_leak": (2, ((3, 4),)),
        "near_conflict": (2, ((1, 2),)),
        "near_duplicate": (2, ((0, 1),)),
    }


def test_the_largest_groups_are_shown_first_and_of_each_six():
    pairs = [[0, 1], *([10, k] for k in range(11, 20)), [30, 31], [31, 32]]
    (one,) = near_findings(np.array(pairs), np.zeros(40, int), np.zeros(40, int))
    assert one.count == 2 + 10 + 3
    assert one.groups == (tuple(range(10, 16)), (30, 31, 32), (0, 1))


# The split that keeps together what looks alike.


@pytest.fixture(scope="module")
def bursts(tmp_path_factory) -> Path:
    """Two classes of ten bursts of four frames; in each class one frame of one burst of the
    other."""
    folder = tmp_path_factory.mktemp("bursts") / "photos"
    for place, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for burst in range(10):
            for frame in range(4):
                picture = next_frame(scene(100 * place + burst), frame)
                picture.save(folder / name / f"{burst}-{frame}.png")
    next_frame(scene(100), 9).save(folder / "cat" / "stray.png")
    shutil.copy(folder / "cat" / "0-0.png", folder / "dog" / "stray.png")
    return folder


def test_what_looks_alike_stays_on_one_side(bursts):
    """Every burst is whole, stray frames of the other class with it; 2 of the 11 bursts that have
    pictures in a class validate there."""
    one = examined(bursts)
    is_val_T = one.split_together(0.2)
    sides: dict[str, set[bool]] = {}
    validating: dict[str, set[str]] = {"cat": set(), "dog": set()}
    for place, is_val in enumerate(is_val_T.tolist()):
        path = Path(one.images.describe(place))
        burst = f"{path.parent.name}/{path.stem.split('-')[0]}"
        burst = {"cat/stray": "dog/0", "dog/stray": "cat/0"}.get(burst, burst)
        sides.setdefault(burst, set()).add(is_val)
        validating[path.parent.name] |= {burst} if is_val else set()
    assert len(sides) == 20
    assert all(len(found) == 1 for found in sides.values())
    assert [len(found) for found in validating.values()] == [2, 2]


def test_a_split_by_chance_would_not(bursts):
    """So the check above can fail."""
    one = examined(bursts)
    by_chance = np.random.default_rng(0).random(len(one.images)) < 0.2
    bursts_of = [
        (int(one.images.labels[k]), Path(one.images.describe(k)).stem.split("-")[0])
        for k in range(len(one.images))
    ]
    sides: dict[tuple[int, str], set[bool]] = {}
    for burst, is_val in zip(bursts_of, by_chance.tolist(), strict=True):
        sides.setdefault(burst, set()).add(is_val)
    assert any(len(found) == 2 for found in sides.values())


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "dog"),
        ("10", "9"),
        ("1.5", "nan"),
        ("=1+1", "@x"),
        ("a,b", 'say "x"'),
        ("é", "日本"),
        ("it's", "-"),
    ],
)
def test_the_table_is_the_folder_again(tmp_path, names):
    """Whatever classes are called: the same classes, the same pictures under the same labels, and
    validation as it was decided."""
    for place, name in enumerate(names):
        write_scenes(tmp_path / "photos" / name, 6, first=100 * place)
    one = examined(tmp_path / "photos")
    is_val_T = one.split_together(0.3)
    table = split_table(one.whole, is_val_T, tmp_path / "photos")
    assert not isinstance(table, str), table
    words = table.write(tmp_path / "out")
    assert words == (
        f"data={tmp_path / 'out' / 'split.csv'}",
        "data.follow_symlinks_outside=true",
    )
    with pytest.raises(DataError, match="is not inside"):
        open_dataset(tmp_path / "out" / "split.csv")
    opened = open_dataset(tmp_path / "out" / "split.csv", follow_symlinks_outside=True)
    assert opened.class_names == tuple(sorted(names))
    for images, is_val in ((opened.train, False), (opened.val, True)):
        expected = {
            (one.images.digests[k].tobytes(), int(one.images.labels[k]))
            for k in np.flatnonzero(is_val_T == is_val)
        }
        assert {
            (images.digests[k].tobytes(), int(images.labels[k])) for k in range(len(images))
        } == expected
    assert table.write(tmp_path / "out") == words, "a second time"


def test_a_table_above_the_pictures_needs_no_permission(tmp_path):
    """D33: a link that leads nowhere outside."""
    write_scenes(tmp_path / "photos" / "cat", 6, first=0)
    write_scenes(tmp_path / "photos" / "dog", 6, first=100)
    one = examined(tmp_path / "photos")
    table = split_table(one.whole, one.split_together(0.2), tmp_path / "photos")
    assert table.write(tmp_path) == (f"data={tmp_path / 'split.csv'}",)
    assert len(open_dataset(tmp_path / "split.csv").train) == 10


def test_the_test_split_stays_in_the_table(tmp_path):
    for name, first in (("cat", 0), ("dog", 100)):
        write_scenes(tmp_path / "photos" / "train" / name, 10, first=first)
        write_scenes(tmp_path / "photos" / "test" / name, 3, first=first + 50)
    one = examined(tmp_path / "photos")
    assert one.whole.can_be_split
    table = split_table(one.whole, one.split_together(0.2), tmp_path / "photos")
    table.write(tmp_path / "out")
    rows = (tmp_path / "out" / "split.csv").read_text().splitlines()[1:]
    assert [sum(row.endswith(split) for row in rows) for split in ("train", "val", "test")] == [
        16,
        4,
        6,
    ]
    assert all("/test/" in row for row in rows if row.endswith("test"))


@pytest.mark.parametrize("name", [b"caf\xe9", b" cat", b"two\nlines"])
def test_names_that_no_table_holds(tmp_path, name):
    """D28, D29: there is no table, and a sentence that says why."""
    root = tmp_path / "photos"
    write_scenes(root / "dog", 6, first=0)
    write_scenes(root / "elk", 6, first=100)
    (root / "elk").rename(root / os.fsdecode(name))
    one = examined(root)
    said = split_table(one.whole, one.split_together(0.2), root)
    assert isinstance(said, str)
    assert said.startswith("a table cannot name the class")
    (root / os.fsdecode(name)).rename(root / "elk")
    picture = next((root / "elk").iterdir())
    picture.rename(picture.with_name(os.fsdecode(b"caf\xe9.png")))
    one = examined(root)
    said = split_table(one.whole, one.split_together(0.2), root)
    assert isinstance(said, str)
    assert said.startswith("a table cannot name the file")
