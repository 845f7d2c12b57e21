"""The pictures of report.html: the worst mistakes and the least sure, with what was looked at."""

# Shapes: N images, K classes, H height, W width, C channels.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from deitkit.artifacts.bundle import Bundle
    from deitkit.data import ImageSet
    from deitkit.evaluation.logits import HeadLogits
    from deitkit.explanation.explainer import Explainer

NUM_SHOWN = 8
"""Pictures of each kind."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What the best weights say of the validation images."""

    bundle: Bundle
    logits: HeadLogits
    images: ImageSet
    calibration: Mapping[str, Any] | None
    """As a bundle's provenance has it; None where the run has not ended."""

    def fused(self) -> np.ndarray:
        """[N, K] as the bundle answers."""
        bundle = self.bundle
        return self.logits.fused(bundle.fusion, bundle.temperature, bundle.fusion_weight)


def picture_groups(answers: Answers) -> list[dict[str, Any]]:
    """The worst mistakes and the least sure images, with what each head looked at."""
    import numpy as np

    from deitkit.evaluation.metrics import softmax

    probabilities_NK = softmax(answers.fused())
    labels_N = answers.images.labels
    said_N = probabilities_NK.argmax(axis=1)
    sure_N = probabilities_NK.max(axis=1)
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    wrong = np.flatnonzero(said_N != labels_N)
    worst = wrong[np.argsort(own_N[wrong] - sure_N[wrong], kind="stable")][:NUM_SHOWN]
    unsure = np.argsort(sure_N, kind="stable")
    unsure = unsure[~np.isin(unsure, worst)][:NUM_SHOWN]
    explainer = _explainer(answers.bundle)
    groups = []
    for title, words, chosen in (
        (
            "The worst mistakes",
            "Sure, and wrong by the label. Some of these labels may be the mistake.",
            worst,
        ),
        ("The least sure", "Where its best class has the lowest probability.", unsure),
    ):
        items = [_picture_facts(answers, explainer, int(i), probabilities_NK[i]) for i in chosen]
        if items:
            heads = [alt for _, alt in items[0]["images"][1:]]
            maps = f" Beside each picture {' and '.join(heads)}: lighter is more." if heads else ""
            groups.append({"title": title, "words": words + maps, "shown": items})
    return groups


def _picture_facts(
    answers: Answers, explainer: Explainer | None, index: int, probabilities_K: np.ndarray
) -> dict[str, Any]:
    from deitkit.reporting.pages import percent, picture

    images, names = answers.images, answers.bundle.class_names
    pixels_HWC = images.image(index)
    said, truth = int(probabilities_K.argmax()), int(images.labels[index])
    text = f"{names[said]} {percent(probabilities_K[said])}"
    if said != truth:
        text += f", labelled {names[truth]} ({percent(probabilities_K[truth])})"
    shown = [(picture(pixels_HWC), "the picture")]
    shown += [
        (picture(overlaid), f"what speaks for its answer in the {head} head")
        for head, overlaid in _overlays(explainer, pixels_HWC)
    ]
    return {"images": shown, "text": text, "source": images.describe(index)}


def _explainer(bundle: Bundle) -> Explainer | None:
    """None for a network without tokens."""
    import torch

    from deitkit.evaluation.predictor import Predictor
    from deitkit.explanation.explainer import Explainer, can_explain

    predictor = Predictor(bundle, device=torch.device("cpu"))
    return Explainer(predictor) if can_explain(predictor.model) else None


def _overlays(explainer: Explainer | None, pixels_HWC: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Relevance of each head over the picture."""
    from deitkit.explanation.overlay import overlay

    if explainer is None:
        return []
    factor = max(1, 160 // max(pixels_HWC.shape[:2]))
    large_HWC: np.ndarray = pixels_HWC.repeat(factor, axis=0).repeat(factor, axis=1)
    explanation = explainer.explain(pixels_HWC)
    return [
        (one.head, overlay(large_HWC, one.grid_RC, box=explanation.box)) for one in explanation.maps
    ]
