"""How close each method's hypergradient is to the exact one: Section 5.1 of Lee et al. 2022.

    python -m experiments.fidelity --preset smoke                  generated images, no data
    python -m experiments.fidelity --data-dir data                 WarpGrad on CIFAR-100, preset cpu
    python -m experiments.fidelity --problem sinusoid anil warpgrad --data-dir data --resume

At a random start, and again after meta-training with HyperDistill under the study's own preset:
`hd.compare` on a few tasks, all online methods and a grid of γ. Each run has a folder
OUT/PROBLEM/seed-S with cosines.csv, costs.csv and samples.csv of either stage and theta.csv; OUT
gets the table and the plots (after Figures 3, 4, 6 and 11).
"""

import csv
import dataclasses
import functools
import io
import pathlib

import jax
import numpy as np
import tyro
from tqdm import tqdm

import hdistill as hd
from experiments.common.folder import RunFolder, write_whole
from experiments.common.loop import NonFiniteLoss, meta_train
from experiments.common.runs import spent
from experiments.common.study import Setting, tell
from experiments.fidelity.presets import PRESETS, Preset
from experiments.fidelity.report import STAGES, read, report
from experiments.fidelity.setting import ProblemName, adapted, contenders, make_setting
from experiments.image_meta.presets import PresetName

BY_STEP = ("cosine", "ratio", "second_order_cosine", "second_order_ratio")


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      problem: what to compare on.
      preset: the protocol, that of the same name of the problem's own study.
      seed: seeds to run; none for the preset's.
      data_dir: folder of the images' pools.
      out: the folder for results.
      resume: go on with the runs in `out` where they stopped.
    """

    problem: tuple[ProblemName, ...] = ("warpgrad",)
    preset: PresetName = "cpu"
    seed: tuple[int, ...] = ()
    data_dir: pathlib.Path = pathlib.Path("data")
    out: pathlib.Path = pathlib.Path("runs/fidelity")
    resume: bool = False


class Study:
    """One problem under one preset, for any number of seeds."""

    def __init__(self, setting: Setting, preset: Preset):
        self.setting, self.preset = setting, preset
        self.contenders = contenders(setting, preset)
        self.learner = setting.learner(
            adapted("hyperdistill", setting).adapted({"gamma": preset.gamma})
        )
        self.fit_size = jax.jit(functools.partial(hd.fit_size, setting.problem, gamma=preset.gamma))

    def run(self, seed: int, folder: RunFolder) -> dict:
        """Compares, meta-trains, compares again."""
        setting = self.setting
        init_key, state_key, train_key, task_key = jax.random.split(jax.random.key(seed), 4)
        hparams, weights = setting.start(init_key)
        self.measure(STAGES[0], hparams, weights, task_key, folder.path)
        state = self.learner.init(state_key, hparams, weights)
        diverged = None
        try:
            state = meta_train(
                self.learner,
                state,
                lambda m: setting.tasks(jax.random.fold_in(train_key, m)),
                total=setting.inner_optimisations,
                horizon=setting.horizon,
                folder=folder,
                label=f"meta-training, seed {seed}",
            )
        except NonFiniteLoss as error:  # on with the last good state
            diverged = str(error)
            _, state = folder.restore(self.learner.init(state_key, *setting.start(init_key)))
        self.measure(STAGES[1], state.hparams, state.weights, task_key, folder.path)
        thetas = [(row["inner_optimisation"], row["theta"]) for row in folder.metrics()]
        _write(folder.path / "theta.csv", ["inner_optimisation", "theta"], thetas)
        cosines = read(folder.path / f"{STAGES[1]}-cosines.csv")
        ours = [row["cosine"] for row in cosines if row["method"] == f"fitted-{self.preset.gamma}"]
        return folder.finish(cosine=np.nanmean(ours), diverged=diverged, **spent(folder))

    def measure(self, stage: str, hparams, weights, key, path: pathlib.Path) -> None:
        """Writes STAGE-cosines.csv, -costs.csv and -samples.csv, unless they are there."""
        if (path / f"{stage}-samples.csv").exists():
            return
        setting, cosines, costs, samples = self.setting, [], [], []
        for task in tqdm(range(self.preset.tasks), desc=f"comparing, {stage}", leave=False):
            case = (hparams, weights, *setting.draw(jax.random.fold_in(key, task)))
            found = hd.compare(setting.problem, self.contenders, *case)
            for name, fidelity in found.items():
                cost = fidelity.products, fidelity.seconds, fidelity.memory
                costs.append((task, name, fidelity.theta, *cost))
                by_step = zip(*(getattr(fidelity, field) for field in BY_STEP))
                cosines += [(task, name, t, *row) for t, row in enumerate(by_step, 1)]
            fitted = self.fit_size(*case, jax.random.key(0))[1]
            samples += [(task, s, *row) for s, row in enumerate(zip(*fitted), 1)]
        _write(path / f"{stage}-cosines.csv", ["task", "method", "t", *BY_STEP], cosines)
        _write(
            path / f"{stage}-costs.csv",
            ["task", "method", "theta", "products", "seconds", "memory"],
            costs,
        )
        _write(path / f"{stage}-samples.csv", ["task", "s", "x", "y"], samples)


def _write(path: pathlib.Path, header: list[str], rows: list[tuple]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        [f"{x:.6g}" if isinstance(x, np.floating | jax.Array) else x for x in row] for row in rows
    )
    write_whole(path, text.getvalue())


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the reports."""
    preset = PRESETS[config.preset]
    for problem in config.problem:
        setting = make_setting(problem, config.preset, config.data_dir)
        study = Study(setting, preset)
        protocol = setting.protocol | dataclasses.asdict(preset)
        protocol |= {"study": "fidelity", "problem": problem, "title": f"Fidelity, {problem}"}
        for seed in config.seed or preset.seeds:
            path = config.out / problem / f"seed-{seed}"
            with RunFolder(path, protocol | {"seed": seed}, config.resume) as folder:
                if folder.summary is None:
                    study.run(seed, folder)
                    tell(folder, "cosine")
    print(report(config.out))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
