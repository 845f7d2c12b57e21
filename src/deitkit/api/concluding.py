"""The end of a run: the heads' fusion, teacher and student side by side, result.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deitkit.api.request import BEST_FOLDER, RESULT_FILE, Request
from deitkit.api.teaching import teacher_label
from deitkit.runtime.durable import write_json
from deitkit.training.events import Finished

if TYPE_CHECKING:
    import numpy as np

    from deitkit.api.beginning import Begun


def conclude(request: Request, begun: Begun, event: Finished, elapsed_s: float) -> Finished:
    """Write result.json, the last file of a run."""
    from deitkit.evaluation.metrics import wilson_interval
    from deitkit.models import model_cost

    assembly = begun.assembly
    num_params, macs = model_cost(assembly.state.model)
    best = dict(event.best)
    if assembly.world.is_main and request.config.distill.fusion == "fitted":
        _fit_fusion(request, begun, best)
    num_val = len(assembly.dataset.val)
    low, high = wilson_interval(round(best["top1"] * num_val), num_val)
    result = {
        "best": best,
        "steps": event.step,
        "seconds": round(event.seconds, 2),
        "command_seconds": round(elapsed_s, 2),
        "model": request.config.model.name,
        "parameters": num_params,
        "macs": macs,
        "num_train": len(assembly.dataset.train),
        "num_val": num_val,
        "val_top1": best["top1"],
        "val_top1_interval": [low, high],
        "classes": list(assembly.dataset.class_names),
    }
    if assembly.world.is_main:
        if begun.ready is not None:
            result["teacher"] = _compared(request, begun)
        write_json(request.folder / RESULT_FILE, result)
    assembly.world.barrier()
    return Finished(step=event.step, seconds=event.seconds, best=best, result=result)


def _fit_fusion(request: Request, begun: Begun, best: dict[str, Any]) -> None:
    """One weight between the heads of the best bundle, and its scores, which it was chosen by."""
    from deitkit.api.fusing import fit_run_fusion
    from deitkit.evaluation.metrics import summarise

    val, device = begun.dataset.val, begun.assembly.world.device
    fitted = fit_run_fusion(request.folder / BEST_FOLDER, val, device=device)
    if fitted is None:
        return
    logits_NK, labels_N = _student_says(request, begun, None)
    metrics = summarise(logits_NK, labels_N, begun.dataset.class_names)
    best |= {"top1": metrics.top1, "nll": metrics.nll, "ece": metrics.ece}
    best["fusion"] = fitted.to_dict()


def _compared(request: Request, begun: Begun) -> dict[str, Any]:
    """Teacher and student side by side, `Comparison.to_dict()`."""
    from deitkit.api.teacher_report import compare_with_student
    from deitkit.runtime.device import precision_for
    from deitkit.teachers.teacher_check import check_teacher

    assert begun.ready is not None
    logits_NK, _ = _student_says(request, begun, begun.ready.val_indices)
    comparison = compare_with_student(
        begun.ready,
        teacher_name=teacher_label(request.config, begun.ready.classifier.name),
        student=begun.assembly.state.model,
        student_name=request.config.model.name,
        student_spec=begun.assembly.spec,
        student_NK=logits_NK,
        val=begun.dataset.val,
        device=begun.assembly.world.device,
        autocast_dtype=precision_for(begun.assembly.world.device),
    )
    found = comparison.to_dict()
    if found["advice"] is None:
        # Where the student knows more than its teacher, that is said too.
        share = comparison.gain.share
        found["advice"] = check_teacher(
            comparison.teacher.name,
            num_correct=comparison.gain.other.num_right,
            num_images=comparison.gain.other.num_images,
            num_classes=len(begun.dataset.class_names),
            student_accuracy=share.value,
        ).warning
    return found


def _student_says(
    request: Request, begun: Begun, indices: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Fused logits of the best bundle for validation images (None: all), and their labels."""
    from deitkit.artifacts.bundle import load_bundle
    from deitkit.evaluation.logits import collect_logits

    bundle, device = load_bundle(request.folder / BEST_FOLDER), begun.assembly.world.device
    val = begun.dataset.val
    images = val if indices is None else val.subset(indices, val.name)
    model = bundle.build_model().to(device)
    logits = collect_logits(model, images, bundle.preprocessing, device=device)
    assert logits is not None, "nothing asked it to stop"
    fused_NK = logits.fused(bundle.fusion, bundle.temperature, bundle.fusion_weight)
    return fused_NK, images.labels
