"""Standard learning with MetaWeightNet on CIFAR-10: Appendix H of Lee et al. 2022, Table 5.

    python -m experiments.standard --preset smoke                     generated images, no data
    python -m experiments.standard --data-dir data                    preset cpu, all methods
    python -m experiments.standard --method hyperdistill --seed 0 --resume

First λ, the weighting of examples, is learnt online along one run of the classifier: on half of the
training images, some with wrong labels, while the other half, clean, gives the outer loss. Then the
classifier is trained anew on all of them, 40% wrong labels everywhere, with that λ at rest.

Each run has a folder OUT/METHOD/seed-S with the first stage's metrics and checkpoints, the second's
in retrain/, and weighting.json; OUT/report gets the table, the pictures and their data.
"""

import dataclasses
import json
import pathlib
import warnings
from typing import Literal

import jax

import hdistill as hd
from experiments.draw.runs import spent
from experiments.draw.sets import open_out, write_set
from experiments.methods import Method, chosen
from experiments.run.command import Command, run_command
from experiments.run.images import weighting
from experiments.run.study import check_protocol, open_run, tell
from experiments.standard import report
from experiments.standard.presets import PRESETS
from experiments.standard.setting import Setting, corrupt, halves, make_setting
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
      side_by_side: a method's seeds in one program, for an accelerator; no resume within.
      data_dir: folder of the images' pools.
    """

    method: str = "all"
    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    gamma: tuple[float, ...] = ()
    side_by_side: bool = False
    data_dir: pathlib.Path = pathlib.Path("data")
    out: pathlib.Path = pathlib.Path("runs/standard")


def run(setting: Setting, stages, title: str, seed: int, folder: RunFolder) -> dict:
    """Learns λ, retrains with it at rest, tests; a run that diverges says so."""
    init_key, corrupt_key, half_key, *stage_keys = jax.random.split(jax.random.key(seed), 5)
    corrupted = corrupt(corrupt_key, setting.train, setting.preset.corruption)
    first, weights = setting.start(init_key)
    tasks = halves(half_key, corrupted, setting.train), (corrupted, setting.train)
    try:
        learnt = run_stage(
            setting, stages[0], f"{title}, λ", stage_keys[0], first, weights, tasks[0], folder
        )
        again = folder.config | {"stage": "retraining"}
        how = {"resume": True, "fallback": folder.fallback}
        with RunFolder(folder.claim("retrain"), again, **how) as retrain:
            state = run_stage(
                setting,
                stages[1],
                f"{title}, retraining",
                stage_keys[1],
                learnt.hparams,
                weights,
                tasks[1],
                retrain,
            )
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


def run_stage(setting: Setting, stream, label, key, hparams, weights, task, folder):
    """The state after one of the two streams."""
    preset = setting.preset
    total = preset.steps // preset.stretch

    def validate(m, state):
        if m % preset.validate_every and m != total:
            return {}
        return {"accuracy": float(setting.accuracy(state.weights, state.hparams))}

    return train(
        stream.step,
        stream.init(key, hparams, weights, task),
        lambda m: task,
        total=total,
        folder=folder,
        validate=validate,
        unit="stretch",
        label=label,
    )


def methods(config: Config) -> list[Method]:
    """What the command line asks for; in a stream, N.IFT's K is the steps between its moves."""
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
    # λ at rest, in the second stage, is meant.
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
