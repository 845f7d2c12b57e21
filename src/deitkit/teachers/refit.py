"""A linear head for the user's classes on a teacher's frozen features, where names do not match."""

# Shapes: N images, H of them held out, D features, K classes of the user, P of them that have
# images, R coefficients of a class in `LogisticRegression`.

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deitkit.errors import DataError, ModelFileError
from deitkit.teachers.logistic import LogisticRegression

L2_GRID = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4)
"""Strongest first: each fit starts where the stronger penalty's ended."""
UNCHECKED_L2 = 0.1
"""Taken where no class has two images, so that nothing can be held out."""
LOOSE, TIGHT = 1e-6, 1e-7
"""Largest slope at which a teacher's fit counts as done: to compare penalties, and of the head
itself."""
Z_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedHead:
    """Logits of the user's classes from features: weight_KD @ features + bias_K."""

    weight_KD: Tensor
    """float32, on the CPU; it takes features as they come, standardisation is folded in."""
    bias_K: Tensor
    l2: float
    """The penalty chosen, on weights of standardised features, beside a mean over images."""
    num_images: int
    num_scored: int
    """Images that were held out once: all but those that are the only one of their class."""
    cv_accuracy: float | None
    """Share of the scored images that the head fitted without their fold gets right. None: no class
    has two images, and nothing is known."""
    cv_interval: tuple[float, float] | None
    """Wilson's at 95 %."""
    fold_accuracies: tuple[float, ...]
    """By fold; as many as folds were made."""

    def describe(self) -> str:
        """One line for tables and reports."""
        said = f"a linear head was fitted on its features of {self.num_images:,} training images"
        if self.cv_accuracy is None or self.cv_interval is None:
            return f"{said}; with one image a class its accuracy is unknown"
        low, high = (100 * bound for bound in self.cv_interval)
        said += (
            f"; {100 * self.cv_accuracy:.1f} % right in {len(self.fold_accuracies)}-fold cross-"
            f"validation (95 % interval {low:.1f} to {high:.1f})"
        )
        num_left = self.num_images - self.num_scored
        return said + (f", {num_left:,} single images of a class not counted" if num_left else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the weights."""
        values = asdict(self)
        del values["weight_KD"], values["bias_K"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def fit_head(
    features_ND: Tensor,
    labels_N: Tensor,
    num_classes: int,
    *,
    num_folds: int = 5,
    seed: int,
    loose: float = LOOSE,
    tight: float = TIGHT,
) -> FittedHead:
    """Multinomial logistic regression, its l2 penalty chosen by stratified cross-validation.

    Minimises, over W and b and in float64 on the CPU,

        mean_n -log softmax(W x_n + b)[label_n] + l2 / 2 |W|^2,   x standardised over all images,

    by L-BFGS (Liu and Nocedal 1989, "On the limited memory BFGS method for large scale
    optimization"). Of `L2_GRID` the penalty with the likeliest held-out images is taken: what a
    student learns from are the logits, not the decisions alone. The weaker ones are not tried once
    one was worse. The accuracy reported is of that same penalty, a choice among six at most.

    `loose` and `tight` are the slopes at which fits are done: those that compare penalties, and the
    head itself. `seed` deals the images into folds: no more than the largest class has images. The
    same arguments and number of threads give the same bits. A class without images gets no weight
    and a bias that makes it about as likely as Laplace's rule has it, 1 / (N + K). Memory:
    8 N (D + 1) bytes a few times over.

    Raises:
        ModelFileError: TEACHER_OUTPUT for features that are not [N, D], not finite, or the same
            for all images.
        DataError: ONE_CLASS where fewer than two classes have images.
    """
    labels_N = torch.as_tensor(labels_N).to("cpu", torch.int64)
    features_ND = _checked(torch.as_tensor(features_ND), len(labels_N))
    assert num_folds >= 2, "one fold holds nothing out"
    assert len(labels_N) == 0 or 0 <= labels_N.min() <= labels_N.max() < num_classes, "labels"
    present_P, rows_N = labels_N.unique(return_inverse=True)
    if len(present_P) < 2:
        raise DataError(
            "ONE_CLASS",
            "training images",
            f"{len(present_P)} of {num_classes} classes have images: nothing to tell apart",
            "add images of at least two classes",
        )

    mean_D, inverse_std_D = _standardisation(features_ND)
    standard_ND = (features_ND - mean_D) * inverse_std_D
    problem = LogisticRegression(standard_ND, rows_N)

    folds_N = deal_folds(rows_N, num_folds, seed=seed)
    l2, right_N = UNCHECKED_L2, None
    if (folds_N >= 0).any():
        l2, right_N = _choose_l2(problem, folds_N, loose)
    all_N = torch.ones(len(labels_N), dtype=torch.bool)
    coefficients_PR = problem.fit(all_N, l2, tolerance=tight)

    standard_PD, bias_P = problem.unrotated(coefficients_PR)
    weight_PD = standard_PD * inverse_std_D
    weight_KD = weight_PD.new_zeros(num_classes, weight_PD.shape[1])
    weight_KD[present_P] = weight_PD
    logits_NP = problem.logits(coefficients_PR, all_N)
    bias_K = weight_PD.new_full((num_classes,), _rare_bias(logits_NP, num_classes))
    bias_K[present_P] = bias_P - weight_PD @ mean_D
    return FittedHead(
        weight_KD=weight_KD.float(),
        bias_K=bias_K.float(),
        l2=l2,
        num_images=len(labels_N),
        **_scores(right_N, folds_N),
    )


def deal_folds(labels_N: Tensor, num_folds: int, *, seed: int) -> Tensor:
    """The fold [N] that holds each image out, -1 for the only image of its class.

    No more folds than the largest class has images. Each class is spread over the folds as evenly
    as can be, so whichever fold is held out, every class keeps an image to learn from.
    """
    generator = torch.Generator().manual_seed(seed)
    counts_K = labels_N.bincount()
    num_folds = min(num_folds, int(counts_K.max()))
    folds_N = torch.full_like(labels_N, -1)
    num_dealt = 0
    for label, count in enumerate(counts_K.tolist()):
        order = torch.randperm(count, generator=generator)
        if count > 1:
            places = (labels_N == label).nonzero()[:, 0][order]
            folds_N[places] = (num_dealt + torch.arange(count)) % num_folds
            num_dealt += count
    return folds_N


def _choose_l2(
    problem: LogisticRegression, folds_N: Tensor, tolerance: float
) -> tuple[float, Tensor]:
    """The penalty under which held-out images are likeliest, and which it got right: [N]."""
    num_folds = int(folds_N.max()) + 1
    starts: list[Tensor | None] = [None] * num_folds
    best_l2, best_loss, best_right_N = L2_GRID[0], math.inf, torch.zeros_like(folds_N).bool()
    for l2 in L2_GRID:
        losses_N = torch.zeros(len(folds_N), dtype=torch.float64)
        right_N = torch.zeros_like(best_right_N)
        for fold in range(num_folds):
            held_N = folds_N == fold
            coefficients_PR = problem.fit(~held_N, l2, tolerance=tolerance, start_PR=starts[fold])
            starts[fold] = coefficients_PR
            logits_HP, rows_H = problem.logits(coefficients_PR, held_N), problem.rows_N[held_N]
            losses_N[held_N] = F.cross_entropy(logits_HP, rows_H, reduction="none")
            right_N[held_N] = logits_HP.argmax(dim=1) == rows_H
        loss = float(losses_N.sum())
        if loss >= best_loss:
            break
        best_l2, best_loss, best_right_N = l2, loss, right_N
    return best_l2, best_right_N


def _scores(right_N: Tensor | None, folds_N: Tensor) -> dict[str, Any]:
    """The fields of `FittedHead` that cross-validation fills."""
    if right_N is None:
        return {
            "num_scored": 0,
            "cv_accuracy": None,
            "cv_interval": None,
            "fold_accuracies": (),
        }
    num_right, num_scored = int(right_N.sum()), int((folds_N >= 0).sum())
    num_folds = int(folds_N.max()) + 1
    return {
        "num_scored": num_scored,
        "cv_accuracy": num_right / num_scored,
        "cv_interval": _wilson(num_right, num_scored),
        "fold_accuracies": tuple(
            float(right_N[folds_N == fold].double().mean()) for fold in range(num_folds)
        ),
    }


def _rare_bias(logits_NP: Tensor, num_classes: int) -> float:
    """b for which the mean over images of e^b / (sum of the other classes' e^z) is 1 / (N + K)."""
    num_images = len(logits_NP)
    mean_inverse = float((-logits_NP.logsumexp(dim=1)).logsumexp(dim=0)) - math.log(num_images)
    return -math.log(num_images + num_classes) - mean_inverse


def _checked(features_ND: Tensor, num_labels: int) -> Tensor:
    """float64 on the CPU, after what a teacher can get wrong was looked for."""

    def refused(why: str) -> ModelFileError:
        return ModelFileError(
            "TEACHER_OUTPUT",
            "the teacher's features",
            why,
            "give a function from images [B, C, H, W] to features [B, D], or another teacher",
        )

    shape = list(features_ND.shape)
    if len(shape) != 2 or shape[0] != num_labels or shape[1] == 0:
        raise refused(f"they are {shape} for {num_labels:,} images, not one row of numbers each")
    features_ND = features_ND.detach().to("cpu", torch.float64)
    num_bad = int((~features_ND.isfinite().all(dim=1)).sum())
    if num_bad:
        raise refused(f"those of {num_bad:,} of {num_labels:,} images are NaN or infinite")
    if num_labels and not _varies(features_ND).any():
        raise refused(f"they are the same for all {num_labels:,} images")
    return features_ND


def _varies(features_ND: Tensor) -> Tensor:
    """Which features [D] differ between images by more than float32 rounds."""
    spread_D = features_ND.amax(dim=0) - features_ND.amin(dim=0)
    return spread_D > 1e-5 * features_ND.abs().amax(dim=0)


def _standardisation(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and one over the standard deviation, [D]; 0 for a feature that does not vary."""
    std_D, mean_D = torch.std_mean(features_ND, dim=0, correction=0)
    return mean_D, torch.where(_varies(features_ND), 1 / std_D, 0.0)


def _wilson(num_right: int, num_total: int) -> tuple[float, float]:
    """The score interval of a share at 95 %, Wilson 1927.

    `evaluation.metrics.wilson_interval` stands on a higher floor than teachers.
    """
    share, z2 = num_right / num_total, Z_95**2 / num_total
    reach = math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    low, high = ((share + z2 / 2 + sign * reach) / (1 + z2) for sign in (-1, 1))
    return (low if num_right else 0.0), (high if num_right < num_total else 1.0)
