"""The deletion score by hand, and maps of trained models against chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deitkit.data import open_split
from deitkit.errors import DataError
from deitkit.evaluation.predictor import Predictor
from deitkit.explanation.explainer import Explainer, can_explain
from deitkit.explanation.faithfulness import NUM_RANDOM, Deletion, deletion
from tests.explanation.squares import PATCH, SQUARE, draw_squares, trained_bundle

NOISE = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))


def needs_patch(row: int, column: int):
    """Says 0.9 as long as that patch of 4 x 4 is untouched, else 0.1; 2 classes."""

    def ask(images_BCHW: torch.Tensor) -> np.ndarray:
        part = (slice(None), slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        is_there = [torch.equal(image[part], NOISE[part]) for image in images_BCHW]
        own = np.where(is_there, 0.9, 0.1)
        return np.stack([1 - own, own], axis=1)

    return ask


@pytest.mark.parametrize("place", [0, 7, 15])
def test_the_area_by_hand(place):
    """16 patches, one a step: 0.9 until the one patch goes, then 0.1, the fall being a slope of
    one step. Gone as the (place + 1)th: 0.1 + 0.8 (place + 1/2) / 16."""
    grid = np.zeros(16, np.float32)
    order = [5, *(patch for patch in range(16) if patch != 5)]
    order.insert(place, order.pop(0))
    grid[order] = np.linspace(1, 0, 16)
    found = deletion(needs_patch(1, 1), NOISE, grid.reshape(4, 4), 1)
    assert found.area == pytest.approx(0.1 + 0.8 * (place + 0.5) / 16)
    rng = np.random.default_rng(0)
    places = [list(rng.permutation(16)).index(5) for _ in range(NUM_RANDOM)]
    by_chance = [0.1 + 0.8 * (one + 0.5) / 16 for one in places]
    assert found.random_area == pytest.approx(np.mean(by_chance))
    assert found.least_random_area == pytest.approx(min(by_chance))
    assert found.score == pytest.approx(np.mean(by_chance) - found.area)
    assert found.beats_chance == (place < min(places))


def test_a_map_that_knows_nothing_scores_about_nothing():
    """Mean over many random maps of what chance gives: 0 within its error."""
    rng = np.random.default_rng(1)
    scores = [
        deletion(needs_patch(1, 1), NOISE, rng.random((4, 4)), 1, seed=seed).score
        for seed in range(60)
    ]
    assert abs(np.mean(scores)) < 3 * np.std(scores) / math.sqrt(len(scores))
    assert np.std(scores) > 0.1


def test_a_map_beats_chance_where_no_random_order_was_as_good():
    """A mean advantage alone is not enough: a class that nothing moves has noise for a score."""
    found = Deletion(area=0.2, random_area=0.5, least_random_area=0.25)
    assert (found.score, found.beats_chance) == (pytest.approx(0.3), True)
    assert not Deletion(area=0.2, random_area=0.5, least_random_area=0.2).beats_chance
    still = deletion(lambda images: np.full((len(images), 1), 0.9), NOISE, np.eye(4), 0)
    assert (still.score, still.beats_chance) == (pytest.approx(0), False)


def test_what_is_deleted_is_blurred_and_what_is_not_is_untouched():
    """Every copy is the picture outside the deleted patches; the last one has no detail left."""
    seen = []

    def ask(images_BCHW):
        seen.append(images_BCHW)
        return np.zeros((len(images_BCHW), 1))

    grid = np.linspace(1, 0, 16, dtype=np.float32).reshape(4, 4)
    deletion(ask, NOISE, grid, 0)
    copies = seen[0]
    assert len(copies) == 17
    for num_gone, copy in enumerate(copies):
        for patch in range(16):
            rows, columns = (
                slice(patch // 4 * 4, patch // 4 * 4 + 4),
                slice(patch % 4 * 4, patch % 4 * 4 + 4),
            )
            same = torch.equal(copy[:, rows, columns], NOISE[:, rows, columns])
            assert same == (patch >= num_gone)
    assert copies[-1].std() < 0.3 * NOISE.std()
    assert copies[-1].mean() == pytest.approx(float(NOISE.mean()), abs=0.02)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(Predictor(trained_bundle(), device=torch.device("cpu")))


def paired_bounds(differences: list[float]) -> tuple[float, float]:
    """95 % interval of the mean."""
    reach = 1.96 * np.std(differences, ddof=1) / math.sqrt(len(differences))
    return np.mean(differences) - reach, np.mean(differences) + reach


def test_maps_of_a_model_that_looks_for_a_square(explainer):
    """24 new pictures: what relevance marks goes first and takes the class along, in
    both heads; and its highest patch touches the square far more often than chance would."""
    pictures, labels_N, places_N2 = draw_squares(24, seed=2)
    said_N = explainer.predictor.probabilities(list(pictures)).argmax(axis=1)
    assert (said_N == labels_N).mean() > 0.9
    scores: dict[str, list[float]] = {}
    num_hits: dict[str, int] = {"class": 0, "distillation": 0}
    chances = []
    for picture, (top, left) in zip(pictures, places_N2, strict=True):
        explanation = explainer.explain(picture)
        is_touched = np.zeros(explanation.maps[0].grid_RC.shape, bool)
        is_touched[
            top // PATCH : (top + SQUARE - 1) // PATCH + 1,
            left // PATCH : (left + SQUARE - 1) // PATCH + 1,
        ] = True
        chances.append(is_touched.mean())
        for one in explanation.maps:
            found = explainer.faithfulness(picture, one, explanation.class_index)
            scores.setdefault(one.head, []).append(found.score)
            num_hits[one.head] += bool(is_touched.flat[one.grid_RC.argmax()])
    for head in ("class", "distillation"):
        low, _ = paired_bounds(scores[head])
        assert low > 0, (head, np.mean(scores[head]))
        # Three standard deviations of a binomial above its mean.
        expected, num = np.mean(chances), len(pictures)
        assert num_hits[head] > num * expected + 3 * math.sqrt(num * expected * (1 - expected))


def test_explaining_another_class_and_one_that_is_not_there(explainer):
    picture = draw_squares(1, seed=3)[0][0]
    explanation = explainer.explain(picture, class_name="blue", with_rollout=True)
    assert (explanation.class_name, explanation.class_index) == ("blue", 2)
    said = explainer.predictor.probabilities([picture])[0, 2]
    assert explanation.probability == pytest.approx(said, abs=1e-6)
    kinds = [(one.head, one.method) for one in explanation.maps]
    assert kinds == [
        ("class", "relevance"),
        ("distillation", "relevance"),
        ("class", "rollout"),
        ("distillation", "rollout"),
    ]
    told = explanation.to_dict()
    assert told["box"] == [0, 0, 1, 1]
    np.testing.assert_allclose(told["heads"][0]["grid"], explanation.maps[0].grid_RC, atol=6e-5)
    assert can_explain(explainer.model)
    with pytest.raises(DataError, match="red, green, blue"):
        explainer.explain(picture, class_name="yellow")


@pytest.mark.slow
def test_maps_of_the_public_deit_tiny_on_photographs(shared_data, tmp_path):
    """24 pictures of imagenet_samples100: relevance beats chance, paired by picture."""
    import deitkit

    images = shared_data / "imagenet_samples100"
    weights = shared_data / "weights" / "deit_tiny_patch16_224" / "deit_tiny_patch16_224.pth"
    run = deitkit.import_weights(weights, classes=images / "classes.txt", out=tmp_path / "tiny").run
    explainer = Explainer(run.predictor)
    pictures = open_split(images, class_names=run.class_names)
    scores = []
    for index in range(0, 96, 4):
        picture = pictures.image(index)
        explanation = explainer.explain(picture)
        found = explainer.faithfulness(picture, explanation.maps[0], explanation.class_index)
        scores.append(found.score)
    low, high = paired_bounds(scores)
    print(f"mean score {np.mean(scores):.3f}, 95 % interval {low:.3f} to {high:.3f}")
    assert low > 0
