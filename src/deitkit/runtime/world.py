"""The ranks of one run, and the few things they say to each other."""

# Shapes: N rows, different on each rank; any further dimensions.

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deitkit.errors import ConfigError, WorkerError
from deitkit.runtime.device import pick_device

COLLECTIVE_TIMEOUT_S = 120.0
"""How long one rank may be behind. A dead rank is noticed at once, by its closed connection."""
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
    """None for one process; gloo on the CPU, nccl on CUDA."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this rank computes."""

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
        rank, world_size, local_rank = _read_environment()
        picked = pick_device(device, local_rank)
        if world_size == 1:
            return cls(device=picked)
        if picked.type == "mps":
            # Apple's device is one, and cannot exchange: several ranks share the processor.
            picked = torch.device("cpu")
        if picked.type == "cuda":
            torch.cuda.set_device(picked)
        backend = "nccl" if picked.type == "cuda" else "gloo"
        _join(rank, world_size, backend, timeout_s, min(rendezvous_timeout_s, timeout_s))
        return cls(rank, world_size, local_rank, backend, picked)

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
        with self.lost_ranks_told():
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
        text = json.dumps(value).encode("ascii") if self.is_main else b""
        told = self._gather(
            torch.frombuffer(bytearray(text), dtype=torch.uint8)
            if text
            else torch.empty(0, dtype=torch.uint8)
        )
        return json.loads(bytes(told.numpy()))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.any(False)

    def close(self) -> None:
        """Leave the other ranks; they need not be alive any more."""
        if self.world_size > 1 and dist.is_initialized():
            # A wrapped model in a reference cycle would keep the group's threads alive, and they
            # abort the process when they ask for Python's lock while it ends.
            gc.collect()
            dist.destroy_process_group()

    @contextmanager
    def lost_ranks_told(self) -> Iterator[None]:
        """Turn a failed exchange of the block (also inside a backward) into a WorkerError."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _is_about_ranks(error):
                raise
            raise WorkerError(
                "RANK_LOST",
                f"rank {self.rank} of {self.world_size}",
                f"another rank no longer answers ({_first_line(error)})",
                "see the first error of the other ranks; the same command goes on from the last "
                "checkpoint",
            ) from error

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.world_size == 1:
            return values
        here = values.to(self.device)
        with self.lost_ranks_told():
            dist.all_reduce(here, op=operation)
        return here.to(values.device)

    def _gather(self, rows: Tensor) -> Tensor:
        """Rows travel as bytes, so every dtype arrives as it left."""
        mine = rows.detach().to(self.device).contiguous().reshape(-1).view(torch.uint8)
        num_bytes = torch.zeros(self.world_size, dtype=torch.int64)
        num_bytes[self.rank] = mine.numel()
        sizes = [int(size) for size in self.sum(num_bytes)]
        padded = torch.zeros(max(*sizes, 1), dtype=torch.uint8, device=self.device)
        padded[: mine.numel()] = mine
        parts = [torch.empty_like(padded) for _ in sizes]
        with self.lost_ranks_told():
            dist.all_gather(parts, padded)
        joined = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return joined.view(rows.dtype).reshape(-1, *rows.shape[1:]).to(rows.device)


def _number(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def _read_environment() -> tuple[int, int, int]:
    """(rank, world_size, local_rank), or (0, 1, 0) where no launcher set them."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1, 0
    numbers: dict[str, int] = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        text = os.environ.get(name, "0" if name == "LOCAL_RANK" else "")
        if name == "MASTER_PORT" and numbers["WORLD_SIZE"] == 1:
            continue
        if not text.isdecimal():
            raise _bad_world(f"{name}={text}", "not a whole number")
        numbers[name] = int(text)
    if not numbers["RANK"] < numbers["WORLD_SIZE"]:
        raise _bad_world(f"RANK={numbers['RANK']}", f"WORLD_SIZE is {numbers['WORLD_SIZE']}")
    return numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"]


def _bad_world(subject: str, why: str) -> ConfigError:
    do = "start the ranks with torchrun, or unset RANK and WORLD_SIZE for one process"
    return ConfigError("BAD_WORLD", subject, why, do)


def _join(
    rank: int, world_size: int, backend: str, timeout_s: float, rendezvous_timeout_s: float
) -> None:
    """Meet at the store first, with a short wait, then agree on the long one for the work."""
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    wait = timedelta(seconds=rendezvous_timeout_s)
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=wait))
        store.set(f"deitkit/arrived/{rank}", "yes")
        store.wait([f"deitkit/arrived/{other}" for other in range(world_size)], wait)
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
    except (RuntimeError, ValueError) as error:
        raise WorkerError(
            "RENDEZVOUS",
            address,
            f"rank {rank} did not find all {world_size} ranks ({_first_line(error)})",
            "start all ranks at once with torchrun, and choose a free port with --master-port",
        ) from error


def _is_about_ranks(error: RuntimeError) -> bool:
    """Gloo raises plain RuntimeErrors, told apart by who speaks; memory errors are not ours."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return any(
        word in text for word in ("gloo", "Gloo", "NCCL", "Connection closed", "ProcessGroup")
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
