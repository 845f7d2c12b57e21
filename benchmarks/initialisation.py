"""How the weights of a small DeiT start, and how far it has come after a few hundred steps.

`python benchmarks/initialisation.py` prints the rows behind the table of docs/concepts.md, section
6: plain DeiT blocks (depth 4, patches of 4 x 4) on the embedded digits, every fifth image for the
test, AdamW, no augmentation, the same seeds for every start. Minutes on one core.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import nn
from torch.nn import functional as F

import deitkit
from deitkit.cli.demo import load_digits
from deitkit.optim import cosine_with_warmup

STARTS = {
    "trunc_normal": "truncated normal, .02, cut at 2",
    "normal": "normal, .02",
    "cut_at_two": "truncated normal, .02, cut at .04",
    "kaiming": "Kaiming normal",
    "constant": "constant, .02",
}
LENGTHS = ((64, 100), (64, 300), (192, 100))
"""Width of the network and training steps of each part of the table."""
BATCH_SIZE = 128
PEAK_LR = 2e-3


def build_model(start: str, *, width: int, seed: int) -> nn.Module:
    """A DeiT of four blocks for 8 x 8 grey images, its linear weights started as `start` says."""
    torch.manual_seed(seed)
    model = deitkit.create_model(
        "deit_nano_patch4_8",
        num_classes=10,
        in_channels=1,
        embed_dim=width,
        weight_init=start if start in ("kaiming", "constant") else "trunc_normal",
    )
    for module in model.modules():
        if isinstance(module, nn.Linear) and start == "normal":
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and start == "cut_at_two":
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    return model


def train(start: str, *, width: int, seed: int, num_steps: int) -> tuple[float, float]:
    """Test accuracy in percent, and the standard deviation that the linear weights began with."""
    images, labels, _ = load_digits()
    images_BCHW = torch.from_numpy(images).float()[:, None] / 127.5 - 1
    labels_B = torch.from_numpy(labels).long()
    is_test_B = torch.arange(len(labels_B)) % 5 == 0
    train_BCHW, train_B = images_BCHW[~is_test_B], labels_B[~is_test_B]
    model = build_model(start, width=width, seed=seed)
    linear = [m.weight.flatten() for m in model.modules() if isinstance(m, nn.Linear)]
    deviation = torch.cat(linear).std().item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.05)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_with_warmup(
                step, total=num_steps, peak=PEAK_LR, end=1e-5, warmup=num_steps / 10, start=1e-6
            )
        chosen_B = torch.randint(len(train_B), (BATCH_SIZE,))
        loss = F.cross_entropy(model(train_BCHW[chosen_B]).cls_logits, train_B[chosen_B])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        decisions_B = model(images_BCHW[is_test_B]).cls_logits.argmax(1)
    return 100 * (decisions_B == labels_B[is_test_B]).float().mean().item(), deviation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| weights | width | deviation | steps | test accuracy | lowest to highest |")
    print("|---|---|---|---|---|---|")
    for width, num_steps in LENGTHS:
        for start, name in STARTS.items():
            runs = [
                train(start, width=width, seed=seed, num_steps=num_steps)
                for seed in range(arguments.seeds)
            ]
            accuracies = [accuracy for accuracy, _ in runs]
            print(
                f"| {name} | {width} | {runs[0][1]:.4f} | {num_steps} "
                f"| {statistics.mean(accuracies):.1f} % "
                f"| {min(accuracies):.1f} to {max(accuracies):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
