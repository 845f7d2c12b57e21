"""One picture, explained: its class, and for each head the patches that speak for it."""

# Shapes: H height, W width, C channels, B images, K classes, R rows and Q columns of patches.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitkit.data.preprocess import preprocess
from deitkit.evaluation.logits import fuse
from deitkit.evaluation.metrics import softmax
from deitkit.evaluation.predictor import Predictor
from deitkit.explanation.attention_maps import HeadMap, relevance, rollout, transformer
from deitkit.explanation.faithfulness import Deletion, deletion
from deitkit.explanation.overlay import Box, seen_box
from deitkit.models import DeiT, ImageModel

TITLES = {
    ("class", "relevance"): "class token, for this class",
    ("distillation", "relevance"): "distillation token, for this class",
    ("class", "rollout"): "class token, all it read",
    ("distillation", "rollout"): "distillation token, all it read",
}


def can_explain(model: ImageModel) -> bool:
    """Whether it has tokens to look at."""
    return isinstance(model, DeiT)


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What is said of one picture, and why."""

    class_name: str
    """The class explained: the likeliest one unless another was asked for."""
    class_index: int
    probability: float
    """Of that class, both heads together."""
    box: Box
    """What of the picture the model sees, in shares of it."""
    maps: tuple[HeadMap, ...]
    """Relevance of each head, then rollout of each where asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as the server gives them."""
        return {
            "class": self.class_name,
            "probability": self.probability,
            "box": list(self.box),
            "heads": [
                {
                    "head": one.head,
                    "method": one.method,
                    "title": TITLES[one.head, one.method],
                    "grid": np.round(one.grid_RC.astype(float), 4).tolist(),
                }
                for one in self.maps
            ],
        }


class Explainer:
    """Explains what a predictor says.

    Raises:
        ModelFileError: EXPLAIN, the model is no transformer.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.model = transformer(predictor.model)

    def explain(
        self,
        picture_HWC: NDArray[np.uint8],
        *,
        class_name: str | None = None,
        with_rollout: bool = False,
    ) -> Explanation:
        """Why the picture has this class; left out, the one the model gives it.

        Raises:
            DataError: UNKNOWN_CLASS.
        """
        bundle = self.predictor.bundle
        images_1CHW = self._read(picture_HWC)
        probabilities_K = self.probabilities(images_1CHW)[0]
        chosen = (
            int(probabilities_K.argmax()) if class_name is None else bundle.class_index(class_name)
        )
        maps = relevance(self.model, images_1CHW, [chosen])[0]
        if with_rollout:
            maps = maps + rollout(self.model, images_1CHW)[0]
        height, width = picture_HWC.shape[:2]
        return Explanation(
            class_name=bundle.class_names[chosen],
            class_index=chosen,
            probability=float(probabilities_K[chosen]),
            box=seen_box(height, width, bundle.preprocessing),
            maps=tuple(maps),
        )

    def faithfulness(self, picture_HWC: NDArray[np.uint8], one: HeadMap, index: int) -> Deletion:
        """How much sooner the class `index` goes when what the map marks is deleted first."""
        image_CHW = self._read(picture_HWC)[0]
        return deletion(self.probabilities, image_CHW, one.grid_RC, index)

    @torch.no_grad()
    def probabilities(self, images_BCHW: Tensor) -> NDArray[np.floating]:
        """[B, K] of normalised images, both heads together."""
        bundle = self.predictor.bundle
        output = self.model(images_BCHW)
        dist = None if output.dist_logits is None else output.dist_logits.float().cpu().numpy()
        fused_BK = fuse(
            output.cls_logits.float().cpu().numpy(),
            dist,
            fusion=bundle.fusion,
            temperature=bundle.temperature,
            weight=bundle.fusion_weight,
        )
        return softmax(fused_BK)

    def _read(self, picture_HWC: NDArray[np.uint8]) -> Tensor:
        image_CHW = preprocess(picture_HWC, self.predictor.bundle.preprocessing)
        return torch.from_numpy(image_CHW)[None].to(self.predictor.device)
