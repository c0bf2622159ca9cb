"""Runs of one method side by side: all its rates and seeds in one program, for an accelerator."""

import contextlib
import functools
import itertools
import pathlib
import shutil
from collections.abc import Iterable

import jax
import jax.numpy as jnp

import hdistill as hd
from experiments.methods import Method
from experiments.run.lanes import (
    lane_of,
    lanes_of,
    stack,
    step_of_all,
    train_lanes,
    unfinished,
    write_rows,
)
from experiments.run.study import (
    Setting,
    check_protocol,
    keys_of,
    leave,
    meta_test,
    meta_train,
    open_run,
    summarize,
    tell,
)
from hdistill.training import RunFolder


def run_side_by_side(
    setting: Setting, methods: list[Method], seeds: Iterable[int], out: pathlib.Path, how: dict
) -> None:
    """Runs those that have not ended as `run_method` does one by one: same keys, same draws.

    Methods that differ in λ's rate only are one program, which has checkpoints in a folder of its
    own, OUT/together-METHOD, while it lasts.
    """
    check_protocol(setting.protocol, out.glob("*/seed-*/config.json"))
    seeds = list(seeds)
    for together in _alike(methods):
        runs = {f"{m.folder}/seed-{s}": (m, s) for m, s in itertools.product(together, seeds)}
        asked = unfinished(runs, out, how)
        if asked:
            _run(setting, runs, asked, out, how)


def _alike(methods: list[Method]) -> list[list[Method]]:
    """Those together that differ in λ's rate only."""
    groups: dict[str, list[Method]] = {}
    for method in methods:
        arguments = method.adapted({"hyper_rate": None}).arguments
        groups.setdefault(f"{method.name} {arguments}", []).append(method)
    return list(groups.values())


def _run(setting: Setting, runs: dict[str, tuple[Method, int]], asked: list[str], out, how) -> None:
    method = next(iter(runs.values()))[0]
    fixed = [name for name in method.varied if name != "hyper_rate"]
    path = out / f"together-{method._replace(varied=tuple(fixed)).folder}"
    names = lanes_of(path, list(runs), asked, how)
    with contextlib.ExitStack() as opened:
        folders = {
            name: opened.enter_context(open_run(setting.protocol, *runs[name], out, how))
            for name in asked
        }
        config = setting.protocol | {"lanes": names}
        folder = opened.enter_context(RunFolder(path, config, **how))
        keys = jnp.stack([keys_of(runs[name][1]) for name in names], 1)
        rates = [runs[name][0].arguments["hyper_rate"] for name in names]
        several = setting_of_all(setting, len(names))
        training = functools.partial(train_lanes, folder=folder, label=method.name)
        learner = _learner_of_all(setting, method, rates)
        before, trained = meta_train(several, learner, keys, training)
        tested = meta_test(several, trained.state, keys)
        for i, name in enumerate(names):
            if name in folders:
                lost = trained.diverged[i]
                write_rows(folders[name], trained.rows[i])
                state = lane_of(trained.state._replace(done=None), i)
                if lost is None:
                    leave(setting, folders[name], lane_of(before, i), state, keys[:, i])
                summarize(setting, folders[name], tested[i], lost)
                tell(folders[name], f"test_{setting.metric}")
    shutil.rmtree(path)


def setting_of_all(setting: Setting, count: int) -> Setting:
    """The setting of several runs: what it gives and takes has a leading axis of runs."""

    def evaluate(hparams, weights, keys, part):
        measure = jax.vmap(lambda *each: setting.evaluate(*each, part))
        return measure(hparams, weights, keys)

    def start(keys):
        starts = [setting.start(keys[i]) for i in range(count)]
        return jax.tree.map(lambda *x: jnp.stack(x), *starts)

    tasks = jax.vmap(setting.tasks, (0, None))
    return setting._replace(start=start, tasks=tasks, evaluate=evaluate)


def _learner_of_all(setting: Setting, method: Method, rates: list[float]) -> hd.Learner:
    """The learners of runs that differ in λ's rate and in their keys, as one."""
    learner, step = setting.learner(method), None

    def one(state, tasks, rate):
        return setting.learner(method.adapted({"hyper_rate": rate})).pure_step(state, tasks)

    def init(keys, hparams, weights):
        each = [lane_of((keys, hparams, weights), i) for i in range(len(rates))]
        return stack([learner.init(*start) for start in each])

    def step_of_rates(state, tasks):
        nonlocal step
        step = step or step_of_all(one, state, 0, 0)
        return step(state, tasks, jnp.array(rates))

    return learner._replace(init=init, step=step_of_rates)
