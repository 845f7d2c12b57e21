"""A teacher that is asked in the first epochs only: who is asked what, and what is left of it."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import deitkit
from deitkit.errors import ConfigError
from deitkit.training.events import Planned, StepDone
from tests.api.conftest import SHORT, end_state, leave_after

TAUGHT = {
    **SHORT,
    "model": "deit_nano_distilled_patch4_16",
    "epochs": 4,
    "distill.kind": "soft",
    "distill.cache_dtype": "float32",
    "schedule.eval_interval": 12,
    "schedule.checkpoint_interval": 12,
    "run.report": False,
}
"""6 steps an epoch, 24 in all, of 42 images."""


def test_who_is_never_asked_changes_nothing(tmp_path, photos, teacher):
    """Every bit of weights, average and moments is that of a run on the labels, both heads."""
    alone = deitkit.train(data=photos, out=tmp_path / "alone", **{**TAUGHT, "distill.kind": "none"})
    own = {**TAUGHT, "distill.until": 0}
    run = deitkit.train(data=photos, out=tmp_path / "own", teacher=teacher, **own)
    assert end_state(run.folder)[0] == end_state(alone.folder)[0]
    assert json.loads((run.folder / "teacher.json").read_text())["cost"]["live_factor"] == 1.0


def test_half_of_the_epochs_are_taught(tmp_path, photos, teacher, asked):
    """Two of four: 84 views are asked about once, no view is shown again, its term is zero after
    it; stored or live, left and gone on, the end is the same."""
    given = {**TAUGHT, "distill.until": 0.5, "distill.cache_folder": str(tmp_path / "cache")}
    stored = {**given, "teacher_cache": "disk", "run.report": True}
    events = list(deitkit.fit(data=photos, out=tmp_path / "x", teacher=teacher, **stored))
    assert asked == [(0, 2 * 42)]
    terms = {event.step: float(event.losses.distill) for event in events if type(event) is StepDone}
    assert [step for step, term in terms.items() if term > 0] == list(range(1, 13))
    assert [step for step, term in terms.items() if term == 0] == list(range(13, 25))
    (plan,) = [event for event in events if isinstance(event, Planned)]
    cost = plan.teacher["cost"]
    assert (cost["until"], cost["num_view_epochs"]) == (0.5, 2)
    half = 1 + 0.5 * cost["student_steps"]
    assert (cost["live_factor"], cost["cached_factor"]) == pytest.approx((half, half))
    assert "asked about the views of 2 epochs" in (tmp_path / "x" / "report.html").read_text()

    ends = [end_state(tmp_path / "x")]
    live = {**given, "teacher_cache": "off"}
    run = deitkit.train(data=photos, out=tmp_path / "live", teacher=teacher, **live)
    ends.append(end_state(run.folder))
    for step in (9, 15):
        leave_after(step, data=photos, out=tmp_path / f"{step}", teacher=teacher, **live)
        ends.append(end_state(deitkit.train(out=tmp_path / f"{step}").folder))
    assert all(end == ends[0] for end in ends)

    to_the_end = {**live, "distill.until": 1}
    run = deitkit.train(data=photos, out=tmp_path / "all", teacher=teacher, **to_the_end)
    assert end_state(run.folder)[0] != ends[0][0]


def test_its_answers_can_be_asked_for_ahead(tmp_path, photos, teacher, asked):
    given = {**TAUGHT, "distill.until": 0.5, "distill.cache_folder": str(tmp_path / "cache")}
    taught = deitkit.teach(data=photos, out=tmp_path / "x", teacher=teacher, **given)
    assert (taught.num_view_epochs, taught.num_asked) == (2, 84)
    deitkit.train(out=tmp_path / "x")
    assert asked[-1] == (84, 0)


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"distill.until": 0.5, "view_epochs": 3}, "VIEW_EPOCHS", "no view is shown again"),
        ({"distill.until": 0, "teacher_cache": "disk"}, "CACHE_MODE", "no answer to keep"),
        ({"distill.until": 0.5, "unlabelled": "MORE"}, "DISTILL", "nobody but the teacher"),
        ({"distill.until": 1.5}, "BAD_VALUE", "until"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_settings_that_contradict_each_other(tmp_path, photos, teacher, settings, code, said):
    (tmp_path / "more").mkdir()
    Image.new("RGB", (16, 16), (9, 8, 7)).save(tmp_path / "more" / "new.png")
    more = {k: str(tmp_path / "more") if v == "MORE" else v for k, v in settings.items()}
    with pytest.raises(ConfigError, match=said) as raised:
        deitkit.train(data=photos, out=tmp_path / "x", teacher=teacher, **{**TAUGHT, **more})
    assert raised.value.code == code
    assert not (tmp_path / "x" / "config.yaml").exists()
