"""The ranks of one run, and the few things they say to each other."""

# Shapes: N rows, different on each rank; any further dimensions.

from __future__ import annotations

import gc
import itertools
import json
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deitkit.runtime.device import pick_device
from deitkit.runtime.rendezvous import join, read_environment
from deitkit.runtime.watch import Watch, first_line, is_about_ranks, rank_lost

COLLECTIVE_TIMEOUT_S = 600.0
"""How long a living rank may be behind. A killed one is noticed at once, by its closed connection,
a silent one by `Watch`."""
RENDEZVOUS_TIMEOUT_S = 20.0
"""How long ranks look for each other at the start."""

Rows = TypeVar("Rows", Tensor, np.ndarray)


@dataclass(frozen=True, slots=True)
class World:
    """Who we are among the ranks. One process alone never touches torch.distributed."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Rank among those on this machine, so the number of our CUDA device."""
    backend: str | None = None
    """None for one process; gloo on the CPU, nccl on CUDA, where the hosts have gloo beside it."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this rank computes."""
    watch: Watch | None = field(default=None, compare=False, repr=False)
    """Sees which ranks live; None for one process."""
    _meetings: Iterator[int] = field(default_factory=itertools.count, compare=False, repr=False)

    @classmethod
    def from_environment(
        cls,
        *,
        device: str = "auto",
        timeout_s: float = COLLECTIVE_TIMEOUT_S,
        rendezvous_timeout_s: float = RENDEZVOUS_TIMEOUT_S,
    ) -> World:
        """Join the ranks that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
        MASTER_PORT), or be alone where it started none.

        Raises:
            ConfigError: BAD_WORLD for variables that cannot be; NO_DEVICE, BAD_DEVICE.
            WorkerError: RENDEZVOUS, with host and port, where the others are not found in
                `rendezvous_timeout_s`.
        """
        rank, world_size, local_rank = read_environment()
        picked = pick_device(device, local_rank)
        if world_size == 1:
            return cls(device=picked)
        if picked.type == "mps":
            # Apple's device is one, and cannot exchange: several ranks share the processor.
            picked = torch.device("cpu")
        if picked.type == "cuda":
            torch.cuda.set_device(picked)
        backend = "nccl" if picked.type == "cuda" else "gloo"
        # What is on the host is exchanged by the hosts: through CUDA they would wait for it.
        backends = "cpu:gloo,cuda:nccl" if backend == "nccl" else backend
        watch = join(rank, world_size, backends, timeout_s, min(rendezvous_timeout_s, timeout_s))
        return cls(rank, world_size, local_rank, backend, picked, watch)

    @classmethod
    @contextmanager
    def joined(cls, *, device: str = "auto") -> Iterator[World]:
        """`from_environment` for a block; the other ranks are told of the error that ends it."""
        world = cls.from_environment(device=device)
        try:
            yield world
        except BaseException as error:
            world.close(error)
            raise
        finally:
            world.close()

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device | None = None) -> nn.Module:
        """The model whose backward averages gradients over ranks; alone, the model itself."""
        if self.world_size == 1:
            return model
        device = device or self.device
        device_ids = [device] if device.type == "cuda" else None
        with self.exchange():
            # Of depthwise kernels, whose one input channel may have any stride: nothing is copied.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            return DistributedDataParallel(model, device_ids=device_ids)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A block whose backward only adds up locally, for all but the last micro-batch."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def max(self, value: float) -> float:
        """The largest value of any rank; whole numbers are exact below 2^53."""
        return float(self._reduced(_number(value), dist.ReduceOp.MAX))

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        return self.max(float(flag)) > 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, as a new tensor, the same bits on every rank."""
        return self._reduced(values.detach().clone(), dist.ReduceOp.SUM)

    def gather_rows(self, rows: Rows) -> Rows:
        """All ranks' rows in rank order, on every rank; each rank may hold another number of rows,
        or none. Shapes after the first and the dtype are the same everywhere.
        """
        if self.world_size == 1:
            return rows
        if isinstance(rows, np.ndarray):
            return self._gather(torch.from_numpy(np.ascontiguousarray(rows))).numpy()
        return self._gather(rows)

    def broadcast_json(self, value: Any) -> Any:
        """The main rank's value, on every rank; anything JSON can hold."""
        if self.world_size == 1:
            return value
        self._await_main()
        text = json.dumps(value).encode("ascii") if self.is_main else b""
        told = self._gather(
            torch.frombuffer(bytearray(text), dtype=torch.uint8)
            if text
            else torch.empty(0, dtype=torch.uint8)
        )
        return json.loads(bytes(told.numpy()))

    def barrier(self) -> None:
        """Wait until every rank is here: for the main rank, which does some work for all, as long
        as it lives, for the others as long as an exchange may take."""
        self._await_main()
        self.any(False)

    def slow_ranks(self) -> list[str]:
        """Who kept the others waiting since the last call, a sentence each, on the main rank."""
        return [] if self.watch is None else self.watch.take_slow()

    def close(self, error: BaseException | None = None) -> None:
        """Leave the other ranks, which are told the `error`; they need not be alive any more."""
        if self.watch is not None:
            self.watch.close("" if error is None else first_line(error))
        if self.world_size > 1 and dist.is_initialized():
            # A wrapped model in a reference cycle would keep the group's threads alive, and they
            # abort the process when they ask for Python's lock while it ends.
            gc.collect()
            dist.destroy_process_group()

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """A block in which ranks wait for each other; a lost one ends it with a WorkerError."""
        with nullcontext() if self.watch is None else self.watch.exchange(), self.lost_ranks_told():
            yield

    @contextmanager
    def lost_ranks_told(self) -> Iterator[None]:
        """Turn a failed exchange of the block (also inside a backward) into a WorkerError."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not is_about_ranks(error):
                raise
            named = None if self.watch is None else self.watch.name_missing()
            why = named or f"another rank no longer answers ({first_line(error)})"
            raise rank_lost(self.rank, self.world_size, why) from error

    def _await_main(self) -> None:
        if self.watch is not None:
            self.watch.await_main(f"deitkit/main/{next(self._meetings)}")

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.world_size == 1:
            return values
        with self.exchange():
            dist.all_reduce(values, op=operation)
        return values

    def _gather(self, rows: Tensor) -> Tensor:
        """Rows travel as bytes, so every dtype arrives as it left."""
        # What numpy gives of no rows has strides of 0, which no view is taken of.
        some = rows if rows.numel() else torch.empty(0, dtype=rows.dtype)
        mine = some.detach().to(self.device).contiguous().reshape(-1).view(torch.uint8)
        num_bytes = torch.zeros(self.world_size, dtype=torch.int64)
        num_bytes[self.rank] = mine.numel()
        sizes = [int(size) for size in self.sum(num_bytes)]
        padded = torch.zeros(max(*sizes, 1), dtype=torch.uint8, device=self.device)
        padded[: mine.numel()] = mine
        parts = [torch.empty_like(padded) for _ in sizes]
        with self.exchange():
            dist.all_gather(parts, padded)
        joined = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return joined.view(rows.dtype).reshape(-1, *rows.shape[1:]).to(rows.device)


def _number(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)
