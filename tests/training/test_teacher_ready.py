"""A teacher made ready: classes by name or by a fitted head, measured, written down and read."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deitkit.data import ImageSet
from deitkit.errors import CheckpointError, DataError, DeitkitError, ModelFileError
from deitkit.teachers import Classifier
from deitkit.training import teacher_asking, teacher_ready
from deitkit.training.teacher_asking import choose_fit_images
from deitkit.training.teacher_ready import (
    TEACHER_FILE,
    ReadyTeacher,
    load_ready,
    prepare_teacher,
    save_ready,
)
from tests.training.toy import SIDE, ConvTeacher, bits, toy_images

NAMES = ("a", "b", "c")
CENTRES = (74.5, 114.5, 154.5)
"""Of the levels of the toy's classes: 40 k to 149 + 40 k."""


@pytest.fixture(autouse=True)
def blocks_of_64(monkeypatch):
    """The numbers here are of one block size, as teachers have on a device."""
    monkeypatch.setattr("deitkit.teachers.live.CPU_BLOCK_SIZE", 64)


class Brightness(nn.Module):
    """An image's mean level told apart by the centres of `order`'s classes; -1 is never seen."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        centres = [CENTRES[k] if k >= 0 else 1e3 for k in order]
        self.register_buffer("centres", torch.tensor(centres))

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        levels_B1 = 255 * images_BCHW.mean(dim=(1, 2, 3))[:, None]
        return -((levels_B1 - self.centres) ** 2) / 100


class Unhelpful(nn.Module):
    """Says the same of every image but for what the parity of its pixels adds."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(5, num_classes)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        parity = torch.round(255 * images_BCHW).remainder(2)
        return self.head(parity.flatten(1)[:, :5])


def classifier_of(model: nn.Module, names: tuple[str, ...] | None, **more) -> Classifier:
    settings = {"image_size": SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3} | more
    return Classifier.from_callable(model, name="mine", version="1", class_names=names, **settings)


def conv_teacher() -> Classifier:
    return classifier_of(ConvTeacher(num_classes=7), None)


def ready_of(classifier: Classifier, train: ImageSet, val: ImageSet, **more) -> ReadyTeacher:
    return prepare_teacher(
        classifier, train, val, **({"channels": 3, "seed": 0, "max_seconds": None} | more)
    )


def relabelled(images: ImageSet, labels: np.ndarray) -> ImageSet:
    other = images.subset(np.arange(len(images)), images.name)
    other.labels = labels.astype(np.int64)
    return other


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return toy_images(150, seed=1)


@pytest.fixture(scope="module")
def val() -> ImageSet:
    return toy_images(75, seed=2)


def by_hand(images: ImageSet) -> np.ndarray:
    levels = np.array([images.image(i).mean() for i in range(len(images))])
    return -((levels[:, None] - np.array(CENTRES)) ** 2) / 100


def test_shuffled_classes_are_matched_by_name(train, val):
    """Its third class is our first: logits by hand, in our order, and the same live."""
    ready = ready_of(classifier_of(Brightness((2, -1, 0, 1)), ("c", "zebra", "a", "b")), train, val)
    assert ready.columns == (2, 3, 0)
    assert ready.head is None
    assert ready.classes == "all 3 classes matched by name, 1 more left out"
    np.testing.assert_array_equal(ready.val_indices, np.arange(75))
    np.testing.assert_allclose(ready.val_NK, by_hand(val), rtol=1e-3, atol=1e-3)
    assert ready.val_NK.dtype == np.float32
    assert (ready.check.num_correct, ready.check.num_images) == (75, 75)
    pixels = torch.from_numpy(val.pixels.copy()).permute(0, 3, 1, 2).float() / 255
    live = ready.live(autocast_dtype=None)
    np.testing.assert_allclose(live(pixels), by_hand(val), rtol=1e-3, atol=1e-3)
    assert ready.notes == ()


def test_other_classes_get_a_head_that_is_told(train, val):
    """K04: another teacher than before it had that head; the sentence holds the accuracy."""
    body = classifier_of(Brightness((0, 2, 1, -1)), ("w", "x", "y", "z"))
    ready = ready_of(body, train, val)
    assert ready.columns == (0, 1, 2)
    assert "it does not know a, b, c (3 of 3); a linear head was fitted on" in ready.classes
    assert "150 training images; 100.0 % right in 5-fold cross-validation" in ready.classes
    assert (ready.val_NK.argmax(axis=1) == val.labels).all()
    assert ready.classifier.class_names == NAMES
    assert ready.classifier.digest != body.digest


