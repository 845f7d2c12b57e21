"""deitkit cache as it is typed: the user's own folder, words, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journeys.commands import Ended, installed
from tests.teachers.toy_cache import IDS, filled


@pytest.fixture
def home(tmp_path) -> dict[str, str]:
    """An environment whose cache folder holds a cache of 24 images and one of 12 of them."""
    root = tmp_path / "home" / "deitkit" / "teachers"
    filled(root)
    filled(root, sample_ids=IDS[:12])
    return {"XDG_CACHE_HOME": str(tmp_path / "home")}


def test_list_verify_prune(commands, home, tmp_path):
    def run(*words: str) -> Ended:
        return commands("cache", *words, folder=tmp_path, environment=home)

    listed = installed("cache", "list", "--json", folder=tmp_path, environment=home)
    assert listed.code == 0, listed.err
    assert {cache["num_images"] for cache in listed.json} == {12, 24}
    folders = {cache["num_images"]: Path(cache["folder"]) for cache in listed.json}
    assert all(folder.is_relative_to(tmp_path / "home") for folder in folders.values())
    assert run("verify").code == 0

    damaged = folders[24] / "epoch-00000.bin"
    content = bytearray(damaged.read_bytes())
    content[0] ^= 1
    damaged.write_bytes(content)
    verified = run("verify")
    assert verified.code == 4 and verified.errors == []
    assert "71 records whole, 0 not yet written, 1 damaged" in verified.out
    assert damaged.read_bytes() == content

    dry = run("prune", "unused_days=0", "--dry-run")
    assert dry.code == 0 and dry.out.count("would remove") == 2
    assert all(folder.is_dir() for folder in folders.values())
    assert run("prune", "teacher=resnet56", "unused_days=30").out == "0 caches, 0.0 MB\n"
    pruned = run("prune", str(tmp_path / "home" / "deitkit" / "teachers"), "teacher=resnet56")
    assert pruned.code == 0 and pruned.out.count("removed ") == 2
    assert run("list").out == "0 caches, 0.0 MB\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "nowhere"), "[NO_FOLDER] nowhere:"),
        (("clear",), "[ACTION] clear: no such action; use list, verify, prune"),
        (("list", "--dry-run"), "[USAGE] cache list:"),
        (("prune", "unused_days=soon"), "[USAGE]"),
        ((), "[USAGE]"),
    ],
    ids=str,
)
def test_what_cannot_be_meant(commands, tmp_path, words, said):
    ended = commands("cache", *words, folder=tmp_path)
    assert ended.code == 2 and len(ended.errors) == 1
    assert said in ended.errors[0]


def test_a_user_without_caches(commands, tmp_path):
    """Nothing was stored yet: that is no error."""
    ended = commands("cache", "list", folder=tmp_path, environment={"XDG_CACHE_HOME": "none"})
    assert (ended.code, ended.out) == (0, "0 caches, 0.0 MB\n")
