"""The steps of a ladder as settings: whole recipes, and what each further step adds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deitkit.api.freeze import Progress, scan
from deitkit.config import RunConfig, build_config, canonical_name, flatten, with_values
from deitkit.config.recipes import read_recipe, read_rung
from deitkit.errors import ConfigError

Settings = dict[str, Any]
"""By dotted name."""

OF_THE_LADDER = ("run", "schedule")
"""Sections that no step sets: length and folder are the ladder's."""
OF_THE_DATA = (
    "data",
    "model.name",
    "views.crop",
    "views.flip",
    "optim.batch_size",
    "optim.device_batch_size",
    "distill.teacher",
)
"""Sections and settings of a whole recipe that stand for its own data and machine, not for what
it teaches: a ladder takes them from the user's data, the same for every step."""

_OF_THE_COMMAND = {
    "run.seed": "seeds=",
    "run.out": "out=",
    "schedule.strategy": "budget=",
    "run.ranks": "ranks=1",
    "distill.teacher": "teacher=",
}


def own_settings(settings: Mapping[str, Any]) -> Settings:
    """Dotted names for what the user set, checked.

    Raises:
        ConfigError: an unknown name, a wrong value, or one that the ladder sets itself.
    """
    if not isinstance(settings["data"], str | os.PathLike):
        raise ConfigError("NO_DATA", "ablate", "takes images on disk", "give a folder or a table")
    given = {
        name: str(value) if isinstance(value, os.PathLike) else value
        for name, value in settings.items()
        if value is not None
    }
    build_config(given)
    known = flatten(RunConfig())
    own = {canonical_name(name, known): value for name, value in given.items()}
    for name, instead in _OF_THE_COMMAND.items():
        if name in own:
            raise ConfigError("USAGE", name, "the ladder sets it itself", f"use {instead}")
    own["data.path"] = str(Path(own["data.path"]).expanduser())
    return own


def read_ladder(steps: str | Sequence[str], own: Mapping[str, Any]) -> dict[str, Settings]:
    """All settings of each step by its name, the user's `own` (dotted names) on top.

    Raises:
        ConfigError: STEPS, no whole recipe at the start, or a step twice; RECIPE, an unknown one;
            a setting that cannot be right.
    """
    names = [s.strip() for s in (steps.split(",") if isinstance(steps, str) else steps)]
    names = [name for name in names if name]
    if not names or names[0].startswith("+"):
        raise ConfigError(
            "STEPS",
            ",".join(names) or "steps",
            "the first step is no whole recipe",
            "begin with one, as in steps=vit_original,+augment",
        )
    folders = [folder_name(name) for name in names]
    for name, folder in zip(names, folders, strict=True):
        if folders.count(folder) > 1:
            raise ConfigError("STEPS", name, "stands there twice", "name each step once")
    ladder: dict[str, Settings] = {}
    values: Settings = {}
    for name in names:
        if name.startswith("+"):
            is_file = name.endswith((".yaml", ".yml"))
            values = {**values, **(read_recipe if is_file else read_rung)(name[1:])}
        else:
            taught = {k: v for k, v in read_recipe(name).items() if not _is_any(k, OF_THE_DATA)}
            values = {"model.init": "scratch", **taught}
        rung = {k: v for k, v in values.items() if not _is_any(k, OF_THE_LADDER)}
        rung |= own if learns_from_teacher(rung) else _without(own, "distill")
        build_config(rung)
        ladder[name] = rung
    return ladder


def learns_from_teacher(rung: Mapping[str, Any]) -> bool:
    """Whether a step's settings say how to distil."""
    return rung.get("distill.kind", "none") != "none"


def folder_name(step: str) -> str:
    """The step as part of a folder's name."""
    return Path(step.removeprefix("+")).stem


def fit_to_data(
    ladder: Mapping[str, Mapping[str, Any]],
    own: Mapping[str, Any],
    progress: Progress,
    *,
    trains_teacher: bool = False,
) -> tuple[dict[str, Settings], Settings | None]:
    """The ladder with model, image size and kind of crop of the user's data in every step, and
    the settings of its teacher, if that is to be trained: a CNN for the same images and time.

    Both are those that `fit` chooses for these images and this time. A step's own file may still
    set them.

    Raises:
        ConfigError: STEPS, one takes over a teacher's first stages, and there are none to take.
    """
    from deitkit.models import named_like
    from deitkit.runtime.device import pick_device
    from deitkit.runtime.processors import usable_cpus
    from deitkit.training.model_choices import SMALL_SIDE, choose_auto_teacher
    from deitkit.training.resolution import pooling_width
    from deitkit.training.resolve import as_pair, budget_s, resolve_from_data

    config = with_values(build_config(_without(own, "distill")), {"model.init": "scratch"})
    dataset = scan(config, own["data.path"], progress)
    device_type, num_cores = pick_device(config.run.device).type, usable_cpus()
    resolved = resolve_from_data(config, dataset, device_type=device_type, num_cores=num_cores)
    size = as_pair(resolved.get("data.image_size"))
    is_small = resolved.get("data.crop_ratio") == 1.0 and max(size) <= SMALL_SIDE
    shared = {
        "model.name": resolved.get("model.name"),
        "data.image_size": size,
        "views.crop": "padded" if is_small else "random_resized",
    }
    fitted = {}
    for name, rung in ladder.items():
        values = {**shared, **rung}
        token = learns_from_teacher(rung)
        values["model.name"] = named_like(str(values["model.name"]), distilled=token)
        if values.get("model.init_stem") == "teacher":
            _check_takes_stages(name, values)
        fitted[name] = values
    if not trains_teacher:
        return fitted, None
    teacher = choose_auto_teacher(
        size,
        num_images=len(dataset.train),
        budget_s=budget_s(config),
        device_type=device_type,
        num_cores=num_cores,
        stem_width=pooling_width(resolved.config),
    )
    kept = {k: v for k, v in own.items() if k.partition(".")[0] in ("data", "run", "schedule")}
    about = {"data.image_size": size, "model.name": teacher.value, "model.init": "scratch"}
    return fitted, {**kept, **about}


def _check_takes_stages(step: str, rung: Mapping[str, Any]) -> None:
    """Refuse a step that would change nothing, before the runs that come first."""
    from deitkit.training.resolution import pooling_width

    if not learns_from_teacher(rung):
        found, instead = "has no teacher to take stages from", "put +teacher before it"
    elif pooling_width(build_config(rung)) is None:
        found = f"{rung['model.name']} has no pooling stages that could begin as a teacher's"
        instead = "leave the step out, or choose model= with _quick or _hybrid in its name"
    else:
        return
    raise ConfigError("STEPS", step, found, instead)


def _is_any(name: str, kinds: Sequence[str]) -> bool:
    return name in kinds or name.partition(".")[0] in kinds


def _without(settings: Mapping[str, Any], section: str) -> Settings:
    return {k: v for k, v in settings.items() if not k.startswith(section + ".")}
