"""The nearest neighbour in pixels, by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from deitkit.evaluation.neighbours import nearest_right


def test_the_nearest_gives_its_class():
    """On a line: 2 is nearest to 1 (class 0), 6 to 8 (class 1), 4.5 as near to 1 as to 8: first."""
    known = np.array([[1.0], [8.0]], np.float32)
    asked = np.array([[2.0], [6.0], [4.5]], np.float32)
    assert nearest_right(known, np.array([0, 1]), asked, np.array([0, 1, 0])) == 3
    assert nearest_right(known, np.array([0, 1]), asked, np.array([1, 1, 1])) == 1


def test_as_scikit_learn():
    chance = np.random.default_rng(0)
    known, asked = (chance.normal(size=(n, 8)).astype(np.float32) for n in (60, 40))
    labels, wanted = chance.integers(0, 3, 60), chance.integers(0, 3, 40)
    oracle = KNeighborsClassifier(n_neighbors=1).fit(known, labels)
    assert nearest_right(known, labels, asked, wanted) == (oracle.predict(asked) == wanted).sum()
