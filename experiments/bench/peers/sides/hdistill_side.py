"""hdistill, images over a CPU's cores as the study of images has them."""

import functools
import math
import os

import jax
import jax.numpy as jnp
import optax
from jax_model import losses
from serve import leaves_of, serve

import hdistill as hd
from hdistill.models.conv import conv3x3


def make(problem, method, settings, arrays):
    """One program, the tasks side by side."""
    optimizer = optax.sgd(settings["rate"], momentum=settings["momentum"] or None)
    phi = hd.from_losses(*losses(problem, conv3x3), optimizer)
    lam, w = leaves_of(arrays, "lam"), leaves_of(arrays, "w")
    weights = hd.InnerState(w, optimizer.init(w))
    tasks = tuple((arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in ("inner", "outer"))
    count = math.gcd(len(arrays["inner_x"]), jax.device_count()) if problem == "conv" else 1
    devices = jax.devices()[:count] if count > 1 else None
    offline = {"rmd": hd.offline.reverse_mode}
    offline["implicit"] = functools.partial(hd.offline.implicit, solver="cg", terms=200)
    if method in offline:
        mean = hypergradient(phi, offline[method], settings["horizon"])
        return functools.partial(over(devices, mean), lam, weights, tasks)
    if method == "hyperdistill":
        estimator = hd.online.hyperdistill(phi, gamma=0.9)
        tasks = jax.tree.map(lambda x: x[:1], tasks)  # gradhpo's run has one task
    else:
        estimator = hd.online.one_step(phi)
    learner = hd.learner(
        phi,
        estimator,
        hyper_optimizer=optax.sgd(settings["hyper_rate"]),
        horizon=settings["horizon"],
        sample_inner=lambda key, task: task[0],
        sample_outer=lambda key, task: task[1],
    )
    state = learner.init(jax.random.key(0), lam, weights)
    if method == "hyperdistill":
        return ten_times(learner, state, tasks)
    if devices is not None:
        spread, like = hd.pmap_step(learner, devices), functools.partial(jax.tree.map, jnp.copy)
        return lambda: spread(like(state), tasks)[0].hparams
    step = jax.jit(lambda state: learner.pure_step(state, tasks)[0].hparams)
    return lambda: step(state)


def hypergradient(phi, method, horizon):
    """(λ, w_0, tasks) -> the mean hypergradient of the tasks, in one pass over all."""
    together = hd.meta_problem(phi)

    def mean(lam, weights, tasks):
        inner, outer = tasks
        count = len(inner[0])
        starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), weights)
        return method(together, lam, starts, lambda t: inner, outer, horizon=horizon).total

    return jax.jit(mean)


def over(devices, mean):
    """The same with the tasks split over devices."""
    if devices is None:
        return mean
    mapped = jax.pmap(
        lambda *given: jax.lax.pmean(mean(*given), "tasks"),
        "tasks",
        in_axes=(None, None, 0),
        out_axes=None,
        devices=devices,
    )

    def split(lam, weights, tasks):
        parts = jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), tasks)
        return mapped(lam, weights, parts)

    return split


def ten_times(learner, state, tasks):
    """Ten inner optimisations, one after the other; the state is not donated."""
    step = jax.jit(learner.pure_step)

    def call():
        after = state
        for _ in range(10):
            after, _ = step(after, tasks)
        return after.hparams

    return call


jax.config.update("jax_num_cpu_devices", os.cpu_count())
serve(make)
