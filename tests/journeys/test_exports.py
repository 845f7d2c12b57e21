"""From a run to an ONNX file and its answers, on the command line."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deitkit.artifacts.bundle import load_bundle
from deitkit.evaluation.onnx_predictor import OnnxPredictor
from deitkit.runtime.sealed_folder import find_folder, verify_folder
from tests.journeys.conftest import TINY
from tests.reporting.page_tree import check_self_contained, parse, words_of

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(commands, student, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Both files of the student, and what the command said. Do not change them."""
    out = tmp_path_factory.mktemp("exports") / "flowers"
    words = ("to=onnx", "int8=true", "tolerance=1", f"out={out}", "--json")
    ended = commands("export", student, *words)
    assert ended.code == 0, ended.err
    return out, ended.json


def test_the_table_is_of_the_files(exported, student, photos):
    """All validation images, the run's accuracy on them, and sizes as they are on the disk."""
    out, said = exported
    assert verify_folder(out) == []
    result = json.loads((student / "result.json").read_text(encoding="utf-8"))
    precise, small = said["files"]
    assert (precise["file"], small["file"]) == ("model.onnx", "model.int8.onnx")
    assert said["measured_on"].startswith(str(photos))
    for one in said["files"]:
        assert one["bytes"] == (out / one["file"]).stat().st_size
        assert one["run_accuracy"] == precise["run_accuracy"]
    assert precise["difference"] == 0 and precise["largest_drift"] < 1e-4
    assert small["bytes"] < precise["bytes"]
    assert said["finished"] is True
    best = load_bundle(student).provenance["validation"]
    assert said["step"] == best["step"]
    assert precise["run_accuracy"] == pytest.approx(best["top1"]), result


