"""Why a run says what it says of pictures: maps for each head, and how far to believe them."""

# Shapes: H height, W width, C channels.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress
from deitkit.api.run import Run, open_run
from deitkit.data import list_images
from deitkit.errors import DataError, ModelFileError
from deitkit.evaluation.opening import find_onnx

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from deitkit.explanation.explainer import Explainer, Explanation
    from deitkit.explanation.faithfulness import Deletion

MAX_PICTURES = 24
ENLARGED_SIDE = 256
"""Maps over smaller pictures are drawn at this size, where they can be seen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """One picture of a sheet."""

    source: str
    picture_HWC: np.ndarray
    explanation: Explanation
    deletions: tuple[Deletion, ...]
    """Of each map, in the order of `explanation.maps`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = {"source": self.source, **self.explanation.to_dict()}
        for one, deletion in zip(found["heads"], self.deletions, strict=True):
            one["faithfulness"] = {
                "score": deletion.score,
                "area": deletion.area,
                "random_area": deletion.random_area,
                "beats_chance": deletion.beats_chance,
            }
        return found


def explain(
    run: Run | str | Path,
    pictures: Any,
    *,
    class_name: str | None = None,
    progress: Progress = no_progress,
) -> list[Explained]:
    """Relevance and rollout of each head for each picture (paths or folders; at most 24).

    `class_name` asks what speaks for that class instead of the likeliest one.

    Raises:
        ConfigError: NO_RUN.
        DataError: NO_IMAGES, TOO_MANY; a picture cannot be read; UNKNOWN_CLASS.
        ModelFileError: EXPLAIN, the model has no tokens, or is an exported file.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    explainer = _explainer(opened)
    found = list(list_images(pictures, decode=explainer.predictor.decode_policy))
    if len(found) > MAX_PICTURES:
        raise DataError(
            "TOO_MANY",
            "pictures",
            f"{len(found):,} were named, a sheet has {MAX_PICTURES}",
            "name fewer",
        )
    explained = []
    for done, (source, load) in enumerate(found, start=1):
        explained.append(_explained(explainer, str(source), load(), class_name))
        progress("explaining", done, len(found))
    return explained


def _explainer(run: Run) -> Explainer:
    file = find_onnx(run.folder)
    if file is not None:
        raise ModelFileError(
            "EXPLAIN",
            file,
            "an exported file does not show its attention",
            "name the run it was exported from",
        )
    from deitkit.evaluation.predictor import Predictor
    from deitkit.explanation.explainer import Explainer

    predictor = run.predictor
    assert isinstance(predictor, Predictor), "no file"
    return Explainer(predictor)


def _explained(
    explainer: Explainer, source: str, picture_HWC: np.ndarray, class_name: str | None
) -> Explained:
    explanation = explainer.explain(picture_HWC, class_name=class_name, with_rollout=True)
    deletions = tuple(
        explainer.faithfulness(picture_HWC, one, explanation.class_index)
        for one in explanation.maps
    )
    return Explained(
        source=source, picture_HWC=picture_HWC, explanation=explanation, deletions=deletions
    )


def explanation_sheet(explained: Sequence[Explained]) -> Image.Image:
    """All of them in one image, a row each."""
    from deitkit.data import printable
    from deitkit.explanation.explainer import TITLES
    from deitkit.explanation.overlay import overlay
    from deitkit.reporting.explanation_sheet import Cell, draw_explanations

    rows: list[list[Cell]] = []
    for one in explained:
        said = one.explanation
        picture_HWC = _large_enough(one.picture_HWC)
        words = [f"{said.class_name}, {100 * said.probability:.1f} %"]
        row: list[Cell] = [(picture_HWC, printable(Path(one.source).name), words)]
        for head, deletion in zip(said.maps, one.deletions, strict=True):
            lines = [
                f"deletion {deletion.area:.3f}, at random {deletion.random_area:.3f}: "
                + ("better than chance" if deletion.beats_chance else "no better than chance")
            ]
            pixels_HWC = overlay(picture_HWC, head.grid_RC, box=said.box)
            row.append((pixels_HWC, TITLES[head.head, head.method], lines))
        rows.append(row)
    return draw_explanations(rows)


def _large_enough(picture_HWC: np.ndarray) -> np.ndarray:
    """RGB, enlarged in whole blocks until a map can be seen on it."""
    picture = picture_HWC if picture_HWC.shape[2] == 3 else picture_HWC.repeat(3, axis=2)
    factor = -(-ENLARGED_SIDE // max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else picture
