"""Those who ask a server: patiently, all at once, or a byte a second. Used by serving.py."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

NUM_CLIENTS = 32
TIMEOUT_S = 30.0
GREEDY, MODEST, SLOW = "10.0.0.1", "10.0.0.2", "10.0.0.3"
NUM_SLOW = 200


@dataclass(frozen=True)
class Answer:
    """To one request; status 0: it was lost."""

    status: int
    seconds: float
    headers: dict[str, str]


def request_bytes(port: int, content: bytes | None, client: str, path: str) -> bytes:
    """One request; a proxy on this machine would say so who the client is."""
    method, length = ("GET", 0) if content is None else ("POST", len(content))
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nx-forwarded-for: {client}\r\n"
        f"content-type: image/jpeg\r\ncontent-length: {length}\r\n\r\n"
    )
    return head.encode() + (content or b"")


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes
) -> tuple[int, dict[str, str]]:
    """(status, headers) of one request over a connection."""
    writer.write(sent)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
    await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers


async def ask(
    port: int, content: bytes | None, *, client: str = MODEST, path: str = "/v1/predict"
) -> Answer:
    """One request over a connection of its own."""
    start = time.perf_counter()
    status: int = 0
    headers: dict[str, str] = {}
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                sent = request_bytes(port, content, client, path)
                status, headers = await exchange(reader, writer, sent)
            finally:
                writer.close()
    return Answer(status, time.perf_counter() - start, headers)


async def closed_loop(port: int, take: Callable[[], bytes | None]) -> Counter[int]:
    """Statuses of clients that each wait for their answer, over connections they keep."""
    statuses: Counter[int] = Counter()

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (content := take()) is not None:
            sent = request_bytes(port, content, f"10.1.0.{number}", "/v1/predict")
            status, headers = await exchange(reader, writer, sent)
            statuses[status] += 1
            if headers.get("connection") == "close":
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(one(number) for number in range(NUM_CLIENTS)))
    return statuses


async def open_loop(port: int, pictures: list[bytes], rate: float, seconds: float) -> list[Answer]:
    """Answers, by number, to requests sent at fixed times; seven in ten by one client."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
        client = GREEDY if number % 10 < 7 else MODEST
        content = pictures[number % len(pictures)]
        tasks.append(loop.create_task(ask(port, content, client=client)))
    return list(await asyncio.gather(*tasks))


async def beside_slow_clients(port: int, measured: Awaitable[list[Answer]]) -> list[Answer]:
    """The same while others trickle."""
    slow = [asyncio.ensure_future(_trickle(port, number)) for number in range(NUM_SLOW)]
    try:
        return await measured
    finally:
        for task in slow:
            task.cancel()


async def _trickle(port: int, number: int) -> None:
    """A byte a second, of the headers or of the body; once it is thrown out it comes again."""
    sent = request_bytes(port, b"x" * 900, SLOW, "/v1/predict")
    begun = 40 if number % 2 else len(sent) - 900
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent[:begun])
            for place in range(begun, len(sent)):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 1)
                    break
                writer.write(sent[place : place + 1])
            writer.close()
