"""RegNetY's widths by the paper, and the small network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deitkit.errors import DataError
from deitkit.models import create_model
from deitkit.models.regnet import REGNETY, stage_shapes


@pytest.mark.parametrize(
    ("name", "depths", "widths"),
    [
        # Tables of arXiv:2003.13678 as its authors' model zoo lists them.
        ("regnety_002", [1, 1, 4, 7], [24, 56, 152, 368]),
        ("regnety_016", [2, 6, 17, 2], [48, 120, 336, 888]),
        ("regnety_040", [2, 6, 12, 2], [128, 192, 512, 1088]),
        ("regnety_160", [2, 4, 11, 1], [224, 448, 1232, 3024]),
    ],
)
def test_stages_are_those_published(name, depths, widths):
    stages = stage_shapes(**REGNETY[name])
    assert [stage.depth for stage in stages] == depths
    assert [stage.width for stage in stages] == widths


def test_regnety_starts_with_silent_branches_and_fan_out_convolutions():
    torch.manual_seed(0)
    model = create_model("regnety_002", num_classes=10)
    block = model.get_submodule("s4.b2")
    assert block.conv3.bn.weight.abs().max() == 0
    x_BCHW = torch.rand(2, 368, 4, 4)
    torch.testing.assert_close(block(x_BCHW), x_BCHW)
    # 3x3 in groups of 8: each input channel reaches 8 x 9 outputs.
    assert block.conv2.conv.weight.std().item() == pytest.approx(math.sqrt(2 / 72), rel=0.03)


@pytest.mark.parametrize("side", [8, 16, 28, 32, 48, 64])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_the_small_network_keeps_a_map_at_every_size(side, in_channels):
    """The stem brings 8 to 64 px to 8 to 16; two halvings later 2 to 4 remain."""
    model = create_model("small_cnn", num_classes=4, image_size=side, in_channels=in_channels)
    features = model.eval().forward_features(torch.zeros(1, in_channels, side, side))
    assert features.shape[1] == 64
    assert 2 <= features.shape[2] <= 4 and features.shape[2] == features.shape[3]
    assert sum(p.numel() for p in model.parameters()) < 110_000


def test_the_small_network_misses_no_pixel():
    for side in (8, 28, 32, 64):
        model = create_model("small_cnn", num_classes=4, image_size=side, in_channels=1).train()
        images = torch.randn(4, 1, side, side, requires_grad=True)
        model.stem[0](images).square().sum().backward()
        assert (images.grad.abs().sum(0) > 0).all()


def test_the_small_network_learns_the_scanned_digits():
    """Known data, known level: a support vector machine has about 99 % on shuffled digits."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    torch.manual_seed(0)
    images = (torch.tensor(digits.images, dtype=torch.float32)[:, None] - 4.9) / 6
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels))
    train, test = order[:1437], order[1437:]
    model = create_model("small_cnn", num_classes=10, image_size=8, in_channels=1)
    num_steps, batch_size = 22 * 8, 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, num_steps)
    for step in range(num_steps):
        if step % 22 == 0:
            train = train[torch.randperm(len(train))]
        batch = train[(step % 22) * batch_size :][:batch_size]
        loss = F.cross_entropy(model(images[batch]).cls_logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        predicted = model.eval()(images[test]).cls_logits.argmax(1)
    assert (predicted == labels[test]).float().mean() >= 0.975


def test_batch_norm_is_the_only_tie_between_images():
    torch.manual_seed(0)
    model = create_model("small_cnn", num_classes=4).eval()
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    images = torch.randn(3, 3, 32, 32)
    alone = torch.cat([model(image[None]).cls_logits for image in images])
    torch.testing.assert_close(model(images).cls_logits, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["small_cnn", "regnety_002"])
def test_wrong_channels_are_refused(name):
    with pytest.raises(DataError, match="in_channels=1"):
        create_model(name, num_classes=2)(torch.zeros(1, 1, 32, 32))
