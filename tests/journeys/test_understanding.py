"""From a sick folder to a better run: check, report, explain, review, train labels=."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.data.label_overlay import CHANGE, DROP, KEEP, LabelEdit, read_overlay, write_overlay
from tests.data import faulty_images as fi
from tests.data.scenes import next_frame, scene
from tests.journeys.commands import installed
from tests.journeys.conftest import CLASSES, TINY, make_splits
from tests.journeys.final_state import files_of
from tests.reporting.page_tree import check_self_contained, words_of


def page_of(run: Path) -> bytes:
    return (run / "report.html").read_bytes()


# check.


@pytest.fixture
def sick(tmp_path) -> Path:
    """Every fault at once, in three classes without a val split."""
    photos = tmp_path / "my photos"
    for place, (name, count) in enumerate({"cat": 24, "dog": 14, "elk": 2}.items()):
        (photos / "train" / name).mkdir(parents=True)
        for number in range(count):
            scene(100 * place + number).save(photos / "train" / name / f"{number}.png")
    cat, dog = photos / "train" / "cat", photos / "train" / "dog"
    (cat / "truncated.jpg").write_bytes(fi.encoded_photo("JPEG")[:-300])
    (cat / "empty.jpg").write_bytes(b"")
    (dog / "text.jpg").write_bytes(fi.NOT_IMAGES["text"])
    (dog / "thumb.png").write_bytes(fi.encode(fi.photo(9, 4, 40)))
    shutil.copy(cat / "0.png", cat / "copy.png")
    shutil.copy(cat / "1.png", dog / "copy.png")
    for number in range(3):
        next_frame(scene(2), number).save(cat / f"burst-{number}.png")
    next_frame(scene(3), 0).save(dog / "frame.png")
    scene(500, 16, 20).save(cat / "tiny.png")
    scene(501, 60, 200).save(cat / "oblong.png")
    Image.new("RGB", (60, 80), (90, 90, 90)).save(dog / "blank.png")
    scene(502).save(cat / "really-png.jpg", "PNG")
    frames = [scene(510 + number) for number in range(3)]
    frames[0].save(dog / "moving.gif", save_all=True, append_images=frames[1:])
    (photos / "test" / "cat").mkdir(parents=True)
    (photos / "test" / "dog").mkdir()
    shutil.copy(cat / "4.png", photos / "test" / "cat" / "seen.png")
    scene(600).save(photos / "test" / "dog" / "new.png")
    return photos


FOUND = {
    "truncated": 1,
    "empty_file": 1,
    "not_an_image": 1,
    "too_small": 1,
    "conflict": 2,
    "leak": 2,
    "duplicate": 2,
    "near_conflict": 2,
    "near_duplicate": 4,
    "few_images": 1,
    "imbalance": 31,
    "blank": 1,
    "tiny": 1,
    "cut_off": 1,
    "extension_mismatch": 1,
    "animated": 1,
}
"""What is planted above. Cat has 24 + 7 pictures that can be read, elk 2."""


def test_check_names_every_fault_and_the_split_trains(commands, sick, tmp_path):
    """Through the installed program, from another folder: counts, page, split; the pictures are
    byte for byte what they were; what looks alike is on one side when training reads it."""
    before = files_of(sick)
    ended = installed("check", "data=my photos", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert files_of(sick) == before
    out = tmp_path / "runs" / "check-my photos"
    found = json.loads((out / "report.json").read_bytes())
    assert {one["code"]: one["count"] for one in found["findings"]} == FOUND
    assert found["stops_training"] is None
    page = (out / "report.html").read_bytes()
    check_self_contained(page)
    for one in found["findings"]:
        assert one["title"] in ended.out
        assert one["title"] in words_of(page)
    command = ended.out.splitlines()[-1]
    assert command == found["split_command"]
    program, *words = shlex.split(command)
    assert program == "deitkit"
    ended = commands(*words, "out=run", *TINY, folder=tmp_path)
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "run" / "data_report.json").read_bytes())
    assert sum(report["num_images"].values()) == 31 + 18 + 2
    assert all(2 <= count <= 6 for count in list(report["class_counts"]["val"].values())[:2])
    assert report["class_counts"]["train"]["elk"] == report["class_counts"]["val"]["elk"] == 1
    assert report["leaks"]["count"] == 0
    rows = [row.rsplit(",", 2) for row in (out / "split" / "split.csv").read_text().splitlines()]
    side = {Path(path).name: split for path, _, split in rows if "/cat/" in path}
    assert len({side[name] for name in ("2.png", "burst-0.png", "burst-1.png", "burst-2.png")}) == 1
    assert files_of(sick) == before


def test_check_as_json_writes_nothing(commands, sick, tmp_path):
    ended = commands("check", f"data={sick}", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert {one["code"]: one["count"] for one in ended.json["findings"]} == FOUND
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my photos"]


# report.


def test_the_report_of_a_distilled_run(student):
    """Every section that a person who was not there needs, with the run's own numbers."""
    page, result = page_of(student), json.loads((student / "result.json").read_bytes())
    check_self_contained(page)
    words = words_of(page)
    assert f"{100 * result['best']['top1']:.1f} % of 9 validation images are recognised" in words
    sections = (
        "What was trained, on what",
        "3 classes blue, green, red",
        "Validation accuracy",
        "their moving average",
        "Learning rate",
        "What was taken for what",
        "How far to believe its probabilities",
        "The least sure",
        "Teacher and student",
        "Speed and cost",
        "The data",
        "To repeat it",
    )
    places = [words.find(section) for section in sections]
    assert places == sorted(places) and places[0] >= 0, dict(zip(sections, places, strict=True))
    cells = re.findall(r'var\(--heat\),[\d.]+\)">(\d*)</td>', page.decode())
    matrix = np.array([int(cell or 0) for cell in cells]).reshape(3, 3)
    assert matrix.sum(axis=1).tolist() == [3, 3, 3]
    assert np.trace(matrix) == round(9 * result["best"]["top1"])
    gain = result["teacher"]["gain"]
    for side in (gain["share"], gain["other"]):
        low, high = (100 * bound for bound in side["interval"])
        said = (
            f"{100 * side['value']:.1f} % ({low:.1f} % to {high:.1f} %; {side['num_right']} of 9)"
        )
        assert said in words
    temperature = result["calibration"]["temperature"]
    if temperature["temperature"] != 1:
        assert f"from {100 * temperature['plain_ece']:.1f} %" in words
    agreement = f"as the teacher does on {100 * result['best']['agree_dist']:.1f} %"
    assert agreement in words


