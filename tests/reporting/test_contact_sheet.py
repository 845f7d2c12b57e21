"""The sheet: what is said of a view, what is shown of it, and where."""

# Shapes: B images, C channels, H height, W width.

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont, ImageOps

from deitkit.augmentation import ViewPolicy, draw_views
from deitkit.augmentation.op_codes import OP_CODES, OP_NAMES, PARAMETERS
from deitkit.reporting.contact_sheet import (
    GAP,
    INK,
    DrawnView,
    describe_views,
    draw_sheet,
    print_views,
    show_views,
    wrap,
)

PLAIN = ViewPolicy(crop="none", flip=0.0)
STATISTICS = {"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.1, 0.1), "erasing_fill": "mean"}


def pictures(num: int = 2, size: tuple[int, int] = (16, 16)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(num)]


def views_of(images: list[np.ndarray], policy: ViewPolicy = PLAIN, **changed):
    """Drawn views of these images; then fields replaced by arrays of the test's own."""
    views = draw_views(
        policy,
        view_seed=0,
        epoch=4,
        sample_ids_B=np.arange(len(images), dtype=np.uint64),
        sizes_B2=np.array([image.shape[:2] for image in images]),
    )
    return replace(views, **{k: np.array(v, getattr(views, k).dtype) for k, v in changed.items()})


def test_words_by_hand():
    """Quarter of the area, flipped, turned, two bits, a tenth erased, 0.63 of itself."""
    images = pictures()
    views = views_of(
        images,
        box_B4=[[0.1, 0.2, 0.5, 0.5], [0, 0, 1, 1]],
        flip_B=[True, False],
        ops_BL=[[OP_CODES["rotate"], OP_CODES["posterize"]], [0, OP_CODES["translate_x"]]],
        params_BL=[[-12.34, 2], [0, 0.405]],
        erase_B4=[[0.1, 0.1, 0.3, 0.6], [0, 0, 0, 0]],
        lam_B=[0.63, 0.63],
    )
    first, second = describe_views(views, ["cat.jpg", "dog.jpg"], (16, 16))
    assert first.caption() == [
        "cat.jpg, epoch 4",
        "crop 25 %, flipped",
        "rotate -12.3°, posterize 2 bits",
        "erased 10 %",
        "mixed 0.63 with dog.jpg",
    ]
    assert second.caption() == [
        "dog.jpg, epoch 4",
        "whole",
        "translate x 40.5 %",
        "mixed 0.63 with cat.jpg",
    ]
    said = first.to_dict()
    assert said["box"] == pytest.approx((0.1, 0.2, 0.5, 0.5))
    assert said["operations"][1] == {"name": "posterize", "parameter": 2.0}
    assert (said["flipped"], said["partner"], said["cut"]) == (True, "dog.jpg", None)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0.0, 0.0, 1.0, 1.0), "whole"),
        ((0.125, 0.0, 1.0, 1.0), "moved 12 % down"),
        ((-0.125, 0.0625, 1.0, 1.0), "moved 12 % up 6 % right"),
        ((0.0, 0.25, 1.0, 0.5), "crop 50 %"),
    ],
)
def test_crop_in_words(box, words):
    images = pictures(1)
    (view,) = describe_views(views_of(images, box_B4=[box]), ["a"], (16, 16))
    assert view.crop_words == words


@pytest.mark.parametrize("name", OP_NAMES[1:])
def test_every_operation_has_words(name):
    """Its name, and a number exactly where it has a parameter."""
    images = pictures(1)
    views = views_of(images, ops_BL=[[OP_CODES[name]]], params_BL=[[0.5]])
    (view,) = describe_views(views, ["a"], (16, 16))
    assert view.operation_words.startswith(name.replace("_", " "))
    assert any(c.isdigit() for c in view.operation_words) == bool(PARAMETERS[name])


def test_share_of_a_cut_is_that_of_the_pixels():
    """A cut of 5 x 5 of 16 x 16 pixels leaves 231 / 256, also where the draw said otherwise."""
    images = pictures()
    cut = [0.0, 0.0, 5 / 16, 5 / 16]
    views = views_of(images, cut_B4=[cut, cut], lam_B=[0.5, 0.5])
    first, _ = describe_views(views, ["a", "b"], (16, 16))
    assert first.own_share == pytest.approx(231 / 256)
    assert first.mix_words == "cutmix 0.90 with b"


def test_partner_is_the_neighbour_and_an_odd_last_one_has_none():
    images = pictures(5)
    policy = replace(PLAIN, mixup=0.8)
    described = describe_views(views_of(images, policy), list("abcde"), (16, 16))
    assert [view.partner for view in described] == ["b", "a", "d", "c", None]
    assert described[-1].mix_words == ""


def test_shown_pixels_by_hand():
    """Untouched; inverted and flipped as Pillow does; the erased box mean; the blend rounded."""
    images = pictures(6)
    views = views_of(
        images,
        ops_BL=[[0], [0], [OP_CODES["invert"]], [0], [0], [0]],
        params_BL=np.zeros((6, 1)),
        flip_B=[False, False, True, False, False, False],
        erase_B4=[[0] * 4] * 3 + [[0.25, 0.5, 0.75, 1.0]] + [[0] * 4] * 2,
        lam_B=[1, 1, 1, 1, 0.25, 0.25],
    )
    shown = show_views(images, views, (16, 16), **STATISTICS)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[0], images[0])
    inverted = ImageOps.mirror(ImageOps.invert(Image.fromarray(images[2])))
    np.testing.assert_array_equal(shown[2], np.asarray(inverted))
    erased = images[3].copy()
    erased[4:12, 8:16] = (51, 102, 153)
    np.testing.assert_array_equal(shown[3], erased)
    blend = np.rint(0.25 * images[4].astype(float) + 0.75 * images[5])
    np.testing.assert_allclose(shown[4], blend, atol=1)


