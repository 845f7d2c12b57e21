"""Which operations are drawn, how often and how strongly; timm and torchvision are the oracles."""

# Shapes: B images, L operations in a row for each.

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from timm.data import auto_augment as timm_policies

from deitkit.augmentation.autoaugment_policy import SUB_POLICIES
from deitkit.augmentation.op_codes import OP_CODES, OP_NAMES, PARAMETERS
from deitkit.augmentation.policies import RAND_OPS, draw_operations

NUM = 20_000
IDS = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
TIMM_NAMES = {
    "AutoContrast": "autocontrast",
    "Equalize": "equalize",
    "Invert": "invert",
    "Rotate": "rotate",
    "Posterize": "posterize",
    "Solarize": "solarize",
    "SolarizeAdd": "solarize_add",
    "Color": "color",
    "Contrast": "contrast",
    "Brightness": "brightness",
    "Sharpness": "sharpness",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y",
}
DEIT = "rand-m9-mstd0.5-inc1"


def our_name(timm_name: str) -> str:
    return TIMM_NAMES[timm_name.removesuffix("Increasing").removesuffix("Original")]


def draw(policy: str, num: int = NUM, **settings) -> tuple[np.ndarray, np.ndarray]:
    return draw_operations(policy, 0, 0, 0, IDS[:num], num_images=num, **settings)


