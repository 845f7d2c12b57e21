"""Strength that grows in parts of a run: each part has views of its own, and the teacher's cache
still holds them."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy, draw_views
from deitkit.errors import ConfigError
from deitkit.runtime.world import World
from deitkit.training.loader import TrainSteps
from deitkit.training.sizes import one_size
from deitkit.training.step import train_step
from deitkit.training.teaching import LiveTeaching, open_stored_teaching
from deitkit.training.view_phases import ViewPhases, build_view_phases
from deitkit.training.workers import load_steps
from tests.training.toy import MEAN, SIDE, STD, ConvTeacher, live_teacher, toy_images, toy_run

POLICY = ViewPolicy(
    mixup=0.8, cutmix=1.0, auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4, erasing=0.5
)
STRENGTHS = (0.2, 0.6, 1.0)


def phases(num_epochs, num_view_epochs=None, *, strengths=STRENGTHS, repeats=1) -> ViewPhases:
    return build_view_phases(
        strengths, num_epochs=num_epochs, num_view_epochs=num_view_epochs, repeats=repeats
    )


def steps_of(images, *, total_epochs, views=None, rank=0, world_size=1, batch_size=8):
    per_epoch = -(-len(images) // batch_size)
    return TrainSteps(
        images,
        policy=POLICY,
        view_seed=3,
        batch_size=batch_size,
        sizes=one_size((SIDE, SIDE)),
        teacher_size=None,
        rank=rank,
        world_size=world_size,
        num_view_epochs=views,
        strengths=STRENGTHS,
        total_steps=total_epochs * per_epoch,
    )


# Which epoch shows which views.


def test_twelve_epochs_of_six_view_epochs_by_hand():
    """Each third of the run has two view epochs and shows them twice."""
    found = phases(12, 6)
    assert [found.view_epoch(e) for e in range(12)] == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5]
    assert [found.strengths[found.part_of(v)] for v in range(6)] == [0.2, 0.2, 0.6, 0.6, 1.0, 1.0]
    assert [found.first_epoch(v) for v in range(6)] == [0, 1, 4, 5, 8, 9]
    assert [found.shown_before(e) for e in range(6)] == [None, None, 0, 1, None, None]


def test_without_stored_views_the_thirds_are_those_of_the_epochs():
    found = phases(9)
    assert [found.view_epoch(e) for e in range(9)] == list(range(9))
    assert [found.part_of(e) for e in range(10)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_repeats_stay_together():
    """Copies of three epochs show all images: parts begin at multiples of three."""
    found = phases(18, 9, repeats=3)
    assert found.first_epochs == (0, 6, 12) and found.first_view_epochs == (0, 3, 6)
    assert [found.view_epoch(e) for e in range(9)] == [0, 1, 2, 0, 1, 2, 3, 4, 5]


@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 60))
def test_one_strength_shows_the_views_of_the_epoch_modulo_v(num_view_epochs, epoch, total):
    for found in (
        ViewPhases(num_view_epochs=num_view_epochs),
        phases(total + 1, num_view_epochs, strengths=(0.5,)),
    ):
        assert found.view_epoch(epoch) == epoch % num_view_epochs


@given(st.data())
def test_every_part_shows_its_own_views_and_all_that_are_stored(data):
    """Against counting: as many view epochs are shown as are told, none in two parts."""
    num_parts, repeats = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    long = data.draw(st.integers(num_parts, 60))
    views = data.draw(st.none() | st.integers(num_parts, long))
    strengths = tuple((part + 1) / num_parts for part in range(num_parts))
    num_epochs = long * repeats
    stored = None if views is None else views * repeats
    found = phases(num_epochs, stored, strengths=strengths, repeats=repeats)
    shown = [found.view_epoch(epoch) for epoch in range(num_epochs)]
    assert sorted(set(shown)) == list(range(num_epochs if stored is None else stored))
    parts = [found.part_of(view_epoch) for view_epoch in shown]
    assert parts == sorted(parts)
    lengths = Counter(parts)
    assert max(lengths.values()) - min(lengths.values()) <= repeats
    for epoch, view_epoch in enumerate(shown):
        assert found.first_epoch(view_epoch) == shown.index(view_epoch)
        earlier = [e for e in range(epoch) if shown[e] == view_epoch]
        assert found.shown_before(epoch) == (earlier[-1] if earlier else None)
        assert view_epoch % repeats == epoch % repeats


@pytest.mark.parametrize(
    ("strengths", "num_epochs", "views", "why"),
    [
        ((0.5, 1.5), 10, None, "a strength is a share"),
        ((float("nan"),), 10, None, "a strength is a share"),
        ((0.1, 0.5, 1.0), 2, None, "a run of 2 epochs has fewer parts"),
        ((0.1, 0.5, 1.0), 10, 2, "view_epochs is 2.*use view_epochs=3 or more"),
    ],
)
def test_strengths_that_cannot_be_are_refused(strengths, num_epochs, views, why):
    with pytest.raises(ConfigError, match=f"STRENGTHS.*{why}"):
        phases(num_epochs, views, strengths=strengths)


# What strength is.


def test_half_a_policy_by_hand():
    """m9 becomes m5 (4.5, to the nearest), chances and the jitter's range their halves."""
    half = POLICY.at_strength(0.5)
    assert half == dataclasses.replace(
        POLICY,
        auto_augment="rand-m5-mstd0.5-inc1",
        color_jitter=0.2,
        erasing=0.25,
        mix_prob=0.5,
    )
    assert POLICY.at_strength(1.0) == POLICY


