"""The operations on pixels: their names, codes, and what the one parameter of each means.

An operation acts on uint8 levels at the output's size, after crop and flip. Parameters are
physical, not magnitudes, so that a view can be read, and applied at any size.
"""

from __future__ import annotations

OP_NAMES = (
    "none",
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "grayscale",
    "blur",
)
"""By code. Their order is fixed: codes are part of stored views."""

OP_CODES = {name: code for code, name in enumerate(OP_NAMES)}

PARAMETERS = {
    "none": "",
    "autocontrast": "",
    "equalize": "",
    "invert": "",
    "rotate": "degrees counter-clockwise",
    "posterize": "bits kept, 1 to 8",
    "solarize": "levels of this and above are inverted, 0 to 256",
    "solarize_add": "added to levels below 128",
    "color": "factor, 0 is grey, 1 leaves it",
    "contrast": "factor, 0 is the mean grey, 1 leaves it",
    "brightness": "factor, 0 is black, 1 leaves it",
    "sharpness": "factor, 0 is smoothed, 1 leaves it",
    "shear_x": "columns moved for each row",
    "shear_y": "rows moved for each column",
    "translate_x": "share of the width",
    "translate_y": "share of the height",
    "grayscale": "",
    "blur": "standard deviation as a share of the shorter side",
}
"""What the parameter says; empty where it is not read. Shears and translations have the sign of
Pillow's affine transform: they say where an output pixel is fetched from."""
