"""deitkit summary, models, settings, verify-resume"""

from __future__ import annotations

import json as json_module
from pathlib import Path


def summary(model: str, *, num_classes: int = 1000, image_size: int | None = None) -> int:
    """Show a model's layers, parameters and honest cost per image.

    deitkit summary deit_tutorial_depth3_patch16_224

    Parameters
    ----------
    model
        A model's name, or a run folder.
    num_classes
        Classes of the head.
    image_size
        Pixels a side; the name's own where left out.
    """
    from deitkit.models import create_model, summary_table

    if Path(model).expanduser().is_dir():
        from deitkit.artifacts.bundle import load_bundle

        built = load_bundle(Path(model).expanduser()).build_model()
    else:
        built = create_model(model, num_classes=num_classes, image_size=image_size)
    print(summary_table(built))
    return 0


def models() -> int:
    """List the names of models; deit_{size}[_conv|_quick|_hybrid][_distilled]_patch{P}_{S} works
    too."""
    from deitkit.models import list_models

    print("\n".join(list_models()))
    return 0


def settings(section: str | None = None) -> int:
    """Explain every setting of train, with its default.

    deitkit settings distill

    Parameters
    ----------
    section
        Only this one: data, model, views, distill, optim, schedule, ema or run.
    """
    from deitkit.config.help import section_help, settings_help
    from deitkit.errors import ConfigError

    explained = list(settings_help().values())
    sections = list(dict.fromkeys(item.name.partition(".")[0] for item in explained))
    if section is not None and section not in sections:
        raise ConfigError("SECTION", section, "no such section", f"use {', '.join(sections)}")
    for name in sections:
        if section not in (None, name):
            continue
        print(f"{name}: {section_help(name)}")
        for item in explained:
            if item.name.partition(".")[0] == name:
                default = "none" if item.default is None else item.default
                print(f"  {item.name}={default}\n      {item.text}")
        print()
    return 0


def verify_resume(run: str, *, steps: int = 8, json: bool = False) -> int:
    """Prove that this run, interrupted, ends with the same bits: two short trainings compared.

    Parameters
    ----------
    run
        A run folder; it is not changed.
    steps
        Steps of each training; the second is interrupted half-way and rebuilt from disk.
    json
        Print the comparison as JSON.
    """
    from deitkit import api
    from deitkit.reporting.console import TrainingConsole

    console = TrainingConsole()
    try:
        proof = api.verify_resume(run, steps=steps, progress=console.progress)
    finally:
        console.close()
    if json:
        print(
            json_module.dumps(
                {
                    "identical": proof.holds,
                    "steps": proof.num_steps,
                    "interrupted_after": proof.interrupted_after,
                    "first_difference": proof.first_difference,
                    "digests": [proof.uninterrupted_digest, proof.resumed_digest],
                }
            )
        )
        return 0 if proof.holds else 4
    print("step  loss, uninterrupted     loss, resumed           ")
    for one, other in zip(proof.uninterrupted, proof.resumed, strict=True):
        mark = "same" if one == other else "DIFFERENT"
        print(f"{one.step:4}  {one.loss:22}  {other.loss:22}  {mark}")
    said = "identical in every bit" if proof.holds else "DIFFERENT"
    print(
        f"interrupted after step {proof.interrupted_after}; weights, average and optimizer after "
        f"step {proof.num_steps}: {said}"
    )
    return 0 if proof.holds else 4
