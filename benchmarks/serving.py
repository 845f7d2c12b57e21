"""What `deitkit serve` does under twice its load, over 10,000 requests, and when it is stopped.

    python benchmarks/serving.py [--served bundle onnx] [--seconds 60] [--requests 10000]

A network of random weights (deit_tiny_patch16_224, 1,000 classes: an answer costs what a trained
one's costs) is served by the installed program, as a bundle and as the file that `deitkit export`
makes of it. The pictures are JPEG of 160 to 640 pixels a side. Client and server share the machine,
so the capacity is that of the server beside its client.

Capacity: requests a second of 32 clients that each wait for their answer. Overload: for a minute,
twice as many are sent at fixed times whatever comes back, each over a connection of its own, seven
in ten of them by one client (a proxy on this machine says who asks). Every one must be answered
with 200, 429 or 503, the latter two with Retry-After; a reset, a refusal to connect or 30 s without
an answer is lost. Slow clients: 200 that send a byte a second, beside others at half the capacity.
Endurance: 30 % of the requests are bad; memory is what /proc says. End: SIGTERM while 32 requests
are under way. A line that does not hold ends the program with code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from serving_load import NUM_CLIENTS, Answer, ask, beside_slow_clients, closed_loop, open_loop

PROGRAM = Path(sys.executable).with_name("deitkit")
WAIT_TIMEOUT_S = 10.0
"""A request that the model has not begun by then is refused."""
REST_S = 4.0
"""After each thousand requests, before the memory is read."""


@dataclass(frozen=True)
class Server:
    """The process that serves."""

    popen: subprocess.Popen[str]
    port: int

    def rss_mb(self) -> float:
        text = Path(f"/proc/{self.popen.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Rss:\s+(\d+)", text, re.M)[1]) / 1000

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def count(self, kind: str) -> int:
        """Of "fd" (open files) or "task" (threads)."""
        return len(list(Path(f"/proc/{self.popen.pid}/{kind}").iterdir()))


# ------------------------------------------------------------------ what is served, what is asked


def make_model(folder: Path, *, onnx: bool) -> Path:
    import torch

    from deitkit.artifacts.bundle import Bundle, save_bundle
    from deitkit.data.preprocess import Preprocessing
    from deitkit.models import create_model

    torch.manual_seed(0)
    model = create_model("deit_tiny_patch16_224", num_classes=1000)
    bundle = Bundle(
        model_config=model.config,
        class_names=[f"class {k}" for k in range(1000)],
        preprocessing=Preprocessing(image_size=(224, 224)),
        state_dict=model.state_dict(),
        provenance={},
    )
    save_bundle(folder / "bundle", bundle)
    if not onnx:
        return folder / "bundle"
    for number in range(4):
        path = folder / "photos" / f"class {number}" / "0.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(number))
    words = "export", "bundle", "to=onnx", "data=photos", "out=exported"
    subprocess.run([str(PROGRAM), *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "exported" / "model.onnx"


def picture(seed: int) -> bytes:
    """A JPEG of soft shapes and some noise, of its own size."""
    chance = np.random.default_rng(seed)
    width, height = (int(side) for side in chance.integers(160, 640, 2))
    shapes = Image.fromarray(chance.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    pixels = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = (pixels + chance.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def bad_pictures(good: bytes) -> list[bytes]:
    tiny = io.BytesIO()
    Image.new("RGB", (1, 1)).save(tiny, "PNG")
    return [b"", b"this is text", good[: len(good) // 2], tiny.getvalue()]


@contextlib.contextmanager
def serving(path: Path) -> Iterator[Server]:
    popen = subprocess.Popen(
        [str(PROGRAM), "serve", str(path), "port=0"], stdout=subprocess.PIPE, text=True
    )
    try:
        found = re.search(r":(\d+) ", popen.stdout.readline())
        server = Server(popen, int(found[1]))
        while asyncio.run(ask(server.port, None, path="/readyz")).status != 200:
            time.sleep(0.1)
        yield server
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait()


# ------------------------------------------------------------------------------- what is measured


def capacity(port: int, pictures: list[bytes], seconds: float) -> float:
    numbers = itertools.count()
    end = time.perf_counter() + seconds

    def take() -> bytes | None:
        if time.perf_counter() > end:
            return None
        return pictures[next(numbers) % len(pictures)]

    start = time.perf_counter()
    statuses = asyncio.run(closed_loop(port, take))
    assert set(statuses) == {200}, statuses
    return statuses[200] / (time.perf_counter() - start)


async def nobody(seconds: float) -> list[Answer]:
    await asyncio.sleep(seconds)
    return []


def endurance(server: Server, pictures: list[bytes], num: int) -> tuple[Counter[int], list[list]]:
    """Statuses, and (requests so far, MB, open files, threads) after each thousand."""
    bad = bad_pictures(pictures[0])
    statuses: Counter[int] = Counter()
    rows = []
    for done in range(0, num, 1000):
        numbers = iter(range(done, done + 1000))

        def take(numbers: Iterator[int] = numbers) -> bytes | None:
            number = next(numbers, None)
            if number is None:
                return None
            if number % 10 < 3:
                return bad[number // 10 % len(bad)]
            return pictures[number % len(pictures)]

        statuses += asyncio.run(closed_loop(server.port, take))
        time.sleep(REST_S)
        rows.append([done + 1000, server.rss_mb(), server.count("fd"), server.count("task")])
    return statuses, rows


async def stop_under_load(server: Server, pictures: list[bytes]) -> list[Answer]:
    asked = [asyncio.ensure_future(ask(server.port, pictures[n])) for n in range(NUM_CLIENTS)]
    await asyncio.sleep(0.2)
    server.popen.send_signal(signal.SIGTERM)
    return list(await asyncio.gather(*asked))


# ------------------------------------------------------------------------------------ what is told

failures: list[str] = []


def check(holds: bool, what: str) -> None:
    if not holds:
        failures.append(what)


def tell(what: str, found: object) -> None:
    print(f"| {what} | {found} |", flush=True)


def ms(answers: list[Answer], share: float) -> str:
    seconds = [answer.seconds for answer in answers] or [float("nan")]
    return f"{1e3 * float(np.quantile(seconds, share)):.0f} ms"


def tell_overload(server: Server, pictures: list[bytes], rate: float, seconds: float) -> None:
    answers = asyncio.run(open_loop(server.port, pictures, 2 * rate, seconds))
    counts = Counter(answer.status for answer in answers)
    refused = [answer for answer in answers if answer.status in (429, 503)]
    unsaid = sum("retry-after" not in answer.headers for answer in refused)
    accepted = [answer for answer in answers if answer.status == 200]
    at_once = [answer for answer in refused if answer.seconds < WAIT_TIMEOUT_S]
    tell(f"sent in {seconds:.0f} s at twice that", f"{len(answers):,}")
    tell("answered 200 / 429 / 503", " / ".join(f"{counts[n]:,}" for n in (200, 429, 503)))
    tell("other answers, lost or reset", len(answers) - len(accepted) - len(refused))
    tell("refusals without Retry-After", unsaid)
    tell("200 after (median, 99 %)", f"{ms(accepted, 0.5)}, {ms(accepted, 0.99)}")
    tell("429 or 503 at once (median, 99 %)", f"{ms(at_once, 0.5)}, {ms(at_once, 0.99)}")
    tell("503 after waiting 10 s for the model", len(refused) - len(at_once))
    check(len(answers) == len(accepted) + len(refused), "a request was lost")
    check(unsaid == 0, "a refusal without Retry-After")
    check(bool(accepted) and bool(refused), "no overload")


def tell_slow_clients(server: Server, pictures: list[bytes], rate: float, seconds: float) -> None:
    def measure() -> Awaitable[list[Answer]]:
        return open_loop(server.port, pictures, rate / 2, seconds)

    alone = asyncio.run(measure())
    beside = asyncio.run(beside_slow_clients(server.port, measure()))
    start = server.cpu_seconds()
    asyncio.run(beside_slow_clients(server.port, nobody(seconds)))
    share = (server.cpu_seconds() - start) / seconds
    statuses = Counter(answer.status for answer in [*alone, *beside])
    tell("at half of it, 99 % within", ms(alone, 0.99))
    tell("the same beside 200 slow clients", ms(beside, 0.99))
    tell("what those alone cost the server", f"{100 * share:.1f} % of a processor")
    check(set(statuses) == {200}, f"at half the load: {dict(statuses)}")


def tell_endurance(server: Server, pictures: list[bytes], num: int) -> None:
    statuses, rows = endurance(server, pictures, num)
    shown = ", ".join(f"{count:,} of {status}" for status, count in sorted(statuses.items()))
    tell(f"{num:,} requests, 30 % bad", shown)
    tell("memory after each 1,000, MB", " ".join(f"{row[1]:.0f}" for row in rows))
    growth = rows[-1][1] - rows[0][1]
    tell("growth from the first 1,000 to the last", f"{growth:+.1f} MB")
    tell("open files, threads", f"{rows[0][2]} to {rows[-1][2]}, {rows[0][3]} to {rows[-1][3]}")
    check(set(statuses) <= {200, 400, 422}, f"statuses {dict(statuses)}")
    check(growth <= 8, f"memory grew by {growth:.1f} MB")
    check(len({(row[2], row[3]) for row in rows}) == 1, "files or threads changed")


def tell_end(server: Server, pictures: list[bytes]) -> None:
    answers = asyncio.run(stop_under_load(server, pictures))
    counts = Counter(answer.status for answer in answers)
    code = server.popen.wait(30)
    shown = ", ".join(f"{count} of {status}" for status, count in sorted(counts.items()))
    tell(f"SIGTERM with {NUM_CLIENTS} under way: answers, code", f"{shown}; {code}")
    check(set(counts) <= {200, 503} and code == 0, "not every request was answered at the end")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--served", nargs="+", default=["bundle", "onnx"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=10_000)
    a = parser.parse_args()
    pictures = [picture(seed) for seed in range(64)]
    for kind in a.served:
        with tempfile.TemporaryDirectory(prefix="deitkit-serving-") as folder:
            path = make_model(Path(folder), onnx=kind == "onnx")
            with serving(path) as server:
                print(f"\n| served as {kind}, {os.cpu_count()} processors | |\n|---|---|")
                tell("waiting for a processor before (load)", f"{os.getloadavg()[0]:.1f}")
                rate = capacity(server.port, pictures, a.seconds / 4)
                tell(f"capacity, {NUM_CLIENTS} clients", f"{rate:.1f} requests a second")
                tell_overload(server, pictures, rate, a.seconds)
                tell_slow_clients(server, pictures, rate, a.seconds / 4)
                tell_endurance(server, pictures, a.requests)
                tell_end(server, pictures)
    for failure in failures:
        print(f"does not hold: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
