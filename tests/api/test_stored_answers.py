"""A teacher paid once: who reads its answers again, who must not, and what a lost cache costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import deitkit
from deitkit.artifacts.bundle import load_bundle
from deitkit.errors import CheckpointError, ConfigError, DataError
from deitkit.training.events import Evaluated, Finished, Planned, StepDone
from tests.api.conftest import SHORT, end_state, leave_after

DISTILLED = {
    **SHORT,
    "model": "deit_nano_distilled_patch4_16",
    "epochs": 4,
    "view_epochs": 2,
    "teacher_cache": "disk",
    "distill.kind": "soft",
    "schedule.eval_interval": 12,
    "schedule.checkpoint_interval": 12,
    "run.report": False,
}
"""6 steps an epoch, 24 in all; 42 images in 2 view epochs: 84 views."""


@pytest.fixture(scope="module")
def caches(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def filled(tmp_path_factory, photos, teacher, caches) -> Path:
    out = tmp_path_factory.mktemp("filled") / "student"
    settings = {**DISTILLED, "distill.cache_folder": str(caches)}
    deitkit.train(data=photos, out=out, teacher=teacher, **settings)
    return out


@pytest.mark.parametrize(
    "changed",
    [
        {"model.depth": 1, "model.embed_dim": 24},
        {"run.weight_seed": 5},
        {"batch_size": 14},
        {"image_size": 32, "model": "deit_nano_distilled_patch4_32"},
        {"distill.temperature": 7.0},
        {"distill.weight": 0.9},
        {"distill.kind": "standardised"},
        {"lr": 0.001},
        {"schedule.sizes": (8, 12, 16)},
    ],
    ids=str,
)
def test_another_student_asks_nothing(tmp_path, photos, teacher, caches, filled, asked, changed):
    settings = {**DISTILLED, "distill.cache_folder": str(caches), **changed}
    deitkit.train(data=photos, out=tmp_path / "x", teacher=teacher, **settings)
    assert asked == [(4 * 42, 0)]


@pytest.mark.parametrize("changed", [{"run.view_seed": 5}, {"views.flip": 0.1}], ids=str)
def test_other_views_are_other_questions(tmp_path, photos, teacher, caches, filled, asked, changed):
    settings = {**DISTILLED, "distill.cache_folder": str(caches), **changed}
    deitkit.train(data=photos, out=tmp_path / "x", teacher=teacher, **settings)
    assert asked == [(2 * 42, 2 * 42)]


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_stored_answers_are_the_live_teachers(tmp_path, photos, teacher, cache):
    """K14: with float32 the end is that of the live teacher on the same views, in every bit."""
    ends = []
    for name in ("off", cache):
        settings = {**DISTILLED, "teacher_cache": name, "distill.cache_dtype": "float32"}
        settings["distill.cache_folder"] = str(tmp_path / "cache")
        run = deitkit.train(data=photos, out=tmp_path / name, teacher=teacher, **settings)
        ends.append(end_state(run.folder))
    assert ends[0] == ends[1]


def test_a_cache_that_is_removed_ends_the_run_after_a_checkpoint(tmp_path, photos, teacher):
    """K16: ERR 4 CACHE_GONE; the same command builds it anew and ends as if nothing had been."""
    caches = tmp_path / "cache"
    settings = {
        **DISTILLED,
        "distill.cache_folder": str(caches),
        "schedule.checkpoint_interval": 100,
    }
    whole = deitkit.train(data=photos, out=tmp_path / "whole", teacher=teacher, **settings)
    shutil.rmtree(caches)
    out = tmp_path / "broken"
    with pytest.raises(CheckpointError, match="CACHE_GONE") as caught:
        for event in deitkit.fit(data=photos, out=out, teacher=teacher, **settings):
            if isinstance(event, StepDone) and event.step == 8:
                shutil.rmtree(caches)
    assert caught.value.exit_code == 4
    assert [path.name for path in (out / "last").glob("step-*")] == ["step-00000008"]
    again = deitkit.train(out=out)
    assert end_state(again.folder) == end_state(whole.folder)


def test_a_run_goes_on_in_the_middle_of_filling(tmp_path, photos, teacher, asked):
    """Left after step 9 of 12 that ask: the answers that were there are read, none twice."""
    settings = {**DISTILLED, "distill.cache_folder": str(tmp_path / "cache")}
    whole = deitkit.train(
        data=photos,
        out=tmp_path / "whole",
        teacher=teacher,
        **{**settings, "distill.cache_folder": str(tmp_path / "other")},
    )
    leave_after(9, data=photos, out=tmp_path / "x", teacher=teacher, **settings)
    run = deitkit.train(out=tmp_path / "x")
    assert end_state(run.folder) == end_state(whole.folder)
    first, second = asked[1:]
    assert first[1] + second[1] == 2 * 42


def test_teach_asks_ahead_and_training_asks_nothing(tmp_path, photos, teacher, asked):
    settings = {**DISTILLED, "distill.cache_folder": str(tmp_path / "cache")}
    del settings["view_epochs"]
    taught = deitkit.teach(data=photos, out=tmp_path / "x", teacher=teacher, views=2, **settings)
    assert (taught.num_view_epochs, taught.num_views, taught.num_asked) == (2, 84, 84)
    again = deitkit.teach(out=tmp_path / "x")
    assert again.num_asked == 0
    deitkit.train(out=tmp_path / "x")
    assert asked[-1] == (4 * 42, 0)
    for wrong, code in (({"teacher": None}, "NO_TEACHER"), ({"teacher_cache": "off"}, "CACHE")):
        with pytest.raises(ConfigError, match=code):
            deitkit.teach(data=photos, out=tmp_path / "y", **{"teacher": teacher, **wrong})


def test_auto_trains_a_teacher_first_and_goes_on_with_it(tmp_path, photos):
    """Left in the middle of the teacher, the same call ends with the same student."""
    settings = {**SHORT, "model": "deit_nano_distilled_patch4_16", "epochs": 12}
    settings |= {"schedule.eval_interval": 36, "schedule.checkpoint_interval": 36}
    settings |= {"teacher": "auto", "teacher_cache": "memory", "view_epochs": 4}
    settings["run.report"] = False
    whole = deitkit.train(data=photos, out=tmp_path / "whole", **settings)
    own = deitkit.open_run(tmp_path / "whole" / "teacher")
    assert own.result["model"] == "quick_cnn" and own.result["steps"] == 3 * 6
    text = (own.folder / "config.yaml").read_text()
    assert "label_smoothing: 0.0" in text and "mixup: 0.0" in text
    assert "teacher: auto" in (whole.folder / "config.yaml").read_text()

    class LeftError(Exception):
        pass

    def left(what, done, total):
        if what == "training the teacher" and done == 7:
            raise LeftError

    with pytest.raises(LeftError):
        deitkit.train(data=photos, out=tmp_path / "left", progress=left, **settings)
    assert not (tmp_path / "left" / "config.yaml").exists()
    again = deitkit.train(data=photos, out=tmp_path / "left", **settings)
    assert end_state(again.folder) == end_state(whole.folder)
    moved = shutil.move(whole.folder, tmp_path / "elsewhere")
    found = deitkit.open_run(moved).evaluate(photos, split="val", teacher="own")
    assert found.diagnostics.agreement["fused"].num_images == 15


def from_python(teacher: Path, version: str = "1") -> deitkit.Classifier:
    bundle = load_bundle(teacher)
    return deitkit.Classifier.from_callable(
        bundle.build_model(),
        name="mine",
        version=version,
        image_size=16,
        mean=bundle.preprocessing.mean,
        std=bundle.preprocessing.std,
        class_names=("a", "b", "c"),
    )


def test_a_network_from_python_teaches_and_is_asked_for_again(tmp_path, photos, teacher):
    out = tmp_path / "x"
    settings = {**DISTILLED, "teacher_cache": "memory"}
    leave_after(5, data=photos, out=out, teacher=from_python(teacher), **settings)
    with pytest.raises(ConfigError, match=r"NO_TEACHER.*Python object.*with it again"):
        deitkit.train(out=out)
    with pytest.raises(CheckpointError, match="TEACHER_CHANGED"):
        deitkit.train(out=out, teacher=from_python(teacher, "2"))
    assert deitkit.train(out=out, teacher=from_python(teacher)).result["steps"] == 24
    with pytest.raises(ConfigError, match=r"TEACHER_NAME.*Linear.*Classifier\.from_callable"):
        deitkit.train(data=photos, out=tmp_path / "y", teacher=nn.Linear(2, 3), **settings)


@pytest.mark.parametrize("fusion", ["softmax", "fitted"])
def test_the_result_is_that_of_the_fusion_in_the_bundle(tmp_path, photos, teacher, fusion):
    settings = {**DISTILLED, "teacher_cache": "off", "view_epochs": 0, "epochs": 2}
    out = tmp_path / "x"
    run = deitkit.train(
        data=photos, out=out, teacher=teacher, **settings, **{"distill.fusion": fusion}
    )
    bundle = load_bundle(out)
    assert bundle.fusion == fusion and (bundle.fusion_weight is not None) == (fusion == "fitted")
    evaluation = run.evaluate(photos, split="val")
    assert evaluation.accuracy == pytest.approx(run.result["val_top1"])
    assert evaluation.fused.nll == pytest.approx(run.result["best"]["nll"], rel=1e-5)


def test_pictures_without_labels_are_shown_and_told(tmp_path, photos, teacher):
    """New ones, one of the validation images, and a broken file: only the new ones are shown."""
    more = tmp_path / "more"
    more.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(50 + number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(more / f"{number}.png")
    known = next((photos / "val").rglob("*.png"))
    shutil.copy(known, more / "known.png")
    (more / "broken.png").write_bytes(b"none")
    settings = {**DISTILLED, "teacher_cache": "memory", "unlabelled": str(more)}
    seen, notes = set(), []
    events = deitkit.fit(data=photos, out=tmp_path / "x", teacher=teacher, **settings)
    for event in events:
        if isinstance(event, StepDone):
            seen |= set(event.sample_ids)
        elif type(event).__name__ == "Warned":
            notes.append(event.text)
    assert len(seen) == 42 + 5
    assert any("1 are among the labelled ones, 1 could not be read" in note for note in notes)
    leave_after(3, data=photos, out=tmp_path / "y", teacher=teacher, **settings)
    (more / "4.png").unlink()
    with pytest.raises(CheckpointError, match="DATASET_CHANGED"):
        deitkit.train(out=tmp_path / "y")
    with pytest.raises(ConfigError, match=r"NO_TEACHER.*without a teacher"):
        deitkit.train(data=photos, out=tmp_path / "z", unlabelled=more, **SHORT)
    with pytest.raises((ConfigError, DataError), match="nowhere"):
        deitkit.train(
            data=photos, out=tmp_path / "z", teacher=teacher, unlabelled=tmp_path / "nowhere"
        )


def test_teacher_and_student_stand_side_by_side(tmp_path, photos, teacher):
    """Table before, agreement meanwhile, comparison after; and the run's folder says it all."""
    settings = {**DISTILLED, "teacher_cache": "off", "view_epochs": 0, "epochs": 2}
    events = list(deitkit.fit(data=photos, out=tmp_path / "x", teacher=teacher, **settings))
    (plan,) = [e for e in events if isinstance(e, Planned)]
    assert plan.teacher == json.loads((tmp_path / "x" / "teacher.json").read_text())
    assert plan.teacher["clean"]["num_images"] == 15 and plan.teacher["storage"] == "live"
    assert plan.teacher["cost"]["teacher_step_s"] > 0
    evaluated = [e for e in events if isinstance(e, Evaluated)]
    for event in evaluated:
        for scores in event.scores.values():
            assert {"agree_fused", "agree_cls", "agree_dist"} <= set(scores)
            assert -1 <= scores["token_cos_in"] <= 1 and -1 <= scores["token_cos_out"] <= 1
    (end,) = [e for e in events if isinstance(e, Finished)]
    comparison = end.result["teacher"]
    assert comparison["gain"]["share"]["num_images"] == 15
    assert comparison["gain"]["share"]["value"] == pytest.approx(end.result["val_top1"])
    own = deitkit.open_run(teacher).result["parameters"]
    assert comparison["teacher"]["num_params"] == own


