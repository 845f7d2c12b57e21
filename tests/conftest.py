"""Shared fixtures. Two torchvision ops are declared first: its import beside CPU torch fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

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

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
