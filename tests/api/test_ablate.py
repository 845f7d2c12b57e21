"""The ladder: its steps as settings, its intervals, and who may judge a difference."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deitkit.api.ablate import ablate
from deitkit.api.freeze import scan
from deitkit.api.ladder import (
    OF_THE_DATA,
    fit_to_data,
    folder_name,
    learns_from_teacher,
    own_settings,
    read_ladder,
)
from deitkit.api.request import read_request
from deitkit.api.teaching import read_auto_request
from deitkit.config import build_config
from deitkit.config.recipes import list_recipes, list_rungs, read_recipe, read_rung
from deitkit.errors import CheckpointError, ConfigError
from deitkit.evaluation.metrics import wilson_interval
from deitkit.models import list_models, name_facts, named_like
from deitkit.reporting.ablation import draw_ablation, summarise_rungs, t_interval, t_quantile
from tests.training.toy import write_photos

PAPER = "vit_original,+hyperparameters,+augment,+regularise,+teacher"
OWN = {"data.path": "photos", "schedule.epochs": 2}


@pytest.mark.parametrize(
    ("degrees", "wanted"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (10, 2.2281), (30, 2.0423)],
)
def test_quantiles_of_the_printed_table(degrees, wanted):
    """Two-sided 95 %, as at the end of any book on statistics."""
    assert t_quantile(0.975, degrees) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize("probability", [0.5, 0.75, 0.95, 0.975, 0.9995])
def test_quantiles_agree_with_scipy(probability):
    stats = pytest.importorskip("scipy.stats")
    for degrees in [*range(1, 31), 99]:
        wanted = stats.t.ppf(probability, degrees)
        assert t_quantile(probability, degrees) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_interval_by_hand():
    """1, 2, 3: mean 2, s 1, t 4.3027, so 2 +- 4.3027 / sqrt 3 = 2 +- 2.4841."""
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    wide = t_interval([2.0, 2.0, 2.0], least_deviation=1.0)
    assert wide == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_interval_agrees_with_scipy(values):
    stats = pytest.importorskip("scipy.stats")
    deviation = statistics.stdev(values)
    assume(deviation > 1e-6)
    mean = math.fsum(values) / len(values)
    wanted = stats.t.interval(0.95, len(values) - 1, mean, deviation / len(values) ** 0.5)
    assert t_interval(values) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def runs(*accuracies: float) -> list[tuple[float, float]]:
    return [(accuracy, 10.0 + k) for k, accuracy in enumerate(accuracies)]


def test_a_step_that_helps_one_that_hurts_and_one_that_nobody_can_tell():
    """Gains .10, .11, .12: mean .11, s .01, .11 +- 4.3027 * .01 / sqrt 3 = .0852 to .1348."""
    rungs = summarise_rungs(
        {
            "plain": runs(0.50, 0.60, 0.55),
            "+good": runs(0.60, 0.71, 0.67),
            "+bad": runs(0.50, 0.60, 0.57),
            "+noise": runs(0.57, 0.55, 0.56),
        },
        num_images=10_000,
    )
    plain, good, bad, noise = rungs
    assert (plain.difference, plain.difference_interval, plain.verdict) == (None, None, None)
    assert plain.mean == pytest.approx(0.55)
    assert good.difference == pytest.approx(0.11)
    assert good.difference_interval == pytest.approx((0.11 - 0.02484, 0.11 + 0.02484), abs=1e-5)
    assert [rung.verdict for rung in (good, bad, noise)] == ["helps", "hurts", "cannot tell"]
    assert bad.difference == pytest.approx(-0.31 / 3)
    assert plain.seconds == 11.0


def test_pairs_are_compared_and_not_means():
    """Seeds differ by 40 points, the gain by 1: the means alone could not tell."""
    rungs = summarise_rungs(
        {"plain": runs(0.3, 0.5, 0.7), "+good": runs(0.34, 0.55, 0.74)}, num_images=10_000
    )
    assert rungs[1].verdict == "helps"
    assert rungs[1].interval[0] < rungs[0].mean < rungs[1].interval[1]


def test_agreement_of_two_seeds_on_few_images_proves_nothing():
    """Twice +1 of 10 images: s is that of rounding, .1 / sqrt 6, and 12.7 of it is far too much."""
    two = summarise_rungs({"a": runs(0.5, 0.5), "+b": runs(0.6, 0.6)}, num_images=10)
    assert two[1].verdict == "cannot tell"
    reach = 12.7062 * 0.1 / math.sqrt(6) / math.sqrt(2)
    assert two[1].difference_interval == pytest.approx((0.1 - reach, 0.1 + reach), abs=1e-4)
    many = summarise_rungs({"a": runs(0.5, 0.5), "+b": runs(0.6, 0.6)}, num_images=10_000)
    assert many[1].verdict == "helps"


def test_one_seed_has_the_interval_of_its_images_and_no_verdict():
    rungs = summarise_rungs({"a": runs(0.5), "+b": runs(1.0)}, num_images=100)
    assert rungs[0].interval == wilson_interval(50, 100)
    assert rungs[1].interval == wilson_interval(100, 100)
    assert (rungs[1].difference, rungs[1].difference_interval) == (0.5, None)
    assert rungs[1].verdict == "cannot tell"


@given(st.lists(st.integers(0, 20), min_size=2, max_size=6))
def test_intervals_of_accuracies_are_shares(correct):
    accuracies = [number / 20 for number in correct]
    first, second = summarise_rungs(
        {"a": runs(*accuracies), "+b": runs(*reversed(accuracies))}, num_images=20
    )
    assert 0 <= first.interval[0] <= first.mean <= first.interval[1] <= 1
    low, high = second.difference_interval
    assert -1 <= low <= second.difference <= high <= 1
    assert second.difference == pytest.approx(0, abs=1e-12)
    assert second.verdict == "cannot tell"


def test_chart_shows_percent():
    rungs = summarise_rungs({"a": runs(0.5, 0.52), "+b": runs(0.61, 0.6)}, num_images=1000)
    svg = draw_ablation({"rungs": [rung.to_dict() for rung in rungs], "seeds": [0, 1]})
    assert "+b: 60.5, " in svg and "over seeds" in svg


def test_steps_add_up():
    """Each step holds the settings of all before it; the later one counts."""
    ladder = read_ladder(PAPER, OWN)
    assert list(ladder) == PAPER.split(",")
    before: dict = {}
    for name, rung in ladder.items():
        added = read_rung(name[1:]) if name.startswith("+") else {}
        assert added.items() <= rung.items()
        kept = {k: v for k, v in before.items() if k not in added}
        assert kept.items() <= rung.items()
        before = rung
    assert ladder["vit_original"]["views.mixup"] == 0.0
    assert ladder["+augment"]["views.mixup"] == ladder["+teacher"]["views.mixup"] == 0.8
    assert [learns_from_teacher(rung) for rung in ladder.values()] == [False] * 4 + [True]


def test_what_the_teacher_says_and_what_it_gives_are_two_steps():
    """Else a ladder would call the gain by the teacher's stages one by its decisions."""
    ladder = read_ladder("deit_tiny,+teacher,+stem", OWN)
    assert [rung.get("model.init_stem") for rung in ladder.values()] == [None, "new", "teacher"]
    said, given_too = ladder["+teacher"], ladder["+stem"]
    assert given_too == {**said, "model.init_stem": "teacher"}


