"""How soon and how fast an exported DeiT-tiny answers, against timm.

    GOMP_SPINCOUNT=1000 python benchmarks/answer.py [start] [batch] [folder] [--data FOLDER]
                                                    [--rounds 7]

Without that variable torch's threads spin while they wait, and on a machine that does anything else
timm answers a tenth as many single pictures.

FOLDER holds weights/deit_tiny_patch16_224/; without it the weights are new ones, which takes as
long. deitkit exports the model once, in fp32 and in int8. In every round each way is measured
once, one after the other, the order turned by one each round; medians over the rounds.

start    the whole process of `deitkit predict FILE photo.jpg`, by the clock and in seconds of
         processor, against `python -c "import timm"` (with the two operators of torchvision that
         CPU torch lacks declared first). Its files are in memory already.
batch    64 decoded pictures of 224 x 224, and one, in a process that is warm. timm, eager, is
         given normalised floats; deitkit's predictors are given bytes and normalise as well.
folder   128 JPEGs of 500 x 375, warm. timm: Pillow, timm's own evaluation transform, batches of 64,
         eager on all cores, in one plain loop. deitkit: what `deitkit predict` does with a folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from finetune import MEAN, STD, declare_torchvision_ops
from input import write_photographs
from PIL import Image
from turns import in_turn

from deitkit.api.benching import _bundle_of
from deitkit.data.preprocess import Preprocessing
from deitkit.evaluation.onnx_predictor import OnnxPredictor
from deitkit.evaluation.opening import list_pictures, predict_all
from deitkit.exporters.onnx_graph import onnx_bytes, quantised_bytes
from deitkit.runtime.processors import usable_cores

NAME = "deit_tiny_patch16_224"
PARTS = ("start", "batch", "folder")
BATCH_SIZE = 64
NUM_PHOTOGRAPHS = 128
IMPORT_TIMM = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
"""

Way = Callable[[], float]
"""Does the work once; returns what it took, in seconds."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all where left out")
    arguments.add_argument("--data", type=Path)
    arguments.add_argument("--rounds", type=int, default=7)
    asked = arguments.parse_args()
    parts = asked.parts or PARTS
    print(f"{usable_cores()} cores, torch {torch.__version__}, {asked.rounds} rounds")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        state = public_weights(asked.data)
        files = exported(folder, state)
        photographs = write_photographs(folder / "photos", NUM_PHOTOGRAPHS) / "photographs"
        if "start" in parts:
            report_start(files, photographs / "0.jpg", asked.rounds)
        if "batch" in parts:
            for num in (BATCH_SIZE, 1):
                report(f"{num} decoded", batch_ways(files, state, num), num, asked.rounds)
        if "folder" in parts:
            ways = folder_ways(files, state, photographs)
            report("a folder of JPEGs", ways, NUM_PHOTOGRAPHS, asked.rounds)


def public_weights(data: Path | None) -> dict[str, torch.Tensor] | None:
    if data is None:
        return None
    path = data / "weights" / NAME / f"{NAME}.pth"
    saved: dict[str, dict[str, torch.Tensor]] = torch.load(
        path, map_location="cpu", weights_only=True
    )
    return saved["model"]


def exported(folder: Path, state: dict[str, torch.Tensor] | None) -> dict[str, Path]:
    """The file of each precision."""
    bundle = _bundle_of(NAME)
    spec = Preprocessing(image_size=(224, 224), channels=3, mean=MEAN, std=STD, crop_ratio=0.875)
    state = bundle.state_dict if state is None else state
    bundle = dataclasses.replace(bundle, preprocessing=spec, state_dict=state)
    content = onnx_bytes(bundle, subject="benchmark")
    contents = {"fp32": content, "int8": quantised_bytes(content)}
    for name, file in contents.items():
        (folder / f"{name}.onnx").write_bytes(file)
    return {name: folder / f"{name}.onnx" for name in contents}


def ratio_to(first: list[float], others: list[float]) -> str:
    """Median over the rounds of first / other, and the least and most of them."""
    ratios = [a / b for a, b in zip(first, others, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def report_start(files: dict[str, Path], photo: Path, rounds: int) -> None:
    deitkit = str(Path(sys.executable).with_name("deitkit"))
    commands = {"import timm": [sys.executable, "-c", IMPORT_TIMM]}
    for name, file in files.items():
        commands[f"deitkit predict, {name}"] = [deitkit, "predict", str(file), str(photo)]
    processor: dict[str, list[float]] = {name: [] for name in commands}
    ways = {
        name: (lambda words=words, name=name: whole_process(words, processor[name]))
        for name, words in commands.items()
    }
    took = in_turn(ways, rounds=rounds, limit_s=math.inf)
    print("\n| start to first answer | s | s of processor | times as soon | in processor seconds |")
    print("|---|---|---|---|---|")
    for name, seconds in took.items():
        worked = processor[name][1:]
        print(
            f"| {name} | {statistics.median(seconds):.2f} | {statistics.median(worked):.2f} | "
            f"{ratio_to(took['import timm'], seconds)} | "
            f"{ratio_to(processor['import timm'][1:], worked)} |"
        )


def whole_process(words: list[str], processor: list[float]) -> float:
    """Seconds of a process from its start to its end; its processor seconds go to the list."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said.decode()
    processor.append(used.ru_utime + used.ru_stime)
    return seconds


