"""A script that does not catch our errors still ends, loader workers or not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.api.conftest import SHORT

SCRIPT = """
import os, signal, sys
import deitkit

def told(event):
    if type(event).__name__ == "StepDone" and event.step == 3:
        os.kill(os.getpid(), signal.SIGTERM)

deitkit.train(data=sys.argv[1], out=sys.argv[2], on_event=told, **{settings})
"""


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_an_uncaught_stop_ends_the_process(tmp_path, photos, workers):
    """T10: the traceback holds the run's frames; the workers, who ignore signals, still end."""
    settings = {**SHORT, "workers": workers}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT.replace("{settings}", repr(settings)),
            photos,
            tmp_path / "r",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "stopped after step 3 of 12, checkpoint saved" in done.stderr
