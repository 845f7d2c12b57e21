"""The same command once for each rank of this machine, as torchrun would start it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence

from deitkit.errors import WorkerError

MAY_GO_ALONE = "DEITKIT_MAY_GO_ALONE"
"""Set for ranks that were started to find out whether they win."""
ASKED_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def may_go_alone() -> bool:
    """Whether the ranks of this command may leave all work to the first."""
    return MAY_GO_ALONE in os.environ


def ranks_to_try(device: str) -> int:
    """One for each CUDA device, else one for each core."""
    from deitkit.runtime.device import pick_device
    from deitkit.runtime.processors import usable_cores

    picked = pick_device(device)
    if picked.type == "cuda":
        import torch

        return 1 if ":" in device else torch.cuda.device_count()
    return usable_cores() if picked.type == "cpu" else 1


def launch_ranks(num_ranks: int, arguments: Sequence[str], *, open_choice: bool = False) -> int:
    """Run `python -m deitkit *arguments` on `num_ranks` ranks; the exit code of the first to fail.

    Signals that come here go to all ranks, which stop at the same step. With an `open_choice` the
    first may go on alone.

    Raises:
        WorkerError: RANK_LOST where a rank was killed, RENDEZVOUS where none could be started.
    """
    from torch.distributed import DistError
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    from deitkit.runtime.processors import usable_cores

    # The ranks say themselves what happened; the launcher would repeat it in forty lines.
    logging.disable(logging.CRITICAL)
    # It gives each rank one thread unless told otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // num_ranks)))
    if open_choice:
        os.environ[MAY_GO_ALONE] = "1"
    options = ["--standalone", f"--nproc-per-node={num_ranks}", "-m", "deitkit"]
    try:
        torchrun.run(torchrun.parse_args([*options, *arguments]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _exit_code(rank, failure.exitcode, num_ranks)
    except SignalException as error:
        return 128 + int(error.sigval)
    except (DistError, RendezvousError) as error:
        raise WorkerError(
            "RENDEZVOUS",
            "localhost",
            f"the {num_ranks} ranks could not be started ({str(error).splitlines()[0]})",
            "use torchrun with a free port: --master-port",
        ) from error
    return 0


def _exit_code(rank: int, code: int, num_ranks: int) -> int:
    """A rank's own code; of one that was killed there is nobody else to tell."""
    if code >= 0:
        return code
    if -code in ASKED_TO_STOP:
        return 128 - code
    name = signal.Signals(-code).name
    hint = ", as a system does that has no memory left," if -code == signal.SIGKILL else ""
    raise WorkerError(
        "RANK_LOST",
        f"rank {rank} of {num_ranks}",
        f"it was ended by {name}{hint} and the others with it",
        "the same command goes on from the last checkpoint",
    )
