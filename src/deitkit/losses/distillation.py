"""How far the student is from its teacher."""

# Shapes: B images, K classes.

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from deitkit.losses.targets import at_least_float32, divisor

REDUCTIONS = ("batchmean", "numel")


def soft_distillation(
    student_logits_BK: Tensor,
    teacher_logits_BK: Tensor,
    *,
    temperature: float,
    reduction: str = "batchmean",
    normalizer: float | None = None,
) -> Tensor:
    """Match the teacher: tau^2 KL(softmax(Z_t / tau) || softmax(Z_s / tau)), mean over images.

    Teacher term of the soft objective, Touvron et al. 2021, arXiv:2012.12877, equation 2.
    Deviation: the authors' code divides by B * K, which weakens the term as classes grow; we follow
    the equation (B). `reduction="numel"` reproduces their code. `normalizer` replaces B.
    No gradient reaches the teacher.
    """
    assert temperature > 0
    assert reduction in REDUCTIONS
    student_BK = F.log_softmax(at_least_float32(student_logits_BK) / temperature, dim=1)
    teacher_BK = F.log_softmax(at_least_float32(teacher_logits_BK.detach()) / temperature, dim=1)
    kl = F.kl_div(student_BK, teacher_BK, reduction="sum", log_target=True)
    num_terms = divisor(student_logits_BK, normalizer)
    if reduction == "numel":
        num_terms *= student_logits_BK.shape[1]
    return kl * temperature**2 / num_terms


def standardised_distillation(
    student_logits_BK: Tensor,
    teacher_logits_BK: Tensor,
    *,
    temperature: float,
    reduction: str = "batchmean",
    normalizer: float | None = None,
) -> Tensor:
    """`soft_distillation` of z-scored logits: each image's have mean 0 and deviation 1 first.

    Only the order and proportions of the teacher's logits are asked for, not their size. Sun et al.
    2024, "Logit Standardization in Knowledge Distillation", arXiv:2403.01427, section 4. With two
    classes every z-score is +1 or -1 and says nothing but the decision, so that plain
    `soft_distillation` is used there.
    """
    if student_logits_BK.shape[1] > 2:
        student_logits_BK = _z_scores(student_logits_BK)
        teacher_logits_BK = _z_scores(teacher_logits_BK)
    return soft_distillation(
        student_logits_BK,
        teacher_logits_BK,
        temperature=temperature,
        reduction=reduction,
        normalizer=normalizer,
    )


def _z_scores(logits_BK: Tensor) -> Tensor:
    wide_BK = at_least_float32(logits_BK)
    centred_BK = wide_BK - wide_BK.mean(dim=1, keepdim=True)
    return centred_BK / centred_BK.square().mean(dim=1, keepdim=True).clamp_min(1e-12).sqrt()


def hard_distillation(
    student_logits_BK: Tensor, teacher_logits_BK: Tensor, *, normalizer: float | None = None
) -> Tensor:
    """Cross entropy with the teacher's decision argmax_k Z_t(k), not smoothed, mean over images.

    Teacher term of the hard objective, Touvron et al. 2021, arXiv:2012.12877, equation 3.
    `normalizer` replaces B as the divisor. No gradient reaches the teacher.
    """
    decisions_B = teacher_logits_BK.detach().argmax(dim=1)
    loss = F.cross_entropy(at_least_float32(student_logits_BK), decisions_B, reduction="sum")
    return loss / divisor(student_logits_BK, normalizer)
