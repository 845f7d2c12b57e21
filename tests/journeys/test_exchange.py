"""Weights out to other libraries and in from them, on the command line."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import deitkit
from deitkit.artifacts.bundle import Bundle, load_bundle, save_bundle
from deitkit.data.preprocess import Preprocessing, preprocess
from deitkit.errors import ConfigError, ModelFileError
from deitkit.models import create_model
from deitkit.runtime.sealed_folder import find_folder, verify_folder
from tests.journeys.conftest import TINY, make_picture


def opened(code: str) -> torch.nn.Module:
    """What the printed Python lines make."""
    namespace: dict = {}
    exec(code, namespace)
    return namespace["model"]


@torch.no_grad()
def probabilities(model: torch.nn.Module, run: Path, picture: Image.Image) -> list[float]:
    """The other library's answer to our preprocessing of a picture."""
    array = preprocess(np.asarray(picture), load_bundle(run).preprocessing)
    logits = model(torch.from_numpy(array)[None])
    logits = getattr(logits, "logits", logits)
    return logits.softmax(-1)[0].tolist()


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_the_printed_lines_open_a_run_elsewhere(commands, student, tmp_path, to):
    """Export on the command line, open in the other library, and both say the same."""
    pytest.importorskip("timm" if to == "timm" else "transformers")
    ended = commands("export", student, f"to={to}", f"out={tmp_path / 'my model'}")
    assert ended.code == 0, ended.err
    assert f"exported to {tmp_path / 'my model'}, best at step " in ended.out
    assert "not finished" not in ended.out
    assert verify_folder(tmp_path / "my model") == []
    picture = Image.fromarray(make_picture("red", 77))
    picture.save(tmp_path / "red.png")
    row = commands("predict", student, tmp_path / "red.png", "--json").json[0]
    theirs = probabilities(opened(ended.out.split("open it with\n\n")[1]), student, picture)
    bundle = load_bundle(student)
    # A note says so: the other library knows no temperature.
    assert (f"by {bundle.temperature:g} before" in ended.out) == (bundle.temperature != 1)
    cooled = np.asarray(theirs, np.float64) ** (1 / bundle.temperature)
    for name, probability in zip(bundle.class_names, cooled / cooled.sum(), strict=True):
        assert row["probabilities"][name] == pytest.approx(probability, abs=1e-5)


