"""From a folder or a file to what answers, and from what the user names to its answers.

No torch unless the folder is a run: an exported file starts at once.
"""

# Shapes: H height, W width, C channels, D width of the vector before the head.

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.data.decoding import DecodePolicy, decode, decode_array
from deitkit.data.faults import DecodeFault
from deitkit.data.listing import Reader, list_encoded
from deitkit.data.threads import map_ahead, num_decode_threads
from deitkit.errors import ConfigError, DeitkitError
from deitkit.runtime.threads import calm_process

if TYPE_CHECKING:
    import numpy as np

    from deitkit.evaluation.onnx_predictor import OnnxPredictor
    from deitkit.evaluation.predictor import Predictor
    from deitkit.flow import Prediction

Load = Callable[[DecodePolicy], "np.ndarray"]
"""uint8 [H, W, C] of one picture. Raises DecodeFault, DataError."""
_ONE_AT_A_TIME = threading.Lock()
"""A Pillow image that the user holds, maybe twice in one list, is loaded by one thread."""
Progress = Callable[[str, int, int], None]


def existing_path(folder: str | Path) -> Path:
    """The run, bundle or file that is meant. Raises ConfigError NO_RUN where nothing is there."""
    path = Path(folder).expanduser()
    if not path.exists():
        raise ConfigError(
            "NO_RUN", path, "does not exist", "name a run folder, as in `deitkit predict runs/x`"
        )
    return path.resolve()


def find_onnx(path: Path) -> Path | None:
    """The exported file meant by `path`: itself, or the one in an export folder; else None."""
    if path.is_file() and path.suffix == ".onnx":
        return path
    inside = path / "model.onnx"
    return inside if inside.is_file() else None


def open_predictor(path: Path, *, num_pictures: int | None = None) -> Predictor | OnnxPredictor:
    """The best bundle's model on the best device here; or the ONNX file, made for so many pictures
    if that is known.

    Raises:
        ModelFileError: as `OnnxPredictor` and `load_bundle`.
    """
    file = find_onnx(path)
    if file is not None:
        from deitkit.evaluation.onnx_predictor import OnnxPredictor

        if num_pictures is None:
            return OnnxPredictor(file)
        return OnnxPredictor.for_pictures(file, num_pictures)
    calm_process()
    from deitkit.artifacts.bundle import load_bundle
    from deitkit.evaluation.predictor import Predictor
    from deitkit.runtime.device import pick_device

    return Predictor(load_bundle(path), device=pick_device("auto"))


def list_pictures(pictures: Any) -> list[tuple[str, Load]]:
    """(name, loader) of each picture: paths are listed, what is in memory is taken as it is.

    Raises:
        ConfigError: NO_DATA, NO_IMAGES, as `list_images`.
    """
    named = _as_list(pictures)
    if all(isinstance(picture, str | os.PathLike) for picture in named):
        return _listed(named)
    found: list[tuple[str, Load]] = []
    for position, picture in enumerate(named):
        if isinstance(picture, str | os.PathLike):
            found += _listed([picture])
        else:
            name = f"picture {position}"
            found.append((name, partial(_take, picture, name)))
    return found


def predict_all(
    predictor: Predictor | OnnxPredictor,
    found: Sequence[tuple[str, Load]],
    *,
    embeddings: bool = False,
    on_bad: Callable[[str, Exception], None] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Iterator[tuple[Prediction, np.ndarray | None]]:
    """One answer a picture, with the vector before the head [D] if asked.

    The next pictures are decoded on all cores meanwhile. One that cannot be read is told to
    `on_bad` and left out; without it, it raises.
    """
    policy = predictor.decode_policy

    def load(item: tuple[str, Load]) -> np.ndarray | Exception:
        try:
            return item[1](policy)
        except (DeitkitError, DecodeFault) as error:
            return error

    def loaded() -> Iterator[tuple[str, np.ndarray]]:
        num_threads = min(num_decode_threads(), len(found))
        decoded = map_ahead(load, found, num_threads=num_threads)
        for done, ((name, _), picture) in enumerate(zip(found, decoded, strict=True)):
            if not isinstance(picture, Exception):
                yield name, picture
            elif on_bad is None:
                raise picture
            else:
                on_bad(name, picture)
            progress("predicting", done + 1, len(found))

    return predictor.predict(loaded(), embeddings=embeddings)


def _listed(paths: Sequence[str | os.PathLike[str]]) -> list[tuple[str, Load]]:
    return [(name, partial(_read_and_decode, read)) for name, read in list_encoded(paths)]


def _read_and_decode(read: Reader, policy: DecodePolicy) -> np.ndarray:
    return decode(read(), policy)


def _take(picture: Any, name: str, policy: DecodePolicy) -> np.ndarray:
    with _ONE_AT_A_TIME:
        return decode_array(picture, policy, subject=name)


def _as_list(pictures: Any) -> list[Any]:
    if isinstance(pictures, str | Path) or not isinstance(pictures, Iterable):
        return [pictures]
    if hasattr(pictures, "ndim"):
        return [pictures]
    return list(pictures)
