"""Runs of one method side by side: all its rates and seeds in one program, for an accelerator."""

import contextlib
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.methods import Method
from experiments.run.study import Setting, check_protocol, open_run, summarize, tell
from hdistill.progress import progress
from hdistill.training import RunFolder
from hdistill.training.run import figures
from hdistill.tree import is_real


class Lane(NamedTuple):
    """One of the runs."""

    method: Method
    seed: int
    folder: RunFolder


def run_side_by_side(
    setting: Setting, methods: list[Method], seeds: Iterable[int], out: pathlib.Path, how: dict
) -> None:
    """Runs those that have not ended as `run_method` does one by one: same keys, same draws.

    Methods that differ in λ's rate alone are one program. Its runs have no checkpoints: killed, all
    of them begin anew. A row's seconds are the program's, divided by its runs.
    """
    check_protocol(setting.protocol, out.glob("*/seed-*/config.json"))
    for together in _alike(methods):
        with contextlib.ExitStack() as stack:
            lanes = []
            for method, seed in itertools.product(together, seeds):
                check_alone(out / method.folder / f"seed-{seed}", how)
                folder = stack.enter_context(open_run(setting.protocol, method, seed, out, how))
                if folder.summary is None:
                    lanes.append(Lane(method, seed, folder))
            if lanes:
                _run(setting, lanes)


def _alike(methods: list[Method]) -> list[list[Method]]:
    """Those together that differ in λ's rate alone."""
    groups: dict[str, list[Method]] = {}
    for method in methods:
        arguments = method.adapted({"hyper_rate": None}).arguments
        groups.setdefault(f"{method.name} {arguments}", []).append(method)
    return list(groups.values())


def _run(setting: Setting, lanes: list[Lane]) -> None:
    keys = jnp.stack([jax.random.split(jax.random.key(lane.seed), 5) for lane in lanes], 1)
    init_keys, state_keys, train_keys, validation_keys, test_keys = keys
    method = lanes[0].method
    rates = jnp.array([lane.method.arguments["hyper_rate"] for lane in lanes])

    def one(state, tasks, rate):
        return setting.learner(method.adapted({"hyper_rate": rate})).pure_step(state, tasks)

    learner = setting.learner(method)
    starts = [setting.start(key) for key in init_keys]
    states = [learner.init(key, *start) for key, start in zip(state_keys, starts)]
    step, state = stacked(one, states, 0, 0)

    def tasks_at(m):
        return jax.vmap(lambda key: setting.tasks(jax.random.fold_in(key, m)))(train_keys)

    def evaluate(state, keys, part):
        measure = jax.vmap(lambda *each: setting.evaluate(*each, part))
        return np.asarray(measure(state.hparams, state.weights, keys), float)

    def validate(m, state):
        if not setting.validates_after(m):
            return {}
        figures = evaluate(state, validation_keys, "validation").mean(1)
        return {f"validation_{setting.metric}": figures}

    diverged: dict[int, str] = {}
    state = train_together(
        lambda state, tasks: step(state, tasks, rates),
        state,
        tasks_at,
        total=setting.inner_optimisations,
        folders=[lane.folder for lane in lanes],
        diverged=diverged,
        validate=validate,
        unit="inner optimisation",
        label=method.name,
    )
    tested = evaluate(state, test_keys, "test")
    for i, lane in enumerate(lanes):
        if i not in diverged:
            left = setting.leave(starts[i][0], lane_of(state._replace(done=None), i), test_keys[i])
            for name, content in left.items():
                lane.folder.write(name, json.dumps(content))
        summarize(setting, lane.folder, tested[i], diverged.get(i))
        tell(lane.folder, f"test_{setting.metric}")


def stacked(step: Callable, states: list, *axes):
    """(step of all the runs in one program, their states stacked).

    Args:
      step: (state, ...) -> (state, info) of one run.
      states: each run's.
      axes: of the step's other arguments, as `jax.vmap` has them.
    """
    # `done` stays one number, so that θ is fitted when it is due and not at every step.
    state_axes = jax.tree.map(lambda _: 0, states[0])._replace(done=None)
    state = jax.tree.map(lambda *x: jnp.stack(x), *states)._replace(done=states[0].done)
    together = jax.vmap(step, (state_axes, *axes), (state_axes, 0))
    return jax.jit(together, donate_argnums=0), state


def train_together(
    step: Callable,
    state,
    tasks_at: Callable,
    *,
    total: int,
    folders: list[RunFolder],
    diverged: dict[int, str],
    validate: Callable,
    unit: str,
    label: str,
):
    """`training.run` of all the runs at once, without checkpoints; the states after it, stacked.

    Args:
      step: (state, tasks) -> (state, info), a leading axis of runs.
      tasks_at: m -> the tasks of all of them.
      folders: theirs; a run that diverged gets no more rows.
      diverged: why, by the run's number; those that diverge now are added.
      validate: (m, state) -> {name: a figure of each}.
    """
    for folder in folders:  # rows that a killed program left go
        folder.restore(state)
    for m in progress(range(1, total + 1), label):
        tasks = tasks_at(m)
        start = time.perf_counter()
        state, info = step(state, tasks)
        info = jax.device_get(info)
        seconds = (time.perf_counter() - start) / len(folders)
        validated = validate(m, state)
        for i, folder in enumerate(folders):
            if not np.isfinite(info.outer_loss[i]).all():
                diverged.setdefault(i, f"outer loss is not finite in {unit} {m}")
            if i not in diverged:
                row = {"step": m, "seconds": seconds} | figures(lane_of(info, i))
                folder.log(row | {name: float(each[i]) for name, each in validated.items()})
    last = jax.device_get((state.hparams, state.weights))
    for i in range(len(folders)):  # λ moves after the last loss is taken
        if not all(np.isfinite(x[i]).all() for x in jax.tree.leaves(last) if is_real(x)):
            diverged.setdefault(i, f"state is not finite after {unit} {total}")
    return state


def check_alone(path: pathlib.Path, how: dict) -> None:
    """Raises ValueError where a run would be resumed that was begun by itself, with checkpoints."""
    ended = (path / "summary.json").exists()
    if any(how.values()) and not ended and any(path.glob("**/checkpoints/*")):
        raise ValueError(f"{path} has a checkpoint: expected one run at a time there")


def lane_of(tree, i: int):
    """The i-th run's part of what is stacked."""
    return jax.tree.map(lambda x: x[i], tree)
