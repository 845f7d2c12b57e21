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
    settings = {"embed_dim": 32, "num_heads": 2, "depth": 1, "stem": "residual", **more}
    settings = {"stem_width": 16, **settings}
    return create_model("deit_nano_distilled_patch4_32", num_classes=5, **settings)


def teacher(name: str = "small_cnn", *, side: int = 32, mean: float = 0.5) -> Classifier:
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
    # 5x5x3x16 and a norm of 2x16; two 3x3 of 16x16; 16x32, 32x32 of 3x3, a 1x1; two norms a block
    # and one of the shortcut.
    num = 1200 + 32 + 2 * 2304 + 64 + 4608 + 9216 + 512 + 128 + 64
    assert said == f"the stem begins as the first stages of the teacher ({num:,} weights)"
    images = torch.rand(2, 3, 32, 32)
    network = theirs.module
    expected = network.blocks[:2](torch.relu(network.stem(images)))
    stem = ours.patch_embed
    torch.testing.assert_close(stem.blocks(torch.relu(stem.stem(images))), expected)


def test_what_the_student_learns_stays_its_own():
    ours, theirs = student(), teacher()
    inherit_stem(ours, theirs, SPEC, asked="teacher")
    before = theirs.module.stem[0].weight.clone()
    assert ours.patch_embed.stem[0].weight.requires_grad
    with torch.no_grad():
        ours.patch_embed.stem[0].weight.add_(1.0)
    assert torch.equal(theirs.module.stem[0].weight, before)


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        (lambda: student(stem="conv"), teacher, "has no residual stem"),
        (student, lambda: None, "is no small_cnn"),
        (student, lambda: teacher(side=16), "sees another image size"),
        (student, lambda: teacher(mean=0.4), "normalised by other numbers"),
        (student, lambda: teacher("small_cnn_wide"), "with 32 channels at stride 2, the student"),
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
    before = ours.patch_embed.stem[0].weight.clone()
    assert inherit_stem(ours, teacher(), SPEC, asked="new") is None
    assert torch.equal(ours.patch_embed.stem[0].weight, before)
