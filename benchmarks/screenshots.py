"""Screenshots of the pages, on the digits of `deitkit demo`; they stand in docs/images.

    deitkit demo
    python benchmarks/screenshots.py [--demo demo] [--out docs/images]

Report, data check, serving page (wide and light, narrow and dark), label review, explanation.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PROGRAM = Path(sys.executable).with_name("deitkit")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def listening(*words: object) -> Iterator[str]:
    """The address of `deitkit serve` or `deitkit review`."""
    command = [str(PROGRAM), *map(str, words), "port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if address := re.search(r"http://\S+:\d+", line):
                yield address[0]
                break
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def run(*words: object) -> None:
    subprocess.run([str(PROGRAM), *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def shoot(
    browser: Any, address: str, path: Path, *, width: int, height: int, dark: bool = False
) -> Any:
    """A page of this size; its `shot()` writes the visible part."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    page.goto(address)
    page.shot = lambda: (page.screenshot(path=str(path)), print(path))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    a = parser.parse_args()
    student, digits = a.demo / "student", a.demo / "digits"
    run("report", student)
    run("check", f"data={digits}", f"run={student}", f"out={a.demo / 'check'}")
    picture = sorted((digits / "test" / "3").glob("*.png"))[0]
    more = [sorted((digits / "test" / name).glob("*.png"))[1] for name in "58"]
    run("explain", student, picture, *more, f"out={a.out / 'explain.png'}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=a.chromium, args=FLAGS)
        for name, file in (("report", student), ("check", a.demo / "check")):
            address = (file / "report.html").resolve().as_uri()
            shoot(browser, address, a.out / f"{name}.png", width=1000, height=1250).shot()
        with listening("serve", student) as address:
            for name, width, height, dark in (
                ("serve", 1000, 960, False),
                ("serve-phone", 390, 1150, True),
            ):
                page = shoot(
                    browser, address, a.out / f"{name}.png", width=width, height=height, dark=dark
                )
                page.set_input_files("#file", str(picture))
                page.wait_for_selector("#views button:nth-child(3)")
                page.shot()
        with listening("review", student, f"out={a.demo / 'labels.csv'}") as address:
            page = shoot(browser, address, a.out / "review.png", width=1000, height=700)
            page.wait_for_selector("#label")
            page.wait_for_load_state("networkidle")
            page.shot()
        browser.close()


if __name__ == "__main__":
    main()
