"""The verbs, for Python. Nothing here waits for torch before it has to."""

from deitkit.api.ablate import Ablation, ablate
from deitkit.api.draw_sheet import Sheet, draw_sheet
from deitkit.api.fit import fit
from deitkit.api.importing import Imported, import_weights
from deitkit.api.plan_rows import PlanRow
from deitkit.api.planning import Plan, plan
from deitkit.api.run import Run, open_run, train
from deitkit.api.teach import Taught, teach
from deitkit.api.verify import ResumeProof, verify_resume

__all__ = [
    "Ablation",
    "Imported",
    "Plan",
    "PlanRow",
    "ResumeProof",
    "Run",
    "Sheet",
    "Taught",
    "ablate",
    "draw_sheet",
    "fit",
    "import_weights",
    "open_run",
    "plan",
    "teach",
    "train",
    "verify_resume",
]
