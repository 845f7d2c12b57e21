"""timm's networks as teachers: every weight from the file, the head above all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deitkit.errors import ConfigError, ModelFileError
from deitkit.teachers import LiveTeacher
from deitkit.training.teacher_source import open_teacher
from tests.training.toy import bits

timm = pytest.importorskip("timm")

CPU = torch.device("cpu")
SMALL = "test_efficientnet"
DISTILLED = "deit_tiny_distilled_patch16_224"


def network(name: str = SMALL, num_classes: int = 5, **more):
    """A timm network whose batch-norm statistics and head are not those of a fresh one."""
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=num_classes, **more)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def some_images(side: int, num: int = 2) -> torch.Tensor:
    return torch.rand((num, 3, side, side), generator=torch.Generator().manual_seed(num))


def saved(model, path: Path) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("wrapped", [False, True], ids=["safetensors", "checkpoint"])
def test_a_file_of_ones_own_gives_the_same_logits(tmp_path, wrapped):
    """Against the network that was saved; also out of a training checkpoint of several ranks."""
    model = network()
    path = tmp_path / "w.safetensors"
    if wrapped:
        path = tmp_path / "w.pth"
        state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
        torch.save({"state_dict": state}, path)
    else:
        saved(model, path)
    teacher = open_teacher(f"timm:{SMALL}@{path}", device=CPU)
    cfg = model.pretrained_cfg
    assert teacher.image_size == tuple(cfg["input_size"][1:])
    assert (teacher.mean, teacher.std) == (tuple(cfg["mean"]), tuple(cfg["std"]))
    assert teacher.crop_ratio == cfg["crop_pct"]
    assert teacher.num_classes == 5 and teacher.class_names is None
    assert teacher.num_params == sum(p.numel() for p in model.parameters())
    images = some_images(160)
    mean, std = (torch.tensor(cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = model((images - mean) / std)
    torch.testing.assert_close(LiveTeacher(teacher)(images), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(teacher.embed(images), features, rtol=1e-4, atol=1e-5)


def test_a_teachers_batch_norm_stays(tmp_path):
    """A.11."""
    teacher = open_teacher(
        f"timm:{SMALL}@{saved(network(), tmp_path / 'w.safetensors')}", device=CPU
    )
    before = bits(teacher.module.state_dict())
    LiveTeacher(teacher)(some_images(160))
    assert bits(teacher.module.state_dict()) == before
    assert not any(module.training for module in teacher.module.modules())
    assert not any(p.requires_grad for p in teacher.module.parameters())


def test_both_heads_of_a_distilled_deit_are_read(tmp_path):
    """timm answers with the mean of both heads; features are what both read, side by side."""
    model = network(DISTILLED, num_classes=7)
    teacher = open_teacher(
        f"timm:{DISTILLED}@{saved(model, tmp_path / 'w.safetensors')}", device=CPU
    )
    images = some_images(224, 1)
    with torch.no_grad():
        torch.testing.assert_close(teacher.call(images), model(images), rtol=1e-4, atol=1e-5)
    assert teacher.embed(images).shape == (1, 2 * 192)
    heads = model.head, model.head_dist
    weight = torch.cat([head.weight for head in heads], dim=1) / 2
    bias = sum(head.bias for head in heads) / 2
    same = teacher.with_head(weight.detach(), bias.detach(), class_names="abcdefg")
    torch.testing.assert_close(same.call(images), teacher.call(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "harm, code, said",
    [
        (lambda w: w.pop("classifier.weight"), "NO_HEAD", "has no classifier.weight"),
        (lambda w: w.pop("classifier.bias"), "MISMATCH", "lacks classifier.bias"),
        (lambda w: w.pop("bn1.running_mean"), "MISMATCH", "lacks bn1.running_mean"),
        (lambda w: w.update(more=torch.ones(1)), "MISMATCH", "has more, which"),
        (
            lambda w: w.update({"classifier.weight": torch.ones(4, 256)}),
            "MISMATCH",
            r"classifier.bias is \[5\], needed \[4\]",
        ),
    ],
    ids=["head", "bias", "buffer", "extra", "shape"],
)
def test_never_a_random_head_or_layer(tmp_path, harm, code, said):
    """timm drops what does not fit and says so in its log; here it is an error (M05)."""
    weights = dict(network().state_dict())
    harm(weights)
    save_file({key: t.contiguous() for key, t in weights.items()}, tmp_path / "w.safetensors")
    with pytest.raises(ModelFileError, match=said) as caught:
        open_teacher(f"timm:{SMALL}@{tmp_path / 'w.safetensors'}", device=CPU)
    assert caught.value.code == code


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def publish(hub: Path, repo: str, model, **config) -> None:
    """As a download would have left it in the cache."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1234")
    saved(model, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps(config))


