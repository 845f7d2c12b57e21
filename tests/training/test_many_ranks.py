"""1, 2 and 4 ranks are one run: order, losses, what the teacher is asked, what is exchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deitkit
from tests.training.ranks import Fault, Seen, run_ranks
from tests.training.toy import TINY, write_photos

NUM_TRAIN, NUM_VAL, VIEW_EPOCHS, REPEATS, NUM_STEPS = 42, 3, 4, 2, 24
BATCH, DEVICE_BATCH = 16, 4
"""Steps of 14 views: 4 micro-batches on one rank, 2 on each of two, 1 on each of four."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, Any]:
    """Mixing, dropped paths, repeated augmentation, stored answers, accumulation; 3 steps an epoch,
    and views that come again, to other ranks, after four epochs."""
    folder = tmp_path_factory.mktemp("many")
    photos = write_photos(folder / "photos", val=NUM_VAL // 3)
    quick = {"data": str(photos), "workers": 0, **TINY}
    small = {"batch_size": 8, "epochs": 1, "image_size": 16, "run.report": False}
    deitkit.train(data=photos, model="small_cnn", workers=0, out=folder / "teacher", **small)
    return {
        **quick,
        "model": "deit_nano_distilled_patch4_16",
        "teacher": str(folder / "teacher"),
        "distill.kind": "soft",
        "distill.cache_dtype": "float32",
        "teacher_cache": "memory",
        "view_epochs": VIEW_EPOCHS,
        "batch_size": BATCH,
        "optim.device_batch_size": DEVICE_BATCH,
        # Other sums show in the last bits: of float32 here, also where a CPU has AMX.
        "run.precision": "float32",
        "epochs": NUM_STEPS // 3,
        "model.drop_path": 0.3,
        "views.mixup": 0.8,
        "views.cutmix": 1.0,
        "views.repeats": REPEATS,
        "schedule.eval_interval": NUM_STEPS,
        "schedule.checkpoint_interval": 1000,
        "run.report": False,
    }


@pytest.fixture(scope="module")
def worlds(settings, tmp_path_factory) -> dict[int, list[Seen]]:
    """The whole run on 1, 2 and 4 ranks, answers in memory; and on 2 with answers on disk."""
    folder = tmp_path_factory.mktemp("worlds")
    seen = {
        num: run_ranks(num, folder / f"{num}", settings | {"out": str(folder / f"{num}" / "run")})
        for num in (1, 2, 4)
    }
    on_disk = {"teacher_cache": "disk", "distill.cache_folder": str(folder / "cache")}
    seen[-2] = run_ranks(2, folder / "disk", settings | on_disk | {"out": str(folder / "d")})
    for world in seen.values():
        assert [rank.code for rank in world] == [0] * len(world), [rank.error for rank in world]
    return seen


def order(ranks: list[Seen]) -> list[list[int]]:
    """Sample ids of each step, in the order of the ranks."""
    places = range(len(ranks[0].steps))
    return [[i for rank in ranks for i in rank.steps[k]["ids"]] for k in places]


@pytest.mark.parametrize("num", [2, 4, -2])
def test_ranks_have_the_order_and_the_losses_of_one(worlds, num):
    """T39: a list compared with a list; the first 20 losses within 1e-5, on every rank."""
    assert order(worlds[num]) == order(worlds[1])
    one = worlds[1][0].losses
    assert len(set(one)) == NUM_STEPS
    for rank in worlds[num]:
        np.testing.assert_allclose(rank.losses[:20], one[:20], rtol=1e-5)


def test_gradients_are_exchanged_once_a_step(worlds):
    """One bucket a step, with the last of 4, 2 or 1 micro-batches; with the losses and the question
    whether to stop it makes three exchanges."""
    for num in (2, 4):
        assert [rank.num_buckets for rank in worlds[num]] == [NUM_STEPS] * num
        for rank in worlds[num]:
            reduces = [step["reduces"] for step in rank.steps]
            # With an epoch's last step the ranks also tell each other what the teacher said.
            inside = [reduces[k] - reduces[k - 1] for k in range(1, NUM_STEPS) if k % 3 < 2]
            assert set(inside) == {3}, reduces


@pytest.mark.parametrize("num", [1, 2, 4, -2])
def test_each_view_is_asked_about_once_by_all_ranks_together(worlds, num):
    """In memory the ranks tell each other, on disk they read each other's records."""
    asked = [rank.num_asked for rank in worlds[num]]
    assert sum(asked) == VIEW_EPOCHS * NUM_TRAIN // REPEATS * REPEATS
    assert min(asked) > 0


def test_fewer_validation_images_than_ranks_are_each_counted_once(worlds, tmp_path_factory):
    """T38: three images on four ranks."""
    scores, plain = {}, {}
    for num in (1, 4):
        folder = tmp_path_factory.getbasetemp() / "worlds0" / f"{num}" / "run"
        run = deitkit.open_run(folder)
        assert run.result["num_val"] == run.evaluate().fused.num_images == NUM_VAL
        assert run.result["best"]["num_images"] == NUM_VAL
        scores[num] = run.result["best"]["nll"]
        written = json.loads((folder / "best" / "config.json").read_text())
        plain[num] = written["provenance"]["validation"]["nll"]
    assert plain[4] == pytest.approx(plain[1], rel=1e-6)
    # The temperature has four digits, 0.5550 or 0.5551 here, and the loss at it is 3e-4 apart.
    assert scores[4] == pytest.approx(scores[1], rel=1e-3)


def test_a_loss_that_is_no_number_on_one_rank_skips_the_step_on_all(settings, tmp_path):
    """T26: agreed before the optimizer moves; three in a row end the run on all ranks."""
    more = {"out": str(tmp_path / "run"), "teacher": None, "epochs": 3, "distill.kind": "none"}
    plain = {k: v for k, v in (settings | more).items() if k not in ("teacher_cache", "teacher")}
    del plain["view_epochs"]
    faults = [Fault(1, step, "nan") for step in (2, 4, 5, 6)]
    ranks = run_ranks(2, tmp_path / "seen", plain, faults=faults)
    for rank in ranks:
        assert [s["step"] for s in rank.steps if s["skipped"]] == [3, 5, 6, 7]
        assert rank.code == 7 and "3 steps in a row" in rank.error
    assert [s["loss"] for s in ranks[0].steps[:2]] == [s["loss"] for s in ranks[1].steps[:2]]


def test_a_batch_that_ranks_cannot_share_is_refused(settings, tmp_path):
    """T40: with the numbers that divide it."""
    ranks = run_ranks(3, tmp_path / "seen", settings | {"out": str(tmp_path / "run")})
    for rank in ranks:
        assert rank.code == 2
        assert "[RANKS] ranks=3: a batch of 16 images is not divisible by 3" in rank.error
        assert "use ranks= one of 1, 2, 4, 8, or a batch_size that is a multiple of 3" in rank.error
    assert not Path(tmp_path / "run" / "config.yaml").exists()


def test_a_step_with_fewer_pairs_than_ranks_is_refused(settings, tmp_path):
    """T38."""
    small = {"batch_size": 2, "views.repeats": 1, "out": str(tmp_path / "run")}
    for rank in run_ranks(2, tmp_path / "seen", settings | small):
        assert rank.code == 2
        assert "[RANKS] ranks=2: a step of 2 images has fewer pairs than ranks" in rank.error


def test_a_run_goes_on_with_other_ranks(settings, worlds, tmp_path):
    """T39: 2, then 1, then 2 ranks, stopped in between; order and losses are those of one."""
    out = {"out": str(tmp_path / "run"), "run.log_interval": 1}
    steps: list[list[Seen]] = []
    for part, (num, at) in enumerate([(2, 7), (1, 15), (2, None)]):
        faults = [] if at is None else [Fault(0, at - 1, "15")]
        seen = run_ranks(num, tmp_path / f"seen{part}", settings | out, faults=faults)
        assert [rank.code for rank in seen] == [0 if at is None else 143] * num, seen
        steps.append(seen)
    counts = [len(part[0].steps) for part in steps]
    assert counts == [7, 8, NUM_STEPS - 15]
    ids = [ids for part in steps for ids in order(part)]
    assert ids == order(worlds[1])
    losses = [loss for part in steps for loss in part[0].losses]
    np.testing.assert_allclose(losses[:20], worlds[1][0].losses[:20], rtol=1e-5)