def test_cut_patch_is_the_partners():
    images = pictures(2)
    cut = [[0.25, 0.0, 0.75, 0.5]] * 2
    shown = show_views(
        images, views_of(images, cut_B4=cut, lam_B=[0.75] * 2), (16, 16), **STATISTICS
    )
    wanted = images[0].copy()
    wanted[4:12, 0:8] = images[1][4:12, 0:8]
    np.testing.assert_array_equal(shown[0], wanted)


def drawn_views(images: list[np.ndarray]) -> list[tuple[DrawnView, np.ndarray]]:
    views = views_of(images)
    names = [f"p{k}" for k in range(len(images))]
    return list(zip(describe_views(views, names, (16, 16)), images, strict=True))


def test_original_leads_and_cells_stand_in_order():
    """16 px are enlarged tenfold, pixel for pixel; three columns for five cells."""
    images = pictures(4)
    original = np.full((16, 16, 3), (10, 200, 30), dtype=np.uint8)
    sheet = np.asarray(draw_sheet([("first.png", original)], drawn_views(images)))
    cell = 160
    assert (sheet[GAP : GAP + cell, GAP : GAP + cell] == (10, 200, 30)).all()
    assert sheet.shape[1] == GAP + 3 * (cell + GAP)
    left = GAP + cell + GAP
    enlarged = images[0].repeat(10, axis=0).repeat(10, axis=1)
    np.testing.assert_array_equal(sheet[GAP : GAP + cell, left : left + cell], enlarged)
    second_row = images[2].repeat(10, axis=0).repeat(10, axis=1)[0]
    rows = np.flatnonzero((sheet[:, GAP : GAP + cell] == second_row).all(axis=(1, 2)))
    assert len(rows) == 10 and rows[0] > GAP + cell


def test_captions_are_written_under_their_cells():
    images = pictures(1)
    sheet = np.asarray(draw_sheet([("a", images[0])], drawn_views(images)))
    below = sheet[GAP + 160 :]
    left, right = below[:, : GAP + 160 + GAP // 2], below[:, GAP + 160 + GAP // 2 :]
    assert (left == INK).all(axis=2).any() and (right == INK).all(axis=2).any()
    assert (sheet[-GAP:] == 255).all() and (sheet[:, -GAP:] == 255).all()


@pytest.mark.parametrize("size", [(16, 64), (700, 500), (224, 224)])
def test_a_cell_keeps_the_shape_of_its_picture(size):
    """An original of another shape is fitted with paper beside it; nothing is larger than 448."""
    height, width = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    wide = np.full((20, 80, 3), 7, dtype=np.uint8)
    (view, _), *_ = drawn_views(pictures(1))
    sheet = np.asarray(draw_sheet([("wide", wide)], [(view, pixels)]))
    rows, columns = np.nonzero((sheet == 0).all(axis=2))
    shown = (np.ptp(rows) + 1, np.ptp(columns) + 1)
    assert shown[0] / shown[1] == pytest.approx(height / width, rel=0.02)
    assert 160 <= max(shown) <= 448
    rows, columns = np.nonzero((sheet == 7).all(axis=2))
    assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(4, rel=0.05)


def test_one_channel_is_shown_grey():
    pixels = np.full((16, 16, 1), 90, dtype=np.uint8)
    (view, _), *_ = drawn_views(pictures(1))
    sheet = np.asarray(draw_sheet([("g", pixels)], [(view, pixels)]))
    assert (sheet[GAP + 5, GAP + 5] == 90).all()


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80), st.integers(30, 200))
def test_wrapped_text_fits_and_loses_nothing(text, width):
    """No line is wider than asked; all but spaces is there in order, as it is or escaped."""
    font = ImageFont.load_default(13)
    lines = wrap(text, width, font)
    assert all(font.getlength(line) <= width for line in lines)
    kept = "".join("".join(lines).split())
    plain = "".join(c for c in text if c.isascii() and not c.isspace())
    remaining = iter(kept)
    assert all(c in remaining for c in plain)


def test_what_the_font_lacks_is_escaped():
    font = ImageFont.load_default(13)
    assert wrap("café 日.png -12.3°", 500, font) == ["caf\\xe9 \\u65e5.png -12.3°"]


def test_names_cannot_disturb_the_terminal(capsys):
    """A name with a colour code is an escape in the table and on the sheet."""
    from deitkit.reporting.console import make_console

    images = pictures(2)
    views = views_of(images, replace(PLAIN, mixup=0.8))
    described = describe_views(views, ["\x1b[31mred.png", "[bold]b.png"], (16, 16))
    print_views(make_console(), described)
    said = capsys.readouterr().out
    assert "\x1b[31m" not in said
    assert "[bold]b.png" in said.replace("\n", "")
    assert "\x1b" not in "".join(described[0].caption() + described[1].caption())
