"""The data-efficient image transformer: one class for every size."""

# Shapes: B images, C channels, H height, W width, N tokens (P patches), D width, K classes.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deitkit.errors import ConfigError, DataError
from deitkit.flow import StudentOutput
from deitkit.models import checks
from deitkit.models.base import ImageModel
from deitkit.models.blocks import Block, compile_branches
from deitkit.models.initialise import (
    TOKEN_INITS,
    WEIGHT_INITS,
    init_transformer,
    pass_through,
    trunc_normal,
)
from deitkit.models.noise import ModelNoise, drop
from deitkit.models.patch_embed import STEMS, PoolingStem, build_patch_embed
from deitkit.models.pos_embed import resize_pos_embed

DROP_PATH_SCHEDULES = ("linear", "constant")
POOLS = ("token", "mean")


def drop_path_rates(drop_path: float, depth: int, schedule: str) -> list[float]:
    """One rate a block: from 0 to `drop_path` in equal steps, or the same everywhere (DeiT III)."""
    if schedule == "constant":
        return [drop_path] * depth
    return [drop_path * i / max(1, depth - 1) for i in range(depth)]


class DeiT(ImageModel):
    """A vision transformer with a class token and, if `distilled`, one that hears the teacher.

    Touvron et al. 2021, arXiv:2012.12877, sections 3 to 5. Each special token has its own linear
    head. Parameters carry timm's names, so public weights load unrenamed.

    `drop_path` is the last block's rate, reached from 0 ("linear") or used in all ("constant").
    `layer_scale` is the start of a factor a channel, None leaves it out. Without `pos_embed_cls`
    only patches have positions (DeiT III, arXiv:2204.07118). `proj_drop` acts after the attention
    projection and both layers of the perceptron, `pos_drop` on the tokens entering block 0.

    For small data, and not in the paper: `stem` "conv" makes patch tokens with overlapping
    convolutions, "pooling" with the first stages of a quick_cnn of `stem_width`, `stem_blocks` of
    them at most; `mlp_conv` lets patches hear their neighbours in each block; with `pool` "mean" a
    head reads its token plus the mean of all patches.

    Raises:
        ConfigError: MODEL_OPTION, for an argument that cannot be, before any allocation.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        patch_size: int = 16,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        distilled: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        pos_embed_cls: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        pos_drop: float = 0.0,
        drop_path: float = 0.0,
        drop_path_schedule: str = "linear",
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        weight_init: str = "trunc_normal",
        class_token_init: str = "trunc_normal",
        stem: str = "linear",
        stem_width: int = 32,
        stem_blocks: int = 2,
        mlp_conv: bool = False,
        pool: str = "token",
    ) -> None:
        super().__init__()
        self.image_size = checks.resolve_image_size(image_size)
        checks.check_counts(num_classes=num_classes, in_channels=in_channels)
        self._check_shape(patch_size, embed_dim, depth, num_heads, mlp_ratio)
        self._check_patches(patch_size, stem)
        checks.check_size(
            depth * (4 + 2 * mlp_ratio) * embed_dim**2
            + embed_dim * (in_channels * patch_size**2 + 2 * num_classes)
        )
        checks.check_flags(distilled=distilled, qkv_bias=qkv_bias, pos_embed_cls=pos_embed_cls)
        checks.check_flags(mlp_conv=mlp_conv)
        checks.check_rates(attn_drop=attn_drop, proj_drop=proj_drop)
        checks.check_rates(pos_drop=pos_drop, drop_path=drop_path)
        checks.check_choice("drop_path_schedule", drop_path_schedule, DROP_PATH_SCHEDULES)
        checks.check_numbers(above=0, upper=1, norm_eps=norm_eps)
        if layer_scale is not None:
            checks.check_numbers(above=0, upper=10, layer_scale=layer_scale)
        checks.check_choice("stem", stem, STEMS)
        checks.check_choice("pool", pool, POOLS)
        checks.check_counts(upper=checks.MAX_WIDTH // 16, stem_width=stem_width)
        checks.check_counts(upper=3, stem_blocks=stem_blocks)
        if stem != "linear" and patch_size & (patch_size - 1):
            raise ConfigError(
                "MODEL_OPTION",
                "stem",
                f"convolutions of stride 2 do not make patches of {patch_size}",
                "use patches of 2, 4, 8 or 16, or stem=linear",
            )
        checks.check_choice("weight_init", weight_init, WEIGHT_INITS)
        checks.check_choice("class_token_init", class_token_init, TOKEN_INITS)

        self.num_classes, self.in_channels = num_classes, in_channels
        self.embed_dim, self.patch_size, self.pos_drop = embed_dim, patch_size, pos_drop
        self.pos_embed_cls, self.pool = pos_embed_cls, pool
        self.grad_checkpointing = False
        self.patch_embed = build_patch_embed(
            stem,
            in_channels=in_channels,
            embed_dim=embed_dim,
            patch_size=patch_size,
            stem_width=stem_width,
            stem_blocks=stem_blocks,
        )
        self._build_tokens(distilled, class_token_init)
        self.blocks = nn.ModuleList(
            Block(
                name=f"blocks.{i}",
                embed_dim=embed_dim,
                num_heads=num_heads,
                hidden_dim=int(embed_dim * mlp_ratio),
                qkv_bias=qkv_bias,
                attn_drop=attn_drop,
                proj_drop=proj_drop,
                drop_path=rate,
                layer_scale=layer_scale,
                norm_eps=norm_eps,
                conv_grid=self.grid_size if mlp_conv else None,
            )
            for i, rate in enumerate(drop_path_rates(drop_path, depth, drop_path_schedule))
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.head = nn.Linear(embed_dim, num_classes)
        self.head_dist = nn.Linear(embed_dim, num_classes) if distilled else None
        init_transformer(self, weight_init)
        if isinstance(self.patch_embed, PoolingStem):
            pass_through(self.patch_embed.blocks)

    def _check_shape(
        self, patch_size: int, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float
    ) -> None:
        checks.check_counts(patch_size=patch_size, embed_dim=embed_dim, num_heads=num_heads)
        checks.check_counts(upper=checks.MAX_DEPTH, depth=depth)
        checks.check_divides("num_heads", num_heads, "embed_dim", embed_dim)
        checks.check_numbers(above=0, upper=64, mlp_ratio=mlp_ratio)
        checks.check_counts(**{"embed_dim * mlp_ratio": int(embed_dim * mlp_ratio)})

    def _check_patches(self, patch_size: int, stem: str) -> None:
        height, width = self.image_size
        if stem == "pooling":
            checks.check_holds("image height", patch_size, height)
            checks.check_holds("image width", patch_size, width)
        else:
            checks.check_divides("patch_size", patch_size, "image height", height)
            checks.check_divides("patch_size", patch_size, "image width", width)
        num_patches = height * width // patch_size**2
        if num_patches > checks.MAX_WIDTH:
            raise ConfigError(
                "MODEL_OPTION",
                "patch_size",
                f"{patch_size} cuts the image into {num_patches:,} patches, more than "
                f"{checks.MAX_WIDTH:,}",
                "choose larger patches or smaller images",
            )

    def _build_tokens(self, distilled: bool, class_token_init: str) -> None:
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.embed_dim))
        TOKEN_INITS[class_token_init](self.cls_token)
        self.dist_token = nn.Parameter(torch.empty(1, 1, self.embed_dim)) if distilled else None
        self.num_special_tokens = 2 if distilled else 1
        num_patches = self.grid_size[0] * self.grid_size[1]
        num_positions = num_patches + (self.num_special_tokens if self.pos_embed_cls else 0)
        self.pos_embed = nn.Parameter(torch.empty(1, num_positions, self.embed_dim))
        trunc_normal(self.pos_embed)
        if self.dist_token is not None:
            trunc_normal(self.dist_token)

    def set_grad_checkpointing(self, enabled: bool = True) -> None:
        """Keep only what enters each block and compute the block again in the backward pass.

        The same gradients in every bit for a third more computing and, in training, far less
        memory (Chen et al. 2016, arXiv:1604.06174).
        """
        self.grad_checkpointing = enabled

    def compile_blocks(self) -> None:
        """In training, run what blocks compute as torch.compile makes it, from the first step on.

        Names, weights and evaluation stay as they are; the numbers differ in their last bits.

        Raises:
            ConfigError: MODEL_OPTION, with dropout inside the blocks, which the host draws.
        """
        for block in self.blocks:
            assert isinstance(block, Block)
            if block.attn.attn_drop or block.attn.proj_drop:
                raise ConfigError(
                    "MODEL_OPTION",
                    "run.compile",
                    "dropout inside the blocks is drawn by the host, in every step anew",
                    "leave it out, or set model.attn_drop=0 model.proj_drop=0",
                )
            block.compiled = compile_branches()

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    def _grid_of(self, images_BCHW: Tensor) -> tuple[int, int]:
        height, width = images_BCHW.shape[2:]
        return int(height) // self.patch_size, int(width) // self.patch_size

    def embed_tokens(self, images_BCHW: Tensor) -> Tensor:
        """[B, N, D] entering block 0: class token, distillation token if any, patches by rows.

        In training the images may have another size of the same aspect that patches divide: the
        position embedding is resampled for their grid, and learns through that.

        Raises:
            DataError: IMAGE_SHAPE, when the images are not of this model's size and channels.
        """
        self.check_channels(images_BCHW)
        height, width = images_BCHW.shape[2:]
        fits = height % self.patch_size == 0 and width % self.patch_size == 0
        fits = fits and height * self.image_size[1] == width * self.image_size[0]
        if (height, width) != self.image_size and not (self.training and fits):
            raise DataError(
                "IMAGE_SHAPE",
                f"images {list(images_BCHW.shape)}",
                f"the model has positions for {self.image_size[0]}x{self.image_size[1]} pixels",
                "resize the images, or resize pos_embed and create the model at that size",
            )
        pos_embed_1MD = resize_pos_embed(
            self.pos_embed,
            old_grid=self.grid_size,
            new_grid=self._grid_of(images_BCHW),
            num_special_tokens=self.num_special_tokens if self.pos_embed_cls else 0,
        )
        special = [self.cls_token] if self.dist_token is None else [self.cls_token, self.dist_token]
        # Each on its own: of tokens put together first, the gradients would be strided slices.
        special_B1D = [token.expand(images_BCHW.shape[0], -1, -1) for token in special]
        patches_BPD = self.patch_embed(images_BCHW)
        if self.pos_embed_cls:
            return torch.cat([*special_B1D, patches_BPD], dim=1) + pos_embed_1MD
        return torch.cat([*special_B1D, patches_BPD + pos_embed_1MD], dim=1)

    def forward_features(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> Tensor:
        """[B, N, D]: every token after the last block and the final norm."""
        x_BND = self.embed_tokens(images_BCHW)
        if self.training and self.pos_drop > 0:
            shape = x_BND.shape[1:]
            x_BND = drop(
                x_BND, rate=self.pos_drop, per_image_shape=shape, noise=noise, layer="pos_drop"
            )
        grid = self._grid_of(images_BCHW)
        for block in self.blocks:
            x_BND = self._run(block, x_BND, noise, grid)
        return self.norm(x_BND)

    def _run(
        self, block: nn.Module, x_BND: Tensor, noise: ModelNoise | None, grid: tuple[int, int]
    ) -> Tensor:
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return block(x_BND, noise, grid)
        # Keyed noise is the same the second time; torch's generator has to be wound back for it.
        return checkpoint(
            block, x_BND, noise, grid, use_reentrant=False, preserve_rng_state=noise is None
        )

    def head_inputs(self, tokens_BND: Tensor) -> Tensor:
        """[B, S, D]: what each head reads of the tokens after the norm, the class token's first."""
        special_BSD = tokens_BND[:, : self.num_special_tokens]
        if self.pool == "token":
            return special_BSD
        return special_BSD + tokens_BND[:, self.num_special_tokens :].mean(dim=1, keepdim=True)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """[B, D]: what the class head reads; with a distillation token, the mean of both heads'.

        The mean, because the default prediction is the mean of what the two heads say of them.
        """
        return self.head_inputs(self.forward_features(images_BCHW)).mean(dim=1)

    def forward(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> StudentOutput:
        read_BSD = self.head_inputs(self.forward_features(images_BCHW, noise))
        cls_logits_BK = self.head(read_BSD[:, 0])
        dist_logits_BK = None if self.head_dist is None else self.head_dist(read_BSD[:, 1])
        return StudentOutput(cls_logits_BK, dist_logits_BK)
