"""What `deitkit plan` forecasts, and what the training that follows takes.

    python benchmarks/planner.py [SET ...] [--data FOLDER] [--out FOLDER] [--budget 75s]
    python benchmarks/planner.py --collect

Each set: the images are written once, then `deitkit plan` and `deitkit train` run as a user types
them, one after the other, with the same settings and the same budget. Seconds are those of the
whole program `train`, from outside; memory is the most its process held. `--collect` prints the
table of all sets that were run into the same folder.

digits          1,797 scans of 8x8, a teacher trained first
fashion_mnist   6,000 pictures of 28x28, grey
cifar10         800 pictures of 32x32, from DeiT-tiny's public weights at 96 pixels
imagenette      3,200 JPEGs of 224x224 at 64 pixels, from scratch
photographs     500 JPEGs of 1600x1200 made here, decoded once into an image cache on disk
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deitkit.cli.demo import write_digits
from deitkit.data import open_split

PROGRAM = Path(sys.executable).with_name("deitkit")
DEIT_TINY = "weights/deit_tiny_patch16_224/deit_tiny_patch16_224.pth"


@dataclass(frozen=True)
class Set:
    """One data set: who writes it, and the settings beside data, out and budget."""

    write: Callable[[Path, Path], Path]
    """From the folder of real data and a folder of its own to the data."""
    settings: Callable[[Path, Path], list[str]]


def digits(shared: Path, folder: Path) -> Path:
    if not folder.exists():
        write_digits(folder)
    return folder


def part_of(name: str, num: int) -> Callable[[Path, Path], Path]:
    """The first `num` training pictures as PNG files, a folder a class."""

    def write(shared: Path, folder: Path) -> Path:
        if folder.exists():
            return folder
        images = open_split(shared / name, split="train")
        unfinished = folder.with_name(f"{folder.name}-unfinished")
        for place in np.linspace(0, len(images) - 1, num).astype(int).tolist():
            own = unfinished / images.class_names[images.labels[place]]
            own.mkdir(parents=True, exist_ok=True)
            pixels_HWC = images.image(place)
            if pixels_HWC.shape[2] == 1:
                pixels_HWC = pixels_HWC[:, :, 0]
            Image.fromarray(pixels_HWC).save(own / f"{place}.png")
        unfinished.rename(folder)
        return folder

    return write


def photographs(shared: Path, folder: Path) -> Path:
    """Waves and grain in two classes: wide waves and narrow ones."""
    if folder.exists():
        return folder
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    y, x = np.mgrid[0:1200, 0:1600].astype(np.float32) / 1600
    for number in range(500):
        chance = np.random.default_rng(number)
        kind = ("wide", "narrow")[number % 2]
        along, down = chance.uniform(5, 40, 2) * (1, 4)[number % 2]
        wave = np.sin(along * x + down * y + chance.uniform(0, 6)).astype(np.float32)
        grain = chance.integers(-8, 8, (1200, 1600, 3))
        picture = 128 + 90 * wave[:, :, None] * chance.uniform(0.4, 1, 3) + grain
        own = unfinished / kind
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(own / f"{number}.jpg")
    unfinished.rename(folder)
    return folder


def real(name: str) -> Callable[[Path, Path], Path]:
    return lambda shared, folder: shared / name


def no_settings(shared: Path, folder: Path) -> list[str]:
    return []


SETS = {
    "digits": Set(digits, lambda shared, folder: ["teacher=auto"]),
    "fashion_mnist": Set(part_of("fashion_mnist", 6_000), no_settings),
    "cifar10": Set(part_of("cifar10", 800), lambda shared, folder: [f"init={shared / DEIT_TINY}"]),
    "imagenette": Set(real("imagenette"), lambda shared, folder: ["image_size=64", "init=scratch"]),
    "photographs": Set(
        photographs,
        lambda shared, folder: [
            "init=scratch",
            "data.image_cache=disk",
            f"data.image_cache_folder={folder.parent / 'image-caches'}",
        ],
    ),
}


def run_set(name: str, shared: Path, out: Path, budget: str) -> dict[str, Any]:
    """Plan, then train, each in a process of its own; what was forecast and what came."""
    data = SETS[name].write(shared, out / "data" / name)
    run = out / "runs" / name
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(out / "data" / "image-caches", ignore_errors=True)
    settings = [f"data={data}", f"budget={budget}", f"out={run}"]
    settings += SETS[name].settings(shared, out / "data" / name)
    start = time.monotonic()
    planned = subprocess.run(
        [PROGRAM, "plan", *settings, "--json"], check=True, capture_output=True, text=True
    )
    plan_s = time.monotonic() - start
    start = time.monotonic()
    subprocess.run([PROGRAM, "train", *settings], check=True, capture_output=True)
    seconds = time.monotonic() - start
    result = json.loads((run / "result.json").read_text())
    beside = json.loads((run / "forecast.json").read_text())
    plan = json.loads(planned.stdout)
    return {
        "settings": settings,
        "plan_s": plan_s,
        "plan": plan["forecast"],
        "planned_steps": plan["settings"]["schedule.steps"],
        "steps": result["steps"],
        "model": result["model"],
        "train_forecast": beside["forecast"],
        "spent": beside["spent"],
        "seconds": seconds,
    }


def print_table(found: dict[str, dict[str, Any]]) -> None:
    print("| | plan took | forecast | took | off | forecast of train itself | memory forecast | "
          "most held | off |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name, one in found.items():
        plan, spent = one["plan"], one["spent"]
        off = plan["total_s"] / one["seconds"] - 1
        memory_off = plan["memory_bytes"] / spent["memory_bytes"] - 1
        print(
            f"| {name} | {one['plan_s']:.0f} s | {plan['total_s']:.1f} s | {one['seconds']:.1f} s "
            f"| {100 * off:+.0f} % | {one['train_forecast']['total_s']:.1f} s | "
            f"{plan['memory_bytes'] / 1e6:.0f} MB | {spent['memory_bytes'] / 1e6:.0f} MB | "
            f"{100 * memory_off:+.0f} % |"
        )
    print("\nseconds by part, forecast by plan / by train / taken")
    for name, one in found.items():
        parts = dict.fromkeys([*one["plan"]["seconds"], *one["spent"]["seconds"]])
        said = [
            f"{part} "
            + " / ".join(
                f"{one[who]['seconds'].get(part, 0.0):.1f}"
                for who in ("plan", "train_forecast", "spent")
            )
            for part in parts
        ]
        print(f"{name} ({one['model']}, {one['planned_steps']} / {one['steps']} steps): "
              f"{', '.join(said)}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(SETS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/planner"))
    parser.add_argument("--budget", default="75s")
    parser.add_argument("--collect", action="store_true", help="only print what was found before")
    asked = parser.parse_args()
    if unknown := set(asked.sets) - set(SETS):
        parser.error(f"no set is called {', '.join(unknown)}; there are {', '.join(SETS)}")
    shared, out = asked.data.resolve(), asked.out.resolve()
    out.joinpath("data").mkdir(parents=True, exist_ok=True)
    for name in [] if asked.collect else asked.sets or SETS:
        found = run_set(name, shared, out, asked.budget)
        (out / f"{name}.json").write_text(json.dumps(found, indent=1))
        print(f"{name}: forecast {found['plan']['total_s']:.1f} s, took {found['seconds']:.1f} s",
              flush=True)  # fmt: skip
    files = {name: out / f"{name}.json" for name in SETS}
    print_table({name: json.loads(f.read_text()) for name, f in files.items() if f.exists()})


if __name__ == "__main__":
    main()
