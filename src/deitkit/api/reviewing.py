"""The most doubtful labels of a run's images, to be looked at by a person."""

# Shapes: N images, K classes, J judges.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deitkit.api.freeze import Progress, no_progress, scan
from deitkit.api.request import CONFIG_FILE, PYTHON_SEQUENCE
from deitkit.api.run import Run, open_run
from deitkit.config import build_config, read_config_file
from deitkit.errors import ConfigError, DeitkitError

if TYPE_CHECKING:
    from deitkit.data import Dataset, ImageSet

LABELS_FILE = "labels.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class Doubtful:
    """The images of a run, from the most doubtful label on."""

    images: ImageSet
    """Training images, then validation images."""
    order: np.ndarray
    """Places in `images`."""
    scores_N: np.ndarray
    """Doubt of each image, -1 to 1."""
    judges: dict[str, np.ndarray]
    """Probabilities [N, K] of the student, and of the teacher where there is one."""
    class_names: tuple[str, ...]
    notes: tuple[str, ...]

    def contradicted(self) -> np.ndarray:
        """bool [N]: all judges say one and the same class, and it is not the label."""
        said_JN = [probabilities_NK.argmax(axis=1) for probabilities_NK in self.judges.values()]
        is_one_N = np.all([said_N == said_JN[0] for said_N in said_JN], axis=0)
        return np.asarray(is_one_N & (said_JN[0] != self.images.labels))

    def rows(self, num: int) -> list[dict[str, Any]]:
        """The first `num` in plain values."""
        return [self.row(int(place)) for place in self.order[:num]]

    def row(self, place: int) -> dict[str, Any]:
        """One image in plain values."""
        said = {}
        for judge, probabilities_NK in self.judges.items():
            best = int(probabilities_NK[place].argmax())
            said[judge] = {
                "class": self.class_names[best],
                "probability": float(probabilities_NK[place, best]),
                "of_label": float(probabilities_NK[place, self.images.labels[place]]),
            }
        return {
            "id": self.images.digests[place].tobytes().hex(),
            "path": self.images.describe(place),
            "label": self.class_names[self.images.labels[place]],
            "doubt": float(self.scores_N[place]),
            "said": said,
        }


def find_doubtful(
    run: Run | str | Path, *, data: Any = None, progress: Progress = no_progress
) -> Doubtful:
    """Rank the images that a run was trained and validated on by how doubtful their labels are.

    The best weights answer clean images, which training never showed them; beside them answers the
    teacher, where the run has one that can be opened again. `data` reads the images from elsewhere.

    Raises:
        ConfigError: NO_RUN; NO_DATA, the run does not say where its images are.
        DataError, ModelFileError: images or bundle cannot be read.
    """
    from deitkit.evaluation.doubts import doubts, ranked
    from deitkit.evaluation.metrics import softmax

    opened = run if isinstance(run, Run) else open_run(run)
    dataset = _dataset(opened, data, progress)
    images = dataset.train
    if not dataset.trains_on_val:
        images = images.joined(dataset.val)
    judges = {
        "student": softmax(
            opened.predictor.fused_logits(
                images, progress=lambda done, total: progress("asking the run", done, total)
            )
        )
    }
    notes = []
    try:
        teacher_NK = _ask_teacher(opened, images, progress)
    except DeitkitError as error:
        notes.append(f"the teacher is not asked: {error.why}")
    else:
        if teacher_NK is not None:
            judges["teacher"] = softmax(teacher_NK)
    scores_N = doubts(images.labels, list(judges.values()))
    return Doubtful(
        images=images,
        order=np.asarray(ranked(scores_N)),
        scores_N=scores_N,
        judges=judges,
        class_names=opened.class_names,
        notes=tuple(notes),
    )


def _dataset(run: Run, data: Any, progress: Progress) -> Dataset:
    path = run.folder / CONFIG_FILE
    if not path.is_file():
        raise ConfigError("NO_RUN", run.folder, "is no run folder", "name one, as in runs/flowers")
    config = build_config(read_config_file(path)[0])
    source = config.data.path if data is None else data
    if source is None or source == PYTHON_SEQUENCE:
        raise ConfigError(
            "NO_DATA", run.folder, "does not say where its images are", "give data=photos/"
        )
    dataset = scan(config, source, progress)
    if dataset.class_names != run.class_names:
        raise ConfigError(
            "NO_DATA",
            run.folder,
            "the images have other classes than the run",
            "give the images it was trained on, as in data=photos/",
        )
    return dataset


def _ask_teacher(run: Run, images: ImageSet, progress: Progress) -> np.ndarray | None:
    """Logits [N, K] of the run's own teacher; None where it had none.

    Raises:
        DeitkitError: it cannot be opened again.
    """
    from deitkit.api.diagnosing import OWN_TEACHER, open_others

    config = build_config(read_config_file(run.folder / CONFIG_FILE)[0])
    if config.distill.teacher is None:
        return None
    others = open_others(run, config=config, teacher=OWN_TEACHER, against=None, progress=progress)
    return others.answers(images, progress).teacher_NK


def _labels_of(run: Run) -> Path | None:
    """The corrections that a run was trained with."""
    path = run.folder / CONFIG_FILE
    labels = build_config(read_config_file(path)[0]).data.labels if path.is_file() else None
    return None if labels is None else Path(labels)


def review_run(
    run: Run | str | Path,
    *,
    num: int = 200,
    port: int = 8001,
    out: str | Path | None = None,
    data: Any = None,
    on_listening: Callable[[str, Path], None] = lambda address, path: None,
    progress: Progress = no_progress,
) -> Path:
    """Serve a page on this machine that shows the `num` most doubtful labels, until it is stopped.

    Answers are saved at once to `out`, `labels.csv` in the run by default; what is there already
    stays and is shown. A file that does not exist yet begins with the corrections that the run was
    trained with, so that it alone is enough for the next training. `on_listening` hears the page's
    address and that file. Returns the file.

    Raises:
        ConfigError: MISSING_PACKAGE; as `find_doubtful`.
        DataError: BAD_LABELS, the file is not one of ours.
        ResourceError: PORT.
    """
    from deitkit.api.serving import PACKAGES
    from deitkit.runtime.optional import optional_package

    for package in PACKAGES[:2]:
        optional_package(package, extra="serve", subject="review")
    from deitkit.data.label_overlay import read_overlay
    from deitkit.serving.guard import Limits
    from deitkit.serving.metrics import Meter
    from deitkit.serving.review import Review, build_review
    from deitkit.serving.server import bind, host_names, serve

    opened = run if isinstance(run, Run) else open_run(run)
    path = opened.folder / LABELS_FILE if out is None else Path(out).expanduser()
    earlier = path if path.exists() else _labels_of(opened)
    edits = {} if earlier is None else read_overlay(earlier)
    with bind("127.0.0.1", port) as listener:
        doubtful = find_doubtful(opened, data=data, progress=progress)
        places = [int(place) for place in doubtful.order[:num]]
        review = Review(
            rows=[doubtful.row(place) for place in places],
            load=lambda number: doubtful.images.image(places[number]),
            class_names=doubtful.class_names,
            edits=dict(edits),
            path=path,
        )
        bound = listener.getsockname()[1]
        on_listening(f"http://127.0.0.1:{bound}", path)
        serve(
            build_review(review),
            listener,
            hosts=host_names("127.0.0.1", bound, ()),
            limits=Limits(body_bytes=100_000),
            meter=Meter(),
        )
    return path
