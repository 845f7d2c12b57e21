"""What an exported file must pass: its bounds, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deitkit.errors import ModelFileError
from deitkit.exporters.gate import MAX_DRIFT, check_full_precision, check_int8

WHERE = Path("runs/x/export-onnx/model.onnx")


def name(i: int) -> str:
    return f"image {i}"


def logits(*probabilities: float) -> np.ndarray:
    """[N, 2] for the probability of the first class; any constant may be added to a row."""
    rows = [(math.log(p) + 3, math.log(1 - p) + 3) for p in probabilities]
    return np.array(rows, np.float64)


def full(own: np.ndarray, file: np.ndarray) -> float:
    return check_full_precision(own, file, describe=name, subject=WHERE)


def refused(code: str, check: Callable[[], object]) -> str:
    with pytest.raises(ModelFileError) as caught:
        check()
    assert (caught.value.code, caught.value.exit_code) == (code, 5)
    assert str(WHERE) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.001])
def test_a_ten_thousandth_is_the_bound(p):
    """X01: 0.99e-4 of probability passes, 1.01e-4 does not, up or down."""
    assert MAX_DRIFT == 1e-4
    own = logits(0.3, p, 0.6)
    for way in (1, -1):
        drift = full(own, logits(0.3, p + way * 0.99e-4, 0.6))
        assert drift == pytest.approx(0.99e-4, rel=1e-6)
        changed = logits(0.3, p + way * 1.01e-4, 0.6)
        said = refused("EXPORT_DRIFT", lambda changed=changed: full(own, changed))
        assert "1 of 3 images get another answer" in said
        assert "by up to 0.000101 in probability (allowed 0.0001): image 1; no file is" in said


def test_a_constant_on_all_logits_is_no_drift():
    own = logits(0.3, 0.9)
    assert full(own, own + np.array([[700.0], [-700.0]])) < 1e-12


def test_those_that_moved_most_are_named_first():
    own = logits(*[0.5] * 9)
    moved = [0.0, 0.01, 0.0, 0.07, 0.02, 0.05, 0.04, 0.03, 0.06]
    said = refused("EXPORT_DRIFT", lambda: full(own, logits(*[0.5 + m for m in moved])))
    assert "7 of 9 images" in said and "up to 0.07 in" in said
    assert "image 3, image 8, image 5, image 6, image 7 and 2 more; no file" in said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_has_moved(value):
    """An infinity beside numbers gives no probabilities either."""
    file = logits(0.5, 0.5, 0.5)
    file[1] = [value, value]
    said = refused("EXPORT_DRIFT", lambda: full(logits(0.5, 0.5, 0.5), file))
    assert "1 of 3 images" in said and "by up to inf" in said and ": image 1;" in said


def eight(own: np.ndarray, file: np.ndarray, labels: np.ndarray, tolerance: float) -> float:
    gain, drift = check_int8(own, file, labels, tolerance=tolerance, describe=name, subject=WHERE)
    assert gain.share.num_images == len(labels)
    return drift


def test_half_a_point_of_200_images_is_one():
    """One lost of 200 passes at 0.005, two at 0.01; one that is won makes up for one lost."""
    labels = np.zeros(200, np.int64)
    own = logits(*[0.9] * 199, 0.4)

    def file(lost: int, won: int = 0) -> np.ndarray:
        return logits(*[0.2] * lost, *[0.9] * (199 - lost), 0.8 if won else 0.4)

    assert eight(own, file(1), labels, 0.005) == pytest.approx(0.7)
    said = refused("EXPORT_INT8", lambda: eight(own, file(2), labels, 0.005))
    assert "in int8 it is right on 197 of 200 images, the run on 199: 1.00 points less" in said
    assert "0.5 allowed; lost are image 0, image 1; no file is left" in said
    assert "or allow more with tolerance=" in said
    assert eight(own, file(2), labels, 0.01) == pytest.approx(0.7)
    assert eight(own, file(2, won=1), labels, 0.005) == pytest.approx(0.7)
    refused("EXPORT_INT8", lambda: eight(own, file(1), labels, 0.0))
    eight(own, own, labels, 0.0)


@pytest.mark.parametrize("label", [0, 1])
def test_int8_that_answers_nan_is_refused_whatever_is_allowed(label):
    """numpy's argmax calls NaN the largest, so class 0 would count as right."""
    file = logits(0.9, 0.9)
    file[1] = math.nan
    labels = np.full(2, label)
    said = refused("EXPORT_INT8", lambda: eight(logits(0.9, 0.9), file, labels, 1.0))
    assert f"it is right on {1 - label} of 2 images, the run on {2 - 2 * label}" in said
    assert "lost are image 1; no file" in said


@given(
    right=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
    tolerance=st.sampled_from([0.0, 0.005, 0.1, 0.25, 1.0]),
)
def test_int8_is_refused_if_and_only_if_it_loses_more(right, tolerance):
    """In whole images: lost > tolerance * N."""
    own, file = (logits(*[0.9 if pair[k] else 0.1 for pair in right]) for k in (0, 1))
    labels = np.zeros(len(right), np.int64)
    lost = sum(own for own, _ in right) - sum(file for _, file in right)
    if lost > tolerance * len(right) + 1e-9:
        refused("EXPORT_INT8", lambda: eight(own, file, labels, tolerance))
    else:
        eight(own, file, labels, tolerance)