@pytest.mark.parametrize("recipe", list_recipes())
def test_a_recipe_leaves_data_and_length_to_the_ladder(recipe):
    """All else is the recipe's own; own settings come before it."""
    (rung,) = read_ladder(recipe, {**OWN, "optim.lr": 0.123, "data.image_size": 16}).values()
    for name, value in read_recipe(recipe).items():
        section = name.partition(".")[0]
        if section in ("run", "schedule", *OF_THE_DATA) or name in OF_THE_DATA:
            assert name not in rung or name in ("data.image_size", "schedule.epochs")
        elif name != "optim.lr":
            assert rung[name] == value
    assert (rung["optim.lr"], rung["data.image_size"], rung["schedule.epochs"]) == (0.123, 16, 2)
    assert "optim.batch_size" not in rung and "model.name" not in rung


def test_whole_recipes_beside_each_other_start_anew():
    ladder = read_ladder(["deit_tiny", "+teacher", "vit_original"], OWN)
    assert "distill.kind" not in ladder["vit_original"]
    assert ladder["vit_original"]["optim.weight_decay"] == 0.3


def test_distillation_is_set_only_where_there_is_a_teacher():
    ladder = read_ladder(PAPER, {**OWN, "distill.weight": 0.3})
    assert [rung.get("distill.weight") for rung in ladder.values()] == [None] * 4 + [0.3]


