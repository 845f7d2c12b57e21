"""What a user does, from a folder of pictures to predictions, through the real commands."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.evaluation.metrics import wilson_interval
from tests.journeys.commands import installed
from tests.journeys.conftest import CLASSES, TINY, make_folder, make_picture
from tests.journeys.final_state import files_of


def test_the_whole_job_with_the_installed_program(photos, teacher, tmp_path):
    """Student, evaluation, prediction; the pictures are never written to."""
    before = files_of(photos)
    ended = installed(
        "train",
        f"data={photos}",
        "out=student",
        f"teacher={teacher}",
        "model=deit_nano_distilled_patch4_16",
        *TINY[1:],
        folder=tmp_path,
    )
    assert ended.code == 0, ended.err
    assert ended.out == ""
    for said in ("3: blue, green, red", "30 to train", "9 to validate", "validation accuracy:"):
        assert said in ended.err
    result = json.loads((tmp_path / "student" / "result.json").read_text())
    assert (result["steps"], result["num_train"], result["num_val"]) == (12, 30, 9)
    log = [
        json.loads(line)
        for line in (tmp_path / "student/metrics.jsonl").read_text().split("\n")
        if line
    ]
    steps = [entry for entry in log if entry["event"] == "step"]
    assert [entry["step"] for entry in steps] == list(range(1, 13))
    assert all(entry["distill_loss"] > 0 for entry in steps)
    evaluated = installed("evaluate", "student", "--json", folder=tmp_path)
    heads = evaluated.json["heads"]
    assert set(heads) == {"fused", "cls", "dist"}
    assert evaluated.json["data"].endswith("(test)")
    for metrics in heads.values():
        right = round(metrics["top1"] * 12)
        assert metrics["num_images"] == 12
        assert metrics["top1_interval"] == list(wilson_interval(right, 12))
        assert np.trace(metrics["confusion"]) == right
        assert [row["name"] for row in metrics["per_class"]] == list(CLASSES)
    predicted = installed("predict", "student", photos / "test", "--json", folder=tmp_path)
    named = {row["source"]: row["class"] for row in predicted.json}
    right = sum(Path(source).parent.name == name for source, name in named.items())
    assert len(named) == 12
    assert right / 12 == heads["fused"]["top1"]
    assert files_of(photos) == before


def test_test_images_are_read_by_evaluate_alone(commands, photos, student, tmp_path):
    """A test split with a broken picture in each class disturbs no training."""
    copy = shutil.copytree(photos, tmp_path / "photos")
    for picture in (copy / "test").rglob("*.png"):
        picture.write_bytes(b"broken")
    assert commands("train", f"data={copy}", *TINY, f"out={tmp_path / 'run'}").code == 0
    ended = commands("evaluate", tmp_path / "run")
    assert ended.code == 3
    assert "[EMPTY]" in ended.errors[0]


def test_one_level_of_class_folders_and_csv_are_the_same_data(commands, tmp_path):
    """Validation is split from train by content, so the layout does not decide it."""
    folder = make_folder(tmp_path / "flat", dict.fromkeys(CLASSES, 10))
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        for path in sorted(folder.rglob("*.png"), key=lambda path: path.name):
            writer.writerow([path.relative_to(tmp_path), path.parent.name])
    results = []
    for name, source in (("flat", folder), ("csv", tmp_path / "list.csv")):
        ended = commands("train", f"data={source}", *TINY, f"out={tmp_path / 'runs' / name}")
        assert ended.code == 0, ended.err
        results.append(json.loads((tmp_path / "runs" / name / "result.json").read_text()))
    assert results[0]["num_val"] == 3
    for name in ("num_train", "num_val", "classes", "val_top1"):
        assert results[0][name] == results[1][name]
    # The images stand in another order, in which scores are summed.
    folder, table = (dict(result["best"]) for result in results)
    assert folder.pop("source") == table.pop("source")
    assert folder == pytest.approx(table, rel=1e-6)


def test_imagenette_from_parquet_with_a_transformer_of_another_size_as_teacher(
    commands, shared_data, tmp_path
):
    """Photographs in the Hugging Face schema: a teacher at 32 pixels, a student at 16. They are
    validated on the training images, where so short a training is better than guessing."""
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "data").mkdir()
    for split, source, num_each in (
        ("train", "train", 4),
        ("val", "train", 4),
        ("test", "test", 2),
    ):
        table = pq.read_table(shared_data / "imagenette" / f"{source}.parquet")
        labels = np.array(table["label"])
        rows = np.concatenate([np.flatnonzero(labels == k)[:num_each] for k in range(10)])
        pq.write_table(table.take(rows), tmp_path / "data" / f"{split}.parquet")
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    rest = ("batch_size=8", "workers=0")
    nano = ("model.depth=1", "model.embed_dim=48", "model.num_heads=2")
    ended = commands(
        "train",
        "data=data",
        "out=teacher",
        "model=deit_nano_patch8_32",
        "epochs=40",
        *nano,
        *rest,
        folder=tmp_path,
    )
    assert ended.code == 0, ended.err
    assert "40 to validate" in ended.err
    ended = commands(
        "train",
        "data=data",
        "out=student",
        "teacher=teacher",
        "model=deit_nano_distilled_patch4_16",
        "epochs=1",
        *nano,
        *rest,
        folder=tmp_path,
    )
    assert ended.code == 0, ended.err
    evaluated = commands("evaluate", "student", "--json", folder=tmp_path).json
    assert [row["name"] for row in evaluated["heads"]["fused"]["per_class"]] == names
    assert evaluated["heads"]["fused"]["num_images"] == 20
    assert evaluated["heads"]["fused"]["top5"] is not None


def test_classes_are_matched_by_name(commands, photos, student, tmp_path):
    """D08: a folder with fewer classes, so that every index differs, and one in another order."""
    subset = tmp_path / "subset"
    for name in ("red", "green"):
        shutil.copytree(photos / "test" / name, subset / name)
    whole = commands("evaluate", student, f"data={photos / 'test'}", "--json").json
    part = commands("evaluate", student, f"data={subset}", "--json").json
    rows = {row["name"]: row for row in whole["heads"]["fused"]["per_class"]}
    for row in part["heads"]["fused"]["per_class"]:
        if row["name"] == "blue":
            assert (row["num_images"], row["recall"], row["precision"]) == (0, None, None)
        else:
            assert row["recall"] == rows[row["name"]]["recall"]
    confusion = whole["heads"]["fused"]["confusion"]
    assert part["heads"]["fused"]["confusion"] == [[0, 0, 0], confusion[1], confusion[2]]
    shown = commands("evaluate", student, f"data={subset}").out
    assert "n/a" in shown
    # The same pictures listed with the classes in reverse.
    with (tmp_path / "reverse.csv").open("w", newline="") as stream:
        rows_written = [
            (path, path.parent.name) for path in sorted((photos / "test").rglob("*.png"))[::-1]
        ]
        csv.writer(stream).writerows([("path", "label"), *rows_written])
    shutil.copytree(photos / "test", tmp_path / "test")
    text = (tmp_path / "reverse.csv").read_text().replace(f"{photos}/", "")
    (tmp_path / "reverse.csv").write_text(text)
    other = commands("evaluate", student, f"data={tmp_path / 'reverse.csv'}", "--json").json
    assert other["heads"]["fused"]["confusion"] == confusion


def test_class_the_run_does_not_know(commands, student, tmp_path):
    folder = make_folder(tmp_path / "more", {"red": 2, "violet": 2})
    ended = commands("evaluate", student, f"data={folder}")
    assert ended.code == 3
    assert "violet" in ended.errors[0]


def test_predict_files_folders_embeddings_and_one_bad_picture(commands, photos, student, tmp_path):
    """The bad one is named and left out; rows of the embeddings are the pictures' rows."""
    bad = tmp_path / "bad.png"
    bad.write_bytes((photos / "test" / "red" / "13.png").read_bytes()[:200])
    words = (
        photos / "test" / "red" / "13.png",
        bad,
        photos / "test" / "blue",
        f"embeddings={tmp_path / 'vectors.npy'}",
    )
    ended = commands("predict", student, *words, "--json")
    assert ended.code == 0, ended.err
    assert ended.err.startswith(f"deitkit: left out {bad}: ")
    good = [row for row in ended.json if "class" in row]
    failed = [row for row in ended.json if "error" in row]
    assert [row["source"] for row in failed] == [str(bad)]
    assert len(good) == 5
    for row in good:
        assert set(row["probabilities"]) == set(CLASSES)
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["class"] == max(row["probabilities"], key=row["probabilities"].__getitem__)
        assert row["probability"] == pytest.approx(max(row["probabilities"].values()))
    vectors = np.load(tmp_path / "vectors.npy", allow_pickle=False)
    assert vectors.shape[0] == 5
    # Each row is that picture's own: asked alone it is the same.
    commands("predict", student, good[3]["source"], f"embeddings={tmp_path / 'one.npy'}")
    np.testing.assert_allclose(np.load(tmp_path / "one.npy")[0], vectors[3], rtol=1e-4, atol=1e-5)
    assert not np.allclose(vectors[3], vectors[0], atol=1e-3)
    ended = commands("predict", student, bad)
    assert ended.code == 3
    assert "[NO_IMAGES]" in ended.errors[0]


