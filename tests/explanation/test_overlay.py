"""Where a map lies on a picture, and what colours it becomes there."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from deitkit.api.forecasting import PICTURE_BYTES
from deitkit.data.preprocess import Preprocessing
from deitkit.explanation.overlay import overlay, seen_box


def spec(side: int, resize: str, ratio: float) -> Preprocessing:
    return Preprocessing(
        image_size=(side, side),
        resize=resize,
        crop_ratio=ratio,
        channels=3,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


@pytest.mark.parametrize(
    ("size", "how", "box"),
    [
        # 100 x 200 is resized to 64 x 128, of which the middle 56 x 56 is seen.
        ((100, 200), spec(56, "shorter", 0.875), (4 / 64, 36 / 128, 60 / 64, 92 / 128)),
        ((300, 100), spec(50, "shorter", 1.0), (50 / 150, 0, 100 / 150, 1)),
        ((100, 200), spec(56, "squash", 1.0), (0, 0, 1, 1)),
    ],
)
def test_the_box_is_what_the_crop_shows(size, how, box):
    assert seen_box(*size, how) == pytest.approx(box)


def test_colours_by_hand():
    """Grey 100: 35 where nothing is seen, 100 where nothing speaks, and 62 % of the lightest
    colour (252, 226, 110) where all does: 38 + 0.62 * 252 = 194.24."""
    picture = np.full((40, 80, 3), 100, np.uint8)
    shown = overlay(picture, np.array([[0.0]], np.float32), box=(0, 0.25, 1, 0.75))
    assert shown.shape == (40, 80, 3)
    assert (shown[:, :20] == 35).all() and (shown[:, 60:] == 35).all()
    assert (shown[:, 20:60] == 100).all()
    shown = overlay(picture, np.array([[1.0]], np.float32), box=(0, 0.25, 1, 0.75))
    np.testing.assert_array_equal(shown[20, 40], [194, 178, 106])
    assert (shown[:, :20] == 35).all()


def test_the_marked_corner_is_the_coloured_one():
    """Also on a grey picture of one channel, and on one that is smaller than the grid."""
    grid = np.zeros((2, 2), np.float32)
    grid[0, 1] = 1
    for picture in (np.full((64, 64, 1), 90, np.uint8), np.full((3, 3, 3), 90, np.uint8)):
        shown = overlay(picture, grid, box=(0, 0, 1, 1)).astype(int)
        redness = shown[..., 0] - shown[..., 2]
        assert np.unravel_index(redness.argmax(), redness.shape)[0] < len(picture) / 2
        assert redness[0, -1] > 60
        assert abs(redness[-1, 0]) <= 2


def test_an_overlay_takes_what_the_forecast_of_memory_counts():
    """The most held at once, by tracemalloc, for a whole picture under its map."""
    picture = np.zeros((600, 800, 3), np.uint8)
    tracemalloc.start()
    try:
        overlay(picture, np.ones((4, 4), np.float32), box=(0.0, 0.0, 1.0, 1.0))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most / picture.size == pytest.approx(PICTURE_BYTES, rel=0.05)
