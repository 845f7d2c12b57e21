"""What is fitted on validation images when a run ends, and kept in its best bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from deitkit.artifacts.bundle import Bundle
    from deitkit.data import ImageSet
    from deitkit.evaluation.calibration import FittedTemperature, FittedThreshold
    from deitkit.evaluation.fusion import FittedFusion
    from deitkit.evaluation.logits import HeadLogits
    from deitkit.runtime.world import World


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated:
    """What was fitted, and what the best weights say of the validation images."""

    bundle: Bundle
    """As it is on disk now."""
    logits: HeadLogits
    fusion: FittedFusion | None
    """None unless asked for, and for a model with one head."""
    temperature: FittedTemperature
    threshold: FittedThreshold

    def fused(self, logits: HeadLogits | None = None) -> np.ndarray:
        """[N, K] as the bundle fuses: of all validation images, or of these."""
        bundle = self.bundle
        chosen = self.logits if logits is None else logits
        return chosen.fused(bundle.fusion, bundle.temperature, bundle.fusion_weight)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "temperature": self.temperature.to_dict(),
            "threshold": self.threshold.to_dict(),
        }


def calibrate_bundle(
    folder: Path,
    images: ImageSet,
    *,
    world: World,
    fits_fusion: bool,
    answers: HeadLogits | None = None,
) -> Calibrated:
    """Fit temperature and threshold, and if asked the fusion of the heads, and write the bundle.

    `answers` are what others like it said of the images, where it was trained on them itself; None
    asks the bundle.

    All from the weights alone: a second time it finds the same, and leaves the files alone. What
    was found is in the bundle's provenance. The ranks look at the images together, the main one
    writes.

    Raises:
        DataError, ModelFileError: an image cannot be read, the bundle is damaged, logits are not
            finite.
        ResourceError: the disk refused; the bundle is then the one it was.
    """
    from deitkit.artifacts.bundle import load_bundle, save_bundle
    from deitkit.evaluation.calibration import fit_temperature, fit_threshold
    from deitkit.evaluation.fusion import fit_fusion
    from deitkit.evaluation.metrics import softmax
    from deitkit.training.scoring import ask_together

    # The main rank may still be writing it.
    world.barrier()
    found = bundle = load_bundle(folder)
    logits = answers
    if logits is None:
        model = bundle.build_model().to(world.device)
        logits = ask_together(model, images, bundle.preprocessing, world)
        assert logits is not None, "nothing asked it to stop"
    labels_N = images.labels
    fusion, provenance = None, dict(bundle.provenance)
    if fits_fusion and logits.dist_NK is not None:
        fusion = fit_fusion(logits.cls_NK, logits.dist_NK, labels_N)
        provenance["fusion"] = fusion.to_dict()
        bundle = replace(bundle, fusion="fitted", fusion_weight=fusion.weight)
    kind, weight = bundle.fusion, bundle.fusion_weight
    temperature = fit_temperature(lambda t: logits.fused(kind, t, weight), labels_N)
    fused_NK = logits.fused(kind, temperature.temperature, weight)
    threshold = fit_threshold(softmax(fused_NK), labels_N)
    provenance["calibration"] = {
        "temperature": temperature.to_dict(),
        "threshold": threshold.to_dict(),
    }
    bundle = replace(
        bundle,
        temperature=temperature.temperature,
        threshold=threshold.threshold,
        provenance=provenance,
    )
    if world.is_main and _fitted(bundle) != _fitted(found):
        save_bundle(folder, bundle)
    return Calibrated(
        bundle=bundle,
        logits=logits,
        fusion=fusion,
        temperature=temperature,
        threshold=threshold,
    )


def _fitted(bundle: Bundle) -> tuple[Any, ...]:
    return (
        bundle.fusion,
        bundle.fusion_weight,
        bundle.temperature,
        bundle.threshold,
        bundle.provenance,
    )
