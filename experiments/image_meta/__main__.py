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

from experiments.image_meta import report
from experiments.image_meta.presets import PresetName, protocol
from experiments.image_meta.setting import make_setting
from experiments.methods import METHODS, chosen
from experiments.run.command import run_command
from experiments.run.cpu import keep_short_loops, use_cores
from experiments.run.distributed import start
from experiments.run.meta_command import MetaCommand, run_methods

# Online RMD is exact and 50 times one-step's price: it runs when it is asked for by name, as does λ
# not learnt.
ALL = [name for name in METHODS if name not in ("rmd", "unlearnt")]


@dataclasses.dataclass(frozen=True)
class Config(MetaCommand):
    """The command line.

    Attributes:
      model: which parameters are λ: "anil", "warpgrad" or "metaweightnet".
      dataset: whose classes: "cifar100" or "tinyimagenet".
      method: one method, or all of them but online RMD, which takes hours.
      init: how the initial weights learn.
      preset: the protocol.
      image_size: height and width of the images; none for the preset's. TinyImageNet has 64.
      hyper_optimizer: of λ: "sgd", as the paper has it, or "adam" at a constant rate.
      data_dir: folder of the images' pools.
    """

    model: str = "warpgrad"
    dataset: str = "cifar100"
    method: str = "all"
    init: Literal["reptile", "fomaml"] = "reptile"
    preset: PresetName = "cpu"
    image_size: int | None = None
    hyper_optimizer: Literal["sgd", "adam"] = "sgd"
    data_dir: pathlib.Path = pathlib.Path("data")
    out: pathlib.Path = pathlib.Path("runs/image_meta")


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    preset = protocol(config.preset, config.model)
    keep_short_loops()
    if config.distributed:
        start()
    else:
        use_cores(preset.meta_batch)
    methods = chosen(config.method, ALL, preset.arguments, preset.gammas, config.given)
    setting = make_setting(
        config.model,
        config.dataset,
        config.init,
        config.preset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        hyper_optimizer=config.hyper_optimizer,
    )
    out = config.out / f"{config.model}-{config.dataset}-{config.init}"
    run_methods(config, setting, methods, config.seed or preset.seeds, out, report)


if __name__ == "__main__":
    run_command(Config, main, __doc__)
