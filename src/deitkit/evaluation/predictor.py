"""A bundle that answers: metrics on labelled images, classes of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from deitkit.artifacts.bundle import Bundle
from deitkit.data import DecodePolicy, ImageSet
from deitkit.data.preprocess import preprocess
from deitkit.evaluation.answers import answer, in_blocks_of
from deitkit.evaluation.diagnostics import Diagnostics, diagnose, token_cosines
from deitkit.evaluation.evaluation import NOBODY, Evaluation, OtherAnswers
from deitkit.evaluation.logits import EVALUATION_BATCH_SIZE, HeadLogits, collect_logits, fuse
from deitkit.evaluation.metrics import softmax, summarise
from deitkit.flow import Prediction


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

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.bundle.class_names)

    @property
    def num_params(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def threshold(self) -> float | None:
        """The highest probability below this: the model is not sure."""
        return self.bundle.threshold

    @torch.no_grad()
    def predict(
        self, pictures: Iterator[tuple[str, np.ndarray]], *, embeddings: bool = False
    ) -> Iterator[tuple[Prediction, np.ndarray | None]]:
        """One prediction for each (name, uint8 HWC picture), and its embedding [D] if asked."""
        for block in in_blocks_of(EVALUATION_BATCH_SIZE, pictures):
            yield from self._predict_block(block, embeddings)

    @torch.no_grad()
    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[N, K] float32 of pictures uint8 [H, W, C] of any sizes."""
        if not pictures:
            return np.zeros((0, len(self.class_names)), np.float32)
        fused_NK, _ = self._answer(pictures, embeddings=False)
        return softmax(fused_NK).astype(np.float32)

    def _predict_block(
        self, block: Sequence[tuple[str, np.ndarray]], embeddings: bool
    ) -> Iterator[tuple[Prediction, np.ndarray | None]]:
        fused_NK, vectors_ND = self._answer([pixels for _, pixels in block], embeddings=embeddings)
        for row, ((name, _), probabilities) in enumerate(
            zip(block, softmax(fused_NK), strict=True)
        ):
            said = answer(name, probabilities, self.class_names, self.threshold)
            yield said, None if vectors_ND is None else vectors_ND[row]

    def _answer(
        self, pictures: Sequence[np.ndarray], *, embeddings: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Fused logits [N, K], and the vectors before the head [N, D] if asked."""
        bundle = self.bundle
        images = np.stack([preprocess(pixels, bundle.preprocessing) for pixels in pictures])
        batch = torch.from_numpy(images).to(self.device)
        output = self.model(batch)
        dist = None if output.dist_logits is None else output.dist_logits.float().cpu().numpy()
        fused_NK = fuse(
            output.cls_logits.float().cpu().numpy(),
            dist,
            fusion=bundle.fusion,
            temperature=bundle.temperature,
            weight=bundle.fusion_weight,
        )
        vectors = self.model.embed(batch).float().cpu().numpy() if embeddings else None
        return fused_NK, vectors