def without_torch(*words: object, folder: Path) -> Any:
    """One command in a process of its own, which must not have loaded torch or onnx at its end."""
    code = (
        "import sys\nfrom deitkit.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "loaded = {'torch', 'torchvision', 'onnx', 'timm'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else code)"
    )
    argv = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_asking_a_file_needs_no_torch_and_answers_as_the_run(commands, exported, student, photos):
    """predict, on the file and on its folder, and evaluate; 1e-4 in probability."""
    out, _ = exported
    pictures = photos / "test"
    own = commands("predict", student, pictures, "--json").json
    assert len(own) == 12
    for named in (out / "model.onnx", out):
        theirs = without_torch("predict", named, pictures, "--json", folder=photos)
        assert [row["source"] for row in theirs] == [row["source"] for row in own]
        for row, expected in zip(theirs, own, strict=True):
            assert row["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)
            assert row["abstains"] == expected["abstains"]
    measured = without_torch(
        "evaluate", out / "model.onnx", f"data={pictures}", "--json", folder=photos
    )
    expected = commands("evaluate", student, f"data={pictures}", "--json").json
    fused, own_fused = (found["heads"]["fused"] for found in (measured, expected))
    assert fused["num_images"] == 12
    assert (fused["top1"], fused["confusion"]) == (own_fused["top1"], own_fused["confusion"])
    assert fused["nll"] == pytest.approx(own_fused["nll"], abs=1e-3)


def test_the_printed_lines_open_the_file(exported, student, commands, photos):
    """As they stand in the folder's card too: onnxruntime, Pillow and numpy, nothing of deitkit."""
    out, said = exported
    picture = next((photos / "test").rglob("*.png"))
    lines = said["code"].replace("photo.jpg", str(picture))
    assert "deitkit" not in lines
    namespace: dict[str, Any] = {}
    exec(lines, namespace)
    (row,) = commands("predict", student, picture, "--json").json
    names = load_bundle(student).class_names
    expected = [row["probabilities"][name] for name in names]
    assert namespace["probabilities"][0].tolist() == pytest.approx(expected, abs=1e-4)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert said["code"].replace(str(out), "path/to/this/folder") in card


def test_compare_a_run_its_file_and_its_teacher(commands, exported, student, teacher, tmp_path):
    """The file answers as the run does and brings no settings; the teacher has others."""
    file = exported[0] / "model.onnx"
    ended = commands("compare", student, file, "--json")
    assert ended.code == 0, ended.err
    first, second = ended.json["runs"]
    assert second["metrics"]["confusion"] == first["metrics"]["confusion"]
    assert second["metrics"]["nll"] == pytest.approx(first["metrics"]["nll"], abs=1e-3)
    assert (second["gain"]["difference"], second["gain"]["p_value"]) == (0, 1)
    assert (ended.json["settings"], ended.json["data"]) == ({}, {})
    out = tmp_path / "ab.html"
    ended = commands("compare", student, teacher, file, f"out={out}")
    assert ended.code == 0, ended.err
    assert "p (McNemar)" in ended.out
    assert "distill.teacher" in ended.out
    page = out.read_bytes()
    check_self_contained(page)
    assert "Settings that differ" in words_of(page)
    assert "distill.teacher" in words_of(page)
    tags = [tag for tag, _ in parse(page).elements]
    assert tags.count("svg") == 3, "differences, accuracy, loss"


@pytest.mark.slow
def test_an_unfinished_run_exports_its_best_so_far(commands, photos, tmp_path):
    """X07: and says which step, on the line and in the file."""
    hooks = {"names": ["step"], "at": 7, "signal": int(signal.SIGINT), "times": 1}
    ended = commands("train", f"data={photos}", "out=r", *TINY, folder=tmp_path, hooks=hooks)
    assert ended.code == 130
    ended = commands("export", "r", "to=onnx", folder=tmp_path)
    assert ended.code == 0, ended.err
    best = load_bundle(tmp_path / "r").provenance["validation"]["step"]
    assert best in (3, 6)
    assert f"best at step {best} so far: the run is not finished" in ended.out
    file = OnnxPredictor(tmp_path / "r" / "export-onnx" / "model.onnx")
    assert file.metadata["provenance"]["validation"]["step"] == best


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{bundle}", "to=onnx"), 2, "[NO_DATA] {bundle}: does not say which images it was"),
        (("{student}", "to=onnx", "tolerance=1.5"), 2, "tolerance=1.5: is no share of images"),
        (("{student}", "to=hf", "int8=true"), 2, "to=hf: has no int8"),
        (("{student}", "to=onnx", "data={photos}/none"), 2, "does not exist"),
        (("{student}", "to=onnx", "out={photos}"), 2, "[NOT_OURS]"),
        (("{student}", "to=onnx", "data={others}"), 3, "[CLASS_MISMATCH]"),
        (("{file}", "to=onnx"), 5, "[NO_BUNDLE]"),
    ],
)
def test_what_cannot_be_exported_ends_in_one_line(
    commands, exported, student, photos, tmp_path, words, code, said
):
    """Each before torch's exporter is asked; nothing is written."""
    shutil.copytree(student / "best", tmp_path / "bundle")
    (tmp_path / "others" / "car").mkdir(parents=True)
    shutil.copy(next(photos.rglob("*.png")), tmp_path / "others" / "car" / "0.png")
    paths = {"student": student, "photos": photos, "file": exported[0] / "model.onnx"}
    paths |= {name: tmp_path / name for name in ("bundle", "others")}
    before = sorted(tmp_path.rglob("*"))
    ended = commands("export", *(word.format(**paths) for word in words))
    assert ended.code == code, ended.err
    assert len(ended.errors) == 1 and said.format(**paths) in ended.errors[0]
    assert sorted(tmp_path.rglob("*")) == before
    assert not (student / "export-onnx").exists()


