"""A run, a bundle or an exported file behind HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deitkit.api.model_card import model_card
from deitkit.api.run import Run, open_run

if TYPE_CHECKING:
    from deitkit.evaluation.onnx_predictor import OnnxPredictor
    from deitkit.evaluation.predictor import Predictor
    from deitkit.serving.service import Explain

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
    from deitkit.serving.memory import share_memory

    share_memory()
    for package in PACKAGES:
        optional_package(package, extra="serve", subject="serve")
    from deitkit.serving.app import build_app
    from deitkit.serving.exchange import Limits
    from deitkit.serving.server import bind, host_names, serve
    from deitkit.serving.service import Service

    listener = bind(host, port)
    with listener:
        opened = run if isinstance(run, Run) else open_run(run)
        predictor = opened.predictor
        explain = _explainer(predictor)
        card = model_card(predictor, explains=explain is not None)
        service = Service(predictor, card, explain)
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
