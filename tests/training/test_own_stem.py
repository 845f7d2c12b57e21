"""A student's stem that begins as its teacher's first stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deitkit.data.preprocess import Preprocessing
from deitkit.errors import ConfigError
from deitkit.models import ImageModel, create_model
from deitkit.teachers import Classifier
from deitkit.training.own_stem import inherit_stem

SPEC = Preprocessing(image_size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)


def student(**more: Any) -> ImageModel:
    torch.manual_seed(0)
    settings = {"embed_dim": 32, "num_heads": 2, "depth": 1, "stem": "pooling", **more}
    settings = {"stem_width": 16, **settings}
    return create_model("deit_nano_distilled_patch4_32", num_classes=5, **settings)


def teacher(name: str = "quick_cnn_narrow", *, side: int = 32, mean: float = 0.5) -> Classifier:
    torch.manual_seed(1)
    network = create_model(name, num_classes=5, image_size=side)
    network.train()(torch.rand(8, 3, side, side))
    return Classifier.from_module(
        network,
        kind="test",
        settings={},
        name=name,
        num_classes=5,
        image_size=(side, side),
        mean=(mean,) * 3,
        std=(0.25,) * 3,
        device=torch.device("cpu"),
    )


def test_the_stem_then_computes_what_the_teacher_computes():
    """Weights and statistics: both in evaluation give the same map before the projection."""
    ours, theirs = student().eval(), teacher()
    said = inherit_stem(ours, theirs, SPEC, asked="fitting")
    # 3x3 kernels of 24x16, 16x16, 16x64 and 64x64, and two norms a block.
    num = 9 * (24 * 16 + 16 * 16 + 16 * 64 + 64 * 64) + 4 * 16 + 4 * 64
    assert said == f"the stem begins as the first stages of the teacher ({num:,} weights)"
    images = torch.rand(2, 3, 32, 32)
    network = theirs.module
    expected = network.blocks[:2](network.stem(images))
    stem = ours.patch_embed
    torch.testing.assert_close(stem.blocks(stem.stem(images)), expected)


def test_a_hybrid_begins_as_all_stages_of_the_teacher():
    ours = student(patch_size=8, stem_blocks=3).eval()
    theirs = teacher()
    assert inherit_stem(ours, theirs, SPEC, asked="teacher") is not None
    images = torch.rand(2, 3, 32, 32)
    stem = ours.patch_embed
    last_map = theirs.module.forward_features(images)
    assert last_map.shape[2:] == ours.grid_size
    torch.testing.assert_close(stem.blocks(stem.stem(images)), last_map)


def test_what_the_student_learns_stays_its_own():
    ours, theirs = student(), teacher()
    inherit_stem(ours, theirs, SPEC, asked="teacher")
    before = theirs.module.blocks[0].conv1.weight.clone()
    assert ours.patch_embed.blocks[0].conv1.weight.requires_grad
    with torch.no_grad():
        ours.patch_embed.blocks[0].conv1.weight.add_(1.0)
    assert torch.equal(theirs.module.blocks[0].conv1.weight, before)


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        (lambda: student(stem="conv"), teacher, "has no pooling stem"),
        (student, lambda: None, "is no quick_cnn"),
        (student, lambda: teacher(side=16), "sees another image size"),
        (student, lambda: teacher(mean=0.4), "normalised by other numbers"),
        (student, lambda: teacher("quick_cnn"), "with 32 channels at stride 1, the student"),
    ],
)
def test_where_it_cannot_fitting_leaves_it_new_and_asking_is_an_error(ours, theirs, why):
    model, classifier = ours(), theirs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert inherit_stem(model, classifier, SPEC, asked="fitting") is None
    with pytest.raises(ConfigError, match=why) as caught:
        inherit_stem(model, classifier, SPEC, asked="teacher")
    assert caught.value.code == "INIT_STEM"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_new_leaves_it_new():
    ours = student()
    before = ours.patch_embed.blocks[0].conv1.weight.clone()
    assert inherit_stem(ours, teacher(), SPEC, asked="new") is None
    assert torch.equal(ours.patch_embed.blocks[0].conv1.weight, before)