def test_pictures_carry_a_map_of_each_head(student):
    """Three images a figure: the picture, and two overlays that differ from it and each other."""
    figures = re.findall(r"<figure>.*?</figure>", page_of(student).decode(), re.S)
    assert len(figures) == 9, "all 9 validation images are mistakes or unsure ones"
    for figure in figures:
        alts = re.findall(r'alt="([^"]*)"', figure)
        assert alts == [
            "the picture",
            "what speaks for its answer in the class head",
            "what speaks for its answer in the distillation head",
        ]
        contents = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', figure)
        pixels = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(content))), int)
            for content in contents
        ]
        assert {one.shape for one in pixels} == {(160, 160, 3)}
        for first, second in ((0, 1), (0, 2)):
            assert np.abs(pixels[first] - pixels[second]).mean() > 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_has_its_report(commands, photos, tmp_path, number, code):
    """Written as it ends: how far it came, its curves, and how to go on."""
    hooks = {"names": ["step"], "at": 8, "signal": int(number), "times": 1}
    out = tmp_path / "run"
    ended = commands("train", f"data={photos}", f"out={out}", *TINY, hooks=hooks)
    assert ended.code == code
    step = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][-1][
        "step"
    ]
    words = words_of(page_of(out))
    check_self_contained(page_of(out))
    assert f"This run is not finished: it stands after step {step}." in words
    assert f"deitkit train out={out} goes on." in words
    assert "validation images were recognised at step" in words
    assert "Loss" in words
    ended = commands("report", out)
    assert ended.code == 0, ended.err
    assert f"report in {out / 'report.html'}" in ended.out
    words = words_of(page_of(out))
    assert "This run is not finished" in words
    assert "What was taken for what" in words
    ended = commands("train", f"out={out}")
    assert ended.code == 0, ended.err
    assert "not finished" not in words_of(page_of(out))


