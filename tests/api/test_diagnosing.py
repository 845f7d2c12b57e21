"""Evaluation beside a teacher and another run: who is asked, about which classes, through what."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deitkit
from deitkit.api.request import PYTHON_TEACHER
from deitkit.artifacts.bundle import Bundle, save_bundle
from deitkit.config import RunConfig, with_values, write_config_text
from deitkit.data import open_split
from deitkit.data.preprocess import Preprocessing
from deitkit.errors import CheckpointError, ConfigError, ModelFileError
from deitkit.models import create_model
from deitkit.teachers import Classifier
from deitkit.training.teacher_ready import load_ready, prepare_teacher, save_ready
from deitkit.training.teacher_source import open_teacher
from tests.training.toy import ConvTeacher, write_photos

OWN = Preprocessing(image_size=(16, 16), crop_ratio=1.0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
CPU = torch.device("cpu")
NAMES = ("a", "b", "c")
STAGES = ["reading images", "asking the teacher", "asking the other run", "evaluating"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """60 pictures of three classes."""
    return write_photos(tmp_path_factory.mktemp("photos"), train=1, val=20) / "val"


def pixels_of(pictures: Path, spec: Preprocessing) -> torch.Tensor:
    """All pictures, class by class, read with Pillow alone: they need no resizing."""
    mode = "RGB" if spec.channels == 3 else "L"
    paths = [path for name in NAMES for path in (pictures / name).iterdir()]
    arrays = [np.asarray(Image.open(path).convert(mode), np.float32) for path in paths]
    levels = torch.from_numpy(np.stack(arrays)).reshape(len(paths), 16, 16, -1).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
    return (levels / 255 - mean) / std


LABELS = np.repeat(np.arange(3), 20)


def make_run(
    folder: Path,
    pictures: Path,
    *,
    names: tuple[str, ...] = NAMES,
    spec: Preprocessing = OWN,
    distilled: bool = False,
    seed: int = 0,
    teacher: str | None = None,
) -> Path:
    """A run as training leaves it, of an untrained network that knows its mind."""
    torch.manual_seed(seed)
    name = f"deit_nano{'_distilled' if distilled else ''}_patch4_16"
    shape = {"depth": 2, "embed_dim": 24, "num_heads": 2, "in_channels": spec.channels}
    model = create_model(name, num_classes=len(names), **shape).eval()
    with torch.no_grad():
        for logits, head in zip(
            model(pixels_of(pictures, spec)), (model.head, model.head_dist), strict=True
        ):
            if head is not None:
                head.bias -= 200 * logits.mean(dim=0)
                head.weight *= 200
    bundle = Bundle(
        model_config=model.config,
        class_names=names,
        preprocessing=spec,
        provenance={},
        state_dict=model.state_dict(),
    )
    save_bundle(folder / "best", bundle)
    config = with_values(RunConfig(), {"distill.teacher": teacher, "data.path": str(pictures)})
    text = write_config_text(config, asked={}, reasons={}, identity={}, header="a test's")
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder


def decisions_of(folder: Path, pictures: Path) -> np.ndarray:
    """Its most probable class of each picture out of `NAMES`, with torch alone."""
    bundle = deitkit.open_run(folder).predictor.bundle
    with torch.no_grad():
        cls, dist = bundle.build_model()(pixels_of(pictures, bundle.preprocessing))
    logits = cls if dist is None else (cls + dist) / 2
    columns = [bundle.class_names.index(name) for name in NAMES]
    return logits[:, columns].argmax(dim=1).numpy()


@pytest.fixture(scope="module")
def runs(pictures, tmp_path_factory) -> dict[str, Path]:
    """A student, its teacher with the classes in another order and one more, and a run of grey
    pictures."""
    root = tmp_path_factory.mktemp("runs")
    grey = Preprocessing(image_size=(16, 16), crop_ratio=1.0, channels=1, mean=(0.3,), std=(0.1,))
    dark = Preprocessing(image_size=(16, 16), crop_ratio=1.0, mean=(0.1,) * 3, std=(0.5,) * 3)
    teacher = make_run(root / "t", pictures, names=("c", "x", "a", "b"), spec=dark, seed=1)
    student = make_run(root / "s", pictures, distilled=True, teacher=str(teacher), seed=2)
    plain = make_run(root / "p", pictures, names=("b", "c", "a"), spec=grey, seed=3)
    return {"student": student, "teacher": teacher, "plain": plain}


@pytest.mark.parametrize("form", ["own", "text", "path", "run", "classifier"])
def test_agreement_is_counted_by_name(pictures, runs, form):
    """Against torch alone, whatever form the teacher comes in."""
    teacher = {
        "own": "own",
        "text": str(runs["teacher"]),
        "path": runs["teacher"] / "best",
        "run": deitkit.open_run(runs["teacher"]),
        "classifier": open_teacher(runs["teacher"], device=CPU),
    }[form]
    evaluation = deitkit.open_run(runs["student"]).evaluate(pictures, teacher=teacher)
    expected = decisions_of(runs["teacher"], pictures)
    assert len(set(expected)) == 3
    found = evaluation.diagnostics
    own = decisions_of(runs["student"], pictures)
    assert found.agreement["fused"].num_right == (own == expected).sum()
    bundle = deitkit.open_run(runs["student"]).predictor.bundle
    with torch.no_grad():
        heads = bundle.build_model()(pixels_of(pictures, OWN))
    for name, logits in zip(("cls", "dist"), heads, strict=True):
        agrees = (logits.argmax(dim=1).numpy() == expected).sum()
        assert found.agreement[name].num_right == agrees, name
    assert found.token_gain.share == found.agreement["dist"]
    assert evaluation.asked[0].endswith("all 3 classes matched by name, 1 more left out")
    assert found.gain is None and found.class_gains is None


def test_gain_over_a_run_that_reads_grey_pictures(pictures, runs):
    """A.25: its own preprocessing, its own order of classes, the same pictures."""
    student, plain = (deitkit.open_run(runs[name]) for name in ("student", "plain"))
    evaluation = student.evaluate(pictures, teacher="own", against=runs["plain"])
    found = evaluation.diagnostics
    own, other = (decisions_of(runs[name], pictures) for name in ("student", "plain"))
    assert len(set(other)) > 1
    assert found.gain.share.value == evaluation.accuracy == (own == LABELS).mean()
    assert found.gain.other.value == plain.evaluate(pictures).accuracy == (other == LABELS).mean()
    for k, row in enumerate(found.class_gains):
        assert row.name == NAMES[k]
        assert row.gain.share.num_right == (own[20 * k : 20 * k + 20] == k).sum()
        assert row.gain.other.num_right == (other[20 * k : 20 * k + 20] == k).sum()
    agrees = (other == decisions_of(runs["teacher"], pictures)).sum()
    assert found.agreement["other"].num_right == agrees
    assert list(evaluation.asked)[1] == f"other run {runs['plain']}: all 3 classes matched by name"
    without = student.evaluate(pictures, against=plain).diagnostics
    assert without.gain == found.gain and without.agreement == {} and without.token_gain is None


def test_a_run_against_itself_gains_nothing(pictures, runs):
    student = deitkit.open_run(runs["student"])
    found = student.evaluate(pictures, teacher=student, against=student).diagnostics
    assert found.agreement["fused"].value == found.agreement["other"].value == 1.0
    assert found.gain.difference == 0.0 and found.gain.p_value == 1.0


def test_a_colour_teacher_of_a_grey_run(pictures, runs):
    """Each reads the pictures in its own channels."""
    found = deitkit.open_run(runs["plain"]).evaluate(pictures, teacher=runs["teacher"]).diagnostics
    own, teacher = (decisions_of(runs[name], pictures) for name in ("plain", "teacher"))
    assert found.agreement["fused"].num_right == (own == teacher).sum()


def test_tokens_are_shown_without_being_asked(pictures, runs):
    """A.26: both tokens start near zero, so that their positions tell them apart."""
    student, plain = (deitkit.open_run(runs[name]) for name in ("student", "plain"))
    found = student.evaluate(pictures).diagnostics
    assert found.tokens.num_images == 60 and abs(found.tokens.input) < 0.6
    assert found.agreement == {} and found.gain is None
    assert plain.evaluate(pictures).diagnostics is None


def test_the_teacher_that_auto_trained_lies_in_the_run(pictures, runs, tmp_path):
    out = make_run(tmp_path / "s", pictures, teacher="auto", seed=2)
    make_run(out / "teacher", pictures, seed=5)
    found = deitkit.open_run(out).evaluate(pictures, teacher="own").diagnostics
    own, teacher = decisions_of(out, pictures), decisions_of(out / "teacher", pictures)
    assert 0 < found.agreement["fused"].num_right == (own == teacher).sum() < 60


@pytest.fixture(scope="module")
def refitted(pictures, tmp_path_factory) -> Path:
    """A run whose teacher knows other classes: a head was fitted on it. Do not change it."""
    folder = tmp_path_factory.mktemp("refitted")
    teacher = make_run(folder / "t", pictures, names=("x", "y"), seed=7)
    out = make_run(folder / "s", pictures, distilled=True, teacher=str(teacher), seed=2)
    images = open_split(pictures)
    ready = prepare_teacher(
        open_teacher(teacher, device=CPU), images, images, channels=3, seed=0, max_seconds=None
    )
    assert ready.head is not None
    save_ready(ready, out)
    return out


@pytest.mark.parametrize("asked", ["own", "by its name"])
def test_the_head_that_was_fitted_is_asked(pictures, refitted, asked):
    teacher = refitted.parent / "t"
    evaluation = deitkit.open_run(refitted).evaluate(
        pictures, teacher="own" if asked == "own" else teacher
    )
    ready = load_ready(open_teacher(teacher, device=CPU), refitted, NAMES)
    with torch.no_grad():
        expected = ready.classifier.call(pixels_of(pictures, OWN)).argmax(dim=1).numpy()
    own = decisions_of(refitted, pictures)
    found = evaluation.diagnostics.agreement["fused"]
    assert 0 < found.num_right == (own == expected).sum() < 60
    assert "a linear head was fitted" in evaluation.asked[0]


def test_a_head_is_of_one_teacher_only(pictures, refitted, tmp_path):
    """Another with other classes has none; the own one, trained anew, is not the own one."""
    run, teacher = deitkit.open_run(refitted), refitted.parent / "t"
    other = make_run(tmp_path / "u", pictures, names=("x", "y"), seed=8)
    with pytest.raises(ModelFileError, match=r"TEACHER_CLASSES.*does not know a, b, c"):
        run.evaluate(pictures, teacher=other)
    teacher.rename(tmp_path / "t")
    shutil.copytree(other, teacher)
    try:
        with pytest.raises(CheckpointError, match="TEACHER_CHANGED"):
            run.evaluate(pictures, teacher="own")
    finally:
        shutil.rmtree(teacher)
        (tmp_path / "t").rename(teacher)


def test_a_folder_without_a_model_has_no_teacher_either(tmp_path):
    with pytest.raises(ModelFileError, match="NO_BUNDLE"):
        deitkit.open_run(tmp_path).evaluate(teacher="own")


def test_a_teacher_given_as_an_object_is_given_again(pictures, tmp_path):
    out = make_run(tmp_path / "s", pictures, teacher=PYTHON_TEACHER)
    with pytest.raises(ConfigError, match=r"NO_TEACHER.*given as an object.*evaluate\(teacher="):
        deitkit.open_run(out).evaluate(pictures, teacher="own")


def test_every_stage_tells_how_far_it_is(pictures, runs):
    told: list[tuple[str, int, int | None]] = []
    deitkit.open_run(runs["student"]).evaluate(
        pictures,
        teacher="own",
        against=runs["plain"],
        progress=lambda *stage: told.append(stage),
    )
    assert list(dict.fromkeys(what for what, _, _ in told)) == STAGES
    assert {stage for stage in told if stage[1] == stage[2]} >= {(w, 60, 60) for w in STAGES[1:]}


def toy_classifier(names: tuple[str, ...] | None) -> Classifier:
    return Classifier.from_callable(
        ConvTeacher(),
        name="mine",
        version="1",
        image_size=16,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        class_names=names,
    )


@pytest.mark.parametrize(
    ("run", "asked", "error", "said"),
    [
        ("plain", {"teacher": "own"}, ConfigError, "NO_TEACHER.*does not say which teacher it had"),
        ("student", {"teacher": "auto"}, ConfigError, "TEACHER_NAME.*teacher=own"),
        ("student", {"teacher": "nowhere"}, ConfigError, "NO_TEACHER.*does not exist"),
        ("student", {"teacher": "hf:x"}, ConfigError, "TEACHER_NAME"),
        (
            "student",
            {"teacher": toy_classifier(("a", "b", "z"))},
            ModelFileError,
            "TEACHER_CLASSES. mine: .*does not know c .1 of 3.*teacher=own",
        ),
        ("student", {"teacher": toy_classifier(None)}, ModelFileError, "does not name its classes"),
        ("student", {"against": "nowhere"}, ConfigError, "NO_RUN"),
        ("teacher", {"against": "student"}, ConfigError, "OTHER_CLASSES.*does not know x"),
    ],
    ids=["no own", "auto", "nowhere", "hf:x", "other classes", "no names", "no run", "other run"],
)
def test_who_cannot_answer_is_told_before_an_image_is_read(pictures, runs, run, asked, error, said):
    asked = {name: runs["student"] if v == "student" else v for name, v in asked.items()}
    told: list[str] = []
    with pytest.raises(error, match=said):
        deitkit.open_run(runs[run]).evaluate(
            pictures, progress=lambda what, *_: told.append(what), **asked
        )
    assert told == []
