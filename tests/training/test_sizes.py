"""Growing images: which step has which size, and that nothing else changes."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import deitkit
from deitkit.errors import ConfigError, DataError
from deitkit.models import create_model
from deitkit.models.pos_embed import resize_pos_embed
from deitkit.training.sizes import SizePhases, build_phases
from tests.training.toy import toy_images, toy_run

SIZES = ((8, 8), (12, 12), (16, 16))


def test_thirds_of_a_run_by_hand():
    """Nine steps in three parts; after the end it stays at the last size."""
    phases = SizePhases(sizes=SIZES, total_steps=9)
    assert [phases.at(step)[0] for step in range(11)] == [8, 8, 8, 12, 12, 12, 16, 16, 16, 16, 16]
    assert phases.last == (16, 16)


@given(st.integers(1, 5), st.integers(1, 1000))
def test_parts_are_equal_and_grow(num_sizes, total_steps):
    sizes = tuple((side, side) for side in range(8, 8 + num_sizes))
    phases = SizePhases(sizes=sizes, total_steps=total_steps)
    sides = [phases.at(step)[0] for step in range(total_steps)]
    assert sides == sorted(sides)
    counts = np.bincount(sides, minlength=8 + num_sizes)[8:]
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("sides", "patch", "why"),
    [
        ((16, 32, 30), 4, "patches of 4 pixels do not divide"),
        ((32, 16, 32), 4, "do not grow"),
        ((16, 24), 4, "the last is not the image size, 32x32"),
        ((16, 32), None, "only transformers"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sides, patch, why):
    with pytest.raises(ConfigError, match="SIZES") as caught:
        build_phases(sides, image_size=(32, 32), patch_size=patch, total_steps=10)
    assert why in str(caught.value)


@pytest.mark.parametrize("more", [{}, {"stem": "conv", "mlp_conv": True}, {"pos_embed_cls": False}])
def test_a_smaller_picture_meets_resampled_positions(more):
    """In training, 8 pixels through a 16-pixel model are what a model made for 8 pixels says."""
    torch.manual_seed(0)
    large = create_model("deit_nano_distilled_patch4_16", num_classes=3, depth=2, **more)
    config = large.config | {"image_size": (8, 8)}
    small = create_model(**config)
    weights = large.state_dict()
    weights["pos_embed"] = resize_pos_embed(
        weights["pos_embed"],
        old_grid=(4, 4),
        new_grid=(2, 2),
        num_special_tokens=2 if large.pos_embed_cls else 0,
    )
    small.load_state_dict(weights)
    images_BCHW = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for own, other in zip(large.train()(images_BCHW), small.train()(images_BCHW), strict=True):
        torch.testing.assert_close(own, other)
    with pytest.raises(DataError, match="IMAGE_SHAPE"):
        large.eval()(images_BCHW)
    with pytest.raises(DataError, match="IMAGE_SHAPE"):
        large.train()(torch.zeros(1, 3, 10, 10))


def test_every_position_learns_from_small_pictures():
    """The resampling passes gradients to the positions it read."""
    model = create_model("deit_nano_patch4_16", num_classes=3, depth=1).train()
    model(torch.randn(2, 3, 8, 8)).cls_logits.sum().backward()
    gradient_PD = model.pos_embed.grad[0, 1:]
    assert (gradient_PD.abs().sum(dim=1) > 0).all()


def test_views_and_partners_are_those_of_one_size():
    """Order and draws of each step do not know the size; pixels are the view at that size."""
    images = toy_images(12)
    _, _, steps = toy_run(images, batch_size=4)
    growing = steps.at_size((16, 16))
    growing.sizes = SizePhases(sizes=SIZES, total_steps=6)
    for step in range(6):
        plain, grown = steps[step], growing[step]
        assert (plain.indices_B == grown.indices_B).all()
        for one in fields(plain.views):
            own, other = (getattr(batch.views, one.name) for batch in (plain, grown))
            np.testing.assert_array_equal(own, other)
        side = growing.sizes.at(step)
        assert grown.images_BCHW.shape[2:] == side == grown.image_size
        again = steps.rendered(plain.indices_B, plain.views, side)
        assert torch.equal(again, grown.images_BCHW)


def photos_of(folder):
    from tests.journeys.conftest import make_splits

    return make_splits(folder / "photos", train=10, val=4, test=0)


SETTINGS = {
    "model": "deit_nano_patch4_16",
    "model.depth": 2,
    "epochs": 4,
    "batch_size": 8,
    "workers": 0,
    "schedule.eval_interval": 4,
    "schedule.checkpoint_interval": 3,
    "run.log_interval": 1,
}


def test_a_run_grows_writes_it_down_and_resumes_bit_for_bit(tmp_path):
    """sizes=8,12,16: metrics.jsonl has the sizes; left in the second part and gone on, SAME."""
    photos = photos_of(tmp_path)
    whole = deitkit.train(data=str(photos), out=str(tmp_path / "a"), sizes="8,12,16", **SETTINGS)
    log = [json.loads(line) for line in (whole.folder / "metrics.jsonl").open()]
    sides = [line["image_size"][0] for line in log if line["event"] == "step"]
    assert sides == sorted(sides) and set(sides) == {8, 12, 16}
    report = (whole.folder / "report.html").read_text(encoding="utf-8")
    assert "in training 8, 12, 16, each for an equal part" in report
    assert ">Image size<" in report, "its curve"
    broken = {"data": str(photos), "out": str(tmp_path / "b"), "sizes": "8,12,16", **SETTINGS}
    for event in deitkit.fit(**broken):
        if getattr(event, "step", 0) == len(sides) // 2 and hasattr(event, "losses"):
            break
    again = deitkit.train(**broken)
    for run in (whole, again):
        assert run.predictor.bundle.preprocessing.image_size == (16, 16)
    ours, theirs = (run.predictor.model.state_dict() for run in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