@pytest.mark.parametrize(("at", "answers"), [(2, False), (8, True)])
def test_a_killed_run_gets_its_report_afterwards(commands, photos, tmp_path, at, answers):
    """SIGKILL, before and after the first evaluation."""
    hooks = {"names": ["step"], "at": at, "signal": int(signal.SIGKILL), "times": 1}
    out = tmp_path / "run"
    ended = commands("train", f"data={photos}", f"out={out}", *TINY, hooks=hooks)
    assert ended.code == -signal.SIGKILL
    assert not (out / "report.html").exists()
    ended = commands("report", out)
    assert ended.code == 0, ended.err
    words = words_of(page_of(out))
    assert "This run is not finished" in words
    assert ("What was taken for what" in words) == answers
    assert ("Nothing was evaluated yet." in words) != answers


# explain.


def test_explain_draws_and_tells_what_each_head_saw(commands, student, photos, tmp_path):
    """A row a picture, five cells: the picture, relevance and rollout of both heads; as JSON the
    same maps with their scores; the probability is that of predict."""
    pictures = sorted((photos / "test" / "red").iterdir())[:2]
    ended = commands("explain", student, *pictures, f"out={tmp_path / 'why.png'}", "--json")
    assert ended.code == 0, ended.err
    predicted = {
        row["source"]: row for row in commands("predict", student, *pictures, "--json").json
    }
    assert [row["source"] for row in ended.json] == list(map(str, pictures))
    for row in ended.json:
        probabilities = predicted[row["source"]]["probabilities"]
        assert row["class"] == max(probabilities, key=probabilities.get)
        assert row["probability"] == pytest.approx(probabilities[row["class"]], abs=1e-5)
        assert [(one["head"], one["method"]) for one in row["heads"]] == [
            ("class", "relevance"),
            ("distillation", "relevance"),
            ("class", "rollout"),
            ("distillation", "rollout"),
        ]
        for one in row["heads"]:
            grid = np.array(one["grid"])
            assert grid.shape == (4, 4)
            assert grid.min() >= 0 and grid.max() in (0, 1)
            told = one["faithfulness"]
            assert told["score"] == pytest.approx(told["random_area"] - told["area"])
            assert told["score"] > 0 or not told["beats_chance"]
    sheet = Image.open(tmp_path / "why.png")
    assert sheet.width == 18 + 5 * (256 + 18)
    # The first cell of the first row is the picture in blocks of 16.
    cell = np.asarray(sheet.convert("RGB"))[18 : 18 + 256, 18 : 18 + 256]
    np.testing.assert_array_equal(cell[8::16, 8::16], np.asarray(Image.open(pictures[0])))


def test_explain_another_class(commands, student, photos, tmp_path):
    picture = next((photos / "test" / "red").iterdir())
    words = ("explain", student, picture, f"out={tmp_path / 'why.png'}")
    ended = commands(*words, "class-name=blue", "--json")
    assert ended.code == 0, ended.err
    assert ended.json[0]["class"] == "blue"
    ended = commands(*words, "class-name=purple")
    assert ended.code == 3
    assert "[UNKNOWN_CLASS] purple" in ended.errors[0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{student}",), 3, "[NO_IMAGES]"),
        (("{student}", "{picture}", "out=why.jpg"), 2, "give a name that ends in .png"),
        (("{student}", "{picture}", "out={picture}"), 2, "is one of the pictures"),
        (("{student}", "{photos}/train"), 3, "30 were named, a sheet has 24"),
        (("{teacher}", "{picture}"), 5, "a convolutional network has no tokens"),
        (("{photos}/nothing", "{picture}"), 2, "[NO_RUN]"),
    ],
)
def test_what_cannot_be_explained_ends_in_one_line(
    commands, student, teacher, photos, tmp_path, words, code, said
):
    picture = next((photos / "test" / "red").iterdir())
    before = picture.read_bytes()
    paths = {"student": student, "teacher": teacher, "photos": photos, "picture": picture}
    ended = commands("explain", *(word.format(**paths) for word in words), folder=tmp_path)
    assert (ended.code, len(ended.errors)) == (code, 1), ended.err
    assert said in ended.errors[0]
    assert picture.read_bytes() == before
    assert list(tmp_path.iterdir()) == []