def test_a_teacher_without_names_gets_a_head(train, val):
    ready = ready_of(classifier_of(Brightness((0, 1, 2)), None), train, val)
    assert ready.classes.startswith("the teacher does not name its classes; a linear head")
    assert ready.head is not None


def test_where_nobody_looks_inside_the_logits_are_features_and_that_is_said(train, val):
    inner = Brightness((0, 1, 2))
    ready = ready_of(classifier_of(lambda images: inner(images), None), train, val)
    assert any("its logits were taken" in note for note in ready.notes)


def test_a_fitted_head_is_read_back_in_every_bit(tmp_path, train, val):
    """Around the same network opened anew: head, logits, digests and all that was said."""
    ready = ready_of(conv_teacher(), train, val)
    save_ready(ready, tmp_path)
    again = load_ready(conv_teacher(), tmp_path, NAMES)
    assert again.classifier.digest == ready.classifier.digest
    first, second = ready.live(autocast_dtype=None), again.live(autocast_dtype=None)
    assert first.digest == second.digest and first.answers_digest == second.answers_digest
    views = torch.rand((70, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(3))
    assert first(views).numpy().tobytes() == second(views).numpy().tobytes()
    for name in ("val_NK", "val_indices"):
        assert getattr(again, name).tobytes() == getattr(ready, name).tobytes()
        assert getattr(again, name).dtype == getattr(ready, name).dtype
    assert again.head.to_dict() == ready.head.to_dict()
    assert again.head.cv_interval == ready.head.cv_interval
    for name in ("columns", "classes", "image_s", "check", "notes", "class_names"):
        assert getattr(again, name) == getattr(ready, name)


def test_matched_columns_are_read_back(tmp_path, train, val):
    shuffled = classifier_of(Brightness((2, 0, 1)), ("c", "a", "b"))
    save_ready(ready_of(shuffled, train, val), tmp_path)
    again = load_ready(shuffled, tmp_path, NAMES)
    assert (again.columns, again.head, again.classifier) == ((1, 2, 0), None, shuffled)


def test_another_teacher_is_not_taken_for_this_one(tmp_path, train, val):
    """K01: one weight differs, with and without a fitted head; or the classes do."""
    matched = classifier_of(Brightness((0, 1, 2)), NAMES)
    for number, (mine, other) in enumerate(
        [(conv_teacher(), ConvTeacher(num_classes=7)), (matched, Brightness((0, 1, -1)))]
    ):
        folder = tmp_path / str(number)
        save_ready(ready_of(mine, train, val), folder)
        with torch.no_grad():
            next(iter([*other.parameters(), *other.buffers()])).view(-1)[0] += 1e-3
        changed = classifier_of(other, mine.class_names)
        with pytest.raises(CheckpointError, match=r"TEACHER_CHANGED.*is not the teacher"):
            load_ready(changed, folder, NAMES)
        for names in (("a", "b"), ("a", "c", "b")):
            with pytest.raises(CheckpointError, match=r"TEACHER_CHANGED.*other classes"):
                load_ready(mine, folder, names)


def test_a_teacher_that_says_one_thing_is_refused_with_its_accuracy(train, val):
    """Always "b": exactly the share of b, which is what always saying the same scores."""
    share = (val.labels == 1).mean()
    with pytest.raises(ModelFileError) as caught:
        ready_of(classifier_of(Brightness((-1, 1, -1)), NAMES), train, val)
    assert caught.value.code == "TEACHER_CHANCE"
    assert f"{share:.1%} of 75 images right" in str(caught.value)
    assert "teacher=auto" in str(caught.value)


def test_a_head_on_nothing_is_refused_by_cross_validation_where_validation_images_are_few(
    train, val
):
    """75 validation images, 150 in cross-validation: the larger number decides."""
    with pytest.raises(ModelFileError, match=r"TEACHER_CHANCE.*of 150 images right"):
        ready_of(classifier_of(Unhelpful(7), None), train, val)


def test_a_head_on_nothing_is_refused_by_validation_images_where_they_are_many():
    """210 are enough, though 240 are in cross-validation."""
    train = toy_images(240, seed=1)
    with pytest.raises(ModelFileError, match=r"TEACHER_CHANCE.*of 210 images right"):
        ready_of(classifier_of(Unhelpful(7), None), train, toy_images(210, seed=5))


def test_few_validation_images_do_not_condemn_a_head_that_is_right_elsewhere(train, val):
    wrong = relabelled(val, (val.labels + 1) % 3)
    ready = ready_of(classifier_of(Brightness((0, 1, 2)), None), train, wrong)
    assert (ready.check.num_correct, ready.check.num_images) == (150, 150)
    assert ready.check.chance == np.bincount(train.labels).max() / 150
    with pytest.raises(ModelFileError, match=r"0\.0% of 75 images right"):
        ready_of(classifier_of(Brightness((0, 1, 2)), NAMES), train, wrong)


def test_too_few_images_to_tell_are_let_pass_and_noted(train, val):
    """One image, right: always saying its class is as good, so guessing is 1 in 3."""
    few = val.subset(np.flatnonzero(val.labels == 1)[:1], "val")
    ready = ready_of(classifier_of(Brightness((0, 1, 2)), NAMES), train, few)
    assert ready.check.warning in ready.notes
    assert "too few images to tell it from guessing" in ready.notes[-1]


def test_preparing_moves_no_batch_norm_statistic_and_leaves_no_gradient(train, val):
    """A.11: evaluation mode throughout, also while the head is fitted."""
    teacher = conv_teacher()
    before = bits(teacher.module.state_dict())
    ready = ready_of(teacher, train, val)
    assert ready.head is not None
    assert bits(teacher.module.state_dict()) == before
    assert not any(part.training for part in teacher.module.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())
    with pytest.raises(AssertionError, match="training mode"):
        teacher.module.train()
        ready_of(teacher, train, val)


def test_the_same_images_in_any_order_give_the_same_head(train, val):
    """K06: stored answers outlive a renamed folder only if the head's digest does."""
    first = ready_of(conv_teacher(), train, val)
    order = np.random.default_rng(0).permutation(len(train))
    moved = train.subset(order, "train")
    backwards = val.subset(np.arange(len(val))[::-1], "val")
    second = ready_of(conv_teacher(), moved, backwards)
    assert second.classifier.digest == first.classifier.digest
    assert second.val_NK[::-1].tobytes() == first.val_NK.tobytes()
    assert second.head.to_dict() == first.head.to_dict()
    assert second.check == first.check


def test_images_without_a_label_are_not_fitted_on(train, val):
    more = toy_images(150, seed=1)
    pixels = np.concatenate([more.pixels, 255 - more.pixels])
    joined = ImageSet(
        name="train",
        class_names=NAMES,
        labels=np.concatenate([more.labels, np.full(150, -1)]),
        digests=np.concatenate([more.digests, 255 - more.digests]),
        sizes=np.concatenate([more.sizes, more.sizes]),
        store=more._store,
        decode=more.decode,
        kept=pixels,
    )
    expected = ready_of(conv_teacher(), train, val)
    assert ready_of(conv_teacher(), joined, val).classifier.digest == expected.classifier.digest


def test_a_head_is_fitted_on_so_many_images_at_most(monkeypatch, train, val):
    monkeypatch.setattr(teacher_asking, "MIN_FIT_IMAGES", 60)
    monkeypatch.setattr(teacher_asking, "FIT_IMAGES_PER_CLASS", 10)
    assert ready_of(conv_teacher(), train, val).head.num_images == 60
    monkeypatch.setattr(teacher_asking, "FIT_IMAGES_PER_CLASS", 30)
    assert ready_of(conv_teacher(), train, val).head.num_images == 90
    monkeypatch.setattr(teacher_asking, "MAX_FIT_IMAGES", 80)
    assert ready_of(conv_teacher(), train, val).head.num_images == 80


def test_one_labelled_class_is_refused(train, val):
    with pytest.raises(DataError, match="ONE_CLASS"):
        ready_of(conv_teacher(), relabelled(train, np.zeros(150)), val)


def test_another_number_of_channels_is_refused(train, val):
    with pytest.raises(ModelFileError, match=r"CHANNELS.*reads 3 channels, the student 1.*=3"):
        ready_of(conv_teacher(), train, val, channels=1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_refused(train, val, value):
    """K11: only some images show it."""

    class Sick(Brightness):
        def forward(self, images_BCHW):
            logits_BT = super().forward(images_BCHW)
            is_bright = images_BCHW.mean(dim=(1, 2, 3)) > 140 / 255
            return torch.where(is_bright[:, None], value, logits_BT)

    num_bright = int((val.labels == 2).sum())
    with pytest.raises(ModelFileError, match=f"TEACHER_OUTPUT.*{num_bright} of 75 images"):
        ready_of(classifier_of(Sick((0, 1, 2)), NAMES), train, val)


def scripted_clock(monkeypatch, block_s: list[float], *, ask_s: float = 0.0) -> None:
    """Blocks of the teacher that take so long each; asking about one costs `ask_s` in all."""
    times = [0.0]
    for seconds in block_s:
        times += [times[-1], times[-1] + seconds]
    ticks, asked = iter(times[1:]), iter(range(10**6))
    clock = SimpleNamespace(perf_counter=lambda: next(ticks), monotonic=lambda: ask_s * next(asked))
    monkeypatch.setattr(teacher_asking, "time", clock)


@pytest.mark.parametrize(
    ("num_images", "block_s", "expected"),
    [
        (75, [100.0, 2.0], 2.0),  # the first is not counted
        (210, [100.0, 2.0, 7.0, 3.0], 3.0),
        (20, [100.0, 5.0], 5.0),  # a lone block is asked twice
    ],
)
def test_the_time_of_an_image_is_that_of_the_median_block(
    monkeypatch, train, num_images, block_s, expected
):
    scripted_clock(monkeypatch, block_s)
    classifier = classifier_of(Brightness((0, 1, 2)), NAMES)
    ready = ready_of(classifier, train, toy_images(num_images, seed=5))
    assert ready.image_s == expected / 64


@pytest.mark.parametrize(
    ("max_seconds", "num_asked"),
    [(0.0, 256), (4.5, 256), (5.5, 320), (None, 400), (1e9, 400)],
)
def test_as_many_validation_images_as_there_is_time_for(monkeypatch, train, max_seconds, num_asked):
    """A second a block, looked at before each: 0 s still gives 200, in whole blocks of 64."""
    many = toy_images(400, seed=6)
    scripted_clock(monkeypatch, [0.1] * 8, ask_s=1.0)
    ready = ready_of(
        classifier_of(Brightness((0, 1, 2)), NAMES), train, many, max_seconds=max_seconds
    )
    lowest = np.sort(np.argsort(many.sample_ids)[:num_asked])
    np.testing.assert_array_equal(ready.val_indices, lowest)
    np.testing.assert_allclose(ready.val_NK, by_hand(many)[lowest], rtol=1e-3, atol=1e-3)
    said = f"it was asked about {num_asked} of 400 validation images, for lack of time"
    assert (said in ready.notes) == (num_asked < 400)


def test_progress_may_end_it(train, val):
    told = []

    class EnoughError(Exception):
        pass

    def progress(what, done, total):
        told.append((what, done, total))
        if what == "asking the teacher":
            raise EnoughError

    with pytest.raises(EnoughError):
        ready_of(conv_teacher(), train, val, progress=progress)
    assert told == [
        ("reading the teacher's features", 64, 150),
        ("reading the teacher's features", 128, 150),
        ("reading the teacher's features", 150, 150),
        ("fitting a head on the teacher", 0, None),
        ("asking the teacher", 64, 75),
    ]


def test_each_class_keeps_its_share_by_hand():
    """Four of class 0, two of class 1; three taken are half: two and one, of the lowest ids."""
    labels = np.array([0, -1, 0, 1, 0, 1, 0])
    ids = np.array([50, 1, 20, 60, 30, 10, 40], np.uint64)
    assert choose_fit_images(labels, ids, 3).tolist() == [5, 2, 4]
    assert choose_fit_images(labels, ids, 99).tolist() == [5, 2, 4, 6, 0, 3]
    large = (np.arange(40) >= 30).astype(np.int64)
    assert choose_fit_images(large, np.arange(40), 20).tolist() == [*range(15), *range(30, 35)]


@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=60),
    num=st.integers(5, 70),
    seed=st.integers(0, 9),
)
def test_a_choice_is_stratified_and_knows_no_order(labels, num, seed):
    labels = np.array(labels)
    rng = np.random.default_rng(seed)
    ids = rng.permutation(1000)[: len(labels)].astype(np.uint64)
    taken = choose_fit_images(labels, ids, num)
    num_labelled = int((labels >= 0).sum())
    assert len(set(taken.tolist())) == len(taken) == min(num, num_labelled)
    for label in set(labels[labels >= 0].tolist()):
        own = ids[labels == label]
        chosen = ids[taken][labels[taken] == label]
        share = len(taken) * len(own) / num_labelled
        assert len(chosen) >= 1 and abs(len(chosen) - share) < 5
        assert set(chosen) == set(np.sort(own)[: len(chosen)])
    order = rng.permutation(len(labels))
    moved = choose_fit_images(labels[order], ids[order], num)
    assert ids[order][moved].tolist() == ids[taken].tolist()