def test_summary_of_a_run_counts_its_parameters(commands, student):
    ended = commands("summary", student)
    assert ended.code == 0
    wanted = json.loads((student / "result.json").read_text())["parameters"]
    assert f"Total params: {wanted:,}" in ended.out


def test_verify_resume_proves_it(commands, student):
    before = files_of(student)
    ended = commands("verify-resume", student, "steps=5")
    assert ended.code == 0, ended.err
    assert "identical in every bit" in ended.out
    assert ended.out.count("same") == 5
    proof = commands("verify-resume", student, "steps=5", "--json").json
    assert proof["identical"] is True
    assert (proof["steps"], proof["interrupted_after"]) == (5, 2)
    assert proof["digests"][0] == proof["digests"][1]
    assert files_of(student) == before


EDGES = {
    "fewer images than a batch": ({"a": 5, "b": 4}, ["batch_size=64"]),
    "odd number mixed": ({"a": 7, "b": 6, "c": 6}, ["views.mixup=0.8", "views.cutmix=1"]),
    "odd and mixed, one step an epoch": (
        {"a": 5, "b": 6},
        ["batch_size=32", "views.mixup=0.8", "views.cutmix=1"],
    ),
    "one image more than a batch": ({"a": 5, "b": 4, "c": 2}, ["batch_size=8"]),
    "two classes": ({"a": 4, "b": 4}, []),
    "one channel": ({"a": 5, "b": 5}, ["data.channels=1"]),
    "not square": ({"a": 5, "b": 5}, ["image_size=8x16"]),
    "not square, high": ({"a": 5, "b": 5}, ["image_size=16,8"]),
    "one image a class to train": ({"a": 1, "b": 1}, []),
}


