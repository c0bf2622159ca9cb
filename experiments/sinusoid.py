"""Few-shot sinusoid regression with ANIL: Appendix G, Table 4 and Figure 8 of Lee et al. 2022.

    python -m experiments.sinusoid                                    all methods, preset cpu
    python -m experiments.sinusoid --preset paper --out runs/paper    all methods, 5 runs each
    python -m experiments.sinusoid --method hyperdistill --seed 0 1 2 --gamma 0.9 --resume

Each run has a folder OUT/METHOD/seed-S with config.json, metrics.jsonl, summary.json and
checkpoints/; OUT gets the table (table.md) and two plots. What to expect is in RESULTS.md.
"""

import dataclasses
import json
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import hdistill as hd
from experiments.common.folder import RunFolder
from experiments.common.loop import NonFiniteLoss, meta_train
from experiments.common.methods import Method, MethodName, descent, methods
from experiments.common.runs import run_seeds, spent
from experiments.sinusoid_report import report
from hdistill.data.sinusoid import RANGE, sample_curves, sample_tasks
from hdistill.models.anil import AnilRegression

LEARNING_RATE = 0.01
INNER_OPTIMIZER = optax.sgd(LEARNING_RATE, momentum=0.9)
HYPER_OPTIMIZER = optax.adam(1e-3)
NEUMANN = (5, 6)  # N.IFT's number of terms, and the last inner steps in which λ moves
MODEL = AnilRegression()


@dataclasses.dataclass(frozen=True)
class Preset:
    """A protocol. `paper` is Appendix G, number for number.

    Attributes:
      horizon: T, inner steps.
      inner_optimisations: M.
      meta_batch: tasks for each inner optimisation.
      shots: points to train on, and as many to test on.
      validation_tasks: tasks of the meta-validation after each inner optimisation.
      test_tasks: tasks of the meta-test.
      fit_period: inner optimisations between two fits of θ; robust HyperDistill has its own.
      seeds: runs.
    """

    horizon: int = 30
    inner_optimisations: int = 30
    meta_batch: int = 10
    shots: int = 10
    validation_tasks: int = 100
    test_tasks: int = 1000
    fit_period: int = 50
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    # All methods, one run each, in under a minute: does it run at all?
    "smoke": Preset(
        horizon=5,
        inner_optimisations=4,
        meta_batch=2,
        validation_tasks=5,
        test_tasks=20,
        seeds=(0,),
    ),
    # The paper's protocol with one run of each method, all in under two minutes on 2 cores.
    "cpu": Preset(seeds=(0,)),
    # Table 4.
    "paper": Preset(),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      method: one method, or all of them.
      preset: the protocol.
      seed: seeds to run; none for the preset's.
      gamma: γ of HyperDistill.
      out: the folder for results.
      resume: go on with the runs in `out` where they stopped.
    """

    method: Literal["all"] | MethodName = "all"
    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    seed: tuple[int, ...] = ()
    gamma: float = 0.9
    out: pathlib.Path = pathlib.Path("runs/sinusoid")
    resume: bool = False


def loss(params, hparams, points):
    """Mean squared error: the inner and the outer loss."""
    return jnp.mean((MODEL.apply(params, hparams, points.x) - points.y) ** 2)


PROBLEM = hd.from_losses(loss, loss, INNER_OPTIMIZER)
DESCENT = descent(PROBLEM, loss, LEARNING_RATE)


def initial(key) -> tuple:
    """(λ, w_0) of a seed."""
    hparams, params = jax.jit(MODEL.init)(key, jnp.zeros((1, 1)))
    return hparams, hd.InnerState(params, INNER_OPTIMIZER.init(params))


def adapt(hparams, weights, points, horizon: int):
    """w_T for one task's points: the inner optimisation with λ fixed."""
    return hd.unroll(PROBLEM, hparams, weights, lambda t: points, horizon=horizon)


def test_errors(hparams, weights, tasks, horizon: int):
    """Mean squared error of each task's test half after adapting to its other half, [tasks]."""

    def one(task):
        return PROBLEM.outer_loss(adapt(hparams, weights, task[0], horizon), hparams, task[1])

    return jax.vmap(one)(tasks)


