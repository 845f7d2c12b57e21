"""Public names of weights, recognised by content and given timm's."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from deitkit.errors import ModelFileError
from deitkit.models import create_model, load_weights
from deitkit.models.inferred import infer_architecture
from deitkit.models.weight_formats import rename_weights
from deitkit.models.weight_source import describe_source

SMALL = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}


def small_deit(**overrides):
    torch.manual_seed(3)
    model = create_model("deit_nano_patch4_16", **{"num_classes": 5, **SMALL, **overrides})
    return shaken(model)


@torch.no_grad()
def shaken(model):
    """Every parameter away from its start, where much is 0 or 1."""
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


# timm -> the other spellings, written down a second time.

TUTORIAL_NAMES = [
    (r"patch_embed\.proj\.", "patch_embedding.patch_embedding."),
    (r"cls_token", "patch_embedding.class_token"),
    (r"dist_token", "patch_embedding.distill_token"),
    (r"pos_embed", "patch_embedding.position_embedding"),
    (r"blocks\.(\d+)\.norm1\.", r"encoder.layers.\1.attn_norm."),
    (r"blocks\.(\d+)\.norm2\.", r"encoder.layers.\1.mlp_norm."),
    (r"blocks\.", "encoder.layers."),
    (r"norm\.", "encoder.norm."),
    (r"head_dist\.", "head_distill."),
]
OLD_HF_NAMES = [
    (r"patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"cls_token", "embeddings.cls_token"),
    (r"dist_token", "embeddings.distillation_token"),
    (r"pos_embed", "embeddings.position_embeddings"),
    (r"blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
    (r"blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
    (r"norm\.", "layernorm."),
]


def spelt(state, names):
    renamed = {}
    for key, tensor in state.items():
        for pattern, target in names:
            if re.match(pattern, key):
                key = re.sub("^" + pattern, target, key)
                break
        renamed[key] = tensor
    return renamed


def in_tutorial_names(state):
    return spelt(state, TUTORIAL_NAMES)


def in_old_hf_names(state):
    distilled = "dist_token" in state
    parts = {}
    for key, tensor in state.items():
        block = re.match(r"blocks\.(\d+)\.attn\.qkv\.(.+)", key)
        if block:
            for which, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                name = f"encoder.layer.{block[1]}.attention.attention.{which}.{block[2]}"
                parts[name] = part.contiguous()
        else:
            parts[key] = tensor
    root = "deit." if distilled else "vit."
    named = {}
    for key, tensor in spelt(parts, OLD_HF_NAMES).items():
        if key.startswith("head_dist."):
            key = key.replace("head_dist.", "distillation_classifier.")
        elif key.startswith("head."):
            key = key.replace("head.", "cls_classifier." if distilled else "classifier.")
        else:
            key = root + key
        named[key] = tensor
    return named


SPELLINGS = {
    "timm": lambda state: dict(state),
    "hf": in_old_hf_names,
    "tutorial": in_tutorial_names,
}


@pytest.mark.parametrize("format", SPELLINGS)
@settings(max_examples=12, deadline=None)
@given(
    depth=st.integers(1, 12),
    distilled=st.booleans(),
    qkv_bias=st.booleans(),
    prefix=st.sampled_from(["", "module.", "_orig_mod.", "model.", "module._orig_mod."]),
    seed=st.integers(0, 999),
)
def test_renamed_and_loaded_is_the_identity(format, depth, distilled, qkv_bias, prefix, seed):
    torch.manual_seed(seed)
    shape = {**SMALL, "depth": depth, "distilled": distilled, "qkv_bias": qkv_bias}
    theirs = shaken(create_model("deit_nano_patch4_16", num_classes=5, **shape))
    ours = create_model("deit_nano_patch4_16", num_classes=5, **shape)
    source = {prefix + k: v for k, v in SPELLINGS[format](theirs.state_dict()).items()}
    assert format == "timm" or "blocks.0.norm1.weight" not in source
    report = load_weights(ours, source)
    assert report.format == format
    assert set(report.used) == set(theirs.state_dict()) and not report.missing
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def test_the_order_of_queries_keys_and_values():
    """Row blocks of qkv are q, k, v: filled with 1, 2 and 3 here."""
    state = in_old_hf_names(small_deit().state_dict())
    for value, which in enumerate(("query", "key", "value"), start=1):
        state[f"vit.encoder.layer.1.attention.attention.{which}.bias"].fill_(value)
    tensors = rename_weights(state, "x").tensors
    assert tensors["blocks.1.attn.qkv.bias"].tolist() == [1.0] * 24 + [2.0] * 24 + [3.0] * 24


# The tutorial network, as its parameter names tell it.


class TutorialLayer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.attn_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn.proj = nn.Linear(dim, dim)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.heads = heads

    def forward(self, x):
        batch, tokens, dim = x.shape
        parts = self.attn.qkv(self.attn_norm(x)).chunk(3, dim=-1)
        q, k, v = (p.view(batch, tokens, self.heads, -1).transpose(1, 2) for p in parts)
        weights = (q @ k.transpose(2, 3) / (dim // self.heads) ** 0.5).softmax(-1)
        x = x + self.attn.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))
        return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.mlp_norm(x))))


class TutorialNet(nn.Module):
    def __init__(self, side=16, patch=4, dim=32, depth=3, heads=4, classes=6):
        super().__init__()
        embed = self.patch_embedding = nn.Module()
        embed.patch_embedding = nn.Conv2d(3, dim, patch, patch)
        embed.class_token = nn.Parameter(torch.ones(1, 1, dim))
        embed.distill_token = nn.Parameter(torch.zeros(1, 1, dim))
        embed.position_embedding = nn.Parameter(torch.randn(1, 2 + (side // patch) ** 2, dim))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(TutorialLayer(dim, heads) for _ in range(depth))
        self.encoder.norm = nn.LayerNorm(dim)
        self.head, self.head_distill = nn.Linear(dim, classes), nn.Linear(dim, classes)

    def forward(self, images):
        embed = self.patch_embedding
        patches = embed.patch_embedding(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([embed.class_token, embed.distill_token], 1)
        x = torch.cat([tokens.expand(len(images), -1, -1), patches], 1)
        x = x + embed.position_embedding
        for layer in self.encoder.layers:
            x = layer(x)
        x = self.encoder.norm(x)
        return self.head(x[:, 0]), self.head_distill(x[:, 1])


@torch.no_grad()
def test_the_tutorial_network_says_the_same_here(tmp_path):
    torch.manual_seed(0)
    theirs = shaken(TutorialNet())
    path = tmp_path / "tutorial.pth"
    torch.save(theirs.state_dict(), path)
    source = describe_source(path)
    # Four heads and an epsilon of 1e-5, which no tensor tells; no bias in qkv, which they do.
    assert source.architecture["num_heads"] == 4 and source.architecture["norm_eps"] == 1e-5
    assert source.architecture["qkv_bias"] is False and source.architecture["distilled"] is True
    ours = create_model(**source.architecture).eval()
    report = load_weights(ours, source)
    assert report.format == "tutorial" and report.notes == ()
    images = torch.randn(3, 3, 16, 16)
    output, (cls_logits, dist_logits) = ours(images), theirs(images)
    torch.testing.assert_close(output.cls_logits, cls_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.dist_logits, dist_logits, atol=1e-5, rtol=1e-5)
    other = create_model(**{**source.architecture, "num_heads": 8})
    assert "here 8, in the tutorial 4" in load_weights(other, source).notes[0]


# Hugging Face, with transformers itself as the other implementation.


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


HF_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "image_size": 24,
    "patch_size": 8,
}


def saved_hf(transformers, name, folder, **overrides):
    config_class = transformers.DeiTConfig if "DeiT" in name else transformers.ViTConfig
    torch.manual_seed(1)
    config = config_class(**{**HF_SHAPE, "num_labels": 5, **overrides})
    model = shaken(getattr(transformers, name)(config))
    model.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("form", ["folder", "state dict", "pytorch_model.bin"])
def test_a_hugging_face_vit_gives_equal_logits(transformers, tmp_path, form, qkv_bias):
    """The folder holds the old names, the state dict of today's transformers the new ones."""
    theirs = saved_hf(transformers, "ViTForImageClassification", tmp_path, qkv_bias=qkv_bias)
    source = tmp_path
    if form == "state dict":
        source = theirs.state_dict()
        assert any(".q_proj." in key for key in source)
    elif form == "pytorch_model.bin":
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    found = describe_source(source)
    if form == "state dict":
        # 32 wide without a config: no custom tells the heads.
        with pytest.raises(ModelFileError, match=r"\[ARCHITECTURE\].*number of heads"):
            _ = found.architecture
        ours = create_model(**describe_source(tmp_path).architecture)
    else:
        arguments = found.architecture
        assert (arguments["num_heads"], arguments["norm_eps"]) == (4, 1e-12)
        assert arguments["mlp_ratio"] == 2.5
        ours = create_model(**arguments)
    report = load_weights(ours, found)
    assert report.format == "hf" and report.unexpected == () and report.notes == ()
    images = torch.randn(3, 3, 24, 24)
    expected = theirs(images).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours.eval()(images).cls_logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_hugging_face_deit_with_teacher_gives_equal_logits(transformers, tmp_path):
    theirs = saved_hf(transformers, "DeiTForImageClassificationWithTeacher", tmp_path)
    ours = create_model(**describe_source(tmp_path).architecture).eval()
    load_weights(ours, tmp_path)
    images = torch.randn(3, 3, 24, 24)
    output, expected = ours(images), theirs(images)
    torch.testing.assert_close(output.cls_logits, expected.cls_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        output.dist_logits, expected.distillation_logits, atol=1e-5, rtol=1e-5
    )


