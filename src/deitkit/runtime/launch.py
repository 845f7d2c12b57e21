"""The same command once for each rank of this machine, as torchrun would start it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence


def launch_ranks(num_ranks: int, arguments: Sequence[str]) -> int:
    """Run `python -m deitkit *arguments` on `num_ranks` ranks; the exit code of the first to fail.

    Signals that come here go to all ranks, which stop at the same step.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # The ranks say themselves what happened; the launcher would repeat it in forty lines.
    logging.disable(logging.CRITICAL)
    # It gives each rank one thread unless told otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_ranks)))
    options = ["--standalone", f"--nproc-per-node={num_ranks}", "-m", "deitkit"]
    try:
        torchrun.run(torchrun.parse_args([*options, *arguments]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
