"""`python -m deitkit`, as torchrun starts it."""

from __future__ import annotations

import sys

from deitkit.cli.main import main

sys.exit(main())
