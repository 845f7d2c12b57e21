"""Where the arithmetic runs, in which precision, and what of the machine can change a bit."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch

from deitkit.errors import ConfigError
from deitkit.runtime.memory import available_memory_bytes
from deitkit.runtime.processors import usable_cores

Machine = dict[str, str | int]


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device named, or with "auto" the best one here: CUDA, then Apple's MPS, then the CPU.

    Several ranks on one machine take a CUDA device each, by `local_rank`, unless one is named.

    Raises ConfigError for a name torch does not know (BAD_DEVICE) or a device that this machine
    does not have (NO_DEVICE).
    """
    try:
        device = torch.device(_present()[0] if name == "auto" else name)
    except RuntimeError as error:
        raise ConfigError("BAD_DEVICE", name, "no such kind of device", _choices()) from error
    if device.type not in ("cuda", "mps", "cpu"):
        raise ConfigError("BAD_DEVICE", name, "deitkit does not run on this kind", _choices())
    if device.type not in _present():
        raise ConfigError("NO_DEVICE", name, "this machine (or this torch) has none", _choices())
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError("NO_DEVICE", device, f"only {count} CUDA devices here", _choices())
    return device


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether products of bfloat16 are computed as such: CUDA that has it, CPUs with AMX. Others
    emulate it, on a CPU many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Not in torch 2.9.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))


def precision_for(device: torch.device) -> torch.dtype | None:
    """The autocast dtype of evaluations: bfloat16 on CUDA that has it; None, which is plain
    float32, everywhere else, so that answers are those of an export on the CPU."""
    if device.type == "cuda" and has_bfloat16_units(device):
        return torch.bfloat16
    return None


def free_memory_bytes(device: torch.device) -> int | None:
    """Memory left for one rank of this machine; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = available_memory_bytes()
    return None if free is None else free // num_local_ranks()


def num_local_ranks() -> int:
    """Ranks that share this machine's cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def all_cores() -> Iterator[None]:
    """A block in which this process computes with a thread on every core."""
    before = torch.get_num_threads()
    use_all_cores()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_all_cores() -> None:
    """Compute with a thread on every core from now on, whatever the launcher said."""
    torch.set_num_threads(usable_cores())


def describe_machine(device: torch.device | None = None) -> Machine:
    """What decides whether the same run gives the same bits, as JSON values."""
    machine: Machine = {
        "deitkit": _deitkit_version(),
        "torch": torch.__version__,
        "pillow": metadata.version("pillow"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": "cpu" if device is None else device.type,
    }
    if device is not None and device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
        machine["cuda"] = torch.version.cuda or "unknown"
    return machine


def compare_machines(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Each difference that may change bits, as "threads 2→1"; empty means the same machine."""
    keys = list(dict.fromkeys([*before, *now]))
    return [
        f"{key} {before.get(key, 'none')}→{now.get(key, 'none')}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _present() -> list[str]:
    kinds = ["cuda"] if torch.cuda.is_available() else []
    kinds += ["mps"] if torch.backends.mps.is_available() else []
    return [*kinds, "cpu"]


def _choices() -> str:
    return f"set device to one of: auto, {', '.join(_present())}"


def _deitkit_version() -> str:
    try:
        return metadata.version("deitkit")
    except metadata.PackageNotFoundError:
        return "unknown"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, ValueError):
        pass
    return platform.processor() or "unknown"
