"""The command line: one app, its verbs, and how every error ends."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, CycloptsError, Group

import deitkit
from deitkit.cli import (
    ablate,
    bench,
    cache,
    check,
    compare,
    demo,
    evaluate,
    explain,
    export,
    import_weights,
    inspecting,
    plan,
    predict,
    recipes,
    report,
    review,
    serve,
    teach,
    train,
    views,
)
from deitkit.cli.tokens import normalise
from deitkit.errors import DeitkitError

EVERYDAY = Group("Everyday", sort_key=0)
MORE = Group("More", sort_key=1)

VERBS: dict[str, tuple[Callable[..., Any], Group]] = {
    "train": (train.train, EVERYDAY),
    "plan": (plan.plan, EVERYDAY),
    "predict": (predict.predict, EVERYDAY),
    "evaluate": (evaluate.evaluate, EVERYDAY),
    "check": (check.check, EVERYDAY),
    "demo": (demo.demo, EVERYDAY),
    "export": (export.export, EVERYDAY),
    "serve": (serve.serve, EVERYDAY),
    "explain": (explain.explain, MORE),
    "report": (report.report, MORE),
    "compare": (compare.compare, MORE),
    "bench": (bench.bench, MORE),
    "review": (review.review, MORE),
    "import": (import_weights.import_weights, MORE),
    "views": (views.views, MORE),
    "recipes": (recipes.recipes, MORE),
    "teach": (teach.teach, MORE),
    "ablate": (ablate.ablate, MORE),
    "cache": (cache.cache, MORE),
    "summary": (inspecting.summary, MORE),
    "models": (inspecting.models, MORE),
    "settings": (inspecting.settings, MORE),
    "verify-resume": (inspecting.verify_resume, MORE),
}


def build_app() -> App:
    """The parser with all verbs."""
    app = App(
        name="deitkit",
        help=(
            "Turns a folder of images into a small, strong vision transformer that learns from a "
            "teacher.\n\n`deitkit demo` shows it in two minutes; `deitkit train data=photos/` does "
            "it with your own. Write key=value or --key value. --debug shows tracebacks."
        ),
        version=deitkit.__version__,
        help_format="plaintext",
    )
    for place, (name, (verb, group)) in enumerate(VERBS.items()):
        app.command(verb, name=name, group=group, sort_key=place)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says how it ended (see docs/errors.md)."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a name shows its escape; it does not end the run.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = build_app()(
            _normalised(tokens),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        return _fail(f"[USAGE] deitkit: {error}", "deitkit --help shows the verbs", 2, debug)
    except DeitkitError as error:
        return _fail(str(error), "", error.exit_code, debug)
    except KeyboardInterrupt:
        return _fail("[STOPPED] deitkit: interrupted", "the same command goes on", 130, debug)
    except BrokenPipeError:
        # `| head` closed the other end: not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail(
            "[MEMORY] deitkit: out of memory", "use a smaller batch_size or image_size", 6, debug
        )
    except Exception as error:
        return _fail(
            f"[INTERNAL] deitkit: {type(error).__name__}: {error}",
            "a fault of deitkit; --debug shows where",
            1,
            debug,
        )


def _normalised(tokens: list[str]) -> list[str]:
    if not tokens or tokens[0] not in VERBS:
        return tokens
    parameters = inspect.signature(VERBS[tokens[0]][0]).parameters.values()
    options = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL}
    flags = {p.name for p in parameters if p.annotation in (bool, "bool", "bool | None")}
    takes_settings = any(p.name == "settings" and p.kind is p.VAR_POSITIONAL for p in parameters)
    rest = normalise(tokens[1:], options=options, flags=flags, takes_settings=takes_settings)
    if all(p.kind is not p.VAR_POSITIONAL for p in parameters):
        # A misspelt name=value; the first word may be a folder of such a name.
        rest[1:] = [f"--{t}" if "=" in t and not t.startswith("-") else t for t in rest[1:]]
    return [tokens[0], *rest]


def _fail(said: str, hint: str, code: int, debug: bool) -> int:
    """One line on stderr, whatever the message holds."""
    if debug:
        traceback.print_exc()
    line = said + (f"; {hint}" if hint else "")
    with contextlib.suppress(OSError, ValueError):
        # One write: the lines of two ranks do not mix.
        sys.stderr.write("deitkit: error " + " ".join(line.split("\n")) + "\n")
        sys.stderr.flush()
    return code
