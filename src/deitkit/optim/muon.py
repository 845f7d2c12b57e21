"""Muon: steps whose matrices are orthogonal, for the hidden layers; AdamW for all the rest."""

# Shapes: M matrices of one shape, R rows, S columns; a kernel has a row for each output channel.

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Jordan et al. 2024: steep at zero, so that small singular values grow in few iterations."""
NUM_ITERATIONS = 5
LONG_RATIO = 4
"""Of columns to rows: from here on iterating on X X^T is faster than on X, up to 2.5 times on a CPU
(docs/speed.md)."""

_HIDDEN = re.compile(
    r"^blocks\.\d+\.(?:attn\.(?P<qkv>qkv)|attn\.proj|mlp\.fc[12])\.weight$"
    r"|^(?:patch_embed\.)?blocks\.\d+\.conv\d(?:\.0)?\.weight$"
)


def orthogonalise(matrices_MRS: Tensor) -> Tensor:
    """U S' V^T of each matrix U S V^T, [M, R, S], singular values S' between about 0.5 and 1.5.

    Five steps of X <- a X + (b X X^T + c (X X^T)^2) X from X / |X|: Jordan et al. 2024, "Muon: An
    optimizer for hidden layers in neural networks". Computed in the dtype given.
    """
    is_tall = matrices_MRS.shape[1] > matrices_MRS.shape[2]
    x_MRS = matrices_MRS.mT if is_tall else matrices_MRS
    # A matrix of zeros stays one.
    x_MRS = x_MRS / x_MRS.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    is_exact = x_MRS.dtype in (torch.float32, torch.float64)
    is_long = x_MRS.shape[2] >= LONG_RATIO * x_MRS.shape[1]
    x_MRS = iterate_gram(x_MRS) if is_exact and is_long else iterate(x_MRS)
    return x_MRS.mT if is_tall else x_MRS


def iterate(x_MRS: Tensor) -> Tensor:
    """Those steps on [M, R, S] of norm 1, R no more than S."""
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram_MRR = x_MRS @ x_MRS.mT
        poly_MRR = torch.baddbmm(gram_MRR, gram_MRR, gram_MRR, beta=b, alpha=c)
        x_MRS = torch.baddbmm(x_MRS, poly_MRR, x_MRS, beta=a)
    return x_MRS


def iterate_gram(x_MRS: Tensor) -> Tensor:
    """The same on X X^T alone: all its polynomials commute, so X is multiplied once, at the end."""
    a, b, c = COEFFICIENTS
    gram_MRR = x_MRS @ x_MRS.mT
    product_MRR: Tensor | None = None
    for k in range(NUM_ITERATIONS):
        poly_MRR = torch.baddbmm(gram_MRR, gram_MRR, gram_MRR, beta=b, alpha=c)
        poly_MRR.diagonal(dim1=1, dim2=2).add_(a)
        product_MRR = poly_MRR if product_MRR is None else poly_MRR @ product_MRR
        if k < NUM_ITERATIONS - 1:
            gram_MRR = poly_MRR @ gram_MRR @ poly_MRR
    assert product_MRR is not None
    return product_MRR @ x_MRS


def update_scale(num_rows: int, num_columns: int) -> float:
    """0.2 sqrt(max(R, S)) gives an orthogonal step the root mean square that AdamW's have.

    So its learning rate and decay carry over: Liu et al. 2025, arXiv:2502.16982, section 2.2.
    """
    return 0.2 * max(num_rows, num_columns) ** 0.5


def hidden_matrix(name: str, parameter: nn.Parameter) -> dict[str, Any]:
    """Group entries: whether a parameter is for Muon, and the matrices stacked in it.

    The 2-D matrices inside transformer blocks are, and the kernels inside blocks of convolutions:
    a row of all its inputs and places for each output channel (Jordan et al. 2024). Queries, keys
    and values of the fused projection are three maps, and the singular values of one say nothing of
    the others.
    """
    match = _HIDDEN.match(name)
    if match is None:
        return {"is_hidden": False, "num_matrices": 0}
    assert parameter.ndim in (2, 4)
    return {"is_hidden": True, "num_matrices": 3 if match["qkv"] else 1}


class _Step(NamedTuple):
    """One matrix's step: what to move, along what (not yet orthogonal), by how much."""

    weight: Tensor
    direction_RS: Tensor
    lr: float


class Muon(torch.optim.Optimizer):
    """Muon for the groups with "is_hidden", AdamW (arXiv:1711.05101) for the others.

    Jordan et al. 2024 with the scale and decay of Liu et al. 2025, arXiv:2502.16982: Nesterov
    momentum, `orthogonalise`, a step of lr x `update_scale`, decoupled weight decay. `betas` and
    `eps` are AdamW's. On CUDA the iterations run in bfloat16, elsewhere in the weights' dtype.

    Deviation: a fused qkv weight is orthogonalised as three matrices, and equal shapes of the
    whole network in one batch.
    """

    found_inf: Tensor | None = None
    """1 on the weights' device where the step changes nothing, see `step_unless`."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        momentum: float,
    ) -> None:
        # "fused" also tells load_state_dict to put the step counters beside the weights.
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "momentum": momentum,
            "weight_decay": 0.0,
            "is_hidden": False,
            "num_matrices": 0,
            "fused": True,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "the gradients are there already"
        steps: dict[tuple[Any, ...], list[_Step]] = defaultdict(list)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not group["is_hidden"]:
                self._step_adamw(group, parameters)
                continue
            for parameter in parameters:
                for one in self._hidden_steps(group, parameter):
                    weight = one.weight
                    steps[one.direction_RS.shape, weight.device, weight.dtype].append(one)
        for same_shape in steps.values():
            _move(same_shape, self._skipped())

    def _skipped(self) -> Tensor | None:
        return None if self.found_inf is None else self.found_inf > 0

    def _hidden_steps(self, group: dict[str, Any], parameter: Tensor) -> list[_Step]:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer, gradient = state["momentum_buffer"], parameter.grad
        new_share: float | Tensor = 1 - group["momentum"]
        kept_share: float | Tensor = 1 - group["lr"] * group["weight_decay"]
        if (skipped := self._skipped()) is not None:
            gradient = gradient.masked_fill(skipped, 0.0)
            new_share = torch.where(skipped, 0.0, new_share)
            kept_share = torch.where(skipped, 1.0, kept_share)
        buffer.lerp_(gradient, new_share)
        direction = gradient.lerp(buffer, group["momentum"])
        parameter.mul_(kept_share)
        num = group["num_matrices"]
        weights, directions = parameter.chunk(num), direction.chunk(num)
        return [
            _Step(weight, direction.flatten(1), group["lr"])
            for weight, direction in zip(weights, directions, strict=True)
        ]

    def _step_adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _move(steps: list[_Step], skipped: Tensor | None) -> None:
    """Move matrices of one shape by their orthogonalised directions, unless `skipped`."""
    directions_MRS = torch.stack([one.direction_RS for one in steps])
    if directions_MRS.is_cuda:
        directions_MRS = directions_MRS.bfloat16()
    updates_MRS = orthogonalise(directions_MRS)
    if skipped is not None:
        updates_MRS = updates_MRS.masked_fill(skipped, 0.0)
    scale = update_scale(*updates_MRS.shape[1:])
    for one, update_RS in zip(steps, updates_MRS, strict=True):
        update = update_RS.view(one.weight.shape).to(one.weight.dtype)
        one.weight.add_(update, alpha=-one.lr * scale)
