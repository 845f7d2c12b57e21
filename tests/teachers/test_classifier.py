"""Any module or function as a teacher: frozen, checked, named by its content."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deitkit.errors import ConfigError, ModelFileError
from deitkit.evaluation.logits import fuse
from deitkit.flow import StudentOutput
from deitkit.models import create_model
from deitkit.teachers import Classifier, LiveTeacher
from deitkit.teachers.digests import teacher_digest
from deitkit.teachers.outputs import fused_logits
from tests.training.toy import ConvTeacher, bits

LEVELS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


def some_images(num: int = 3, side: int = 16) -> torch.Tensor:
    return torch.rand((num, 3, side, side), generator=torch.Generator().manual_seed(num))


def python_teacher(ask, **more):
    settings = {"name": "mine", "version": "1", "image_size": 16, **LEVELS} | more
    return Classifier.from_callable(ask, **settings)


class Noisy(nn.Module):
    """A linear network of the mean colour, with a dropout and a batch norm to be left training."""

    def __init__(self, *, dropout: float = 0.0, batch_norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.BatchNorm1d(3) if batch_norm else nn.Identity()
        self.head = nn.Linear(3, 4)

    def forward(self, images):
        return self.head(self.norm(self.dropout(images.mean(dim=(2, 3)))))


# Frozen.


def test_a_module_is_frozen_and_its_batch_norm_stays():
    """A.11: eval mode, no gradient, the buffers' very bits, also while it is made and asked."""
    module = ConvTeacher().train()
    before = bits(module.state_dict())
    teacher = python_teacher(module)
    live = LiveTeacher(teacher)
    for _ in range(3):
        assert not live(some_images()).requires_grad
        assert not teacher.embed(some_images()).requires_grad
    assert bits(module.state_dict()) == before
    assert not any(part.training for part in module.modules())
    assert all(not p.requires_grad for p in module.parameters())


def test_one_part_in_training_mode_is_enough_to_refuse():
    module = ConvTeacher()
    live = LiveTeacher(python_teacher(module))
    module.norm.train()
    with pytest.raises(AssertionError, match="training mode"):
        live(some_images())


@pytest.mark.parametrize(
    "network", [Noisy(dropout=0.5), Noisy(batch_norm=True)], ids=["dropout", "batch_norm"]
)
def test_a_function_around_a_training_network_is_found_out(network):
    """Nobody can see the mode of what a function calls; its answers tell."""
    with pytest.raises(ModelFileError, match=r"\[TEACHER_OUTPUT\] mine: its answer.*evaluation"):
        python_teacher(lambda images: network.train()(images))
    frozen = network.eval()
    assert python_teacher(lambda images: frozen(images)).num_classes == 4


# What it may return.


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda images: images, r"it gives \[2, 3, 16, 16\] for 2 images"),
        (lambda images: images.mean(dim=(2, 3))[:1], r"it gives \[1, 3\] for 2 images"),
        (lambda images: images.mean(dim=(1, 2, 3))[:, None], r"it gives \[2, 1\]"),
        (lambda images: images.mean(dim=(2, 3)) / 0, "NaN or infinity"),
        (lambda images: (images.mean(dim=(2, 3)),), "it returns tuple"),
        (lambda images: None, "it returns NoneType"),
    ],
)
def test_anything_but_logits_is_refused_before_training(answer, why):
    """K11: the wrong shape or values are told at once."""
    with pytest.raises(ModelFileError, match=why) as caught:
        python_teacher(answer)
    assert caught.value.code == "TEACHER_OUTPUT"


def test_another_width_later_on_is_refused():
    """K11."""
    widths = iter([4, 4, 5])
    teacher = python_teacher(lambda images: torch.ones(len(images), next(widths)))
    with pytest.raises(ModelFileError, match=r"it gives \[64, 5\] for 64 images of 4 classes"):
        LiveTeacher(teacher, block_size=64)(some_images())


