"""Views that are shown again, labels that are not there, answers that are stored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy
from deitkit.augmentation.views import pair_alike, shuffle_pairs
from deitkit.flow import StudentOutput
from deitkit.losses import DistillationLoss
from deitkit.runtime.world import World
from deitkit.training.loader import TrainSteps, labels_that_count
from deitkit.training.sizes import one_size
from deitkit.training.step import train_step
from deitkit.training.teacher_choices import (
    MIN_VIEW_EPOCHS,
    choose_distill_kind,
    choose_view_epochs,
    num_asked_epochs,
    steps_within,
)
from deitkit.training.teaching import LiveTeaching, open_stored_teaching
from deitkit.training.view_phases import ViewPhases
from tests.training.toy import MEAN, SIDE, STD, ConvTeacher, live_teacher, toy_images, toy_run

MIXING = ViewPolicy(crop="padded", mixup=0.8, cutmix=1.0)
CPU = torch.device("cpu")


def steps_of(images, *, batch_size=8, views=None, repeats=1, rank=0, world_size=1, teacher=None):
    return TrainSteps(
        images,
        policy=MIXING,
        view_seed=3,
        batch_size=batch_size,
        sizes=one_size((SIDE, SIDE)),
        teacher_size=teacher,
        rank=rank,
        world_size=world_size,
        repeats=repeats,
        num_view_epochs=views,
    )


def shown(steps, epoch: int) -> dict[tuple[int, int], tuple[int, int, bytes]]:
    """(image, copy) -> its mix partner, and every bit of the pair's view."""
    found = {}
    for step in range(epoch * steps.steps_per_epoch, (epoch + 1) * steps.steps_per_epoch):
        batch = steps[step]
        for i, index in enumerate(batch.indices_B.tolist()):
            partner = i ^ 1
            is_alone = partner >= len(batch)
            mate = -1 if is_alone else int(batch.indices_B[partner])
            view = b"".join(
                np.ascontiguousarray(getattr(batch.views, name)[i]).tobytes()
                for name in ("box_B4", "flip_B", "lam_B", "cut_B4")
            )
            found[index, int(batch.views.repeat_B[i])] = (mate, batch.view_epoch, view)
    return found


def order(steps, epoch: int) -> list[int]:
    first = epoch * steps.steps_per_epoch
    return [int(i) for s in range(steps.steps_per_epoch) for i in steps.indices(first + s)]


@pytest.mark.parametrize(("num", "repeats", "views"), [(21, 1, 2), (20, 1, 3), (21, 3, 3)])
def test_an_epoch_is_shown_again_in_another_order(num, repeats, views):
    images = toy_images(num)
    plain = steps_of(images, repeats=repeats)
    again = steps_of(images, repeats=repeats, views=views)
    for epoch in range(views):
        assert shown(again, epoch) == shown(plain, epoch)
        assert order(again, epoch) == order(plain, epoch)
        assert shown(again, epoch + views) == shown(again, epoch)
        assert order(again, epoch + views) != order(again, epoch)
        assert shown(plain, epoch + views) != shown(plain, epoch)
    other_batch = steps_of(images, repeats=repeats, views=views, batch_size=6)
    assert shown(other_batch, views + 1) == shown(again, 1)


@given(st.integers(0, 40), st.integers(0, 5), st.integers(0, 5))
def test_pairs_stay_whole_and_the_odd_one_last(num, seed, epoch):
    before = np.random.default_rng(seed).permutation(num)
    after = shuffle_pairs(before, view_seed=seed, epoch=epoch)
    whole = num // 2 * 2
    pairs = {tuple(pair) for pair in before[:whole].reshape(-1, 2).tolist()}
    assert {tuple(pair) for pair in after[:whole].reshape(-1, 2).tolist()} == pairs
    assert after[whole:].tolist() == before[whole:].tolist()


@given(st.lists(st.booleans(), max_size=40))
def test_partners_are_of_one_kind(kinds):
    """But for one pair where both kinds are odd; every image stays, in its kind's order."""
    kinds = np.array(kinds, dtype=bool)
    order_N = np.random.default_rng(len(kinds)).permutation(len(kinds))
    paired = pair_alike(order_N, kinds[order_N])
    assert sorted(paired.tolist()) == list(range(len(kinds)))
    for kind in (True, False):
        of_kind = [i for i in paired.tolist() if kinds[i] == kind]
        assert of_kind == [i for i in order_N.tolist() if kinds[i] == kind]
    whole = len(kinds) // 2 * 2
    mixed = [a != b for a, b in kinds[paired[:whole]].reshape(-1, 2).tolist()]
    both_odd = kinds.sum() % 2 == 1 and (~kinds).sum() % 2 == 1
    assert sum(mixed) == int(both_odd)


