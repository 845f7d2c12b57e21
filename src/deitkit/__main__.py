"""`python -m deitkit`, as torchrun starts it."""

from __future__ import annotations

import os
import sys

from deitkit.cli.main import main

if "WORLD_SIZE" in os.environ:
    # Of a rank that is lost torch warns with a trace of C++; the one line of ours says it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
code = main()
if "WORLD_SIZE" in os.environ:
    # After an error the ranks' group may live on in the traceback. Its threads abort the process
    # when they ask for Python's lock while it ends, and the exit code is then theirs.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