# review and train labels=.


@pytest.fixture
def mine(tmp_path) -> Path:
    """Pictures of which a test may rename some."""
    return make_splits(tmp_path / "photos", train=10, val=3, test=0)


@pytest.fixture
def reviewed(commands, mine, tmp_path) -> Path:
    """A run on them."""
    out = tmp_path / "run"
    ended = commands("train", f"data={mine}", f"out={out}", *TINY)
    assert ended.code == 0, ended.err
    return out


def answers(commands, run: Path) -> dict[str, LabelEdit]:
    """As `review` would write them: one label changed, one picture dropped, one looked at."""
    ended = commands("review", run, "num=100", "--json")
    assert ended.code == 0, ended.err
    rows = ended.json["images"]
    assert len(rows) == 39
    assert [row["doubt"] for row in rows] == sorted((row["doubt"] for row in rows), reverse=True)
    assert all(set(row["said"]) == {"student"} for row in rows)
    by_name = {"/".join(Path(row["path"]).parts[-3:]): row for row in rows}
    return {
        row["id"]: LabelEdit(image_id=row["id"], path=row["path"], action=action, label=label)
        for name, action, label in (
            ("train/red/1.png", CHANGE, "blue"),
            ("train/green/2.png", DROP, ""),
            ("train/blue/3.png", KEEP, ""),
        )
        for row in [by_name[name]]
    }


def test_corrected_labels_are_trained_on(commands, mine, reviewed, tmp_path):
    """The counts, the warning and the settings say so, the pictures stay where they are; gone on
    with under other corrections it is refused, under the same ones it is not, also when files were
    renamed."""
    before = files_of(mine)
    overlay = reviewed / "labels.csv"
    edits = answers(commands, reviewed)
    write_overlay(overlay, edits)
    better = tmp_path / "better"
    words = ("train", f"data={mine}", f"labels={overlay}", f"out={better}", *TINY)
    hooks = {"names": ["step"], "at": 8, "signal": int(signal.SIGTERM), "times": 1}
    assert commands(*words, hooks=hooks).code == 143
    report = json.loads((better / "data_report.json").read_bytes())
    assert report["class_counts"]["train"] == {"blue": 11, "green": 9, "red": 9}
    assert any("1 labels changed and 1 images dropped" in text for text in report["warnings"])
    assert files_of(mine) == before
    assert f"labels: {overlay}" in (better / "config.yaml").read_text()

    other = tmp_path / "other.csv"
    write_overlay(other, {})
    ended = commands("train", f"data={mine}", f"labels={other}", f"out={better}", *TINY)
    assert ended.code == 4
    assert f"data.labels: {overlay} -> {other}" in ended.errors[0]

    changed = dict(edits)
    changed.popitem()
    first = next(iter(changed))
    changed[first] = LabelEdit(image_id=first, path="", action=CHANGE, label="green")
    write_overlay(overlay, changed)
    ended = commands(*words)
    assert ended.code == 4
    assert "[DATASET_CHANGED]" in ended.errors[0]

    write_overlay(overlay, edits)
    for number, path in enumerate(sorted(mine.rglob("*.png"))):
        path.rename(path.with_name(f"renamed-{39 - number}.png"))
    ended = commands("train", f"out={better}")
    assert ended.code == 0, ended.err
    result = json.loads((better / "result.json").read_bytes())
    assert (result["num_train"], result["num_val"]) == (29, 9)
    assert "1 labels changed and 1 images dropped" in words_of(page_of(better))
    ended = commands("compare", better, reviewed, "--json")
    assert set(ended.json["data"]) == {"train images", "content, classes and split"}
    assert ended.json["settings"]["data.labels"] == [str(overlay), "None"]


