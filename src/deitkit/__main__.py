"""`python -m deitkit`, as torchrun starts it."""

from __future__ import annotations

import os
import sys

from deitkit.cli.main import main

code = main()
if "WORLD_SIZE" in os.environ:
    # After an error the ranks' group may live on in the traceback. Its threads abort the process
    # when they ask for Python's lock while it ends, and the exit code is then theirs.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
