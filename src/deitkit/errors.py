"""Every exception a user of deitkit can meet: what was found, what is needed, what to do.

One line on the command line: ``deitkit: error [CODE] <subject>: <why>; <what to do>``, and one
exit code per class. This module imports nothing, so that an error never waits for torch.
"""

from __future__ import annotations


class DeitkitError(Exception):
    """A fault the user can act on. `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, code: str, subject: object, why: str, do: str) -> None:
        super().__init__(code, str(subject), why, do)
        self.code = code
        self.subject = str(subject)
        self.why = why
        self.do = do

    def __str__(self) -> str:
        return f"[{self.code}] {self.subject}: {self.why}; {self.do}"


class ConfigError(DeitkitError):
    """A setting, verb or path on the command line that cannot be right."""

    exit_code = 2


class DataError(DeitkitError):
    """The images, labels or tables."""

    exit_code = 3


class CheckpointError(DeitkitError):
    """A run folder, checkpoint or cache that cannot be continued."""

    exit_code = 4


class ModelFileError(DeitkitError):
    """Weights or a bundle that cannot be trusted or do not fit."""

    exit_code = 5


class ResourceError(DeitkitError):
    """Disk, memory, permission or lock."""

    exit_code = 6


class DivergedError(DeitkitError):
    """Training left the finite numbers."""

    exit_code = 7


class WorkerError(DeitkitError):
    """A loader worker or a rank was lost."""

    exit_code = 8


class StoppedError(DeitkitError):
    """The run was asked to stop by a signal, after its checkpoint; `exit_code` is 128 + signal."""

    def __init__(self, signal_number: int, subject: object, why: str, do: str) -> None:
        super().__init__("STOPPED", subject, why, do)
        self.exit_code = 128 + signal_number