def test_m05_a_hugging_face_vit_without_a_head_is_not_half_loaded(transformers, tmp_path):
    """The pooler, which no classifier reads, is no fault; the missing head is."""
    saved_hf(transformers, "ViTModel", tmp_path)
    found = describe_source(tmp_path)
    assert set(found.set_aside) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert found.num_classes is None and "num_classes" not in found.architecture
    ours = create_model(**found.architecture)
    before = ours.cls_token.clone()
    with pytest.raises(ModelFileError, match=r"2 missing: head\.weight, head\.bias"):
        load_weights(ours, found)
    assert torch.equal(ours.cls_token, before)


def test_another_number_of_heads_than_the_config_says_is_refused(transformers, tmp_path):
    """All shapes agree, the logits would not."""
    saved_hf(transformers, "ViTForImageClassification", tmp_path)
    arguments = describe_source(tmp_path).architecture
    model = create_model(**{**arguments, "num_heads": 8})
    with pytest.raises(ModelFileError, match="says 4 attention heads, the model has 8"):
        load_weights(model, tmp_path)
    other_eps = create_model(**{**arguments, "norm_eps": 1e-6})
    report = load_weights(other_eps, tmp_path)
    assert report.notes == (
        "LayerNorm adds 1e-06 to the variance, where they were made with 1e-12",
    )


