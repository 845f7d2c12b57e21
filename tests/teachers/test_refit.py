"""A head fitted on frozen features: by hand, against scikit-learn, and on few or bad images."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from deitkit.errors import DataError, ModelFileError
from deitkit.evaluation.metrics import wilson_interval
from deitkit.teachers.refit import UNCHECKED_L2, FittedHead, deal_folds, fit_head


def some_features(
    num: int, num_features: int = 20, num_classes: int = 3, *, noise: float = 1.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of float32 with scales of their own that say something of every class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % num_classes
    centres = torch.randn(num_classes, num_features, generator=generator)
    features = centres[labels] + noise * torch.randn(num, num_features, generator=generator)
    return features * torch.linspace(0.1, 9, num_features) + 5, labels


def logits_of(head: FittedHead, features: torch.Tensor) -> torch.Tensor:
    return features @ head.weight_KD.T + head.bias_K


def oracle(features: torch.Tensor, labels: torch.Tensor, l2: float) -> tuple[np.ndarray, ...]:
    """scikit-learn's weights and biases for features as they come."""
    scaler = StandardScaler().fit(features.double().numpy())
    x = scaler.transform(features.double().numpy())
    model = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-9, max_iter=5000)
    model.fit(x, labels.numpy())
    weight = model.coef_ / scaler.scale_
    return weight, model.intercept_ - weight @ scaler.mean_


def test_two_images_by_hand():
    """Features 3 and 7 have mean 5 and deviation 2, so they are -1 and +1 and the weights -w and w.

    The loss ln(1 + e^(-2w)) + l2 w^2 is least where l2 w = 1 / (1 + e^(2w)); with 0.1, w = 1.0640.
    """
    head = fit_head(torch.tensor([[3.0], [7.0]]), torch.tensor([0, 1]), 2, seed=0)
    assert head.l2 == UNCHECKED_L2 == 0.1
    w = 2 * float(head.weight_KD[1, 0])
    assert 0.1 * w == pytest.approx(1 / (1 + math.exp(2 * w)), rel=1e-5)
    assert w == pytest.approx(1.0640, abs=1e-4)
    assert head.weight_KD[0, 0] == -head.weight_KD[1, 0]
    assert head.bias_K.tolist() == pytest.approx([5 * w / 2, -5 * w / 2], rel=1e-6)
    assert (head.cv_accuracy, head.cv_interval, head.fold_accuracies) == (None, None, ())
    assert "unknown" in head.describe()


@pytest.mark.parametrize(("num", "num_features"), [(300, 20), (45, 120)])
def test_weights_are_scikit_learns(num, num_features):
    """With more images than features, and with fewer; the penalty is the one that was chosen."""
    features, labels = some_features(num, num_features, noise=3.0)
    head = fit_head(features, labels, 3, seed=0)
    weight, bias = oracle(features, labels, head.l2)
    np.testing.assert_allclose(head.weight_KD, weight, atol=2e-4 * np.abs(weight).max())
    np.testing.assert_allclose(head.bias_K - head.bias_K.mean(), bias - bias.mean(), atol=2e-3)


def test_the_chosen_penalty_has_the_likeliest_held_out_images():
    """Each of four penalties by scikit-learn, fold by fold; accuracies are of the same folds."""
    features, labels = some_features(90, noise=3.0)
    head = fit_head(features, labels, 3, num_folds=3, seed=4)
    folds = deal_folds(labels, 3, seed=4)
    scaled = torch.from_numpy(StandardScaler().fit_transform(features.double().numpy()))
    found = {}
    for l2 in (10.0, 1.0, 0.1, 0.01):
        nll, right = 0.0, []
        for fold in range(3):
            taken, held = folds != fold, folds == fold
            model = LogisticRegression(C=1 / (l2 * int(taken.sum())), tol=1e-9, max_iter=5000)
            model.fit(scaled[taken].numpy(), labels[taken].numpy())
            log_p = model.predict_log_proba(scaled[held].numpy())
            nll -= log_p[np.arange(len(log_p)), labels[held].numpy()].sum()
            right.append(float((log_p.argmax(1) == labels[held].numpy()).mean()))
        found[l2] = (nll, right)
    assert head.l2 == min(found, key=lambda l2: found[l2][0])
    assert head.fold_accuracies == pytest.approx(found[head.l2][1])
    assert head.cv_accuracy == pytest.approx(np.mean(found[head.l2][1]))
    num_right = round(head.cv_accuracy * 90)
    assert head.cv_interval == pytest.approx(wilson_interval(num_right, 90), abs=1e-12)


