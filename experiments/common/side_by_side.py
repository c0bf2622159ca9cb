"""Runs of one method side by side: all its rates and seeds in one program, for an accelerator."""

import contextlib
import itertools
import json
import pathlib
import time
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.common.methods import Method
from experiments.common.study import Setting, check_protocol, open_run, summarize, tell
from hdistill.training import RunFolder
from hdistill.training.loop import figures


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

    starts = [setting.start(key) for key in init_keys]
    step, state = _program(setting, method, state_keys, starts)

    def evaluate(keys, part):
        measure = jax.vmap(lambda *each: setting.evaluate(*each, part))
        return np.asarray(measure(state.hparams, state.weights, keys), float)

    for lane in lanes:  # rows that a killed program left go
        if lane.folder.restore(state)[0]:
            raise ValueError(
                f"{lane.folder.path} has a checkpoint: expected one run at a time there"
            )
    diverged: dict[int, str] = {}
    for m in tqdm(range(1, setting.inner_optimisations + 1), method.name, leave=False):
        tasks = jax.vmap(lambda key: setting.tasks(jax.random.fold_in(key, m)))(train_keys)
        start = time.perf_counter()
        state, info = step(rates, state, tasks)
        info = jax.device_get(info)
        seconds = (time.perf_counter() - start) / len(lanes)
        due = setting.validates_after(m)
        validated = evaluate(validation_keys, "validation").mean(1) if due else []
        for i, lane in enumerate(lanes):
            if not np.isfinite(info.outer_loss[i]).all():
                diverged.setdefault(i, f"outer loss is not finite in inner optimisation {m}")
            if i in diverged:
                continue
            row = {"step": m, "seconds": seconds} | figures(_of(info, i))
            if due:
                row[f"validation_{setting.metric}"] = float(validated[i])
            lane.folder.log(row)
    tested = evaluate(test_keys, "test")
    for i, lane in enumerate(lanes):
        if i not in diverged:
            left = setting.leave(starts[i][0], _of(state._replace(done=None), i), test_keys[i])
            for name, content in left.items():
                lane.folder.write(name, json.dumps(content))
        summarize(setting, lane.folder, tested[i], diverged.get(i))
        tell(lane.folder, f"test_{setting.metric}")


def _program(setting: Setting, method: Method, keys, starts):
    """(step of all the runs, their states stacked); the step takes λ's rates first."""

    def one(rate, state, tasks):
        return setting.learner(method.adapted({"hyper_rate": rate})).pure_step(state, tasks)

    learner = setting.learner(method)
    states = [learner.init(key, *start) for key, start in zip(keys, starts)]
    # `done` stays one number, so that θ is fitted when it is due and not at every step.
    axes = jax.tree.map(lambda _: 0, states[0])._replace(done=None)
    state = jax.tree.map(lambda *x: jnp.stack(x), *states)._replace(done=states[0].done)
    return jax.jit(jax.vmap(one, (0, axes, 0), (axes, 0)), donate_argnums=1), state


def _of(tree, i: int):
    return jax.tree.map(lambda x: x[i], tree)
