"""The page of `deitkit review` in a real browser: keys and clicks end in the overlay file."""

from __future__ import annotations

import csv
from pathlib import Path

import httpx
import pytest

import deitkit
from tests.journeys.conftest import make_splits

pytest.importorskip("fastapi")

SETTINGS = {
    "model": "deit_nano_patch4_16",
    "epochs": 2,
    "batch_size": 8,
    "workers": 0,
    "run.report": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on a folder that nobody may change."""
    folder = tmp_path_factory.mktemp("review")
    photos = make_splits(folder / "photos", train=6, val=3, test=0)
    return deitkit.train(data=str(photos), out=str(folder / "run"), **SETTINGS).folder


@pytest.fixture
def answers(run: Path) -> Path:
    """The overlay file, not there yet."""
    path = run / "labels.csv"
    path.unlink(missing_ok=True)
    return path


def rows_of(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [(row["action"], row["label"]) for row in csv.DictReader(stream)]


def test_keys_answer_and_every_answer_is_saved_at_once(commands, run, answers, open_page):
    """K keeps, 1 to 9 change, D drops, U takes back; the file is whole after each."""
    with commands.serving("review", run, "num=5") as address:
        seen = open_page(address)
        seen.page.wait_for_selector("#label")
        items = httpx.get(f"{address}/v1/state", timeout=30).json()["items"]
        assert len(items) == 5 and "1 of 5" in seen.text("#place")
        assert [one["doubt"] for one in items] == sorted((i["doubt"] for i in items), reverse=True)
        first_offered = ""
        for place, key in enumerate(("k", "1", "d")):
            if place == 1:
                first_offered = seen.page.locator("#classes button").first.inner_text()
                first_offered = first_offered.split(None, 1)[1]
            with seen.page.expect_response("**/v1/answer"):
                seen.page.keyboard.press(key)
            assert f"{place + 2} of 5" in seen.text("#place")
        expected = [("keep", ""), ("change", first_offered), ("drop", "")]
        assert rows_of(answers) == expected
        seen.page.keyboard.press("ArrowLeft")
        assert "Dropped" in seen.text("#answer")
        with seen.page.expect_response("**/v1/answer"):
            seen.page.keyboard.press("u")
        assert rows_of(answers) == expected[:2]
        assert seen.complaints == []
    with commands.serving("review", run, "num=5") as address:
        seen = open_page(address)
        seen.page.wait_for_selector("#place:has-text('2 answered')")


def test_a_phone_can_click_it(commands, run, answers, open_page):
    with commands.serving("review", run, "num=3") as address:
        seen = open_page(address, viewport={"width": 360, "height": 740}, is_mobile=True)
        seen.page.wait_for_selector("#label")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
        with seen.page.expect_response("**/v1/answer"):
            seen.page.click("#drop")
        assert rows_of(answers) == [("drop", "")]
        natural = seen.page.evaluate("document.getElementById('picture').naturalWidth")
        assert natural >= 128, "16 pixels are enlarged to be seen"


def test_what_cannot_be_saved_is_told(commands, run, answers, open_page):
    """The file's place is taken by a folder: the page says so and shows no answer as given."""
    with commands.serving("review", run, "num=3") as address:
        seen = open_page(address)
        seen.page.wait_for_selector("#label")
        answers.mkdir()
        try:
            seen.page.keyboard.press("k")
            seen.page.wait_for_selector("#error:not([hidden])")
        finally:
            answers.rmdir()
        assert "0 answered" in seen.text("#place")
        with seen.page.expect_response("**/v1/answer"):
            seen.page.keyboard.press("k")
        assert rows_of(answers) == [("keep", "")]


SENSELESS = (
    {"number": 99, "action": "keep"},
    {"number": 0, "action": "burn"},
    {"number": 0, "action": "change", "label": "unicorn"},
    {"number": True, "action": "keep"},
    ["keep"],
)


def test_answers_that_make_no_sense_are_refused(commands, run, answers):
    with commands.serving("review", run, "num=3") as address:
        for answer in SENSELESS:
            refused = httpx.post(f"{address}/v1/answer", json=answer, timeout=30)
            assert refused.status_code == 400, answer
            assert refused.json()["error"]["code"] == "bad_answer"
        foreign = httpx.post(
            f"{address}/v1/answer",
            json={"number": 0, "action": "keep"},
            headers={"origin": "http://evil.example"},
            timeout=30,
        )
        assert foreign.status_code == 403, "S25: another site cannot answer in your name"
    assert not answers.exists()