def kept_file(folder, train, val) -> tuple[Classifier, bytes, ReadyTeacher]:
    small = val.subset(np.arange(3), "val")
    teacher = classifier_of(Brightness((0, 1, 2)), NAMES)
    ready = ready_of(teacher, train, small)
    save_ready(ready, folder)
    return teacher, (folder / TEACHER_FILE).read_bytes(), ready


def same(ready: ReadyTeacher, other: ReadyTeacher) -> bool:
    plain = ("columns", "classes", "image_s", "check", "notes")
    return (
        all(getattr(ready, name) == getattr(other, name) for name in plain)
        and ready.val_NK.tobytes() == other.val_NK.tobytes()
        and ready.val_indices.tobytes() == other.val_indices.tobytes()
    )


def test_no_flipped_bit_is_taken_for_knowledge(tmp_path, train, val):
    """K02: every byte in turn; what is not refused (a space of the header) changes nothing."""
    teacher, data, ready = kept_file(tmp_path, train, val)
    num_refused = 0
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        (tmp_path / TEACHER_FILE).write_bytes(broken)
        try:
            again = load_ready(teacher, tmp_path, NAMES)
        except CheckpointError as error:
            assert error.code == "CORRUPT"
            assert "cannot be read" in str(error) and "backup" in str(error)
            num_refused += 1
        else:
            assert same(again, ready)
    assert num_refused > 0.98 * len(data)


