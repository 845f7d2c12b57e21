"""What an epoch costs when DeiT-Ti learns from RegNetY-16GF at 224 px and the teacher is paid once.

    python benchmarks/teacher.py [--rounds 8] [--batch-size 32] [--threads 2] [--out FILE.json]

Four steps of training, one after the other in every round, the order turned by one each round:

timm      `timm.task.TokenDistillationTask`, timm's own student and teacher: the teacher is live.
fill      deitkit, first time a view is shown: teacher asked, answer stored, student taught by it.
replay    deitkit, the same view in a later epoch: answer read, student taught by it.
alone     deitkit's student on the labels, no teacher at all.

An epoch of a run of E epochs with V stored view epochs is V/E filled and 1 - V/E replayed, so its
cost is extrapolated from the steps, round by round: (V/E) fill + (1 - V/E) replay, against timm.

Equal for all: random weights (the teachers' are the same numbers), 1,000 classes, fp32, hard
distillation with weight 0.5, AdamW, no drop-path, clipping or weight average, one batch of mixed
images with values 0 to 1. Rendering and mixing of views come before the clock; normalisation,
forward, loss, backward and optimizer are within, and with deitkit the words of the views and the
cache on disk. The cache's files are as warm as the rounds leave them. Not counted: validation,
checkpoints, and the one time deitkit asks the teacher about the validation images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from finetune import declare_torchvision_ops
from torch import Tensor, nn
from torch.nn import functional as F

import deitkit
from deitkit.augmentation import ViewPolicy, draw_views
from deitkit.augmentation.mixing import mix_images, mix_targets
from deitkit.augmentation.view_words import view_words
from deitkit.losses import DistillationLoss
from deitkit.models.noise import ModelNoise
from deitkit.optim import build_optimizer
from deitkit.teachers import Classifier, LiveTeacher
from deitkit.teachers.cache import TeacherCache
from deitkit.teachers.cached import CachedTeacher

SIDE = 224
NUM_CLASSES = 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LR, WEIGHT_DECAY = 5e-4, 0.05
RATIOS = {"1": 1.0, "1/3": 1 / 3, "1/10": 1 / 10}
POLICY = ViewPolicy(mixup=0.8, cutmix=1.0, auto_augment="rand-m9-mstd0.5-inc1", erasing=0.25)
CPU = torch.device("cpu")


class Views:
    """Mixed images, soft targets and the key of each view, the same sources in every view epoch."""

    def __init__(self, batch_size: int) -> None:
        chance = np.random.default_rng(0)
        pixels = chance.integers(0, 256, (batch_size, 3, SIDE, SIDE), dtype=np.uint8)
        self.sources_BCHW = torch.from_numpy(pixels).float() / 255
        self.sample_ids_B = chance.integers(1, 2**63, batch_size, dtype=np.uint64)
        self.labels_B = torch.from_numpy(chance.integers(0, NUM_CLASSES, batch_size))

    def draw(self, view_epoch: int) -> None:
        """Make the batch of a view epoch the current one."""
        size = len(self.sample_ids_B)
        self.view_epoch = view_epoch
        self.views = draw_views(
            POLICY,
            view_seed=0,
            epoch=view_epoch,
            sample_ids_B=self.sample_ids_B,
            sizes_B2=np.full((size, 2), 256),
            repeat_B=np.zeros(size, dtype=np.int64),
        )
        self.images_BCHW = mix_images(self.sources_BCHW, self.views)
        one_hot_BK = F.one_hot(self.labels_B, NUM_CLASSES).float()
        self.targets_BK = mix_targets(one_hot_BK, self.views, size=(SIDE, SIDE))

    def words(self) -> np.ndarray:
        return view_words(
            self.views,
            teacher_size=(SIDE, SIDE),
            erasing_fill="pixel",
            mean=MEAN,
            std=STD,
            op_fill=[124, 116, 104],
            decoding={"channels": 3, "background": [255, 255, 255]},
        )


def normalised(images_BCHW: Tensor) -> Tensor:
    return (images_BCHW - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def build_teacher() -> nn.Module:
    """RegNetY-16GF with random weights; its answers are not all alike."""
    torch.manual_seed(0)
    network = deitkit.create_model("regnety_160", num_classes=NUM_CLASSES, image_size=SIDE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return network.eval()


class OurSteps:
    """deitkit: one student, and a teacher with a cache that `folder` keeps."""

    def __init__(self, network: nn.Module, views: Views, folder: Path, *, rounds: int) -> None:
        self.views = views
        torch.manual_seed(0)
        self.student = deitkit.create_model(
            "deit_tiny_distilled_patch16_224", num_classes=NUM_CLASSES, drop_path=0.0
        ).train()
        self.optimizer = build_optimizer(
            "adamw",
            self.student,
            lr=LR,
            weight_decay=WEIGHT_DECAY,
            layer_decay=None,
            betas=(0.9, 0.999),
            eps=1e-8,
            momentum=0.9,
        )
        self.distil = DistillationLoss("hard", weight=0.5)
        self.label_only = DistillationLoss("none")
        classifier = Classifier.from_callable(
            network, name="RegNetY-16GF", version="random", image_size=SIDE, mean=MEAN, std=STD
        )
        live = LiveTeacher(classifier, block_size=len(views.sample_ids_B))
        self.cache = TeacherCache.open(
            folder,
            teacher_digest=live.digest,
            teacher_name=classifier.name,
            class_names=[str(k) for k in range(NUM_CLASSES)],
            policy_digest="0" * 32,
            sample_ids=views.sample_ids_B,
            num_view_epochs=rounds + 1,
        )
        self.teacher = CachedTeacher(live, self.cache, device=CPU)

    def taught(self) -> None:
        views = self.views
        logits_BK = self.teacher(
            views.images_BCHW,
            view_epoch=views.view_epoch,
            repeat_B=views.views.repeat_B,
            sample_ids_B=views.sample_ids_B,
            words_B=views.words(),
        )
        self._learn(self.distil, logits_BK)

    def fill(self) -> None:
        before = self.teacher.num_misses
        self.taught()
        assert self.teacher.num_misses - before == len(self.views.sample_ids_B)

    def replay(self) -> None:
        before = self.teacher.num_misses
        self.taught()
        assert self.teacher.num_misses == before, "a stored view was asked for again"

    def alone(self) -> None:
        self._learn(self.label_only, None)

    def _learn(self, loss: DistillationLoss, logits_BK: Tensor | None) -> None:
        views = self.views
        num = len(views.sample_ids_B)
        output = self.student(normalised(views.images_BCHW), ModelNoise(0, 0, 0, num))
        loss(output, views.targets_BK, logits_BK).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class TimmSteps:
    """timm: its task as its train.py calls it."""

    def __init__(self, network: nn.Module, views: Views) -> None:
        declare_torchvision_ops()
        import timm
        from timm.loss import SoftTargetCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.task import TokenDistillationTask

        self.version = timm.__version__
        self.views = views
        torch.manual_seed(0)
        student = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=NUM_CLASSES)
        teacher = timm.create_model("regnety_160", num_classes=NUM_CLASSES)
        teacher.load_state_dict(network.state_dict())
        self.student = student
        self.task = TokenDistillationTask(
            student_model=student,
            teacher_model=teacher,
            criterion=SoftTargetCrossEntropy(),
            distill_type="hard",
            task_loss_weight=0.5,
        ).train()
        self.optimizer = create_optimizer_v2(student, opt="adamw", lr=LR, weight_decay=WEIGHT_DECAY)

    def step(self) -> None:
        result = self.task(normalised(self.views.images_BCHW), self.views.targets_BK)
        self.optimizer.zero_grad()
        result["loss"].backward()
        self.optimizer.step()


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    """Seconds of each kind of step, round by round; the first round warms up and is left out."""
    network, views = build_teacher(), Views(arguments.batch_size)
    views.draw(0)
    ours = OurSteps(network, views, folder, rounds=arguments.rounds)
    timms = TimmSteps(network, views)
    check_same_teacher(ours, timms)
    steps: dict[str, Callable[[], None]] = {
        "timm": timms.step,
        "fill": ours.fill,
        "replay": ours.replay,
        "alone": ours.alone,
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.rounds + 1):
        views.draw(turn)
        names = list(steps)
        for name in names[turn % 4 :] + names[: turn % 4]:
            # A round fills the view epoch that the next one replays; the first replays its own.
            views.draw(max(turn - 1, 0) if name == "replay" else turn)
            if name == "replay" and turn == 0:
                continue
            start = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - start)
        said = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items() if times)
        print(f"round {turn}{' (warm-up)' * (turn == 0)}: {said}", file=sys.stderr, flush=True)
    ours.cache.close()
    kept = {name: times[-arguments.rounds :] for name, times in seconds.items()}
    return {"seconds": kept, "timm": timms.version}


@torch.no_grad()
def check_same_teacher(ours: OurSteps, timms: TimmSteps) -> None:
    """Two images: the teachers of both sides give the same finite answers."""
    images = ours.views.images_BCHW[:2]
    mine = ours.teacher.live.classifier.call(normalised(images))
    theirs = timms.task.teacher(normalised(images))
    assert torch.isfinite(mine).all()
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * float(mine.abs().max()))


def middle(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in found.items()}


def summarise(seconds: dict[str, list[float]]) -> dict:
    """Ratios are taken within a round, so that what slows the machine down slows both sides."""
    rounds = list(
        zip(*(seconds[name] for name in ("timm", "fill", "replay", "alone")), strict=True)
    )
    found: dict = {
        "teacher_in_student_steps": middle([(f - r) / r for _, f, r, _ in rounds]),
        "timm_over_fill": middle([t / f for t, f, _, _ in rounds]),
        "replay_over_alone": middle([r / a for _, _, r, a in rounds]),
        "ratios": {},
    }
    cost = found["teacher_in_student_steps"]["median"]
    for name, share in RATIOS.items():
        of_rounds = [t / (share * f + (1 - share) * r) for t, f, r, _ in rounds]
        found["ratios"][name] = {
            **middle(of_rounds),
            "model": round(4.33 / (1 + 3.33 * share), 2),
            "model_with_this_teacher_cost": round((1 + cost) / (1 + cost * share), 2),
        }
    return found


def report(result: dict) -> str:
    """Rows of Markdown."""
    lines = ["| step | seconds, median (lowest to highest) | img/s |", "|---|---|---|"]
    for name, times in result["seconds"].items():
        m = middle(times)
        rate = result["batch_size"] / m["median"]
        lines.append(
            f"| {name} | {m['median']:.2f} ({m['min']:.2f} to {m['max']:.2f}) | {rate:.2f} |"
        )
    lines += [
        "",
        "| V/E | times faster than timm, median (lowest to highest) | the model's "
        "4.33 / (1 + 3.33 V/E) | the model with the teacher's cost measured here |",
        "|---|---|---|---|",
    ]
    for name, m in result["ratios"].items():
        lines.append(
            f"| {name} | {m['median']:.2f} ({m['min']:.2f} to {m['max']:.2f}) | {m['model']:.2f} "
            f"| {m['model_with_this_teacher_cost']:.2f} |"
        )
    cost = result["teacher_in_student_steps"]["median"]
    lines += ["", f"The teacher's forward pass costs {cost:.2f} of the student's steps."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="JSON of all rounds goes here too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(arguments, Path(folder))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {
        "command": " ".join(["python", *sys.argv]),
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit,
        **measured,
        **summarise(measured["seconds"]),
    }
    line = json.dumps(result)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(line + "\n")
    print(line)
    print(f"\n`{result['command']}`\n")
    print(report(result))


if __name__ == "__main__":
    main()
