"""Ranks that show each other that they live, and find out who does not, or is late.

A killed process closes its connections and is noticed at once; one that is stopped, or whose
machine is cut off, closes nothing. So each rank beats once a second in a thread of its own, also
while it computes: rank 0 watches all, all watch rank 0. A rank that is merely slow goes on beating
and is waited for.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist

from deitkit.errors import WorkerError

BEAT_S = 1.0
"""Seconds between two beats."""
SILENT_S = 15.0
"""Without a beat for so long, a rank counts as lost."""
GRACE_S = 8.0
"""Then the others may finish what they compute; together they end within 30 s."""
SLOW_S = 10.0
"""A rank that keeps the others waiting for so long is named."""
NAMING_S = 4.0
"""A closed connection does not say whose: so long the beats are listened to."""

_CHAIN = "[RANK_LOST]"
"""How a rank ends because of another: not the one to name."""


class Beat(NamedTuple):
    """What a rank shows of itself."""

    number: int
    num_exchanges: int
    """Exchanges that it reached; the one with the fewest keeps the others waiting."""
    who: str
    ended: str | None = None
    """Why it ended; empty where nothing was wrong."""
    lost: str | None = None
    """Whom rank 0 gave up."""


class Watch:
    """One rank's beats, and its eyes on the others. `store` is used by this object alone."""

    def __init__(self, store: Any, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.lost: str | None = None
        """Who is no longer there, once that is known."""
        self._store = store
        # Whoever is silent is told of before the store complains, in forty lines.
        self._store.set_timeout(timedelta(seconds=4 * SILENT_S))
        self._place = f"the ranks' meeting point {store.host}:{store.port} (rank 0 or its launcher)"
        self._lock = threading.Lock()
        who = f"rank {rank} (pid {os.getpid()} on {socket.gethostname()})"
        self._mine = Beat(0, 0, who)
        self._is_exchanging = False
        self._beats: dict[int, Beat] = {}
        self._reached: dict[int, int] = {}
        self._noting = threading.Lock()
        self._behind_s: dict[int, float] = {}
        self._slow: list[str] = []
        self._ends = threading.Event()
        self._beater = threading.Thread(target=self._beat, name="deitkit-beat", daemon=True)
        self._show()

    def start(self) -> None:
        """Begin to beat and to watch; all ranks have shown themselves once."""
        self._beater.start()
        threading.Thread(target=self._judge, name="deitkit-watch", daemon=True).start()

    def close(self, ended: str = "") -> None:
        """The last beat, which says why; nobody misses this rank then. Only the first counts."""
        if self._ends.is_set():
            return
        self._ends.set()
        with suppress(RuntimeError):
            self._show(patience_s=BEAT_S, ended=ended)

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """A block in which this rank may wait for the others."""
        if self.lost is not None:
            raise self.error(self.lost)
        self._mine = self._mine._replace(num_exchanges=self._mine.num_exchanges + 1)
        self._is_exchanging = True
        try:
            yield
        finally:
            self._is_exchanging = False

    def take_slow(self) -> list[str]:
        """Who kept the others waiting since the last call, after an exchange that all reached;
        known to rank 0."""
        with self._noting:
            for rank in list(self._behind_s):
                self._caught_up(rank)
            taken, self._slow = self._slow, []
        return taken

    def await_main(self, key: str) -> None:
        """Wait for rank 0 to come here, however long that takes, as long as it lives."""
        if self.rank == 0:
            with self._asking() as store:
                store.set(key, "here")
            return
        while True:
            if self.lost is not None:
                raise self.error(self.lost)
            with self._asking() as store:
                if store.check([key]):
                    return
            time.sleep(0.02)

    def name_missing(self) -> str | None:
        """Who ended or beats no more, after a connection was closed; None where nobody knows."""
        with suppress(RuntimeError):
            before = self._read_all()
            deadline = time.monotonic() + NAMING_S
            while time.monotonic() < deadline and self.lost is None:
                now = self._read_all()
                failed = [b for b in now.values() if b.ended and not b.ended.startswith(_CHAIN)]
                if failed:
                    return f"{failed[0].who} ended: {failed[0].ended}"
                time.sleep(BEAT_S / 2)
            silent = [b.who for r, b in now.items() if b == before[r] and b.ended is None]
            if silent:
                return f"{', '.join(silent)} ended without a word"
        return self.lost

    def error(self, why: str) -> WorkerError:
        """What this rank tells the user."""
        return rank_lost(self.rank, self.world_size, why)

    def _beat(self) -> None:
        """Show and read, once a second; a meeting point that is cut off never answers."""
        watched = range(1, self.world_size) if self.rank == 0 else range(1)
        while not self._ends.wait(BEAT_S):
            try:
                self._show(number=self._mine.number + 1)
                self._beats = self._read(watched)
            except RuntimeError as error:
                # Where rank 0 holds the meeting point and left, there is nothing to watch.
                if self._beats and all(beat.ended is None for beat in self._beats.values()):
                    self._end(f"{self._place} is gone ({first_line(error)})")
                return

    def _judge(self) -> None:
        """Count the seconds in which nothing came from the meeting point, and from each rank."""
        silent_s: dict[int, float] = {}
        unread_s = 0.0
        before: dict[int, Beat] = {}
        then = time.monotonic()
        while not self._ends.wait(BEAT_S) and self._beater.is_alive():
            # After a stop of this process (Ctrl-Z, a closed laptop) the others stood still too.
            passed_s, then = min(time.monotonic() - then, 2 * BEAT_S), time.monotonic()
            beats = self._beats
            unread_s = unread_s + passed_s if beats is before else 0.0
            if unread_s > SILENT_S:
                return self._end(f"{self._place} has been silent for {SILENT_S:.0f} s")
            if beats is before:
                continue
            for rank, beat in beats.items():
                is_silent = beat == before.get(rank) and beat.ended is None
                silent_s[rank] = silent_s.get(rank, 0.0) + passed_s if is_silent else 0.0
                if beat.lost is not None:
                    return self._end(beat.lost)
            gone = [beats[rank].who for rank, seconds in silent_s.items() if seconds > SILENT_S]
            if gone:
                return self._end(f"nothing was heard of {', '.join(gone)} for {SILENT_S:.0f} s")
            if self.rank == 0:
                self._note_slow(beats | {0: self._mine}, passed_s)
            before = beats

    def _note_slow(self, beats: dict[int, Beat], passed_s: float) -> None:
        furthest = max(beat.num_exchanges for beat in beats.values())
        with self._noting:
            for rank, beat in beats.items():
                if self._reached.get(rank) == beat.num_exchanges < furthest:
                    self._behind_s[rank] = self._behind_s.get(rank, 0.0) + passed_s
                else:
                    self._caught_up(rank)
                    self._reached[rank] = beat.num_exchanges

    def _caught_up(self, rank: int) -> None:
        seconds = self._behind_s.pop(rank, 0.0)
        if seconds > SLOW_S:
            who = self._mine.who if rank == self.rank else self._beats[rank].who
            self._slow.append(f"{who} kept the others waiting for {seconds:.0f} s")

    def _end(self, why: str) -> None:
        """Let the main thread say it; where it waits for a lost rank, it never will."""
        self.lost = why
        with suppress(RuntimeError):
            self._show(patience_s=BEAT_S, lost=why)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and not self._is_exchanging:
            if self._ends.wait(BEAT_S / 10):
                return
        # A wait that began before takes no interruption. A moment for those who read this beat.
        if not self._ends.wait(2 * BEAT_S):
            os.write(2, f"deitkit: error {self.error(why)}\n".encode())
            os._exit(WorkerError.exit_code)

    @contextmanager
    def _asking(self, patience_s: float | None = None) -> Iterator[Any]:
        """The store, for one thread at a time: another may wait for it in vain."""
        if not self._lock.acquire(timeout=SILENT_S if patience_s is None else patience_s):
            raise RuntimeError(f"{self._place} is silent")
        try:
            yield self._store
        finally:
            self._lock.release()

    def _show(self, *, patience_s: float | None = None, **changes: Any) -> None:
        with self._asking(patience_s) as store:
            self._mine = self._mine._replace(**changes)
            store.set(f"deitkit/beat/{self.rank}", json.dumps(self._mine))

    def _read(self, ranks: Iterable[int]) -> dict[int, Beat]:
        with self._asking() as store:
            texts = store.multi_get([f"deitkit/beat/{rank}" for rank in ranks])
        return {rank: Beat(*json.loads(text)) for rank, text in zip(ranks, texts, strict=True)}

    def _read_all(self) -> dict[int, Beat]:
        return self._read([rank for rank in range(self.world_size) if rank != self.rank])


def rank_lost(rank: int, world_size: int, why: str) -> WorkerError:
    """What `rank` tells the user of another."""
    return WorkerError(
        "RANK_LOST",
        f"rank {rank} of {world_size}",
        why,
        "the same command goes on from the last checkpoint",
    )


def is_about_ranks(error: RuntimeError) -> bool:
    """Gloo raises plain RuntimeErrors, told apart by who speaks; memory errors are not ours."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return any(
        word in text for word in ("gloo", "Gloo", "NCCL", "Connection closed", "ProcessGroup")
    )


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
