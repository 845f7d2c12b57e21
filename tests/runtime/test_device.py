"""Which device, which precision, which machine, how much memory."""

from __future__ import annotations

import json

import pytest
import torch

from deitkit.errors import ConfigError
from deitkit.runtime import memory
from deitkit.runtime.device import (
    compare_machines,
    describe_machine,
    has_bfloat16_units,
    pick_device,
    precision_for,
)


def pretend(monkeypatch, *, cuda: int, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    "cuda, mps, local_rank, picked",
    [(0, False, 0, "cpu"), (0, True, 0, "mps"), (2, True, 0, "cuda:0"), (2, False, 1, "cuda:1")],
)
def test_auto_takes_cuda_then_mps_then_cpu(monkeypatch, cuda, mps, local_rank, picked):
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert pick_device("auto", local_rank) == torch.device(picked)
    assert pick_device("cpu", local_rank) == torch.device("cpu")


@pytest.mark.parametrize(
    "name, cuda, local_rank, code",
    [
        ("gpu", 0, 0, "BAD_DEVICE"),
        ("", 0, 0, "BAD_DEVICE"),
        ("meta", 0, 0, "BAD_DEVICE"),
        ("cuda", 0, 0, "NO_DEVICE"),
        ("mps", 0, 0, "NO_DEVICE"),
        ("cuda:2", 2, 0, "NO_DEVICE"),
        ("cuda", 2, 2, "NO_DEVICE"),
    ],
)
def test_device_that_is_not_there(monkeypatch, name, cuda, local_rank, code):
    pretend(monkeypatch, cuda=cuda, mps=False)
    with pytest.raises(ConfigError, match="set device to one of: auto") as caught:
        pick_device(name, local_rank)
    assert caught.value.code == code


def test_named_index_wins_over_local_rank(monkeypatch):
    pretend(monkeypatch, cuda=4, mps=False)
    assert pick_device("cuda:3", 1) == torch.device("cuda:3")


def test_bf16_only_on_cuda_that_has_it(monkeypatch):
    assert precision_for(torch.device("cpu")) is None
    assert precision_for(torch.device("mps")) is None
    for has_it, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it, **_: has_it)
        assert precision_for(torch.device("cuda", 0)) == expected


def test_a_cpu_without_amx_has_no_units_for_bf16_and_answers_in_float32_with_it(monkeypatch):
    for found in ({}, {"amx_bf16": False}, {"amx_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert has_bfloat16_units(torch.device("cpu")) is found.get("amx_bf16", False)
        assert precision_for(torch.device("cpu")) is None
        assert not has_bfloat16_units(torch.device("mps"))
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not has_bfloat16_units(torch.device("cpu"))


def test_machine_is_json_and_equal_to_itself():
    machine = describe_machine(torch.device("cpu"))
    assert compare_machines(json.loads(json.dumps(machine)), describe_machine()) == []
    assert machine["torch"] == torch.__version__
    assert machine["threads"] == torch.get_num_threads()


def test_differences_are_named():
    """T19."""
    before = {"torch": "2.13.0", "threads": 2, "gpu": "H100"}
    now = {"torch": "2.13.0", "threads": 1, "device": "cpu"}
    assert compare_machines(before, now) == ["threads 2→1", "gpu H100→none", "device none→cpu"]


def test_available_memory_is_the_least_that_is_known(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   30 kB\n")
    assert memory._meminfo_bytes(tmp_path / "meminfo") == 30 * 1024
    assert memory._meminfo_bytes(tmp_path / "none") is None
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1800\n")
    assert memory._container_bytes(tmp_path) == 3200
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container_bytes(tmp_path) is None
    monkeypatch.setattr(memory, "_meminfo_bytes", lambda: 30 * 1024)
    monkeypatch.setattr(memory, "_container_bytes", lambda: 3200)
    assert memory.available_memory_bytes() == 3200


def test_the_most_memory_so_far_does_not_fall(tmp_path):
    """Read from the kernel's own line (in KiB); 64 MB that are written to and given back count."""
    status = tmp_path / "status"
    status.write_text("VmPeak:\t  99 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    assert memory.peak_memory_bytes(status) == 2 * 2**20
    before = memory.peak_memory_bytes()
    block = torch.ones(16 * 2**20)
    assert block.sum() > 0
    del block
    after = memory.peak_memory_bytes()
    assert before <= after
    assert abs(memory.peak_memory_bytes(tmp_path / "none") - after) < after
