"""All seeds of a method in one program, for an accelerator."""

import contextlib
import json
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.draw.runs import spent
from experiments.methods import Method
from experiments.run.images import weighting
from experiments.run.side_by_side import check_alone, lane_of, stacked, train_together
from experiments.run.study import open_run, tell
from experiments.standard.setting import Setting, corrupt, halves
from hdistill.training import RunFolder


class Lane(NamedTuple):
    """One of the runs: its seed and the folders of its two stages."""

    seed: int
    folder: RunFolder
    retrain: RunFolder


def run_side_by_side(
    setting: Setting, method: Method, seeds: Iterable[int], out: pathlib.Path, how: dict
) -> None:
    """Runs those that have not ended as `run` does one by one: same keys, same draws.

    They have no checkpoints: killed, all of them begin anew. A row's seconds are the program's,
    divided by its runs.
    """
    with contextlib.ExitStack() as stack:
        lanes = []
        for seed in seeds:
            check_alone(out / method.folder / f"seed-{seed}", how)
            folder = stack.enter_context(open_run(setting.protocol, method, seed, out, how))
            if folder.summary is None:
                again = RunFolder(folder.claim("retrain"), folder.config | {"stage": "retraining"})
                lanes.append(Lane(seed, folder, stack.enter_context(again)))
        if lanes:
            _run(setting, method, lanes)


def _run(setting: Setting, method: Method, lanes: list[Lane]) -> None:
    init_keys, corrupt_keys, half_keys, *stage_keys = jnp.stack(
        [jax.random.split(jax.random.key(lane.seed), 5) for lane in lanes], 1
    )
    clean, (learning, retraining) = setting.train, setting.stages(method)
    corrupted = [corrupt(key, clean, setting.preset.corruption) for key in corrupt_keys]
    first, weights = zip(*map(setting.start, init_keys))
    diverged: dict[int, str] = {}

    tasks = [halves(key, each, clean) for key, each in zip(half_keys, corrupted)]
    states = map(learning.init, stage_keys[0], first, weights, tasks)
    folders = [lane.folder for lane in lanes]
    learnt = _stage(setting, learning, list(states), tasks, folders, diverged, "λ")

    # A run that is lost goes on from the λ it began with: nothing is made of it.
    found = [
        start if i in diverged else lane_of(learnt.hparams, i) for i, start in enumerate(first)
    ]
    tasks = [(each, clean) for each in corrupted]
    states = map(retraining.init, stage_keys[1], found, weights, tasks)
    folders = [lane.retrain for lane in lanes]
    ended = _stage(setting, retraining, list(states), tasks, folders, diverged, "retraining")

    names = "test_accuracy", "first_stage_accuracy"
    measure = jax.vmap(setting.accuracy)
    measured = [measure(state.weights, state.hparams) for state in (ended, learnt)]
    for i, lane in enumerate(lanes):
        lost = diverged.get(i)
        if lost is None:
            curves = weighting(setting.model, first[i], lane_of(ended.hparams, i))
            lane.folder.write("weighting.json", json.dumps(curves))
            lane.retrain.finish(spent(lane.retrain.rows))
        summary = {name: None if lost else float(of[i]) for name, of in zip(names, measured)}
        lane.folder.finish(summary | {"diverged": lost} | spent(lane.folder.rows))
        tell(lane.folder, "test_accuracy")


def _stage(setting: Setting, stream, states: list, tasks: list, folders, diverged, label: str):
    """The states after one of the two streams, stacked."""
    preset = setting.preset
    total = preset.steps // preset.stretch
    step, state = stacked(stream.step, states, 0)
    together = jax.tree.map(lambda *x: jnp.stack(x), *tasks)
    measure = jax.vmap(setting.accuracy)

    def validate(m, state):
        if m % preset.validate_every and m != total:
            return {}
        return {"accuracy": measure(state.weights, state.hparams)}

    return train_together(
        step,
        state,
        lambda m: together,
        total=total,
        folders=folders,
        diverged=diverged,
        validate=validate,
        unit=f"stretch ({label})",
        label=label,
    )
