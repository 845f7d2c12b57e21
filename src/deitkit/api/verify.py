"""Proof on the user's own run that an interrupted training ends with the same bits."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress, scan
from deitkit.api.image_sources import open_run_sources
from deitkit.api.request import CONFIG_FILE
from deitkit.config import AUTO, RunConfig, build_config, read_config_file, with_values
from deitkit.data import check_source
from deitkit.errors import CheckpointError, ConfigError
from deitkit.runtime.threads import calm_process

if TYPE_CHECKING:
    from deitkit.training.assemble import Assembly

SHORT_STEPS = 8


@dataclass(frozen=True)
class StepRecord:
    """One step, in numbers that show a difference in the last bit."""

    step: int
    loss: str
    lr: str
    sample_ids: str


@dataclass(frozen=True, kw_only=True)
class ResumeProof:
    """Two short trainings of one run, one of them interrupted and rebuilt from disk."""

    num_steps: int
    interrupted_after: int
    uninterrupted: tuple[StepRecord, ...]
    resumed: tuple[StepRecord, ...]
    uninterrupted_digest: str
    """sha256 over weights, average, optimizer and counters after the last step."""
    resumed_digest: str

    @property
    def first_difference(self) -> int | None:
        """The first step whose record differs."""
        for one, other in zip(self.uninterrupted, self.resumed, strict=True):
            if one != other:
                return one.step
        return None

    @property
    def holds(self) -> bool:
        return self.first_difference is None and self.uninterrupted_digest == self.resumed_digest


def verify_resume(
    folder: str | Path, *, steps: int = SHORT_STEPS, progress: Progress = no_progress
) -> ResumeProof:
    """Train the run's first `steps` steps twice, once interrupted half-way, and compare.

    The run itself is not touched; the second training goes through a checkpoint in a temporary
    folder, with everything but that folder built anew.

    Raises:
        CheckpointError: NO_RUN, the folder holds no config.yaml.
        ConfigError: fewer than two steps were asked for.
    """
    if steps < 2:
        raise ConfigError("BAD_VALUE", "steps", f"got {steps}", "give 2 or more")
    path = Path(folder).expanduser() / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            "NO_RUN", folder, f"holds no {CONFIG_FILE}", "name the run folder of a training"
        )
    values, _ = read_config_file(path)
    config = build_config(values)
    if config.schedule.steps == AUTO:
        raise CheckpointError(
            "NO_STEPS",
            folder,
            "nothing was trained in it but a head",
            "name a run that was trained",
        )
    check_source(str(config.data.path))
    dataset = scan(config, config.data.path, progress)
    calm_process()
    arm = _arm_maker(config, dataset, Path(folder).expanduser())
    whole = arm()
    whole.train(0, steps, progress, "uninterrupted")
    half = steps // 2
    first = arm()
    first.train(0, half, progress, "interrupted")
    with tempfile.TemporaryDirectory(prefix="deitkit-verify-") as temporary:
        first.assembly.validate(first.assembly.state.model, lambda: False)
        first.save(Path(temporary))
        second = arm()
        second.restore(Path(temporary))
    second.train(half, steps, progress, "resumed")
    return ResumeProof(
        num_steps=steps,
        interrupted_after=half,
        uninterrupted=tuple(whole.records),
        resumed=tuple(first.records + second.records),
        uninterrupted_digest=whole.digest(),
        resumed_digest=second.digest(),
    )


def _arm_maker(config: RunConfig, dataset: Any, folder: Path) -> Callable[[], _Arm]:
    """What builds an arm anew; the teacher's answers are kept in memory, not in the run's cache."""
    from deitkit.api.teaching import open_own_teacher
    from deitkit.runtime.device import pick_device
    from deitkit.runtime.world import World
    from deitkit.training.assemble import assemble
    from deitkit.training.precision import training_dtype
    from deitkit.training.scoring import TeacherSaid

    world = World(device=pick_device(config.run.device))
    ready = open_own_teacher(config, folder, dataset.class_names, device=world.device)
    if config.distill.teacher_cache == "disk":
        config = with_values(config, {"distill.teacher_cache": "memory"})

    sources = open_run_sources(config, dataset, world, tell=lambda text: None, progress=no_progress)

    def arm() -> _Arm:
        return _Arm(
            assemble(
                config,
                dataset,
                world=world,
                sources=sources,
                teacher=None
                if ready is None
                else ready.live(autocast_dtype=training_dtype(config.run.precision, world.device)),
                said=None if ready is None else TeacherSaid(ready.val_indices, ready.val_NK),
            )
        )

    return arm


class _Arm:
    """One of the two trainings, built from config and images alone."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.records: list[StepRecord] = []

    def train(self, first: int, last: int, progress: Progress, name: str) -> None:
        from deitkit.training.step import train_step

        with closing(self.assembly.batches(first, last)) as batches:
            for batch in batches:
                done = train_step(self.assembly.state, batch, self.assembly.parts)
                ids = hashlib.blake2b(repr(done.sample_ids).encode(), digest_size=8).hexdigest()
                record = StepRecord(done.step, done.loss.hex(), float(done.lr).hex(), ids)
                self.records.append(record)
                progress(f"{name} training", done.step - first, last - first)

    def save(self, folder: Path) -> None:
        from deitkit.artifacts.checkpoint import save_checkpoint

        tensors, numbers = self.assembly.state.pack()
        save_checkpoint(
            folder,
            step=self.assembly.state.step,
            tensors=tensors,
            state=numbers,
            lineage="verify",
            machine={},
        )

    def restore(self, folder: Path) -> None:
        from deitkit.artifacts.checkpoint import load_newest

        checkpoint = load_newest(folder, lineage="verify")
        if checkpoint is None:
            raise CheckpointError("NO_CHECKPOINT", folder, "nothing was saved", "report this")
        self.assembly.state.unpack(checkpoint.tensors, checkpoint.state)

    def digest(self) -> str:
        tensors, numbers = self.assembly.state.pack()
        return state_digest(tensors, numbers)


def state_digest(tensors: dict[str, Any], numbers: dict[str, Any]) -> str:
    """sha256 over all that a checkpoint holds but the time it took."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    digest.update(repr(sorted(_without_time(numbers))).encode())
    return digest.hexdigest()


def _without_time(numbers: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return [(name, value) for name, value in numbers.items() if name != "seconds"]
