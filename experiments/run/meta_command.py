"""The options of the meta-learning studies, and the loop over methods."""

import dataclasses
import pathlib

import jax

from experiments.draw.sets import open_out, write_set
from experiments.methods import Method
from experiments.run.command import Command
from experiments.run.side_by_side import run_side_by_side
from experiments.run.study import Setting, run_method


@dataclasses.dataclass(frozen=True)
class MetaCommand(Command):
    """The options that every meta-learning study has.

    Attributes:
      gamma: γ of HyperDistill, each a run; none for the preset's.
      anchors: straight pieces of DrMAD's bent line, each a run; none for the preset's.
      hyper_rate: learning rate of λ, each a run; none for the preset's of each method.
      side_by_side: a method's seeds and rates in one program, for an accelerator.
      distributed: the meta-batch over the devices of all processes (`experiments.run.launch`).
    """

    gamma: tuple[float, ...] = ()
    anchors: tuple[int, ...] = ()
    hyper_rate: tuple[float, ...] = ()
    side_by_side: bool = False
    distributed: bool = False

    def check(self) -> None:
        """Raises ValueError for options that do not go together, or out of range."""
        super().check()
        if self.side_by_side and self.distributed:
            raise ValueError("distributed=True: expected False with side_by_side=True")

    @property
    def given(self) -> dict[str, tuple]:
        """Values of an argument, each a method (see `methods.chosen`)."""
        return {"gamma": self.gamma, "anchors": self.anchors, "hyper_rate": self.hyper_rate}


def run_methods(
    config: MetaCommand, setting: Setting, methods: list[Method], seeds, out: pathlib.Path, report
) -> None:
    """Runs the methods into OUT, then writes and prints the report; process 0 of several does.

    Raises:
      ValueError: more anchors than inner steps, before anything is run or written.
    """
    for method in methods:
        anchors = method.arguments.get("anchors", 1)
        if anchors > setting.horizon:
            raise ValueError(f"anchors={anchors}: expected at most horizon={setting.horizon}")
    study, first = setting.protocol["study"], jax.process_index() == 0
    if first:
        open_out(config.out, study)
    if config.side_by_side:
        run_side_by_side(setting, methods, seeds, out, config.how)
    else:
        for method in methods:
            run_method(setting, method, seeds, out, config.how, config.distributed)
    if first:
        print(write_set(report, config.out, study))
