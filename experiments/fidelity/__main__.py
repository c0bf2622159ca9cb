"""The closeness of each method's hypergradient to the exact one: Section 5.1 of Lee et al. 2022.

    python -m experiments.fidelity --preset smoke                  generated images, no data
    python -m experiments.fidelity --data-dir data                 WarpGrad on CIFAR-100, preset cpu
    python -m experiments.fidelity --problem sinusoid anil warpgrad --data-dir data --resume

At a random start, and again after meta-training with HyperDistill under the study's own preset:
`hd.compare` on a few tasks, all online methods and a grid of γ. Each run has a folder
OUT/PROBLEM/seed-S with cosines.csv, costs.csv and samples.csv of either stage and theta.csv; OUT
gets the table and the plots (after Figures 3, 4, 6 and 11).
"""

import dataclasses
import functools
import io
import math
import pathlib

import jax
import numpy as np
import pandas as pd

import hdistill as hd
from experiments.draw.sets import open_out, write_set
from experiments.fidelity import report
from experiments.fidelity.passes import compare_passes
from experiments.fidelity.presets import PRESETS, Preset
from experiments.fidelity.setting import ProblemName, adapted, contenders, make_setting
from experiments.image_meta.presets import PresetName
from experiments.methods import METHODS
from experiments.run.command import Command, run_command
from experiments.run.study import Setting, check_protocol, numerics, spent, tell
from hdistill.checks.values import check_gamma
from hdistill.progress import progress
from hdistill.training import NonFiniteLoss, RunFolder
from hdistill.training import run as train

BY_STEP = ("cosine", "ratio", "second_order_cosine", "second_order_ratio")


@dataclasses.dataclass(frozen=True)
class Config(Command):
    """The command line.

    Attributes:
      problem: what to compare on.
      preset: the protocol, that of the same name of the problem's own study.
      gamma: γ of the grids; none for the preset's.
      data_dir: folder of the images' pools.
    """

    problem: tuple[ProblemName, ...] = ("warpgrad",)
    preset: PresetName = "cpu"
    gamma: tuple[float, ...] = ()
    data_dir: pathlib.Path = pathlib.Path("data")
    out: pathlib.Path = pathlib.Path("runs/fidelity")

    def check(self) -> None:
        """Raises ValueError for a number out of range."""
        super().check()
        for gamma in self.gamma:
            check_gamma(gamma)


class Study:
    """One problem under one preset, for any number of seeds."""

    def __init__(self, setting: Setting, preset: Preset):
        self.setting, self.preset = setting, preset
        self.contenders = contenders(setting, preset)
        self.trained_by = adapted("hyperdistill", setting).adapted({"gamma": preset.gamma})
        self.learner = setting.learner(self.trained_by)
        self.fit_size = jax.jit(
            functools.partial(hd.fit_size, setting.momentum_free, gamma=preset.gamma)
        )

    def run(self, seed: int, folder: RunFolder) -> dict:
        """Compares, meta-trains, compares again."""
        setting = self.setting
        init_key, state_key, train_key, task_key = jax.random.split(jax.random.key(seed), 4)
        hparams, weights = setting.start(init_key)
        self.measure(report.STAGES[0], hparams, weights, task_key, folder)
        state = self.learner.init(state_key, hparams, weights)
        diverged = None
        try:
            state = train(
                self.learner.step,
                state,
                lambda m: setting.tasks(train_key, m),
                total=setting.inner_optimisations,
                folder=folder,
                unit="inner optimisation",
                label=f"meta-training, seed {seed}",
            )
        except NonFiniteLoss as error:  # on with the last good state
            diverged = str(error)
            _, state = folder.restore(self.learner.init(state_key, *setting.start(init_key)))
        self.measure(report.STAGES[1], state.hparams, state.weights, task_key, folder)
        thetas = [(row["step"], row["theta"]) for row in folder.rows]
        _write(folder, "theta", ["inner_optimisation", "theta"], thetas)
        cosines = pd.read_csv(io.StringIO(folder.read(f"{report.STAGES[1]}-cosines.csv")))
        ours = cosines.loc[cosines["method"] == f"paper-{self.preset.gamma}", "cosine"]
        return folder.finish(
            {"cosine": float(ours.mean()), "diverged": diverged} | spent(folder.rows)
        )

    def measure(self, stage: str, hparams, weights, key, folder: RunFolder) -> None:
        """Writes STAGE-cosines.csv, -costs.csv and -samples.csv, unless they are there."""
        if all(folder.read(f"{stage}-{kind}.csv") for kind in ("cosines", "costs", "samples")):
            return
        setting, cosines, costs, samples = self.setting, [], [], []
        for task in progress(range(self.preset.tasks), f"comparing, {stage}"):
            case = (hparams, weights, *setting.draw(jax.random.fold_in(key, task)))
            compared = hd.compare(setting.problem, self.contenders, *case)
            for name, fidelity in compared.items():
                cost = fidelity.products, fidelity.seconds, fidelity.memory
                costs.append((task, name, fidelity.theta, *cost))
                by_step = zip(*(getattr(fidelity, field) for field in BY_STEP))
                cosines += [(task, name, t, *row) for t, row in enumerate(by_step, 1)]
            for name, one in compare_passes(setting, *case).items():
                costs.append((task, name, math.nan, one.products, one.seconds, one.memory))
                at_end = (getattr(one, field) for field in BY_STEP)
                cosines.append((task, name, setting.horizon, *at_end))
            fitted = self.fit_size(*case, jax.random.key(0))[1]
            samples += [(task, s, *row) for s, row in enumerate(zip(*fitted), 1)]
        _write(folder, f"{stage}-cosines", ["task", "method", "t", *BY_STEP], cosines)
        names = ["task", "method", "theta", "products", "seconds", "memory"]
        _write(folder, f"{stage}-costs", names, costs)
        _write(folder, f"{stage}-samples", ["task", "s", "x", "y"], samples)


def _write(folder: RunFolder, name: str, columns: list[str], rows: list[tuple]) -> None:
    plain = [[np.asarray(x).item() for x in row] for row in rows]
    frame = pd.DataFrame(plain, columns=columns)
    folder.write(f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    preset = PRESETS[config.preset]
    if config.gamma:
        preset = dataclasses.replace(preset, gammas=config.gamma)
    open_out(config.out, "fidelity")
    for problem in config.problem:
        setting = make_setting(problem, config.preset, config.data_dir)
        study = Study(setting, preset)
        protocol = setting.protocol | dataclasses.asdict(preset)
        protocol |= {
            "numerics": numerics(),
            "study": "fidelity",
            "problem": problem,
            "title": f"Fidelity, {problem}",
        }
        protocol["arguments"] = study.trained_by.arguments
        protocol["compared"] = {name: adapted(name, setting).arguments for name in METHODS}
        check_protocol(protocol, (config.out / problem).glob("seed-*/config.json"))
        for seed in config.seed or preset.seeds:
            path = config.out / problem / f"seed-{seed}"
            with RunFolder(path, protocol | {"seed": seed}, **config.how) as folder:
                if folder.summary is None:
                    study.run(seed, folder)
                    tell(folder, "cosine")
    print(write_set(report, config.out, "fidelity"))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
