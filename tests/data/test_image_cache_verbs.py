"""deitkit cache list, verify, prune on decoded images, alone and beside a teacher's answers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from deitkit.api.cache import list_caches, prune_caches, verify_caches
from deitkit.cli.cache import cache as cache_verb
from tests.data.toy_photos import open_toys, write_toys
from tests.teachers.toy_cache import filled

DAY_S = 86_400


def used_days_ago(folder: Path, days: float) -> None:
    moment = (folder / ".lock").stat().st_mtime - days * DAY_S
    os.utime(folder / ".lock", (moment, moment))


@pytest.fixture
def caches(tmp_path) -> dict[str, Path]:
    """Two sizes of one place, half of its images at another place, and a teacher's answers."""
    root = tmp_path / "root"
    folders = {}
    for name, place, side in (("a32", "a", 32), ("b32", "b", 32), ("a30", "a", 30)):
        toys = tmp_path / place
        if not toys.exists():
            write_toys(toys)
            if place == "b":
                shutil.rmtree(toys / "pngs")
        _, cache, lock = open_toys(toys, root, side=side)
        assert cache.stored is not None and lock is not None
        lock.release()
        folders[name] = cache.stored.folder
    folders["teacher"] = filled(root)
    for name, days in (("a32", 3.0), ("b32", 2.0), ("a30", 40.0), ("teacher", 1.0)):
        used_days_ago(folders[name], days)
    return folders


def test_list_tells_what_they_were_made_from(tmp_path, caches):
    found = list_caches(tmp_path / "root")
    assert [c.folder for c in found] == [caches[n] for n in ("teacher", "b32", "a32", "a30")]
    assert [c.kind for c in found] == ["teacher", "images", "images", "images"]
    assert [c.source for c in found[1:]] == [str(tmp_path / place) for place in "baa"]
    assert [c.num_images for c in found[1:]] == [6, 12, 12]
    assert [c.facts["side"] for c in found[1:]] == [32, 32, 30]
    pixels = (caches["a32"] / "pixels.bin").stat().st_size
    assert pixels <= found[2].num_bytes <= pixels + 7 * 4096


def test_verify_reads_every_image_and_changes_nothing(tmp_path, caches, capsys):
    assert all(check.is_whole for check in verify_caches(tmp_path / "root"))
    assert cache_verb("verify", str(tmp_path / "root")) == 0
    assert "12 images whole, 0 not yet written, 0 damaged" in capsys.readouterr().out
    pixels = caches["a32"] / "pixels.bin"
    content = bytearray(pixels.read_bytes())
    content[5] ^= 1
    content[-200] ^= 1
    pixels.write_bytes(content)
    with (caches["b32"] / "checks.bin").open("r+b") as stream:
        stream.write(bytes(3 * 8))
    os.truncate(caches["a30"] / "pixels.bin", 1)
    checks = {check.folder: check for check in verify_caches(tmp_path / "root")}
    damaged, unfilled, cut = (checks[caches[n]] for n in ("a32", "b32", "a30"))
    found = damaged.files["pixels.bin"]
    assert (found.num_good, found.num_empty, found.num_bad) == (10, 0, 2)
    assert unfilled.is_whole and unfilled.files["pixels.bin"].num_empty == 3
    assert not cut.is_whole and not cut.files["pixels.bin"].has_full_length
    assert cut.num_bad == 12
    assert pixels.read_bytes() == content
    assert cache_verb("verify", str(tmp_path / "root")) == 4
    said = capsys.readouterr().out
    assert "10 images whole, 0 not yet written, 2 damaged" in said
    assert "pixels.bin has not the length it should have" in said


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("header.json", "header.json is damaged"),
        ("index.bin", "index.bin is damaged"),
        ("checks.bin", "checks.bin is missing"),
    ],
)
def test_verify_says_which_file_is_damaged(tmp_path, caches, harm, said, capsys):
    if harm == "checks.bin":
        (caches["a32"] / harm).unlink()
    else:
        (caches["a32"] / harm).write_bytes(b"?")
    (check,) = (c for c in verify_caches(tmp_path / "root") if not c.is_whole)
    assert (check.folder, check.problems) == (caches["a32"], (said,))
    assert cache_verb("list", str(tmp_path / "root")) == 0
    assert ("damaged header" in capsys.readouterr().out) == (harm == "header.json")


@pytest.mark.parametrize(
    ("chosen", "gone"),
    [
        ({}, set()),
        ({"unused_days": 30}, {"a30"}),
        ({"unused_days": 2.5}, {"a30", "a32"}),
        ({"teacher": "resnet56"}, {"teacher"}),
        ({"max_gb": 0}, {"a30", "a32", "b32", "teacher"}),
        ({"max_gb": 0, "unused_days": 30}, {"a30"}),
        ({"max_gb": 1}, set()),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_prune_by_age_and_size(tmp_path, caches, chosen, gone):
    removed, in_use = prune_caches(tmp_path / "root", **chosen)
    assert {cache.folder for cache in removed} == {caches[name] for name in gone}
    assert in_use == []
    assert {name for name, folder in caches.items() if not folder.exists()} == gone


def test_prune_by_size_takes_the_longest_unused_until_the_rest_fits(tmp_path, caches):
    sizes = {cache.folder: cache.num_bytes for cache in list_caches(tmp_path / "root")}
    room = sizes[caches["teacher"]] + sizes[caches["b32"]]
    removed, _ = prune_caches(tmp_path / "root", max_gb=room / 1e9, dry_run=True)
    assert {cache.folder for cache in removed} == {caches["a32"], caches["a30"]}
    removed, _ = prune_caches(tmp_path / "root", max_gb=(room - 1) / 1e9)
    assert {cache.folder for cache in removed} == {caches[n] for n in ("a32", "a30", "b32")}


def test_prune_keeps_what_is_in_use_and_takes_another_for_it(tmp_path, caches):
    """a30 was used longest ago, and is used now."""
    _, cache, lock = open_toys(tmp_path / "a", tmp_path / "root", side=30)
    used_days_ago(caches["a30"], 40.0)
    removed, in_use = prune_caches(tmp_path / "root", unused_days=30)
    assert removed == [] and [c.folder for c in in_use] == [caches["a30"]]
    removed, _ = prune_caches(tmp_path / "root", max_gb=0)
    assert caches["a30"] not in {c.folder for c in removed} and len(removed) == 3
    assert cache.stored is not None and cache.stored.read(0) is not None
    assert lock is not None
    lock.release()


def test_images_of_one_place_that_changed_are_replaced(tmp_path, caches):
    """By default: the place's earlier images alike decoded go, nobody else's."""
    (tmp_path / "a" / "jpegs" / "4.jpeg").unlink()
    (tmp_path / "a" / "pngs" / "4.png").unlink()
    _, cache, lock = open_toys(tmp_path / "a", tmp_path / "root", side=32)
    assert lock is not None and cache.stored is not None
    lock.release()
    removed, _ = prune_caches(tmp_path / "root")
    assert [c.folder for c in removed] == [caches["a32"]]


def test_both_kinds_of_the_user_are_listed_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert list_caches() == []
    home = tmp_path / "home" / "deitkit"
    filled(home / "teachers")
    open_toys(write_toys(tmp_path / "a"), home / "images")
    assert sorted(cache.kind for cache in list_caches()) == ["images", "teacher"]
