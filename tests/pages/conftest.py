"""A real browser, a small bundle, pictures, and a plain web server."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deitkit.artifacts.bundle import Bundle, save_bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.models import create_model
from tests.exporters.conftest import shake

CHROMIUM = Path("/usr/bin/chromium")
NASTY = "</script><img src=x onerror=window.__pwned=1>"
CLASSES = ("heron", NASTY, "plover")


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """For the tests of this folder alone: while it is open, its loop of events runs."""
    if not CHROMIUM.exists():
        pytest.skip("there is no /usr/bin/chromium (make browser)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield started
        started.close()


@dataclass
class Seen:
    """A page, and what went wrong on it."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Seen]]:
    """`open_page(address)` with every console message of weight and every request noted."""
    contexts = []

    def open_it(address: str, **options: Any) -> Seen:
        context = browser.new_context(**options)
        contexts.append(context)
        seen = Seen(context.new_page())
        seen.page.on(
            "console",
            lambda said: (
                seen.complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(address)
        return seen

    yield open_it
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads, three classes, one with a name that a careless page would run."""
    torch.manual_seed(0)
    model = shake(create_model("deit_nano_distilled_patch4_32", num_classes=3, depth=2))
    bundle = Bundle(
        model_config=model.config,
        class_names=CLASSES,
        preprocessing=Preprocessing(image_size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3),
        state_dict=model.state_dict(),
        threshold=0.99,
        provenance={"validation": {"step": 12, "top1": 0.5}},
    )
    folder = tmp_path_factory.mktemp("bundle") / "best"
    save_bundle(folder, bundle)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four lossless pictures of each class, of many shapes, and labels.csv."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows = ["path,label"]
    for number, name in enumerate(CLASSES):
        for place in range(4):
            height, width = (48 + 16 * place, 64 - 8 * number)
            blocks = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)
            Image.fromarray(pixels).save(folder / f"{number}-{place}.png")
            rows.append(f'{number}-{place}.png,"{name}"')
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@contextmanager
def static_files(folder: Path) -> Iterator[str]:
    """The address of `folder` behind Python's plain web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
