"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from pathlib import Path

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16)


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        so_far, lines = 0, [f"# TYPE {name} histogram"]
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            so_far += count
            shown = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'{name}_bucket{{le="{shown}"}} {so_far}')
        return [*lines, f"{name}_sum {self.total:.6f}", f"{name}_count {so_far}"]


class Meter:
    """Counts of one server; used from its event loop alone."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._dropped: Counter[str] = Counter()
        self._seconds = _Histogram(SECONDS)
        self._batches = _Histogram(SIZES)
        self._num_failures = 0
        self._num_waiting = 0

    def count_request(self, route: str, status: int, seconds: float) -> None:
        self._requests[route, status] += 1
        self._seconds.observe(seconds)

    def count_dropped(self, reason: str) -> None:
        self._dropped[reason] += 1

    def count_failure(self) -> None:
        self._num_failures += 1

    def observe_batch(self, num_pictures: int) -> None:
        self._batches.observe(num_pictures)

    def set_waiting(self, num_pictures: int) -> None:
        self._num_waiting = num_pictures

    def text(self) -> str:
        """In Prometheus' text format, version 0.0.4."""
        lines = ["# TYPE deitkit_requests_total counter"]
        for (route, status), count in sorted(self._requests.items()):
            lines.append(f'deitkit_requests_total{{route="{route}",status="{status}"}} {count}')
        lines.append("# TYPE deitkit_dropped_total counter")
        for reason, count in sorted(self._dropped.items()):
            lines.append(f'deitkit_dropped_total{{reason="{reason}"}} {count}')
        lines += [
            "# TYPE deitkit_model_failures_total counter",
            f"deitkit_model_failures_total {self._num_failures}",
            "# TYPE deitkit_pictures_waiting gauge",
            f"deitkit_pictures_waiting {self._num_waiting}",
            *self._seconds.lines("deitkit_request_seconds"),
            *self._batches.lines("deitkit_batch_pictures"),
        ]
        memory_bytes = resident_bytes()
        if memory_bytes is not None:
            lines += ["# TYPE process_resident_memory_bytes gauge"]
            lines += [f"process_resident_memory_bytes {memory_bytes}"]
        return "\n".join(lines) + "\n"


def resident_bytes() -> int | None:
    """Memory of this process; None where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