@pytest.mark.parametrize("content", [b"", b"x", None, b"<html>", b"{}" * 40])
def test_a_file_that_is_none_or_missing(tmp_path, train, val, content):
    teacher, data, _ = kept_file(tmp_path, train, val)
    path = tmp_path / TEACHER_FILE
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"CORRUPT.*cannot be read.*overwrite=true"):
            load_ready(teacher, tmp_path, NAMES)
        path.write_bytes(data[:-5])


def rewritten(data: bytes, **changes) -> bytes:
    """The file with other values and a digest that is right for them."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = json.loads(header["__metadata__"]["about"])
    text = json.dumps({k: v for k, v in (about | changes).items() if v != "left out"})
    tensors = safetensors.torch.load(data)
    metadata = {"about": text, "sha256": teacher_ready._seal(text, tensors)}
    return safetensors.torch.save(tensors, metadata=metadata)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"schema": 2}, "NEWER"),
        ({"notes": "left out"}, "CORRUPT"),
        ({"check": {}}, "CORRUPT"),
        ({"schema": None}, "CORRUPT"),
        ({"head": {"l2": 0.1}}, "CORRUPT"),
        ({"teacher": "0" * 32}, "TEACHER_CHANGED"),
    ],
)
def test_a_whole_file_that_says_something_else(tmp_path, train, val, changes, code):
    teacher, data, ready = kept_file(tmp_path, train, val)
    (tmp_path / TEACHER_FILE).write_bytes(rewritten(data))
    assert same(load_ready(teacher, tmp_path, NAMES), ready)
    (tmp_path / TEACHER_FILE).write_bytes(rewritten(data, **changes))
    with pytest.raises(DeitkitError) as caught:
        load_ready(teacher, tmp_path, NAMES)
    assert (type(caught.value), caught.value.code) == (CheckpointError, code)


def test_what_is_written_holds_no_pickle_and_the_check(tmp_path, train, val):
    """K13: numbers and JSON."""
    _, data, ready = kept_file(tmp_path, train, val)
    tensors = safetensors.torch.load(data)
    assert set(tensors) == {"columns", "val_indices", "val_logits"}
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["about"])["check"] == asdict(ready.check)
    assert sorted(path.name for path in tmp_path.iterdir()) == [TEACHER_FILE]
