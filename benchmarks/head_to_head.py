"""deitkit's defaults, timm's script and a plain torch CNN for the same wall clock on the same data.

    python benchmarks/head_to_head.py fashion_mnist [--only deitkit timm torch] [--budget 10m]

deitkit  `deitkit train data=... budget=... teacher=auto ranks=auto` and nothing else: the student
         of `python benchmarks/accuracy.py NAME`, which has to be run before.
timm     what timm's train.py does with its defaults and its token distillation: a distilled
         DeiT-tiny at the images' own size (patches of 4; photographs at 64 px, patches of 8), SGD
         at 0.1 x batch / 256 with momentum, batch 128, cosine, crops from 8 % on, flips, colour
         jitter, smoothing 0.1, TokenDistillationTask as it comes. Its teacher is the one that
         deitkit trained, given to it; the time that took is taken off its budget.
torch    a loop as tutorials write it: ResNet-20 (He et al. 2016, section 4.2), SGD with Nesterov's
         momentum at 0.1, weight decay 5e-4, batch 128, shifts and flips, cosine.

Both rivals fit their cosine to the clock with what a step takes, as a user would who tries first;
that trying is not counted. Each arm's clock starts with its command and ends with its last answer.
Runs of 10 minutes a data set of 28 px, 30 of 32 px, 45 of photographs; two cores.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import accuracy
import numpy as np
import torch
from finetune import declare_torchvision_ops
from results_table import hardware, percent_interval, rows_of, today_and_commit, write_line
from torch import Tensor, nn
from torch.nn import functional as F

from deitkit.config import parse_duration_s

ARMS = ("deitkit", "timm", "torch")
BATCH_SIZE = 128
NUM_TRIED = 12


class Row(NamedTuple):
    said: str
    budget_s: int
    side: int
    patch_size: int
    channels: int = 3
    mirrored: bool = True


def like_accuracy(name: str, **pictures: int) -> Row:
    """With the name and the clock that accuracy.py gives the data."""
    return Row(accuracy.ROWS[name].said, accuracy.ROWS[name].budget_s, **pictures)


ROWS = {
    "fashion_mnist": like_accuracy("fashion_mnist", side=28, patch_size=4, channels=1),
    "cifar10": like_accuracy("cifar10", side=32, patch_size=4),
    "imagenette": like_accuracy("imagenette", side=64, patch_size=8),
}


class Ended(NamedTuple):
    model: str
    parameters: int
    num_right: int
    num_images: int
    seconds: float
    num_seen: int
    """Training views."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=ROWS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--budget", help="60s, 10m, of the rivals: not written down")
    parser.add_argument("--only", nargs="*", choices=ARMS, default=ARMS)
    a = parser.parse_args()
    row = ROWS[a.name]
    if a.budget:
        row = row._replace(budget_s=round(parse_duration_s(a.budget)))
    run = a.out / f"{a.name}-seed0" / "student0"
    for arm in a.only:
        if arm == "deitkit":
            line = deitkit_line(row, run)
        else:
            ended = (
                timm_arm(row, a.data / a.name, run)
                if arm == "timm"
                else torch_arm(row, a.data / a.name)
            )
            cells = (
                row.said,
                arm,
                f"{ended.model}, {ended.parameters:,}",
                f"{100 * ended.num_right / ended.num_images:.2f} %",
                percent_interval(ended.num_right, ended.num_images),
                f"{ended.seconds:,.0f}",
                f"{ended.num_seen:,}",
                f"{hardware()}, {today_and_commit()}",
            )
            line = f"| {' | '.join(cells)} |"
        print(line, flush=True)
        if not a.budget:
            write_line(line, table="head_to_head.py")


def deitkit_line(row: Row, run: Path) -> str:
    """As accuracy.py measured it: the same command, data and clock."""
    found = [cells for cells in rows_of("accuracy.py") if cells[:2] == [row.said, "student"]]
    if not found or not (run / "result.json").is_file():
        raise SystemExit(f"no student in {run}: first run `python benchmarks/accuracy.py NAME`")
    _, _, model, accuracy, interval, seconds, _, measured_on = found[0]
    result = json.loads((run / "result.json").read_text())
    num_seen = f"{round(result['num_train'] * result['epochs']):,}"
    cells = (row.said, "deitkit", model, accuracy, interval, seconds, num_seen, measured_on)
    return f"| {' | '.join(cells)} |"


