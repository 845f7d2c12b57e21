"""Multinomial logistic regression with an l2 penalty, in float64."""

# Shapes: N images, D features, P classes, R directions in which the features vary and a constant.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_ITERATIONS = 300


class LogisticRegression:
    """One set of images, fitted again and again on parts of it and with other penalties.

    Inside, features are rotated to uncorrelated ones, which changes neither the penalty nor the
    answer, and each coefficient is scaled by the curvature to expect, which makes L-BFGS quick (Liu
    and Nocedal 1989, "On the limited memory BFGS method for large scale optimization").
    """

    def __init__(self, features_ND: Tensor, rows_N: Tensor) -> None:
        """`features_ND` float64, standardised; `rows_N` the class of each image, 0 to P - 1."""
        self._basis_DR, variances_R = _directions(features_ND)
        # The last coefficient of a class is its bias: it multiplies a constant.
        constant_N1 = features_ND.new_ones(len(features_ND), 1)
        self._x_NR = torch.cat([features_ND @ self._basis_DR, constant_N1], dim=1)
        self._variances_R = torch.cat([variances_R, variances_R.new_ones(1)])
        self.rows_N = rows_N
        self.num_rows = int(rows_N.max()) + 1

    def fit(
        self, taken_N: Tensor, l2: float, *, tolerance: float, start_PR: Tensor | None = None
    ) -> Tensor:
        """Coefficients [P, R] that minimise, over the images that are `taken_N`,

            mean -log softmax(logits)[row] + l2 / 2 |weights|^2.

        `tolerance` is the largest slope at which that counts as done, in scaled coefficients;
        `start_PR` are coefficients to begin with, zeros otherwise.
        """
        num_rows = self.num_rows
        weights_N = taken_N.double() / taken_N.sum()
        penalty_R = torch.full_like(self._variances_R, l2)
        penalty_R[-1] = 0.0
        scale_R = (self._variances_R * (num_rows - 1) / num_rows**2 + penalty_R).rsqrt()
        if start_PR is None:
            start_PR = self._x_NR.new_zeros(num_rows, len(scale_R))
        scaled_PR = (start_PR / scale_R).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [scaled_PR],
            max_iter=MAX_ITERATIONS,
            tolerance_grad=tolerance,
            tolerance_change=1e-13,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            coefficients_PR = scaled_PR * scale_R
            losses_N = F.cross_entropy(
                self._x_NR @ coefficients_PR.T, self.rows_N, reduction="none"
            )
            loss = weights_N @ losses_N + (penalty_R * coefficients_PR.square()).sum() / 2
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        return scaled_PR.detach() * scale_R

    def logits(self, coefficients_PR: Tensor, taken_N: Tensor) -> Tensor:
        """[T, P] of the T images that are taken."""
        return self._x_NR[taken_N] @ coefficients_PR.T

    def unrotated(self, coefficients_PR: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [P, D] of the features as they were given, and biases [P]."""
        return coefficients_PR[:, :-1] @ self._basis_DR.T, coefficients_PR[:, -1]


def _directions(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis [D, R] in which the images vary independently, and how much: [R].

    It spans all the images: with fewer of them than features it has fewer directions.
    """
    num_images, num_features = x_ND.shape
    if num_features <= num_images:
        variances, basis_DR = torch.linalg.eigh(x_ND.T @ x_ND / num_images)
        kept = variances > 1e-10 * variances[-1]
        return basis_DR[:, kept], variances[kept]
    variances, images_NR = torch.linalg.eigh(x_ND @ x_ND.T / num_images)
    kept = variances > 1e-10 * variances[-1]
    basis_DR = x_ND.T @ images_NR[:, kept] / (num_images * variances[kept]).sqrt()
    return basis_DR, variances[kept]
