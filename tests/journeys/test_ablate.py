"""`deitkit ablate`: a small ladder from its first run to table, JSON and chart, and again."""

from __future__ import annotations

import json
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

import deitkit
from tests.journeys.conftest import TINY_MODEL
from tests.journeys.final_state import files_of

SHORT = (*TINY_MODEL, "epochs=2", "batch_size=8", "workers=0")
STEPS = ("vit_original", "+augment", "+teacher")
RUNS = [f"{step.strip('+')}-seed{seed}" for seed in (0, 1) for step in STEPS]


@pytest.fixture(scope="module")
def ladder(commands, photos, tmp_path_factory):
    """The command's end, and its folder. Do not change it."""
    out = tmp_path_factory.mktemp("ladder") / "out"
    words = (f"data={photos}", *SHORT, f"steps={','.join(STEPS)}", "seeds=2", f"out={out}")
    return words, commands("ablate", *words, "--json"), out


def config_of(out: Path, run: str) -> dict:
    return yaml.safe_load((out / run / "config.yaml").read_text())


def test_every_step_is_an_ordinary_run(ladder):
    """Cumulative settings, equal steps, the token and the teacher where they belong."""
    _, ended, out = ladder
    assert ended.code == 0, ended.err
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == sorted([*RUNS, "teacher"])
    for run in RUNS:
        config = config_of(out, run)
        taught = run.startswith("teacher")
        distilled = "_distilled" if taught else ""
        assert config["model"]["name"] == f"deit_nano{distilled}_patch4_16"
        assert config["views"]["mixup"] == (0.0 if run.startswith("vit") else 0.8)
        assert config["optim"]["weight_decay"] == 0.3
        assert (config["schedule"]["steps"], config["optim"]["batch_size"]) == (8, 8)
        assert config["run"]["seed"] == int(run[-1])
        assert config["distill"]["kind"] == ("hard" if taught else "none")
        assert config["distill"]["teacher"] == (str(out / "teacher") if taught else None)
        assert config["model"]["init"] == "scratch"
    assert config_of(out, "teacher")["model"]["name"] == "quick_cnn"
    order = [line.split("] ")[1] for line in ended.err.splitlines() if line.startswith("[")]
    assert order == ["teacher", *(f"{step}, seed {seed}" for seed in (0, 1) for step in STEPS)]


def test_numbers_are_those_of_the_runs(commands, ladder):
    """Accuracy on the test split of each run, as `evaluate` finds it; means and gains of those."""
    _, ended, out = ladder
    said = ended.json
    assert said == json.loads((out / "ablation.json").read_text())
    assert said["measured_on"].endswith("(test)") and said["num_images"] == 12
    for rung, step in zip(said["rungs"], STEPS, strict=True):
        assert rung["name"] == step
        for seed in (0, 1):
            run = deitkit.open_run(out / f"{step.strip('+')}-seed{seed}")
            assert rung["accuracies"][seed] == run.evaluate().accuracy
        assert rung["mean"] == pytest.approx(sum(rung["accuracies"]) / 2)
    first, second, _ = said["rungs"]
    assert second["difference"] == pytest.approx(second["mean"] - first["mean"])
    assert second["difference_interval"][0] <= second["difference"]
    assert {rung["verdict"] for rung in said["rungs"]} <= {None, "helps", "hurts", "cannot tell"}
    result = json.loads((out / "teacher" / "result.json").read_text())
    assert said["teacher_seconds"] == result["command_seconds"]
    assert said["settings"]["+teacher"]["schedule.epochs"] == 2


def test_chart_holds_every_step(ladder):
    _, _, out = ladder
    root = ElementTree.parse(out / "ablation.svg").getroot()
    shown = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert set(STEPS) <= shown


def test_same_command_repeats_no_finished_run(commands, ladder):
    words, first, out = ladder
    before = {k: v for k, v in files_of(out).items() if not k.startswith("ablation")}
    again = commands("ablate", *words)
    assert again.code == 0, again.err
    assert again.err.count("already complete") == 7
    assert {k: v for k, v in files_of(out).items() if not k.startswith("ablation")} == before
    assert json.loads((out / "ablation.json").read_text()) == first.json
    for rung in first.json["rungs"]:
        (row,) = [line for line in again.out.splitlines() if f" {rung['name']} " in line]
        assert f"{100 * rung['mean']:.2f} %" in row
    assert "2 seeds, paired by seed" in again.out
    assert f"teacher: {out / 'teacher'}, trained for it in " in again.out


