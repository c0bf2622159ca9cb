"""Few-shot sinusoid regression with ANIL: Appendix G, Table 4 and Figure 8 of Lee et al. 2022.

    python -m experiments.sinusoid                                    eight methods, preset cpu
    python -m experiments.sinusoid --preset paper --out runs/paper    all methods, 5 runs each
    python -m experiments.sinusoid --method hyperdistill --seed 0 1 2 --gamma 0.9 0.99 --resume

Each run has a folder OUT/METHOD/seed-S with config.json, metrics.jsonl, summary.json and
checkpoints/; OUT/report gets the table, two pictures and their data. RESULTS.md has what to expect.
"""

import dataclasses
import pathlib
from typing import Literal

import jax

from experiments.common.command import Command, run_command
from experiments.common.distributed import start
from experiments.common.methods import chosen
from experiments.common.sets import open_out, write_set
from experiments.common.side_by_side import run_side_by_side
from experiments.common.study import run_method
from experiments.sinusoid import report
from experiments.sinusoid.presets import PRESETS
from experiments.sinusoid.setting import make_setting


@dataclasses.dataclass(frozen=True)
class Config(Command):
    """The command line.

    Attributes:
      method: one method, or all of them.
      preset: the protocol.
      gamma: γ of HyperDistill, each a run; none for the preset's.
      hyper_rate: learning rate of λ, each a run; none for the preset's of each method.
      outer_points: points of the outer loss and of the test; none for the preset's.
      side_by_side: a method's seeds and rates in one program, for an accelerator; no resume within.
      distributed: the meta-batch over all devices, of all processes (`experiments.launch`, SLURM).
    """

    method: str = "all"
    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    gamma: tuple[float, ...] = ()
    hyper_rate: tuple[float, ...] = ()
    outer_points: int | None = None
    side_by_side: bool = False
    distributed: bool = False
    out: pathlib.Path = pathlib.Path("runs/sinusoid")

    def check(self) -> None:
        """Raises ValueError for options that do not go together, or out of range."""
        super().check()
        if self.side_by_side and self.distributed:
            raise ValueError("distributed=True: expected False with side_by_side=True")


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    if config.distributed:
        start()
    preset = PRESETS[config.preset]
    setting = make_setting(config.preset, outer_points=config.outer_points)
    given = {"gamma": config.gamma, "hyper_rate": config.hyper_rate}
    methods = chosen(config.method, preset.methods, preset.arguments, preset.gammas, given)
    first = jax.process_index() == 0
    if first:
        open_out(config.out, "sinusoid")
    seeds = config.seed or preset.seeds
    if config.side_by_side:
        run_side_by_side(setting, methods, seeds, config.out, config.how)
    else:
        for method in methods:
            run_method(setting, method, seeds, config.out, config.how, config.distributed)
    if first:
        print(write_set(report, config.out, "sinusoid"))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
