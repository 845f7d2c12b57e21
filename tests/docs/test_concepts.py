"""docs/concepts.md: its code runs, its numbers are what the code computed, both languages agree."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs"
LANGUAGES = ("concepts.md", "concepts.zh.md")
TOPICS = (
    ("layernorm", "mlp", "norm2"),
    ("class token", "expand", "broadcast"),
    ("distillation token", "head", "fuse"),
    ("temperature", "soft"),
    ("hard", "lambda", "numel"),
    ("truncated", "kaiming", "constant"),
    ("batch", "warm-up", "cosine"),
    ("autoaugment", "randaugment", "6 of 13"),
    ("deitkit views", "operations.png", "views.png"),
    ("smoothing", "five"),
    ("stochastic depth", "0.9996", "half-life"),
)
"""What each section is about, in the order of the page: words that it must hold."""
QUOTED = re.compile(r"(-?\d[\d,.]*(?:e-?\d+)?)<!--(\w+)-->")


class Section(NamedTuple):
    """One numbered chapter of the page."""

    title: str
    text: str
    code: str

    def quoted(self) -> list[tuple[str, str]]:
        """(number as printed, name of the variable that holds it), in order."""
        return QUOTED.findall(self.text)


def read_page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def sections_of(name: str) -> list[Section]:
    parts = re.split(r"^## (?=\d+\.)", read_page(name), flags=re.MULTILINE)[1:]
    found = []
    for part in parts:
        title, _, text = part.partition("\n")
        blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
        found.append(Section(title.strip(), text, "\n".join(blocks)))
    return found


ENGLISH, CHINESE = (sections_of(name) for name in LANGUAGES)


def says(printed: str, value: float) -> bool:
    """Whether a printed number is this value, rounded to as many digits as are printed."""
    number = Decimal(printed.replace(",", ""))
    last_digit = Decimal(1).scaleb(number.as_tuple().exponent)  # type: ignore[arg-type]
    return abs(float(value) - float(number)) <= 0.5 * float(last_digit) * (1 + 1e-9)


@pytest.mark.parametrize("number", range(1, len(TOPICS) + 1))
def test_the_code_runs_and_computes_the_numbers_of_the_text(number: int) -> None:
    """Each block alone, in a fresh namespace, as somebody pastes it."""
    section = ENGLISH[number - 1]
    names: dict[str, Any] = {"__name__": f"concepts_{number}"}
    with torch.random.fork_rng():
        exec(compile(section.code, f"concepts.md, section {number}", "exec"), names)
    assert section.quoted(), "a section without a number that can be checked"
    wrong = [
        f"{name}: the text says {printed}, the code computed {names[name]}"
        for printed, name in section.quoted()
        if not says(printed, names[name])
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("printed", "value", "is_right"),
    [
        ("444,864", 444_864, True),
        ("444,864", 444_865, False),
        ("0.0176", 0.01764, True),
        ("0.0176", 0.01766, False),
        ("2.008e-4", 2.008e-4, True),
        ("2.008e-4", 2.009e-4, False),
        ("-0.32", -0.32, True),
        ("-0.32", 0.32, False),
    ],
)
def test_a_printed_number_is_compared_digit_by_digit(
    printed: str, value: float, is_right: bool
) -> None:
    assert says(printed, value) is is_right


def test_every_topic_has_its_section() -> None:
    assert len(ENGLISH) == len(CHINESE) == len(TOPICS)
    for number, (section, words) in enumerate(zip(ENGLISH, TOPICS, strict=True), start=1):
        assert section.title.startswith(f"{number}. ")
        missing = [word for word in words if word not in (section.title + section.text).lower()]
        assert not missing, f"section {number} does not speak of {missing}"


@pytest.mark.parametrize("number", range(1, len(TOPICS) + 1))
def test_both_languages_hold_the_same_code_numbers_and_pictures(number: int) -> None:
    english, chinese = ENGLISH[number - 1], CHINESE[number - 1]
    assert english.code and english.code == chinese.code
    assert sorted(english.quoted()) == sorted(chinese.quoted())
    assert english.text.count("\n|") == chinese.text.count("\n|"), "rows of tables"
    papers = re.compile(r"arXiv:\d{4}\.\d{5}")
    assert sorted(papers.findall(english.text)) == sorted(papers.findall(chinese.text))
    assert pictures_of(english.text) == pictures_of(chinese.text)


def pictures_of(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)


def test_the_chinese_page_is_in_chinese() -> None:
    for section in CHINESE:
        prose = re.sub(r"```.*?```", "", section.text, flags=re.DOTALL)
        assert len(re.findall(r"[\u4e00-\u9fff]", prose)) > 120, section.title


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_picture_and_page_that_is_named_exists(name: str) -> None:
    page = read_page(name)
    targets = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(pictures_of(page)) >= 6
    assert [t for t in targets if not t.startswith("http") and not (DOCS / t).is_file()] == []
    for other in ("using.md", "results.md"):
        page += (DOCS / other).read_text(encoding="utf-8")
    unused = [p.name for p in (DOCS / "images").iterdir() if p.name not in page]
    assert not unused


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_table_of_contents_leads_to_the_sections(name: str) -> None:
    """Anchors as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    anchors = [
        re.sub(r"[^\w\- ]", "", section.title.lower()).replace(" ", "-")
        for section in sections_of(name)
    ]
    assert re.findall(r"\]\(#([^)]+)\)", read_page(name)) == anchors
