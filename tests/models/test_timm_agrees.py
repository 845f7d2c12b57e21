"""timm's networks of the same name, given the same weights, say the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from deitkit.models import create_model, list_models, load_weights

timm = pytest.importorskip("timm")


@torch.no_grad()
def shaken(model):
    """Every parameter and statistic away from its start, where much is 0 or 1."""
    torch.manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif key.endswith("conv3.bn.weight"):
            value.uniform_(0.1, 0.3)
        elif value.ndim == 1 and value.is_floating_point():
            value.add_(0.1 * torch.randn_like(value))
    return model.eval()


def check_same_logits(ours, theirs, images):
    load_weights(ours, theirs.state_dict())
    ours.eval()
    with torch.no_grad():
        output = ours(images)
        if output.dist_logits is None:
            torch.testing.assert_close(output.cls_logits, theirs(images), atol=1e-4, rtol=1e-4)
        else:
            theirs.set_distilled_training(True)
            cls_logits, dist_logits = theirs.train()(images)
            torch.testing.assert_close(output.cls_logits, cls_logits, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(output.dist_logits, dist_logits, atol=1e-4, rtol=1e-4)
    assert output.cls_logits.std() > 0.01


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_deit_tiny(name):
    theirs = shaken(timm.create_model(name))
    check_same_logits(create_model(name), theirs, torch.randn(2, 3, 224, 224))


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("pos_embed_cls", [True, False])
def test_a_small_non_square_deit_with_layer_scale(distilled, pos_embed_cls):
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    family = VisionTransformerDistilled if distilled else VisionTransformer
    shape = {"embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2.5, "qkv_bias": False}
    positions = 24 + (1 + distilled) * pos_embed_cls
    theirs = family(
        img_size=(16, 24),
        patch_size=4,
        in_chans=1,
        num_classes=5,
        init_values=0.2,
        no_embed_class=not pos_embed_cls,
        **shape,
    )
    if theirs.pos_embed.shape[1] != positions:
        # timm's distilled class always makes rows for its tokens; without them they are dropped.
        theirs.pos_embed = torch.nn.Parameter(torch.randn(1, positions, 48) * 0.02)
    ours = create_model(
        "deit_nano_patch4_16",
        image_size=(16, 24),
        in_channels=1,
        num_classes=5,
        distilled=distilled,
        layer_scale=0.5,
        pos_embed_cls=pos_embed_cls,
        **shape,
    )
    check_same_logits(ours, shaken(theirs), torch.randn(3, 1, 16, 24))


@pytest.mark.parametrize("name", ["regnety_002", "regnety_016"])
def test_regnety(name):
    theirs = shaken(timm.create_model(name, num_classes=10, in_chans=2))
    ours = create_model(name, num_classes=10, in_channels=2)
    images = torch.randn(2, 2, 64, 96)
    check_same_logits(ours, theirs, images)
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        torch.testing.assert_close(ours.embed(images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [n for n in list_models() if n.startswith("regnety")])
def test_every_regnety_has_the_tensors_of_timm(name):
    with torch.device("meta"):
        ours, theirs = create_model(name), timm.create_model(name)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]


def imagenet_samples(folder, num_images):
    """The first images at 224 px: short side 256, centre crop, ImageNet mean and deviation."""
    pq = pytest.importorskip("pyarrow.parquet")
    rows = pq.read_table(folder / "imagenet_samples100" / "test.parquet").slice(0, num_images)
    images = []
    for cell in rows.column("image").to_pylist():
        image = Image.open(io.BytesIO(cell["bytes"])).convert("RGB")
        scale = 256 / min(image.size)
        size = [round(side * scale) for side in image.size]
        left, top = ((side - 224) // 2 for side in size)
        image = image.resize(size, Image.Resampling.BICUBIC)
        images.append(np.asarray(image.crop((left, top, left + 224, top + 224))))
    pixels_BHWC = torch.from_numpy(np.stack(images)).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    labels_B = torch.tensor(rows.column("label").to_pylist())
    return ((pixels_BHWC - mean) / std).permute(0, 3, 1, 2), labels_B


def test_the_public_weights_of_deit_tiny_see(shared_data):
    """Published 72.2 % on ImageNet; 79 of these 100 seen by another implementation."""
    path = shared_data / "weights" / "deit_tiny_patch16_224" / "deit_tiny_patch16_224.pth"
    model = create_model("deit_tiny_patch16_224").eval()
    report = load_weights(model, path)
    assert (report.num_params, report.source) == (5_717_416, str(path))
    images, labels = imagenet_samples(shared_data, 100)
    theirs = timm.create_model("deit_tiny_patch16_224").eval()
    theirs.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = torch.cat([model(part).cls_logits for part in images.split(20)])
        torch.testing.assert_close(logits[:3], theirs(images[:3]), atol=1e-4, rtol=1e-4)
    assert (logits.argmax(1) == labels).sum() >= 76
