"""What `train` returns: results, evaluation, predictions; and one run as another's teacher."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import deitkit
from deitkit.errors import ConfigError, DataError, ModelFileError
from deitkit.models import create_model
from deitkit.training.events import Planned
from tests.api.conftest import SHORT, tree
from tests.training.toy import write_photos


@pytest.fixture(scope="module")
def run(finished_once) -> deitkit.Run:
    return deitkit.open_run(finished_once)


def test_the_result_is_what_was_measured(run, photos):
    """The best bundle, evaluated again on the same images, has the accuracy of the result."""
    evaluation = run.evaluate(photos, split="val")
    assert evaluation.accuracy == run.result["val_top1"] == run.result["best"]["top1"]
    assert evaluation.fused.nll == pytest.approx(run.result["best"]["nll"], rel=1e-5)
    assert list(evaluation.fused.top1_interval) == run.result["val_top1_interval"]
    assert (evaluation.fused.num_images, run.result["num_val"]) == (15, 15)
    model = create_model("deit_nano_patch4_16", num_classes=3, depth=2, embed_dim=48, num_heads=2)
    assert run.result["parameters"] == sum(p.numel() for p in model.parameters())
    assert run.result["steps"] == 12
    assert run.class_names == ("a", "b", "c")


def test_without_data_a_run_is_measured_on_its_own(run, photos):
    assert run.evaluate().accuracy == run.result["val_top1"]
    assert run.evaluate().source == f"{photos} (val)"


def test_predictions_agree_with_the_evaluation(run, photos):
    right = sum(
        prediction.class_name == name
        for name in "abc"
        for prediction in run.predict(photos / "val" / name)
    )
    assert right / 15 == run.result["val_top1"]


def test_a_picture_is_the_same_however_it_is_given(run, photos):
    path = photos / "val" / "b" / "0.png"
    array = np.asarray(Image.open(path))
    found = [
        run.predict(given)[0].probabilities
        for given in (path, str(path), [path], Image.open(path), array)
    ]
    for probabilities in found[1:]:
        assert np.array_equal(probabilities, found[0])
    assert found[0].sum() == pytest.approx(1, abs=1e-6)


def test_a_bad_picture_raises_or_is_told(run, photos, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good = photos / "val" / "a" / "0.png"
    told: list[str] = []
    found = list(
        run.predict_iter([tmp_path / "bad.png", good], on_bad=lambda name, error: told.append(name))
    )
    assert [prediction.source for prediction, _ in found] == [str(good)]
    assert len(told) == 1 and told[0].endswith("bad.png")
    with pytest.raises(Exception, match=r"not_an_image|bad\.png"):
        run.predict(tmp_path / "bad.png")


def test_a_bundle_alone_is_a_run_that_does_not_know_its_data(run):
    bundle = deitkit.open_run(run.folder / "best")
    assert bundle.class_names == run.class_names
    assert bundle.result is None
    with pytest.raises(ConfigError, match="data=photos/test"):
        bundle.evaluate()


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist") as caught:
        deitkit.open_run(tmp_path / "nothing")
    assert caught.value.code == "NO_RUN"
    with pytest.raises(ModelFileError) as no_bundle:
        deitkit.open_run(tmp_path).predict(np.zeros((16, 16, 3), np.uint8))
    assert no_bundle.value.exit_code == 5


def test_classes_the_run_does_not_know_are_refused(run, tmp_path):
    write_photos(tmp_path / "others", train=1, val=2, names=("a", "z"))
    with pytest.raises(DataError) as caught:
        run.evaluate(tmp_path / "others", split="val")
    assert caught.value.code == "CLASS_MISMATCH" and "z" in str(caught.value)


def test_an_evaluation_matches_classes_by_name(run, photos, tmp_path):
    """Only b and c, in folders of their own: indices 1 and 2 stay theirs."""
    for name in "bc":
        shutil.copytree(photos / "val" / name, tmp_path / "some" / name)
    some = run.evaluate(tmp_path / "some")
    whole = run.evaluate(photos, split="val")
    assert [c.recall for c in some.fused.per_class[1:]] == [
        c.recall for c in whole.fused.per_class[1:]
    ]
    assert some.fused.per_class[0].recall is None


def test_a_run_teaches_another(tmp_path, photos, finished_once):
    """teacher= takes a Run; classes in another order are matched by name; the teacher stays."""
    before = tree(finished_once)
    events: list = []
    student = deitkit.train(
        data=photos,
        out=tmp_path / "student",
        teacher=deitkit.open_run(finished_once),
        on_event=events.append,
        **(SHORT | {"model": "deit_nano_distilled_patch4_16", "epochs": 1}),
    )
    steps = [e for e in events if type(e).__name__ == "StepDone"]
    assert all(float(e.losses.distill) > 0 for e in steps)
    assert set(student.evaluate().heads) == {"fused", "cls", "dist"}
    assert tree(finished_once) == before


def test_a_teacher_of_other_classes_gets_a_head_of_its_own(tmp_path, finished_once):
    """The classes are not matched by name: a head is fitted, the report says so, and it is the
    same again when the run goes on."""
    write_photos(tmp_path / "others", names=("a", "z"))
    settings = SHORT | {"model": "deit_nano_distilled_patch4_16"}
    planned = []
    deitkit.train(
        data=tmp_path / "others",
        out=tmp_path / "x",
        teacher=str(finished_once),
        on_event=lambda e: planned.append(e) if isinstance(e, Planned) else None,
        **settings,
    )
    (said,) = [plan.teacher["classes"] for plan in planned]
    assert "does not know z" in said and "a linear head was fitted on its features" in said
    assert "in 5-fold cross-validation" in said
    facts = json.loads((tmp_path / "x" / "teacher.json").read_text())
    assert facts["classes"] == said
    assert deitkit.verify_resume(tmp_path / "x", steps=4).holds