def test_a_config_whose_network_computes_something_else_is_refused(transformers, tmp_path):
    saved_hf(transformers, "ViTForImageClassification", tmp_path, hidden_act="gelu_new")
    with pytest.raises(ModelFileError, match="activation is gelu_new"):
        _ = describe_source(tmp_path).architecture
    tensors = small_deit().state_dict()
    for config in ({"global_pool": "avg"}, {"architecture": "vit_base_patch32_quickgelu_256"}):
        with pytest.raises(ModelFileError, match=r"\[ARCHITECTURE\]"):
            infer_architecture(tensors, config)


# timm


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm")


@torch.no_grad()
@pytest.mark.parametrize("authors_names", [False, True])
def test_deit_iii_in_both_spellings(timm, authors_names):
    """LayerScale, and no position row for the class token. The authors say gamma_1, gamma_2."""
    from timm.models.vision_transformer import VisionTransformer

    theirs = shaken(
        VisionTransformer(
            img_size=16,
            patch_size=4,
            embed_dim=64,
            depth=2,
            num_heads=1,
            num_classes=5,
            init_values=0.5,
            no_embed_class=True,
        )
    )
    state = theirs.state_dict()
    if authors_names:
        state = {re.sub(r"ls([12])\.gamma", r"gamma_\1", key): v for key, v in state.items()}
        assert "blocks.1.gamma_2" in state
    arguments = infer_architecture(rename_weights(state, "x").tensors)
    assert arguments["pos_embed_cls"] is False and arguments["layer_scale"] is not None
    ours = create_model(**arguments).eval()
    load_weights(ours, state)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours(images).cls_logits, theirs(images), atol=1e-5, rtol=1e-5)


