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

from experiments.methods import chosen
from experiments.run.command import run_command
from experiments.run.distributed import start
from experiments.run.meta_command import MetaCommand, run_methods
from experiments.sinusoid import report
from experiments.sinusoid.presets import PRESETS
from experiments.sinusoid.setting import make_setting


@dataclasses.dataclass(frozen=True)
class Config(MetaCommand):
    """The command line.

    Attributes:
      method: one method, or all of them.
      preset: the protocol.
      outer_points: points of the outer loss and of the test; none for the preset's.
    """

    method: str = "all"
    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    outer_points: int | None = None
    out: pathlib.Path = pathlib.Path("runs/sinusoid")


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    if config.distributed:
        start()
    preset = PRESETS[config.preset]
    setting = make_setting(config.preset, outer_points=config.outer_points)
    methods = chosen(config.method, preset.methods, preset.arguments, preset.gammas, config.given)
    run_methods(config, setting, methods, config.seed or preset.seeds, config.out, report)


if __name__ == "__main__":
    run_command(Config, main, __doc__)