@given(num=st.integers(1, 400), share=st.floats(0, 1))
def test_the_interval_is_the_one_of_evaluations(num, share):
    from deitkit.teachers.refit import _wilson

    num_right = round(share * num)
    assert _wilson(num_right, num) == pytest.approx(wilson_interval(num_right, num), abs=1e-12)


def test_digits_as_well_as_scikit_learn():
    digits = load_digits()
    features, labels = torch.tensor(digits.data).float(), torch.tensor(digits.target)
    head = fit_head(features[:600], labels[:600], 10, seed=0)
    right = logits_of(head, features[600:]).argmax(1) == labels[600:]
    weight, bias = oracle(features[:600], labels[:600], head.l2)
    expected = (features[600:].double().numpy() @ weight.T + bias).argmax(1)
    assert float(right.double().mean()) > 0.9
    assert abs(int(right.sum()) - int((expected == labels[600:].numpy()).sum())) <= 1
    low, high = head.cv_interval
    assert low < head.cv_accuracy < high and 0.93 < head.cv_accuracy < 0.98


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    num_folds=st.integers(2, 6),
    seed=st.integers(0, 5),
)
@settings(max_examples=80, deadline=None)
def test_folds_hold_each_image_out_once_and_never_a_whole_class(labels, num_folds, seed):
    labels = torch.tensor(labels)
    folds = deal_folds(labels, num_folds, seed=seed)
    counts = labels.bincount()
    assert torch.equal(folds < 0, counts[labels] == 1)
    if (folds >= 0).any():
        num = int(folds.max()) + 1
        assert num <= min(num_folds, int(counts.max()))
        sizes = torch.stack([(folds == fold).sum() for fold in range(num)])
        assert sizes.min() > 0 and sizes.max() - sizes.min() <= 1
        for label in labels[folds >= 0].unique():
            held = torch.stack([((folds == f) & (labels == label)).sum() for f in range(num)])
            assert held.max() - held.min() <= 1
            assert held.max() < counts[label]


def test_the_seed_deals_the_folds():
    labels = torch.arange(40) % 4
    assert torch.equal(deal_folds(labels, 5, seed=1), deal_folds(labels, 5, seed=1))
    assert not torch.equal(deal_folds(labels, 5, seed=1), deal_folds(labels, 5, seed=2))


def test_the_same_arguments_give_the_same_bits():
    features, labels = some_features(60)
    first, second = (fit_head(features, labels, 3, seed=7) for _ in range(2))
    for name in ("weight_KD", "bias_K"):
        assert getattr(first, name).numpy().tobytes() == getattr(second, name).numpy().tobytes()
    assert first.to_dict() == second.to_dict()


def test_shuffled_labels_are_found_to_be_chance():
    """A.24: nothing can be learned, and cross-validation says so although the fit is perfect."""
    features, labels = some_features(120, 200, 4)
    shuffled = labels[torch.randperm(120, generator=torch.Generator().manual_seed(3))]
    low, high = fit_head(features, shuffled, 4, seed=0).cv_interval
    assert low < 0.25 < high < 0.45
    assert fit_head(features, labels, 4, seed=0).cv_accuracy > 0.9


@pytest.mark.parametrize(
    ("per_class", "num_folds"), [((2, 2, 2), 2), ((3, 3, 2), 3), ((9, 4, 5), 5)]
)
def test_few_images_make_fewer_folds(per_class, num_folds):
    labels = torch.tensor([k for k, num in enumerate(per_class) for _ in range(num)])
    features = some_features(len(labels))[0] + 3 * labels[:, None]
    head = fit_head(features, labels, 3, seed=0)
    assert len(head.fold_accuracies) == num_folds
    assert f"{num_folds}-fold" in head.describe()


def test_the_only_image_of_a_class_is_learned_from_and_not_scored():
    features, labels = some_features(31)
    labels[-1] = 3
    head = fit_head(features, labels, 4, seed=0)
    assert (head.num_images, head.num_scored) == (31, 30)
    assert "1 single images" in head.describe()
    assert int(logits_of(head, features[-1:]).argmax()) == 3


def test_a_class_without_images_is_possible_and_hardly_likely():
    """Laplace: with 60 images and 5 classes about 1 / 65 for each of the two never seen."""
    features, labels = some_features(60)
    head = fit_head(features, 2 * labels, 5, seed=0)
    probabilities = logits_of(head, features).double().softmax(dim=1)
    assert head.weight_KD[[1, 3]].abs().sum() == 0
    # exactly 1/65 of the others' total, so a little less of the whole
    without = 1 / (1 / probabilities[:, 1] - 2 + 1)
    assert float(without.mean()) == pytest.approx(1 / 65, rel=0.05)
    assert set(probabilities.argmax(dim=1).tolist()) == {0, 2, 4}


