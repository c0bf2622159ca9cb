"""Standard learning with MetaWeightNet on CIFAR-10: Appendix H of Lee et al. 2022, Table 5.

    python -m experiments.standard --preset smoke                     generated images, no data
    python -m experiments.standard --data-dir data                    preset cpu, all methods
    python -m experiments.standard --method hyperdistill --seed 0 --resume

First λ, the weighting of examples, is learnt online along one run of the classifier: on half of the
training images, some with wrong labels, while the other half, clean, gives the outer loss. Then the
classifier is trained again on all of them, 40% wrong labels everywhere, while λ rests.

Each run has a folder OUT/METHOD/seed-S with the first stage's metrics and checkpoints, the second's
in retrain/, and weighting.json; OUT/report gets the table, the pictures and their data.
"""

import dataclasses
import functools
import json
import pathlib
import warnings
from typing import Literal

import hdistill as hd
from experiments.draw.sets import open_out, write_set
from experiments.methods import Method, chosen
from experiments.run.command import Command, run_command
from experiments.run.images import weighting
from experiments.run.study import check_protocol, keys_of, open_run, spent, tell
from experiments.standard import report
from experiments.standard.presets import PRESETS
from experiments.standard.setting import Setting, make_setting, retrain_folder, stage, tasks_of
from experiments.standard.side_by_side import run_side_by_side
from hdistill.training import NonFiniteLoss, RunFolder
from hdistill.training import run as train

ALL = ("unlearnt", "one-step", "nift", "hyperdistill")


@dataclasses.dataclass(frozen=True)
class Config(Command):
    """The command line.

    Attributes:
      method: one method, or all of them; `unlearnt` leaves λ where it starts.
      preset: the protocol.
      gamma: γ of HyperDistill, each a run; none for the preset's.
      side_by_side: a method's seeds in one program, for an accelerator.
      data_dir: folder of the images' pools.
    """

    method: str = "all"
    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    gamma: tuple[float, ...] = ()
    side_by_side: bool = False
    data_dir: pathlib.Path = pathlib.Path("data")
    out: pathlib.Path = pathlib.Path("runs/standard")


def run(setting: Setting, stages, title: str, seed: int, folder: RunFolder) -> dict:
    """Learns λ, retrains while it rests, tests; a run that diverges says so."""
    init_key, corrupt_key, half_key, *stage_keys = keys_of(seed)
    first, weights = setting.start(init_key)
    tasks = tasks_of(setting, corrupt_key, half_key)

    def one(i, hparams, folder, label):
        state = stages[i].init(stage_keys[i], hparams, weights, tasks[i])
        training = functools.partial(train, folder=folder, label=f"{title}, {label}")
        return stage(setting, stages[i].step, state, tasks[i], training, setting.accuracy)

    try:
        learnt = one(0, first, folder, "λ")
        with retrain_folder(folder) as retrain:
            state = one(1, learnt.hparams, retrain, "retraining")
            retrain.finish(spent(retrain.rows))
    except NonFiniteLoss as error:
        lost = {"test_accuracy": None, "first_stage_accuracy": None, "diverged": str(error)}
        return folder.finish(lost | spent(folder.rows))
    curves = weighting(setting.model, first, state.hparams)
    folder.write("weighting.json", json.dumps(curves))
    figures = {
        "test_accuracy": float(setting.accuracy(state.weights, state.hparams)),
        "first_stage_accuracy": float(setting.accuracy(learnt.weights, learnt.hparams)),
        "diverged": None,
    }
    return folder.finish(figures | spent(folder.rows))


def methods(config: Config) -> list[Method]:
    """The methods that are asked for; in a stream, N.IFT's K is the steps between its moves."""
    preset = PRESETS[config.preset]
    arguments: dict = dict(zip(("terms", "last"), preset.neumann))
    arguments |= {"size": preset.size, "hyper_rate": preset.learning_rate}
    titles = {
        "nift": "N.IFT ({terms} terms, every {last} steps)",
        "hyperdistill": "HyperDistill (γ={gamma}, size {size})",
    }
    return [
        method._replace(title=titles.get(method.name, method.title))
        for method in chosen(
            config.method,
            ALL,
            lambda name: arguments,
            (preset.gamma,),
            {"gamma": config.gamma},
        )
    ]


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    # In the second stage λ rests, as it should.
    warnings.simplefilter("ignore", hd.ZeroHypergradientWarning)
    asked = methods(config)
    setting = make_setting(config.preset, config.data_dir)
    open_out(config.out, "standard")
    check_protocol(setting.protocol, config.out.glob("*/seed-*/config.json"))
    seeds = config.seed or setting.preset.seeds
    for method in asked:
        if config.side_by_side:
            run_side_by_side(setting, method, seeds, config.out, config.how)
            continue
        stages = setting.stages(method)
        for seed in seeds:
            with open_run(setting.protocol, method, seed, config.out, config.how) as folder:
                if folder.summary is None:
                    run(setting, stages, method.label, seed, folder)
                    tell(folder, "test_accuracy")
    print(write_set(report, config.out, "standard"))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