# What is refused


def test_unknown_names_are_listed_with_what_is_known(tmp_path):
    tensors = {f"layer_{i}.w": torch.zeros(1) for i in range(13)}
    save_file(tensors, tmp_path / "w.safetensors")
    model = small_deit()
    for source in (tensors, tmp_path / "w.safetensors"):
        with pytest.raises(ModelFileError) as caught:
            load_weights(model, source)
        text = str(caught.value)
        assert caught.value.code == "NAMES"
        assert "13 names are not known: layer_0.w" in text and "and 3 more" in text
        assert sum(f"layer_{i}.w" in text for i in range(13)) == 10
        for known in ("timm", "facebookresearch", "Hugging Face", "tutorial"):
            assert known in text


def test_an_incomplete_or_doubled_projection_is_refused():
    state = in_old_hf_names(small_deit().state_dict())
    key = "vit.encoder.layer.1.attention.attention.key.weight"
    lacking = {k: v for k, v in state.items() if k != key}
    with pytest.raises(ModelFileError, match=r"blocks\.1\.attn\.qkv\.weight has no k"):
        rename_weights(lacking, "x")
    with pytest.raises(ModelFileError, match="different shapes"):
        rename_weights({**state, key: torch.zeros(3, 3)}, "x")
    twice = {**state, "vit.layers.1.attention.k_proj.weight": state[key]}
    with pytest.raises(ModelFileError, match="block 1 has two projections"):
        rename_weights(twice, "x")


def test_two_keys_for_one_parameter_are_refused():
    state = in_old_hf_names(small_deit().state_dict())
    state["cls_classifier.bias"] = state["classifier.bias"]
    with pytest.raises(ModelFileError, match=r"two of its keys mean head\.bias"):
        rename_weights(state, "x")


@pytest.mark.parametrize("format", ["hf", "tutorial", "timm"])
def test_m05_a_key_more_or_less_in_any_spelling_is_refused(format):
    model = small_deit(distilled=True)
    state = SPELLINGS[format](model.state_dict())
    root = {"hf": "deit.encoder.layer.0.", "tutorial": "encoder.layers.0.", "timm": "blocks.0."}
    more = {**state, root[format] + "layer_scale1.lambda1": torch.zeros(24)}
    with pytest.raises(ModelFileError, match=r"1 not in the model: .*layer_scale1\.lambda1"):
        load_weights(model, more)
    last = next(key for key in reversed(state) if key.endswith("bias") and "head" not in key)
    del state[last]
    with pytest.raises(ModelFileError, match="1 missing: "):
        load_weights(model, state)


def test_other_real_weights_are_named_as_unknown(shared_data):
    path = shared_data / "weights" / "cifar10_resnet" / "resnet20-12fca82f.th"
    with pytest.raises(ModelFileError, match=r"\[NAMES\].*conv1\.weight"):
        load_weights(create_model("deit_tiny_patch16_224"), path)