def timed(work: Callable[[], object]) -> Way:
    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def timm_network(state: dict[str, torch.Tensor] | None) -> torch.nn.Module:
    declare_torchvision_ops()
    import timm

    model: torch.nn.Module = timm.create_model(NAME)
    if state is not None:
        model.load_state_dict(state)
    return model.eval()


def batch_ways(
    files: dict[str, Path], state: dict[str, torch.Tensor] | None, num: int
) -> dict[str, Way]:
    pictures = np.random.default_rng(0).integers(0, 256, (num, 224, 224, 3), dtype=np.uint8)
    network = timm_network(state)
    pixels_BCHW = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255).contiguous()

    def eager() -> None:
        with torch.inference_mode():
            network(pixels_BCHW).softmax(dim=-1)

    ways = {"timm": timed(eager)}
    for name, file in files.items():
        many = OnnxPredictor.for_pictures(file, max(2, num))
        together = OnnxPredictor(file)
        if num > 1:
            ways[f"deitkit, {name}"] = timed(lambda p=many: p.probabilities(list(pictures)))
        ways[f"deitkit, {name}, operators on all cores"] = timed(
            lambda p=together: p.probabilities(list(pictures))
        )
    return ways


def folder_ways(
    files: dict[str, Path], state: dict[str, torch.Tensor] | None, folder: Path
) -> dict[str, Way]:
    network = timm_network(state)
    from timm.data import create_transform

    transform = create_transform(
        224, interpolation="bicubic", mean=MEAN, std=STD, crop_pct=0.875, is_training=False
    )
    paths = sorted(folder.iterdir())

    def plain_loop() -> None:
        for first in range(0, len(paths), BATCH_SIZE):
            opened = [Image.open(path) for path in paths[first : first + BATCH_SIZE]]
            batch = torch.stack([transform(picture.convert("RGB")) for picture in opened])
            with torch.inference_mode():
                network(batch).softmax(dim=-1)

    ways = {"timm": timed(plain_loop)}
    for name, file in files.items():
        predictor = OnnxPredictor.for_pictures(file, len(paths))
        ways[f"deitkit, {name}"] = timed(
            lambda p=predictor: list(predict_all(p, list_pictures(folder)))
        )
    return ways


def report(what: str, ways: dict[str, Way], num: int, rounds: int) -> None:
    took = in_turn(ways, rounds=rounds, limit_s=math.inf)
    print(f"\n| {what} | img/s | times as many |")
    print("|---|---|---|")
    for name, seconds in took.items():
        middle = num / statistics.median(seconds)
        print(f"| {name} | {middle:.1f} | {ratio_to(took['timm'], seconds)} |")


if __name__ == "__main__":
    main()