@pytest.mark.parametrize("name", EDGES)
def test_edge_data_works(commands, tmp_path, name):
    """Trained, evaluated and asked; every image counts once an epoch."""
    counts, words = EDGES[name]
    data = tmp_path / "data"
    make_folder(data / "train", counts)
    make_folder(data / "val", dict.fromkeys(counts, 2), start=50)
    given = {word.partition("=")[0] for word in words}
    base = [word for word in TINY if word.partition("=")[0] not in given]
    ended = commands("train", f"data={data}", *base, *words, f"out={tmp_path / 'run'}")
    assert ended.code == 0, ended.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["num_train"] == sum(counts.values())
    batch_size = int(next(w[11:] for w in (*words, *base) if w.startswith("batch_size=")))
    assert result["steps"] == 3 * -(-sum(counts.values()) // batch_size)
    log = [
        json.loads(line)
        for line in (tmp_path / "run/metrics.jsonl").read_text().split("\n")
        if line
    ]
    assert all(np.isfinite(entry["loss"]) for entry in log if entry["event"] == "step")
    assert not any(entry.get("skipped") for entry in log)
    evaluated = commands("evaluate", tmp_path / "run", "--json").json["heads"]["fused"]
    assert evaluated["num_images"] == 2 * len(counts)
    assert evaluated["top1"] == result["val_top1"]
    assert commands("predict", tmp_path / "run", data / "val").code == 0
    if min(counts.values()) == 1:
        assert "note: " in ended.err and "a (1)" in ended.err


def test_class_of_one_image_without_a_val_folder(commands, tmp_path):
    """D05."""
    data = make_folder(tmp_path / "data", {"a": 6, "b": 1})
    ended = commands("train", f"data={data}", *TINY, f"out={tmp_path / 'run'}")
    assert ended.code == 3
    assert "[CLASS_TOO_SMALL]" in ended.errors[0]
    assert "b (1)" in ended.errors[0]
    assert "supply a val folder" in ended.errors[0]


def test_300_bad_files(commands, photos, tmp_path):
    """D12, D13: one line that counts them; a few bad ones are left out and listed."""
    data = shutil.copytree(photos, tmp_path / "data")
    for number in range(150):
        (data / "train" / "red" / f"empty{number}.jpg").write_bytes(b"")
        (data / "train" / "blue" / f"page{number}.jpg").write_bytes(b"<html>no picture</html>")
    ended = commands("train", f"data={data}", *TINY, f"out={tmp_path / 'run'}")
    assert ended.code == 3
    assert len(ended.errors) == 1 and len(ended.errors[0]) < 2000
    for said in ("[TOO_MANY_BAD]", "300 of 330", "150 empty_file", "150 not_an_image"):
        assert said in ended.errors[0]
    for number in range(148):
        (data / "train" / "red" / f"empty{number}.jpg").unlink()
        (data / "train" / "blue" / f"page{number}.jpg").unlink()
    ended = commands("train", f"data={data}", *TINY, f"out={tmp_path / 'run'}")
    assert ended.code == 0, ended.err
    assert "2 empty_file, 2 not_an_image (listed in data_report.json)" in ended.err
    assert "empty148.jpg" in (tmp_path / "run" / "data_report.json").read_text()
    ended = commands("train", f"data={data}", "data.bad_images=fail", f"out={tmp_path / 'strict'}")
    assert ended.code == 3
    assert len(ended.errors) == 1


def test_picture_of_any_kind_is_predicted_as_its_pixels(commands, photos, student, tmp_path):
    """D15, D17, D20, D21: PNG named .jpg, animated, grey and transparent pictures are answered."""
    pixels = make_picture("red", 13)
    image = Image.fromarray(pixels)
    kinds = {"plain.png": image, "alpha.png": image.convert("RGBA"), "frames.gif": image}
    for name, picture in kinds.items():
        more = {"save_all": True, "append_images": [image.rotate(90)]} if "gif" in name else {}
        picture.save(tmp_path / name, **more)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    (tmp_path / "named.jpg").write_bytes(stream.getvalue())
    image.convert("L").save(tmp_path / "grey.png")
    rows = {
        Path(r["source"]).name: r for r in commands("predict", student, tmp_path, "--json").json
    }
    assert set(rows) == {*kinds, "named.jpg", "grey.png"}
    for name in ("alpha.png", "named.jpg"):
        assert rows[name]["probabilities"] == pytest.approx(rows["plain.png"]["probabilities"])


def test_splits_of_validation_do_not_move(commands, tmp_path):
    """A picture added to the folder leaves the other pictures where they were."""
    data = make_folder(tmp_path / "data", dict.fromkeys(CLASSES, 20))
    reports = []
    for number in range(2):
        make_folder(data, {"red": number}, start=90)
        ended = commands("train", f"data={data}", *TINY, f"out={tmp_path / f'run{number}'}")
        assert ended.code == 0, ended.err
        reports.append(json.loads((tmp_path / f"run{number}" / "data_report.json").read_text()))
    assert reports[0]["num_images"] == {"train": 54, "val": 6}
    assert sum(reports[1]["num_images"].values()) == 61
