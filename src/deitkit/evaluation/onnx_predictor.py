"""An exported ONNX file that answers. No torch: it starts in a fraction of the time."""

# Shapes: N images, H height, W width, C channels, K classes.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deitkit.data.decoding import DecodePolicy
from deitkit.data.preprocess import Preprocessing
from deitkit.data.threads import map_ahead, num_decode_threads
from deitkit.errors import ConfigError, DataError, ModelFileError
from deitkit.evaluation.answers import answer, in_blocks_of
from deitkit.evaluation.evaluation import NOBODY, Evaluation, OtherAnswers
from deitkit.flow import Prediction
from deitkit.runtime.onnx_file import read_onnx
from deitkit.runtime.onnx_metadata import read_metadata
from deitkit.runtime.onnx_session import first_line, load_runtime, open_session
from deitkit.runtime.processors import usable_cores

if TYPE_CHECKING:
    from deitkit.data import ImageSet

BLOCK_SIZE = 16


class OnnxPredictor:
    """A file of `deitkit export to=onnx`, run by onnxruntime on the CPU.

    Raises:
        ConfigError: MISSING_PACKAGE.
        ModelFileError: as `read_onnx`, `open_session` and `read_metadata`; BAD_CONFIG for metadata
            that cannot be; CONFIG_LIES where file and metadata disagree; NOT_FINITE.
    """

    def __init__(
        self, path: Path, *, num_threads: int = 0, num_runs: int = 1, quick: bool = False
    ) -> None:
        """Pictures of one size are computed together, each operator on `num_threads`, 0 for all
        cores; with `num_runs` above 1 one by one, so many at a time. `quick` for one answer alone.
        """
        with ThreadPoolExecutor(1) as reader:
            # Its digest takes as long as loading the library does.
            reading = reader.submit(read_onnx, path)
            load_runtime(path)
            content, self.num_params = reading.result()
        self.path = path
        self.num_runs = num_runs
        self._session = open_session(content, subject=path, num_threads=num_threads, quick=quick)
        texts = self._session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = read_metadata(texts, path)
        self.class_names, self.preprocessing = _checked(self.metadata, self._session, path)
        self.threshold: float | None = self.metadata.get("threshold")
        spec = self.preprocessing
        self.image_size = spec.image_size
        self.decode_policy = DecodePolicy(channels=spec.channels, background=spec.background)
        if not quick:
            # One small grey picture: whoever serves is told before anybody asks.
            grey_1HWC = np.full((1, 8, 8, spec.channels), 128, np.uint8)
            self._check_answers(self._run("probabilities", grey_1HWC))

    @classmethod
    def for_pictures(cls, path: Path, num_pictures: int) -> OnnxPredictor:
        """The one that is soonest done with so many pictures.

        Several are computed a picture a core, which never waits for another: on two cores 1.2 to
        1.5 times as many as 16 at a time with each operator on both (benchmarks/answer.py).
        """
        if num_pictures == 1:
            return cls(path, quick=True)
        return cls(path, num_threads=1, num_runs=usable_cores())

    def _check_answers(self, found_NK: np.ndarray) -> np.ndarray:
        """What a file says of itself binds nobody (FAULTS M06, M08)."""
        num_classes = len(self.class_names)
        if found_NK.ndim != 2 or found_NK.shape[1] != num_classes:
            raise ModelFileError(
                "CONFIG_LIES",
                self.path,
                f"{num_classes} classes have names, it answers {found_NK[0].size}",
                "export it again",
            )
        if not np.isfinite(found_NK).all():
            raise ModelFileError(
                "NOT_FINITE", self.path, "it answers what is not a number", "export it again"
            )
        return found_NK

    @property
    def _block_size(self) -> int:
        return BLOCK_SIZE if self.num_runs == 1 else 1

    @property
    def name(self) -> str:
        """The network's name, and that it is a file."""
        model = self.metadata.get("model")
        called = model.get("name") if isinstance(model, dict) else None
        return f"{called or 'model'} ({self.path.name})"

    def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[N, K] float32 of pictures uint8 [H, W, C] of any sizes: fused, after the temperature."""
        return self._answers("logits", pictures)

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[N, K] float32 of pictures uint8 [H, W, C] of any sizes."""
        return self._answers("probabilities", pictures)

    def fused_logits(
        self,
        images: ImageSet,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:
        """[N, K] of a whole image set, in its order."""
        rows: list[np.ndarray] = []
        num_threads = num_decode_threads() if images.can_decode_in_threads else 1
        decoded = map_ahead(images.image, range(len(images)), num_threads=num_threads)
        for block in in_blocks_of(BLOCK_SIZE, decoded):
            rows.append(self.logits(block))
            progress(sum(map(len, rows)), len(images))
        return np.concatenate(rows)

    def _answers(self, output: str, pictures: Sequence[np.ndarray]) -> np.ndarray:
        blocks = list(self._blocks(pictures))
        num_threads = min(self.num_runs, len(blocks))
        rows = list(map_ahead(partial(self._run, output), blocks, num_threads=num_threads))
        return np.concatenate(rows) if rows else np.zeros((0, len(self.class_names)), np.float32)

    def _blocks(self, pictures: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """[N, H, W, C] of those that are computed together."""
        size = self._block_size
        for shape, same in groupby(pictures, key=np.shape):
            images = list(same)
            if len(shape) != 3 or shape[2] != self.preprocessing.channels or 0 in shape:
                channels = self.preprocessing.channels
                raise DataError(
                    "CHANNELS",
                    "image",
                    f"its array has the shape {shape}, the model reads {channels} channels",
                    f"give uint8 arrays of [height, width, {channels}]",
                )
            for start in range(0, len(images), size):
                yield np.stack(images[start : start + size])

    def _run(self, output: str, images_NHWC: np.ndarray) -> np.ndarray:
        try:
            (found_NK,) = self._session.run([output], {"images": images_NHWC})
        except Exception as error:  # as in open_session
            raise ModelFileError(
                "FORMAT",
                self.path,
                f"onnxruntime fails on pictures of {images_NHWC.shape} ({first_line(error)})",
                "export it again",
            ) from error
        return np.asarray(found_NK)

    def predict(
        self, pictures: Iterator[tuple[str, np.ndarray]], *, embeddings: bool = False
    ) -> Iterator[tuple[Prediction, None]]:
        """One prediction for each (name, uint8 HWC picture).

        Raises:
            ConfigError: ONNX_ONLY, embeddings are not in the file.
            ModelFileError: CONFIG_LIES, NOT_FINITE.
        """
        if embeddings:
            raise only_answers(self.path, "the vectors before the head are not in it")

        def ask(block: list[tuple[str, np.ndarray]]) -> list[tuple[Prediction, None]]:
            found_NK = self._check_answers(self.probabilities([pixels for _, pixels in block]))
            return [
                (answer(name, row, self.class_names, self.threshold), None)
                for (name, _), row in zip(block, found_NK, strict=True)
            ]

        blocks = in_blocks_of(self._block_size, pictures)
        yield from chain.from_iterable(map_ahead(ask, blocks, num_threads=self.num_runs))

    def evaluate(
        self,
        images: ImageSet,
        *,
        source: str,
        others: OtherAnswers = NOBODY,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """Metrics of the fused answer on `images`; of each head alone, the file does not know."""
        from deitkit.evaluation.metrics import summarise

        assert others is NOBODY, "others are asked about a run"
        logits_NK = self.fused_logits(images, progress=progress)
        metrics = summarise(logits_NK, images.labels, self.class_names)
        return Evaluation(
            source=source, fusion=str(self.metadata.get("fusion")), heads={"fused": metrics}
        )


def only_answers(path: Path, why: str) -> ConfigError:
    """The error of what needs the run, not its exported file."""
    return ConfigError("ONNX_ONLY", path, why, "name the run it was exported from")


def _checked(
    metadata: dict[str, Any], session: Any, path: Path
) -> tuple[tuple[str, ...], Preprocessing]:
    names = metadata.get("class_names")
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    spec = Preprocessing.from_dict(metadata.get("preprocessing", {}))
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) != len(names)
    ):
        raise _bad(path, "its class names are no list of different texts")
    if set(inputs) != {"images"} or inputs["images"].type != "tensor(uint8)":
        raise _bad(path, "its input is not uint8 images")
    if not {"logits", "probabilities"} <= set(outputs):
        raise _bad(path, "it gives no logits and probabilities")
    threshold = metadata.get("threshold")
    if threshold is not None and not (type(threshold) in (int, float) and 0 <= threshold <= 1):
        raise _bad(path, f"its threshold is {threshold!r:.80}, not a number from 0 to 1")
    if "sha256" not in metadata:
        raise _bad(path, "it does not hold the digest that shows it is whole")
    return tuple(names), spec


def _bad(path: Path, why: str) -> ModelFileError:
    return ModelFileError("BAD_CONFIG", path, why, "export it again with `deitkit export to=onnx`")
