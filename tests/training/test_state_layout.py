"""A state whose convolutions lie channels last comes back from a checkpoint as it was."""

from __future__ import annotations

import pytest
import torch

from deitkit.artifacts.state_tree import to_saved_tensors
from deitkit.models import create_model
from deitkit.optim import WeightAverage, build_optimizer
from deitkit.training.state import TrainState

MODELS = {
    "a CNN, AdamW": ("small_cnn", "adamw"),
    "a CNN, SGD": ("small_cnn", "sgd"),
    "a pooling stem, Muon": ("deit_shallow_quick_patch4_16", "muon"),
}


def fresh(name: str, optimizer: str) -> TrainState:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, image_size=16).train()
    model.to(memory_format=torch.channels_last)
    return TrainState(
        model=model,
        average=WeightAverage(model, decay=0.9, warmup=False),
        optimizer=build_optimizer(
            optimizer,
            model,
            lr=1e-2,
            weight_decay=0.1,
            layer_decay=None,
            betas=(0.9, 0.99),
            eps=1e-8,
            momentum=0.9,
        ),
    )


def train(state: TrainState, *, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(8, 3, 16, 16, generator=generator)
        labels = torch.randint(0, 3, (8,), generator=generator)
        torch.nn.functional.cross_entropy(state.model(images).cls_logits, labels).backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.average.update(state.model, num_updates=step)


@pytest.mark.parametrize("kind", MODELS)
def test_going_on_from_a_checkpoint_is_going_on(kind):
    """Files hold tensors row by row; a fused optimizer walks weight and state side by side."""
    whole = fresh(*MODELS[kind])
    train(whole, first=0, last=6)
    parted = fresh(*MODELS[kind])
    train(parted, first=0, last=3)
    tensors, numbers = parted.pack()
    again = fresh(*MODELS[kind])
    again.unpack(to_saved_tensors(tensors), numbers)
    train(again, first=3, last=6)
    for ours, theirs in ((again.model, whole.model), (again.average.model, whole.average.model)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    convolution = again.model.get_parameter(
        "blocks.1.conv1.0.weight" if "CNN" in kind else "patch_embed.blocks.1.conv1.weight"
    )
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert not convolution.is_contiguous()
