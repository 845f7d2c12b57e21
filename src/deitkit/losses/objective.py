"""The number that training makes small: labels and teacher together."""

# Shapes: B images, K classes.

from __future__ import annotations

import math

import torch
from torch import Tensor

from deitkit.errors import ConfigError
from deitkit.flow import LossTerms, StudentOutput
from deitkit.losses.distillation import REDUCTIONS
from deitkit.losses.registry import DISTILL_KINDS, LABEL_LOSSES
from deitkit.losses.targets import at_least_float32


class DistillationLoss:
    """total = (1 - weight) * label + weight * distill.

    Touvron et al. 2021, arXiv:2012.12877, equations 2 and 3: the label term reads the class head,
    the teacher term the distillation head; a model without that head has both on the class head
    (the "usual" distillation of the paper's table 3).

    With kind "none" there is no teacher term, `weight` and `temperature` are not read, and total is
    the label term. A distillation head is then trained on the labels with the same weight as the
    class head, label = (CE(cls) + CE(dist)) / 2: predictions fuse both heads, and an untrained one
    would be noise in them.

    With `label_shift_K` the label term reads logits + shift: with shift_k = tau ln prior_k that is
    logit adjustment, Menon et al. 2021, arXiv:2007.07314, equation 10. A model trained so answers
    as if all classes were alike frequent; nothing is added when it is asked. The teacher term reads
    the logits as they are.

    Raises:
        ConfigError: DISTILL, LABEL_LOSS for a setting that cannot be.
    """

    def __init__(
        self,
        kind: str,
        *,
        weight: float = 0.5,
        temperature: float = 3.0,
        reduction: str = "batchmean",
        label_loss: str = "cross_entropy",
        label_shift_K: Tensor | None = None,
    ) -> None:
        if label_loss not in LABEL_LOSSES:
            losses = " or ".join(LABEL_LOSSES)
            raise ConfigError(
                "LABEL_LOSS", "label_loss", f"{label_loss!r} is not known", f"choose {losses}"
            )
        if kind not in DISTILL_KINDS:
            kinds = " or ".join(DISTILL_KINDS)
            raise ConfigError("DISTILL", "kind", f"{kind!r} is not known", f"choose {kinds}")
        if reduction not in REDUCTIONS:
            choices = " or ".join(REDUCTIONS)
            raise ConfigError(
                "DISTILL", "reduction", f"{reduction!r} is not known", f"choose {choices}"
            )
        if not 0.0 <= weight <= 1.0:
            raise ConfigError("DISTILL", "weight", f"{weight} is not in 0 to 1", "choose 0.5")
        if not 0.0 < temperature < math.inf:
            raise ConfigError("DISTILL", "temperature", f"{temperature} is not above 0", "choose 3")
        if label_shift_K is not None and label_loss != "cross_entropy":
            raise ConfigError(
                "LABEL_LOSS",
                f"label_loss={label_loss}",
                "has no priors that could be added to its logits",
                "use data.balance=sampling, or label_loss=cross_entropy",
            )
        self.kind = kind
        self.weight = weight
        self._label_loss = label_loss
        self._label_term = LABEL_LOSSES[label_loss]
        self._label_shift_K = label_shift_K
        self._teacher_term = DISTILL_KINDS[kind](temperature=temperature, reduction=reduction)

    def without_teacher(self) -> DistillationLoss:
        """The same with kind "none": what is left when nobody is asked any more."""
        return DistillationLoss(
            "none", label_loss=self._label_loss, label_shift_K=self._label_shift_K
        )

    def __call__(
        self,
        output: StudentOutput,
        targets_BK: Tensor,
        teacher_logits_BK: Tensor | None,
        *,
        normalizer: float | None = None,
        labelled_rows: Tensor | None = None,
        label_normalizer: float | None = None,
    ) -> LossTerms:
        """The terms as scalars. `normalizer` is the number of images of the whole step, default B.

        Where some images have no label, `labelled_rows` are the indices of the others, which alone
        count in the label term, and `label_normalizer` is their number in the whole step.

        Raises:
            ConfigError: DISTILL when the kind needs a teacher and got none; TEACHER_CLASSES when
                its logits are of other classes.
        """

        def label_term(logits_BK: Tensor) -> Tensor:
            if self._label_shift_K is not None:
                logits_BK = at_least_float32(logits_BK) + self._label_shift_K
            if labelled_rows is None:
                return self._label_term(logits_BK, targets_BK, normalizer=normalizer)
            known = (logits_BK[labelled_rows], targets_BK[labelled_rows])
            return self._label_term(*known, normalizer=label_normalizer or max(1, len(known[0])))

        label = label_term(output.cls_logits)
        if self._teacher_term is None:
            if output.dist_logits is not None:
                label = (label + label_term(output.dist_logits)) / 2
            return LossTerms(total=label, label=label, distill=torch.zeros_like(label))
        student_BK = output.cls_logits if output.dist_logits is None else output.dist_logits
        if teacher_logits_BK is None:
            raise ConfigError(
                "DISTILL", "kind", f"{self.kind!r} needs a teacher", "give teacher= or kind none"
            )
        if teacher_logits_BK.shape != student_BK.shape:
            raise ConfigError(
                "TEACHER_CLASSES",
                "teacher",
                f"its logits are {list(teacher_logits_BK.shape)}, the student's are "
                f"{list(student_BK.shape)} (images, classes)",
                "use a teacher of the same classes",
            )
        distill = self._teacher_term(student_BK, teacher_logits_BK, normalizer=normalizer)
        total = (1.0 - self.weight) * label + self.weight * distill
        return LossTerms(total=total, label=label, distill=distill)
