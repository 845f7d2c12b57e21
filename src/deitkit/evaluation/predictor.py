"""A bundle that answers: metrics on labelled images, classes of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deitkit.artifacts.bundle import Bundle
from deitkit.data import DecodePolicy, ImageSet
from deitkit.data.preprocess import preprocess
from deitkit.evaluation.diagnostics import Diagnostics, diagnose, token_cosines
from deitkit.evaluation.logits import EVALUATION_BATCH_SIZE, HeadLogits, collect_logits, fuse
from deitkit.evaluation.metrics import Metrics, softmax, summarise
from deitkit.flow import Prediction


@dataclass(frozen=True, kw_only=True, eq=False)
class OtherAnswers:
    """What others say of the images of an evaluation, in its order of images and classes."""

    teacher_NK: np.ndarray | None = None
    """The teacher's logits."""
    decisions_N: np.ndarray | None = None
    """The classes that another run chose."""
    said: tuple[str, ...] = ()
    """Who they are, a sentence each."""


NOBODY = OtherAnswers()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of the fused heads, and of each alone."""

    source: str
    fusion: str
    heads: dict[str, Metrics]
    """"fused", and for a model with the distillation token also "cls" and "dist"."""
    diagnostics: Diagnostics | None = None
    """Of a model with the distillation token, and where others were asked."""
    asked: tuple[str, ...] = ()
    """Which others, a sentence each."""

    @property
    def fused(self) -> Metrics:
        return self.heads["fused"]

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is theirs, 0 to 1."""
        return self.fused.top1

    def to_dict(self) -> dict[str, Any]:
        heads = {name: metrics.to_dict() for name, metrics in self.heads.items()}
        return {
            "data": self.source,
            "fusion": self.fusion,
            "heads": heads,
            "asked": list(self.asked),
            "diagnostics": None if self.diagnostics is None else self.diagnostics.to_dict(),
        }


class Predictor:
    """A bundle's model on a device."""

    def __init__(self, bundle: Bundle, *, device: torch.device) -> None:
        self.bundle = bundle
        self.device = device
        self.model = bundle.build_model().to(device)
        self.decode_policy = DecodePolicy(
            channels=bundle.preprocessing.channels, background=bundle.preprocessing.background
        )

    def evaluate(
        self,
        images: ImageSet,
        *,
        source: str,
        others: OtherAnswers = NOBODY,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """Metrics on `images`, whose class indices are the bundle's (matched by name)."""
        bundle = self.bundle
        logits = self._logits(images, progress)
        kinds = {"fused": bundle.fusion}
        if logits.dist_NK is not None:
            kinds |= {"cls": "cls", "dist": "dist"}
        heads = {
            name: summarise(
                logits.fused(kind, bundle.temperature, bundle.fusion_weight),
                images.labels,
                bundle.class_names,
            )
            for name, kind in kinds.items()
        }
        return Evaluation(
            source=source,
            fusion=bundle.fusion,
            heads=heads,
            diagnostics=self._diagnose(logits, images, others),
            asked=others.said,
        )

    def fused_logits(
        self,
        images: ImageSet,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:
        """[N, K] as the heads answer together, in the bundle's order of classes."""
        bundle = self.bundle
        return self._logits(images, progress).fused(
            bundle.fusion, bundle.temperature, bundle.fusion_weight
        )

    def _logits(self, images: ImageSet, progress: Callable[[int, int], None]) -> HeadLogits:
        logits = collect_logits(
            self.model, images, self.bundle.preprocessing, device=self.device, progress=progress
        )
        assert logits is not None, "nothing asked this evaluation to stop"
        return logits

    def _diagnose(
        self, logits: HeadLogits, images: ImageSet, others: OtherAnswers
    ) -> Diagnostics | None:
        bundle = self.bundle
        tokens = token_cosines(self.model, images, bundle.preprocessing, device=self.device)
        if tokens is None and others.teacher_NK is None and others.decisions_N is None:
            return None
        return diagnose(
            logits,
            others.teacher_NK,
            images.labels,
            bundle.class_names,
            fusion=bundle.fusion,
            temperature=bundle.temperature,
            weight=bundle.fusion_weight,
            tokens=tokens,
            other_decisions_N=others.decisions_N,
        )

    @torch.no_grad()
    def predict(
        self, pictures: Iterator[tuple[str, np.ndarray]], *, embeddings: bool = False
    ) -> Iterator[tuple[Prediction, np.ndarray | None]]:
        """One prediction for each (name, uint8 HWC picture), and its embedding [D] if asked."""
        block: list[tuple[str, np.ndarray]] = []
        for picture in pictures:
            block.append(picture)
            if len(block) == EVALUATION_BATCH_SIZE:
                yield from self._predict_block(block, embeddings)
                block = []
        if block:
            yield from self._predict_block(block, embeddings)

    def _predict_block(
        self, block: Sequence[tuple[str, np.ndarray]], embeddings: bool
    ) -> Iterator[tuple[Prediction, np.ndarray | None]]:
        bundle = self.bundle
        images = np.stack([preprocess(pixels, bundle.preprocessing) for _, pixels in block])
        batch = torch.from_numpy(images).to(self.device)
        output = self.model(batch)
        dist = None if output.dist_logits is None else output.dist_logits.float().cpu().numpy()
        fused = fuse(
            output.cls_logits.float().cpu().numpy(),
            dist,
            fusion=bundle.fusion,
            temperature=bundle.temperature,
            weight=bundle.fusion_weight,
        )
        vectors = self.model.embed(batch).float().cpu().numpy() if embeddings else None
        for row, (name, probabilities) in enumerate(
            zip((name for name, _ in block), softmax(fused), strict=True)
        ):
            best = int(probabilities.argmax())
            prediction = Prediction(
                source=name,
                class_name=bundle.class_names[best],
                probability=float(probabilities[best]),
                probabilities=probabilities.astype(np.float32),
            )
            yield prediction, None if vectors is None else vectors[row]
