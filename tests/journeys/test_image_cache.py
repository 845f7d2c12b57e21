"""Training from an image cache, as it is typed: the same run whatever becomes of the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from deitkit.runtime.shared_folder import SharedLock
from tests.journeys.commands import Commands, Ended
from tests.journeys.conftest import TINY, make_folder
from tests.journeys.final_state import files_of, final_state
from tests.training.ranks import run_ranks

SETTINGS = (*TINY, "image_size=16", "views.crop=random_resized", "views.scale=0.3,1")
LARGE = (*SETTINGS, "data.source_side=20")


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """Pictures of 48 x 64, three times what the student sees."""
    folder = tmp_path_factory.mktemp("large")
    return make_folder(folder, {"blue": 12, "red": 12}, size=(48, 64))


@pytest.fixture(scope="module")
def expected(commands: Commands, large: Path, tmp_path_factory) -> dict:
    """The run that decodes and reduces each picture whenever it is shown."""
    out = tmp_path_factory.mktemp("runs") / "off"
    ended = commands("train", f"data={large}", f"out={out}", *LARGE, "data.image_cache=off")
    assert ended.code == 0, ended.err
    return final_state(out)


def test_fresh_found_damaged_and_removed_caches_give_one_run(commands, large, expected, tmp_path):
    """SAME: filled by this run or an earlier one, with flipped bits, by workers, or removed."""
    before = files_of(large)
    caches = tmp_path / "caches"
    disk = ("data.image_cache=disk", f"data.image_cache_folder={caches}")

    def trained(name: str, *more: str) -> Path:
        out = tmp_path / name
        same = [word for word in LARGE if not (more and word.startswith("workers="))]
        ended = commands("train", f"data={large}", f"out={out}", *same, *disk, *more)
        assert ended.code == 0, ended.err
        assert final_state(out) == expected, name
        return out

    trained("fresh")
    (folder,) = caches.iterdir()
    first = (folder / "pixels.bin").stat().st_mtime_ns
    trained("found", "workers=1")
    assert (folder / "pixels.bin").stat().st_mtime_ns == first, "nothing was decoded again"
    pixels = bytearray((folder / "pixels.bin").read_bytes())
    whole = bytes(pixels)
    pixels[::101] = bytes(len(pixels[::101]))
    (folder / "pixels.bin").write_bytes(pixels)
    trained("damaged")
    assert (folder / "pixels.bin").read_bytes() == whole

    out = tmp_path / "removed"
    killed = commands(
        "train",
        f"data={large}",
        f"out={out}",
        *LARGE,
        *disk,
        hooks={"names": ["step"], "at": 4, "signal": 9},
    )
    assert killed.code == -9
    shutil.rmtree(folder)
    assert commands("train", f"out={out}").code == 0
    assert final_state(out) == expected
    assert files_of(large) == before, "nothing is written into the user's folder"


def test_what_was_chosen_stands_in_the_config_with_its_reason(commands, large, tmp_path):
    """By itself small data is whole and in memory; off is honoured, and nothing is cached."""
    home = {"XDG_CACHE_HOME": str(tmp_path / "home")}
    chosen = {}
    for asked in ("auto", "disk", "off"):
        out = tmp_path / asked
        ended = commands(
            "train",
            f"data={large}",
            f"out={out}",
            *SETTINGS,
            f"data.image_cache={asked}",
            folder=tmp_path,
            environment=home,
        )
        assert ended.code == 0, ended.err
        text = (out / "config.yaml").read_text(encoding="utf-8")
        data = yaml.safe_load(text)["data"]
        chosen[asked] = (data["image_cache"], data["source_side"])
        caches = list((tmp_path / "home" / "deitkit" / "images").glob("*"))
        assert len(caches) == (asked != "auto")
    assert chosen == {"auto": ("memory", "whole"), "disk": ("disk", 19), "off": ("off", "scaled")}
    assert "source_side: 19" in (tmp_path / "disk" / "config.yaml").read_text(encoding="utf-8")


def test_two_ranks_share_one_cache(large, tmp_path):
    """Filled once; the images of both come from it."""
    settings = dict(word.split("=") for word in LARGE)
    settings |= {"data": str(large), "out": str(tmp_path / "run"), "data.image_cache": "disk"}
    settings["data.image_cache_folder"] = str(tmp_path / "caches")
    ranks = run_ranks(2, tmp_path / "seen", settings)
    assert [rank.code for rank in ranks] == [0, 0], ranks
    assert len(list((tmp_path / "caches").iterdir())) == 1


def test_k10_a_disk_that_cannot_hold_it_is_an_error_that_says_what_to_do(commands, large, tmp_path):
    ended = commands(
        "train",
        f"data={large}",
        f"out={tmp_path / 'run'}",
        *LARGE,
        "data.image_cache=disk",
        f"data.image_cache_folder={tmp_path / 'caches'}",
        file_size_limit=20_000,
    )
    assert ended.code == 6 and len(ended.errors) == 1
    assert "[EFBIG]" in ended.errors[0] and "data.image_cache=off" in ended.errors[0]


def test_caches_are_listed_verified_and_pruned(commands, large, tmp_path):
    """As typed, in the user's own folder: what a training kept, damage found, a run protected."""
    home = {"XDG_CACHE_HOME": str(tmp_path / "home")}

    def run(*words: str) -> Ended:
        return commands("cache", *words, folder=tmp_path, environment=home)

    ended = commands(
        *("train", f"data={large}", f"out={tmp_path / 'run'}", *LARGE, "data.image_cache=disk"),
        folder=tmp_path,
        environment=home,
    )
    assert ended.code == 0, ended.err
    (cache,) = run("list", "--json").json
    assert (cache["kind"], cache["source"], cache["side"]) == ("images", str(large), 20)
    said = run("list")
    assert f"{cache['num_images']} decoded images, reduced to 20, of {large}" in said.out
    assert said.out.endswith(f"1 caches, {cache['num_bytes'] / 1e6:,.1f} MB\n")
    assert run("verify").code == 0
    pixels = Path(cache["folder"]) / "pixels.bin"
    content = bytearray(pixels.read_bytes())
    content[0] ^= 1
    pixels.write_bytes(content)
    verified = run("verify")
    assert verified.code == 4 and " 1 damaged" in verified.out
    lock = SharedLock(pixels.parent)
    kept = run("prune", "unused_days=0")
    assert kept.code == 0 and "in use, kept: " in kept.out and pixels.exists()
    lock.release()
    assert run("prune", "max_gb=0", "--dry-run").out.startswith("would remove ")
    assert run("prune", "max_gb=0").out.startswith("removed ") and not pixels.exists()