def test_steps_may_be_files(tmp_path):
    """One of the user's own adds what it says, also what presets leave to the data."""
    base, more = tmp_path / "base.yaml", tmp_path / "conv.yaml"
    base.write_text("extends: vit_original\noptim:\n  lr: 0.5\n")
    more.write_text("model:\n  stem: conv\noptim:\n  batch_size: 8\n")
    ladder = read_ladder(f"{base},+{more}", OWN)
    first, second = ladder.values()
    assert (first["optim.lr"], first["optim.weight_decay"]) == (0.5, 0.3)
    assert second == {**first, "model.stem": "conv", "optim.batch_size": 8}
    assert [folder_name(name) for name in ladder] == ["base", "conv"]


@pytest.mark.parametrize(
    ("steps", "code", "said"),
    [
        ("", "STEPS", "begin with one"),
        ("+augment", "STEPS", "no whole recipe"),
        ("vit_original,+augment,+augment", "STEPS", "twice"),
        ("vit_orginal", "RECIPE", "use vit_original"),
        ("vit_original,+regularize", "RECIPE", "use regularise"),
        ("none.yaml", "CONFIG_FILE", "check the path"),
    ],
)
def test_steps_that_cannot_be_right(steps, code, said):
    with pytest.raises(ConfigError, match=said) as raised:
        read_ladder(steps, OWN)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"seed": 3}, "USAGE"),
        ({"run.out": "x"}, "USAGE"),
        ({"distill.teacher": "x"}, "USAGE"),
        ({"ranks": 2}, "USAGE"),
        ({"epoch": 3}, "UNKNOWN_SETTING"),
        ({"optim.lr": "fast"}, "BAD_VALUE"),
        ({"lr": 1, "optim.lr": 2}, "TWICE"),
        ({"data": [("image", 0)]}, "NO_DATA"),
        ({"data": "nowhere"}, "NO_DATA"),
        ({"seeds": 0}, "BAD_VALUE"),
        ({"steps": PAPER, "teacher": "nowhere"}, "NO_TEACHER"),
        ({"teacher": "."}, "TEACHER"),
    ],
)
def test_settings_that_cannot_be_right_stop_before_anything_is_read(tmp_path, settings, code):
    """Also a teacher that is not there, which the last run alone would ask for."""
    given = {"data": str(tmp_path), "steps": "vit_original", "out": tmp_path / "out", **settings}

    def never(what: str, done: int, total: int | None) -> None:
        raise AssertionError("the images were read")

    with pytest.raises(ConfigError) as raised:
        ablate(progress=never, **given)
    assert raised.value.code == code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", [name for name in list_models() if name.startswith("deit_")])
def test_variants_with_and_without_token_exist_and_are_alike(model):
    plain, token = (named_like(model, distilled=d) for d in (False, True))
    assert model in (plain, token)
    if "tutorial" not in model:
        assert plain != token
    assert name_facts(plain) == name_facts(token)
    assert {plain, token} <= set(list_models())


def test_other_models_keep_their_name():
    assert named_like("small_cnn", distilled=True) == "small_cnn"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("ladder") / "photos", train=4, val=2)


def test_steps_share_model_size_and_crop(photos):
    """16 px, 4 images a class: what train takes, padded crops; the token with the teacher."""
    own = own_settings({"data": photos, "epochs": 2, "workers": 0})
    ladder, taught = fit_to_data(
        read_ladder(PAPER, own), own, lambda *told: None, trains_teacher=True
    )
    names = [rung["model.name"] for rung in ladder.values()]
    assert names == ["deit_tiny_quick_patch2_16"] * 4 + ["deit_tiny_quick_distilled_patch2_16"]
    assert {rung["data.image_size"] for rung in ladder.values()} == {(16, 16)}
    assert {rung["views.crop"] for rung in ladder.values()} == {"padded"}
    assert {build_config(rung).schedule.epochs for rung in ladder.values()} == {2}
    assert taught is not None
    assert (taught["model.name"], taught["data.image_size"]) == ("quick_cnn", (16, 16))
    assert (taught["schedule.epochs"], taught["run.workers"]) == (2, 0)
    assert not any(name.startswith(("views.", "optim.", "distill.")) for name in taught)


def test_larger_images_get_crops(photos):
    own = own_settings({"data": photos, "epochs": 2, "image_size": "128"})
    ladder, taught = fit_to_data(read_ladder("vit_original", own), own, lambda *told: None)
    assert ladder["vit_original"]["views.crop"] == "random_resized"
    assert taught is None


