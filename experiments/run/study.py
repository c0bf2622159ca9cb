"""A meta-learning study: a setting, a method and a seed make a run."""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import hdistill as hd
from experiments.methods import Method
from experiments.run.distributed import spread
from hdistill.files import differences, read_json
from hdistill.training import NonFiniteLoss, RunFolder, shared_folder
from hdistill.training import run as train
from hdistill.training.processes import agreed


class Setting(NamedTuple):
    """The problem, tasks and protocol that the methods of a study share.

    Attributes:
      protocol: all that decides a result beside the method and the seed, for config.json.
      problem: Φ and L_val.
      momentum_free: the same, with plain gradient descent for its surrogate.
      horizon: T.
      inner_optimisations: M.
      metric: what `evaluate` measures, "mse" or "accuracy".
      start: key -> (λ, w_0).
      tasks: (key, m) -> the tasks of the m-th inner optimisation.
      draw: key -> (batches [T, ...], outer batch) of one task, to compare methods on.
      arguments: a method's name -> those of its arguments that the preset decides.
      learner: method -> `hd.Learner`.
      evaluate: (λ, φ, key, "validation" or "test") -> the metric of each task after adapting.
      validate_every: inner optimisations between two meta-validations.
      leave: (model's λ before, state, key) -> {file name: JSON}, what plots need of a run's end.
    """

    protocol: dict
    problem: hd.Problem
    momentum_free: hd.Problem
    horizon: int
    inner_optimisations: int
    metric: str
    start: Callable
    tasks: Callable
    draw: Callable
    arguments: Callable[[str], dict]
    learner: Callable[[Method], hd.Learner]
    evaluate: Callable
    validate_every: int = 1
    leave: Callable[..., dict[str, Any]] = lambda before, state, key: {}

    def validates_after(self, m: int) -> bool:
        """Tells whether a meta-validation follows inner optimisation m."""
        return m % self.validate_every == 0 or m == self.inner_optimisations


def shared(preset) -> dict:
    """The fields of a preset that decide every run, without a method's own."""
    own = ("hyper_rate", "hyper_rates", "fit_period", "size", "neumann")
    which = ("methods", "gammas", "seeds")
    return {k: v for k, v in dataclasses.asdict(preset).items() if k not in own + which}


def run_method(
    setting: Setting, method: Method, seeds, out: pathlib.Path, how: dict, distributed: bool = False
) -> None:
    """Runs the seeds that have not ended yet, each in OUT/METHOD/seed-S."""
    check_protocol(setting.protocol, out.glob("*/seed-*/config.json"))
    learner = setting.learner(method)
    learner = spread(learner) if distributed else learner
    for seed in seeds:
        with open_run(setting.protocol, method, seed, out, how) as folder:
            if agreed(folder.summary is None):
                run(setting, learner, keys_of(seed), folder, f"{method.label}, seed {seed}")
                tell(folder, f"test_{setting.metric}")


def run(setting: Setting, learner: hd.Learner, keys, folder: RunFolder, label: str) -> dict:
    """Meta-trains, meta-validates and meta-tests one seed; a run that diverges says so."""
    training = functools.partial(train, folder=folder, label=label)
    try:
        before, state = meta_train(setting, learner, keys, training)
    except NonFiniteLoss as error:
        return summarize(setting, folder, None, str(error))
    figures = meta_test(setting, state, keys)
    leave(setting, folder, before, state, keys)
    return summarize(setting, folder, figures, None)


def keys_of(seed: int):
    """A run's keys, [5]: to start λ and w, the learner's, the tasks', to validate, to test."""
    return jax.random.split(jax.random.key(seed), 5)


def meta_train(setting: Setting, learner: hd.Learner, keys, training: Callable):
    """(λ before, what `training` returns), of one run or of several in one program.

    Args:
      keys: [5] of one run, [5, runs] of several, whose setting and learner are those of all.
      training: `hdistill.training.run`, or one like it, with its folder.
    """
    init_key, state_key, train_key, validation_key, _ = keys
    hparams, weights = setting.start(init_key)

    def validate(m, state):
        if not setting.validates_after(m):
            return {}
        figures = setting.evaluate(state.hparams, state.weights, validation_key, "validation")
        return {f"validation_{setting.metric}": np.asarray(figures, float).mean(-1).tolist()}

    return hparams, training(
        learner.step,
        learner.init(state_key, hparams, weights),
        lambda m: setting.tasks(train_key, m),
        total=setting.inner_optimisations,
        validate=validate,
        unit="inner optimisation",
    )


def meta_test(setting: Setting, state, keys) -> np.ndarray:
    """The metric of each test task, [tasks] or [runs, tasks]."""
    return np.asarray(setting.evaluate(state.hparams, state.weights, keys[4], "test"), float)


def leave(setting: Setting, folder: RunFolder, before, state, keys) -> None:
    """Writes what plots need of a run's end."""
    for name, content in setting.leave(before, state, keys[4]).items():
        folder.write(name, json.dumps(content))


def summarize(setting: Setting, folder: RunFolder, test, diverged: str | None) -> dict:
    """Ends a run by its figures of the meta-test, or by why there are none."""
    if diverged is None and not np.isfinite(test).all():
        diverged = f"the meta-test's {setting.metric} is not finite"
    figures = _figures(setting, None if diverged else test, folder)
    return folder.finish(figures | {"diverged": diverged})


def _figures(setting: Setting, test, folder: RunFolder) -> dict:
    """A run's figures for its summary; None where there are none."""
    validation, lost = f"validation_{setting.metric}", test is None
    return {
        f"test_{setting.metric}": None if lost else float(test.mean()),
        f"test_{setting.metric}_spread": None if lost else float(test.std(ddof=1)),
        validation: None if lost else folder.rows[-1][validation],
    } | spent(folder.rows)


def open_run(protocol: dict, method: Method, seed: int, out: pathlib.Path, how: dict):
    """The folder of a run of a method, its configuration written."""
    config = protocol | {
        "numerics": numerics(),
        "method": method.name,
        "title": method.label,
        "arguments": method.arguments,
        "seed": seed,
    }
    return shared_folder(out / method.folder / f"seed-{seed}", config, **how)


def numerics() -> dict:
    """Lists JAX's settings that decide a result, for config.json."""
    names = "jax_enable_x64", "jax_default_matmul_precision"
    return {name: getattr(jax.config, name) for name in names}


def spent(rows: list[dict]) -> dict:
    """Products for each task, seconds in all (compilation included), and of the median step."""
    seconds = [row["seconds"] for row in rows]
    return {
        "inner_optimisations_done": len(rows),
        "products": sum(row["products"] for row in rows),
        "seconds": sum(seconds),
        "seconds_each": float(np.median(seconds)) if seconds else None,
    }


def check_protocol(protocol: dict, configs) -> None:
    """Runs whose config.json is given are of the same protocol: one table holds them all."""
    expected = json.loads(json.dumps(protocol))
    for file in configs:
        if not (file.parent / "made.json").exists():  # not a run's
            continue
        differing = differences(read_json(file) or {}, expected, expected)
        if differing:
            raise ValueError(
                f"{file.parent} holds a run under another protocol ({differing}): expected another "
                "--out"
            )


def tell(folder: RunFolder, figure: str) -> None:
    """One line about a run that has ended."""
    summary, config = folder.summary, folder.config
    if summary is None:  # process 0 tells
        return
    result = summary["diverged"] or f"{figure} {summary[figure]:.3f}"
    print(f"{config['title']}, seed {config['seed']}: {result}", file=sys.stderr)
