"""The whole run: DeiT-Ti at 224 px learns from RegNetY-16GF, 100 epochs of 3,200 images.

    python benchmarks/whole_run.py [--rounds 6] [--same-settings] [--out FILE.json]

Extrapolated from its phases, which are measured in turn in every round, 16 photographs of 500 x 375
at a time, each side in a process of its own:

timm      reading and transforming 16 JPEGs, mixing, the student's step with the live teacher
          (`TokenDistillationTask`), AdamW, ModelEmaV3; evaluation of 16 images.
deitkit   scanning 16 JPEGs; a step whose views are new (`fill`: views rendered, the teacher asked,
          answers stored on disk, student taught) and one whose views are shown again (`replay`), at
          224 px and at the smaller sizes of a run that grows them; evaluation of 16 images.

    timm     = E n t_step + evaluations
    deitkit  = (n + v) t_scan + v t_teacher + V n t_fill + (E - V) n t_replay + evaluations

with E epochs, n images of which each epoch shows all, v validation images, V stored view epochs,
each t an image. With growing sizes the epochs are in equal parts at 128, 160 and 224 px, and the
views are filled first, so at the smallest size. The number of evaluations is the same on both
sides: 20, of weights and average.

Equal: random weights (the teachers' are the same numbers; time does not depend on them), 1,000
classes, fp32, hard distillation, batch 16, mixup 0.8 and cutmix 1, RandAugment m9, erasing 0.25, no
drop-path, no clipping. Both read images in the training process itself. Not counted: checkpoints,
and the starts of the programs. deitkit decodes every picture once and cuts views from memory.
--same-settings gives both processes the memory and thread settings that deitkit gives itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

from turns import SAME_FOR_ALL, Worker, in_turn, obey

NUM_EPOCHS, NUM_IMAGES, NUM_VAL, NUM_EVALUATIONS = 100, 3200, 356, 20
BATCH_SIZE, SIDE = 16, 224
SIZES = (128, 160, 224)
TASKS = {
    "timm": ("step", "evaluation"),
    "deitkit": (
        *("scan", "evaluation", f"fill-{SIDE}", f"fill-{SIZES[0]}"),
        *(f"replay-{side}" for side in SIZES),
    ),
}
Round = dict[str, float]
"""Seconds an image of each task, as "side task"."""


def be_side(side: str, folder: Path, threads: int) -> None:
    """This process is one of the sides."""
    if side == "deitkit":
        from deitkit.runtime.threads import calm_process

        calm_process()
    import torch

    torch.set_num_threads(threads)
    from whole_run_sides import build

    obey(build(side, folder), {"torch": torch.__version__})


def measure(asked: argparse.Namespace, folder: Path) -> list[Round]:
    environment = dict(SAME_FOR_ALL) if asked.same_settings else {}
    workers: dict[str, Worker] = {}
    try:
        for side in TASKS:
            own = [sys.argv[0], "--side", side, "--folder", str(folder / side)]
            (folder / side).mkdir()
            own += ["--threads", str(asked.threads)]
            workers[side] = Worker(own, threads=asked.threads, environment=environment)
        tasks = {
            f"{side} {task}": partial(workers[side].do, task)
            for side, names in TASKS.items()
            for task in names
        }
        seconds = in_turn(tasks, rounds=asked.rounds, limit_s=asked.limit)
    finally:
        for worker in workers.values():
            worker.close()
    return [
        {name: times[number] / BATCH_SIZE for name, times in seconds.items()}
        for number in range(len(next(iter(seconds.values()))))
    ]


def teacher_s(r: Round) -> float:
    """The teacher's part of a step whose views are new."""
    return r[f"deitkit fill-{SIDE}"] - r[f"deitkit replay-{SIDE}"]


def timm_total(r: Round) -> float:
    evaluated = 2 * NUM_EVALUATIONS * NUM_VAL
    return NUM_EPOCHS * NUM_IMAGES * r["timm step"] + evaluated * r["timm evaluation"]


