"""A trained run: what `train` returns, and what evaluate and predict start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.diagnosing import open_others
from deitkit.api.exporting import export_run
from deitkit.api.fit import fit
from deitkit.api.folds_asked import FOLDS_FILE
from deitkit.api.freeze import Progress, no_progress, scan
from deitkit.api.request import CONFIG_FILE, PYTHON_SEQUENCE, RESULT_FILE, read_request
from deitkit.config import RunConfig, build_config, read_config_file
from deitkit.data import ImageSet, open_split
from deitkit.errors import ConfigError, DataError
from deitkit.evaluation.opening import (
    existing_path,
    find_onnx,
    list_pictures,
    open_predictor,
    predict_all,
)
from deitkit.flow import Prediction
from deitkit.runtime.strict_json import load_json
from deitkit.training.events import Event

if TYPE_CHECKING:
    import numpy as np

    from deitkit.evaluation.evaluation import Evaluation
    from deitkit.evaluation.onnx_predictor import OnnxPredictor
    from deitkit.evaluation.predictor import Predictor


def train(
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    progress: Progress = no_progress,
    **settings: Any,
) -> Run:
    """Train to the end and return the run; the same call on the same `out` goes on or is done.

    `settings` are those of the command line: `data`, `out`, `model`, `teacher`, `epochs`, `budget`
    and so on, `config` for a file, and `**{"section.field": value}` for all else. `data` may be a
    sequence of (image, label), `teacher` a Run.

    Raises:
        DeitkitError: as `fit`.
    """
    request = read_request(settings)
    for event in fit(progress=progress, **settings):
        on_event(event)
    return Run(request.folder)


def open_run(folder: str | Path) -> Run:
    """A run or bundle folder that is already there, or a file of `export to=onnx`.

    Raises:
        ConfigError: NO_RUN, the folder does not exist.
    """
    return Run(existing_path(folder))


class Run:
    """A run folder, a bundle folder alone, or an exported ONNX file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def predictor(self) -> Predictor | OnnxPredictor:
        """The best bundle's model, loaded once, on the best device here; or the ONNX file."""
        return open_predictor(self.folder)

    @cached_property
    def _predictor_of_many(self) -> Predictor | OnnxPredictor:
        """As `predictor`; an ONNX file is opened once more, for many pictures at a time."""
        is_file = find_onnx(self.folder) is not None
        return open_predictor(self.folder, num_pictures=2) if is_file else self.predictor

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.predictor.class_names

    @property
    def result(self) -> dict[str, Any] | None:
        """What the finished run wrote last: validation accuracy, parameters, seconds."""
        path = self.folder / RESULT_FILE
        return load_json(path.read_bytes(), path) if path.is_file() else None

    @property
    def folds(self) -> dict[str, Any] | None:
        """What the folds of a run with folds found together; None without, or not yet."""
        path = self.folder / FOLDS_FILE
        return load_json(path.read_bytes(), path) if path.is_file() else None

    def evaluate(
        self,
        data: Any = None,
        *,
        split: str | None = None,
        teacher: Any = None,
        against: Run | str | Path | None = None,
        progress: Progress = no_progress,
    ) -> Evaluation:
        """Metrics on labelled images: `data`, or the test split of what the run was trained on.

        Where that has none, the images the run validated on, also where it split them off itself.

        With `teacher` also how often each head decides as it does: "own" is the run's, else as in
        `train`, a Run or a `teachers.Classifier`. With `against`, another run, such as one without
        a teacher: what each class gained over it.

        Raises:
            DataError: the images cannot be read, or have classes the run does not know.
            DeitkitError: teacher or other run, as `open_others`.
        """

        def evaluating(done: int, total: int) -> None:
            progress("evaluating", done, total)

        if find_onnx(self.folder) is not None:
            from deitkit.evaluation.onnx_predictor import only_answers

            if teacher is not None or against is not None:
                raise only_answers(self.folder, "it is compared with nobody")
            images, source = self.labelled_images(data, split, progress)
            return self.predictor.evaluate(images, source=source, progress=evaluating)
        others = open_others(
            self,
            config=self._config(),
            teacher=teacher,
            against=against if isinstance(against, Run | None) else open_run(against),
            progress=progress,
        )
        images, source = self.labelled_images(data, split, progress)
        return self.predictor.evaluate(
            images, source=source, others=others.answers(images, progress), progress=evaluating
        )

    def labelled_images(
        self, data: Any, split: str | None, progress: Progress
    ) -> tuple[ImageSet, str]:
        """Images to evaluate on, and what they are, for people."""

        def reading(done: int, total: int | None) -> None:
            progress("reading images", done, total)

        own = self._own_data() if data is None else None
        source = data if own is None else own
        try:
            images = open_split(
                source,
                split=split or ("test" if own is not None else None),
                class_names=self.class_names,
                decode=self.predictor.decode_policy,
                remember=self._config().data.remember_scan,
                progress=reading,
            )
        except DataError as error:
            if own is None or split is not None or error.code != "NO_SPLIT":
                raise
            dataset = scan(self._config(), own, progress)
            if dataset.trains_on_val:
                raise DataError(
                    "NO_SPLIT",
                    self.folder,
                    "was trained on all images that it has, and there is no test split",
                    f"{FOLDS_FILE} in it holds what its folds found; or give data=photos/test",
                ) from error
            images = dataset.val
        shown = source if isinstance(source, str | Path) else "a Python sequence"
        return images, f"{shown} ({images.name})"

    def predict(self, pictures: Any, *, progress: Progress = no_progress) -> list[Prediction]:
        """Classes of pictures: paths, folders, PIL images or arrays, one or many."""
        return [prediction for prediction, _ in self.predict_iter(pictures, progress=progress)]

    def predict_iter(
        self,
        pictures: Any,
        *,
        embeddings: bool = False,
        on_bad: Callable[[str, Exception], None] | None = None,
        progress: Progress = no_progress,
    ) -> Iterator[tuple[Prediction, np.ndarray | None]]:
        """As `predict`, one at a time, with the vector before the head [D] if asked.

        A picture that cannot be read is told to `on_bad` and left out; without it, it raises.
        """
        found = list_pictures(pictures)
        predictor = self.predictor if len(found) == 1 else self._predictor_of_many
        return predict_all(
            predictor, found, embeddings=embeddings, on_bad=on_bad, progress=progress
        )

    def export(self, to: str, out: str | Path | None = None, **settings: Any) -> Path:
        """Write the best weights as "onnx", or for another library, "timm" or "hf".

        `settings` are those of `export_run`, such as int8=True. Returns the folder.

        Raises:
            ConfigError: NOT_OURS, `out` holds something else.
            ModelFileError: EXPORT, the library has no such network; EXPORT_DRIFT, EXPORT_INT8, the
                file does not answer as the run does.
        """
        return export_run(self.folder, to, out=out, **settings).folder

    def _config(self) -> RunConfig:
        path = self.folder / CONFIG_FILE
        return build_config(read_config_file(path)[0]) if path.is_file() else RunConfig()

    def _own_data(self) -> str:
        source = self._config().data.path
        if source is None or source == PYTHON_SEQUENCE:
            raise ConfigError(
                "NO_DATA",
                self.folder,
                "does not say what it was trained on",
                "give data=photos/test",
            )
        return str(source)
