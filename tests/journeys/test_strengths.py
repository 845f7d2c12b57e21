"""deitkit train strengths=: written down, told, and refused where a part would have no views."""

from __future__ import annotations

import yaml

from tests.journeys.conftest import TINY


def test_strengths_beside_sizes(commands, photos, tmp_path):
    """Three epochs, three sizes, three strengths; the same again changes nothing."""
    words = ("train", f"data={photos}", "out=run", *TINY, "sizes=8,12,16", "strengths=0.2,0.6,1")
    ended = commands(*words, folder=tmp_path)
    assert ended.code == 0, ended.err
    frozen = yaml.safe_load((tmp_path / "run/config.yaml").read_text(encoding="utf-8"))
    assert frozen["schedule"]["strengths"] == [0.2, 0.6, 1.0]
    assert frozen["schedule"]["steps"] == 12
    shown = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "0.2, 0.6, 1 of the full one, each for an equal part" in shown
    again = commands(*words, folder=tmp_path)
    assert again.code == 0 and "nothing was changed" in again.err, again.err


def test_more_strengths_than_epochs_are_an_error_before_the_first_step(commands, photos, tmp_path):
    words = ("train", f"data={photos}", "out=run", *TINY, "strengths=0.1,0.4,0.7,1")
    ended = commands(*words, folder=tmp_path)
    assert ended.code == 2
    (said,) = ended.errors
    assert "STRENGTHS" in said and "schedule.strengths=0.1,0.4,0.7,1" in said
    assert "a run of 3 epochs has fewer parts" in said and "train for 4 epochs or more" in said
    assert not (tmp_path / "run" / "config.yaml").exists()
