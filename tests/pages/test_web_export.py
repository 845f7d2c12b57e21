"""`deitkit export to=web` in a real browser: the same answers with no server, also offline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.exporters.web_runtime import ARCHIVE
from deitkit.runtime.user_cache import user_cache
from tests.journeys.commands import Commands, installed
from tests.pages.conftest import NASTY, static_files

pytest.importorskip("onnxruntime")

RUNTIME = user_cache("web") / ARCHIVE
"""Where `make browser` puts it; read before the tests get caches of their own."""
pytestmark = pytest.mark.skipif(not RUNTIME.is_file(), reason="no onnxruntime-web (make browser)")


@pytest.fixture(scope="module")
def exported(bundle_folder: Path, pictures: Path, tmp_path_factory) -> Path:
    """The folder, written by the installed program, below a path of its own."""
    folder = tmp_path_factory.mktemp("host")
    ended = installed(
        *(
            "export",
            bundle_folder,
            "to=web",
            f"out={folder / 'deep' / 'page'}",
            f"data={pictures / 'labels.csv'}",
        ),
        *(f"runtime={RUNTIME}", "tolerance=0.5"),
        folder=folder,
    )
    assert ended.code == 0, ended.err
    assert "model.int8.onnx" in ended.out and "measured on 12 images" in ended.out
    return folder


@pytest.fixture(scope="module")
def address(exported: Path):
    with static_files(exported) as root:
        yield f"{root}/deep/page/"


@pytest.fixture(scope="module")
def answers(commands: Commands, exported: Path, pictures: Path) -> dict[str, dict[str, float]]:
    """What `deitkit predict` says of each picture through the same file."""
    model = exported / "deep" / "page" / "model.int8.onnx"
    ended = commands("predict", model, pictures, "--json")
    assert ended.code == 0, ended.err
    return {row["source"]: row["probabilities"] for row in ended.json}


SHOWN = """() => [...document.querySelectorAll("#bars li")].map(
  (item) => [item.querySelector("span").textContent, item.querySelector("progress").value])"""


def shown(seen, picture: Path) -> dict[str, float]:
    seen.page.set_input_files("#file", str(picture))
    seen.page.wait_for_selector("#working", state="hidden")
    return dict(seen.page.evaluate(SHOWN))


def test_the_page_answers_as_the_file_does(address, answers, open_page):
    """Every picture of the folder through Chromium: probabilities within 0.01 of predict's, which
    are those of another version of the library, and so of its int8 arithmetic."""
    seen = open_page(address)
    for source, own in answers.items():
        assert shown(seen, Path(source)) == pytest.approx(own, abs=0.01), source
    assert seen.complaints == []
    assert all(url.startswith((address, "blob:")) for url in seen.requests), "nothing is sent out"
    assert "never leaves this device" in seen.text("#promise")
    assert seen.page.evaluate("window.__pwned") is None


def test_it_works_offline_after_the_first_visit(address, answers, open_page):
    seen = open_page(address)
    seen.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    seen.page.context.set_offline(True)
    seen.page.reload()
    source, own = next(iter(answers.items()))
    assert shown(seen, Path(source)) == pytest.approx(own, abs=0.01)


def test_transparency_orientation_and_large_pictures(
    commands, address, exported, open_page, tmp_path
):
    """D21, D22: alpha on white and EXIF orientation as in deitkit; 20 megapixels are halved."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (6, 8, 4), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(blocks).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(blocks[..., :3]).save(tmp_path / "turned.png", exif=exif)
    large = np.asarray(
        Image.fromarray(blocks[..., :3]).resize((5200, 3900), Image.Resampling.BICUBIC)
    )
    Image.fromarray(large).save(tmp_path / "large.png", compress_level=1)
    model = exported / "deep" / "page" / "model.int8.onnx"
    seen = open_page(address)
    for name, tolerance in (("clear.png", 0.02), ("turned.png", 0.01), ("large.png", 0.02)):
        ended = commands("predict", model, tmp_path / name, "--json")
        (own,) = ended.json
        assert shown(seen, tmp_path / name) == pytest.approx(own["probabilities"], abs=tolerance)
    assert "2 times smaller" in seen.text("#note")


def test_a_file_that_is_no_picture_is_told(address, open_page, tmp_path):
    (tmp_path / "notes.png").write_bytes(b"words")
    seen = open_page(address)
    seen.page.set_input_files("#file", str(tmp_path / "notes.png"))
    seen.page.wait_for_selector("#error:not([hidden])")
    assert "cannot read" in seen.text("#error") or "can read" in seen.text("#error")


def test_the_folder_is_whole(exported):
    """What the page lists for offline use is there, and what is there is listed or explained."""
    folder = exported / "deep" / "page"
    text = (folder / "files.js").read_text(encoding="utf-8")
    listed = json.loads(text.partition("self.files = ")[2].rstrip(";\n"))
    present = {path.name for path in folder.iterdir()}
    assert set(listed) - {"./"} == present - {
        "README.md",
        "LICENSE-onnxruntime.txt",
        "manifest.json",
    }
    facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert facts["card"]["classes"][1] == NASTY and facts["file"] == "model.int8.onnx"


def test_another_archive_is_refused(commands, bundle_folder, pictures, tmp_path):
    """What runs in people's browsers is the very archive that was tested."""
    content = bytearray(RUNTIME.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "other.tgz").write_bytes(content)
    ended = commands(
        *("export", bundle_folder, "to=web", f"out={tmp_path / 'page'}"),
        *(f"data={pictures / 'labels.csv'}", f"runtime={tmp_path / 'other.tgz'}"),
    )
    assert ended.code == 5 and "[CHECKSUM]" in ended.err
    assert not (tmp_path / "page").exists()