def test_constant_and_rounding_features_get_no_weight():
    """A feature that is 4 but for float32's rounding must not be blown up to unit variance."""
    features, labels = some_features(60)
    noise = torch.randn(60, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([features, torch.full((60, 1), 7.0), (4 + 1e-6 * noise)[:, None]], dim=1)
    head = fit_head(padded, labels, 3, seed=0)
    assert head.weight_KD[:, -2:].abs().sum() == 0
    expected = fit_head(features, labels, 3, seed=0)
    torch.testing.assert_close(head.weight_KD[:, :-2], expected.weight_KD, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (torch.full((6, 4), math.nan), "those of 6 of 6 images are NaN or infinite"),
        (torch.tensor([[1.0], [math.inf], [2], [3], [4], [5]]), "those of 1 of 6 images"),
        (torch.ones(6, 4), "the same for all 6 images"),
        (torch.ones(5, 4), "[5, 4] for 6 images"),
        (torch.ones(6), "[6] for 6 images"),
        (torch.ones(6, 3, 2, 2), "[6, 3, 2, 2] for 6 images"),
        (torch.ones(6, 0), "[6, 0] for 6 images"),
    ],
)
def test_features_that_cannot_be_are_refused(features, said):
    """K11."""
    with pytest.raises(ModelFileError) as caught:
        fit_head(features, torch.tensor([0, 1, 2, 0, 1, 2]), 3, seed=0)
    assert caught.value.code == "TEACHER_OUTPUT"
    assert said in str(caught.value)


@pytest.mark.parametrize("labels", [[], [1, 1, 1]])
def test_one_class_is_refused(labels):
    with pytest.raises(DataError, match=r"ONE_CLASS.*of 3 classes have images"):
        fit_head(torch.randn(len(labels), 4), torch.tensor(labels).long(), 3, seed=0)


def test_grad_mode_and_type_of_the_features_do_not_matter_and_json_holds_no_weights():
    features, labels = some_features(60)
    features = features.half().float()
    with torch.inference_mode():
        made_in_inference = features.half()
    with torch.no_grad():
        head = fit_head(made_in_inference, labels, 3, seed=0)
    expected = fit_head(features.double(), labels, 3, seed=0)
    assert torch.equal(head.weight_KD, expected.weight_KD)
    assert head.weight_KD.dtype == torch.float32 and not head.weight_KD.requires_grad
    said = json.loads(json.dumps(head.to_dict()))
    assert set(said) == set(FittedHead.__dataclass_fields__) - {"weight_KD", "bias_K"}
    assert said["fold_accuracies"] == list(head.fold_accuracies)


def few_of_each_class(path: Path, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `num` photographs of each of the ten classes, in turn, as MobileNet reads them."""
    table = pq.read_table(path)
    labels = np.array(table["label"])
    rows = np.stack([np.flatnonzero(labels == k)[:num] for k in range(10)], axis=1).ravel()
    pictures = [
        Image.open(io.BytesIO(table["image"][int(row)].as_py()["bytes"])).convert("RGB")
        for row in rows
    ]
    pixels = np.stack([np.asarray(one.resize((128, 128), Image.BICUBIC)) for one in pictures])
    scaled = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return torch.tensor(scaled).float().permute(0, 3, 1, 2), torch.tensor(labels[rows])


def test_real_features_tell_new_classes_as_cross_validation_promises(shared_data):
    """MobileNetV2 and imagenette, 12 photographs a class to fit and 8 others to check."""
    weights = "mobilenetv2_100_imagenet/mobilenetv2_100_timm_same_imagenetnorm.pth"
    model = timm.create_model("mobilenetv2_100", pad_type="same")
    kept = torch.load(shared_data / "weights" / weights, weights_only=True)
    model.load_state_dict(kept["state_dict"])
    model.reset_classifier(0)
    model.eval()
    images, labels = few_of_each_class(shared_data / "imagenette" / "train.parquet", 20)
    with torch.inference_mode():
        features = model(images)
    head = fit_head(features[:120], labels[:120], 10, seed=0)
    right = int((logits_of(head, features[120:]).argmax(1) == labels[120:]).sum())
    low, high = wilson_interval(right, 80)
    assert right > 56 and head.cv_accuracy > 0.7
    assert low < head.cv_interval[1] and head.cv_interval[0] < high
