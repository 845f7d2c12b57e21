"""Optimizer state and other trees: through the disk and back, equal in every bit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deitkit.artifacts.checkpoint import (
    load_newest,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
)
from deitkit.artifacts.state_tree import pack_tree, unpack_tree

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.99)),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-3), amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
}


def two_steps(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=chance)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizer_goes_on_with_the_same_bits(tmp_path, kind):
    """T17: through the disk between two steps, against the optimizer never interrupted."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = OPTIMIZERS[kind](groups)
    two_steps(model, optimizer, 1)
    weights = copy.deepcopy(model.state_dict())
    tensors, description = pack_optimizer(optimizer.state_dict())
    save_checkpoint(
        tmp_path, step=2, tensors=tensors, state={"o": description}, lineage="", machine={}
    )
    two_steps(model, optimizer, 2)

    resumed = copy.deepcopy(model)
    resumed.load_state_dict(weights)
    plain = [{"params": [p for p in resumed.parameters() if (p.ndim > 1) == d]} for d in (1, 0)]
    again = OPTIMIZERS[kind](plain)
    checkpoint = load_newest(tmp_path)
    again.load_state_dict(unpack_optimizer(checkpoint.tensors, checkpoint.state["o"]))
    two_steps(resumed, again, 2)

    assert all(map(torch.equal, resumed.parameters(), model.parameters()))
    one, other = optimizer.state_dict(), again.state_dict()
    assert one["param_groups"] == other["param_groups"]
    assert type(other["param_groups"][0].get("betas", ())) is tuple
    for index, moments in one["state"].items():
        for name, value in moments.items():
            back = other["state"][index][name]
            same = torch.equal(back, value) if isinstance(value, torch.Tensor) else back == value
            assert same, (index, name)


TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(TREE)
def test_any_tree_survives_json(value):
    tensors, description = pack_tree(value, "root")
    assert tensors == {}
    back = unpack_tree(tensors, json.loads(json.dumps(description, allow_nan=False)))
    assert back == value and repr(back) == repr(value)


@pytest.mark.parametrize("value", [object(), {1.5: 0}, {True: 0}, [{"a": {1, 2}}], b"bytes"])
def test_what_would_need_pickle_is_named(value):
    with pytest.raises(TypeError, match="root"):
        pack_tree(value, "root")
