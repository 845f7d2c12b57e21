"""deitkit ablate"""

from __future__ import annotations

import json as json_module

from deitkit.cli.tokens import read_pairs

LADDER = "vit_original,+hyperparameters,+augment,+regularise,+teacher"


def ablate(
    *settings: str,
    data: str,
    steps: str = LADDER,
    seeds: int = 3,
    epochs: str | None = None,
    budget: str | None = None,
    teacher: str | None = None,
    model: str | None = None,
    image_size: str | None = None,
    out: str = "runs/ablation",
    json: bool = False,
) -> int:
    """Train recipes that build on each other, for the same time, and show what each step brings.

    deitkit ablate data=photos/ budget=5m
    deitkit ablate data=photos/ steps=deit_tiny,+teacher teacher=runs/t seeds=5 epochs=30
    deitkit ablate data=photos/ steps=deit_tiny,+teacher,+stem,auto

    +teacher are its decisions alone; +stem lets the student's first stages begin as the teacher's
    (models with _quick or _hybrid in the name); auto is what train does by itself.

    The same command again goes on where it stopped. Every step of every seed is an ordinary run,
    in out/STEP-seedK.

    Parameters
    ----------
    settings
        Any setting of train as section.field=value; it holds for every step.
    data
        Images, as for train. Accuracy is on their test split, else on the validation images.
    steps
        Recipes with commas between, the first one whole; +NAME adds to the step before. A step may
        be a YAML file of your own.
    seeds
        Runs of each step; 3 or more make differences comparable.
    epochs
        Passes over the training images, for each run.
    budget
        Time of each run, such as 5m, which is also what it is without epochs.
    teacher
        Run folder of a teacher; left out, one is trained first if a step needs it.
    model
        The student; steps with a teacher take its distilled variant. Chosen as train does, for
        these images and this time.
    image_size
        Pixels a side the student sees.
    out
        Folder for the runs, ablation.json and ablation.svg.
    json
        Print everything as JSON.
    """
    from deitkit.api.ablate import ablate as climb
    from deitkit.reporting.ablation import print_ablation
    from deitkit.reporting.console import TrainingConsole, make_console

    console = TrainingConsole()

    def begin(name: str, number: int, total: int) -> None:
        console.close()
        console.console.print(f"[{number}/{total}] {name}", style="bold")

    try:
        done = climb(
            data=data,
            steps=steps,
            seeds=seeds,
            epochs=epochs,
            budget=budget,
            teacher=teacher,
            model=model,
            image_size=image_size,
            out=out,
            on_run=begin,
            on_event=console.show,
            progress=console.progress,
            **read_pairs(settings),
        )
    finally:
        console.close()
    if json:
        print(json_module.dumps(done.to_dict(), indent=1))
        return 0
    shown = make_console()
    print_ablation(shown, done.to_dict())
    shown.print(f"chart: {done.folder / 'ablation.svg'}")
    return 0
