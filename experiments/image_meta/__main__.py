"""Image meta-learning: Section 5 and Appendix J of Lee et al. 2022, Table 2 and Figures 2, 5, 6, 7.

    python -m experiments.image_meta --preset smoke                       generated images, no data
    python -m experiments.image_meta --model warpgrad --data-dir data     all methods, preset cpu
    python -m experiments.image_meta --model metaweightnet --method hyperdistill --resume
    python -m experiments.image_meta --preset paper --dataset tinyimagenet --init fomaml

Each run has a folder OUT/MODEL-DATASET-INIT/METHOD/seed-S with config.json, metrics.jsonl,
summary.json and checkpoints/; OUT/report gets the tables, the pictures and their data.
"""

import dataclasses
import pathlib
from typing import Literal

import jax

from experiments.common.command import Command, run_command
from experiments.common.distributed import start
from experiments.common.methods import METHODS, chosen
from experiments.common.sets import open_out, write_set
from experiments.common.side_by_side import run_side_by_side
from experiments.common.study import run_method
from experiments.image_meta import report
from experiments.image_meta.presets import PresetName, protocol
from experiments.image_meta.setting import make_setting

# Online RMD is exact and 50 times one-step's price: it runs when it is asked for by name.
ALL = [name for name in METHODS if name not in ("rmd", "unlearnt")]


@dataclasses.dataclass(frozen=True)
class Config(Command):
    """The command line.

    Attributes:
      model: which parameters are λ: "anil", "warpgrad" or "metaweightnet".
      dataset: whose classes: "cifar100" or "tinyimagenet".
      method: one method, or all of them but online RMD, which takes hours.
      init: how the initial weights learn.
      preset: the protocol.
      gamma: γ of HyperDistill, each a run; none for the preset's.
      hyper_rate: learning rate of λ, each a run; none for the preset's of each method.
      image_size: height and width of the images; none for the preset's. TinyImageNet has 64.
      data_dir: folder of the images' pools.
      side_by_side: a method's seeds and rates in one program, for an accelerator; no resume within.
      distributed: the meta-batch over all devices, of all processes (`experiments.launch`, SLURM).
    """

    model: str = "warpgrad"
    dataset: str = "cifar100"
    method: str = "all"
    init: Literal["reptile", "fomaml"] = "reptile"
    preset: PresetName = "cpu"
    gamma: tuple[float, ...] = ()
    hyper_rate: tuple[float, ...] = ()
    image_size: int | None = None
    data_dir: pathlib.Path = pathlib.Path("data")
    side_by_side: bool = False
    distributed: bool = False
    out: pathlib.Path = pathlib.Path("runs/image_meta")

    def check(self) -> None:
        """Raises ValueError for options that do not go together, or out of range."""
        super().check()
        if self.side_by_side and self.distributed:
            raise ValueError("distributed=True: expected False with side_by_side=True")


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    if config.distributed:
        start()
    preset = protocol(config.preset, config.model)
    given = {"gamma": config.gamma, "hyper_rate": config.hyper_rate}
    methods = chosen(config.method, ALL, preset.arguments, preset.gammas, given)
    setting = make_setting(
        config.model,
        config.dataset,
        config.init,
        config.preset,
        data_dir=config.data_dir,
        image_size=config.image_size,
    )
    out = config.out / f"{config.model}-{config.dataset}-{config.init}"
    first = jax.process_index() == 0
    if first:
        open_out(config.out, "image_meta")
    seeds = config.seed or preset.seeds
    if config.side_by_side:
        run_side_by_side(setting, methods, seeds, out, config.how)
    else:
        for method in methods:
            run_method(setting, method, seeds, out, config.how, config.distributed)
    if first:
        print(write_set(report, config.out, "image_meta"))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
