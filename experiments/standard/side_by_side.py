"""All seeds of a method in one program, for an accelerator."""

import contextlib
import functools
import json
import pathlib
import shutil
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from experiments.methods import Method
from experiments.run.images import weighting
from experiments.run.lanes import (
    Trained,
    lane_of,
    lanes_of,
    stack,
    step_of_all,
    train_lanes,
    unfinished,
    write_rows,
)
from experiments.run.study import keys_of, open_run, spent, tell
from experiments.standard.setting import Setting, retrain_folder, stage, tasks_of
from hdistill.training import RunFolder


def run_side_by_side(
    setting: Setting, method: Method, seeds: Iterable[int], out: pathlib.Path, how: dict
) -> None:
    """Runs those that have not ended as `run` does one by one: same keys, same draws.

    The program has checkpoints in a folder of its own, OUT/together-METHOD, while it lasts.
    """
    runs = {f"{method.folder}/seed-{seed}": seed for seed in seeds}
    asked = unfinished(runs, out, how)
    if not asked:
        return
    path = out / f"together-{method.folder}"
    names = lanes_of(path, list(runs), asked, how)
    with contextlib.ExitStack() as opened:
        folders = {
            name: opened.enter_context(open_run(setting.protocol, method, runs[name], out, how))
            for name in asked
        }
        folder = RunFolder(path, setting.protocol | {"lanes": names}, **how)
        retrain = retrain_folder(opened.enter_context(folder))
        both = folder, opened.enter_context(retrain)
        first, *stages = _train(setting, method, [runs[name] for name in names], both)
        measure = jax.vmap(setting.accuracy)
        figures = [measure(x.state.weights, x.state.hparams) for x in stages[::-1]]
        for i, name in enumerate(names):
            if name in folders:
                _end(setting, folders[name], first, stages, figures, i)
    shutil.rmtree(path)


def _train(setting: Setting, method: Method, seeds: list[int], folders):
    """(λ before, what is left of the stage that learns λ, and of the retraining)."""
    keys = [keys_of(seed) for seed in seeds]
    first, weights = zip(*(setting.start(key[0]) for key in keys))
    tasks = zip(*(tasks_of(setting, key[1], key[2]) for key in keys))
    streams, labels = setting.stages(method), ("λ", "retraining")
    found, left = list(first), list[Trained]()
    for i, (stream, task, label) in enumerate(zip(streams, tasks, labels)):
        each = zip([key[3 + i] for key in keys], found, weights, task)
        state = stack([stream.init(*start) for start in each])
        together = jax.tree.map(lambda *x: jnp.stack(x), *task)
        step = step_of_all(stream.step, state, 0)
        training = functools.partial(train_lanes, folder=folders[i], label=label)
        left.append(stage(setting, step, state, together, training, jax.vmap(setting.accuracy)))
        # A run that is lost goes on from the λ it began with: nothing is made of it.
        found = [
            start if lost else lane_of(left[0].state.hparams, j)
            for j, (start, lost) in enumerate(zip(first, left[0].diverged))
        ]
    return first, *left


def _end(setting: Setting, folder: RunFolder, first, stages: list[Trained], figures, i):
    """Writes what one of the runs leaves."""
    lost = next((x.diverged[i] for x in stages if x.diverged[i]), None)
    write_rows(folder, stages[0].rows[i])
    with retrain_folder(folder) as retrain:
        write_rows(retrain, stages[1].rows[i])
        if lost is None:
            retrain.finish(spent(retrain.rows))
            curves = weighting(setting.model, first[i], lane_of(stages[1].state.hparams, i))
            folder.write("weighting.json", json.dumps(curves))
    names = "test_accuracy", "first_stage_accuracy"
    summary = {name: None if lost else float(of[i]) for name, of in zip(names, figures)}
    folder.finish(summary | {"diverged": lost} | spent(folder.rows))
    tell(folder, "test_accuracy")
