"""deitkit cache list, verify, prune: what is there, what is damaged, what may go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from deitkit.api.cache import list_caches, prune_caches, verify_caches
from deitkit.cli.cache import cache as cache_verb
from deitkit.errors import ConfigError
from deitkit.runtime.temporary_names import _host
from deitkit.teachers.cache_folder import default_root
from tests.teachers.toy_cache import IDS, bytes_of, fill, filled, opened

DAY_S = 86_400


def used_days_ago(folder: Path, days: float) -> None:
    moment = (folder / ".lock").stat().st_mtime - days * DAY_S
    os.utime(folder / ".lock", (moment, moment))


@pytest.fixture
def three(tmp_path) -> dict[str, Path]:
    """A cache of each of two teachers, and one of half the data of the first."""
    folders = {
        "resnet": filled(tmp_path),
        "regnet": filled(tmp_path, teacher_digest="c", teacher_name="regnet", dtype="float32"),
        "half": filled(tmp_path, sample_ids=IDS[:12], num_view_epochs=2),
    }
    for name, days in (("resnet", 1.5), ("regnet", 40.0), ("half", 0.0)):
        used_days_ago(folders[name], days)
    return folders


def test_list_tells_whose_and_how_large(tmp_path, three):
    found = list_caches(tmp_path)
    assert [cache.folder for cache in found] == [three["half"], three["resnet"], three["regnet"]]
    half, resnet, regnet = found
    assert (half.teacher, half.num_images, half.facts["num_view_epochs"]) == ("resnet56", 12, 3)
    assert (resnet.num_images, resnet.facts["num_classes"]) == (24, 5)
    assert (regnet.teacher, regnet.facts["dtype"], regnet.in_use) == ("regnet", "float32", False)
    least = sum(len(data) for data in bytes_of(three["regnet"]).values())
    assert least <= regnet.num_bytes <= least + 7 * 4096
    with opened(tmp_path):
        assert [cache.folder for cache in list_caches(tmp_path) if cache.in_use] == [
            three["resnet"]
        ]


def test_list_shows_a_damaged_header_without_a_name(tmp_path, three):
    (three["regnet"] / "header.json").write_bytes(b"{}")
    assert [cache.teacher for cache in list_caches(tmp_path)] == ["resnet56", "resnet56", None]


def test_verify_finds_the_damage_and_changes_nothing(tmp_path, three):
    assert all(check.is_whole for check in verify_caches(tmp_path))
    path = three["resnet"] / "epoch-00001.bin"
    data = bytearray(path.read_bytes())
    data[3] ^= 4
    data[100] ^= 1
    path.write_bytes(data)
    (three["regnet"] / "sample_ids.bin").write_bytes(b"12345678")
    os.truncate(three["half"] / "epoch-00000.bin", 5 * 24)
    before = {name: bytes_of(folder) for name, folder in three.items()}
    checks = {check.folder: check for check in verify_caches(tmp_path)}
    resnet, regnet, half = (checks[three[name]] for name in ("resnet", "regnet", "half"))
    assert (resnet.num_bad, resnet.problems, resnet.is_whole) == (2, (), False)
    assert (regnet.num_bad, regnet.problems) == (0, ("sample_ids.bin is damaged",))
    assert (half.files["epoch-00000.bin"].num_good, half.files["epoch-00000.bin"].num_empty) == (
        5,
        7,
    )
    assert not half.files["epoch-00000.bin"].has_full_length and not half.is_whole
    assert {name: bytes_of(folder) for name, folder in three.items()} == before


def test_prune_removes_what_another_data_set_replaced(tmp_path, three):
    used_days_ago(three["half"], 2.0)
    removed, in_use = prune_caches(tmp_path, dry_run=True)
    assert [cache.folder for cache in removed] == [three["half"]] and in_use == []
    assert three["half"].is_dir()
    removed, _ = prune_caches(tmp_path)
    assert [cache.folder for cache in removed] == [three["half"]]
    assert not three["half"].exists() and three["resnet"].is_dir() and three["regnet"].is_dir()
    assert prune_caches(tmp_path) == ([], [])
    with opened(tmp_path) as cache:
        assert fill(cache, 0) == 0


@pytest.mark.parametrize(
    ("chosen", "gone"),
    [
        ({"unused_days": 30}, {"regnet"}),
        ({"unused_days": 1}, {"resnet", "regnet"}),
        ({"unused_days": 0}, {"half", "resnet", "regnet"}),
        ({"teacher": "resnet56"}, {"half", "resnet"}),
        ({"teacher": "resnet56", "unused_days": 1}, {"resnet"}),
        ({"teacher": "resnet"}, set()),
    ],
    ids=["30 days", "1 day", "all", "a name", "a name, 1 day", "no name"],
)
def test_prune_by_teacher_and_by_time(tmp_path, three, chosen, gone):
    removed, in_use = prune_caches(tmp_path, **chosen)
    assert {cache.folder for cache in removed} == {three[name] for name in gone}
    assert in_use == []
    assert {name for name, folder in three.items() if not folder.exists()} == gone


def test_prune_keeps_what_is_in_use_and_clears_leftovers(tmp_path, three):
    leftover = tmp_path / f".{three['half'].name}.tmp-{_host()}-999999999-0"
    leftover.mkdir()
    with opened(tmp_path) as cache:
        removed, in_use = prune_caches(tmp_path, unused_days=0)
        assert [kept.folder for kept in in_use] == [cache.folder] and len(removed) == 2
        assert fill(cache, 0) == 0
    assert not leftover.exists()


def test_foreign_folders_are_left_alone(tmp_path, three):
    for name in ("photos-2024", "0123456789abcdef-xyz", "notes"):
        (tmp_path / name).mkdir()
    assert len(list_caches(tmp_path)) == len(verify_caches(tmp_path)) == 3
    prune_caches(tmp_path, unused_days=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0123456789abcdef-xyz",
        "notes",
        "photos-2024",
    ]


def test_a_folder_that_is_not_there():
    with pytest.raises(ConfigError, match="NO_FOLDER"):
        list_caches("/nowhere/at/all")


def test_the_users_own_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "deitkit" / "teachers"
    filled(default_root())
    assert len(list_caches()) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/anna")
    assert default_root() == Path("/home/anna/.cache/deitkit/teachers")


def test_the_verb_in_words_and_in_json(tmp_path, three, capsys):
    root = str(tmp_path)
    assert cache_verb("list", root) == 0
    said = capsys.readouterr().out
    assert "resnet56: 3 view epochs of 24 images, 5 classes, float16" in said
    assert said.splitlines()[-1].startswith("3 caches, ")
    assert cache_verb("list", root, json=True) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [cache["num_images"] for cache in listed] == [12, 24, 24]
    assert cache_verb("verify", root) == 0
    assert capsys.readouterr().out.endswith("\nwhole\n")
    data = np.frombuffer((three["half"] / "epoch-00000.bin").read_bytes(), np.uint8).copy()
    data[0] ^= 1
    (three["half"] / "epoch-00000.bin").write_bytes(data.tobytes())
    assert cache_verb("verify", root) == 4
    assert "35 records whole, 0 not yet written, 1 damaged" in capsys.readouterr().out
    assert cache_verb("verify", root, json=True) == 4
    checks = {Path(c["folder"]): c for c in json.loads(capsys.readouterr().out)}
    assert [checks[three[n]]["whole"] for n in ("half", "resnet")] == [False, True]
    assert cache_verb("prune", root, unused_days=30, dry_run=True) == 0
    assert f"would remove {three['regnet']}" in capsys.readouterr().out
    with opened(tmp_path):
        assert cache_verb("prune", root, teacher="resnet56") == 0
    said = capsys.readouterr().out
    assert f"removed {three['half']}" in said and f"in use, kept: {three['resnet']}" in said
    assert cache_verb("prune", root, unused_days=0, json=True) == 0
    assert len(json.loads(capsys.readouterr().out)["removed"]) == 2


@pytest.mark.parametrize(
    ("action", "options"),
    [("delete", {}), ("list", {"teacher": "resnet56"}), ("verify", {"dry_run": True})],
)
def test_words_the_verb_does_not_know(tmp_path, action, options):
    with pytest.raises(ConfigError) as caught:
        cache_verb(action, str(tmp_path), **options)
    assert caught.value.exit_code == 2
