"""The teacher in tables: the numbers a person reads, the advice, and hostile names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from deitkit.evaluation.diagnostics import Diagnostics, TokenCosines
from deitkit.evaluation.paired import Gain, Share, class_gains, paired_gain
from deitkit.reporting.console import make_console
from deitkit.reporting.teacher_facts import Comparison, Contender, TeacherCost, TeacherFacts
from deitkit.reporting.teacher_table import print_comparison, print_diagnostics, print_teacher

HOSTILE = ("[red]", "a\nb", "\u202egnp.tac", "x\x1b[31mred\x1b[0m", "[/]")
SHOWN = ("[red]", r"a\nb", r"\u202egnp.tac", r"x\x1b[31mred\x1b[0m", "[/]")


@pytest.fixture
def output(capsys) -> Callable[[], str]:
    return lambda: "".join(capsys.readouterr())


def gain_of(num_both: int, num_student: int, num_teacher: int, num_neither: int) -> Gain:
    """Student's accuracy against the teacher's."""
    student = [1] * (num_both + num_student) + [0] * (num_teacher + num_neither)
    teacher = [1] * num_both + [0] * num_student + [1] * num_teacher + [0] * num_neither
    return paired_gain(np.array(student, bool), np.array(teacher, bool))


FACTS = TeacherFacts(
    name="timm:mobilenetv2_100",
    num_params=3_504_872,
    image_size=(224, 160),
    classes="10 of its 1,000 classes are yours by name",
    clean=Share(970, 1000),
    views=Share(450, 500),
    per_class=(Share(9, 10), Share(3, 4), Share(0, 0)),
    cost=TeacherCost(student_step_s=0.5, teacher_step_s=1.665, num_epochs=60, num_view_epochs=20),
    storage="disk",
    storage_reason="the teacher takes 77 % of a step",
    notes=("it is weaker than the student",),
)


@pytest.mark.parametrize(
    ("num_epochs", "num_view_epochs", "factor"),
    [(30, 30, 4.33), (30, 10, 1 + 3.33 / 3), (30, 3, 1.333), (30, 60, 4.33), (30, None, None)],
)
def test_the_cost_is_that_of_the_model(num_epochs, num_view_epochs, factor):
    """Speed-up of storing V of E epochs: 4.33 / (1 + 3.33 V / E); more than E are never asked."""
    cost = TeacherCost(
        student_step_s=2.0,
        teacher_step_s=6.66,
        num_epochs=num_epochs,
        num_view_epochs=num_view_epochs,
    ).to_dict()
    assert cost["student_steps"] == pytest.approx(3.33)
    assert cost["live_factor"] == pytest.approx(4.33)
    if factor is None:
        assert cost["cached_factor"] is None
    else:
        assert cost["cached_factor"] == pytest.approx(factor)
        share = min(1, num_view_epochs / num_epochs)
        speed_up = cost["live_factor"] / cost["cached_factor"]
        assert speed_up == pytest.approx(4.33 / (1 + 3.33 * share))


def rows_of(text: str) -> dict[str, str]:
    """Table rows by their first cell; a cell that goes on below counts as one."""
    rows: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if "│" in line and len(cells) > 1:
            last = cells[0] or last
            rows[last] = " ".join([rows.get(last, ""), *cells[1:]]).strip()
    return rows


def test_the_table_before_training_holds_its_numbers(output):
    print_teacher(make_console(), FACTS.to_dict(), ("cat", "dog", "none"))
    text = output()
    rows = rows_of(text)
    assert "teacher: timm:mobilenetv2_100" in text
    assert rows["parameters"] == "3,504,872"
    assert rows["image size"] == "160x224 pixels"
    assert rows["classes"] == "10 of its 1,000 classes are yours by name"
    assert rows["right on clean validation images"] == "97.00 % of 1,000 (95.7 to 97.9)"
    assert rows["right on views of training images"].startswith("90.00 % of 500")
    assert rows["cost of one step"] == "3.33 steps of the student"
    assert "4.33 times" in rows["cost of the run"]
    assert "2.11 with 20 of 60 epochs stored" in rows["cost of the run"]
    assert rows["asked"].startswith("once for each stored view, kept on disk")
    assert "77 % of a step" in rows["asked"]
    assert rows["cat"].split()[:2] == ["10", "90.0"]
    assert rows["none"].split() == ["0", "n/a"]
    assert "note: it is weaker than the student" in text


def test_more_stored_views_than_epochs_are_every_epoch(output):
    cost = replace(FACTS.cost, num_epochs=8.3, num_view_epochs=9)
    print_teacher(make_console(), replace(FACTS, cost=cost).to_dict(), ("cat", "dog", "none"))
    assert rows_of(output())["cost of the run"].endswith("4.33 with every epoch stored")


def test_a_teacher_that_is_asked_for_a_part_costs_that_part(output):
    """1 + 3.33 x 0.4 = 2.332."""
    cost = replace(FACTS.cost, until=0.4, num_view_epochs=None)
    print_teacher(make_console(), replace(FACTS, cost=cost).to_dict(), ("cat", "dog", "none"))
    said = rows_of(output())["cost of the run"]
    assert said == "2.33 times that of a run without teacher, asked in the first 40 % of the epochs"


def test_what_is_not_known_is_not_invented(output):
    facts = replace(
        FACTS,
        num_params=None,
        views=None,
        storage="live",
        cost=replace(FACTS.cost, num_view_epochs=None),
    )
    print_teacher(make_console(), facts.to_dict(), ("cat", "dog", "none"))
    rows = rows_of(output())
    assert rows["parameters"] == "unknown"
    assert "right on views of training images" not in rows
    assert rows["asked"].startswith("for every view, live")
    assert "stored" not in rows["cost of the run"]


def test_of_many_classes_the_lowest_are_shown(output):
    shares = [Share(100 - k % 80, 100) for k in range(100)] + [Share(0, 0)]
    names = [f"class {k}" for k in range(101)]
    print_teacher(make_console(), replace(FACTS, per_class=shares).to_dict(), names)
    text = output()
    rows = rows_of(text)
    assert {"class 79", "class 20"} <= set(rows)
    assert not {"class 5", "class 0", "class 100"} & set(rows)
    assert "the lowest 60 of 101 classes" in text


def test_facts_are_json():
    said = FACTS.to_dict()
    assert json.loads(json.dumps(said)) == said
    assert said["clean"] == {
        "num_right": 970,
        "num_images": 1000,
        "value": 0.97,
        "interval": list(Share(970, 1000).interval),
    }


BETTER, WORSE, EVEN = (80, 15, 1, 4), (80, 1, 15, 4), (80, 8, 7, 5)


def compared(counts=WORSE, *, params=(10, 20), latency=(1.0, 2.0)) -> Comparison:
    sides = [
        Contender(name=name, num_params=p, latency_ms=t)
        for name, p, t in zip(("resnet", "student"), params, latency, strict=True)
    ]
    return Comparison(
        measured_on="100 images of photos/val",
        latency_on="cpu, 1 thread",
        teacher=sides[0],
        student=sides[1],
        gain=gain_of(*counts),
    )


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (compared(WORSE), "use your teacher"),
        (compared(EVEN), "100 images cannot tell which of the two is more accurate"),
        (compared(BETTER), None),
        (compared(WORSE, params=(20, 10)), None),
        (compared(WORSE, params=(10, 10)), None),
        (compared(WORSE, latency=(2.0, 1.0)), None),
        (compared(WORSE, params=(None, 10)), None),
        (compared(WORSE, latency=(1.0, None)), None),
        (compared((0, 0, 0, 0)), None),
    ],
)
def test_use_your_teacher_where_it_is_better_smaller_and_faster(comparison, said, output):
    assert (comparison.advice is None) == (said is None)
    print_comparison(make_console(), comparison.to_dict())
    text = " ".join(output().split())
    assert ("note:" in text) == (said is not None)
    assert said is None or said in text


def test_side_by_side(output):
    comparison = compared(WORSE, params=(3_504_872, None), latency=(11.239, None))
    said = comparison.to_dict()
    assert json.loads(json.dumps(said)) == said
    print_comparison(make_console(), said)
    text = output()
    rows = rows_of(text)
    assert rows["accuracy"].startswith("95.00 % of 100") and "81.00 % of 100" in rows["accuracy"]
    assert rows["parameters"] == "3,504,872 unknown"
    assert rows["one image takes"] == "11.24 ms not measured"
    assert "times on cpu, 1 thread" in text
    # McNemar of 1 against 15: 2 (1 + 16) / 2^16 = 0.00052.
    assert "student less teacher: -14.0 points" in text and "p < 0.001" in text


def diagnostics(names=("a", "b"), *, dist: bool = True, other: bool = True) -> dict:
    labels = np.repeat(np.arange(len(names)), 20)
    right = np.ones(len(labels), bool)
    other_right = labels > 0
    agreement = {"fused": Share(9, 10)}
    if dist:
        agreement |= {"cls": Share(7, 10), "dist": Share(10, 10)}
    return Diagnostics(
        agreement=agreement,
        token_gain=gain_of(6, 3, 1, 0) if dist else None,
        tokens=TokenCosines(0.061, 0.934, 256) if dist else None,
        gain=paired_gain(right, other_right) if other else None,
        class_gains=tuple(class_gains(right, other_right, labels, names)) if other else None,
    ).to_dict()


def test_diagnostics_in_words(output):
    print_diagnostics(make_console(), diagnostics(("a", "b")))
    text = output()
    rows = rows_of(text)
    assert rows["both heads"].startswith("90.00 %")
    assert rows["distillation head"].startswith("100.00 %")
    assert "distillation head less class head: +20.0 points" in text and "p = 0.625" in text
    assert "cosine 0.06 entering, 0.93 leaving" in " ".join(text.split())
    assert "gain over the other run: +50.0 points" in text
    assert rows["a"].split()[:4] == ["20", "0.0", "100.0", "+100.0"]
    assert rows["a"].endswith("helps") and rows["b"].endswith("cannot tell")


def test_diagnostics_of_one_head_without_another_run(output):
    print_diagnostics(make_console(), diagnostics(dist=False, other=False))
    text = output()
    assert rows_of(text)["the model"].startswith("90.00 %")
    assert not any(word in text for word in ("token", "gain", "class head"))


def test_diagnostics_without_a_teacher(output):
    """Two tokens have cosines of their own; who else was asked stands above."""
    found = diagnostics(other=False) | {"agreement": {}, "token_gain": None}
    print_diagnostics(make_console(), found, asked=("other run runs/plain: matched",))
    text = output()
    assert text.startswith("other run runs/plain: matched\n")
    assert "cosine 0.06 entering" in text and "agreement" not in text


@pytest.mark.parametrize("dist", [True, False])
def test_the_other_run_beside_the_heads(output, dist):
    found = diagnostics(dist=dist)
    found["agreement"]["other"] = Share(6, 10).to_dict()
    print_diagnostics(make_console(), found)
    rows = rows_of(output())
    assert rows["the other run"].startswith("60.00 %")
    assert rows["both heads" if dist else "the model"].startswith("90.00 %")


def test_of_many_classes_the_largest_gains_are_shown(output):
    print_diagnostics(make_console(), diagnostics([f"class {k}" for k in range(70)]))
    text = output()
    rows = [name for name in rows_of(text) if re.fullmatch(r"class \d+", name)]
    assert rows[0] == "class 0" and len(rows) == 60
    assert "the 60 largest of 70 classes" in text


def test_hostile_names_are_printed_plainly(output):
    """D28, S24: no markup, no control character, no line of its own, no turned direction."""
    name = "".join(HOSTILE)
    facts = replace(FACTS, name=name, notes=(name,), classes=name, storage_reason=name)
    shares = [Share(1, 2)] * len(HOSTILE)
    print_teacher(make_console(), replace(facts, per_class=shares).to_dict(), HOSTILE)
    sides = {"teacher": Contender(name=name, num_params=1, latency_ms=1.0)}
    comparison = replace(compared(), **sides, measured_on=name, latency_on=name)
    print_comparison(make_console(), comparison.to_dict())
    print_diagnostics(make_console(), diagnostics(HOSTILE), asked=(name,))
    text = output()
    assert not any(character in text for character in "\x1b\u202e\t\r")
    for shown in SHOWN:
        assert sum(shown in line for line in text.splitlines()) >= 4, shown
