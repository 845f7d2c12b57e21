"""Fine-tuning a trained DeiT-tiny on 1,000 images of CIFAR-10, at one wall clock for everybody.

    python benchmarks/finetune.py [--data FOLDER] [--budget 15m] [--only ARM ...]

FOLDER holds cifar10/ (Parquet) and weights/deit_tiny_patch16_224/. The first 100 training
images a class are learnt from, the 10,000 test images only measured on. The clock of an arm starts
with its process and stops when training ends; measuring on the test images comes after it.

race         `deitkit train data=... init=... budget=... strategy=auto` and nothing else; a tenth of
             its images goes to its validation.
deitkit      the same without strategy=auto: the start is fine-tuned.
probe        logistic regression on standardised class-token features, at 128 and at 224 px.
timm         timm's own model, transforms, optimizer and schedule with the defaults of its train.py
             (SGD 0.1 x batch / 256, cosine, 5 epochs of warm-up, batch 128), epochs cut to the
             budget after timing; all 1,000 images; 128 px as deitkit.
timm-adamw   the same with AdamW 5e-4, batch 32, layer decay 0.75: what people who know would set.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

NUM_PER_CLASS = 100
SIDE = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_split(folder: Path, split: str) -> tuple[list, np.ndarray]:
    """Pictures and labels of one split."""
    import pyarrow.parquet as parquet
    from PIL import Image

    pictures, labels = [], []
    for path in sorted(folder.rglob(f"*{split}*.parquet")):
        table = parquet.read_table(path).to_pydict()
        for cell, label in zip(table["image"], table["label"], strict=True):
            labels.append(label)
            pictures.append(cell["bytes"])
    labels_N = np.array(labels)
    if split == "train":
        kept = np.concatenate([np.flatnonzero(labels_N == k)[:NUM_PER_CLASS] for k in range(10)])
        kept.sort()
    else:
        kept = np.arange(len(labels_N))
    images = [Image.open(io.BytesIO(pictures[i])).convert("RGB") for i in kept]
    return images, labels_N[kept]


def write_folder(root: Path, folder: Path) -> list[str]:
    """The two splits as class folders of PNG; the class names."""
    names = (folder / "classes.txt").read_text().split()
    for split in ("train", "test"):
        images, labels = read_split(folder, split)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = root / split / names[label] / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, compress_level=1)
    return names


def run_deitkit(root: Path, weights: Path, budget_s: float, *, strategy: str) -> dict:
    out = root / f"run_{strategy}"
    command = [sys.executable, "-m", "deitkit"]
    start = time.monotonic()
    subprocess.run(
        [
            *(*command, "train", f"data={root / 'train'}", f"init={weights}", f"out={out}"),
            f"budget={round(budget_s)}s",
            f"strategy={strategy}",
        ],
        check=True,
    )
    seconds = time.monotonic() - start
    said = subprocess.run(
        [*command, "evaluate", str(out), f"data={root / 'test'}", "--json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    top1 = json.loads(said)["heads"]["fused"]["top1"]
    return {"accuracy": top1, "seconds": seconds}


@cache
def declare_torchvision_ops() -> torch.library.Library:
    """Beside a CPU build of torch, torchvision imports only once these two are declared, and only
    once can they be."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def timm_model(weights: Path, **arguments: object) -> torch.nn.Module:
    declare_torchvision_ops()
    import timm

    model = timm.create_model("deit_tiny_patch16_224", **arguments)
    state = torch.load(weights, map_location="cpu", weights_only=True)["model"]
    if model.pos_embed.shape != state["pos_embed"].shape:
        from timm.layers import resample_abs_pos_embed

        grid = list(model.patch_embed.grid_size)
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=1)
    if model.num_classes != 1000:
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("head.") for name in missing), missing
    return model


