"""What "auto" becomes: every choice has a reason, fits the data, and moves the right way."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.models import create_model, name_facts
from deitkit.training import choices, model_choices
from deitkit.training.choice import Choice

DEVICES = st.sampled_from(["cpu", "cuda", "mps"])
PROBLEM = {
    "num_images": st.integers(10, 10**6),
    "budget_s": st.floats(10, 1e5),
    "has_teacher": st.booleans(),
    "device_type": DEVICES,
    "num_cores": st.integers(1, 64),
}


@given(
    median=st.integers(1, 6000),
    above=st.integers(0, 3000),
    device=DEVICES,
    **{name: PROBLEM[name] for name in ("num_images", "budget_s", "has_teacher", "num_cores")},
)
@settings(max_examples=150, deadline=None)
def test_every_choice_has_a_reason_and_fits(
    median, above, device, num_images, budget_s, has_teacher, num_cores
):
    """A model that exists, for images of the size chosen, cut by its patches without a rest but
    for pooling, which leaves an odd row out."""
    size = model_choices.choose_image_size(median, median + above, device_type=device)
    model = model_choices.choose_model(
        size.value,
        num_images=num_images,
        budget_s=budget_s,
        has_teacher=has_teacher,
        device_type=device,
        num_cores=num_cores,
    )
    facts = name_facts(model.value)
    height, width = size.value
    cut = facts.patch_size // 2 if "_hybrid_" in model.value else facts.patch_size
    assert height % cut == 0 == width % cut
    assert min(height, width) >= facts.patch_size
    assert max(height, width) == facts.image_size
    assert ("_distilled_" in model.value) == has_teacher
    batch = choices.choose_batch_size(num_images, device_type=device)
    assert batch.value >= 2 and batch.value % 2 == 0
    lr = choices.choose_lr(facts.embed_dim, batch.value)
    assert 0 < lr.value * batch.value / 512 < 0.1
    for choice in (size, model, batch, lr):
        assert choice.reason.strip() == choice.reason != ""


def test_a_chosen_model_can_be_built():
    size = model_choices.choose_image_size(28, 28, device_type="cpu").value
    name = model_choices.choose_model(
        size, num_images=100, budget_s=60, has_teacher=True, device_type="cpu", num_cores=2
    ).value
    model = create_model(name, num_classes=4, image_size=size)
    assert model.image_size == size and model.head_dist is not None


def num_weights(name: str) -> int:
    return name_facts(name).embed_dim


@given(num_images=PROBLEM["num_images"], has_teacher=st.booleans(), device=DEVICES)
@settings(max_examples=60, deadline=None)
def test_more_time_never_means_a_smaller_model(num_images, has_teacher, device):
    widths = [
        num_weights(
            model_choices.choose_model(
                (64, 64),
                num_images=num_images,
                budget_s=budget_s,
                has_teacher=has_teacher,
                device_type=device,
                num_cores=2,
            ).value
        )
        for budget_s in (10, 60, 600, 6000, 60000)
    ]
    assert widths == sorted(widths)


@given(st.lists(st.integers(1, 10**7), min_size=2, max_size=8))
def test_more_images_never_mean_a_smaller_batch(counts):
    sizes = [choices.choose_batch_size(n, device_type="cpu").value for n in sorted(counts)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    "names",
    [
        [str(d) for d in range(10)],
        list("abcxyz"),
        ["07", "12", "99"],
        ["turn left", "straight"],
        ["hand_R", "hand_L"],
        ["Left", "Right"],
        ["facing-east", "up"],
    ],
    ids=str,
)
def test_no_mirror_where_it_would_change_the_label(names):
    choice = choices.choose_flip(names)
    assert choice.value == 0.0
    assert "mirroring would change" in choice.reason


@pytest.mark.parametrize(
    "names",
    [["cat", "dog"], ["bright", "dull"], ["cleft chin", "other"], ["rlx", "easter"], ["7up", "2l"]],
    ids=str,
)
def test_words_that_only_contain_a_side_are_mirrored(names):
    assert choices.choose_flip(names).value == 0.5


TIMES = {
    "seconds": st.floats(1, 1e5),
    "step_s": st.floats(1e-3, 5),
    "evaluation_s": st.floats(1e-3, 100),
    "steps_per_epoch": st.integers(1, 5000),
    "max_epochs": st.integers(1, 1000),
}


@given(**TIMES)
@settings(max_examples=300)
def test_steps_fill_the_time_and_no_more(
    seconds, step_s, evaluation_s, steps_per_epoch, max_epochs
):
    steps, interval = choices.choose_steps(
        seconds=seconds,
        step_s=step_s,
        evaluation_s=evaluation_s,
        steps_per_epoch=steps_per_epoch,
        max_epochs=max_epochs,
    )
    assert steps.reason and interval.reason
    limit = steps_per_epoch * max_epochs
    assert 1 <= steps.value <= limit
    assert 1 <= interval.value <= steps.value
    needed = steps.value * step_s + -(-steps.value // interval.value) * evaluation_s
    assert needed <= seconds * (1 + 1e-9) or steps.value == 1
    if 1 < steps.value < limit:
        # Another step and the most evaluations there may be would no longer fit.
        most_evaluations = max(2, 20, seconds * 0.05 / evaluation_s)
        assert (steps.value + 1) * step_s + most_evaluations * evaluation_s > seconds


def test_steps_by_hand():
    """100 s, 0.1 s a step, 1 s an evaluation: five evaluations take 5 s, 950 steps the rest."""
    found = {"step_s": 0.1, "evaluation_s": 1.0, "steps_per_epoch": 10}
    steps, interval = choices.choose_steps(seconds=100.0, max_epochs=300, **found)
    assert (steps.value, interval.value) == (950, 190)
    steps, _ = choices.choose_steps(seconds=100.0, max_epochs=30, **found)
    assert steps.value == 300 and "30 epochs" in steps.reason


@pytest.mark.parametrize(
    ("num_epochs", "mixes", "repeats", "parts"),
    [(300, True, 1, 10), (10, True, 1, 10), (9, True, 1, 0), (29, True, 3, 0), (300, False, 1, 0)],
)
def test_a_run_that_mixes_ends_on_plain_pictures(num_epochs, mixes, repeats, parts):
    choice = choices.choose_strengths(num_epochs, mixes=mixes, repeats=repeats)
    assert choice.value == ((1.0,) * (parts - 1) + (0.0,) if parts else ())
    assert choice.reason


@pytest.mark.parametrize(
    ("fine_tunes", "pools", "name", "hidden_lr"),
    [(False, True, "muon", 6), (True, True, "adamw", 1), (False, False, "adamw", 1)],
)
def test_muon_is_for_pooling_blocks_from_scratch(fine_tunes, pools, name, hidden_lr):
    assert choices.choose_optimizer(fine_tunes=fine_tunes, pools=pools).value == name
    assert choices.choose_hidden_lr(fine_tunes=fine_tunes, pools=pools).value == hidden_lr


@pytest.mark.parametrize(
    ("budget_s", "width", "size", "teacher"),
    [(600, 16, "slim", "quick_cnn_narrow"), (1800, 32, "shallow", "quick_cnn")],
)
def test_the_width_of_a_student_and_its_teacher_by_hand(budget_s, width, size, teacher):
    """32 x 32 places of 45,000 images ten times, 280,000 places a second on each of two cores:
    823 s."""
    known = {"num_images": 45_000, "budget_s": budget_s, "num_cores": 2}
    assert model_choices.stem_width_for((32, 32), **known) == width
    model = model_choices.choose_model((32, 32), has_teacher=True, device_type="cpu", **known)
    assert model.value == f"deit_{size}_hybrid_distilled_patch8_32"
    own = model_choices.choose_auto_teacher((32, 32), device_type="cpu", stem_width=None, **known)
    assert own.value == teacher
    assert create_model(model.value).patch_embed.blocks[0].conv1.out_channels == width


@pytest.mark.parametrize(
    ("size", "parts", "tokens"),
    [
        ((8, 8), "quick_distilled_patch2_8", 16),
        ((16, 16), "quick_distilled_patch2_16", 64),
        ((20, 20), "quick_distilled_patch4_20", 25),
        ((28, 28), "hybrid_distilled_patch8_28", 9),
        ((32, 32), "hybrid_distilled_patch8_32", 16),
        ((32, 16), "quick_distilled_patch4_32", 32),
        ((64, 64), "hybrid_distilled_patch16_64", 16),
    ],
)
def test_all_stages_where_nine_tokens_are_left(size, parts, tokens):
    choice = model_choices.choose_model(
        size, num_images=10**6, budget_s=60, has_teacher=True, device_type="cpu", num_cores=2
    )
    assert choice.value == f"deit_slim_{parts}" and f"make {tokens + 2} tokens" in choice.reason
    model = create_model(choice.value, image_size=size)
    assert model.grid_size[0] * model.grid_size[1] == tokens
    assert model.patch_embed.stem.stride == create_model("quick_cnn", image_size=size).stem.stride


def test_a_teacher_has_the_width_of_a_stem_that_is_known():
    known = {"num_images": 45_000, "budget_s": 60.0, "num_cores": 2, "device_type": "cpu"}
    for width, name in ((16, "_narrow"), (32, ""), (64, "_wide"), (48, "_narrow")):
        choice = model_choices.choose_auto_teacher((32, 32), stem_width=width, **known)
        assert choice.value == f"quick_cnn{name}"


@given(**{name: TIMES[name] for name in ("step_s", "evaluation_s", "steps_per_epoch")})
def test_more_time_never_means_fewer_steps(step_s, evaluation_s, steps_per_epoch):
    found = {"step_s": step_s, "evaluation_s": evaluation_s, "steps_per_epoch": steps_per_epoch}
    # Far apart: between two numbers of evaluations there is a step back.
    times = (evaluation_s * factor for factor in (2, 10, 100, 1000, 10000))
    steps = [choices.choose_steps(seconds=s, max_epochs=10**6, **found)[0].value for s in times]
    assert steps == sorted(steps)


@pytest.mark.parametrize(("num_epochs", "crop"), [(6.9, "none"), (7.0, "padded")])
def test_small_images_are_shifted_from_seven_epochs_on(num_epochs, crop):
    assert choices.choose_crop(num_epochs, is_small=True).value == crop
    assert choices.choose_crop(num_epochs, is_small=False).value == "random_resized"


@given(st.floats(0.1, 2000), st.booleans())
def test_mixing_and_crops_have_reasons(num_epochs, has_teacher):
    mixup, cutmix = choices.choose_mixing(num_epochs, has_teacher=has_teacher)
    scale = choices.choose_scale(num_epochs)
    padding = choices.choose_padding(num_epochs)
    assert padding.value * 32 == (4 if num_epochs >= 30 else 2)
    assert min(mixup.value, cutmix.value) >= 0
    assert 0 < scale.value[0] <= scale.value[1] <= 1
    assert all(choice.reason for choice in (mixup, cutmix, scale, padding))


def test_every_chooser_returns_choices():
    """A new choice without a reason does not go unnoticed."""
    for module in (choices, model_choices):
        for name, chooser in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("choose_"):
                annotation = inspect.signature(chooser).return_annotation
                assert "Choice" in str(annotation), name
    assert Choice._fields == ("value", "reason")


def test_a_budget_that_is_used_up_still_gives_a_sentence():
    """Nothing is left: one step, and no negative seconds in the reason."""
    steps, interval = choices.choose_steps(
        seconds=-5.0, step_s=0.1, evaluation_s=1.0, steps_per_epoch=10, max_epochs=300
    )
    assert (steps.value, interval.value) == (1, 1)
    assert "0 s are left" in steps.reason


def test_a_device_takes_as_many_images_as_half_of_the_free_memory_holds():
    """1 GB free, 10 MB an image: 50 fit, so 32 at once; a batch of 48 fits whole."""
    choose = choices.choose_device_batch_size
    parts = choose(1024, bytes_per_image=10e6, free_bytes=10**9)
    assert parts.value == 32 and "10 MB" in parts.reason and "1024" in parts.reason
    assert choose(48, bytes_per_image=10e6, free_bytes=10**9).value == 48
    assert choose(1024, bytes_per_image=None, free_bytes=10**9).value == 1024
    assert choose(1024, bytes_per_image=10e9, free_bytes=10**9).value == 2


def test_the_size_of_fine_tuning_is_what_the_budget_allows():
    """DeiT-tiny on two cores at 12 G multiply-adds a second each: ten epochs of 900 images take
    some 23 minutes at 224 px, 11 at 160 and 4 at 96."""

    def side(budget_s: float, device_type: str = "cpu", own: int = 224) -> int:
        choice = model_choices.choose_start_size(
            (own, own),
            16,
            embed_dim=192,
            depth=12,
            num_images=900,
            budget_s=budget_s,
            device_type=device_type,
            num_cores=2,
        )
        return choice.value[0]

    assert [side(minutes * 60) for minutes in (1, 5, 8, 15, 30)] == [96, 96, 128, 160, 224]
    assert side(60, "cuda") == 224 and side(60, own=48) == 48


def test_fine_tuning_mixes_only_where_pictures_are_seen_often():
    few, why_few = choices.fine_tuning_views(7)
    many, why_many = choices.fine_tuning_views(18)
    assert (few["views.auto_augment"], few["views.cutmix"]) == ("none", 0.0)
    assert (many["views.auto_augment"], many["views.cutmix"]) == ("rand-m7-mstd0.5-inc1", 1.0)
    assert "7 epochs" in why_few and "18 epochs" in why_many