def parameters_of(name: str, drawn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Every drawn parameter of one operation."""
    ops_BL, params_BL = drawn
    return params_BL[ops_BL == OP_CODES[name]]


def timm_values(name: str, level: float) -> set[float]:
    """What timm passes to the operation at this level, with either sign."""
    level_to_arg = timm_policies.LEVEL_TO_ARG[name]
    if level_to_arg is None:
        return {0.0}
    found = {float(level_to_arg(level, {})[0]) for _ in range(40)}
    return {max(1.0, value) for value in found} if name.startswith("Posterize") else found


def assert_same_set(found: np.ndarray, expected: set[float]) -> None:
    np.testing.assert_allclose(np.unique(found), sorted(np.float32(list(expected))), rtol=1e-6)


@pytest.mark.parametrize("increasing", [0, 1])
@pytest.mark.parametrize("magnitude", range(11))
def test_parameters_of_every_operation_and_magnitude_are_timms(magnitude, increasing):
    """All 15 in timm's set, without spread; posterize keeps at least one bit."""
    random.seed(magnitude)
    drawn = draw(f"rand-m{magnitude}-inc{increasing}", 4000)
    theirs = timm_policies.rand_augment_transform(f"rand-m{magnitude}-inc{increasing}", {})
    assert [our_name(op.name) for op in theirs.ops] == list(RAND_OPS)
    for op in theirs.ops:
        assert_same_set(
            parameters_of(our_name(op.name), drawn), timm_values(op.name, float(magnitude))
        )


def test_b8_numbers_of_magnitude_nine():
    """FACTS B.8: 27 degrees, one bit, threshold 26, +99, factors 0.19 and 1.81, shear 0.27."""
    drawn = draw("rand-m9-inc1", 4000)
    expected = {
        "rotate": {-27, 27},
        "posterize": {1},
        "solarize": {26},
        "solarize_add": {99},
        "color": {0.19, 1.81},
        "shear_x": {-0.27, 0.27},
        "translate_y": {-0.405, 0.405},
    }
    for name, values in expected.items():
        assert_same_set(parameters_of(name, drawn), values)


def test_a16_operations_come_as_often_as_stated():
    """FACTS A.16: 2 * 0.5 / 15 = 0.0667 of each operation and image, within three sigma."""
    num = len(IDS)
    ops_BL, _ = draw(DEIT, num)
    assert ops_BL.shape == (num, 2)
    counts = np.bincount(ops_BL.ravel(), minlength=len(OP_NAMES))
    sigma = math.sqrt(2 * num * (1 / 30) * (29 / 30))
    for name in RAND_OPS:
        assert abs(counts[OP_CODES[name]] - num / 15) < 3 * sigma, name
    assert counts[[OP_CODES["grayscale"], OP_CODES["blur"]]].sum() == 0
    # The two draws are independent: 16 x 16 cells of a contingency table.
    table = np.histogram2d(*ops_BL.T, bins=16, range=[(-0.5, 15.5)] * 2)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


def timm_calls(policy, num: int) -> list[tuple[str, float]]:
    """(our name, parameter) of each operation that timm's own objects apply in `num` calls."""
    calls = []

    def recorder(name: str):
        def record(image, *values, **_):
            calls.append((name, float(values[0]) if values else 0.0))
            return image

        return record

    for op in policy.ops:
        op.aug_fn = recorder(our_name(op.name))
    for _ in range(num):
        policy(None)
    return calls


@pytest.mark.parametrize("text", [DEIT, "rand-n3-m5-p0.7-mstd1.5"])
def test_counts_and_parameters_are_distributed_as_timms(text):
    """timm's RandAugment, called 8,000 times: counts by chi-square, parameters by two samples."""
    random.seed(0)
    np.random.seed(0)
    calls = timm_calls(timm_policies.rand_augment_transform(text, {}), 8000)
    theirs = Counter(name for name, _ in calls)
    drawn = draw(text, 8000)
    ours = Counter(OP_NAMES[code] for code in drawn[0].ravel() if code)
    table = np.array([[theirs[name], ours[name]] for name in RAND_OPS])
    assert stats.chi2_contingency(table).pvalue > 1e-4
    assert abs(table[:, 0].sum() - table[:, 1].sum()) < 4 * math.sqrt(2 * len(calls))
    for name in RAND_OPS:
        values = np.array([value for called, value in calls if called == name])
        if name == "posterize":
            values = np.maximum(values, 1.0)
        found = parameters_of(name, drawn)
        # float32 rounding would part equal whole numbers of two discrete distributions.
        assert stats.ks_2samp(values.astype(np.float32), found).pvalue > 1e-4, name


def test_magnitudes_are_clipped_to_ten():
    """N(9, 0.5) lies above 10 with probability 0.0228, N(10, 5) outside 0 to 10 with 0.523."""
    for text, above, below in (("rand-m9-mstd0.5", 0.0228, 0.0), ("rand-m10-mstd5", 0.5, 0.0228)):
        degrees = np.abs(parameters_of("rotate", draw(text, rand_ops=("rotate",))))
        assert degrees.max() == 30.0
        for share, expected in (((degrees == 30.0).mean(), above), ((degrees == 0).mean(), below)):
            assert abs(share - expected) <= 4 * math.sqrt(expected / len(degrees))


@pytest.mark.parametrize("increasing", [0, 1])
def test_posterize_never_goes_below_one_bit(increasing):
    """1e5 images with two draws each, where timm gives 0 bits in 2.3 % of them."""
    text = f"rand-m9-mstd3-p1-inc{increasing}"
    bits = parameters_of("posterize", draw(text, len(IDS), rand_ops=("posterize",)))
    assert bits.size == 2 * len(IDS)
    assert set(np.unique(bits)) == ({1.0, 2.0, 3.0, 4.0})


def test_a_spread_above_100_makes_magnitudes_uniform():
    degrees = parameters_of("rotate", draw("rand-m9-mstd101", rand_ops=("rotate",)))
    assert stats.kstest(np.abs(degrees) / 27.0, "uniform").statistic < 1.95 / math.sqrt(
        degrees.size
    )
    assert abs((degrees > 0).mean() - 0.5) < 4 * math.sqrt(0.25 / degrees.size)


@pytest.mark.parametrize("num, prob", [(1, 1.0), (3, 0.7), (16, 0.0)])
def test_number_and_probability_of_draws(num, prob):
    ops_BL, _ = draw(f"rand-n{num}-p{prob}")
    assert ops_BL.shape == (NUM, num)
    assert abs((ops_BL > 0).mean() - prob) <= 4 * math.sqrt(prob * (1 - prob) / ops_BL.size)


def test_a_chosen_set_of_operations():
    """Only those, equally often; identity, grayscale and blur may be among them."""
    names = ("none", "grayscale", "blur", "shear_y")
    drawn = draw("rand-m9-p1-inc1", rand_ops=names)
    counts = np.bincount(drawn[0].ravel(), minlength=len(OP_NAMES))
    assert counts[[OP_CODES[name] for name in names]].sum() == 2 * NUM
    for name in names:
        assert abs(counts[OP_CODES[name]] - NUM / 2) < 4 * math.sqrt(2 * NUM * 3 / 16)
    # timm's GaussianBlur at magnitude 9: radius 0.1 + 0.9 * 1.9 = 1.81 pixels, here of 224.
    assert_same_set(parameters_of("blur", drawn), {1.81 / 224})


def test_the_table_of_autoaugment_is_timms():
    """All 25 sub-policies, entry by entry: names, probabilities, magnitudes and parameters."""
    random.seed(0)
    theirs = timm_policies.auto_augment_policy_original({})
    assert len(theirs) == len(SUB_POLICIES) == 25
    for their_pair, our_pair in zip(theirs, SUB_POLICIES, strict=True):
        assert [(our_name(op.name), op.prob, op.magnitude) for op in their_pair] == list(our_pair)
    ops_B2, params_B2 = draw("autoaugment", len(IDS))
    for position in range(2):
        expected: dict[str, set[float]] = {}
        for pair in theirs:
            op = pair[position]
            if op.prob > 0:
                values = expected.setdefault(our_name(op.name), set())
                values |= timm_values(op.name, float(op.magnitude))
        drawn = (ops_B2[:, position], params_B2[:, position])
        assert {OP_NAMES[code] for code in np.unique(drawn[0])} == {"none", *expected}
        for name, values in expected.items():
            assert_same_set(parameters_of(name, drawn), values)


def test_autoaugment_draws_one_pair_each_operation_by_its_probability():
    """Chances of all (first, second) from the table; chi-square over pairs of operations."""
    num = len(IDS)
    expected: Counter = Counter()
    for (first, p, _), (second, q, _) in SUB_POLICIES:
        for one, chance_one in ((first, p), ("none", 1 - p)):
            for two, chance_two in ((second, q), ("none", 1 - q)):
                expected[OP_CODES[one], OP_CODES[two]] += chance_one * chance_two / 25 * num
    found = Counter(map(tuple, draw("autoaugment", num)[0].tolist()))
    cells = [pair for pair, count in expected.items() if count > 0]
    assert set(found) == set(cells)
    assert sum(expected.values()) == pytest.approx(num)
    observed = [found[pair] for pair in cells]
    assert stats.chisquare(observed, [expected[pair] for pair in cells]).pvalue > 1e-4


def test_three_augment_takes_one_of_three():
    """A third each; solarize at 128; blur of 0.1 to 2 pixels of 224, uniform."""
    drawn = draw("3augment")
    assert drawn[0].shape == (NUM, 1)
    for name in ("grayscale", "solarize", "blur"):
        count = parameters_of(name, drawn).size
        assert abs(count - NUM / 3) < 4 * math.sqrt(NUM * 2 / 9)
    assert_same_set(parameters_of("solarize", drawn), {128.0})
    assert_same_set(parameters_of("grayscale", drawn), {0.0})
    radius = parameters_of("blur", drawn).astype(np.float64) * 224
    assert stats.kstest((radius - 0.1) / 1.9, "uniform").statistic < 1.95 / math.sqrt(radius.size)


def test_trivial_augment_against_torchvisions_space():
    """14 operations equally often, each of 31 strengths with either sign where there is one."""
    from torchvision.transforms import TrivialAugmentWide

    names = {"Identity": "none", "AutoContrast": "autocontrast"} | {
        their.removesuffix("Rel"): ours for their, ours in TIMM_NAMES.items()
    }
    drawn = draw("trivial", len(IDS))
    assert drawn[0].shape == (len(IDS), 1)
    space = TrivialAugmentWide()._augmentation_space(31)
    assert len(space) == 14
    for their_name, (magnitudes, is_signed) in space.items():
        name = names[their_name]
        found = parameters_of(name, drawn)
        assert abs(found.size - len(IDS) / 14) < 4 * math.sqrt(len(IDS) / 14)
        values = np.atleast_1d(magnitudes.numpy()).astype(np.float64)
        if name.startswith("translate"):
            values = values / 224
        if name == "solarize":
            # Levels are whole, so a threshold of 246.5 is one of 247.
            values = np.ceil(values)
        values = np.concatenate([values, -values]) if is_signed else values
        if name in ("color", "contrast", "brightness", "sharpness"):
            values = values + 1.0
        values = np.unique(values.astype(np.float32))
        np.testing.assert_allclose(np.unique(found), values, atol=1e-6)
    # Strength 0 is drawn once for both of its signs, so 61 values are not equally likely.
    degrees = np.rint(np.abs(parameters_of("rotate", drawn)) / 4.5).astype(int)
    assert stats.chisquare(np.bincount(degrees, minlength=31)).pvalue > 1e-4


@pytest.mark.parametrize("jitter, low, high", [(0.3, 0.7, 1.3), (1.5, 0.0, 2.5)])
def test_color_jitter_by_order_and_factors(jitter, low, high):
    """Each of brightness, contrast and saturation once, six orders equally often, uniform."""
    ops_B3, params_B3 = draw("none", color_jitter=jitter)
    counts = Counter(map(tuple, ops_B3.tolist()))
    codes = [OP_CODES[name] for name in ("brightness", "contrast", "color")]
    assert set(counts) == set(permutations(codes))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4
    for code in codes:
        factors = params_B3[ops_B3 == code].astype(np.float64)
        uniform = stats.kstest((factors - low) / (high - low), "uniform")
        assert uniform.statistic < 1.95 / math.sqrt(NUM)


def test_color_jitter_comes_after_the_policy():
    ops_BL, params_BL = draw("3augment", color_jitter=0.3)
    alone_BL, alone_params_BL = draw("3augment")
    jitter_BL, jitter_params_BL = draw("none", color_jitter=0.3)
    np.testing.assert_array_equal(ops_BL, np.concatenate([alone_BL, jitter_BL], axis=1))
    np.testing.assert_array_equal(
        params_BL, np.concatenate([alone_params_BL, jitter_params_BL], axis=1)
    )


@pytest.mark.parametrize("policy", [DEIT, "rand-mstd101", "autoaugment", "3augment", "trivial"])
def test_draws_depend_on_the_key_alone(policy):
    """A stride, one image and none: the same bytes as in the whole; epochs differ."""
    whole = draw(policy, 301, color_jitter=0.3)
    for span in (slice(None, None, 7), slice(13, 14), slice(5, 5)):
        ids = IDS[:301][span]
        part = draw_operations(policy, 0, 0, 0, ids, num_images=len(ids), color_jitter=0.3)
        for found, expected in zip(part, whole, strict=True):
            np.testing.assert_array_equal(found, expected[span])
            assert found.dtype == expected.dtype
    other = draw_operations(policy, 0, 1, 0, IDS[:301], num_images=301, color_jitter=0.3)
    assert (other[1] == whole[1])[:, -3:].mean() < 0.01


@pytest.mark.parametrize("policy", [DEIT, "rand-n4-p0.5", "autoaugment", "3augment", "trivial"])
def test_what_is_not_read_is_zero(policy):
    """Left-out operations and those without a parameter, so that equal views are equal bytes."""
    ops_BL, params_BL = draw(policy)
    unread = [code for name, code in OP_CODES.items() if not PARAMETERS[name]]
    assert (params_BL[np.isin(ops_BL, unread)] == 0).all()
    assert not np.signbit(params_BL[params_BL == 0]).any()
    assert ops_BL.dtype == np.int8 and params_BL.dtype == np.float32


def test_no_policy_draws_nothing():
    ops_BL, params_BL = draw("none", 7)
    assert ops_BL.shape == params_BL.shape == (7, 0)
