"""Where a transformer looked: attention rollout, and relevance for one class."""

# Shapes: B images, N tokens (S special, P patches), D width, A heads of attention, K classes,
# L blocks, R rows and C columns of patches.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitkit.errors import ModelFileError
from deitkit.models import DeiT, ImageModel
from deitkit.models.blocks import Block, attention_weights

CLASS, DISTILLATION = "class", "distillation"
ROUNDING = 1e-5
"""Of the largest number: a map whose patches differ by less is even, and not to be stretched."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadMap:
    """What one head looked at in one picture."""

    head: str
    """class or distillation: the head, and the token of its own that it reads."""
    method: str
    """rollout or relevance."""
    class_index: int | None
    """Relevance is for one class; None for rollout, which knows none."""
    grid_RC: NDArray[np.float32]
    """A patch each, 0 to 1, the highest is 1; all 0 where nothing speaks for the class."""


def transformer(model: ImageModel) -> DeiT:
    """The model as one with tokens.

    Raises:
        ModelFileError: EXPLAIN, it has none.
    """
    if not isinstance(model, DeiT):
        raise ModelFileError(
            "EXPLAIN",
            str(model.config["name"]),
            "a convolutional network has no tokens that look at patches",
            "explain a transformer, such as a student",
        )
    return model


def heads_of(model: DeiT) -> tuple[str, ...]:
    """The tokens with a head of their own, in the order of their places."""
    return (CLASS,) if model.head_dist is None else (CLASS, DISTILLATION)


@torch.no_grad()
def rollout(model: ImageModel, images_BCHW: Tensor) -> list[list[HeadMap]]:
    """For each image and head: how much of each patch has flowed into its token.

    Attention averaged over heads, half of it replaced by the identity for the residual connection,
    multiplied up through the blocks. Abnar and Zuidema 2020, arXiv:2005.00928, section 3.
    """
    deit = transformer(model)
    _, weights_LBANN = _walk(deit, images_BCHW)
    num_tokens = weights_LBANN[0].shape[-1]
    identity_NN = torch.eye(num_tokens, device=images_BCHW.device)
    flow_BNN = identity_NN.expand(len(images_BCHW), -1, -1)
    for weights_BANN in weights_LBANN:
        flow_BNN = (weights_BANN.mean(dim=1) + identity_NN) / 2 @ flow_BNN
    return _maps(deit, flow_BNN, "rollout", None)


def relevance(
    model: ImageModel, images_BCHW: Tensor, class_indices_B: Sequence[int]
) -> list[list[HeadMap]]:
    """For each image and head: which patches speak for this class in that head.

    Attention times the gradient of the head's own logit by it, positive parts averaged over heads,
    accumulated through the blocks: R <- R + A R from R = I. Chefer, Gur and Wolf 2021,
    "Generic attention-model explainability", arXiv:2103.15679, equations 5 and 6.
    """
    deit = transformer(model)
    rows = torch.arange(len(images_BCHW), device=images_BCHW.device)
    classes_B = torch.as_tensor(list(class_indices_B), device=images_BCHW.device)
    found: list[list[HeadMap]] = [[] for _ in rows]
    with torch.enable_grad():
        tokens_BND, weights_LBANN = _walk(deit, images_BCHW, keeps_graph=True)
        read_BSD = deit.head_inputs(tokens_BND)
        for place, head in enumerate(heads_of(deit)):
            layer = deit.head if head == CLASS else deit.head_dist
            assert layer is not None
            logits_BK = layer(read_BSD[:, place])
            # An image's logit hangs on its own attention alone, so the sum separates.
            gradients = torch.autograd.grad(
                logits_BK[rows, classes_B].sum(), weights_LBANN, retain_graph=True
            )
            relevance_BNN = _accumulated(weights_LBANN, gradients)
            maps = _maps(deit, relevance_BNN, "relevance", list(class_indices_B), only=place)
            for image, one in enumerate(maps):
                found[image] += [one_map for one_map in one if one_map.head == head]
    return found


def _accumulated(weights_LBANN: Sequence[Tensor], gradients_LBANN: Sequence[Tensor]) -> Tensor:
    num_tokens = weights_LBANN[0].shape[-1]
    total_BNN = torch.eye(num_tokens, device=weights_LBANN[0].device).expand(
        len(weights_LBANN[0]), -1, -1
    )
    for weights_BANN, gradient_BANN in zip(weights_LBANN, gradients_LBANN, strict=True):
        step_BNN = (weights_BANN * gradient_BANN).clamp_min(0).mean(dim=1).detach()
        total_BNN = total_BNN + step_BNN @ total_BNN
    return total_BNN


def _walk(
    deit: DeiT, images_BCHW: Tensor, *, keeps_graph: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Tokens after the final norm [B, N, D], and the attention of every block [B, A, N, N].

    The model's own forward pass with attention written out; its weights get no gradient.
    """
    assert not deit.training, "explained as it answers"
    x_BND = deit.embed_tokens(images_BCHW).detach()
    if keeps_graph:
        x_BND.requires_grad_()
    weights_LBANN = []
    for block in deit.blocks:
        assert isinstance(block, Block)
        q_BANE, k_BANE, v_BANE = block.attn.split_heads(block.norm1(x_BND))
        weights_BANN = attention_weights(q_BANE, k_BANE)
        weights_LBANN.append(weights_BANN)
        heard_BND = (weights_BANN @ v_BANE).transpose(1, 2).flatten(2)
        x_BND = x_BND + block.ls1(block.attn.proj(heard_BND))
        x_BND = x_BND + block.ls2(block.mlp(block.norm2(x_BND)))
    return deit.norm(x_BND), weights_LBANN


def _maps(
    deit: DeiT,
    flow_BNN: Tensor,
    method: str,
    class_indices: Sequence[int] | None,
    *,
    only: int | None = None,
) -> list[list[HeadMap]]:
    """What each head reads of a matrix between tokens, as grids: its token's row, and where it
    reads the mean of the patches as well, theirs."""
    found = []
    places = range(len(heads_of(deit))) if only is None else (only,)
    for image, flow_NN in enumerate(flow_BNN.detach().float().cpu().numpy()):
        maps = []
        for place in places:
            patches_P = flow_NN[place, deit.num_special_tokens :]
            if deit.pool == "mean":
                own_PP = flow_NN[deit.num_special_tokens :, deit.num_special_tokens :]
                patches_P = patches_P + own_PP.mean(axis=0)
            least = ROUNDING * patches_P.max()
            if method == "rollout":
                # What every patch gives alike says nothing of where it looked.
                patches_P = patches_P - patches_P.min()
            most = patches_P.max()
            grid_P = patches_P / most if most > least else np.zeros_like(patches_P)
            maps.append(
                HeadMap(
                    head=heads_of(deit)[place],
                    method=method,
                    class_index=None if class_indices is None else int(class_indices[image]),
                    grid_RC=grid_P.reshape(deit.grid_size).astype(np.float32),
                )
            )
        found.append(maps)
    return found
