"""The transformer block: attention and a two-layer perceptron, each added to what it read."""

# Shapes: B images, J of them that a branch is computed for, C channels, H height, W width,
# N tokens (P patches, S special), D width, M hidden width, A heads, E = D / A.

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deitkit.models.noise import ModelNoise, drop, keep_images

Branch = Callable[[Tensor, ModelNoise | None], Tensor]
Compiled = tuple[Callable[..., Tensor], Callable[..., Tensor]]


def attention_weights(q_BANE: Tensor, k_BANE: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) [B, A, N, N]: each row says where one token looks, and sums to 1.

    Vaswani et al. 2017, arXiv:1706.03762, equation 1, without the values.
    """
    scores_BANN = (q_BANE * q_BANE.shape[-1] ** -0.5) @ k_BANE.transpose(-2, -1)
    return scores_BANN.softmax(dim=-1)


def fused_attention(q_BANE: Tensor, k_BANE: Tensor, v_BANE: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v. In float32 on a CPU: torch's kernel for the gradient takes ten
    times as long in bfloat16 there, where a CPU has units for it (torch 2.13)."""
    if q_BANE.device.type != "cpu" or q_BANE.dtype is not torch.bfloat16:
        return F.scaled_dot_product_attention(q_BANE, k_BANE, v_BANE)
    with torch.autocast("cpu", enabled=False):
        out_BANE = F.scaled_dot_product_attention(q_BANE.float(), k_BANE.float(), v_BANE.float())
    return out_BANE.to(q_BANE.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(
        self,
        *,
        name: str,
        embed_dim: int,
        num_heads: int,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.proj_drop = proj_drop
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def split_heads(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, A, N, E]."""
        B, N, D = x_BND.shape
        qkv_3BANE = (
            self.qkv(x_BND)
            .reshape(B, N, 3, self.num_heads, D // self.num_heads)
            .permute(2, 0, 3, 1, 4)
        )
        q_BANE, k_BANE, v_BANE = qkv_3BANE.unbind(0)
        return q_BANE, k_BANE, v_BANE

    def forward(self, x_BND: Tensor, noise: ModelNoise | None = None) -> Tensor:
        q_BANE, k_BANE, v_BANE = self.split_heads(x_BND)
        if self.training and self.attn_drop > 0:
            # The fused kernel would draw its own dropout, so keyed noise needs the long way.
            weights_BANN = attention_weights(q_BANE, k_BANE)
            weights_BANN = drop(
                weights_BANN,
                rate=self.attn_drop,
                per_image_shape=weights_BANN.shape[1:],
                noise=noise,
                layer=f"{self.name}.attn_drop",
            )
            out_BANE = weights_BANN @ v_BANE
        else:
            out_BANE = fused_attention(q_BANE, k_BANE, v_BANE)
        y_BND = self.proj(out_BANE.transpose(1, 2).flatten(2))
        if self.training and self.proj_drop > 0:
            y_BND = drop(
                y_BND,
                rate=self.proj_drop,
                per_image_shape=y_BND.shape[1:],
                noise=noise,
                layer=f"{self.name}.proj_drop",
            )
        return y_BND


class Mlp(nn.Module):
    """Two linear layers with GELU between, applied to each token alone.

    With a `conv_grid` (rows, columns) the hidden patch tokens also hear their neighbours, through
    a depthwise 3x3 convolution added to them (Li et al. 2021, LocalViT, arXiv:2104.05707, section
    3); special tokens pass by.
    """

    def __init__(
        self,
        *,
        name: str,
        embed_dim: int,
        hidden_dim: int,
        proj_drop: float,
        conv_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.proj_drop = proj_drop
        self.conv_grid = conv_grid
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.act = nn.GELU()
        self.conv = (
            None
            if conv_grid is None
            else nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        )
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def _hear_neighbours(self, hidden_BNM: Tensor, grid: tuple[int, int] | None) -> Tensor:
        if self.conv is None or self.conv_grid is None:
            return hidden_BNM
        rows, columns = self.conv_grid if grid is None else grid
        num_special = hidden_BNM.shape[1] - rows * columns
        special_BSM, patches_BPM = hidden_BNM.split([num_special, rows * columns], dim=1)
        map_BMhw = patches_BPM.transpose(1, 2).unflatten(2, (rows, columns))
        heard_BPM = self.conv(map_BMhw).flatten(2).transpose(1, 2)
        return torch.cat([special_BSM, patches_BPM + heard_BPM], dim=1)

    def _drop(self, x_BND: Tensor, noise: ModelNoise | None, part: str) -> Tensor:
        if not self.training or self.proj_drop == 0:
            return x_BND
        shape = x_BND.shape[1:]
        layer = f"{self.name}.{part}"
        return drop(x_BND, rate=self.proj_drop, per_image_shape=shape, noise=noise, layer=layer)

    def forward(
        self,
        x_BND: Tensor,
        noise: ModelNoise | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """`grid` are rows and columns of patches where they are not the model's own."""
        hidden_BNM = self._hear_neighbours(self.act(self.fc1(x_BND)), grid)
        hidden_BNM = self._drop(hidden_BNM, noise, "hidden_drop")
        return self._drop(self.fc2(hidden_BNM), noise, "out_drop")


class LayerScale(nn.Module):
    """One learnt factor a channel, small at the start (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, embed_dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dim,), init_value))

    def forward(self, x_BND: Tensor) -> Tensor:
        return x_BND * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block: x + attn(norm1(x)), then x + mlp(norm2(x)).

    `drop_path` is the share of images for which one of the two branches is left out, and not
    computed, in training only; each branch draws for itself.
    """

    def __init__(
        self,
        *,
        name: str,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
        drop_path: float,
        layer_scale: float | None,
        norm_eps: float,
        conv_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.attn = Attention(
            name=f"{name}.attn",
            embed_dim=embed_dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        self.norm2 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.mlp = Mlp(
            name=f"{name}.mlp",
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
            proj_drop=proj_drop,
            conv_grid=conv_grid,
        )
        self.compiled: Compiled | None = None
        """In training, what `compile_branches` made of the two branches. Functions that are given
        the block, so that a copy of it computes with its own weights."""
        self.ls1: nn.Module = nn.Identity()
        self.ls2: nn.Module = nn.Identity()
        if layer_scale is not None:
            self.ls1 = LayerScale(embed_dim, layer_scale)
            self.ls2 = LayerScale(embed_dim, layer_scale)

    def _attn_branch(self, x_BND: Tensor, noise: ModelNoise | None) -> Tensor:
        return self.ls1(self.attn(self.norm1(x_BND), noise))

    def _mlp_branch(
        self, x_BND: Tensor, noise: ModelNoise | None, *, grid: tuple[int, int] | None
    ) -> Tensor:
        return self.ls2(self.mlp(self.norm2(x_BND), noise, grid))

    def _add(self, x_BND: Tensor, branch: Branch, noise: ModelNoise | None, part: str) -> Tensor:
        kept = None
        if self.training and self.drop_path > 0:
            kept = keep_images(
                x_BND.shape[0],
                rate=self.drop_path,
                noise=noise,
                layer=f"{self.name}.{part}.drop_path",
                device=x_BND.device,
            )
        if kept is None:
            return x_BND + branch(x_BND, noise)
        # With nobody kept the branch runs on zero rows: its parameters then have gradients of zero
        # and not none, which DistributedDataParallel waits for.
        y_JND = branch(x_BND.index_select(0, kept.positions_J), kept.noise)
        return x_BND.index_add(0, kept.positions_J, y_JND.to(x_BND.dtype), alpha=kept.scale)

    def forward(
        self,
        x_BND: Tensor,
        noise: ModelNoise | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """`grid` are rows and columns of patches where they are not the model's own."""
        attn, mlp = (Block._attn_branch, Block._mlp_branch)
        if self.training and self.compiled is not None:
            attn, mlp = self.compiled
        x_BND = self._add(x_BND, partial(attn, self), noise, "attn")
        return self._add(x_BND, partial(mlp, self, grid=grid), noise, "mlp")


@cache
def compile_branches() -> Compiled:
    """Both branches of a block as torch.compile makes them, once for all blocks of all models.

    The draws of what is dropped, and the choice of images, stay outside: they are the host's.
    """
    return torch.compile(Block._attn_branch), torch.compile(Block._mlp_branch)
