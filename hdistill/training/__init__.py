"""The host loop of a run, for `hd.learner`, `hd.stream` or your own step; extra `training`.

with training.RunFolder("runs/mine", {"rate": 0.1, "seed": 0}, resume=True) as folder:
    state = training.run(learner.step, state, tasks_at, total=100, folder=folder)
    folder.finish({"test_loss": 0.3})
"""

from hdistill.files import OwnedFolder
from hdistill.training.checkpoints import DamagedCheckpoint
from hdistill.training.folder import OtherRun, Run, RunFolder, read_run, shared_folder
from hdistill.training.long import reverse_mode
from hdistill.training.outer_run import OuterInfo, OuterState, outer_run
from hdistill.training.run import NonFiniteLoss, Stopped, run

__all__ = [
    "DamagedCheckpoint",
    "NonFiniteLoss",
    "OtherRun",
    "OuterInfo",
    "OuterState",
    "OwnedFolder",
    "Run",
    "RunFolder",
    "Stopped",
    "outer_run",
    "read_run",
    "reverse_mode",
    "run",
    "shared_folder",
]
