"""Who else is asked about the images of an evaluation: a teacher, and a run without one."""

# Shapes: N images, K classes of the run, T of the teacher.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress
from deitkit.api.request import PYTHON_TEACHER, TEACHER_FOLDER
from deitkit.config import RunConfig
from deitkit.data import ImageSet
from deitkit.errors import CheckpointError, ConfigError, ModelFileError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from deitkit.api.run import Run
    from deitkit.evaluation.evaluation import OtherAnswers
    from deitkit.evaluation.onnx_predictor import OnnxPredictor
    from deitkit.evaluation.predictor import Predictor
    from deitkit.teachers import Classifier

OWN_TEACHER = "own"
"""What stands for the teacher that the run itself learned from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Others:
    """A teacher and another run, opened; nobody is asked before `answers`."""

    teacher: Classifier | None = None
    columns: Sequence[int] = ()
    """The teacher's index of each class of the run."""
    other: Predictor | OnnxPredictor | None = None
    other_columns: Sequence[int] = ()
    """The other run's index of each class of the run."""
    said: tuple[str, ...] = ()

    def answers(self, images: ImageSet, progress: Progress) -> OtherAnswers:
        """What they say of `images`, whose labels are the run's classes.

        Raises:
            DataError: an image cannot be read any more.
            ModelFileError: TEACHER_OUTPUT.
        """
        from deitkit.evaluation.evaluation import OtherAnswers

        return OtherAnswers(
            teacher_NK=None if self.teacher is None else self._ask_teacher(images, progress),
            decisions_N=None if self.other is None else self._ask_other(images, progress),
            said=self.said,
        )

    def _ask_teacher(self, images: ImageSet, progress: Progress) -> np.ndarray:
        from deitkit.runtime.device import precision_for
        from deitkit.training.teacher_clean import ask_on_clean

        assert self.teacher is not None
        logits_NT = ask_on_clean(
            self.teacher,
            images.decoded_as(channels=self.teacher.channels),
            autocast_dtype=precision_for(self.teacher.device),
            progress=lambda done, total: progress("asking the teacher", done, total),
        )
        assert logits_NT is not None, "nothing asked the teacher to stop"
        return logits_NT[:, list(self.columns)]

    def _ask_other(self, images: ImageSet, progress: Progress) -> np.ndarray:
        assert self.other is not None
        policy = self.other.decode_policy
        fused_NK = self.other.fused_logits(
            images.decoded_as(channels=policy.channels, background=policy.background),
            progress=lambda done, total: progress("asking the other run", done, total),
        )
        return fused_NK[:, list(self.other_columns)].argmax(axis=1)


def open_others(
    run: Run,
    *,
    config: RunConfig,
    teacher: Any,
    against: Run | None,
    progress: Progress,
) -> Others:
    """Open `teacher` for `run`, which has the settings `config`, and find the classes of both.

    `teacher` is "own", a text as in teacher= of training, a Run, a Classifier, or None.

    Raises:
        ConfigError: NO_TEACHER, TEACHER_NAME; OTHER_CLASSES, `against` does not know them all.
        ModelFileError: TEACHER_CLASSES; and as `open_teacher`.
        CheckpointError: TEACHER_CHANGED, the run's own teacher was trained anew.
    """
    class_names = run.class_names  # first: a folder without a model is told as such
    said: list[str] = []
    found: Classifier | None = None
    columns: tuple[int, ...] = ()
    other_columns: tuple[int, ...] = ()
    if teacher is not None:
        found, columns, how = _find_teacher(teacher, run, config, progress)
        said.append(f"teacher {found.name}: {how}")
    if against is not None:
        other_columns, how = _match_run(against, class_names)
        said.append(f"other run {against.folder}: {how}")
    return Others(
        teacher=found,
        columns=columns,
        other=None if against is None else against.predictor,
        other_columns=other_columns,
        said=tuple(said),
    )


def _match_run(other: Run, class_names: Sequence[str]) -> tuple[tuple[int, ...], str]:
    """The other run's index of each class, and a sentence that says how they were matched."""
    from deitkit.teachers.class_match import match_classes

    match = match_classes(other.class_names, class_names)
    if match.columns is None:
        raise ConfigError(
            "OTHER_CLASSES",
            other.folder,
            match.explain("it"),
            "name a run that was trained on the same classes",
        )
    return match.columns, match.explain()


def _find_teacher(
    asked: Any, run: Run, config: RunConfig, progress: Progress
) -> tuple[Classifier, tuple[int, ...], str]:
    """The teacher, its index of each class, and a sentence that says how it was found."""
    from deitkit.runtime.device import pick_device
    from deitkit.teachers.class_match import match_classes
    from deitkit.training.teacher_ready import TEACHER_FILE, load_ready

    is_own = isinstance(asked, str) and asked == OWN_TEACHER
    if is_own:
        asked = _own_teacher(run.folder, config)
    classifier = _open(asked, pick_device("auto"), progress)
    match = match_classes(classifier.class_names, run.class_names)
    if not is_own and match.columns is not None:
        return classifier, match.columns, match.explain()
    if (run.folder / TEACHER_FILE).is_file():
        try:
            ready = load_ready(classifier, run.folder, run.class_names)
        except CheckpointError:
            if is_own:
                raise
            # The head in the folder was fitted on another teacher.
        else:
            return ready.classifier, ready.columns, ready.classes
    if match.columns is not None:
        return classifier, match.columns, match.explain()
    raise ModelFileError(
        "TEACHER_CLASSES",
        classifier.name,
        match.explain(),
        "name a teacher that knows these classes, or train a run with this one: "
        "that fits a head on it, which teacher=own then asks",
    )


def _own_teacher(folder: Path, config: RunConfig) -> str | Path:
    from deitkit.training.teacher_names import AUTO_TEACHER

    asked = config.distill.teacher
    if asked == AUTO_TEACHER:
        return folder / TEACHER_FOLDER
    if asked is None:
        raise ConfigError(
            "NO_TEACHER",
            folder,
            "does not say which teacher it had",
            "name one, for example teacher=runs/teacher",
        )
    if asked == PYTHON_TEACHER:
        raise ConfigError(
            "NO_TEACHER",
            folder,
            "its teacher was given as an object",
            "call deitkit.open_run(...).evaluate(teacher=...) with it again",
        )
    return asked


def _open(asked: Any, device: torch.device, progress: Progress) -> Classifier:
    from deitkit.teachers import Classifier
    from deitkit.training.teacher_names import AUTO_TEACHER, check_teacher_path, parse_teacher
    from deitkit.training.teacher_source import open_teacher

    if not isinstance(asked, Classifier):
        asked = getattr(asked, "folder", asked)
        name = parse_teacher(str(asked))
        if name.kind == AUTO_TEACHER:
            raise ConfigError(
                "TEACHER_NAME",
                "teacher=auto",
                "trains a teacher, and this trains nothing",
                f"teacher={OWN_TEACHER} is the one that the run has trained",
            )
        check_teacher_path(name)
    opened = open_teacher(
        asked,
        device=device,
        progress=lambda file, done, total: progress(f"fetching {file}", done, total or None),
    )
    assert opened != AUTO_TEACHER, "told above"
    return opened
