"""`deitkit views`: from pictures to a sheet, and what it says about pictures it cannot show."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.api.draw_sheet import LONG_RUN, draw_sheet
from deitkit.augmentation import ViewPolicy, draw_views
from deitkit.config.recipes import list_recipes
from deitkit.data import open_dataset
from deitkit.training.choices import choose_crop, choose_mixing, choose_padding, choose_scale
from tests.journeys.commands import installed
from tests.journeys.conftest import CLASSES, make_folder

SMALL = ("image_size=32", "count=6")


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """Four pictures of two classes, all different. Do not change it."""
    return make_folder(tmp_path_factory.mktemp("album"), {"cat": 2, "dog": 2}, size=(24, 20))


def test_sheet_table_and_json_say_the_same(commands, album, tmp_path):
    ended = commands("views", album, *SMALL, f"out={tmp_path / 'a.png'}", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.json) == 6
    names = {"cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"}
    assert {view["picture"] for view in ended.json[:4]} == names
    assert [view["epoch"] for view in ended.json] == [0] * 4 + [1] * 2
    for view, partner in zip(ended.json[:4:2], ended.json[1:4:2], strict=True):
        assert view["own_share"] == partner["own_share"] < 1
        assert (view["partner"], partner["partner"]) == (partner["picture"], view["picture"])
    shown = commands("views", album, *SMALL, f"out={tmp_path / 'b.png'}")
    assert shown.code == 0
    assert shown.out.splitlines()[-1] == f"6 views are in {tmp_path / 'b.png'}"
    for view in ended.json:
        for operation in view["operations"]:
            assert operation["name"].split("_")[0] in shown.out
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.format == "PNG"
        # Ten cells of 160 px: four originals, six views.
        assert sheet.width == 14 + 4 * 174
    other = commands("views", album, *SMALL, "seed=1", f"out={tmp_path / 'c.png'}", "--json")
    assert [v["box"] for v in other.json] != [v["box"] for v in ended.json]


def test_views_are_those_that_training_draws(album):
    """Same pictures, seed and epoch: the loader's own ids, order and draws."""
    dataset = open_dataset(str(album), val_fraction=0.5)
    policy = ViewPolicy(**LONG_RUN)
    everything = {
        int(sample_id): size
        for part in (dataset.train, dataset.val)
        for sample_id, size in zip(part.sample_ids, part.sizes, strict=True)
    }
    assert len(everything) == 4
    sheet = draw_sheet(album, seed=5, count=4, image_size=32)
    ids = np.array(list(everything), dtype=np.uint64)
    wanted = draw_views(
        policy,
        view_seed=5,
        epoch=0,
        sample_ids_B=ids,
        sizes_B2=np.array(list(everything.values())),
    )
    boxes = {tuple(np.round(box, 6)) for box in wanted.box_B4.tolist()}
    assert {tuple(np.round(view.box, 6)) for view in sheet.views} == boxes


def test_default_is_what_train_chooses_for_a_long_run():
    """Of what the choices decide today; RandAugment and erasing are the paper's."""
    mixup, cutmix = choose_mixing(300, has_teacher=False)
    assert choose_crop(300, is_small=False).value == LONG_RUN["crop"]
    assert choose_padding(300).value == LONG_RUN["padding"]
    assert choose_scale(300).value == LONG_RUN["scale"]
    assert (mixup.value, cutmix.value) == (LONG_RUN["mixup"], LONG_RUN["cutmix"])
    assert LONG_RUN["auto_augment"] == "rand-m9-mstd0.5-inc1"
    assert LONG_RUN["erasing"] == 0.25


def test_one_picture_has_no_partner_and_that_is_said(commands, album, tmp_path):
    ended = commands("views", album / "cat" / "0.png", *SMALL, "--json", folder=tmp_path)
    assert ended.code == 0
    assert ended.err.startswith("note: one picture has no partner")
    assert {(view["partner"], view["own_share"]) for view in ended.json} == {(None, 1.0)}
    assert len({tuple(view["box"]) for view in ended.json}) == 6
    assert (tmp_path / "sheet.png").is_file(), "where out= is left out"
    still = commands(
        "views", album / "cat/0.png", "views.mixup=0", "views.cutmix=0", folder=tmp_path
    )
    assert (still.code, still.err) == (0, "")