def test_labels_count_where_the_partner_has_one_too():
    known = np.array([True, True, False, True, False, False, True])
    expected = [True, True, False, False, False, False, True]
    assert labels_that_count(known).tolist() == expected


def test_the_label_term_is_the_mean_over_known_labels_by_hand():
    """Two images with uniform logits over 2 classes and one without a label: ln 2, not 2/3 ln 2."""
    cls = torch.zeros(3, 2, requires_grad=True)
    dist = torch.zeros(3, 2, requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    terms = DistillationLoss("soft", weight=0.5)(
        StudentOutput(cls, dist),
        targets,
        torch.tensor([[2.0, 0.0]] * 3),
        normalizer=3,
        labelled_rows=torch.tensor([0, 1]),
        label_normalizer=2,
    )
    assert terms.label.item() == pytest.approx(np.log(2))
    terms.total.backward()
    assert cls.grad[2].abs().max() == 0 and cls.grad[:2].abs().min() > 0
    assert dist.grad.abs().min() > 0


def part_labelled(num=22, unknown=9):
    images = toy_images(num)
    images.labels[np.random.default_rng(1).permutation(num)[:unknown]] = -1
    return images


def test_the_class_head_never_learns_from_pictures_without_a_label():
    """What stands in their (unread) labels changes nothing; their pixels still teach the
    distillation head."""
    images = part_labelled()
    teacher = live_teacher(ConvTeacher())
    _, parts, steps = toy_run(images, batch_size=22, policy=MIXING, teacher=teacher, kind="soft")
    batch = steps[0]
    is_known = (batch.labels_B >= 0).numpy()
    assert batch.num_labelled == labels_that_count(is_known).sum() < is_known.sum() + 1
    pictures, targets = parts.mix(batch)
    rows = parts.labelled_rows(batch)
    assert rows.tolist() == np.flatnonzero(labels_that_count(is_known)).tolist()
    assert targets[rows].sum(dim=1).tolist() == pytest.approx([1.0] * len(rows))
    assert parts.ask_teacher(batch, pictures).shape == (22, 3)


@pytest.mark.parametrize("device_batch_size", [4, 10])
def test_parts_of_a_batch_add_up_also_without_some_labels(device_batch_size):
    ends = []
    for size in (10**6, device_batch_size):
        state, parts, steps = toy_run(
            part_labelled(),
            batch_size=22,
            policy=MIXING,
            teacher=live_teacher(ConvTeacher()),
            kind="soft",
            device_batch_size=size,
            optimizer="sgd",
        )
        done = train_step(state, steps[0], parts)
        ends.append((done, [p.detach().clone() for p in state.model.parameters()]))
    for one, other in zip(ends[0][1], ends[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert ends[0][0].loss == pytest.approx(ends[1][0].loss, rel=1e-5)


def stored(teacher, steps, folder, *, views: int, dtype="float32"):
    return open_stored_teaching(
        teacher,
        steps,
        world=World(),
        mode="disk",
        folder=str(folder),
        num_view_epochs=views,
        dtype=dtype,
        top_k=None,
        erasing_fill="pixel",
        mean=MEAN,
        std=STD,
        decoding={"channels": 3},
        tell=lambda text: None,
    )


@pytest.mark.parametrize("side", [SIDE, 24])
def test_training_from_stored_answers_is_training_with_the_live_teacher(tmp_path, side):
    """K14: float32 records; three rounds over two view epochs, bit for bit, and asked once."""
    ends = []
    for is_stored in (False, True):
        module = ConvTeacher()
        teacher = live_teacher(module, side=side)
        state, parts, steps = toy_run(
            toy_images(18), batch_size=6, policy=MIXING, teacher=teacher, kind="soft"
        )
        steps.phases = ViewPhases(num_view_epochs=2)
        teaching = stored(teacher, steps, tmp_path, views=2) if is_stored else LiveTeaching(teacher)
        parts = dataclasses.replace(parts, teacher=teaching)
        last = 6 * steps.steps_per_epoch
        for step in range(last):
            train_step(state, steps[step], parts)
        ends.append([p.detach().clone() for p in state.model.parameters()])
        if is_stored:
            assert teaching.cached.num_misses == 2 * 18 and teaching.cached.num_hits == 4 * 18
            assert teaching.answered_epochs() == {0, 1}
            teaching.close()
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_what_is_answered_is_not_rendered_and_yet_can_be(tmp_path):
    """After a whole round no view is rendered at the teacher's size; one whose record is lost is
    rendered on demand, to the same pixels."""
    images = toy_images(12)
    teacher = live_teacher(ConvTeacher(), side=24)
    steps = steps_of(images, views=2, teacher=(24, 24))
    first = steps.with_answers((), from_step=0)
    assert first[0].teacher_images_BCHW is not None
    again = 2 * steps.steps_per_epoch
    assert first[again].teacher_images_BCHW is None
    late = steps.with_answers((), from_step=1)
    assert late[again].teacher_images_BCHW is not None, "epoch 0 was not seen whole"
    known = steps.with_answers({1}, from_step=None)
    assert known[steps.steps_per_epoch].teacher_images_BCHW is None
    assert known[0].teacher_images_BCHW is not None
    _, parts, _ = toy_run(images, batch_size=8, policy=MIXING, teacher=teacher)
    parts = dataclasses.replace(parts, render=steps.rendered)
    seen = [
        parts.teacher_images(batch, parts.mix(batch)[0]) for batch in (steps[again], first[again])
    ]
    assert torch.equal(*seen) and seen[0].shape[-1] == 24


# What is chosen


@given(
    seconds=st.floats(0, 5e3),
    step_s=st.floats(1e-3, 2.0),
    cost=st.floats(0, 30.0),
    per_epoch=st.integers(1, 300),
    views=st.sampled_from([None, 0, 1, 7]),
)
def test_steps_fill_the_time_and_no_more(seconds, step_s, cost, per_epoch, views):
    teacher_s = cost * step_s

    def seconds_of(steps):
        epochs = steps / per_epoch
        asked = {None: num_asked_epochs(epochs, cost=cost), 0: epochs}.get(views, views)
        return steps * step_s + min(steps, asked * per_epoch) * teacher_s

    steps = steps_within(
        seconds,
        step_s=step_s,
        teacher_step_s=teacher_s,
        steps_per_epoch=per_epoch,
        view_epochs=views,
        limit=10**7,
    )
    assert seconds_of(steps) <= seconds * (1 + 1e-9)
    assert seconds_of(steps + 1) > seconds * (1 - 1e-9)


def test_steps_that_are_taught_in_part_by_hand():
    """100 s, steps and asking of 0.1 s, 10 steps an epoch, taught in the first half: 66 epochs of
    which 33 are asked about are 99 s; a further step begins a 34th and would end at 100.1 s."""
    given = {"step_s": 0.1, "teacher_step_s": 0.1, "steps_per_epoch": 10, "limit": 10**6}
    assert steps_within(100.0, view_epochs=None, until=0.5, **given) == 660
    assert steps_within(100.0, view_epochs=None, until=0.0, **given) == 1000


@pytest.mark.parametrize(("until", "taught"), [(1.0, None), (0.5, 10), (0.25, 6), (0.0, 0)])
def test_the_first_epochs_are_taught_by_hand(until, taught):
    """22 images in steps of 11 or so, two an epoch, nine epochs and a half: whole epochs, and no
    pictures for a teacher that is not asked."""
    steps = TrainSteps(
        toy_images(22),
        policy=MIXING,
        view_seed=3,
        batch_size=11,
        sizes=one_size((SIDE, SIDE)),
        teacher_size=(2 * SIDE, 2 * SIDE),
        rank=0,
        world_size=1,
        until=until,
        total_steps=19,
    )
    assert steps.steps_per_epoch == 2 and steps.taught_steps == taught
    for step in range(19):
        is_taught = taught is None or step < taught
        assert (steps[step].teacher_images_BCHW is not None) == is_taught


@pytest.mark.parametrize(
    ("epochs", "cost", "expected"),
    [
        (100, 0.05, 0),
        (100, 0.15, 100),
        (100, 0.5, 30),
        (100, 3.33, 10),
        (300, 3.33, 30),
        (30, 1.0, MIN_VIEW_EPOCHS),
        (6, 1.0, 6),
        (30, 10.0, 3),
    ],
)
def test_stored_view_epochs_by_hand(epochs, cost, expected):
    choice = choose_view_epochs(epochs, step_s=0.2, teacher_step_s=0.2 * cost, repeats=1)
    assert choice.value == expected
    tripled = choose_view_epochs(epochs, step_s=0.2, teacher_step_s=0.2 * cost, repeats=3).value
    assert tripled % 3 == 0 and expected <= tripled < expected + 3


def test_two_classes_have_no_z_scores():
    assert [choose_distill_kind(k).value for k in (2, 3, 1000)] == ["soft", *["standardised"] * 2]