@pytest.mark.parametrize("fusion", ["mean", "softmax", "cls", "dist", "fitted"])
def test_two_heads_are_fused_as_predictions_are(fusion):
    """Against evaluation's own arithmetic, in numpy."""
    cls, dist = (torch.randn((7, 5), generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    expected = fuse(cls.numpy(), dist.numpy(), fusion=fusion, temperature=1.7, weight=0.3)
    got = fused_logits(StudentOutput(cls, dist), fusion=fusion, temperature=1.7, weight=0.3)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)
    one = fused_logits(StudentOutput(cls, None), fusion=fusion, temperature=1.7, weight=0.3)
    np.testing.assert_allclose(one.numpy(), cls.numpy() / 1.7, rtol=1e-6)


def test_an_output_with_logits_is_one_of_transformers():
    class Output:
        logits = torch.ones(2, 3)

    assert fused_logits(Output()) is Output.logits


# What it must be told.


@pytest.mark.parametrize(
    "wrong, code",
    [
        ({"version": ""}, "TEACHER_NAME"),
        ({"name": ""}, "TEACHER_NAME"),
        ({"std": (0.0, 0.1, 0.1)}, "TEACHER_PREPROCESSING"),
        ({"std": (0.1, 0.1)}, "TEACHER_PREPROCESSING"),
        ({"mean": (float("nan"), 0.1, 0.1)}, "TEACHER_PREPROCESSING"),
        ({"crop_ratio": 0.0}, "TEACHER_PREPROCESSING"),
        ({"resize": "stretch"}, "TEACHER_PREPROCESSING"),
    ],
)
def test_settings_that_cannot_be_right(wrong, code):
    with pytest.raises(ConfigError) as caught:
        python_teacher(ConvTeacher(), **wrong)
    assert caught.value.code == code


def test_as_many_names_as_logits():
    with pytest.raises(ModelFileError, match="2 classes have names, it gives 3 logits"):
        python_teacher(ConvTeacher(), class_names=["a", "b"])
    assert python_teacher(ConvTeacher(), class_names=["a", "b", "c"]).class_names == tuple("abc")


# How it computes.


def network_teacher(name: str, **more):
    """A network of ours with weights unlike those of a fresh one, and a copy as it was made."""
    torch.manual_seed(2)
    network = create_model(name, num_classes=5, image_size=32, **more).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    plain = copy.deepcopy(network)
    settings = {
        "name": name,
        "num_classes": 5,
        "image_size": (32, 32),
        "device": torch.device("cpu"),
    }
    teacher = Classifier.from_module(network, kind="test", settings={}, **settings, **LEVELS)
    return teacher, plain


@pytest.mark.parametrize("name", ["regnety_002", "small_cnn"])
def test_a_convolutional_network_answers_alike_with_its_channels_side_by_side(name):
    """Against the same weights in torch's usual order; in blocks of one size still bit for bit."""
    teacher, plain = network_teacher(name)
    seen = []

    def hook(module, args, out):
        seen.append(out.is_contiguous(memory_format=torch.channels_last))

    for module in teacher.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(hook)
    images = some_images(5, side=32)
    with torch.no_grad():
        got, expected = teacher.call(images), plain(images).cls_logits
    assert len(seen) > 3 and all(seen)
    assert expected.std() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    live = LiveTeacher(teacher, block_size=4)
    assert torch.equal(live(images)[:3], live(images[:3]))


def test_how_a_convolutional_network_computes_is_part_of_its_digest():
    """Stored answers of the other order are other bits."""
    teacher, plain = network_teacher("small_cnn")
    seen = {"image_size": (32, 32), **LEVELS}
    assert teacher.digest != teacher_digest("test", seen, module=plain)
    layout = {"layout": "channels_last"}
    assert teacher.digest == teacher_digest("test", seen | layout, module=plain)


def test_a_transformer_computes_as_ever():
    teacher, plain = network_teacher("deit_nano_patch8_32")
    weight = teacher.module.patch_embed.proj.weight
    assert weight.stride() == plain.patch_embed.proj.weight.stride()
    assert teacher.digest == teacher_digest(
        "test", {"image_size": (32, 32), **LEVELS}, module=plain
    )


# The digest.


def test_the_digest_is_of_content_and_settings():
    """K01: the same network gives the same digest; each thing that decides logits, another."""
    first = python_teacher(ConvTeacher()).digest
    assert first == python_teacher(ConvTeacher()).digest and len(first) == 32
    changed_weight, changed_buffer, strided = ConvTeacher(), ConvTeacher(), ConvTeacher()
    changed_weight.head.weight.data[0, 0] += 1e-3
    changed_buffer.norm.running_mean[0] += 1e-3
    strided.conv.stride = (2, 2)  # no tensor tells
    others = [
        python_teacher(changed_weight),
        python_teacher(changed_buffer),
        python_teacher(strided),
        python_teacher(ConvTeacher(), name="other"),
        python_teacher(ConvTeacher(), version="2"),
        python_teacher(ConvTeacher(), image_size=(16, 20)),
        python_teacher(ConvTeacher(), mean=(0.4, 0.5, 0.61)),
        python_teacher(ConvTeacher(), std=(0.2, 0.25, 0.31)),
    ]
    digests = [first, *(other.digest for other in others)]
    assert len(set(digests)) == len(digests)
    # What the classes are called changes no logit.
    assert python_teacher(ConvTeacher(), class_names="xyz").digest == first


def test_a_functions_digest_is_its_name_and_version():
    """Whatever process it is in, and wherever the function lies in memory."""
    digests = {python_teacher(lambda x: x.mean(dim=(2, 3)), name="f").digest for _ in range(3)}
    assert len(digests) == 1
    assert python_teacher(lambda x: x.mean(dim=(2, 3)), name="f", version="2").digest not in digests


def test_other_columns_are_another_teacher():
    """K04: logits are stored in the user's order of classes."""
    teacher = python_teacher(ConvTeacher())
    digests = {LiveTeacher(teacher, class_columns=c).digest for c in ([0, 1, 2], [2, 0, 1], [1])}
    assert len(digests) == 3
    assert LiveTeacher(teacher).digest == LiveTeacher(teacher, class_columns=[0, 1, 2]).digest


# Features, and a head on them.


class TwoHeads(nn.Module):
    """As a distilled DeiT of others: the mean of two linear heads on two vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Linear(3, 5)  # as wide as the classes, but no head
        self.head, self.head_dist = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, images):
        x = self.body(images.mean(dim=(2, 3)))
        return (self.head(x) + self.head_dist(x.tanh())) / 2


class ConvHead(nn.Module):
    """Classes by a convolution of one pixel, and the mean of its map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, images):
        return self.head(self.conv(images).relu()).mean(dim=(2, 3))


