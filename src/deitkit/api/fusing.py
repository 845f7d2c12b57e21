"""The weight between a bundle's two heads, found on validation images and kept in the bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from deitkit.data import ImageSet
    from deitkit.evaluation.fusion import FittedFusion


def fit_run_fusion(
    bundle_folder: Path, images: ImageSet, *, device: torch.device
) -> FittedFusion | None:
    """Fit the fusion of the bundle's heads on labelled images and write the bundle anew.

    What was found is in its provenance, under "fusion". None for a model with one head, whose
    bundle stays as it is.

    Raises:
        DataError, ModelFileError: as `fit_fusion`; the bundle is damaged.
        ResourceError: the disk refused; the bundle is then the one it was.
    """
    from deitkit.artifacts.bundle import load_bundle, save_bundle
    from deitkit.evaluation.fusion import fit_fusion
    from deitkit.evaluation.logits import collect_logits

    bundle = load_bundle(bundle_folder)
    logits = collect_logits(
        bundle.build_model().to(device), images, bundle.preprocessing, device=device
    )
    assert logits is not None, "nothing asked it to stop"
    if logits.dist_NK is None:
        return None
    fitted = fit_fusion(
        logits.cls_NK, logits.dist_NK, images.labels, temperature=bundle.temperature
    )
    provenance = {**bundle.provenance, "fusion": fitted.to_dict()}
    save_bundle(
        bundle_folder,
        replace(bundle, fusion="fitted", fusion_weight=fitted.weight, provenance=provenance),
    )
    return fitted
