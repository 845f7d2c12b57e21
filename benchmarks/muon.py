"""Muon's iteration on a matrix and on its Gram matrix, in turns, with the error of both.

    python benchmarks/muon.py [--threads 1] [--rounds 40]

Singular values from 1 to 1e-5; errors are the largest of an entry against the same in float64.
Shapes are those of the small networks' kernels and layers and of DeiT-Ti's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from turns import in_turn

from deitkit.optim.muon import iterate, iterate_gram

SHAPES = ((1, 96, 432), (1, 96, 864), (1, 128, 1152), (1, 96, 384), (3, 96, 96), (12, 192, 768))


def ill_conditioned(shape: tuple[int, int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    u, s, vt = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    matrices_MRS = u @ torch.diag_embed(torch.logspace(0, -5, s.shape[-1]).expand_as(s)) @ vt
    return matrices_MRS / matrices_MRS.norm(dim=(1, 2), keepdim=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print("| matrices | on X, ms | on X X^T, ms | times as fast | error on X | on X X^T |")
    print("|---|---|---|---|---|---|")
    for shape in SHAPES:
        x_MRS = ill_conditioned(shape)
        exact_MRS = iterate(x_MRS.double())
        ways = {"x": iterate, "gram": iterate_gram}
        errors = [f"{(way(x_MRS) - exact_MRS).abs().max():.0e}" for way in ways.values()]
        seconds = in_turn(
            {name: timed(way, x_MRS) for name, way in ways.items()},
            rounds=asked.rounds,
            limit_s=60,
            warm_rounds=3,
        )
        middles = [statistics.median(times) for times in seconds.values()]
        cells = [" x ".join(map(str, shape)), *(f"{1000 * middle:.2f}" for middle in middles)]
        print(f"| {' | '.join([*cells, f'{middles[0] / middles[1]:.2f}', *errors])} |", flush=True)


def timed(way: Callable[[Tensor], Tensor], x_MRS: Tensor) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        way(x_MRS)
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