def to_batch(images: list, side: int) -> torch.Tensor:
    from PIL import Image

    pixels = [np.asarray(i.resize((side, side), Image.Resampling.BICUBIC)) for i in images]
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return (batch - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def in_blocks(call, images: list, side: int) -> np.ndarray:
    blocks = [images[i : i + 64] for i in range(0, len(images), 64)]
    return np.concatenate([call(to_batch(block, side)).numpy() for block in blocks])


def run_probe(data: Path, weights: Path, side: int) -> dict:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    start = time.monotonic()
    model = timm_model(weights, img_size=side).eval()
    images, labels = read_split(data, "train")
    features = in_blocks(lambda x: model.forward_features(x)[:, 0], images, side)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    classifier.fit(features, labels)
    seconds = time.monotonic() - start
    images, labels = read_split(data, "test")
    features = in_blocks(lambda x: model.forward_features(x)[:, 0], images, side)
    return {"accuracy": float(classifier.score(features, labels)), "seconds": seconds}


def run_timm(data: Path, weights: Path, budget_s: float, *, adamw: bool) -> dict:
    start = time.monotonic()
    model = timm_model(weights, img_size=SIDE, num_classes=10)
    from timm.data import create_transform
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    torch.manual_seed(42)
    images, labels = read_split(data, "train")
    transform = create_transform(
        SIDE, is_training=True, color_jitter=0.4, interpolation="bicubic", mean=MEAN, std=STD
    )
    batch_size = 32 if adamw else 128
    optimizer = create_optimizer_v2(
        model,
        opt="adamw" if adamw else "sgd",
        lr=5e-4 if adamw else 0.1 * batch_size / 256,
        weight_decay=0.05 if adamw else 2e-5,
        momentum=0.9,
        layer_decay=0.75 if adamw else None,
    )
    loss_of = LabelSmoothingCrossEntropy(0.1)
    order = torch.Generator().manual_seed(42)

    def epoch_batches():
        for part in torch.randperm(len(images), generator=order).split(batch_size):
            yield torch.stack([transform(images[i]) for i in part]), torch.tensor(labels[part])

    def step(pixels, targets) -> None:
        optimizer.zero_grad()
        loss_of(model(pixels), targets).backward()
        optimizer.step()

    saved = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    times = [time.monotonic()]
    for pixels, targets in epoch_batches():
        step(pixels, targets)
        times.append(time.monotonic())
    # The first steps are slow: the median is what an epoch will be made of.
    epoch_s = float(np.median(np.diff(times))) * (len(times) - 1)
    model.load_state_dict(saved)
    optimizer.state.clear()
    epochs = max(1, round((budget_s - (time.monotonic() - start)) / epoch_s))
    peak = 5e-4 if adamw else 0.1 * batch_size / 256
    for group in optimizer.param_groups:
        group["lr"] = peak * group.get("lr_scale", 1.0)
        group["initial_lr"] = group["lr"]
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=min(5, max(1, epochs // 10)),
        warmup_lr=1e-5,
        min_lr=0.0,
    )
    for epoch in range(epochs):
        scheduler.step(epoch)
        for pixels, targets in epoch_batches():
            step(pixels, targets)
    seconds = time.monotonic() - start
    model.eval()
    images, labels = read_split(data, "test")
    predicted = in_blocks(model, images, SIDE).argmax(1)
    return {"accuracy": float((predicted == labels).mean()), "seconds": seconds, "epochs": epochs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--budget", default="15m")
    arms = ("race", "deitkit", "probe", "timm", "timm-adamw")
    parser.add_argument("--only", nargs="*", choices=arms, default=arms)
    parser.add_argument("--work", type=Path, default=None, help="keep files here")
    arguments = parser.parse_args()
    unit = {"s": 1, "m": 60, "h": 3600}[arguments.budget[-1]]
    budget_s = float(arguments.budget[:-1]) * unit
    cifar = arguments.data / "cifar10"
    weights = arguments.data / "weights" / "deit_tiny_patch16_224" / "deit_tiny_patch16_224.pth"
    root = arguments.work or Path(tempfile.mkdtemp())
    if not (root / "test").is_dir():
        write_folder(root, cifar)
    results = {}
    for arm in arguments.only:
        if arm in ("race", "deitkit"):
            strategy = "auto" if arm == "race" else "one"
            results[arm] = run_deitkit(root, weights, budget_s, strategy=strategy)
        elif arm == "probe":
            results |= {f"probe {side} px": run_probe(cifar, weights, side) for side in (128, 224)}
        else:
            results[arm] = run_timm(cifar, weights, budget_s, adamw=arm == "timm-adamw")
        print(json.dumps(results), flush=True)
    print("| arm | accuracy | 95 % interval | seconds of training |\n|---|---|---|---|")
    for arm, result in results.items():
        half = 1.96 * math.sqrt(result["accuracy"] * (1 - result["accuracy"]) / 10_000)
        low, high = 100 * (result["accuracy"] - half), 100 * (result["accuracy"] + half)
        print(
            f"| {arm} | {100 * result['accuracy']:.2f} % | {low:.1f} to {high:.1f} "
            f"| {result['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