def phases(sizes: tuple[int, ...], view_epochs: float) -> list[tuple[int, float, float]]:
    """(size, epochs of new views, epochs of views shown again), one after the other."""
    edges = [NUM_EPOCHS * k / len(sizes) for k in range(len(sizes) + 1)]
    found = []
    for side, (first, last) in zip(sizes, pairwise(edges), strict=True):
        filled = min(max(view_epochs - first, 0.0), last - first)
        found.append((side, filled, last - first - filled))
    return found


def deitkit_total(r: Round, *, view_epochs: float, sizes: tuple[int, ...]) -> float:
    """Where two sizes differ the teacher's views are rendered beside the student's."""
    beside = r[f"deitkit fill-{SIZES[0]}"] - r[f"deitkit replay-{SIZES[0]}"]
    images_s = 0.0
    for side, filled, replayed in phases(sizes, view_epochs):
        asking = teacher_s(r) if side == SIDE else beside
        images_s += filled * asking + (filled + replayed) * r[f"deitkit replay-{side}"]
    once = (NUM_IMAGES + NUM_VAL) * r["deitkit scan"] + NUM_VAL * teacher_s(r)
    evaluated = 2 * NUM_EVALUATIONS * NUM_VAL * r["deitkit evaluation"]
    return NUM_IMAGES * images_s + once + evaluated


def own_choice(rounds: list[Round]) -> tuple[int, str]:
    """V that deitkit itself chooses, and its reason."""
    from deitkit.training.teacher_choices import choose_view_epochs

    choice = choose_view_epochs(
        NUM_EPOCHS,
        step_s=statistics.median(r[f"deitkit replay-{SIDE}"] for r in rounds),
        teacher_step_s=statistics.median(teacher_s(r) for r in rounds),
        repeats=1,
    )
    return int(choice.value), choice.reason


def report(rounds: list[Round]) -> str:
    """Rows of Markdown; ratios are taken within a round."""
    lines = ["| phase | ms an image, median (least to most) |", "|---|---|"]
    for name in rounds[0]:
        each = [1000 * r[name] for r in rounds]
        lines.append(
            f"| {name} | {statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f}) |"
        )
    hours = statistics.median(timm_total(r) for r in rounds) / 3600
    lines += [
        "",
        "| run | hours | timm's time over it, median (least to most) |",
        "|---|---|---|",
        f"| timm, live teacher | {hours:.2f} | 1 |",
    ]
    own, reason = own_choice(rounds)
    for said, sizes in (("224 px", (SIDE,)), ("128, 160, 224 px", SIZES)):
        for view_epochs in dict.fromkeys((own, 10, 33, 100)):
            totals = [deitkit_total(r, view_epochs=view_epochs, sizes=sizes) for r in rounds]
            ratios = [timm_total(r) / t for r, t in zip(rounds, totals, strict=True)]
            mine = " (deitkit's own choice)" if view_epochs == own else ""
            lines.append(
                f"| deitkit, V = {view_epochs}{mine}, {said} | "
                f"{statistics.median(totals) / 3600:.2f} | {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}) |"
            )
    cost = statistics.median(teacher_s(r) / r[f"deitkit replay-{SIDE}"] for r in rounds)
    lines += ["", f"Chosen: {reason}.", f"The teacher costs {cost:.2f} of the student's steps."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--limit", type=float, default=600, help="seconds until no round begins")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--same-settings", action="store_true")
    parser.add_argument("--out", type=Path, default=None, help="JSON of all rounds goes here too")
    parser.add_argument("--side", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side is not None:
        be_side(asked.side, asked.folder, asked.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        rounds = measure(asked, Path(folder))
    if asked.out is not None:
        asked.out.write_text(json.dumps(rounds))
    print(f"`python {' '.join(sys.argv)}`\n")
    print(report(rounds))


if __name__ == "__main__":
    main()
