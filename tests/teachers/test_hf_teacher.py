"""Image classifiers of transformers as teachers, from a folder or the hub's cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deitkit.errors import ConfigError, ModelFileError
from deitkit.teachers import LiveTeacher
from deitkit.training.teacher_source import open_teacher

transformers = pytest.importorskip("transformers")

CPU = torch.device("cpu")
PROCESSOR = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
}
NAMES = {0: "cat", 1: "dog", 2: "bird"}
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


def vit():
    config = transformers.ViTConfig(**SHAPE, id2label=NAMES, label2id={})
    return transformers.ViTForImageClassification(config)


def distilled_deit():
    config = transformers.DeiTConfig(**SHAPE, id2label=NAMES, label2id={})
    return transformers.DeiTForImageClassificationWithTeacher(config)


def resnet():
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12],
        depths=[1, 1],
        layer_type="basic",
        id2label=NAMES,
        label2id={},
    )
    model = transformers.ResNetForImageClassification(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def folder_of(make, path: Path) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(4)
    model = make().eval()
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model, path


def some_images(num: int = 2) -> torch.Tensor:
    return torch.rand((num, 3, 32, 32), generator=torch.Generator().manual_seed(num))


@pytest.mark.parametrize("make", [vit, distilled_deit, resnet])
def test_a_folder_gives_transformers_own_logits(make, tmp_path):
    """The distilled DeiT with both its heads: its checkpoints say so, and are believed."""
    model, folder = folder_of(make, tmp_path)
    teacher = open_teacher(f"hf:{folder}", device=CPU)
    images = some_images()
    mean, std = (torch.tensor(PROCESSOR[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    with torch.no_grad():
        expected = model(pixel_values=(images - mean) / std).logits
    torch.testing.assert_close(LiveTeacher(teacher)(images), expected, rtol=1e-4, atol=1e-5)
    assert teacher.class_names == ("cat", "dog", "bird")
    assert teacher.image_size == (32, 32) and teacher.resize == "squash"
    assert teacher.num_params == sum(p.numel() for p in model.parameters())
    assert not any(part.training for part in teacher.module.modules())
    width = {"vit": 16, "distilled_deit": 32, "resnet": 12}[make.__name__]
    assert teacher.embed(images).shape == (2, width)


def test_features_are_what_the_classifier_reads(tmp_path):
    model, folder = folder_of(vit, tmp_path)
    teacher = open_teacher(f"hf:{folder}", device=CPU)
    same = teacher.with_head(
        model.classifier.weight.detach(), model.classifier.bias.detach(), class_names=NAMES.values()
    )
    torch.testing.assert_close(same.call(some_images()), teacher.call(some_images()))


def harmed(folder: Path, harm) -> None:
    weights = load_file(folder / "model.safetensors")
    harm(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "harm, code",
    [
        (lambda w: [w.pop("classifier.weight"), w.pop("classifier.bias")], "NO_HEAD"),
        (
            lambda w: w.update({"classifier.weight": torch.ones(7, 16)}),
            "NO_HEAD",
        ),
        (lambda w: w.pop("vit.layernorm.weight"), "MISMATCH"),
    ],
    ids=["no head", "head of others", "layer"],
)
def test_never_a_random_head_or_layer(tmp_path, harm, code):
    """transformers fills them with chance and prints a table."""
    _, folder = folder_of(vit, tmp_path)
    harmed(folder, harm)
    with pytest.raises(ModelFileError) as caught:
        open_teacher(f"hf:{folder}", device=CPU)
    assert caught.value.code == code


def test_a_pickle_that_would_run_code_is_never_opened(tmp_path):
    """M01: the weights go through our reader, whatever transformers would do."""
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (Path.write_text, (canary, "boom"))

    _, folder = folder_of(vit, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"classifier.weight": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="UNSAFE"):
        open_teacher(f"hf:{folder}", device=CPU)
    assert not canary.exists()


def test_code_beside_the_weights_is_never_run(tmp_path):
    """M10."""
    canary = tmp_path / "canary"
    _, folder = folder_of(vit, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {
        "AutoConfig": "code.OwnConfig",
        "AutoModelForImageClassification": "code.OwnModel",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(ModelFileError, match="BAD_CONFIG"):
        open_teacher(f"hf:{folder}", device=CPU)
    assert not canary.exists()


def test_a_model_that_classifies_no_images_is_refused(tmp_path):
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match="makes no image classifier of it"):
        open_teacher(f"hf:{tmp_path}", device=CPU)


def test_without_a_processor_imagenets_numbers_are_taken_and_it_says_so(tmp_path):
    _, folder = folder_of(vit, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    teacher = open_teacher(f"hf:{folder}", device=CPU)
    assert teacher.image_size == (32, 32) and teacher.mean == (0.485, 0.456, 0.406)
    assert "ImageNet's is taken" in teacher.notes[0]


def test_nothing_is_printed(tmp_path, capfd):
    """Only reporting and the command line print."""
    _, folder = folder_of(vit, tmp_path)
    capfd.readouterr()
    open_teacher(f"hf:{folder}", device=CPU)
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_the_prefix_gets_a_hint(tmp_path):
    _, folder = folder_of(vit, tmp_path)
    with pytest.raises(ModelFileError, match=f"try teacher=hf:{folder}"):
        open_teacher(str(folder), device=CPU)


@pytest.mark.parametrize("text", ["hf:", "hf:nothere", "hf:./nothere/", "hf:a/b/c"])
def test_names_that_cannot_be_on_the_hub(text):
    with pytest.raises(ConfigError, match="TEACHER_NAME"):
        open_teacher(text, device=CPU)


def test_offline_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelFileError, match=r"^\[OFFLINE\] hf:google/vit: HF_HUB_OFFLINE is set"):
        open_teacher("hf:google/vit", device=CPU)