def test_left_out_the_folder_is_in_the_run(commands, photos, tmp_path):
    """X07: and an interrupted run exports its best weights so far, and says which step."""
    hooks = {"names": ["step"], "at": 7, "signal": int(signal.SIGINT), "times": 1}
    ended = commands("train", f"data={photos}", "out=r", *TINY, folder=tmp_path, hooks=hooks)
    assert ended.code == 130
    ended = commands("export", "r", "to=timm", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    best = load_bundle(tmp_path / "r").provenance["validation"]["step"]
    assert best in (3, 6)
    assert ended.json["folder"] == str(tmp_path / "r" / "export-timm")
    assert (ended.json["finished"], ended.json["step"]) == (False, best)
    card = (tmp_path / "r" / "export-timm" / "README.md").read_text(encoding="utf-8")
    assert f'"step": {best}' in card
    said = commands("export", "r", "to=timm", folder=tmp_path).out
    assert f"best at step {best} so far: the run is not finished" in said
    ended = commands("train", "out=r", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert commands("export", "r", "to=timm", "--json", folder=tmp_path).json["finished"] is True


def test_a_bundle_alone_is_exported_beside_itself(commands, student, tmp_path):
    shutil.copytree(student / "best", tmp_path / "flowers")
    ended = commands("export", "flowers", "to=hf", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.json["folder"] == str(tmp_path / "flowers-export-hf")
    assert verify_folder(tmp_path / "flowers") == []


@pytest.mark.parametrize(
    ("place", "at"), [("fsync", 2), ("fsync", 4), ("rename", 1), ("rename", 2)]
)
def test_killed_in_an_export_no_half_folder_has_the_name(commands, student, tmp_path, place, at):
    """X06: kill -9; the earlier export or none stays, and the command again ends it."""
    for earlier in (False, True):
        words = ("export", student, "to=hf", f"out={tmp_path / f'out-{earlier}'}")
        if earlier:
            assert commands(*words).code == 0
        hooks = {"names": [place], "at": at, "signal": int(signal.SIGKILL), "times": 1}
        ended = commands(*words, hooks=hooks)
        found = find_folder(tmp_path / f"out-{earlier}")
        assert found is None or verify_folder(found) == []
        assert found is not None or not earlier
        assert ended.code in (-signal.SIGKILL, 0)
        assert commands(*words).code == 0
        assert verify_folder(tmp_path / f"out-{earlier}") == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{teacher}", "to=timm"), 5, "[EXPORT] small_cnn: timm has no such network"),
        (
            ("{student}", "to=onnx9"),
            2,
            "[FORMAT] to=onnx9: no such format; use onnx or web or timm or hf",
        ),
        (("{student}", "to=hf", "out={photos}"), 2, "[NOT_OURS]"),
        (("{student}", "to=hf", "out={photos}", "overwrite=true"), 2, "[NOT_OURS]"),
        (("{student}", "to=hf", "out={student}/best"), 2, "holds a bundle; choose another"),
        (("{photos}", "to=hf"), 5, "[NO_BUNDLE]"),
        (("{student}",), 2, "[USAGE]"),
    ],
)
def test_what_cannot_be_exported_ends_in_one_line(
    commands, student, teacher, photos, words, code, said
):
    paths = {"student": student, "teacher": teacher, "photos": photos}
    before = sorted(photos.rglob("*"))
    ended = commands("export", *(word.format(**paths) for word in words))
    assert ended.code == code
    assert len(ended.errors) == 1
    assert said in ended.errors[0]
    assert sorted(photos.rglob("*")) == before
    assert verify_folder(student / "best") == []


def test_python_exports_too(student, tmp_path):
    folder = deitkit.open_run(student).export("hf", tmp_path / "out")
    assert folder == tmp_path / "out"
    config = json.loads((folder / "config.json").read_bytes())
    assert config["id2label"] == {"0": "blue", "1": "green", "2": "red"}


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_out_and_in_again_is_the_same_run(commands, student, photos, tmp_path, to):
    """X08: bit for bit, with the same classes, preprocessing and answers."""
    assert commands("export", student, f"to={to}", f"out={tmp_path / 'away'}").code == 0
    ended = commands("import", tmp_path / "away", f"out={tmp_path / 'back'}")
    assert ended.code == 0, ended.err
    assert "note:" not in ended.out
    ours, theirs = load_bundle(student), load_bundle(tmp_path / "back")
    weights = [path / "model.safetensors" for path in (student / "best", tmp_path / "back")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert theirs.class_names == ours.class_names
    for name in ("image_size", "resize", "mean", "std", "channels", "crop_ratio"):
        got, expected = (getattr(bundle.preprocessing, name) for bundle in (theirs, ours))
        assert got == expected or got == pytest.approx(expected)
    measured = [
        commands("evaluate", run, f"data={photos}", "--json").json["heads"]["fused"]
        for run in (student, tmp_path / "back")
    ]
    # The temperature stays behind, as the export's note says: it moves no decision.
    for score in ("nll", "ece"):
        assert all(isinstance(one.pop(score), float) for one in measured)
    assert measured[0] == measured[1]
    assert theirs.provenance["imported"]["source"] == str(tmp_path / "away")


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_preprocessing_goes_out_and_comes_in(tmp_path, to):
    """X04: of a grey, oblong, squashed image for a DeiT III, to the last number."""
    arguments = {"image_size": (24, 32), "in_channels": 1, "pos_embed_cls": False}
    model = create_model("deit_nano_patch4_16", num_classes=2, **arguments)
    spec = Preprocessing(
        image_size=(24, 32), resize="squash", crop_ratio=0.8, channels=1, mean=(0.3,), std=(0.2,)
    )
    bundle = Bundle(
        model_config=model.config,
        class_names=("no", "yes"),
        preprocessing=spec,
        state_dict=model.state_dict(),
        provenance={},
    )
    save_bundle(tmp_path / "made", bundle)
    away = deitkit.open_run(tmp_path / "made").export(to)
    back = deitkit.import_weights(away, out=tmp_path / "back").run.predictor.bundle
    assert (back.preprocessing, back.class_names) == (spec, ("no", "yes"))
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 1)).astype(np.uint8)
    ours, theirs = (
        deitkit.open_run(tmp_path / name).predict([picture])[0] for name in ("made", "back")
    )
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-6)


def test_an_imported_model_teaches(commands, student, photos, tmp_path):
    assert commands("export", student, "to=timm", f"out={tmp_path / 'away'}").code == 0
    assert commands("import", tmp_path / "away", f"out={tmp_path / 'back'}").code == 0
    words = (f"data={photos}", f"out={tmp_path / 'taught'}", f"teacher={tmp_path / 'back'}")
    ended = commands("train", *words, "model=deit_nano_distilled_patch4_16", *TINY[1:])
    assert ended.code == 0, ended.err


@pytest.fixture
def bare(tmp_path) -> Path:
    """A weights file of three classes with nothing beside it."""
    torch.manual_seed(0)
    model = create_model("deit_nano_patch4_16", num_classes=3)
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    return tmp_path / "bare.safetensors"


