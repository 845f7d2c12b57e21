"""report.html of whole runs: its numbers are those of the run, and it is always there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import deitkit
from deitkit.api.reporting import report_run
from deitkit.errors import ConfigError, ModelFileError
from tests.api.conftest import SHORT, leave_after
from tests.reporting.page_tree import check_self_contained, parse, words_of
from tests.training.toy import SIDE


def page_of(run: Path) -> bytes:
    return (run / "report.html").read_bytes()


def without_time(page: bytes) -> str:
    return re.sub(rb"Written by deitkit [^<]*", b"", page).decode()


def test_the_numbers_are_those_of_the_run(finished_once):
    """Headline, matrix and table against result.json and the model's own answers."""
    page, result = page_of(finished_once), json.loads((finished_once / "result.json").read_text())
    check_self_contained(page)
    words = words_of(page)
    low, high = (100 * bound for bound in result["val_top1_interval"])
    assert (
        f"{100 * result['val_top1']:.1f} % of 15 validation images are recognised, 95 % interval "
        f"{low:.1f} % to {high:.1f} %." in words
    )
    evaluation = deitkit.open_run(finished_once).evaluate()
    confusion = evaluation.heads["fused"].confusion_KK
    assert confusion.sum() == 15
    cells = re.findall(
        r'<td style="background:rgba\(var\(--heat\),[\d.]+\)">(\d*)</td>', page.decode()
    )
    assert [int(cell or 0) for cell in cells] == confusion.ravel().tolist()
    for row in evaluation.heads["fused"].per_class:
        recall, f1 = (f"{100 * value:.1f} %" for value in (row.recall, row.f1))
        precision = "n/a" if row.precision is None else f"{100 * row.precision:.1f} %"
        assert f"{row.name}{row.num_images}{recall}{precision}{f1}" in "".join(parse(page).text)
    assert f"{result['parameters']:,}" in words
    assert "42 images, 14 a class" in words
    assert "16 x 16 pixels, the same in every step" in words


def test_every_section_is_there(finished_once):
    words = words_of(page_of(finished_once))
    sections = (
        "What was trained, on what",
        "Validation accuracy",
        "weights as they are",
        "Loss",
        "Learning rate",
        "Each class",
        "What was taken for what",
        "How far to believe its probabilities",
        "The least sure",
        "Speed and cost",
        "The data",
        "To repeat it",
        f"deitkit train config={finished_once / 'config.yaml'} out={finished_once}-again",
        "batch_size: 8",
    )
    places = [words.find(section) for section in sections]
    assert -1 not in places, dict(zip(sections, places, strict=True))
    assert places[0] < places[5] < places[7] < places[9] < places[10] < places[11]


def test_written_again_it_says_the_same(finished_once, finished, tmp_path):
    """From the bundle and the images alone; elsewhere where asked, else over the old one."""
    before = page_of(finished_once)
    out = tmp_path / "other.html"
    assert report_run(finished_once, out=out) == out
    assert without_time(out.read_bytes()) == without_time(before)
    assert page_of(finished_once) == before
    (finished / "report.html").write_bytes(b"")
    assert report_run(finished) == finished / "report.html"
    assert len(page_of(finished)) > 0.9 * len(before)


def test_a_run_that_was_left_says_so(unfinished, photos):
    """As it was left, and as `report` writes it with the answers of the best weights so far; when
    it has gone on to its end, no longer."""
    for page in (page_of(unfinished), report_run(unfinished).read_bytes()):
        check_self_contained(page)
        assert "This run is not finished: it stands after step 5." in words_of(page)
        assert f"deitkit train out={unfinished} goes on." in words_of(page)
        assert "Loss" in words_of(page)
    assert "What was taken for what" in words_of(page), "the best weights after step 4"
    deitkit.train(out=unfinished)
    words = words_of(page_of(unfinished))
    assert "not finished" not in words
    assert "What was taken for what" in words


def test_before_the_first_evaluation_there_is_a_page_too(tmp_path, photos):
    """Without answers: nothing was evaluated. And in spite of a log that a kill cut short."""
    out = tmp_path / "run"
    leave_after(2, data=photos, out=out, **SHORT)
    (out / "report.html").unlink()
    log = (out / "metrics.jsonl").read_bytes()
    (out / "metrics.jsonl").write_bytes(log[:-7])
    page = report_run(out).read_bytes()
    check_self_contained(page)
    assert "This run is not finished: it stands after step 1." in words_of(page)
    assert "Nothing was evaluated yet." in words_of(page)
    assert "What was taken for what" not in words_of(page)


def test_without_reports_there_is_none(tmp_path, photos):
    leave_after(1, data=photos, out=tmp_path / "run", **SHORT, **{"run.report": False})
    assert not (tmp_path / "run" / "report.html").exists()


def test_what_is_no_run_or_is_damaged(tmp_path, finished):
    with pytest.raises(ConfigError, match="is no run folder"):
        report_run(tmp_path)
    weights = finished / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelFileError):
        report_run(finished)


PAYLOAD = "</script><img src=x onerror=alert(1)>"


def trained_on_names(out: Path, suffix: str) -> bytes:
    """The report of a run whose classes, a, b and c, have names that end so."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(30):
        pixels = rng.integers(0, 150, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[..., number % 3] += 60
        pairs.append((pixels, "abc"[number % 3] + suffix))
    settings = SHORT | {"epochs": 1, "views.mixup": 0.0}
    deitkit.train(data=pairs, out=out, **settings)
    return page_of(out)


def test_hostile_class_names_stay_text(tmp_path):
    """S23: the very elements of the report of the same run with harmless names."""
    hostile = trained_on_names(tmp_path / "x", PAYLOAD)
    harmless = trained_on_names(tmp_path / "y", " plain")
    check_self_contained(hostile)
    assert parse(hostile).elements == parse(harmless).elements
    assert f"a{PAYLOAD}" in words_of(hostile)
    shutil.rmtree(tmp_path / "x")
