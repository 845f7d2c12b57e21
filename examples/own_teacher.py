"""A network of your own teaches: CIFAR-10's ResNet-56 and a small DeiT.

    python examples/own_teacher.py resnet56.th cifar10/ runs/student

The first file holds weights of ResNet-56 for CIFAR-10 as they are commonly shared (a state dict
under "state_dict", shortcuts without parameters), the folder the training images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deitkit
from deitkit.teachers import Classifier

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def own_teacher(weights: Path) -> Classifier:
    """All that deitkit must know of a network: how its images are made, and what it calls them."""
    saved = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    network = ResNet(blocks_per_stage=9)
    network.load_state_dict({key.removeprefix("module."): value for key, value in saved.items()})
    return Classifier.from_callable(
        network,
        name="ResNet-56",
        version="1",
        image_size=32,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        class_names=CLASSES,
    )


class Block(nn.Module):
    """Two convolutions and a shortcut: the image itself, thinned out, new channels zero."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.step = num_out // num_in
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride=self.step, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        new = (y.shape[1] - x.shape[1]) // 2
        return F.relu(y + F.pad(x[:, :, :: self.step, :: self.step], (0, 0, 0, 0, new, new)))


class ResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels: He et al. 2015, arXiv:1512.03385, section 4.2."""

    def __init__(self, blocks_per_stage: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (num_in, num_out) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = [Block(num_in, num_out)]
            blocks += [Block(num_out, num_out) for _ in range(blocks_per_stage - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images))))))
        return self.linear(x.mean(dim=(2, 3)))


if __name__ == "__main__":
    weights, images, out = sys.argv[1:]
    run = deitkit.train(data=images, teacher=own_teacher(Path(weights)), out=out)
    print(run.evaluate(f"{images}/test").accuracy)
