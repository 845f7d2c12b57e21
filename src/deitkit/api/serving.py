"""A run, a bundle or an exported file behind HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.run import Run, open_run

if TYPE_CHECKING:
    from deitkit.evaluation.onnx_predictor import OnnxPredictor
    from deitkit.evaluation.predictor import Predictor
    from deitkit.serving.app import Explain

SHOWN_ORIGIN = ("lineage", "steps", "start", "validation", "fusion", "calibration")
"""Of a bundle's provenance: what names no path of this machine (FAULTS S30)."""
PACKAGES = ("fastapi", "uvicorn", "python_multipart")


def serve_run(
    run: Run | str | Path,
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    allow_hosts: Sequence[str] = (),
    on_listening: Callable[[str, str], None] = lambda name, address: None,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Answer over HTTP until SIGTERM or Ctrl-C; port 0 takes a free one.

    `on_listening` hears the model's name and the address, `log` one line a request. `allow_hosts`
    are further values of the header Host that are answered, such as the name behind a proxy.

    Raises:
        ConfigError: MISSING_PACKAGE; NO_RUN.
        ModelFileError: the model cannot be opened.
        ResourceError: PORT.
    """
    from deitkit.runtime.optional import optional_package

    for package in PACKAGES:
        optional_package(package, extra="serve", subject="serve")
    from deitkit.serving.app import Service, build_app
    from deitkit.serving.guard import Limits
    from deitkit.serving.server import bind, host_names, serve

    listener = bind(host, port)
    with listener:
        opened = run if isinstance(run, Run) else open_run(run)
        predictor = opened.predictor
        explain = _explainer(predictor)
        service = Service(predictor, model_card(opened), explain)
        bound = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        on_listening(str(service.card["name"]), f"http://{shown}:{bound}")
        hosts = host_names(host, bound, tuple(allow_hosts))
        serve(
            build_app(service),
            listener,
            hosts=hosts,
            limits=Limits(),
            meter=service.meter,
            log=log,
            on_stop=service.stop,
        )


def model_card(run: Run) -> dict[str, Any]:
    """What people may know of a model, as /v1/model gives it."""
    import deitkit
    from deitkit.evaluation.onnx_predictor import OnnxPredictor

    predictor = run.predictor
    if isinstance(predictor, OnnxPredictor):
        facts = predictor.metadata
        name, num_params, size = predictor.name, predictor.num_params, predictor.image_size
        provenance, metrics = facts.get("provenance"), facts.get("metrics")
    else:
        bundle = predictor.bundle
        name = str(bundle.model_config["name"])
        num_params = predictor.num_params
        size = bundle.preprocessing.image_size
        provenance, metrics = bundle.provenance, bundle.metrics
    known = provenance if isinstance(provenance, Mapping) else {}
    return {
        "name": name,
        "classes": list(predictor.class_names),
        "image_size": list(size),
        "parameters": num_params,
        "metrics": metrics,
        "provenance": {key: known[key] for key in SHOWN_ORIGIN if key in known},
        "explains": _explainer(predictor) is not None,
        "threshold": predictor.threshold,
        "deitkit": deitkit.__version__,
    }


def _explainer(predictor: Predictor | OnnxPredictor) -> Explain | None:
    """What answers /v1/explain; None for models that have no tokens to look at."""
    from deitkit.evaluation.onnx_predictor import OnnxPredictor

    if isinstance(predictor, OnnxPredictor):
        return None
    from deitkit.explanation.explainer import Explainer, can_explain

    if not can_explain(predictor.model):
        return None
    explainer = Explainer(predictor)
    return lambda picture_HWC: explainer.explain(picture_HWC).to_dict()
