"""The folder itself: whole or absent, never over other people's files, safe to show."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from deitkit.errors import ConfigError, ResourceError
from deitkit.exporters.card import shown_name
from deitkit.exporters.exported import EXPORT_FILES, KIND
from deitkit.exporters.registry import FORMATS
from deitkit.exporters.target import check_target
from deitkit.models.weight_source import describe_source
from deitkit.runtime.sealed_folder import find_folder, replace_folder, verify_folder
from tests.exporters.conftest import NAMES

NANO = "deit_nano_patch4_16"


def check(folder: Path, *, overwrite: bool = False, replaces_own: bool = True) -> None:
    check_target(
        folder,
        kind=KIND,
        file_names=EXPORT_FILES,
        replaces_own=replaces_own,
        overwrite=overwrite,
    )


def refused(folder: Path, said: str, **options: bool) -> None:
    with pytest.raises(ConfigError) as caught:
        check(folder, **options)
    assert caught.value.code == "NOT_OURS"
    assert said in str(caught.value)


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_writes_a_sealed_folder(to, make_bundle, tmp_path):
    FORMATS[to](make_bundle(NANO), tmp_path / "out")
    assert verify_folder(tmp_path / "out") == []
    assert {file.name for file in (tmp_path / "out").iterdir()} <= set(EXPORT_FILES)


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_bundle_gives_the_same_bytes(to, make_bundle, tmp_path):
    for name in ("one", "two"):
        FORMATS[to](make_bundle(NANO), tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.parametrize(("to", "place"), [("hf", "write"), ("hf", "fsync"), ("timm", "rename")])
def test_a_full_disk_leaves_a_whole_export(to, place, make_bundle, tmp_path, monkeypatch):
    """X06: at every call of one kind in turn; the earlier export or the new one, never a half."""
    earlier, new = make_bundle(NANO), make_bundle(NANO, depth=2)
    original = getattr(os, place)
    faults = 0
    for number in range(20):
        FORMATS[to](earlier, tmp_path / "out")
        calls = iter(range(20))

        def fail(*args, original=original, number=number, calls=calls):
            if next(calls) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args)

        monkeypatch.setattr(os, place, fail)
        try:
            FORMATS[to](new, tmp_path / "out")
        except ResourceError:
            faults += 1
        else:
            break
        finally:
            monkeypatch.undo()
        folder = find_folder(tmp_path / "out")
        assert folder is not None
        assert verify_folder(folder) == []
    assert faults >= 2
    assert verify_folder(tmp_path / "out") == []


def test_an_absent_or_empty_folder_and_an_earlier_export_may_be_written(make_bundle, tmp_path):
    check(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    check(tmp_path / "empty")
    FORMATS["hf"](make_bundle(NANO), tmp_path / "out")
    check(tmp_path / "out")
    FORMATS["timm"](make_bundle(NANO), tmp_path / "out")
    assert not (tmp_path / "out" / "preprocessor_config.json").exists()


def test_other_files_are_never_removed(make_bundle, tmp_path):
    """A repository for the hub beside an earlier export, a folder of photos, a file."""
    FORMATS["hf"](make_bundle(NANO), tmp_path / "out")
    (tmp_path / "out" / ".git").mkdir()
    for overwrite in (False, True):
        refused(tmp_path / "out", "holds other files (.git)", overwrite=overwrite)
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file", "is a file", overwrite=True)


def test_files_of_these_names_from_elsewhere_need_overwrite(make_bundle, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    refused(folder, "is not empty, and no earlier export; choose another out=, or add overwrite")
    check(folder, overwrite=True)


def test_a_damaged_export_is_nobodys(make_bundle, tmp_path):
    FORMATS["hf"](make_bundle(NANO), tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(b"{}")
    refused(tmp_path / "out", "no earlier export")


def test_a_bundle_is_never_overwritten_by_an_export(tmp_path):
    files = {"model.safetensors": b"", "config.json": b""}
    replace_folder(tmp_path / "best", files, {"kind": "bundle", "schema": 1})
    for overwrite in (False, True):
        refused(tmp_path / "best", "holds a bundle;", overwrite=overwrite)


def test_one_of_its_own_kind_may_be_kept(make_bundle, tmp_path):
    FORMATS["hf"](make_bundle(NANO), tmp_path / "out")
    refused(tmp_path / "out", "holds an earlier export", replaces_own=False)
    check(tmp_path / "out", replaces_own=False, overwrite=True)


def test_class_names_in_a_card_are_no_markup(make_bundle, tmp_path):
    """X09: escaped on output; exact in config.json."""
    FORMATS["timm"](make_bundle(NANO), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    classes = card.split("## Classes\n")[1].split("## Where")[0]
    assert re.findall(r"^\d+\. ", classes, re.M) == ["0. ", "1. ", "2. "]
    assert "</script>" not in card
    assert "&lt;/script&gt;" in classes
    assert all(len(line) < 500 for line in classes.splitlines())
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["label_names"] == list(NAMES)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("red *rose*", r"red \*rose\*"),
        ("a\nb", r"a\\nb"),
        ("<b>&", r"&lt;b&gt;&amp;"),
        ("- a", r"\- a"),
        ("\udcff", r"\\udcff"),
        ("Café 猫", "Café 猫"),
    ],
)
def test_a_name_as_one_line_of_markdown(name, shown):
    assert shown_name(name) == shown


def test_the_card_says_what_it_is_and_where_it_comes_from(make_bundle, tmp_path):
    FORMATS["hf"](make_bundle(NANO), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    num_params = sum(tensor.numel() for tensor in make_bundle(NANO).state_dict.values())
    assert f"3 classes and {num_params:,} parameters" in card
    assert "until it just covers 18 x 18 pixels" in card
    provenance = json.loads(card.split("```json\n")[1].split("```")[0])
    assert provenance["provenance"]["validation"] == {"step": 12, "top1": 0.5}


def test_the_card_of_imported_weights_names_their_source_and_licence(make_bundle, tmp_path):
    imported = {"source": "hf:owner/name", "licence": "apache-2.0", "sha256": "ab"}
    FORMATS["timm"](
        make_bundle(NANO, bundle={"provenance": {"imported": imported}}), tmp_path / "out"
    )
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "\nlicense: apache-2.0\n" in card.split("---")[1]
    assert "its weights come from hf:owner/name" in card
    assert describe_source(tmp_path / "out").licence == "apache-2.0"


@pytest.mark.parametrize("licence", [None, "mine\nlibrary_name: x", ""])
def test_what_is_no_licence_is_not_written_as_one(licence, make_bundle, tmp_path):
    provenance = {"imported": {"source": "x", "licence": licence}}
    FORMATS["timm"](make_bundle(NANO, bundle={"provenance": provenance}), tmp_path / "out")
    head = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "license" not in head
