"""What people may know of a model: on the page that classifies, and from /v1/model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deitkit.evaluation.onnx_predictor import OnnxPredictor
    from deitkit.evaluation.predictor import Predictor

SHOWN_ORIGIN = ("lineage", "steps", "start", "validation", "fusion", "calibration")
"""Of a bundle's provenance: what names no path of this machine (FAULTS S30)."""


def model_card(predictor: Predictor | OnnxPredictor, *, explains: bool) -> dict[str, Any]:
    """Name, classes, size, metrics and origin in plain JSON values."""
    import deitkit
    from deitkit.evaluation.onnx_predictor import OnnxPredictor

    if isinstance(predictor, OnnxPredictor):
        facts = predictor.metadata
        name, size = predictor.name, predictor.image_size
        provenance, metrics = facts.get("provenance"), facts.get("metrics")
    else:
        bundle = predictor.bundle
        name, size = str(bundle.model_config["name"]), bundle.preprocessing.image_size
        provenance, metrics = bundle.provenance, bundle.metrics
    known = provenance if isinstance(provenance, Mapping) else {}
    return {
        "name": name,
        "classes": list(predictor.class_names),
        "image_size": list(size),
        "parameters": predictor.num_params,
        "metrics": metrics,
        "provenance": {key: known[key] for key in SHOWN_ORIGIN if key in known},
        "explains": explains,
        "threshold": predictor.threshold,
        "deitkit": deitkit.__version__,
    }