def test_student_and_teacher_are_those_of_train(photos, monkeypatch):
    """12 images of 64 px thirty times on two cores of 12 G multiply-adds a second: micro, of 83 M,
    takes 3.7 s, three times forward; tiny, of 361 M, 16 s."""
    monkeypatch.setattr("deitkit.runtime.processors.usable_cpus", lambda: 2)
    given = {"data": photos, "budget": "8s", "image_size": "64", "device": "cpu"}
    own = own_settings(given)
    ladder, taught = fit_to_data(
        read_ladder("deit_tiny,auto,+teacher", own), own, lambda *told: None, trains_teacher=True
    )
    assert taught is not None
    assert ladder["auto"]["model.name"] == "deit_micro_quick_patch8_64"
    assert ladder["+teacher"]["model.name"] == "deit_micro_quick_distilled_patch8_64"
    assert (ladder["auto"].get("optim.lr"), ladder["deit_tiny"]["optim.lr"]) == (None, 0.0005)
    request = read_request({**given, "model": "deit_micro_quick_patch8_64", "teacher": "auto"})
    dataset = scan(request.config, str(photos), lambda *told: None)
    own_teacher = read_auto_request(request, dataset, device_type="cpu").config.model.name
    assert taught["model.name"] == own_teacher == "quick_cnn"


def test_the_users_model_is_kept_in_every_step(photos):
    own = own_settings({"data": photos, "epochs": 2, "model": "deit_nano_conv_distilled_patch4_16"})
    ladder, _ = fit_to_data(read_ladder("vit_original,+teacher", own), own, lambda *told: None)
    assert [rung["model.name"] for rung in ladder.values()] == [
        "deit_nano_conv_patch4_16",
        "deit_nano_conv_distilled_patch4_16",
    ]


@pytest.mark.parametrize(
    ("steps", "model", "said"),
    [
        ("deit_tiny,+stem", None, "put .teacher before it"),
        ("deit_tiny,+teacher,+stem", "deit_nano_conv_patch4_16", "no pooling stages"),
    ],
)
def test_stages_that_nobody_has_stop_before_the_first_run(photos, tmp_path, steps, model, said):
    """Its row would say that stages bring nothing."""
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=said) as raised:
        ablate(data=photos, steps=steps, model=model, epochs=1, out=out)
    assert raised.value.code == "STEPS"
    assert not out.exists()


def test_stages_are_taken_where_there_are_any(photos):
    own = own_settings({"data": photos, "epochs": 2, "model": "deit_slim_quick_patch4_16"})
    steps = read_ladder("deit_tiny,+teacher,+stem", own)
    ladder, _ = fit_to_data(steps, own, lambda *told: None)
    assert ladder["+stem"] == {**ladder["+teacher"], "model.init_stem": "teacher"}


def test_model_that_does_not_fit_stops_before_the_first_run(photos, tmp_path):
    given = {"data": photos, "steps": "vit_original", "out": tmp_path / "out", "epochs": 1}
    with pytest.raises(ConfigError) as raised:
        ablate(model="deit_nano_patch4_16", image_size=18, **given)
    assert raised.value.code == "IMAGE_SIZE"
    assert not (tmp_path / "out").exists()


def test_run_with_more_settings_than_the_step_is_refused(photos, tmp_path):
    """`fit` keeps what a command leaves out; a step of a ladder would then not be what it says."""
    from tests.training.toy import TINY

    recipe, less = tmp_path / "base.yaml", "model:\n  init: scratch\n"
    recipe.write_text(less + "optim:\n  weight_decay: 0.2\n")
    given = {"data": photos, "steps": str(recipe), "out": tmp_path / "out", "epochs": 1, "seeds": 1}
    given |= {**TINY, "workers": 0}
    first = ablate(**given)
    written = json.loads((first.folder / "ablation.json").read_text())
    assert written["settings"][str(recipe)]["optim.weight_decay"] == 0.2
    assert written["num_images"] == 6 and written["teacher"] is None
    # Another number of workers changes no weight, so it may be left out.
    del given["workers"]
    assert ablate(**given).rungs == first.rungs
    recipe.write_text(less)
    with pytest.raises(CheckpointError, match=r"optim\.weight_decay=0\.2") as raised:
        ablate(**given)
    assert raised.value.code == "CONFIG_MISMATCH"


def test_every_rung_can_stand_in_a_ladder():
    assert set(list_rungs()) >= {"hyperparameters", "augment", "regularise", "teacher"}
    for rung in list_rungs():
        read_ladder(f"vit_original,+{rung}", OWN)
