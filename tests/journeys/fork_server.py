"""A process that has torch imported and forks once a command: 0.3 s each instead of 3 s.

Reads one JSON request a line: {"start": {...}} answers {"pid": ...}, {"wait": pid} answers
{"status": ...} as os.waitpid gives it. The child calls what the installed `deitkit` calls.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOOKABLE = {
    "decode": ("deitkit.data.scan", "decode_raw"),
    "step": ("deitkit.training.loop", "train_step"),
    "evaluate": ("deitkit.evaluation.logits", "prepare_batch"),
    "fsync": ("os", "fsync"),
    "rename": ("os", "rename"),
    "replace": ("os", "replace"),
    "unlink": ("os", "unlink"),
}
"""Where a run can be met, so that it can be killed at any place of a whole training."""


class Calls:
    """Counts the calls of the hooked functions; sends this process a signal before one of them."""

    def __init__(self, names: list[str], number: int | None, at: int, times: int) -> None:
        self.num_calls = 0
        self.trace: list[str] = []
        self.number, self.at, self.times = number, at, times
        for name in names:
            module = importlib.import_module(HOOKABLE[name][0])
            original = getattr(module, HOOKABLE[name][1])
            setattr(module, HOOKABLE[name][1], self.counted(name, original))

    def counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.num_calls += 1
            self.trace.append(name)
            if self.number is not None and self.num_calls == self.at:
                for _ in range(self.times):
                    os.kill(os.getpid(), self.number)
            return original(*args, **kwargs)

        return call


def run_child(request: dict[str, Any]) -> int:
    """Become the command: its folder, its streams, its environment."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    for descriptor, name in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(name, flags), descriptor)
    if limit := request["file_size_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    hooks = request["hooks"]
    calls = Calls(
        hooks.get("names", []), hooks.get("signal"), hooks.get("at", 0), hooks.get("times", 1)
    )
    from deitkit.cli.main import main

    code = main(request["argv"])
    if "trace" in hooks:
        Path(hooks["trace"]).write_text(json.dumps(calls.trace), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def serve() -> None:
    """Until stdin closes."""
    import torch

    torch.set_num_threads(1)
    for name in (
        "deitkit.api",
        "deitkit.cli.main",
        "deitkit.training.assemble",
        "deitkit.training.loop",
        "deitkit.evaluation.predictor",
        "deitkit.models",
        "torch._dynamo",
        "torchinfo",
        "cyclopts",
        "deitkit.reporting.console",
        "deitkit.data.dataset",
        "deitkit.api.calibrating",
        "deitkit.api.reporting",
        "deitkit.explanation.explainer",
        "deitkit.reporting.pages",
        "deitkit.training.teaching",
        "numpy.ma",
    ):
        importlib.import_module(name)
    from deitkit.cli.main import VERBS, verb_function
    from deitkit.training import timing

    # Toy steps are so short that it would always time the most.
    timing.MAX_TIMED_STEPS = timing.MIN_TIMED_STEPS
    for verb in VERBS:
        verb_function(verb)
    answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer({"status": os.waitpid(request["wait"], 0)[1]})
            continue
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                # Under nohup it is ignored, and a run rightly leaves it so.
                signal.signal(signal.SIGHUP, signal.SIG_DFL)
                code = run_child(request["start"])
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        answer({"pid": pid})


if __name__ == "__main__":
    serve()