@pytest.mark.parametrize(
    ("fault", "change", "said"),
    [
        ("M07", lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:], "[DIGEST]"),
        ("M15", lambda data: b"version https://git-lfs.github.com/spec/v1\n", "[LFS_POINTER]"),
        ("M03", lambda data: data[: len(data) // 2], "[FORMAT]"),
        ("M02", lambda data: b"PK\x03\x04" + data, "[FORMAT]"),
    ],
)
def test_a_damaged_file_ends_in_one_line(commands, exported, photos, tmp_path, fault, change, said):
    content = (exported[0] / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(change(content))
    for words in (("predict", "model.onnx", photos), ("evaluate", "model.onnx", f"data={photos}")):
        ended = commands(*words, folder=tmp_path)
        assert ended.code == 5, ended.err
        assert len(ended.errors) == 1 and f"{said} {tmp_path / 'model.onnx'}:" in ended.errors[0]


def archives(folder: Path, bundle: Path) -> list[Path]:
    """A whole bundle with members that would be written elsewhere, packed as zip and as tar."""
    with zipfile.ZipFile(folder / "model.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in bundle.iterdir():
            packed.write(path, path.name)
        packed.writestr("../canary", "x")
        packed.writestr(str(folder / "canary"), "x")
        packed.writestr("bomb", bytes(20 << 20))
    for name in ("model.tar", "model.tar.gz", "model.onnx"):
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as packed:
            for path in bundle.iterdir():
                packed.add(path, path.name)
            packed.addfile(tarfile.TarInfo("../canary"), io.BytesIO())
            for kind, name in ((tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "hard")):
                link = tarfile.TarInfo(name)
                link.type, link.linkname = kind, str(folder / "canary")
                packed.addfile(link)
            device = tarfile.TarInfo("device")
            device.type = tarfile.CHRTYPE
            packed.addfile(device)
    return sorted(folder.glob("model.*"))


def test_a_packed_model_is_never_unpacked(commands, student, photos, tmp_path):
    """M12: deitkit reads folders and single files; whatever lies in an archive stays there."""
    (tmp_path / "in").mkdir()
    packed = archives(tmp_path / "in", student / "best")
    assert len(packed) == 4
    before = sorted(tmp_path.rglob("*"))
    picture = next(photos.rglob("*.png"))
    for path in packed:
        for words in (
            ("predict", path, picture),
            ("evaluate", path, f"data={photos}"),
            ("export", path, "to=timm"),
            ("import", path, f"classes={photos}", f"out={tmp_path / 'out'}"),
            ("serve", path, "port=0"),
        ):
            ended = commands(*words)
            assert ended.code == 5, (words, ended.err)
            (error,) = ended.errors
            assert re.search(r"\[(NO_BUNDLE|FORMAT|UNSAFE)\]", error), error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "at"), [("fsync", 1), ("fsync", 3), ("rename", 1), ("rename", 2)]
)
def test_killed_in_an_export_no_half_file_has_the_name(commands, student, tmp_path, place, at):
    """X06: kill -9; the earlier export or none stays, and the command again ends it."""
    for earlier in (False, True):
        out = tmp_path / f"out-{earlier}"
        words = ("export", student, "to=onnx", f"out={out}")
        if earlier:
            assert commands(*words).code == 0
        hooks = {"names": [place], "at": at, "signal": int(signal.SIGKILL), "times": 1}
        ended = commands(*words, hooks=hooks)
        found = find_folder(out)
        assert found is None or verify_folder(found) == []
        assert found is not None or not earlier
        assert ended.code in (-signal.SIGKILL, 0)
        assert commands(*words).code == 0
        assert verify_folder(out) == []


@pytest.mark.slow
def test_the_public_deit_tiny_keeps_its_accuracy_in_int8(commands, shared_data, tmp_path):
    """The real weights: a quarter of the size, and the gate passed."""
    images = shared_data / "imagenet_samples100"
    weights = shared_data / "weights" / "deit_tiny_patch16_224" / "deit_tiny_patch16_224.pth"
    words = ("import", weights, f"classes={images / 'classes.txt'}", "out=tiny")
    assert commands(*words, folder=tmp_path).code == 0
    words = ("export", "tiny", "to=onnx", "int8=true", f"data={images}", "--json")
    ended = commands(*words, folder=tmp_path)
    assert ended.code == 0, ended.err
    precise, small = ended.json["files"]
    assert precise["largest_drift"] < 1e-4 and precise["run_accuracy"] >= 0.79
    assert small["difference"] >= -0.005
    assert 0.25 < small["bytes"] / precise["bytes"] < 0.28
