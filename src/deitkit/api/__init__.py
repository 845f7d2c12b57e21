"""The verbs, for Python. Nothing here waits for torch before it has to."""

from deitkit.api.fit import fit
from deitkit.api.run import Run, open_run, train
from deitkit.api.verify import ResumeProof, verify_resume

__all__ = ["ResumeProof", "Run", "fit", "open_run", "train", "verify_resume"]
