"""Ranks: alone without torch.distributed, and two real processes over gloo."""

from __future__ import annotations

import os
import pickle
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from deitkit.errors import ConfigError, WorkerError
from deitkit.runtime.world import World
from tests.training.ranks import forking_context, free_port

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    return lambda **values: [monkeypatch.setenv(k, str(v)) for k, v in values.items()]


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}])
def test_one_process_never_touches_torch_distributed(environment, monkeypatch, variables):
    environment(**variables)
    for name in ("init_process_group", "all_reduce", "all_gather", "rendezvous", "barrier"):
        monkeypatch.setattr(dist, name, None)
    world = World.from_environment(device="cpu")
    model = nn.Linear(2, 2)
    values = torch.tensor([1.0, 2.0])
    rows = np.arange(4).reshape(2, 2)
    assert world == World() and world.is_main
    assert world.wrap(model) is model
    with world.no_sync(model), world.lost_ranks_told():
        pass
    assert world.max(3) == 3 and world.any(True) and not world.any(False)
    assert torch.equal(world.sum(values), values) and world.sum(values) is not values
    assert world.gather_rows(rows) is rows
    assert world.broadcast_json({"a": 1}) == {"a": 1}
    world.barrier()
    world.close()


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "two", "RANK": 0, "MASTER_PORT": 1},
        {"WORLD_SIZE": 2, "RANK": 2, "MASTER_PORT": 1},
        {"WORLD_SIZE": 2, "MASTER_PORT": 1},
        {"WORLD_SIZE": 2, "RANK": -1, "MASTER_PORT": 1},
        {"WORLD_SIZE": 2, "RANK": 0},
    ],
)
def test_impossible_variables_are_a_config_error(environment, variables):
    environment(**variables)
    with pytest.raises(ConfigError, match="torchrun") as caught:
        World.from_environment(device="cpu")
    assert caught.value.code == "BAD_WORLD"


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_do_not_meet_name_host_and_port(environment, rank):
    """T37: rank 0 waits for rank 1 in vain; rank 1 finds nobody at the port."""
    port = free_port()
    environment(WORLD_SIZE=2, RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with pytest.raises(WorkerError) as caught:
        World.from_environment(device="cpu", rendezvous_timeout_s=1)
    assert caught.value.code == "RENDEZVOUS" and caught.value.exit_code == 8
    assert caught.value.subject == f"127.0.0.1:{port}"
    assert not dist.is_initialized()


def test_port_in_use_names_it(environment):
    """T37."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment(WORLD_SIZE=2, RANK=0, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        with pytest.raises(WorkerError, match=r"EADDRINUSE|in use") as caught:
            World.from_environment(device="cpu", rendezvous_timeout_s=5)
    assert caught.value.subject == f"127.0.0.1:{port}"


def test_errors_that_are_not_about_ranks_pass():
    world = World(rank=0, world_size=2, backend="gloo")
    with pytest.raises(RuntimeError, match="out of memory"), world.lost_ranks_told():
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] out of memory")
    with pytest.raises(WorkerError, match="rank 0 of 2"), world.lost_ranks_told():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")


def rank_main(rank: int, port: int, folder: str) -> None:
    """All that two ranks say to each other, written down; then rank 1 is killed."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    world = World.from_environment(device="cpu")
    seen: dict[str, Any] = {"world": (world.rank, world.world_size, world.backend, world.is_main)}
    seen["max"] = [world.max(7 + rank), world.max(2**52 + rank)]
    seen["any"] = [world.any(False), world.any(rank == 1), world.any(True)]
    seen["sum"] = world.sum(torch.tensor([1.5, rank])).tolist()
    # Rank 0 holds 3 rows, rank 1 holds 1; then rank 0 none.
    rows = torch.arange(4 * 2, dtype=torch.float64).reshape(4, 2)
    seen["rows"] = world.gather_rows(rows[:3] if rank == 0 else rows[3:]).tolist()
    seen["empty"] = world.gather_rows(rows[:0] if rank == 0 else rows[:1]).tolist()
    seen["none"] = tuple(world.gather_rows(rows[:0]).shape)
    # As a rank sees it that has no image of a short list.
    seen["stride"] = world.gather_rows(np.arange(rank, 1, 2)).tolist()
    seen["bool"] = world.gather_rows(np.array([rank == 1] * (1 + rank)))
    seen["bf16"] = world.gather_rows(torch.full((1, 3), 0.1 + rank, dtype=torch.bfloat16))
    seen["json"] = world.broadcast_json({"from": rank, "steps": [1, 2]})
    world.barrier()
    seen["grads"] = gradients(world)
    seen["lost"] = None
    save(folder, rank, seen)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        world.any(False)
    except WorkerError as error:
        seen["lost"] = str(error)
    save(folder, rank, seen)
    os._exit(0)


def gradients(world: World) -> list[list[float]]:
    """Mean over ranks of the gradient; one micro-batch without and one with exchange."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    wrapped = world.wrap(model)
    inputs = torch.tensor([[1.0, 2.0]]) * (1 + world.rank)
    with world.no_sync(wrapped):
        wrapped(inputs).sum().backward()
    assert model.weight.grad is not None
    local = model.weight.grad.clone()
    wrapped(inputs).sum().backward()
    return [local[0].tolist(), model.weight.grad[0].tolist()]


def save(folder: str, rank: int, seen: dict[str, Any]) -> None:
    (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(seen))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    context = forking_context()
    port = free_port()
    processes = [
        context.Process(target=rank_main, args=(rank, port, str(folder))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL]
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


def test_two_ranks_know_who_they_are(two_ranks):
    assert [seen["world"] for seen in two_ranks] == [(0, 2, "gloo", True), (1, 2, "gloo", False)]


def test_two_ranks_agree_on_numbers_by_hand(two_ranks):
    for seen in two_ranks:
        assert seen["max"] == [8, 2**52 + 1]
        assert seen["any"] == [False, True, True]
        assert seen["sum"] == [3.0, 1.0]
        assert seen["json"] == {"from": 0, "steps": [1, 2]}


def test_rows_arrive_in_rank_order_whatever_their_number(two_ranks):
    """T38."""
    for seen in two_ranks:
        assert seen["rows"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert seen["empty"] == [[0, 1]]
        assert seen["none"] == (0, 2)
        assert seen["stride"] == [0]
        assert seen["bool"].dtype == np.bool_ and seen["bool"].tolist() == [False, True, True]
        expected = torch.tensor([[0.1] * 3, [1.1] * 3], dtype=torch.bfloat16)
        assert torch.equal(seen["bf16"], expected)


def test_gradients_are_means_over_ranks_by_hand(two_ranks):
    """Inputs (1, 2) and (2, 4): local gradients; then twice that, averaged: 2 x (1.5, 3)."""
    assert [seen["grads"][0] for seen in two_ranks] == [[1, 2], [2, 4]]
    assert [seen["grads"][1] for seen in two_ranks] == [[3, 6], [3, 6]]


def test_survivor_is_told_of_a_killed_rank(two_ranks):
    """T35: through the closed connection, long before any timeout."""
    assert "[RANK_LOST] rank 0 of 2: rank 1 (pid " in two_ranks[0]["lost"]
    assert "ended without a word" in two_ranks[0]["lost"]
