"""What is typed and what is said: names, help, errors of one line, and no terminal at all."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from deitkit.config import SHORT_NAMES
from deitkit.config.names import FOREIGN_NAMES
from tests.journeys.commands import PROGRAM, QUIET, installed
from tests.journeys.conftest import TINY, make_folder

VERBS = (
    "train",
    "plan",
    "predict",
    "evaluate",
    "demo",
    "export",
    "import",
    "views",
    "recipes",
    "ablate",
    "cache",
    "summary",
    "models",
    "settings",
    "verify-resume",
)


@pytest.mark.parametrize("words", [(), *((verb,) for verb in VERBS)], ids=str)
def test_help(commands, words):
    ended = commands(*words, "--help")
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.startswith(f"Usage: deitkit {' '.join(words)}".rstrip())
    if words == ():
        assert all(f" {verb} " in ended.out for verb in VERBS)
    if words == ("train",):
        assert all(f"--{name.replace('_', '-')} " in ended.out for name in SHORT_NAMES)


def test_settings_explains_every_setting(commands):
    """Each with a text of its own; and of one section only that."""
    from deitkit.config import RunConfig, flatten

    lines = commands("settings").out.splitlines()
    for name in flatten(RunConfig()):
        places = [k for k, line in enumerate(lines) if line.startswith(f"  {name}=")]
        assert len(places) == 1, name
        assert len(lines[places[0] + 1].strip()) > 10
    only = commands("settings", "ema").out
    assert "  ema.half_life=0.02\n" in only
    assert "optim." not in only


def test_models_can_be_built(commands):
    names = commands("models").out.split()
    assert {"deit_tiny_patch16_224", "regnety_160", "small_cnn"} <= set(names)
    assert len(set(names)) == len(names)
    for words in (("small_cnn", "num_classes=3"), ("--num_classes", "3", "model=small_cnn")):
        assert commands("summary", *words).code == 0


@pytest.mark.parametrize(
    ("words", "exit_code", "code", "said"),
    [
        (("train", "imgsz=64"), 2, "UNKNOWN_SETTING", "it is image_size= here"),
        (("train", "--batch=64"), 2, "UNKNOWN_SETTING", "it is batch_size= here"),
        (("train", "--epoch", "3"), 2, "UNKNOWN_SETTING", "it is epochs= here"),
        (("train", "dta=photos"), 2, "UNKNOWN_SETTING", "did you mean data?"),
        (("train", "optim.warm_up=1"), 2, "UNKNOWN_SETTING", "did you mean optim.warmup"),
        (("train", "qqq=1"), 2, "UNKNOWN_SETTING", "see `deitkit train --help`"),
        (("train", "colour=3"), 2, "UNKNOWN_SETTING", "see `deitkit train --help`"),
        (("train", "optim.betas=1"), 2, "UNKNOWN_SETTING", "optim.beta1"),
        (("train", "half_life=1"), 2, "UNKNOWN_SETTING", "write ema.half_life"),
        (("train", "PHOTOS", "out=x"), 2, "USAGE", "write name=value"),
        (("train",), 2, "NO_DATA", "write `deitkit train data=photos/`"),
        (("train", "out=nothing"), 2, "NO_DATA", "name the images"),
        (("train", "data=PHOTOS", "epochs=x"), 2, "BAD_VALUE", "give a whole number or auto"),
        (("train", "data=PHOTOS", "epochs=0"), 2, "BAD_VALUE", "from 1 to"),
        (("train", "data=PHOTOS", "budget=soon"), 2, "BAD_VALUE", "write 90s, 30m or 2h"),
        (("train", "data=PHOTOS", "optim.lr=1", "lr=2"), 2, "TWICE", "give it once"),
        (("train", "data=PHOTOS", "--epochs"), 2, "USAGE", "requires an argument"),
        (("train", "data=PHOTOS", "overwrite=maybe"), 2, "USAGE", "bool"),
        (("train", "data=PHOTOS", "config=none.yaml"), 2, "CONFIG_FILE", "check the path"),
        (("train", "data=PHOTOS", "model=vit"), 2, "MODEL", "deitkit.list_models()"),
        (("train", "data=PHOTOS", "device=tpu"), 2, "BAD_DEVICE", "set device to"),
        (("train", "data=PHOTOS", "teacher=none.pt"), 2, "NO_TEACHER", "out=runs/teacher"),
        (("train", "data=PHOTOS", "distill.kind=soft"), 2, "NO_TEACHER", "teacher="),
        (("train", "data=PHOTOS", *TINY[:1], "image_size=17"), 2, "IMAGE_SIZE", "=16x16"),
        (
            ("train", "data=PHOTOS", "model=deit_slim_hybrid_patch8_32", "image_size=4"),
            2,
            "IMAGE_SIZE",
            "=8x8",
        ),
        (("trian", "data=PHOTOS"), 2, "USAGE", 'Did you mean "train"?'),
        (("tr\nain",), 2, "USAGE", "--help shows the verbs"),
        (("evaluate",), 2, "USAGE", "--run"),
        (("evaluate", "nowhere"), 2, "NO_RUN", "name a run folder"),
        (("evaluate", "RUN", "dta=PHOTOS"), 2, "USAGE", "Did you mean --data?"),
        (("evaluate", "RUN", "--jsn"), 2, "USAGE", "Did you mean --json?"),
        (("evaluate", "RUN", "data=nowhere"), 2, "NO_DATA", "does not exist"),
        (("evaluate", "RUN", "split=dev"), 3, "NO_SPLIT", "only test, train, val"),
        (("predict", "RUN"), 3, "NO_IMAGES", "add files or folders"),
        (("predict", "RUN", "a\nb.png"), 2, "NO_DATA", r"a\nb.png"),
        (("summary", "nothing"), 2, "MODEL", "list_models()"),
        (("settings", "optimizer"), 2, "SECTION", "optim"),
        (("models", "all"), 2, "USAGE", "all"),
        (("verify-resume", "PHOTOS"), 4, "NO_RUN", "name the run folder"),
        (("verify-resume", "RUN", "steps=1"), 2, "BAD_VALUE", "give 2 or more"),
    ],
    ids=lambda value: (
        " ".join(value).encode("unicode_escape").decode() if isinstance(value, tuple) else ""
    ),
)
def test_error_is_one_line_that_says_what_to_do(
    commands, photos, student, tmp_path, words, exit_code, code, said
):
    places = {"PHOTOS": str(photos), "RUN": str(student)}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    ended = commands(*words, folder=tmp_path)
    assert ended.code == exit_code, ended.err
    assert ended.out == ""
    assert ended.err.startswith(f"deitkit: error [{code}] ")
    assert ended.err.count("\n") == 1 and ended.err.endswith("\n")
    assert said in ended.err


@pytest.mark.parametrize("foreign", sorted(FOREIGN_NAMES))
def test_foreign_name_is_answered_with_one_that_exists(foreign):
    from deitkit.config import RunConfig, build_config, canonical_name, flatten
    from deitkit.errors import ConfigError

    with pytest.raises(ConfigError, match=f"it is {FOREIGN_NAMES[foreign]}= here"):
        build_config({foreign: "1"})
    known = flatten(RunConfig())
    assert canonical_name(FOREIGN_NAMES[foreign], known) in known


def test_debug_shows_where(commands, tmp_path):
    """The traceback comes first, the line stays the last."""
    for words in (("--debug", "train", "imgsz=3"), ("train", "imgsz=3", "--debug")):
        ended = commands(*words, folder=tmp_path)
        assert ended.code == 2
        assert ended.err.startswith("Traceback (most recent call last):\n")
        assert ended.err.splitlines()[-1].startswith("deitkit: error [UNKNOWN_SETTING] imgsz: ")


def test_three_ways_to_write_a_setting(commands, photos, tmp_path):
    """`key=value`, `--key value` and `--key=value`, short and dotted: the same run."""
    configs = []
    for number, style in enumerate(("{}={}", "--{} {}", "--{}={}")):
        pairs = [("data", photos), *(word.split("=") for word in TINY)]
        words = [part for name, value in pairs for part in style.format(name, value).split(" ")]
        if number == 1:
            words = [word.replace("--batch_size", "--batch-size") for word in words]
        ended = commands("train", *words, f"out={tmp_path / 'run'}", "overwrite=true")
        assert ended.code == 0, ended.err
        configs.append(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()))
    assert configs[0] == configs[1] == configs[2]
    assert configs[0]["optim"]["batch_size"] == 8


def test_config_file_is_a_run_again(commands, photos, student, tmp_path):
    """A run's own config.yaml, with one setting changed on the command line."""
    ended = commands("train", f"config={student / 'config.yaml'}", "seed=3", f"out={tmp_path}/run")
    assert ended.code == 0, ended.err
    before = yaml.safe_load((student / "config.yaml").read_text())
    after = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert after["run"]["seed"] == 3
    for section in ("data", "model", "optim", "schedule", "distill"):
        assert after[section] == before[section]