def test_published_weights_come_from_the_cache_with_imagenets_names(hub):
    """`timm:NAME`: timm's own training of that name, its classes by WordNet number and words."""
    model = network(num_classes=1000)
    publish(hub, "timm/test_efficientnet.r160_in1k", model)
    teacher = open_teacher(f"timm:{SMALL}", device=CPU)
    images = some_images(160)
    with torch.no_grad():
        torch.testing.assert_close(teacher.call(images), model(images), rtol=1e-4, atol=1e-5)
    assert teacher.class_names[0] == "n01440764 tench, Tinca tinca"
    assert not teacher.notes
    # With its tag, or as a file: the same teacher.
    assert open_teacher(f"timm:{SMALL}.r160_in1k", device=CPU).digest == teacher.digest
    (file,) = hub.rglob("model.safetensors")
    assert open_teacher(f"timm:{SMALL}@{file}", device=CPU).digest == teacher.digest


def test_the_papers_teacher_is_meant_by_its_bare_name(hub):
    """timm itself means a later training; init=timm:regnety_160 means the paper's."""
    with pytest.raises(ModelFileError, match="OFFLINE"):
        open_teacher("timm:regnety_160", device=CPU)
    publish(hub, "timm/regnety_160.deit_in1k", network(num_classes=1000))
    with pytest.raises(ModelFileError, match="timm cannot read its own weights"):
        open_teacher("timm:regnety_160", device=CPU)


def test_published_weights_without_a_head_are_refused(hub):
    """timm would fill it with chance."""
    publish(hub, "timm/test_efficientnet.r160_in1k", network(num_classes=0))
    with pytest.raises(ModelFileError, match=r"Missing key.*classifier\.weight"):
        open_teacher(f"timm:{SMALL}", device=CPU)


def test_a_head_that_timm_left_to_chance_is_found_by_its_numbers():
    """The last line of defence, on the model that timm made."""
    from deitkit.teachers.adapters.timm_teacher import _check_head

    model, other = network(), network()
    other.reset_classifier(5)
    weights = dict(model.state_dict())
    _check_head(model, weights, "timm:x")
    shifted = torch.cat([torch.zeros(1, model.classifier.in_features), model.classifier.weight])
    _check_head(model, {"old.name": shifted.detach()}, "timm:x")  # a background class ahead
    with pytest.raises(ModelFileError, match="as chance made it"):
        _check_head(other, weights, "timm:x")
    other.reset_classifier(0)
    with pytest.raises(ModelFileError, match="as chance made it"):
        _check_head(other, weights, "timm:x")


def test_offline_is_one_sentence(hub):
    with pytest.raises(
        ModelFileError, match=r"^\[OFFLINE\] hf:timm/test_vit.r160_in1k: HF_HUB_OFF"
    ):
        open_teacher("timm:test_vit", device=CPU)


@pytest.mark.parametrize(
    "name, said",
    [
        ("resnet5O", "did you mean resnet50"),
        ("resnet50.nope", "choose among .*resnet50.a1_in1k"),
        ("test_vit4", "test_vit4"),
    ],
)
def test_names_that_timm_does_not_know(name, said):
    with pytest.raises(ConfigError, match=said):
        open_teacher(f"timm:{name}", device=CPU)


def test_class_names_beside_the_weights_win(tmp_path):
    saved(network(), tmp_path / "model.safetensors")
    config = {"pretrained_cfg": {"label_names": list("vwxyz")}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    teacher = open_teacher(f"timm:{SMALL}@{tmp_path}", device=CPU)
    assert teacher.class_names == tuple("vwxyz")
    assert "preprocessing: that of timm's" in teacher.notes[0]


def test_a_thousand_classes_are_taken_for_imagenets_and_it_says_so(tmp_path):
    path = saved(network(num_classes=1000), tmp_path / "w.safetensors")
    teacher = open_teacher(f"timm:{SMALL}@{path}", device=CPU)
    assert teacher.class_names[217].startswith("n02102040 English springer")
    assert "taken to be ImageNet's" in teacher.notes[-1]
