"""Bundles: whole, and the same wherever they are read."""

from __future__ import annotations

import dataclasses
import os
import random
import stat
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from deitkit.artifacts.bundle import load_bundle, save_bundle
from deitkit.errors import DataError, DivergedError, ModelFileError
from deitkit.runtime.sealed_folder import replace_folder


def refused(path: Path, code: str, said: str = "") -> None:
    with pytest.raises(ModelFileError) as caught:
        load_bundle(path)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.exit_code == 5
    assert said in str(caught.value)


def test_run_folder_and_bundle_folder_both_load_to_the_same_answers(folder, bundle, model):
    images_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model.eval()
    for path in (folder, folder.parent, str(folder)):
        loaded = load_bundle(path)
        rebuilt = loaded.build_model()
        assert not rebuilt.training
        with torch.no_grad():
            for got, expected in zip(rebuilt(images_BCHW), model(images_BCHW), strict=True):
                assert torch.equal(got, expected)
        for name in ("class_names", "preprocessing", "fusion", "temperature", "metrics"):
            assert getattr(loaded, name) == getattr(bundle, name), name
        assert loaded.model_config == bundle.model_config
        assert loaded.provenance == bundle.provenance


def test_weights_have_timms_names_and_any_safetensors_reader_opens_them(folder):
    with safetensors.safe_open(folder / "model.safetensors", "pt") as opened:
        keys = set(opened.keys())
        assert opened.metadata() == {"format": "pt"}
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head_dist.bias"} <= keys


def test_round_trip_is_byte_identical(folder, tmp_path):
    """X08."""
    save_bundle(tmp_path / "again", load_bundle(folder))
    for name in ("model.safetensors", "config.json", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_class_names_are_kept_exactly_and_found_by_name(folder, bundle):
    """X09."""
    loaded = load_bundle(folder)
    assert [loaded.class_index(name) for name in bundle.class_names] == [0, 1, 2]
    with pytest.raises(DataError, match="the model knows 3 classes: cat, dog") as caught:
        loaded.class_index("cow")
    assert caught.value.code == "UNKNOWN_CLASS"


@pytest.mark.parametrize("weight", [0.0, 0.625, 1])
def test_a_fitted_fusion_keeps_its_weight(tmp_path, bundle, weight):
    fitted = dataclasses.replace(bundle, fusion="fitted", fusion_weight=weight)
    save_bundle(tmp_path / "b", fitted)
    loaded = load_bundle(tmp_path / "b")
    assert (loaded.fusion, loaded.fusion_weight) == ("fitted", weight)
    for fusion, one in (("mean", 0.5), ("fitted", None)):
        with pytest.raises(AssertionError, match="belongs to fusion=fitted"):
            save_bundle(
                tmp_path / "c", dataclasses.replace(bundle, fusion=fusion, fusion_weight=one)
            )


def test_building_a_model_disturbs_no_chance(folder):
    loaded = load_bundle(folder)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    loaded.build_model()
    assert torch.equal(torch.rand(3), expected)


def test_two_built_models_share_no_memory(folder):
    loaded = load_bundle(folder)
    one, other = loaded.build_model(), loaded.build_model()
    with torch.no_grad():
        one.head.weight.zero_()
    assert other.head.weight.abs().sum() > 0


def test_kill_between_two_renames_is_survived(folder, bundle):
    folder.rename(folder.with_name("best.previous"))
    assert load_bundle(folder.parent).class_names == bundle.class_names
    assert load_bundle(folder).class_names == bundle.class_names


def test_readers_during_a_replacement_see_old_or_new(folder, bundle):
    """K09."""
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            save_bundle(folder, bundle)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(40):
            assert load_bundle(folder.parent).class_names == bundle.class_names
    finally:
        stop.set()
        writer.join()


def test_files_follow_the_umask(tmp_path, bundle):
    """T50."""
    before = os.umask(0o022)
    try:
        save_bundle(tmp_path / "b", bundle)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "b").iterdir()} == {0o644}


def test_no_bundle_says_what_to_give(tmp_path):
    refused(tmp_path / "nothing", "NO_BUNDLE", "it does not exist")
    (tmp_path / "run").mkdir()
    refused(tmp_path / "run", "NO_BUNDLE", "no finished bundle")
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file", "NO_BUNDLE")


def test_checkpoint_is_no_bundle(tmp_path):
    replace_folder(tmp_path / "x", {"state.json": b"{}"}, {"kind": "checkpoint", "schema": 1})
    refused(tmp_path / "x", "BAD_CONFIG", "this is not a bundle")


def test_non_finite_weights_are_not_saved(tmp_path, bundle, model):
    """T27."""
    weights = {**model.state_dict(), "head.bias": torch.tensor([0.0, float("nan"), 0.0])}
    with pytest.raises(DivergedError, match=r"head\.bias"):
        save_bundle(tmp_path / "b", dataclasses.replace(bundle, state_dict=weights))
    assert not (tmp_path / "b").exists()


def test_flipped_bits_are_all_refused(folder):
    """M07."""
    files = sorted(folder.iterdir())
    whole = {file: file.read_bytes() for file in files}
    chance = random.Random(0)
    codes = set()
    for _ in range(400):
        file = chance.choices(files, [len(whole[file]) for file in files])[0]
        position = chance.randrange(len(whole[file]))
        put_byte(file, position, whole[file][position] ^ 1 << chance.randrange(8))
        with pytest.raises(ModelFileError) as caught:
            load_bundle(folder)
        codes.add(caught.value.code)
        put_byte(file, position, whole[file][position])
    assert "DIGEST" in codes
    load_bundle(folder)


def put_byte(file: Path, position: int, value: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(position)
        stream.write(bytes([value]))


def test_one_flipped_bit_in_the_weights_is_a_digest_error(folder):
    """M07."""
    size = (folder / "model.safetensors").stat().st_size
    put_byte(folder / "model.safetensors", size - 1, 0x55)
    refused(folder, "DIGEST", "model.safetensors is damaged")


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "model.safetensors"])
def test_missing_or_cut_files(folder, name):
    """M03."""
    os.truncate(folder / name, (folder / name).stat().st_size - 5)
    with pytest.raises(ModelFileError):
        load_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(ModelFileError):
        load_bundle(folder)
