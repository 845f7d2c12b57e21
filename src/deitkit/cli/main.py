"""The command line: one app, its verbs, and how every error ends."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import deitkit
from deitkit.cli.plain_call import plain_arguments
from deitkit.cli.tokens import normalise
from deitkit.errors import ConfigError, DeitkitError

if TYPE_CHECKING:
    from cyclopts import App

EVERYDAY, MORE = "Everyday", "More"

VERBS = {
    "train": ("train:train", EVERYDAY),
    "plan": ("plan:plan", EVERYDAY),
    "predict": ("predict:predict", EVERYDAY),
    "evaluate": ("evaluate:evaluate", EVERYDAY),
    "check": ("check:check", EVERYDAY),
    "demo": ("demo:demo", EVERYDAY),
    "export": ("export:export", EVERYDAY),
    "serve": ("serve:serve", EVERYDAY),
    "explain": ("explain:explain", MORE),
    "report": ("report:report", MORE),
    "compare": ("compare:compare", MORE),
    "bench": ("bench:bench", MORE),
    "review": ("review:review", MORE),
    "import": ("import_weights:import_weights", MORE),
    "views": ("views:views", MORE),
    "recipes": ("recipes:recipes", MORE),
    "teach": ("teach:teach", MORE),
    "ablate": ("ablate:ablate", MORE),
    "cache": ("cache:cache", MORE),
    "summary": ("inspecting:summary", MORE),
    "models": ("inspecting:models", MORE),
    "settings": ("inspecting:settings", MORE),
    "verify-resume": ("inspecting:verify_resume", MORE),
}
"""Verb -> module and function in this room, and where it stands in the help. A module is loaded
when its verb is typed: an exported file answers in less time than the others take to load."""


def verb_function(name: str) -> Callable[..., Any]:
    """The function of a verb."""
    module, _, function = VERBS[name][0].partition(":")
    found: Callable[..., Any] = getattr(import_module(f"deitkit.cli.{module}"), function)
    return found


def build_app(*, loaded: bool = True) -> App:
    """The parser with all verbs; their help is at hand only where they are `loaded`."""
    from cyclopts import App, Group

    groups = {name: Group(name, sort_key=place) for place, name in enumerate((EVERYDAY, MORE))}
    app = App(
        name="deitkit",
        help=(
            "Turns a folder of images into a small, strong vision transformer that learns from a "
            "teacher.\n\n`deitkit demo` shows it in two minutes; `deitkit train data=photos/` does "
            "it with your own. Write key=value or --key value. --debug shows tracebacks."
        ),
        version=lambda: deitkit.__version__,
        help_format="plaintext",
    )
    for place, (name, (home, group)) in enumerate(VERBS.items()):
        function = verb_function(name) if loaded else f"deitkit.cli.{home}"
        app.command(function, name=name, group=groups[group], sort_key=place)
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
    code = _ended(tokens, debug)
    if argv is None and tokens[:1] == ["predict"]:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End this process. Taking down what it loaded takes a tenth as long as the answer did; what
    was to be written is, and nobody waits for it."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _ended(tokens: list[str], debug: bool) -> int:
    """The exit code of the command, whose error has been told."""
    try:
        code = _call(_normalised(tokens))
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
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


def _call(tokens: list[str]) -> Any:
    """Do what is asked. Raises ConfigError USAGE, and what the verb does."""
    if tokens and tokens[0] in VERBS:
        function = verb_function(tokens[0])
        plain = plain_arguments(inspect.signature(function), tokens[1:])
        if plain is not None:
            return function(*plain[0], **plain[1])
    from cyclopts import CycloptsError

    try:
        return build_app(loaded=not tokens or tokens[0] not in VERBS)(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        do = "deitkit --help shows the verbs"
        raise ConfigError("USAGE", "deitkit", str(error), do) from error


def _normalised(tokens: list[str]) -> list[str]:
    if not tokens or tokens[0] not in VERBS:
        return tokens
    parameters = inspect.signature(verb_function(tokens[0])).parameters.values()
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
