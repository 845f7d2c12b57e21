"""Files that cannot be used, odd names and links: what is left out, listed, or stops the run."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.data import DecodePolicy, open_dataset
from deitkit.errors import DataError
from tests.data import faulty_images as fi


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One level of class folders, two classes of 10 pictures."""
    fi.write_photos(tmp_path / "photos", ["cat", "dog"], 10)
    return tmp_path / "photos"


def data_error(source: object, **options: object) -> DataError:
    with pytest.raises(DataError) as caught:
        open_dataset(source, **options)
    assert caught.value.exit_code == 3
    return caught.value


def test_unreadable(photos, monkeypatch):
    """D11: Root reads everything, so the refusal comes from a stand-in for os.open."""
    locked = os.fsencode(write(photos / "cat" / "locked.png", fi.encode(fi.photo(901))))
    real_open = os.open

    def refusing_open(path: object, *options: object, **more: object) -> int:
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return real_open(path, *options, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing_open)
    report = open_dataset(photos).report
    assert report.skip_counts == {"permission": 1}


BAD = {
    "D12": (b"", "empty_file"),
    "D13": (fi.NOT_IMAGES["html"], "not_an_image"),
    "D14": (fi.encoded_photo("JPEG")[:-200], "truncated"),
    "D16": (fi.FOREIGN["psd"], "format_not_allowed"),
    "D19": (None, "value_range"),
    "D24": (fi.encode(fi.photo(0, 4, 30)), "too_small"),
    "D25": (fi.png_bomb(), "too_large"),
    "D26": (fi.png_text_bomb(), "decode_error"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_files_are_skipped_and_listed(photos, fault):
    content, reason = BAD[fault]
    if content is None:
        content = fi.encode(Image.new("F", (16, 16), 5.0), "TIFF")
    bad = write(photos / "cat" / "bad.jpg", content)
    before = open_dataset(photos)
    report = before.report
    assert report.skip_counts == {reason: 1}
    assert report.to_dict()["skipped"] == {reason: {"count": 1, "paths": [str(bad)]}}
    assert reason in report.summary()
    bad.unlink()
    after = open_dataset(photos)
    np.testing.assert_array_equal(before.train.sample_ids, after.train.sample_ids)
    assert before.fingerprint == after.fingerprint


def test_bad_images_can_stop_the_run(photos):
    bad = write(photos / "cat" / "bad.jpg", b"")
    error = data_error(photos, bad_images="fail")
    assert error.code == "BAD_IMAGE"
    assert str(bad) in str(error)
    assert "empty_file" in str(error)


@pytest.mark.parametrize(("num_bad", "stops"), [(5, False), (6, True)])
def test_more_than_1_percent_and_more_than_5_bad_images_stop(photos, num_bad, stops):
    for number in range(num_bad):
        write(photos / "cat" / f"bad{number}.jpg", b"x" if number else b"")
    if stops:
        error = data_error(photos)
        assert error.code == "TOO_MANY_BAD"
        assert "6 of 26" in error.why
        assert "5 not_an_image" in error.why
        assert "1 empty_file" in error.why
        assert str(photos / "cat" / "bad1.jpg") in error.why
    else:
        assert open_dataset(photos).report.num_skipped == 5


def test_300_bad_files_are_one_clear_message(photos):
    for number in range(300):
        write(photos / "dog" / f"bad{number:03}.jpg", b"x")
    error = data_error(photos)
    assert error.code == "TOO_MANY_BAD"
    assert "300 of 320" in error.why
    assert len(str(error)) < 1000


def test_bad_images_that_leave_one_of_a_class_stop(photos):
    write(photos / "eel" / "good.png", fi.encode(fi.photo(500)))
    write(photos / "eel" / "bad.png", b"")
    error = data_error(photos)
    assert error.code == "TOO_MANY_BAD"
    assert "eel (1 of 2)" in error.why


def test_the_first_thousand_paths_are_listed():
    from deitkit.data.faults import Skips

    skips = Skips()
    for number in range(1_500):
        skips.add("truncated", f"{number}.jpg")
    assert skips.counts == {"truncated": 1_500}
    assert len(skips.paths["truncated"]) == 1_000


def test_content_decides_not_the_extension(photos):
    """D15."""
    image = fi.photo(700)
    write(photos / "cat" / "png.jpg", fi.encode(image, "PNG"))
    write(photos / "dog" / "jpg.png", fi.encode(image, "JPEG"))
    dataset = open_dataset(photos)
    assert dataset.report.tally.extension_mismatch == 2
    assert dataset.report.num_skipped == 0


def test_counts_of_the_report(photos):
    """D17, D20, D24."""
    frames = [Image.fromarray(fi.photo(s)) for s in (801, 802)]
    write(photos / "cat" / "a.gif", fi.encode(frames[0], "GIF", save_all=True,
                                               append_images=frames[1:]))  # fmt: skip
    write(photos / "cat" / "grey.png", fi.encode(fi.photo(803)[:, :, 0]))
    write(photos / "cat" / "tiny.png", fi.encode(fi.photo(804, 3, 20)))
    tally = open_dataset(photos, decode=DecodePolicy(min_side=1)).report.tally
    assert (tally.animated, tally.greyscale, tally.tiny) == (1, 1, 1)


def test_sizes_are_those_of_the_upright_picture(photos):
    """D22."""

    exif = Image.Exif()
    exif[0x0112] = 6
    write(photos / "cat" / "0.jpg", fi.encode(fi.photo(1, 20, 40), "JPEG", exif=exif))
    dataset = open_dataset(photos)
    sizes = np.concatenate((dataset.train.sizes, dataset.val.sizes))
    assert [40, 20] in sizes.tolist()
    assert dataset.report.heights == (10, 10, 40)
    assert dataset.report.widths == (12, 12, 20)


AWKWARD = [
    "with space.png",
    "quote\"'.png",
    "new\nline.png",
    "\U0001f431.png",
    "\u202egnp.x.png",
    "-rf.png",
    "n" * 251 + ".png",
]


def test_awkward_names_work_and_are_printed_escaped(photos):
    """D28."""
    for number, name in enumerate(AWKWARD):
        write(photos / "cat" / name, fi.encode(fi.photo(600 + number)))
    write(photos / "cat" / "bad\n\u202e.png", b"")
    dataset = open_dataset(photos)
    assert len(dataset.train) + len(dataset.val) == 27
    (shown,) = dataset.report.skipped.paths["empty_file"]
    assert shown.endswith("bad\\n\\u202e.png")
    whole = {s.describe(i) for s in (dataset.train, dataset.val) for i in range(len(s))}
    assert str(photos / "cat" / AWKWARD[2]) in whole


def test_a_path_too_long_to_open(photos, monkeypatch):
    """D28: Directories are made one in the other until the whole path exceeds what open() takes."""
    monkeypatch.chdir(photos / "cat")
    for _ in range(25):
        Path("d" * 200).mkdir()
        os.chdir("d" * 200)
    Path("x.png").write_bytes(fi.encode(fi.photo(650)))
    os.chdir(photos)
    assert open_dataset(photos).report.skip_counts == {"path_too_long": 1}


def test_names_that_are_not_utf_8(photos):
    """D29."""
    bad, good = (photos / "cat" / os.fsdecode(name) for name in (b"caf\xff.png", b"good\xff.png"))
    try:
        bad.write_bytes(b"")
    except OSError:
        pytest.skip("this file system refuses the name")
    good.write_bytes(fi.encode(fi.photo(651)))
    dataset = open_dataset(photos)
    assert len(dataset.train) + len(dataset.val) == 21
    text = json.dumps(dataset.report.to_dict(), ensure_ascii=False)
    assert "caf\\\\udcff.png" in text
    text.encode("utf-8")


def test_links_inside_are_followed_links_outside_are_not(photos, tmp_path):
    """D30."""
    outside = write(tmp_path / "elsewhere" / "x.png", fi.encode(fi.photo(660)))
    inside = write(photos / "extra.png", fi.encode(fi.photo(661)))
    (photos / "cat" / "out.png").symlink_to(outside)
    (photos / "dog" / "in.png").symlink_to(inside)
    dataset = open_dataset(photos)
    assert dataset.report.skip_counts == {"outside_root": 1}
    whole = [s.describe(i) for s in (dataset.train, dataset.val) for i in range(len(s))]
    assert str(inside) in whole
    followed = open_dataset(photos, follow_symlinks_outside=True)
    assert followed.report.num_skipped == 0
    assert len(followed.train) + len(followed.val) == 22


def test_class_folder_that_leads_out(photos, tmp_path):
    """D30."""
    fi.write_photos(tmp_path / "elsewhere", ["eel"], 5, 670)
    (photos / "eel").symlink_to(tmp_path / "elsewhere" / "eel")
    assert open_dataset(photos).report.skip_counts == {"outside_root": 1}
    followed = open_dataset(photos, follow_symlinks_outside=True)
    assert followed.class_names == ("cat", "dog", "eel")


def test_loops_end_and_count_each_file_once(photos):
    """D31."""
    (photos / "cat" / "self").symlink_to(photos / "cat")
    (photos / "cat" / "up").symlink_to(photos)
    (photos / "cat" / "other").symlink_to(photos / "dog")
    write(photos / "cat" / "deep" / "x.png", fi.encode(fi.photo(680)))
    (photos / "dog" / "again").symlink_to(photos / "cat" / "deep")
    dataset = open_dataset(photos)
    assert len(dataset.train) + len(dataset.val) == 21
    assert dataset.report.class_counts["train"] == {"cat": 10, "dog": 9}


def test_what_is_no_file_is_skipped_and_never_hangs(photos, tmp_path, monkeypatch):
    """D32."""
    os.mkfifo(photos / "cat" / "pipe.jpg")
    (photos / "cat" / "broken.jpg").symlink_to(photos / "cat" / "nothing.jpg")
    (photos / "dog" / "device.jpg").symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(photos / "dog")
    listener.bind("socket.jpg")
    try:
        report = open_dataset(photos, follow_symlinks_outside=True).report
    finally:
        listener.close()
    assert report.skip_counts == {"not_a_regular_file": 4}
