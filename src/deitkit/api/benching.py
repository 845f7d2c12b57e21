"""How fast a model answers on this machine: as torch runs it, compiled, as ONNX, in int8."""

# Shapes: B pictures, H height, W width, C channels.

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress
from deitkit.errors import ConfigError, DeitkitError

if TYPE_CHECKING:
    import numpy as np

    from deitkit.artifacts.bundle import Bundle

EAGER, COMPILED, ONNX, INT8 = "torch", "torch, compiled", "onnx", "onnx, int8"
BATCH_SIZES = (1, 16, 64)
SECONDS = 3.0
FEWEST_CALLS = 5

Ask = Callable[[Sequence["np.ndarray"]], object]
"""Pictures uint8 [H, W, C] -> their probabilities."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """One way to run the model, at one batch size."""

    way: str
    batch_size: int
    images_per_s: float | None
    """None where this way does not work here."""
    median_ms: float | None
    """Of one call with the whole batch."""
    p95_ms: float | None
    num_calls: int
    why: str = ""
    """Why it does not work."""


@dataclass(frozen=True, kw_only=True)
class Benched:
    """What `bench` found."""

    model: str
    picture_size: tuple[int, int]
    machine: Mapping[str, Any]
    rows: tuple[Timed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "model": self.model,
            "picture_size": list(self.picture_size),
            "machine": dict(self.machine),
            "rows": [asdict(row) for row in self.rows],
        }


def bench(
    model: str | Path,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = SECONDS,
    compiled: bool = False,
    picture_size: tuple[int, int] | None = None,
    progress: Progress = no_progress,
) -> Benched:
    """Time a run, a bundle or a model by name, from decoded pictures to probabilities.

    Each way and batch size is called for about `seconds`, in turns, so that whatever else the
    machine does meets all of them. Pictures have the model's own size unless `picture_size`
    (height, width) says otherwise; then each way also resizes them.

    Raises:
        ConfigError: BAD_VALUE; no such model.
        ModelFileError: as `load_bundle`.
    """
    import numpy as np

    from deitkit.runtime.device import describe_machine, pick_device

    if not batch_sizes or min(batch_sizes) < 1 or seconds <= 0:
        raise ConfigError(
            "BAD_VALUE",
            f"batch={','.join(map(str, batch_sizes))} seconds={seconds:g}",
            "cannot be timed",
            "give batch sizes of 1 or more, and more than 0 seconds",
        )
    bundle = _bundle_of(model)
    spec = bundle.preprocessing
    device = pick_device("auto")
    height, width = picture_size or spec.image_size
    shape = (max(batch_sizes), height, width, spec.channels)
    pictures = list(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    with tempfile.TemporaryDirectory(prefix="deitkit-bench-") as folder:
        ways, refused = {}, {}
        for name, build in _ways(bundle, Path(folder), device, compiled):
            progress(f"preparing {name}", 0, 1)
            try:
                ways[name] = build()
                for batch_size in batch_sizes:
                    ways[name](pictures[:batch_size])  # compiles, plans, fills caches
            except (DeitkitError, RuntimeError, ImportError, OSError) as error:
                refused[name] = (str(error).splitlines() or [type(error).__name__])[0][:200]
                ways.pop(name, None)
            progress(f"preparing {name}", 1, 1)
        times = _time(ways, pictures, batch_sizes, seconds, progress)
    rows = [_row(way, size, calls) for (way, size), calls in times.items()]
    for name, why in refused.items():
        rows += [
            Timed(
                way=name,
                batch_size=size,
                images_per_s=None,
                median_ms=None,
                p95_ms=None,
                num_calls=0,
                why=why,
            )
            for size in batch_sizes
        ]
    return Benched(
        model=str(bundle.model_config["name"]),
        picture_size=(height, width),
        machine=describe_machine(device),
        rows=tuple(rows),
    )


def _bundle_of(model: str | Path) -> Bundle:
    """Of a folder; else of new weights: speed does not depend on what was learned."""
    import torch

    from deitkit.artifacts.bundle import Bundle, load_bundle
    from deitkit.data.preprocess import Preprocessing
    from deitkit.models import create_model

    folder = Path(model).expanduser()
    if folder.is_dir() or os.sep in str(model):
        return load_bundle(folder)
    torch.manual_seed(0)
    built = create_model(str(model), num_classes=1000)
    return Bundle(
        model_config=built.config,
        class_names=tuple(str(k) for k in range(1000)),
        preprocessing=Preprocessing(
            image_size=built.image_size,
            channels=built.in_channels,
            mean=(0.5,) * built.in_channels,
            std=(0.25,) * built.in_channels,
            crop_ratio=1.0,
        ),
        state_dict=built.state_dict(),
        provenance={},
    )


def _ways(
    bundle: Bundle, folder: Path, device: Any, compiled: bool
) -> Iterator[tuple[str, Callable[[], Ask]]]:
    """Name, and what builds it; onnxruntime runs on the CPU."""
    import torch

    from deitkit.evaluation.predictor import Predictor

    def eager() -> Ask:
        return Predictor(bundle, device=device).probabilities

    def compile_it() -> Ask:
        predictor = Predictor(bundle, device=device)
        predictor.model = torch.compile(predictor.model)  # type: ignore[assignment]
        return predictor.probabilities

    def onnx(int8: bool) -> Ask:
        from deitkit.evaluation.onnx_predictor import OnnxPredictor
        from deitkit.exporters.onnx_graph import onnx_bytes, quantised_bytes

        content = onnx_bytes(bundle, subject="bench")
        path = folder / ("int8.onnx" if int8 else "model.onnx")
        path.write_bytes(quantised_bytes(content) if int8 else content)
        return OnnxPredictor(path).probabilities

    yield EAGER, eager
    if compiled:
        yield COMPILED, compile_it
    yield ONNX, lambda: onnx(False)
    yield INT8, lambda: onnx(True)


def _time(
    ways: Mapping[str, Ask],
    pictures: Sequence[np.ndarray],
    batch_sizes: Sequence[int],
    seconds: float,
    progress: Progress,
) -> dict[tuple[str, int], list[float]]:
    """Seconds of each call, by way and batch size."""
    calls: dict[tuple[str, int], list[float]] = {(w, b): [] for w in ways for b in batch_sizes}
    total = seconds * len(calls)
    while True:
        open_ones = [
            key for key, found in calls.items() if sum(found) < seconds or len(found) < FEWEST_CALLS
        ]
        if not open_ones:
            return calls
        for way, batch_size in open_ones:
            start = time.perf_counter()
            ways[way](pictures[:batch_size])
            calls[way, batch_size].append(time.perf_counter() - start)
        spent = sum(min(sum(found), seconds) for found in calls.values())
        progress("timing", int(10 * spent), int(10 * total))


def _row(way: str, batch_size: int, calls: Sequence[float]) -> Timed:
    import numpy as np

    median, p95 = np.quantile(calls, [0.5, 0.95])
    return Timed(
        way=way,
        batch_size=batch_size,
        images_per_s=batch_size / float(median),
        median_ms=1e3 * float(median),
        p95_ms=1e3 * float(p95),
        num_calls=len(calls),
    )