def timm_arm(row: Row, data: Path, run: Path) -> Ended:
    declare_torchvision_ops()
    import timm
    from timm.data import create_transform
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.task import TokenDistillationTask

    from deitkit.teachers import Classifier
    from deitkit.training.teacher_source import open_teacher

    taught = run / "teacher"
    teacher = open_teacher(taught, device=torch.device("cpu"))
    assert isinstance(teacher, Classifier) and teacher.module is not None
    result = json.loads((taught / "result.json").read_text())
    started = time.monotonic() - result["command_seconds"]
    torch.manual_seed(42)
    mean, std = teacher.mean, teacher.std
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224",
        img_size=row.side,
        patch_size=row.patch_size,
        in_chans=row.channels,
        num_classes=10,
    )
    task = TokenDistillationTask(
        student_model=model,
        teacher_model=Logits(teacher.module),
        criterion=LabelSmoothingCrossEntropy(0.1),
        verbose=False,
    )
    optimizer = create_optimizer_v2(
        model, opt="sgd", lr=0.1 * BATCH_SIZE / 256, weight_decay=2e-5, momentum=0.9
    )
    transform = create_transform(
        row.side,
        is_training=True,
        color_jitter=0.4 if row.channels == 3 else None,
        interpolation="bicubic",
        mean=mean,
        std=std,
    )
    still = create_transform(row.side, crop_pct=1.0, interpolation="bicubic", mean=mean, std=std)
    images, labels = read_pictures(data, "train", row.channels)
    labels_N = torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(42)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for part in in_order(len(images), generator):
            yield torch.stack([transform(images[i]) for i in part.tolist()]), labels_N[part]

    def loss_of(pixels: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = task(pixels, targets)["loss"]
        return loss

    task.train()
    num_seen = fit(
        model,
        optimizer,
        batches,
        loss_of,
        until=started + 0.98 * row.budget_s,
        warmup=0.05,
    )
    task.eval()
    tests, truth = read_pictures(data, "test", row.channels)
    with torch.no_grad():
        parts = [tests[i : i + 100] for i in range(0, len(tests), 100)]
        answers = [model(torch.stack([still(one) for one in part])).argmax(1) for part in parts]
    num_right = int((torch.cat(answers).numpy() == truth).sum())
    return Ended(
        f"deit_tiny_distilled, patches of {row.patch_size}, {row.side} px",
        sum(p.numel() for p in model.parameters()),
        num_right,
        len(tests),
        time.monotonic() - started,
        num_seen,
    )


class Logits(nn.Module):
    """deitkit's network as timm calls one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).cls_logits
        return logits


def torch_arm(row: Row, data: Path) -> Ended:
    started = time.monotonic()
    torch.manual_seed(0)
    pictures, labels = read_pictures(data, "train", row.channels)
    pixels = to_tensor(pictures, row)
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)
    pixels = (pixels - mean) / std
    labels_N = torch.from_numpy(labels)
    # Photographs: a first stride of 2, so that the maps are of 32 px.
    model = ResNet20(row.channels, stride=max(1, row.side // 32))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    generator = torch.Generator().manual_seed(0)
    pad = row.side // 8

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for part in in_order(len(pixels), generator):
            wide = F.pad(pixels[part], [pad] * 4)
            top, left = torch.randint(0, 2 * pad + 1, (2, len(part)), generator=generator).tolist()
            flips = (torch.rand(len(part), generator=generator) < 0.5 * row.mirrored).tolist()
            shown = []
            for one, y, x, flip in zip(wide, top, left, flips, strict=True):
                crop = one[:, y : y + row.side, x : x + row.side]
                shown.append(crop.flip(2) if flip else crop)
            yield torch.stack(shown).contiguous(memory_format=torch.channels_last), labels_N[part]

    model.train()
    num_seen = fit(
        model,
        optimizer,
        batches,
        lambda shown, targets: F.cross_entropy(model(shown), targets),
        until=started + 0.98 * row.budget_s,
        warmup=0.0,
    )
    model.eval()
    tests, truth = read_pictures(data, "test", row.channels)
    with torch.no_grad():
        shown = (to_tensor(tests, row) - mean) / std
        answers = torch.cat([model(part).argmax(1) for part in shown.split(250)])
    return Ended(
        "ResNet-20",
        sum(p.numel() for p in model.parameters()),
        int((answers.numpy() == truth).sum()),
        len(tests),
        time.monotonic() - started,
        num_seen,
    )


class ResNet20(nn.Module):
    """Three stages of three blocks, 16, 32 and 64 channels."""

    def __init__(self, in_channels: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, 16, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        pairs = itertools.pairwise(widths)
        self.blocks = nn.Sequential(*(BasicBlock(a, b) for a, b in pairs))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.first(images))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class BasicBlock(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(branch + self.shortcut(x))


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    until: float,
    warmup: float,
) -> int:
    """Train until the clock says so; the number of views. A few steps are tried first, and undone
    and paid back."""

    def step(shown: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        loss_of(shown, targets).backward()
        optimizer.step()

    saved = {name: value.clone() for name, value in model.state_dict().items()}
    peaks = [group["lr"] for group in optimizer.param_groups]
    times = [time.monotonic()]
    for _, batch in zip(range(NUM_TRIED), batches(), strict=False):
        step(*batch)
        times.append(time.monotonic())
    until += times[-1] - times[0]
    model.load_state_dict(saved)
    optimizer.state.clear()
    planned = max(1, round((until - time.monotonic()) / float(np.median(np.diff(times)))))
    done = num_seen = 0
    while True:
        for shown, targets in batches():
            if time.monotonic() > until:
                return num_seen
            share = min(1.0, done / planned)
            rise = min(1.0, done / (warmup * planned)) if warmup else 1.0
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * rise * 0.5 * (1 + math.cos(math.pi * share))
            step(shown, targets)
            done, num_seen = done + 1, num_seen + len(shown)


def in_order(num: int, generator: torch.Generator) -> list[Tensor]:
    """Whole batches of one epoch."""
    parts = torch.randperm(num, generator=generator).split(BATCH_SIZE)
    return [part for part in parts if len(part) == BATCH_SIZE]


def read_pictures(folder: Path, split: str, channels: int) -> tuple[list[Any], np.ndarray]:
    import pyarrow.parquet as parquet
    from PIL import Image

    pictures, labels = [], []
    for path in sorted(folder.rglob(f"*{split}*.parquet")):
        table = parquet.read_table(path).to_pydict()
        labels += table["label"]
        for cell in table["image"]:
            picture = Image.open(io.BytesIO(cell["bytes"]))
            pictures.append(picture.convert("L" if channels == 1 else "RGB"))
    return pictures, np.array(labels)


def to_tensor(pictures: list[Any], row: Row) -> Tensor:
    from PIL import Image

    sized = [
        one if one.size == (row.side, row.side) else one.resize((row.side,) * 2, Image.BICUBIC)
        for one in pictures
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(one) for one in sized])).float() / 255
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()


if __name__ == "__main__":
    main()
