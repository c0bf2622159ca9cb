"""Few-shot sinusoid regression with ANIL: Appendix G, Table 4 and Figure 8 of Lee et al. 2022.

    python -m experiments.sinusoid                                    all methods, preset cpu
    python -m experiments.sinusoid --preset paper --out runs/paper    all methods, 5 runs each
    python -m experiments.sinusoid --method hyperdistill --seed 0 1 2 --gamma 0.9 0.99 --resume

Each run has a folder OUT/METHOD/seed-S with config.json, metrics.jsonl, summary.json and
checkpoints/; OUT gets the table (table.md) and two plots. What to expect is in RESULTS.md.
"""

import dataclasses
import pathlib
from typing import Literal

import tyro

from experiments.common.methods import METHODS, chosen
from experiments.common.study import run_method
from experiments.sinusoid.presets import PRESETS
from experiments.sinusoid.report import report
from experiments.sinusoid.setting import make_setting

ALL = [name for name in METHODS if name != "unlearnt"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      method: one method, or all of them.
      preset: the protocol.
      seed: seeds to run; none for the preset's.
      gamma: γ of HyperDistill, each a run; none for the preset's.
      out: the folder for results.
      resume: go on with the runs in `out` where they stopped.
    """

    method: str = "all"
    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    seed: tuple[int, ...] = ()
    gamma: tuple[float, ...] = ()
    out: pathlib.Path = pathlib.Path("runs/sinusoid")
    resume: bool = False


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    preset, setting = PRESETS[config.preset], make_setting(config.preset)
    arguments = dict(zip(("terms", "last"), preset.neumann)) | {"fit_period": preset.fit_period}
    varied = {"gamma": config.gamma or preset.gammas}
    for method in chosen(config.method, ALL, arguments, varied):
        run_method(setting, method, config.seed or preset.seeds, config.out, config.resume)
    print(report(config.out))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