def test_stopped_ladder_goes_on(commands, ladder, tmp_path):
    """Two runs are there, the third is stopped in its middle: the same command ends the same."""
    words, first, out = ladder
    for run in ("teacher", RUNS[0]):
        shutil.copytree(out / run, tmp_path / "out" / run)
    words = [*words[:-1], f"out={tmp_path / 'out'}"]
    hooks = {"names": ["step"], "at": 5, "signal": signal.SIGTERM}
    stopped = commands.start("ablate", *words, hooks=hooks).wait()
    assert stopped.code == 143, stopped.err
    assert not (tmp_path / "out" / "ablation.json").exists()
    ended = commands("ablate", *words, "--json")
    assert ended.code == 0, ended.err
    assert ended.err.count("already complete") == 2
    assert "going on from step" in ended.err
    for rung, wanted in zip(ended.json["rungs"], first.json["rungs"], strict=True):
        assert rung["accuracies"] == wanted["accuracies"]


def test_one_seed_a_given_teacher_and_more_seeds_later(commands, photos, teacher, tmp_path):
    """One seed can judge nothing, which is said; a second seed reuses the first one's runs."""
    out = tmp_path / "out"
    steps = "steps=vit_original,+teacher"
    words = (f"data={photos}", *SHORT, steps, f"teacher={teacher}", f"out={out}")
    ended = commands("ablate", *words, "seeds=1")
    assert ended.code == 0, ended.err
    assert "One seed" in ended.out and "cannot tell" in ended.out
    assert f"teacher: {teacher}\n" in ended.out
    assert not (out / "teacher").exists()
    assert config_of(out, "teacher-seed0")["distill"]["teacher"] == str(teacher)
    more = commands("ablate", *words, "seeds=2")
    assert more.code == 0, more.err
    assert more.err.count("already complete") == 2
    assert "2 seeds" in more.out


def test_budget_is_the_time_of_each_run(commands, photos, tmp_path):
    words = (*TINY_MODEL, "workers=0", "steps=vit_original", "seeds=1", "budget=2s")
    ended = commands("ablate", f"data={photos}", *words, f"out={tmp_path / 'out'}")
    assert ended.code == 0, ended.err
    config = config_of(tmp_path / "out", "vit_original-seed0")
    assert (config["schedule"]["budget"], config["schedule"]["epochs"]) == ("2s", "auto")


@pytest.mark.parametrize(
    ("words", "code", "exit_code", "said"),
    [
        ((), "USAGE", 2, "--data"),
        (("data=PHOTOS", "steps=+augment"), "STEPS", 2, "steps=vit_original,+augment"),
        (("data=PHOTOS", "steps=vit_original,+agment"), "RECIPE", 2, "use augment"),
        (("data=PHOTOS", "seeds=many"), "USAGE", 2, "seeds"),
        (("data=PHOTOS", "seed=3"), "USAGE", 2, "use seeds="),
        (("data=PHOTOS", "epoch=3"), "UNKNOWN_SETTING", 2, "it is epochs= here"),
        (("data=PHOTOS", "budget=soon"), "BAD_VALUE", 2, "write 90s, 30m or 2h"),
        (("data=nowhere",), "NO_DATA", 2, "does not exist"),
        (("data=PHOTOS", "teacher=nowhere"), "NO_TEACHER", 2, "trained first"),
        (("data=PHOTOS", "PHOTOS"), "USAGE", 2, "write name=value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_error_is_one_line(commands, photos, tmp_path, words, code, exit_code, said):
    words = [word.replace("PHOTOS", str(photos)) for word in words]
    ended = commands("ablate", *words, folder=tmp_path)
    assert ended.code == exit_code, ended.err
    assert ended.err.startswith(f"deitkit: error [{code}] ")
    assert ended.err.count("\n") == 1 and said in ended.err
    assert ended.out == ""
    assert not (tmp_path / "runs").exists()


def test_other_settings_on_the_same_folder_are_refused(commands, ladder):
    words, _, out = ladder
    before = files_of(out)
    ended = commands("ablate", *words, "optim.weight_decay=0.1")
    assert ended.code == 4
    assert "[CONFIG_MISMATCH]" in ended.errors[0]
    assert "optim.weight_decay: 0.3 -> 0.1" in ended.errors[0]
    assert files_of(out) == before
