"""Training from trained weights, and recipes, through the commands."""

from __future__ import annotations

import json
import signal

import pytest
import torch
import yaml

from deitkit.models import create_model
from tests.journeys.conftest import TINY, TINY_MODEL
from tests.journeys.final_state import files_of, final_state

SHORT = TINY[len(TINY_MODEL) :]
AT_STEP_6 = {"names": ["step"], "signal": signal.SIGKILL, "at": 6}
"""The checkpoint of step 4 is there."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as the DeiT authors publish them: {"model": state dict}, 5 classes, 32 px."""
    torch.manual_seed(3)
    model = create_model("deit_tiny_patch8_32", depth=2, num_classes=5)
    path = tmp_path_factory.mktemp("weights") / "trained.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def test_a_run_from_a_weights_file(commands, photos, weights, tmp_path):
    """One word; the run says what it began with, and needs the file no more once it has saved."""
    mine = tmp_path / "mine.pth"
    mine.write_bytes(weights.read_bytes())
    words = ("train", f"data={photos}", f"init={mine}", f"out={tmp_path / 'run'}", *SHORT)
    ended = commands(*words)
    assert ended.code == 0, ended.err
    said = " ".join(ended.err.split())
    assert "begins with" in said and "timm or facebookresearch/deit" in said
    assert "deit_tiny_patch8_32" in said and "fine-tuning" in said
    report = (tmp_path / "run/start_report.txt").read_text()
    for said in ("note: the head is new", "used (", "blocks.{0-1}.attn.qkv.weight", "replaced (2)"):
        assert said in report
    settings = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert settings["optim"]["layer_decay"] == 0.75 and settings["model"]["depth"] == 2
    bundle = json.loads((tmp_path / "run/best/config.json").read_text())
    assert bundle["provenance"]["start"] == mine.name, "no path of this machine goes out with it"
    mine.unlink()
    before = files_of(tmp_path / "run")
    assert commands("train", f"out={tmp_path / 'run'}").code == 0
    assert files_of(tmp_path / "run") == before


def test_an_interrupted_run_goes_on_without_its_start(commands, photos, weights, tmp_path):
    """Killed after its checkpoint, the file gone: the weights come from the checkpoint, SAME."""
    mine = tmp_path / "mine.pth"
    mine.write_bytes(weights.read_bytes())
    words = ("train", f"data={photos}", f"init={mine}", *SHORT)
    assert commands(*words, f"out={tmp_path / 'whole'}").code == 0
    killed = commands(*words, f"out={tmp_path / 'cut'}", hooks=AT_STEP_6)
    assert killed.code == -signal.SIGKILL
    mine.unlink()
    ended = commands("train", f"out={tmp_path / 'cut'}")
    assert ended.code == 0, ended.err
    assert final_state(tmp_path / "cut") == final_state(tmp_path / "whole")


@pytest.mark.parametrize(
    "init, code, said",
    [
        ("nowhere.pth", 2, "NO_START"),
        ("hf:somebody/some-vit", 5, "OFFLINE"),
        ("timm:deit_tiny_patch16_224", 5, "OFFLINE"),
        ("timm:no_such_model", 2, "deit_tiny_patch16_224"),
    ],
)
def test_a_start_that_cannot_be_had(commands, photos, init, code, said, tmp_path):
    """One clear line; no run is left that would go on from scratch."""
    ended = commands("train", f"data={photos}", f"init={init}", f"out={tmp_path / 'run'}", *SHORT)
    assert ended.code == code, ended.err
    assert len(ended.errors) == 1 and said in ended.errors[0]
    assert not (tmp_path / "run/config.yaml").exists()


def test_the_paper_is_one_preset(commands, photos, tmp_path):
    """recipe=deit_tiny with what is typed before it; the same command goes on."""
    words = ("train", f"data={photos}", "recipe=deit_tiny", *TINY, f"out={tmp_path / 'run'}")
    ended = commands(*words)
    assert ended.code == 0, ended.err
    settings = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert settings["views"]["auto_augment"] == "rand-m9-mstd0.5-inc1"
    assert (settings["views"]["repeats"], settings["views"]["erasing"]) == (3, 0.25)
    assert settings["optim"]["batch_size"] == 8 and settings["schedule"]["epochs"] == 3
    again = commands(*words)
    assert again.code == 0 and "already complete" in again.err


@pytest.mark.parametrize(
    "setting, said",
    [
        ("recipe=deit_tny", "deit_tiny"),
        ("views.auto_augment=rand-m9-x3", "auto_augment"),
        ("views.rand_ops=rotate,twirl", "twirl"),
        ("optim.name=adam", "adamw"),
        ("run.precision=half", "bfloat16"),
    ],
)
def test_a_wrong_word_is_told_before_anything_begins(commands, photos, setting, said, tmp_path):
    ended = commands("train", f"data={photos}", setting, f"out={tmp_path / 'run'}")
    assert ended.code == 2, ended.err
    assert said in ended.errors[0]


@pytest.mark.parametrize(
    "settings",
    [
        ("optim.name=muon",),
        ("run.precision=bfloat16", "optim.name=muon"),
        ("optim.name=sgd", "optim.layer_decay=0.8"),
        ("optim.label_loss=binary", "views.auto_augment=3augment", "views.color_jitter=0.3"),
        ("views.auto_augment=trivial", "views.erasing=1", "views.repeats=2", "views.mixup=0.8"),
        ("model.drop_path=0.3", "model.drop_path_schedule=constant", "model.grad_checkpointing=1"),
    ],
    ids=lambda settings: settings[0],
)
def test_every_part_of_the_recipe_resumes_bit_for_bit(commands, photos, settings, tmp_path):
    """T17 with Muon, SGD, binary loss, operations, erasing, repeats and dropped paths."""
    words = ("train", f"data={photos}", *TINY, *settings)
    whole = commands(*words, f"out={tmp_path / 'whole'}")
    assert whole.code == 0, whole.err
    assert commands(*words, f"out={tmp_path / 'cut'}", hooks=AT_STEP_6).code == -signal.SIGKILL
    assert commands(*words, f"out={tmp_path / 'cut'}").code == 0
    assert final_state(tmp_path / "cut") == final_state(tmp_path / "whole")
