"""deitkit bench"""

from __future__ import annotations

import json as json_module


def bench(
    model: str,
    *,
    batch: str = "1,16,64",
    seconds: float = 3.0,
    compiled: bool = False,
    picture: int | None = None,
    json: bool = False,
) -> int:
    """Time a model on this machine: torch, ONNX and int8; throughput, median and 95th percentile.

    deitkit bench deit_tiny_patch16_224
    deitkit bench runs/flowers batch=1,8 seconds=10

    From decoded pictures to probabilities, all threads. The ways take turns, so that other work on
    the machine meets all of them alike.

    Parameters
    ----------
    model
        A run folder, a bundle, or the name of a model (`deitkit models`).
    batch
        Pictures at a time, with commas between.
    seconds
        Spent on each way and batch size.
    compiled
        Also torch.compile, which takes a minute and more for each batch size.
    picture
        Pixels a side of the pictures; the model's own where left out, so that nothing is resized.
    json
        Print everything as JSON.
    """
    from deitkit.api.benching import bench as bench_model
    from deitkit.errors import ConfigError
    from deitkit.reporting.bench_table import print_bench
    from deitkit.reporting.console import TrainingConsole, make_console

    try:
        sizes = [int(size) for size in batch.split(",")]
    except ValueError as error:
        raise ConfigError("BAD_VALUE", f"batch={batch}", "is no list", "give 1,16,64") from error
    console = TrainingConsole()
    try:
        found = bench_model(
            model,
            batch_sizes=sizes,
            seconds=seconds,
            compiled=compiled,
            picture_size=None if picture is None else (picture, picture),
            progress=console.progress,
        )
    finally:
        console.close()
    if json:
        print(json_module.dumps(found.to_dict(), indent=1))
    else:
        print_bench(make_console(stderr=False), found.to_dict())
    return 0
