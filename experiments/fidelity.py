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
from experiments.common.runs import run_seeds, spent
from experiments.fidelity_report import STAGES, read, report
from experiments.fidelity_scenes import GAMMA, ProblemName, Scene, make_scene
from experiments.image_protocol import PresetName

GAMMAS = (0.0, 0.9, 0.99, 0.999, 0.9999)
BY_STEP = ("cosine", "ratio", "second_order_cosine", "second_order_ratio")
AGAIN = ("rmd", "hyperdistill", "one-step-sized")  # the reference, and what the grids hold


@dataclasses.dataclass(frozen=True)
class Preset:
    """How much is compared.

    Attributes:
      tasks: at each stage.
      seeds: runs.
    """

    tasks: int
    seeds: tuple[int, ...]


PRESETS = {"smoke": Preset(1, (0,)), "cpu": Preset(2, (0, 1, 2)), "paper": Preset(4, (0, 1, 2))}


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


def decayed(problem: hd.Problem, gamma: float) -> hd.Problem:
    """The problem with A = γI for the derivative of Φ in the weights, its values unchanged.

    Its exact hypergradient is Eq. 7, Σ_i γ^(t-i) α_t B_i: what HyperDistill distils.
    """

    def update(weights, hparams, batch):
        fixed = jax.lax.stop_gradient(weights)
        after = problem.update(fixed, hparams, batch)
        return jax.tree.map(lambda x, y, new: new + gamma * (x - y), weights, fixed, after)

    return problem._replace(update=update)


def contenders(scene: Scene) -> dict[str, hd.Estimator]:
    """What is compared, by name: the study's online methods, more of greedy, three grids of γ."""
    problem, online = scene.problem, hd.online
    found = {
        name: method.estimator
        for name, method in scene.methods.items()
        if isinstance(method.estimator, hd.Estimator) and name not in AGAIN
    }
    found["greedy-0.9"] = online.greedy(problem, gamma=0.9)
    for gamma in GAMMAS:
        found[f"fitted-{gamma}"] = online.hyperdistill(problem, gamma=gamma)
        found[f"size1-{gamma}"] = online.hyperdistill(problem, gamma=gamma, size=1.0)
        found[f"eq7-{gamma}"] = online.reverse_mode(decayed(problem, gamma), window=scene.horizon)
    return found


class Study:
    """One problem under one preset, for any number of seeds."""

    def __init__(self, scene: Scene, tasks: int):
        self.scene, self.tasks = scene, tasks
        self.contenders = contenders(scene)
        self.fit_size = jax.jit(functools.partial(hd.fit_size, scene.problem, gamma=GAMMA))

    def run(self, seed: int, folder: RunFolder) -> dict:
        """Compares, meta-trains, compares again."""
        scene = self.scene
        init_key, state_key, train_key, task_key = jax.random.split(jax.random.key(seed), 4)
        hparams, weights = scene.start(init_key)
        self.measure(STAGES[0], hparams, weights, task_key, folder.path)
        state = scene.learner.init(state_key, hparams, weights)
        diverged = None
        try:
            state = meta_train(
                scene.learner,
                state,
                lambda m: scene.tasks(jax.random.fold_in(train_key, m)),
                total=scene.inner_optimisations,
                horizon=scene.horizon,
                folder=folder,
                label=f"meta-training, seed {seed}",
            )
        except NonFiniteLoss as error:  # on with the last good state
            diverged = str(error)
            _, state = folder.restore(scene.learner.init(state_key, *scene.start(init_key)))
        self.measure(STAGES[1], state.hparams, state.weights, task_key, folder.path)
        thetas = [(row["inner_optimisation"], row["theta"]) for row in folder.metrics()]
        _write(folder.path / "theta.csv", ["inner_optimisation", "theta"], thetas)
        cosines = read(folder.path / f"{STAGES[1]}-cosines.csv")
        ours = [row["cosine"] for row in cosines if row["method"] == f"fitted-{GAMMA}"]
        return folder.finish(cosine=np.nanmean(ours), diverged=diverged, **spent(folder))

    def measure(self, stage: str, hparams, weights, key, path: pathlib.Path) -> None:
        """Writes STAGE-cosines.csv, -costs.csv and -samples.csv, unless they are there."""
        if (path / f"{stage}-samples.csv").exists():
            return
        scene, cosines, costs, samples = self.scene, [], [], []
        for task in tqdm(range(self.tasks), desc=f"comparing, {stage}", leave=False):
            case = (hparams, weights, *scene.draw(jax.random.fold_in(key, task)))
            found = hd.compare(scene.problem, self.contenders, *case)
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
        scene = make_scene(problem, config.preset, config.data_dir)
        settings = {"study": "fidelity", "problem": problem, "preset": config.preset}
        run_seeds(
            Study(scene, preset.tasks).run,
            config.out / problem,
            config.seed or preset.seeds,
            settings | {"title": f"Fidelity, {problem}", "horizon": scene.horizon},
            preset,
            config.resume,
            result="cosine",
        )
    print(report(config.out))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
