"""The end of a run: calibration, teacher and student side by side, result.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deitkit.api.forecasting import spent_facts
from deitkit.api.request import BEST_FOLDER, FORECAST_FILE, RESULT_FILE, Request
from deitkit.api.teaching import teacher_label
from deitkit.config import settled
from deitkit.runtime.durable import write_json
from deitkit.training.events import Finished

if TYPE_CHECKING:
    from deitkit.api.beginning import Begun
    from deitkit.api.calibrating import Calibrated
    from deitkit.api.folds_judged import Judged
    from deitkit.data import ImageSet
    from deitkit.training.spending import Spending


def conclude(
    request: Request,
    begun: Begun,
    event: Finished,
    spending: Spending,
    *,
    earlier_s: float,
    judged: Judged | None = None,
) -> Finished:
    """Write what the run took beside what was forecast, and result.json, the last file of a run.

    `earlier_s` are the seconds of training before this command. Of a run on all images that was
    `judged` by its folds, their answers are calibrated on and shown.
    """
    from deitkit.evaluation.metrics import wilson_interval
    from deitkit.models import model_cost
    from deitkit.training.spending import CONCLUSION

    assembly = begun.assembly
    num_params, macs = model_cost(assembly.state.model)
    best = dict(event.best)
    images = begun.dataset.val if judged is None else begun.dataset.train
    calibrated = _calibrate(request, begun, best, images, judged)
    num_val = len(images)
    low, high = wilson_interval(round(best["top1"] * num_val), num_val)
    result = {
        "best": best,
        "steps": event.step,
        "planned_steps": settled(request.config.schedule.steps),
        "epochs": round(event.step / assembly.steps.steps_per_epoch, 3),
        "seconds": round(event.seconds, 2),
        "command_seconds": round(spending.elapsed_s() + earlier_s, 2),
        "model": request.config.model.name,
        "parameters": num_params,
        "macs": macs,
        "num_train": len(assembly.dataset.train),
        "num_val": num_val,
        "val_top1": best["top1"],
        "val_top1_interval": [low, high],
        "classes": list(assembly.dataset.class_names),
    }
    if judged is not None:
        result["folds"] = judged.found
    if assembly.world.is_main:
        result["calibration"] = calibrated.to_dict()
        if begun.ready is not None and judged is None:
            result["teacher"] = _compared(request, begun, calibrated)
        if request.config.run.report:
            from deitkit.api.reporting import report_calibrated

            report_calibrated(request.folder, calibrated, images, result)
        if not request.resumes:
            # A run that was interrupted took what several commands took.
            spending.mark(CONCLUSION)
            beside = {"forecast": request.forecast, "spent": spent_facts(spending)}
            write_json(request.folder / FORECAST_FILE, beside)
        write_json(request.folder / RESULT_FILE, result)
    assembly.world.barrier()
    return Finished(step=event.step, seconds=event.seconds, best=best, result=result)


def _calibrate(
    request: Request,
    begun: Begun,
    best: dict[str, Any],
    images: ImageSet,
    judged: Judged | None,
) -> Calibrated:
    """Finish the best bundle; `best` gets the scores it now has, or those of its folds."""
    from deitkit.api.calibrating import calibrate_bundle
    from deitkit.evaluation.metrics import summarise

    calibrated = calibrate_bundle(
        request.folder / BEST_FOLDER,
        images,
        world=begun.assembly.world,
        fits_fusion=request.config.distill.fusion == "fitted",
        answers=None if judged is None else judged.logits,
    )
    metrics = summarise(calibrated.fused(), images.labels, begun.dataset.class_names)
    best |= {"top1": metrics.top1, "nll": metrics.nll, "ece": metrics.ece}
    if calibrated.fusion is not None:
        best["fusion"] = calibrated.fusion.to_dict()
    return calibrated


def _compared(request: Request, begun: Begun, calibrated: Calibrated) -> dict[str, Any]:
    """Teacher and student side by side, `Comparison.to_dict()`."""
    from deitkit.api.teacher_report import compare_with_student
    from deitkit.runtime.device import precision_for
    from deitkit.teachers.teacher_check import check_teacher

    assert begun.ready is not None
    logits_NK = calibrated.fused(calibrated.logits.at(begun.ready.val_indices))
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
