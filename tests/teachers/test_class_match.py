"""The teacher's classes by the user's names: exactly, by similar names, or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deitkit.teachers.class_match import match_classes

IMAGENET = (
    "n01440764 tench, Tinca tinca",
    "n02012849 crane",
    "n03126707 crane",
    "n03710637 maillot",
    "n03710721 maillot, tank suit",
    "n02102040 English springer, English springer spaniel",
    "n03000684 chain saw, chainsaw",
)


@pytest.mark.parametrize(
    "teacher, user, columns",
    [
        (("a", "b", "c"), ("a", "b", "c"), (0, 1, 2)),
        (("a", "b", "c"), ("c", "a"), (2, 0)),
        # Exactly spelt on both sides: that "A" is there too does not matter.
        (("a", "A", "b"), ("a", "b"), (0, 2)),
        (("garbage truck", "Golf_Ball"), ("golf ball", "Garbage-Truck"), (1, 0)),
        # é in one code point and in two.
        (("caf\u00e9", "bar"), ("bar", "cafe\u0301"), (1, 0)),
        (("STRASSE", "weg"), ("straße", "weg"), (0, 1)),
        (IMAGENET, ("tench", "chainsaw"), (0, 6)),
        (IMAGENET, ("tinca_tinca", "chain saw", "English springer"), (0, 6, 5)),
        (IMAGENET, ("n01440764", "n03126707"), (0, 2)),
        # WordNet's number decides, whatever words stand beside it.
        (IMAGENET, ("n02012849_bird", "tench"), (1, 0)),
        (("tench", "goldfish"), ("goldfish, Carassius auratus", "n01440764 tench"), (1, 0)),
    ],
)
def test_names_that_mean_the_same_class_are_found(teacher, user, columns):
    match = match_classes(teacher, user)
    assert match.columns == columns
    assert "matched" in match.explain()


@pytest.mark.parametrize(
    "teacher, user, said",
    [
        (None, ("a",), "does not name its classes"),
        (("a", "b"), ("a", "z"), "does not know z (1 of 2)"),
        (IMAGENET, ("crane", "tench"), "crane could be 'n02012849 crane' or 'n03126707 crane'"),
        (("crane", "crane", "x"), ("crane", "x"), "crane could be 'crane' or 'crane'"),
        # The very word is there, but another class has it among its synonyms: nobody knows.
        (IMAGENET, ("maillot", "tench"), "maillot could be"),
        # Two folders for one class of the teacher.
        (IMAGENET, ("chain saw", "chainsaw"), "chainsaw could be"),
        (IMAGENET, ("n09999999",), "does not know n09999999"),
        (("tree frog",), ("frog",), "does not know frog"),
        (("a",), ("a", "a"), "a could be 'a'"),
    ],
)
def test_doubt_is_no_match(teacher, user, said):
    match = match_classes(teacher, user)
    assert match.columns is None
    assert said in match.explain()


def test_it_says_how_they_were_matched():
    assert match_classes("abc", "abc").explain() == "all 3 classes matched in the same order"
    assert match_classes("abc", "ba").explain() == "all 2 classes matched by name, 1 more left out"
    similar = match_classes(IMAGENET, ["tench", "chainsaw"]).explain()
    assert "similar names: tench = 'n01440764 tench, Tinca tinca', chainsaw = " in similar


names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1, max_size=8),
    min_size=1,
    max_size=12,
    unique=True,
)


@given(teacher=names, data=st.data())
def test_any_choice_of_its_own_names_is_matched_exactly(teacher, data):
    """A property: the columns lead back to the names, in whatever order they were asked for."""
    user = data.draw(st.lists(st.sampled_from(teacher), min_size=1, unique=True))
    match = match_classes(teacher, user)
    assert match.is_exact and [teacher[column] for column in match.columns] == user


@given(teacher=names, user=names)
def test_columns_are_different_and_there_for_every_class_or_not_at_all(teacher, user):
    match = match_classes(teacher, user)
    if match.columns is not None:
        assert len(set(match.columns)) == len(user) == len(match.columns)
        assert all(0 <= column < len(teacher) for column in match.columns)
    else:
        assert match.unknown or match.ambiguous


def test_imagenettes_words_are_found_among_imagenets_thousand(shared_data):
    """Users write "tench" and "church"; the true indices stand beside the data."""
    info = pytest.importorskip("timm.data").ImageNetInfo()
    pairs = zip(info.label_names(), info.label_descriptions(), strict=True)
    teacher = [f"{number} {words}" for number, words in pairs]
    folder = shared_data / "imagenette"
    truth = json.loads((folder / "imagenet_index.json").read_text())
    user = (folder / "classes.txt").read_text().splitlines()
    assert list(match_classes(teacher, user).columns) == truth["imagenet_index"]
    assert list(match_classes(teacher, truth["wnids"]).columns) == truth["imagenet_index"]
    assert list(match_classes(info.label_descriptions(), user).columns) == truth["imagenet_index"]


def test_cifars_words_are_no_classes_of_imagenet(shared_data):
    """Its cats and dogs are of breeds: such a teacher needs a new head."""
    info = pytest.importorskip("timm.data").ImageNetInfo()
    user = (shared_data / "cifar10" / "classes.txt").read_text().splitlines()
    match = match_classes(info.label_descriptions(), user)
    assert match.columns is None and {"cat", "dog", "bird"} <= set(match.unknown)
