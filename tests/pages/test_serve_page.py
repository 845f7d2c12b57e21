"""The page of `deitkit serve` in a real browser: upload, result, maps, refusals, keys."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import httpx
import pytest

from tests.journeys.commands import Commands
from tests.pages.conftest import CLASSES, NASTY

pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def address(commands: Commands, bundle_folder: Path):
    with commands.serving(bundle_folder) as address:
        yield address


@pytest.fixture(scope="module")
def picture(pictures: Path) -> Path:
    return pictures / "0-3.png"


def asked(address: str, picture: Path) -> dict:
    answer = httpx.post(f"{address}/v1/predict", content=picture.read_bytes(), timeout=30)
    (prediction,) = answer.json()["predictions"]
    return prediction


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def test_a_chosen_picture_is_answered_with_bars_and_maps(address, picture, open_page):
    """What the page says is what /v1/predict says; each head has its map; nothing complains."""
    seen = open_page(address)
    said = asked(address, picture)
    seen.page.set_input_files("#file", str(picture))
    seen.page.wait_for_selector("#views button:nth-child(3)")
    assert seen.text("#verdict") == f"{said['class']}, {percent(said['probability'])}"
    rows = [line.split("\n") for line in seen.page.locator("#bars .line").all_inner_texts()]
    assert rows == [[row["class"], percent(row["probability"])] for row in said["top"]]
    assert seen.page.is_visible("#unsure") == said["abstains"]
    views = seen.page.locator("#views button").all_inner_texts()
    assert views == ["Picture", "class head", "distillation head"]
    drawn = {}
    for place, name in enumerate(views):
        seen.page.locator("#views button").nth(place).click()
        drawn[name] = seen.page.evaluate("document.getElementById('picture').toDataURL()")
    assert len(set(drawn.values())) == 3, "each view shows something else"
    assert seen.complaints == []
    assert all(url.startswith((address, "blob:")) for url in seen.requests)


def test_names_are_text_and_nothing_else(address, picture, open_page):
    """S22: a class called like markup is shown letter by letter, and runs nowhere."""
    seen = open_page(address)
    seen.page.set_input_files("#file", str(picture))
    seen.page.wait_for_selector("#bars li")
    seen.page.click("summary")
    assert NASTY in seen.text("#bars") and NASTY in seen.text("#facts")
    assert seen.page.evaluate("window.__pwned") is None
    assert seen.page.locator("img").count() == 0


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.png", b"these are words", "not a picture"),
        ("cut.png", None, "cut off"),
        ("none.png", b"", "not a picture"),
    ],
)
def test_a_bad_file_is_explained(name, content, words, address, picture, open_page, tmp_path):
    """S09: the reason in words, read out by screen readers, and the next picture is answered."""
    path = tmp_path / name
    path.write_bytes(picture.read_bytes()[:-40] if content is None else content)
    seen = open_page(address)
    seen.page.set_input_files("#file", str(path))
    seen.page.wait_for_selector("#error:not([hidden])")
    assert words in seen.text("#error")
    assert seen.page.get_attribute("#error", "role") == "alert"
    assert not seen.page.is_visible("#result")
    seen.page.set_input_files("#file", str(picture))
    seen.page.wait_for_selector("#bars li")
    assert not seen.page.is_visible("#error")
    refusals = [text for text in seen.complaints if "400" not in text]
    assert refusals == [], "the browser notes the refusal itself, and nothing else"


def transfer(page, picture: Path) -> None:
    """Put a picture into `window.carried`, as a drag or the clipboard would carry it."""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    page.evaluate(
        """(encoded) => {
          const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
          window.carried = new DataTransfer();
          window.carried.items.add(new File([bytes], "p.png", { type: "image/png" }));
        }""",
        encoded,
    )


@pytest.mark.parametrize(
    "event",
    [
        "new DragEvent('drop', { dataTransfer: window.carried, bubbles: true, cancelable: true })",
        "new ClipboardEvent('paste', { clipboardData: window.carried, bubbles: true })",
    ],
)
def test_pictures_can_be_dropped_and_pasted(event, address, picture, open_page):
    seen = open_page(address)
    transfer(seen.page, picture)
    seen.page.evaluate(f"document.getElementById('drop').dispatchEvent({event})")
    seen.page.wait_for_selector("#bars li")
    assert seen.text("#verdict").startswith(asked(address, picture)["class"])


def test_keys_reach_everything_and_names_are_told(address, picture, open_page):
    """By Tab alone: choose, camera, views, the card; each control has a name."""
    seen = open_page(address)
    seen.page.set_input_files("#file", str(picture))
    seen.page.wait_for_selector("#views button:nth-child(3)")
    seen.page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = []
    for _ in range(8):
        seen.page.keyboard.press("Tab")
        reached.append(
            seen.page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    expected = ["file", "camera", "Picture", "class head", "distillation head"]
    assert [name for name in reached if name in expected] == expected
    assert "About this model" in reached
    unnamed = seen.page.evaluate(
        """[...document.querySelectorAll("button, input, canvas, progress")]
           .filter((one) => !(one.textContent || one.ariaLabel || one.labels?.length))
           .map((one) => one.outerHTML)"""
    )
    assert unnamed == []


def test_a_phone_shows_it_without_scrolling_sideways(address, picture, open_page):
    """At 360 pixels, dark and light; the camera can be asked for."""
    for scheme in ("light", "dark"):
        seen = open_page(
            address, viewport={"width": 360, "height": 740}, color_scheme=scheme, is_mobile=True
        )
        seen.page.set_input_files("#camera", str(picture))
        seen.page.wait_for_selector("#views button:nth-child(3)")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        levels = json.loads("[" + ground.removeprefix("rgb(").removesuffix(")") + "]")
        assert (sum(levels) > 600) == (scheme == "light")
        assert seen.page.get_attribute("#camera", "capture") == "environment"


def test_the_card_tells_what_is_served(address, open_page):
    seen = open_page(address)
    seen.page.wait_for_selector("#facts dt", state="attached")
    seen.page.click("summary")
    facts = seen.text("#facts")
    assert ", ".join(CLASSES) in facts and "50.0 %" in facts and "99.0 %" in facts
    seen.page.click("#documents")
    assert "For programs" in seen.text("h1")
