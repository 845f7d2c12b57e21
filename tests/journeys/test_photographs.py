"""The main job on real photographs: JPEG files in class folders, made from imagenette."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deitkit
from tests.journeys.final_state import final_state

NUM_EACH = {"train": 10, "test": 3}
TEACHER = ("model=small_cnn", "image_size=48", "epochs=20", "batch_size=16", "workers=2")
STUDENT = (
    "teacher=teacher",
    # Chosen by the clock otherwise, and stored answers are rounded: other bits.
    "distill.teacher_cache=disk",
    "model=deit_nano_conv_distilled_patch8_32",
    "epochs=3",
    "batch_size=16",
    "workers=2",
    "views.crop=random_resized",
    "views.cutmix=1",
    "views.mixup=0.8",
    "model.drop_path=0.1",
    "schedule.eval_interval=6",
    "schedule.checkpoint_interval=4",
    "run.report=false",
)


@pytest.fixture(scope="module")
def folder(shared_data: Path, commands, tmp_path_factory) -> Path:
    """photos/{train,test}/CLASS/*.jpg, and a teacher trained on them at another size."""
    pq = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("photographs")
    for split, num_each in NUM_EACH.items():
        table = pq.read_table(shared_data / "imagenette" / f"{split}.parquet")
        schema = json.loads(table.schema.metadata[b"huggingface"])
        names = schema["info"]["features"]["label"]["names"]
        labels = np.array(table["label"])
        for label, name in enumerate(names):
            (folder / "photos" / split / name).mkdir(parents=True)
            for row in np.flatnonzero(labels == label)[:num_each]:
                encoded = table["image"][int(row)]["bytes"].as_py()
                (folder / "photos" / split / name / f"{row}.jpg").write_bytes(encoded)
    ended = commands("train", "data=photos", "out=teacher", *TEACHER, folder=folder)
    assert ended.code == 0, ended.err
    assert "90 to train (9 to 9 a class), 10 to validate" in ended.err
    assert "224x224 pixels" in ended.err
    return folder


@pytest.fixture(scope="module")
def undisturbed(commands, folder) -> dict:
    ended = commands("train", "data=photos", "out=student", *STUDENT, folder=folder)
    assert ended.code == 0, ended.err
    return final_state(folder / "student")


@pytest.mark.parametrize(
    ("place", "at"), [("decode", 70), ("step", 3), ("step", 9), ("evaluate", 1), ("fsync", 12)]
)
def test_killed_at_a_place_it_ends_with_the_same_bits(commands, folder, undisturbed, place, at):
    """T01, T18: killed while reading, training, evaluating and saving; other workers after."""
    out = f"out=killed-{place}-{at}"
    hooks = {"names": [place], "at": at, "signal": int(signal.SIGKILL), "times": 1}
    ended = commands("train", "data=photos", out, *STUDENT, folder=folder, hooks=hooks)
    assert ended.code == -signal.SIGKILL
    rest = [word for word in STUDENT if not word.startswith("workers")]
    ended = commands("train", "data=photos", out, *rest, "workers=0", folder=folder)
    assert ended.code == 0, ended.err
    assert final_state(folder / out[4:]) == undisturbed


def test_after_ctrl_c_the_folder_alone_goes_on(commands, folder, undisturbed):
    """T12: 130, a checkpoint, and `deitkit train out=` finishes it."""
    hooks = {"names": ["step"], "at": 5, "signal": int(signal.SIGINT), "times": 1}
    ended = commands("train", "data=photos", "out=stopped", *STUDENT, folder=folder, hooks=hooks)
    assert ended.code == 130
    assert "go on with `deitkit train out=" in ended.errors[0]
    ended = commands("train", "out=stopped", folder=folder)
    assert ended.code == 0, ended.err
    assert final_state(folder / "stopped") == undisturbed


def test_verify_resume_holds_on_photographs(commands, folder, undisturbed):
    ended = commands("verify-resume", "student", "--json", folder=folder)
    assert ended.code == 0
    assert ended.json["identical"] is True


def test_evaluate_and_predict_say_the_same(commands, folder, undisturbed):
    evaluated = commands("evaluate", "student", "data=photos", "--json", folder=folder).json
    assert set(evaluated["heads"]) == {"fused", "cls", "dist"}
    fused = evaluated["heads"]["fused"]
    assert fused["num_images"] == 30
    predicted = commands("predict", "student", "photos/test", "--json", folder=folder).json
    right = sum(row["class"] == Path(row["source"]).parent.name for row in predicted)
    assert right / 30 == pytest.approx(fused["top1"])
    assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in predicted)


def test_python_says_what_the_command_says(commands, folder, undisturbed):
    run = deitkit.open_run(folder / "student")
    path = next((folder / "photos" / "test").rglob("*.jpg"))
    row = commands("predict", "student", path, "--json", folder=folder).json[0]
    from_path, from_picture, from_array = (
        run.predict(given)[0]
        for given in (path, Image.open(path), np.asarray(Image.open(path).convert("RGB")))
    )
    assert from_path.class_name == row["class"]
    assert from_path.probability == pytest.approx(row["probability"], abs=1e-6)
    np.testing.assert_array_equal(from_path.probabilities, from_picture.probabilities)
    np.testing.assert_array_equal(from_path.probabilities, from_array.probabilities)
    again = Image.open(io.BytesIO(path.read_bytes()))
    np.testing.assert_array_equal(run.predict([again])[0].probabilities, from_path.probabilities)