@pytest.mark.parametrize("text", ["none", "trivial", "3augment", "autoaugment", "rand-m9-n3"])
def test_a_policy_without_a_gentler_magnitude_stays(text):
    """Without inc1 a colour factor of magnitude 0 is 0.1: darker, and not gentler."""
    policy = ViewPolicy(auto_augment=text)
    assert policy.at_strength(0.3).auto_augment == text


def test_at_strength_zero_nothing_but_crop_and_flip_is_left_to_chance():
    views = draw_views(
        ViewPolicy(mixup=0.8, cutmix=1.0, erasing=0.9, color_jitter=0.4).at_strength(0.0),
        view_seed=0,
        epoch=0,
        sample_ids_B=np.arange(200, dtype=np.uint64),
        sizes_B2=np.full((200, 2), 32),
    )
    assert (views.lam_B == 1).all() and (views.erase_B4 == 0).all() and views.ops_BL.size == 0
    assert len(np.unique(views.box_B4, axis=0)) > 100


# In training.


@pytest.mark.parametrize("views", [None, 4])
def test_a_batch_is_drawn_by_its_view_epochs_strength(views):
    """Six epochs: each batch is what the policy at that strength draws; boxes are as ever."""
    images = toy_images(40)
    steps = steps_of(images, total_epochs=6, views=views)
    mixed = Counter()
    for step in range(6 * steps.steps_per_epoch):
        batch = steps[step]
        part = steps.phases.part_of(batch.view_epoch)
        assert part == batch.epoch // 2
        drawn = draw_views(
            POLICY.at_strength(STRENGTHS[part]),
            view_seed=3,
            epoch=batch.view_epoch,
            sample_ids_B=images.sample_ids[batch.indices_B],
            sizes_B2=images.sizes[batch.indices_B],
        )
        for name in ("box_B4", "lam_B", "cut_B4", "ops_BL", "params_BL", "erase_B4"):
            np.testing.assert_array_equal(getattr(batch.views, name), getattr(drawn, name))
        mixed[part] += int((batch.views.lam_B < 1).sum())
    assert mixed[0] < mixed[1] < mixed[2]


def test_ranks_and_workers_see_the_views_of_one_process():
    images = toy_images(24)
    whole = steps_of(images, total_epochs=6, views=3)
    parts = [steps_of(images, total_epochs=6, views=3, rank=r, world_size=2) for r in range(2)]
    made = list(load_steps(whole, 0, 18, workers=2))
    for step in range(18):
        pixels = torch.cat([part[step].images_BCHW for part in parts])
        assert torch.equal(pixels, whole[step].images_BCHW)
        assert torch.equal(pixels, made[step].images_BCHW)


def test_stored_answers_are_those_of_the_live_teacher_in_every_part():
    """K14 with strengths: six epochs over three view epochs, bit for bit, and asked once."""
    ends = []
    for is_stored in (False, True):
        teacher = live_teacher(ConvTeacher())
        state, parts, _ = toy_run(
            toy_images(18), batch_size=6, policy=POLICY, teacher=teacher, kind="soft"
        )
        steps = steps_of(toy_images(18), total_epochs=6, views=3, batch_size=6)
        teaching = LiveTeaching(teacher)
        if is_stored:
            teaching = opened(teacher, steps)
        parts = dataclasses.replace(parts, teacher=teaching)
        for step in range(18):
            train_step(state, steps[step], parts)
        ends.append([p.detach().clone() for p in state.model.parameters()])
        if is_stored:
            assert (teaching.cached.num_misses, teaching.cached.num_hits) == (3 * 18, 3 * 18)
            assert teaching.answered_epochs() == {0, 1, 2}
            teaching.close()
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def opened(teacher, steps):
    return open_stored_teaching(
        teacher,
        steps,
        world=World(),
        mode="memory",
        folder=None,
        num_view_epochs=3,
        dtype="float32",
        top_k=None,
        erasing_fill="pixel",
        mean=MEAN,
        std=STD,
        decoding={"channels": 3},
        tell=lambda text: None,
    )


def test_what_was_shown_in_this_part_is_not_rendered_for_the_teacher_again():
    """Twelve epochs, two view epochs a part: from its third epoch on a part's views are known,
    where the run was there from the part's beginning."""
    steps = steps_of(toy_images(16), total_epochs=12, views=6, batch_size=16)
    steps.teacher_size = (24, 24)
    for begun, known in ((0, {2, 3, 6, 7, 10, 11}), (5, {7, 10, 11})):
        shown = steps.with_answers((), from_step=begun)
        without = {e for e in range(begun, 12) if shown[e].teacher_images_BCHW is None}
        assert without == known