@pytest.mark.parametrize("style", ["{}={}", "--{}={}", "--{} {}"])
def test_settings_of_the_section_views(commands, album, tmp_path, style):
    pairs = (("views.erasing", "1"), ("views.auto_augment", "none"), ("views.flip", "0"))
    words = [part for name, value in pairs for part in style.format(name, value).split()]
    ended = commands("views", album, *SMALL, *words, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    for view in ended.json:
        assert view["erased"] is not None
        assert view["operations"] == [] and view["flipped"] is False


def test_erased_box_of_the_sheet_is_where_it_is_said(album):
    """Black where it was erased, and nowhere else: the picture itself has no black."""
    plain = {"views.auto_augment": "none", "views.crop": "none", "views.mixup": 0}
    plain |= {
        "views.cutmix": 0,
        "views.flip": 0,
        "views.erasing": 1,
        "views.erasing_fill": "constant",
    }
    white = np.full((32, 32, 3), 255, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(white).save(stream, "PNG")
    (album.parent / "white.png").write_bytes(stream.getvalue())
    sheet = draw_sheet(album.parent / "white.png", count=1, image_size=32, **plain)
    top, left, bottom, right = (round(32 * edge) for edge in sheet.views[0].erased)
    pixels = np.asarray(sheet.image)
    # The second cell, 160 px for 32; captions are dark grey and not black.
    black = (pixels[14:174, 188:348] == 0).all(axis=2)[::5, ::5]
    wanted = np.zeros((32, 32), dtype=bool)
    wanted[top:bottom, left:right] = True
    np.testing.assert_array_equal(black, wanted)


@pytest.mark.parametrize("recipe", list_recipes())
def test_every_recipe_can_be_looked_at(album, recipe):
    sheet = draw_sheet(album, recipe=recipe, count=2, image_size=32)
    assert len(sheet.views) == 2


def test_recipe_decides_the_views(commands, album, tmp_path):
    """The first ViT's recipe neither operates, nor erases, nor mixes; settings come before it."""
    words = ("views", album, "recipe=vit_original", "count=8", "image_size=32", "--json")
    plain = commands(*words, folder=tmp_path).json
    assert {(len(v["operations"]), v["erased"], v["partner"]) for v in plain} == {(0, None, None)}
    assert len({tuple(v["box"]) for v in plain}) == 8
    erased = commands(*words, "views.erasing=1", folder=tmp_path).json
    assert all(view["erased"] for view in erased)


def test_more_pictures_than_views(commands, album, tmp_path):
    ended = commands("views", album, "count=3", "image_size=32", "--json", folder=tmp_path)
    assert len(ended.json) == 3
    assert ended.err == "note: pictures that are not shown: 1; count= shows more\n"


@pytest.mark.parametrize(
    ("words", "exit_code", "code", "said"),
    [
        ((), 2, "NO_IMAGES", "add files or folders"),
        (("nowhere.jpg",), 2, "NO_DATA", "does not exist"),
        (("BAD",), 3, "BAD_IMAGE", "truncated"),
        (("ALBUM", "BAD"), 3, "BAD_IMAGE", "bad.png"),
        (("ALBUM", "views.mixup=-1"), 2, "BAD_VALUE", "views.mixup"),
        (("ALBUM", "views.auto_augment=rand-q3"), 2, "BAD_VIEWS", "rand-m9-mstd0.5-inc1"),
        (("ALBUM", "views.mixxup=1"), 2, "UNKNOWN_SETTING", "did you mean views.mixup"),
        (("ALBUM", "erasing=1"), 2, "UNKNOWN_SETTING", "it is views.erasing= here"),
        (("ALBUM", "optim.lr=1"), 2, "NO_VIEW", "changes no view"),
        (("ALBUM", "views.flip=0", "views.flip=1"), 2, "TWICE", "give it once"),
        (("ALBUM", "recipe=deit_tinny"), 2, "RECIPE", "use deit_tiny"),
        (("ALBUM", "count=0"), 2, "BAD_VALUE", "give 1 to"),
        (("ALBUM", "count=many"), 2, "USAGE", "count"),
        (("ALBUM", "out=sheet.jpg"), 2, "BAD_VALUE", "ends in .png"),
        (("ALBUM", "image_size=0"), 2, "BAD_VALUE", "from 1 to 65536"),
        (("OWN", "out=OWN"), 2, "BAD_VALUE", "is one of the pictures"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_error_is_one_line(commands, album, tmp_path, words, exit_code, code, said):
    """D14 among them: a truncated picture stops the sheet and is named."""
    bad, own = tmp_path / "bad.png", tmp_path / "own.png"
    bad.write_bytes((album / "cat" / "0.png").read_bytes()[:200])
    shutil.copy(album / "cat" / "0.png", own)
    before = own.read_bytes()
    for name, place in {"ALBUM": album, "BAD": bad, "OWN": own}.items():
        words = [word.replace(name, str(place)) for word in words]
    ended = commands("views", *words, folder=tmp_path)
    assert ended.code == exit_code, ended.err
    assert ended.err.startswith(f"deitkit: error [{code}] ")
    assert ended.err.count("\n") == 1 and said in ended.err
    assert ended.out == ""
    assert own.read_bytes() == before and not (tmp_path / "sheet.png").exists()


def test_picture_with_an_equals_sign_in_its_name(commands, album, tmp_path):
    shutil.copy(album / "cat" / "0.png", tmp_path / "views.flip=1")
    ended = commands("views", "views.flip=1", *SMALL, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.json[0]["picture"] == "views.flip=1"


def test_other_shapes_and_one_channel(commands, album, tmp_path):
    words = ("views", album, "image_size=16x48", "data.channels=1", "count=2", "--json")
    ended = commands(*words, folder=tmp_path)
    assert ended.code == 0, ended.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        levels = np.asarray(sheet.convert("RGB")).astype(int)[14:74, 14:174]
    assert (levels[..., 0] == levels[..., 2]).all()


def test_installed_program(album, tmp_path):
    ended = installed("views", album / "cat", album / "dog", "count=2", folder=tmp_path)
    assert ended.code == 0, ended.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        # Two originals and two views of 224 px, two in a row.
        assert sheet.width == 14 + 2 * (224 + 14)


def test_recipes_are_listed_and_printed(commands):
    listed = commands("recipes")
    assert listed.code == 0
    lines = listed.out.splitlines()
    assert [line.split()[0] for line in lines] == list_recipes()
    assert "deit_tiny  " in listed.out and "DeiT-Ti of the paper" in listed.out
    assert all(len(line.split(maxsplit=1)[1]) > 20 and "#" not in line for line in lines)
    whole = commands("recipes", "deit_tiny").out
    assert whole.startswith("# DeiT-Ti of the paper")
    assert "views:\n" in whole and "auto_augment: rand-m9-mstd0.5-inc1" in whole
    wrong = commands("recipes", "deit_tinny")
    assert wrong.code == 2
    assert wrong.errors == [
        "deitkit: error [RECIPE] deit_tinny: no such recipe; use deit_tiny or deit_tiny_distilled"
    ]


def test_a_folder_shows_its_training_pictures_of_all_classes(commands, photos, tmp_path):
    """Without a recipe; val and test are never augmented."""
    ended = commands(
        "views", photos, "count=6", "image_size=32", f"out={tmp_path / 's.png'}", "--json"
    )
    assert ended.code == 0, ended.err
    names = {view["picture"] for view in ended.json}
    assert {name.partition("/")[0] for name in names} == set(CLASSES)
    refused = commands("views", photos, "views.repeats=3", f"out={tmp_path / 's.png'}")
    assert refused.code == 2 and "NO_VIEW" in refused.errors[0]
