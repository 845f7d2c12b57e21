"""One training step of a distilled DeiT: deitkit's, its peers', and what MKL alone needs.

    python benchmarks/step.py ti-224 [--rounds 8] [--arms deitkit timm ...] [--path FOLDER]
    python benchmarks/step.py ti-224 --drop-path 0.3 --arms deitkit ranks timm
    python benchmarks/step.py ti-224 --same-settings

ti-224 is DeiT-Ti at 224 px, batch 16; s-224 DeiT-S, batch 8; ti-32 a DeiT-Ti of 4 px patches at
32 px, batch 128. Arms, each in a process of its own, one after the other in every round:

deitkit       `train_step` with the parts that a run's settings are made into, one process.
ranks         the same with a rank a core, one thread each, which exchange gradients.
timm          timm's model, mixing, losses, AdamW, clipping and ModelEmaV3, as its script has them.
authors       the DeiT authors' loop out of what timm still has of it: attention written out,
              NativeScaler, ModelEma. Their own code asks for a timm of 2020.
transformers  DeiTForImageClassificationWithTeacher with torch's fused AdamW and AveragedModel.
vit-pytorch   its DistillableViT, its patch embedding with two norms, in the same loop. Where it is
              not installed, `pip install --no-deps --target FOLDER vit-pytorch einops` and --path.
floor         every matrix product of forward and backward, by torch.mm and torch.bmm, and nothing
              else; the same operand memory for all blocks.

Each process is set up as its users would have it: deitkit lets waiting threads sleep and memory
stay (`deitkit.runtime.threads`); --same-settings sets both for all, by environment variables.
Random pixels, the teacher's logits given, no loading.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

from step_shapes import SHAPES, flops
from turns import SAME_FOR_ALL, Worker, absent, in_turn, obey

ORDER = ("deitkit", "ranks", "timm", "authors", "transformers", "vit-pytorch", "floor")


def be_arm(asked: argparse.Namespace) -> None:
    """This process is one of the arms."""
    if asked.arm in ("deitkit", "ranks"):
        from deitkit.runtime.threads import calm_process

        calm_process()
    import torch
    from step_arms import ARMS, NotHere, RankPerCore, be_second_rank

    shape = SHAPES[asked.shape]
    if asked.second_rank:
        torch.set_num_threads(1)
        be_second_rank(shape, asked.drop_path)
        return
    torch.set_num_threads(1 if asked.arm == "ranks" else asked.threads)
    if asked.arm == "ranks":
        command = [sys.executable, *sys.argv]
        ranks = RankPerCore(shape, asked.drop_path, command)
        obey({"step": ranks}, {"torch": torch.__version__})
        ranks.close()
        return
    try:
        step = ARMS[asked.arm](shape, asked.drop_path)
    except NotHere as reason:
        absent(str(reason))
        return
    obey({"step": step}, {"torch": torch.__version__})


def measure(asked: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each arm in each round, and why others are not there."""
    environment = dict(SAME_FOR_ALL) if asked.same_settings else {}
    if asked.path is not None:
        environment["PYTHONPATH"] = f"{asked.path}:{_python_path()}"
    workers: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    try:
        for name in asked.arms:
            arguments = [*sys.argv, "--arm", name]
            threads = 1 if name == "ranks" else asked.threads
            worker = Worker(arguments, threads=threads, environment=environment)
            if "absent" in worker.hello:
                missing[name] = worker.hello["absent"]
                worker.close()
            else:
                workers[name] = worker
        tasks = {name: partial(worker.do, "step") for name, worker in workers.items()}
        return in_turn(tasks, rounds=asked.rounds, limit_s=asked.limit, warm_rounds=2), missing
    finally:
        for worker in workers.values():
            worker.close()


def _python_path() -> str:
    import os

    return os.environ.get("PYTHONPATH", "")


def report(asked: argparse.Namespace, seconds: dict[str, list[float]]) -> str:
    """Rows of Markdown; ratios are taken within a round."""
    shape = SHAPES[asked.shape]
    lines = [
        "| arm | s a step, median (least to most) | img/s | deitkit's speed over it, median (least "
        "to most) | share of the floor |",
        "|---|---|---|---|---|",
    ]
    for name, times in seconds.items():
        middle = statistics.median(times)
        cells = [name, f"{middle:.3f} ({min(times):.3f} to {max(times):.3f})"]
        cells += [f"{shape.batch_size / middle:.2f}", "", ""]
        if "deitkit" in seconds and name != "deitkit":
            ratios = [t / ours for t, ours in zip(times, seconds["deitkit"], strict=True)]
            cells[3] = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        if "floor" in seconds:
            shares = [least / t for t, least in zip(times, seconds["floor"], strict=True)]
            cells[4] = f"{100 * statistics.median(shares):.0f} %"
        lines.append("| " + " | ".join(cells) + " |")
    if "floor" in seconds:
        speed = flops(shape) / statistics.median(seconds["floor"]) / 1e9
        lines += [
            "",
            f"{flops(shape) / 1e9:.1f} GFLOP of products, {speed:.0f} GFLOP/s at the floor.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--limit", type=float, default=600, help="seconds until no round begins")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=ORDER, default=list(ORDER))
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--same-settings", action="store_true")
    parser.add_argument("--path", type=Path, default=None, help="where vit-pytorch lies")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--second-rank", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.arm is not None:
        be_arm(asked)
        return
    seconds, missing = measure(asked)
    print(f"`python {' '.join(sys.argv)}`\n")
    print(report(asked, seconds))
    for name, reason in missing.items():
        print(f"\n{name}: left out, {reason}.")


if __name__ == "__main__":
    main()
