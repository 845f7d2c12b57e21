"""docs/teachers.md: its numbers are the code's, and its commands are understood."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest

from deitkit.api.teaching import AUTO_EPOCHS_SHARE, AUTO_SHARE, STEM_SHARE
from deitkit.cli.main import verb_function
from deitkit.config import build_config
from deitkit.teachers.cache_records import RecordFormat
from deitkit.training.teacher_choices import (
    CHEAP_TEACHER,
    MIN_VIEW_EPOCHS,
    MIN_VIEW_SHARE,
    TEACHER_SHARE,
)
from deitkit.training.teacher_names import parse_teacher

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "teachers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]
TEACHERS = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`[^|]+)\|", PAGE, re.MULTILINE)[1:7]))


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch) -> None:
    """A folder of hf: is told from a name by being there."""
    (tmp_path / "models" / "flowers").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line):
    """Its verb is there, and every name=value is an option of it or a setting."""
    program, verb, *words = shlex.split(line, comments=True)
    assert program == "deitkit"
    options = inspect.signature(verb_function(verb)).parameters
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    if verb in ("train", "teach"):
        assert len(pairs) == len(words)
        parse_teacher(pairs.get("teacher", "auto"))
        build_config({name: value for name, value in pairs.items() if name != "config"})
    else:
        flags = {w.removeprefix("--").replace("-", "_") for w in words if w.startswith("--")}
        assert {*pairs, *flags} <= {*options}


@pytest.mark.parametrize("text", TEACHERS)
def test_every_form_of_a_teacher_is_read(text):
    assert parse_teacher(text).kind in ("auto", "bundle", "timm", "hf", "onnx")


def test_all_forms_stand_in_the_table():
    kinds = {parse_teacher(text).kind for text in TEACHERS}
    assert kinds == {"bundle", "timm", "hf", "onnx", "auto"}


def test_bytes_of_a_view():
    rows = re.findall(r"^\| ([\d,]+)(, the 32 highest)? \| ([\d,]+) \| ([\d.]+) MB \|", PAGE, re.M)
    assert len(rows) == 4
    for classes, is_top, num_bytes, megabytes in rows:
        records = RecordFormat(
            num_classes=int(classes.replace(",", "")), top_k=32 if is_top else None
        )
        assert int(num_bytes.replace(",", "")) == records.num_bytes
        assert float(megabytes) == pytest.approx(records.num_bytes * 10_000 * 30 / 1e6, abs=0.05)
    exact = RecordFormat(num_classes=10, dtype="float32")
    assert exact.num_bytes == 4 * 10 + 12 and "4 K + 12" in PAGE
    assert RecordFormat(num_classes=9, top_k=5).num_bytes == 4 * 5 + 18 and "4 k + 18" in PAGE
    assert RecordFormat(num_classes=9).num_bytes == 2 * 9 + 14 and "2 K + 14" in PAGE


def test_what_is_chosen_is_what_is_said():
    words = " ".join(PAGE.split())
    assert f"about {100 * TEACHER_SHARE:.0f} % of the student's time" in words
    assert MIN_VIEW_SHARE == CHEAP_TEACHER == 0.1 and MIN_VIEW_EPOCHS == 10
    assert "at least a tenth of the epochs and ten" in words
    shares = f"{100 * STEM_SHARE:.0f} % of the time for a quick_cnn and {100 * AUTO_SHARE:.0f} %"
    assert f"`auto` takes {shares} for a RegNetY" in words
    assert AUTO_EPOCHS_SHARE == 1 / 4 and "a quarter of the epochs" in words


def test_the_code_is_python():
    code = [text for kind, text in BLOCKS if kind == "python"]
    assert len(code) == 2
    for text in code:
        ast.parse(text)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