class NoHead(nn.Module):
    """Classes by the distance to prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.eye(3))

    def forward(self, images):
        return -torch.cdist(images.mean(dim=(2, 3)), self.prototypes)


def features_by_hand(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What each network's head reads, written out once more."""
    if isinstance(module, ConvTeacher):
        return torch.relu(module.norm(module.conv(images))).mean(dim=(2, 3))
    if isinstance(module, ConvHead):
        return module.conv(images).relu().mean(dim=(2, 3))
    if isinstance(module, TwoHeads):
        return module.body(images.mean(dim=(2, 3))).tanh()
    return module(images)


@pytest.mark.parametrize("kind", [ConvTeacher, ConvHead, TwoHeads, NoHead])
def test_features_are_what_the_last_layer_reads(kind):
    """Two heads beside a body of the same width: the last one's, unless their mean answers."""
    module = kind()
    teacher = python_teacher(module)
    for images in (some_images(3), some_images(4)):
        torch.testing.assert_close(teacher.embed(images), features_by_hand(module, images))
    assert not any(part._forward_hooks for part in module.modules())


def test_features_of_two_heads_stand_side_by_side():
    """The heads of a model like timm's distilled DeiT, where nothing else is as wide."""

    class Distilled(TwoHeads):
        def forward(self, images):
            x = images.mean(dim=(2, 3)) @ torch.ones(3, 5)
            return (self.head(x) + self.head_dist(x.tanh())) / 2

    images = some_images(3)
    x = images.mean(dim=(2, 3)) @ torch.ones(3, 5)
    expected = torch.cat([x, x.tanh()], dim=1)
    torch.testing.assert_close(python_teacher(Distilled()).embed(images), expected)


def test_features_may_be_given():
    teacher = python_teacher(
        lambda images: images.mean(dim=(2, 3)), features=lambda images: images.amax(dim=(2, 3))
    )
    assert torch.equal(teacher.embed(some_images()), some_images().amax(dim=(2, 3)))
    without = python_teacher(lambda images: images.mean(dim=(2, 3)))
    assert without.features is None
    assert torch.equal(without.embed(some_images()), without.call(some_images()))


def test_a_new_head_reads_the_features():
    """logits = W f + b, and it is another teacher now."""
    module = ConvTeacher()
    teacher = python_teacher(module, class_names="abc")
    weight, bias = torch.randn(2, 8), torch.randn(2)
    refitted = teacher.with_head(weight, bias, class_names=["cat", "dog"])
    expected = F.linear(features_by_hand(module, some_images()), weight, bias)
    torch.testing.assert_close(refitted.call(some_images()), expected)
    assert refitted.num_classes == 2 and refitted.class_names == ("cat", "dog")
    again = teacher.with_head(weight, bias, class_names=["cat", "dog"])
    other = teacher.with_head(weight + 1e-3, bias, class_names=["cat", "dog"])
    assert again.digest == refitted.digest
    assert len({teacher.digest, refitted.digest, other.digest}) == 3
    normalised = (some_images() - torch.tensor(LEVELS["mean"]).view(3, 1, 1)) / torch.tensor(
        LEVELS["std"]
    ).view(3, 1, 1)
    torch.testing.assert_close(
        LiveTeacher(refitted)(some_images()), refitted.call(normalised), rtol=1e-4, atol=1e-5
    )


def test_the_heads_own_numbers_give_its_own_logits():
    """A head refitted to what the network has is the network: features are the right ones."""
    model = create_model("deit_nano_patch4_16", num_classes=3, depth=2).eval()
    teacher = python_teacher(model)
    same = teacher.with_head(model.head.weight, model.head.bias, class_names="abc")
    torch.testing.assert_close(same.call(some_images()), teacher.call(some_images()))


# A place.


def test_images_go_to_the_teacher_and_logits_come_back():
    """The meta device stands for a student on another device than a function of the CPU."""
    teacher = python_teacher(lambda images: images.mean(dim=(2, 3)))
    assert teacher.on(torch.device("meta")) is teacher
    module = copy.deepcopy(ConvTeacher())
    moved = python_teacher(module).on(torch.device("meta"))
    assert moved.device.type == "meta" == module.head.weight.device.type


def test_probabilities_are_no_logits():
    """Distilling with a temperature would take them for nearly equal logits."""
    with pytest.raises(ModelFileError, match="it gives probabilities"):
        python_teacher(lambda images: images.mean(dim=(2, 3)).softmax(dim=1))
    assert (
        python_teacher(lambda images: images.mean(dim=(2, 3)).log_softmax(dim=1)).num_classes == 3
    )