def test_names_come_from_a_file_or_from_images(commands, bare, photos, tmp_path):
    (tmp_path / "names.txt").write_text("blue\ngreen\nred\n", encoding="utf-8")
    for number, classes in enumerate((tmp_path / "names.txt", photos)):
        out = tmp_path / f"out{number}"
        ended = commands("import", bare, f"classes={classes}", f"out={out}")
        assert ended.code == 0, ended.err
        assert "note: preprocessing is not stored with these weights; assumed" in ended.out
        bundle = load_bundle(out)
        assert bundle.class_names == ("blue", "green", "red")
        spec = bundle.preprocessing
        assert (spec.image_size, spec.resize, spec.crop_ratio) == ((16, 16), "shorter", 0.875)
        assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert commands("evaluate", out, f"data={photos}", "--json").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "does not say what its 3 classes are; give classes=names.txt with 3 lines"),
        (("classes={two}",), 2, "2 classes have names, the weights have 3; give 3 names"),
        (("classes={twice}",), 2, "2 classes are called a;"),
        (("classes={none}",), 2, "does not exist"),
        (("classes={photos}", "out={full}"), 2, "[NOT_OURS]"),
        (("classes={photos}", "image_size=17"), 2, "17"),
        (("classes={photos}", "image_size=large"), 2, "got 'large'"),
        (("classes={photos}", "model=deit_nano_distilled_patch4_16"), 5, "it lacks 3 tensors"),
        (("classes={photos}", "model=deit_micro_patch4_16"), 5, "of another shape"),
    ],
)
def test_what_cannot_be_imported_ends_in_one_line(
    commands, bare, photos, tmp_path, words, code, said
):
    paths = {name: tmp_path / f"{name}.txt" for name in ("two", "twice", "none")}
    paths["two"].write_text("a\nb\n", encoding="utf-8")
    paths["twice"].write_text("a\nb\na\n", encoding="utf-8")
    paths |= {"photos": photos, "full": tmp_path}
    given = [word.format(**paths) for word in words]
    if not any(word.startswith("out=") for word in given):
        given.append(f"out={tmp_path / 'out'}")
    ended = commands("import", bare, *given)
    assert ended.code == code, ended.err
    assert len(ended.errors) == 1
    assert said in ended.errors[0]
    assert not (tmp_path / "out").exists()


def test_another_size_resizes_the_positions(commands, bare, photos, tmp_path):
    words = (bare, f"classes={photos}", f"out={tmp_path / 'out'}", "image_size=24,32")
    ended = commands("import", *words)
    assert ended.code == 0, ended.err
    assert "grid 4x4 to 6x8" in ended.out
    bundle = load_bundle(tmp_path / "out")
    assert bundle.preprocessing.image_size == (24, 32)
    assert bundle.state_dict["pos_embed"].shape[1] == 1 + 48


def test_a_bundle_is_replaced_only_when_asked(commands, bare, photos, tmp_path):
    words = ("import", bare, f"classes={photos}", f"out={tmp_path / 'out'}")
    assert commands(*words).code == 0
    ended = commands(*words)
    assert ended.code == 2
    assert "holds an earlier bundle; choose another out=, or add overwrite=true" in ended.errors[0]
    assert commands(*words, "overwrite=true").code == 0


def test_python_imports_under_names_of_its_own(bare, tmp_path):
    """Also those of a source that names two classes alike, as ImageNet its cranes."""
    imported = deitkit.import_weights(
        bare, out=tmp_path / "a", classes=["x", "y", "z"], model="deit_nano_patch4_16"
    )
    assert imported.run.class_names == ("x", "y", "z")
    folder = imported.run.export("hf", tmp_path / "hf")
    config = json.loads((folder / "config.json").read_bytes())
    config["id2label"] = {"0": "crane", "1": "bird", "2": "crane"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    imported = deitkit.import_weights(folder, out=tmp_path / "b")
    assert imported.run.class_names == ("crane (0)", "bird", "crane (2)")
    assert "carry the class number now: crane" in imported.notes[0]
    imported = deitkit.import_weights(folder, out=tmp_path / "c", classes=["x", "y", "z"])
    assert imported.run.class_names == ("x", "y", "z")
    assert imported.notes == ("class names: those of classes=, not the source's own",)


def test_a_bundle_and_weights_without_a_head_are_no_source(bare, student, tmp_path):
    with pytest.raises(ConfigError, match="is a bundle already"):
        deitkit.import_weights(student / "best", out=tmp_path / "out")
    model = create_model("deit_nano_patch4_16", num_classes=3)
    weights = {key: value for key, value in model.state_dict().items() if "head" not in key}
    save_file(weights, tmp_path / "headless.safetensors")
    with pytest.raises(ModelFileError, match="no class head") as caught:
        deitkit.import_weights(tmp_path / "headless.safetensors", out=tmp_path / "out")
    assert caught.value.code == "NO_HEAD"


def test_the_public_deit_tiny_sees_through_import_and_evaluate(commands, shared_data, tmp_path):
    """79 of these 100 images, as another implementation sees."""
    weights = shared_data / "weights" / "deit_tiny_patch16_224" / "deit_tiny_patch16_224.pth"
    images = shared_data / "imagenet_samples100"
    words = (f"classes={images / 'classes.txt'}", f"out={tmp_path / 'tiny'}")
    ended = commands("import", weights, *words)
    assert ended.code == 0, ended.err
    ended = commands("evaluate", tmp_path / "tiny", f"data={images}", "--json")
    assert ended.code == 0, ended.err
    fused = ended.json["heads"]["fused"]
    assert fused["num_images"] == 100
    assert round(100 * fused["top1"]) >= 79
