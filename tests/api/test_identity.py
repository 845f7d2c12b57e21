"""What a run depends on besides its settings: its teacher, its images, its processes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import deitkit
from deitkit.errors import CheckpointError, ConfigError
from tests.api.conftest import SHORT, end_state, leave_after

DISTILLED = {**SHORT, "model": "deit_nano_distilled_patch4_16"}


def test_a_teacher_trained_anew_is_noticed(tmp_path, photos, finished):
    out = tmp_path / "student"
    leave_after(3, data=photos, out=out, teacher=finished, **DISTILLED)
    deitkit.train(data=photos, out=finished, overwrite=True, **{**SHORT, "seed": 5})
    with pytest.raises(
        CheckpointError, match=r"TEACHER_CHANGED.*is not the teacher that this run began with"
    ):
        deitkit.train(out=out)
    run = deitkit.train(out=out, **{"run.accept_changes": True})
    assert run.result["steps"] == 12


def test_a_teacher_that_is_not_there_is_told_before_anything_is_made(tmp_path, photos):
    out = tmp_path / "student"
    with pytest.raises(ConfigError, match=r"NO_TEACHER.*does not exist.*out=runs/teacher"):
        deitkit.train(data=photos, out=out, teacher=tmp_path / "nobody")
    assert not out.exists()


def test_ranks_from_python_say_how_to_get_them(tmp_path, photos):
    with pytest.raises(ConfigError, match="deitkit train ranks=2"):
        deitkit.train(data=photos, out=tmp_path / "run", ranks=2)


class Pictures:
    """A data set as torch users write it: a length and items, nothing more."""

    def __init__(self, photos) -> None:
        self.files = sorted((photos / "train").rglob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:
        if index >= len(self):
            raise IndexError(index)
        return Image.open(self.files[index]), self.files[index].parent.name


def test_anything_with_a_length_and_items_is_data(tmp_path, photos):
    """A class of the user's own trains to the same bits as the list of its items."""
    pictures = Pictures(photos)
    listed = [(np.asarray(picture), label) for picture, label in pictures]
    one = deitkit.train(data=pictures, out=tmp_path / "one", **SHORT)
    other = deitkit.train(data=listed, out=tmp_path / "other", **SHORT)
    assert end_state(one.folder) == end_state(other.folder)


def test_a_folder_without_splits_is_measured_on_what_validated(tmp_path, photos):
    run = deitkit.train(data=photos / "train", out=tmp_path / "run", **SHORT)
    evaluation = run.evaluate()
    assert evaluation.fused.num_images == run.result["num_val"]
    assert evaluation.accuracy == run.result["val_top1"]
