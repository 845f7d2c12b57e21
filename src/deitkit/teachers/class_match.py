"""Which of a teacher's classes are the user's, told by their names."""

# Shapes: T classes of the teacher, K classes of the user.

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_SYNSET = re.compile(r"(n\d{8})(?:[\s_:,-]+|$)", re.IGNORECASE)
_GAPS = re.compile(r"[\s_-]+")
NUM_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """What `match_classes` found."""

    columns: tuple[int, ...] | None
    """The teacher's index of each of the user's classes; None: they are not the same classes."""
    user_names: tuple[str, ...]
    teacher_names: tuple[str, ...] | None
    is_exact: bool = False
    """Whether every name is spelt the same on both sides."""
    unknown: tuple[str, ...] = ()
    """Classes of the user that the teacher does not name."""
    ambiguous: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Classes of the user that could be several of the teacher's, or share one with another."""

    def explain(self, who: str = "the teacher") -> str:
        """One sentence for people; `who` has the other classes."""
        num = len(self.user_names)
        if self.teacher_names is None:
            return f"{who} does not name its classes"
        if self.columns is not None and self.is_exact:
            kind = "in the same order" if self.columns == tuple(range(num)) else "by name"
            rest = len(self.teacher_names) - num
            return f"all {num} classes matched {kind}" + (f", {rest:,} more left out" * (rest > 0))
        if self.columns is not None:
            pairs = [
                f"{name} = {self.teacher_names[column]!r}"
                for name, column in zip(self.user_names, self.columns, strict=True)
                if name != self.teacher_names[column]
            ]
            return f"all {num} classes matched by similar names: {_shown(pairs)}"
        parts = []
        if self.unknown:
            parts.append(f"it does not know {_shown(self.unknown)} ({len(self.unknown)} of {num})")
        for name, others in list(self.ambiguous.items())[:NUM_SHOWN]:
            parts.append(f"{name} could be {' or '.join(map(repr, others[:NUM_SHOWN]))}")
        return f"{who} has other classes: " + "; ".join(parts)


def match_classes(teacher_names: Sequence[str] | None, user_names: Sequence[str]) -> ClassMatch:
    """Find every class of the user among the teacher's: all of them, or no match.

    First by the very same names, in any order. If some are missing, all are matched anew without
    regard to case, accents' spelling, underscores and hyphens, by WordNet's numbers
    ("n01440764"), and by any one synonym of a list ("tench, Tinca tinca"). A name that fits two
    of the teacher's classes ("crane", "maillot" in ImageNet) fits none, and two of the user's
    classes never share one of the teacher's.
    """
    user = tuple(user_names)
    if teacher_names is None:
        return ClassMatch(columns=None, user_names=user, teacher_names=None)
    teacher = tuple(teacher_names)
    counts = Counter(teacher)
    if all(counts[name] == 1 for name in user) and len(set(user)) == len(user):
        index_of = {name: index for index, name in enumerate(teacher)}
        columns = tuple(index_of[name] for name in user)
        return ClassMatch(columns=columns, user_names=user, teacher_names=teacher, is_exact=True)
    by_number = _index(([_number(name)] for name in teacher), len(teacher))
    by_word = _index(map(_words, teacher), len(teacher))
    candidates = [_candidates(name, by_number, by_word) for name in user]
    unknown = tuple(name for name, found in zip(user, candidates, strict=True) if not found)
    ambiguous = _ambiguous(user, candidates, teacher)
    columns = tuple(min(found, default=-1) for found in candidates)
    is_match = not unknown and not ambiguous
    return ClassMatch(
        columns=columns if is_match else None,
        user_names=user,
        teacher_names=teacher,
        unknown=unknown,
        ambiguous=ambiguous,
    )


def _index(keys_T: Iterable[Iterable[str]], num: int) -> Mapping[str, set[int]]:
    """Key -> the teacher's classes that have it."""
    found: dict[str, set[int]] = defaultdict(set)
    for index, keys in zip(range(num), keys_T, strict=True):
        for key in keys:
            if key:
                found[key].add(index)
    return found


def _candidates(
    name: str, by_number: Mapping[str, set[int]], by_word: Mapping[str, set[int]]
) -> set[int]:
    """WordNet's number decides where both sides have it; else any word they share."""
    numbered = by_number.get(_number(name)) if _number(name) else None
    if numbered:
        return numbered
    return set().union(*(by_word.get(word, set()) for word in _words(name)))


def _ambiguous(
    user: Sequence[str], candidates: Sequence[set[int]], teacher: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    taken = Counter(min(found) for found in candidates if len(found) == 1)
    return {
        name: tuple(teacher[column] for column in sorted(found))
        for name, found in zip(user, candidates, strict=True)
        if len(found) > 1 or (found and taken[min(found)] > 1)
    }


def _number(name: str) -> str:
    """n01440764 at the head of a name, else nothing."""
    found = _SYNSET.match(name.strip())
    return found[1].lower() if found else ""


def _words(name: str) -> set[str]:
    """The whole name and each synonym between commas, spelt in one way."""
    rest = _SYNSET.sub("", name.strip(), count=1) if _number(name) else name
    return {plain for part in (rest, *rest.split(",")) if (plain := _plain(part))}


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return _GAPS.sub(" ", folded).strip()


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - NUM_SHOWN:,} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + more
