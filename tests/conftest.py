"""Shared fixtures. Two torchvision ops are declared first: its import beside CPU torch fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from deitkit.training import timing
from tests.journeys.commands import Commands

# No test looks for weights on the network, nor do the programs it starts.
os.environ["HF_HUB_OFFLINE"] = "1"

# A busy machine makes no test fail.
hypothesis.settings.register_profile("deitkit", deadline=None)
# The same examples each time, for `make test`; `make check` and `make test-all` look for new ones.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("deitkit")

_nms = torch.library.Library("torchvision", "DEF")
for _signature in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
    _nms.define(_signature)

LONGEST_FIRST = ("artifacts", "journeys", "training", "pages", "api", "exporters", "teachers")
"""Folders of the files that take longest: begun last, one of them would keep a core alone at the
end. Those of artifacts fork for every call, which costs less before a process has grown."""

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order in which `make test` begins them; tests of a file keep theirs."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and weights, beside the checkout; absent on most machines."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real test data is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's caches for the time of the tests, also for the programs they start."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def most_timed_steps() -> Iterator[int]:
    """The product's own bound on the steps it times before a run; in tests the least it asks for,
    as toy steps are so short that it would always go on to the bound."""
    with pytest.MonkeyPatch.context() as patch:
        own = timing.MAX_TIMED_STEPS
        patch.setattr(timing, "MAX_TIMED_STEPS", timing.MIN_TIMED_STEPS)
        yield own


@pytest.fixture(scope="session")
def commands(cache_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The process that forks commands; each test gives its own paths."""
    folder = tmp_path_factory.mktemp("commands")
    with Commands(folder=folder, logs=folder) as server:
        yield server