def test_strengths_have_stored_views_of_their_own(tmp_path, photos, teacher, asked):
    """Three strengths of six epochs over three view epochs: 126 views are asked about, by teach or
    by training, and neither cache is that of one strength; left and gone on, the same end."""
    settings = {**DISTILLED, "epochs": 6, "view_epochs": 3, "views.erasing": 0.5}
    settings |= {"distill.cache_folder": str(tmp_path / "cache"), "sizes": (8, 12, 16)}
    grown = settings | {"strengths": (0.2, 0.6, 1.0)}
    told = grown | {"run.report": True}
    whole = deitkit.train(data=photos, out=tmp_path / "whole", teacher=teacher, **told)
    assert asked == [(3 * 42, 3 * 42)]
    facts = json.loads((whole.folder / "teacher.json").read_text())
    assert facts["cost"]["num_view_epochs"] == 3
    report = (whole.folder / "report.html").read_text(encoding="utf-8")
    assert "0.2, 0.6, 1 of the full one, each for an equal part" in report

    leave_after(20, data=photos, out=tmp_path / "left", teacher=teacher, **grown)
    again = deitkit.train(out=tmp_path / "left")
    assert end_state(again.folder) == end_state(whole.folder)
    assert [misses for _, misses in asked[1:]] == [0, 0]

    other = grown | {"distill.cache_folder": str(tmp_path / "other")}
    del other["view_epochs"]
    taught = deitkit.teach(data=photos, out=tmp_path / "t", teacher=teacher, views=3, **other)
    assert (taught.num_views, taught.num_asked) == (126, 126)
    deitkit.train(out=tmp_path / "t")
    assert asked[-1] == (6 * 42, 0)
    assert end_state(tmp_path / "t") == end_state(whole.folder)

    deitkit.train(data=photos, out=tmp_path / "plain", teacher=teacher, **settings)
    # Without strengths it has a cache of its own, and takes nobody's place.
    assert asked[-1] == (3 * 42, 3 * 42)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_strength_needs_views_of_its_own(tmp_path, photos, teacher):
    settings = {**DISTILLED, "strengths": (0.2, 0.6, 1.0)}
    with pytest.raises(ConfigError, match=r"STRENGTHS.*view_epochs is 2.*use view_epochs=3"):
        deitkit.train(data=photos, out=tmp_path / "x", teacher=teacher, **settings)
    assert not (tmp_path / "x" / "config.yaml").exists()