def test_a_wrong_overlay_ends_in_one_line(commands, mine, tmp_path):
    (tmp_path / "labels.csv").write_text("id,path,action,label\nxyz,a.png,keep,\n")
    words = ("train", f"data={mine}", *TINY, f"out={tmp_path / 'run'}")
    ended = commands(*words, f"labels={tmp_path / 'labels.csv'}")
    assert (ended.code, len(ended.errors)) == (3, 1)
    assert f"[BAD_LABELS] {tmp_path / 'labels.csv'}:2" in ended.errors[0]
    ended = commands(*words, f"labels={tmp_path / 'none.csv'}")
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert "[NO_LABELS]" in ended.errors[0]


def test_a_second_review_begins_with_the_corrections_of_the_first(
    commands, mine, reviewed, tmp_path
):
    """The page of a run that was trained with corrections holds them, so that its own file alone is
    enough for the next training. Stopped by SIGTERM, it leaves no file without an answer."""
    pytest.importorskip("fastapi")
    import os
    import subprocess

    import httpx

    from tests.journeys.commands import PROGRAM, QUIET

    edits = answers(commands, reviewed)
    write_overlay(reviewed / "labels.csv", edits)
    better = tmp_path / "better"
    words = ("train", f"data={mine}", f"labels={reviewed / 'labels.csv'}", f"out={better}", *TINY)
    assert commands(*words).code == 0
    server = subprocess.Popen(
        [str(PROGRAM), "review", str(better), "port=0", "num=100"],
        env=os.environ | QUIET,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert address is not None
        state = httpx.get(f"{address[0]}/v1/state", timeout=30).json()
        shown = {row["id"]: row for row in state["items"]}
        kept, changed = (
            next(one for one in edits.values() if one.action == action) for action in (KEEP, CHANGE)
        )
        assert shown[kept.image_id]["action"] == KEEP
        assert (shown[changed.image_id]["label"], shown[changed.image_id]["new_label"]) == (
            "blue",
        ) * 2
        assert not (better / "labels.csv").exists()
        number = next(k for k, row in enumerate(state["items"]) if row["action"] is None)
        answer = {"number": number, "action": "keep"}
        reply = httpx.post(f"{address[0]}/v1/answer", json=answer, timeout=30)
        assert reply.status_code == 200, reply.text
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    found = read_overlay(better / "labels.csv")
    assert {image_id: (e.action, e.label) for image_id, e in found.items()} == {
        **{image_id: (e.action, e.label) for image_id, e in edits.items()},
        state["items"][number]["id"]: (KEEP, ""),
    }


def test_check_after_a_run_shows_what_the_run_doubts(commands, mine, reviewed, tmp_path):
    """A picture in the wrong folder, and a run that knows better: it is among the doubtful ones or
    the run does not say otherwise."""
    wrong = mine / "train" / "blue" / "wrong.png"
    shutil.copy(mine / "train" / "red" / "0.png", wrong)
    (mine / "train" / "red" / "0.png").unlink()
    ended = commands("check", f"data={mine}", f"run={reviewed}", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    said = commands("predict", reviewed, wrong, "--json").json[0]["probabilities"]
    listed = {Path(row["path"]).name: row for row in ended.json["doubtful_labels"]}
    assert (max(said, key=said.get) != "blue") == ("wrong.png" in listed)
    for row in ended.json["doubtful_labels"]:
        assert row["said"]["student"]["class"] != row["label"]
        assert row["label"] in CLASSES