BARE = {
    "LANG": "C",
    "LC_ALL": "C",
    "PYTHONIOENCODING": "ascii",
    "COLUMNS": "0",
    "NO_COLOR": "1",
    "TERM": "",
}


def test_no_terminal_no_stdin_no_locale(photos, tmp_path):
    """T51: trained, measured and asked with stdin closed and an ASCII terminal of no width."""
    data = make_folder(tmp_path / "data", {"café": 4, "日本": 4})
    for name in ("café", "日本"):
        make_folder(data, {name: 2}, start=9)
    words = [f"data={data}", *TINY, "epochs=1"]
    words.remove("epochs=3")
    for argv in (
        ("train", *words, "out=run"),
        ("evaluate", "run", f"data={data}"),
        ("predict", "run", str(data)),
    ):
        command = f"exec {PROGRAM} {' '.join(map(shlex.quote, argv))} <&-"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=os.environ | QUIET | BARE,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        said = (done.stdout + done.stderr).decode("ascii")
        assert r"caf\xe9" in said
        assert "\x1b" not in said and "Traceback" not in said


def test_terminal_of_width_zero(photos, tmp_path):
    """T51: a new pseudo terminal says it has 0 columns; bar and ETA are drawn all the same."""
    main, other = pty.openpty()
    done = subprocess.Popen(
        [PROGRAM, "train", f"data={photos}", *TINY, f"out={tmp_path / 'run'}"],
        stdin=other,
        stdout=other,
        stderr=other,
        env=os.environ | QUIET | {"COLUMNS": "0", "LINES": "0", "TERM": "xterm"},
    )
    os.close(other)
    shown = b""
    try:
        while piece := os.read(main, 65536):
            shown += piece
    except OSError:
        pass  # The other side is closed.
    finally:
        os.close(main)
    assert done.wait() == 0, shown.decode()
    assert "validation images right" in shown.decode()
    assert "12/12" in shown.decode()
    assert "Traceback" not in shown.decode()


