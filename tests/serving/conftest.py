"""Servers that several tests ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.light_file import write_light_file
from tests.serving.process import Process, program
from tests.serving.running import Running, running
from tests.serving.toy import Toy


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A toy that answers at once, under the limits that users have."""
    with running(Toy()) as here:
        yield here


@pytest.fixture(scope="session")
def light_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that deitkit serves."""
    pytest.importorskip("onnxruntime")
    return write_light_file(tmp_path_factory.mktemp("light") / "model.onnx")


@pytest.fixture(scope="module")
def process(light_file: Path) -> Iterator[Process]:
    """The installed program, serving that file."""
    with program(light_file, "port=0") as here:
        yield here
