"""What is understood without the parser is understood as the parser does."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from cyclopts import App, CycloptsError
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.cli.main import VERBS, _normalised, build_app, verb_function
from deitkit.cli.plain_call import plain_arguments

WORDS = (
    *("runs/a", "new/", "cat.jpg", "", "-", "--", "-x", "--help", "-h", "--version", "7", "a b"),
    *("json", "--json", "json=true", "--json=false", "--no-json", "json=", "--JSON", "data=photos"),
    *("embeddings=v.npy", "--embeddings", "--embeddings=w.npy", "embeddings=", "list", "verify"),
    *("--dry-run", "dry_run=true", "--dry_run", "teacher=r", "unused-days=3", "to=onnx", "out=-"),
)
TAKES_TEXT = ("predict", "cache", "export", "train", "evaluate", "report", "summary")


@pytest.fixture(scope="module")
def app() -> App:
    return build_app()


def plainly(tokens: list[str]) -> inspect.BoundArguments | None:
    signature = inspect.signature(verb_function(tokens[0]))
    found = plain_arguments(signature, tokens[1:])
    return None if found is None else signature.bind(*found[0], **found[1])


@settings(max_examples=600)
@given(verb=st.sampled_from(TAKES_TEXT), words=st.lists(st.sampled_from(WORDS), max_size=5))
def test_the_parser_understands_the_same(app, verb, words):
    tokens = _normalised([verb, *words])
    found = plainly(tokens)
    if found is None:
        return
    try:
        function, expected, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise AssertionError(f"{tokens} is refused: {error}") from error
    assert function is verb_function(verb)
    assert found.arguments == expected.arguments, tokens


@pytest.mark.parametrize("words", ["cat.jpg", "new/ cat.jpg --json", "x --embeddings=v.npy"])
def test_plain_commands_need_no_parser(words):
    """The words people type; so that the test above has something to compare."""
    found = plainly(_normalised(["predict", "runs/a", *words.split()]))
    assert found is not None and found.arguments["run"] == "runs/a"


def test_a_prediction_loads_neither_parser_nor_bars_nor_torch(tmp_path):
    """Each takes longer to load than a picture to be answered."""
    code = (
        "import sys\n"
        "from deitkit.cli.main import main\n"
        "code = main(['predict', 'no.onnx', 'no.jpg'])\n"
        "heavy = ('cyclopts', 'rich', 'torch', 'yaml', 'pyarrow', 'deitkit.api', 'email')\n"
        "print(code, [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "2 []\n"
    assert "[NO_RUN] no.onnx" in done.stderr


def test_every_verb_is_found():
    for name in VERBS:
        assert verb_function(name).__doc__, name