@pytest.mark.parametrize("json_words", [(), ("--json",)], ids=["lines", "json"])
def test_reader_that_leaves(student, photos, json_words):
    """T15, T51: `| head -n 1` ends neither with an error nor with a traceback."""
    pictures = " ".join([str(photos / "test")] * 100)
    command = f"{PROGRAM} predict {student} {pictures} {' '.join(json_words)}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        env=os.environ | QUIET,
        check=False,
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2
    assert done.stdout.splitlines()[1] == "0"


@pytest.mark.parametrize("verb", ["evaluate", "train"])
def test_reader_of_tables_that_was_never_there(commands, student, photos, tmp_path, verb):
    """T15: with both streams a broken pipe, a table is not shown and a run goes on to its end."""
    ended = broken(verb, student, photos, tmp_path)
    assert ended == 0
    if verb == "train":
        assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 12


def broken(verb: str, student: Path, photos: Path, folder: Path) -> int:
    """The exit code with stdout and stderr a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    words = ("evaluate", student) if verb == "evaluate" else ("train", f"data={photos}", *TINY)
    try:
        return subprocess.run(
            [PROGRAM, *words, *(() if verb == "evaluate" else (f"out={folder / 'run'}",))],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            env=os.environ | QUIET,
            check=False,
        ).returncode
    finally:
        os.close(writer)


def test_version_of_the_installed_program(tmp_path):
    import deitkit

    ended = installed("--version", folder=tmp_path)
    assert (ended.code, ended.out, ended.err) == (0, f"{deitkit.__version__}\n", "")
