"""How ranks find each other: what the launcher says, and where all of them meet."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist

from deitkit.errors import ConfigError, WorkerError
from deitkit.runtime.watch import Watch, first_line


def read_environment() -> tuple[int, int, int]:
    """(rank, world_size, local_rank), or (0, 1, 0) where no launcher set them.

    Raises ConfigError BAD_WORLD for variables that cannot be.
    """
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


def join(
    rank: int, world_size: int, backend: str, timeout_s: float, rendezvous_timeout_s: float
) -> Watch:
    """Meet at the store first, with a short wait, then agree on the long one for the work.

    Raises WorkerError RENDEZVOUS, with host and port, where the others are not found in time.
    """
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    wait = timedelta(seconds=rendezvous_timeout_s)
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=wait))
        watch = Watch(store.clone(), rank, world_size)
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
            f"rank {rank} did not find all {world_size} ranks ({first_line(error)})",
            "start all ranks at once with torchrun, and choose a free port with --master-port",
        ) from error
    watch.start()
    return watch