class Study:
    """One method under one preset: compiled once, run for any number of seeds."""

    def __init__(self, method: Method, preset: Preset):
        self.method, self.preset = method, preset
        self.learner = hd.learner(
            PROBLEM,
            method.estimator,
            hyper_optimizer=HYPER_OPTIMIZER,
            initialization=hd.reptile(1.0),
            horizon=preset.horizon,
            **{"fit_period": preset.fit_period, **method.arguments},
        )
        self._errors = jax.jit(test_errors, static_argnums=3)
        self._sample = jax.jit(sample_tasks, static_argnums=(1, 2))

    def start(self, seed: int):
        """(first state, keys of the training, validation and test tasks) of a seed."""
        init_key, state_key, *task_keys = jax.random.split(jax.random.key(seed), 5)
        return self.learner.init(state_key, *initial(init_key)), task_keys

    def errors(self, state, key, tasks: int):
        """Errors of the present state on freshly drawn tasks, [tasks]."""
        drawn = self._sample(key, tasks, self.preset.shots)
        return self._errors(state.hparams, state.weights, drawn, self.preset.horizon)

    def run(self, seed: int, folder: RunFolder) -> dict:
        """Meta-trains and meta-tests one seed; a run that diverges says so in its summary."""
        preset = self.preset
        state, (train_key, validation_key, test_key) = self.start(seed)
        try:
            state = meta_train(
                self.learner,
                state,
                lambda m: self._sample(
                    jax.random.fold_in(train_key, m), preset.meta_batch, preset.shots
                ),
                total=preset.inner_optimisations,
                horizon=preset.horizon,
                folder=folder,
                label=f"{self.method.title}, seed {seed}",
                validate=lambda m, state: {
                    "validation_mse": float(
                        self.errors(state, validation_key, preset.validation_tasks).mean()
                    )
                },
            )
        except NonFiniteLoss as error:
            return folder.finish(test_mse=None, diverged=str(error), **spent(folder))
        mse = float(self.errors(state, test_key, preset.test_tasks).mean())
        _write_curves(folder.path / "curves.json", state, test_key, preset)
        finite = np.isfinite(mse)
        return folder.finish(
            test_mse=mse if finite else None,
            diverged=None if finite else "meta-test error is not finite",
            **spent(folder),
        )


def _write_curves(path: pathlib.Path, state, key, preset: Preset, tasks: int = 3) -> None:
    """Adapts to a few test tasks and writes the fitted curves, for the plot."""
    curve_key, point_key = jax.random.split(key)
    curves = sample_curves(curve_key, tasks)
    shape = (tasks, preset.shots, 1)
    points = curves.at(jax.random.uniform(point_key, shape, minval=RANGE[0], maxval=RANGE[1]))
    grid = curves.at(jnp.broadcast_to(jnp.linspace(*RANGE, 200)[:, None], (tasks, 200, 1)))

    def fit(points, x):
        adapted = adapt(state.hparams, state.weights, points, preset.horizon)
        return MODEL.apply(adapted.params, state.hparams, x)

    arrays = {
        "x": points.x,
        "y": points.y,
        "grid": grid.x,
        "truth": grid.y,
        "fit": jax.jit(jax.vmap(fit))(points, grid.x),
    }
    rows = [{name: x[i, :, 0].tolist() for name, x in arrays.items()} for i in range(tasks)]
    path.write_text(json.dumps(rows))


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    preset = PRESETS[config.preset]
    available = methods(
        PROBLEM, DESCENT, horizon=preset.horizon, gamma=config.gamma, neumann=NEUMANN
    )
    names = list(available) if config.method == "all" else [config.method]
    for name in names:
        study = Study(available[name], preset)
        settings = {
            "study": "sinusoid",
            "method": name,
            "title": available[name].title,
            "preset": config.preset,
            "gamma": config.gamma if name == "hyperdistill" else None,
            "neumann": NEUMANN,
        }
        run_seeds(
            study.run,
            config.out / name,
            config.seed or preset.seeds,
            settings,
            preset,
            config.resume,
            result="test_mse",
        )
    print(report(config.out))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
