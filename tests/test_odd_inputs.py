"""Odd inputs, none silent, none obscure: an error or a warning names argument and expectation.

Each row is (call, words that the message has, in order). A call that compiles anything would be
too late, so that the whole table takes seconds.
"""

import decimal
import functools
import pathlib
import re
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import hdistill as hd
from hdistill import training
from hdistill.data.augment import draw_batch
from hdistill.data.pool import Examples, Pool, sample_task
from hdistill.data.sinusoid import sample_tasks
from hdistill.models.anil import Anil
from hdistill.models.metaweightnet import MetaWeightNet
from hdistill.models.warpgrad import WarpGrad
from tests.problems import quadratic

CASE = quadratic("sgd", horizon=4)
PROBLEM, HPARAMS, WEIGHTS, BATCHES, OUTER = CASE
TASKS = tuple(jnp.stack([x] * 2) for x in (BATCHES[0], OUTER))
KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
NAN = float("nan")
ROWS: dict[str, tuple] = {}


def row(name: str, call, *words: str) -> None:
    ROWS[name if name not in ROWS else f"{name}, {len(ROWS)}"] = call, words


def bad_values(name: str, call, values, *words: str) -> None:
    """One row for each value of an argument; the message has the value and the words."""
    for i, value in enumerate(values):
        row(f"{name} {i}", functools.partial(call, value), f"{name}=", *words)


def learner(estimator=None, problem=PROBLEM, **arguments):
    estimator = hd.online.one_step(PROBLEM) if estimator is None else estimator
    given = {"hyper_optimizer": SGD, "horizon": 4} | arguments
    return hd.learner(problem, estimator, **given)


def stream(estimator=None, problem=PROBLEM, **arguments):
    estimator = hd.online.one_step(PROBLEM) if estimator is None else estimator
    given = {"hyper_optimizer": SGD, "steps": 4} | arguments
    return hd.stream(problem, estimator, **given)


def start(built, hparams=HPARAMS, weights=WEIGHTS, key=KEY):
    return built.init(key, hparams, weights)


def drmad(problem=PROBLEM, hparams=HPARAMS, weights=WEIGHTS, batches=BATCHES, outer=OUTER, **more):
    return hd.offline.drmad(problem, hparams, weights, batches, outer, **more)


COUNTS = [0, -3, 1.5, True, "4", NAN, 2**31, np.ones(2)]
NO_OPTIMIZER = [0.1, None, "sgd", optax.sgd]
MULTI = optax.MultiSteps(SGD, 2)

bad_values("anchors", lambda v: drmad(anchors=v), [*COUNTS, 5], "whole number|at most")
bad_values("every", lambda v: drmad(every=v), [*COUNTS, 5], "whole number|at most")
row("every, one outer batch", lambda: drmad(every=2, outer=OUTER[:1]), "outer_batch", "expected 2")
bad_values(
    "mixing",
    lambda v: hd.online.hyperdistill(PROBLEM, mixing=v),
    [None, "places", True],
    "one of ['aligned', 'apart']",
)

# hd.learner and hd.stream
for name in ("horizon", "every", "last", "fit_period"):
    bad_values(name, lambda v, n=name: learner(**{n: v}), COUNTS, "whole number|at most 2147483647")
bad_values("steps", lambda v: stream(steps=v), COUNTS, "whole number|at most 2147483647")
row("stream every", lambda: stream(every=3), "every=3", "divisor of steps=4")
bad_values("hyper_optimizer", lambda v: learner(hyper_optimizer=v), NO_OPTIMIZER, "optax transf")
row("uncalled", lambda: learner(hyper_optimizer=optax.sgd), "hyper_optimizer=", "call it")
row("MultiSteps λ", lambda: learner(hyper_optimizer=MULTI), "gradient_transformation()")
row("stream optimizer", lambda: stream(hyper_optimizer=0.1), "hyper_optimizer=0.1", "optax")
bad_values(
    "initialization",
    lambda v: learner(initialization=v),
    [hd.reptile, 0.5, "reptile", SGD],
    "hd.reptile",
)
bad_values(
    "estimator",
    lambda v: hd.learner(PROBLEM, v, hyper_optimizer=SGD, horizon=4),
    ["hyperdistill", hd.online.one_step, None, 3, (hd.offline.drmad,)],
    "hd.online.NAME",
)
for name, value in (("horizon", 3), ("return_info", True), ("every", 2)):
    partial = functools.partial(hd.offline.drmad, **{name: value})
    row(f"partial {name}", lambda p=partial: learner(p), "estimator=", name, "learner sets itself")
row("offline every", lambda: learner(hd.offline.one_step, every=2), "every=2", "offline")
row("offline last", lambda: learner(hd.offline.drmad, last=2), "last=2", "offline")
row("never moves", lambda: learner(every=3, last=1), "every=3, last=1", "never move")
row("every too large", lambda: learner(every=5), "every=5", "never move", "horizon=4")
row("stream of an offline method", lambda: stream(hd.offline.drmad), "estimator=", "no end")
bad_values("nonfinite", lambda v: learner(nonfinite=v), ["drop", None, True], "keep")
bad_values("problem", lambda v: learner(problem=v), [None, "p", (1, 2)], "hd.Problem(update")
row("half a problem", lambda: learner(problem=hd.Problem(None, max)), "problem=", "update")
SAMPLERS = [None, 3, lambda key: 0, lambda a, b, c, d: 0, lambda key, task, *, t: 0]
bad_values("sample_inner", lambda v: learner(sample_inner=v), SAMPLERS, "(key, task)", "t)")
bad_values("sample_outer", lambda v: learner(sample_outer=v), SAMPLERS, "(key, task)")

SCHEDULES = [lambda: True, lambda m, n: True]
bad_values("fit_period", lambda v: learner(fit_period=v), SCHEDULES, "(m)")
row("unroll as estimator", lambda: learner(hd.unroll), "estimator=", "hd.offline")
row("fit_size as estimator", lambda: learner(hd.fit_size), "estimator=", "hd.offline")
row("max as estimator", lambda: learner(max), "estimator=", "hd.offline")

# their init
KEYS = [0, np.zeros(2, np.uint32), "seed", None, jax.random.split(KEY)]
for i, key in enumerate(KEYS):
    row(f"learner key {i}", lambda k=key: start(learner(), key=k), "key=", "typed key")
    row(f"fit_size key {i}", lambda k=key: hd.fit_size(*CASE, k), "key=", "typed key")
ODD_HPARAMS = {
    "int": (jnp.arange(3), "int64", "floating point"),
    "bool": (jnp.ones(3, bool), "bool", "floating point"),
    "complex": (jnp.ones(3, complex), "complex", "floating point"),
    "str": ({"a": "x"}, "hparams['a'] is a str", "expected an array"),
    "function": ({"a": jnp.tanh}, "hparams['a'] is a", "eqx.partition"),
    "none": (None, "hparams=None", "at least one"),
    "empty": ({}, "hparams={}", "at least one"),
    "no entries": (jnp.ones((0, 3)), "hparams=", "at least one"),
    "objects": (np.array([None]), "hparams has dtype object", "numbers"),
}
for name, (value, *words) in ODD_HPARAMS.items():
    row(f"learner hparams {name}", lambda v=value: start(learner(), v), *words)
    row(f"offline hparams {name}", lambda v=value: drmad(hparams=v), *words)
row("nan in λ", lambda: start(learner(), jnp.array([1.0, NAN, 0.0])), "hparams=", "finite")
row("inf in λ", lambda: start(learner(), {"a": jnp.inf}), "hparams['a']=inf", "finite")
ODD_WEIGHTS = {
    "none": (None, "weights=None", "at least one array"),
    "empty": ({}, "weights={}", "at least one array"),
    "function": ({"f": jnp.tanh}, "weights['f'] is a", "eqx.partition"),
    "str": (["x"], "weights[0] is a str", "array"),
}
for name, (value, *words) in ODD_WEIGHTS.items():
    row(f"learner weights {name}", lambda v=value: start(learner(), weights=v), *words)
    row(f"offline weights {name}", lambda v=value: drmad(weights=v), *words)
    row(f"unroll weights {name}", lambda v=value: hd.unroll(PROBLEM, HPARAMS, v, BATCHES), *words)

# their step
ROBUST, HYPERDISTILL = hd.online.robust_hyperdistill(PROBLEM), hd.online.hyperdistill(PROBLEM)


def step(built, state=None, tasks=TASKS):
    return built.step(start(built) if state is None else state, tasks)


def stream_start(built=None):
    return (built or stream()).init(KEY, HPARAMS, WEIGHTS, (BATCHES[0], OUTER))


row("swapped", lambda: learner().step(TASKS, start(learner())), "state is a tuple", "each other")
row("no state", lambda: step(learner(), {}), "state is a dict", "LearnerState")
row("a stream's state", lambda: step(learner(), stream_start()), "StreamState", "LearnerState")
row(
    "a learner's state",
    lambda: stream().step(start(learner()), TASKS),
    "state is a LearnerState",
    "StreamState of init",
)
row(
    "another hyper_optimizer's state",
    lambda: step(learner(), start(learner(hyper_optimizer=optax.adam(0.1)))),
    "state.hyper_state",
    "another optimizer",
)
row(
    "another initialization's state",
    lambda: step(learner(), start(learner(initialization=hd.fomaml(optax.adam(0.1))))),
    "state.initialization_state",
)
row("another estimator's", lambda: step(learner(ROBUST), start(learner())), "state.theta")
row(
    "other hparams",
    lambda: step(learner(), start(learner())._replace(hparams=jnp.ones(2))),
    "state.hparams has shape (2,)",
    "expected shape (3,)",
)
STALE = {
    "hyper_state": (learner(hyper_optimizer=optax.adam(0.1)), ({"a": jnp.ones(3)},)),
    "theta": (learner(HYPERDISTILL), jnp.ones(2)),
    "key": (learner(), np.zeros(2, np.uint32)),
    "done": (learner(), jnp.float32(0)),
}
for name, (built, value) in STALE.items():
    row(
        f"stale {name}",
        lambda b=built, n=name, v=value: step(b, start(b)._replace(**{n: v})),
        f"state.{name}",
        "expected",
    )
ADAM = learner(hyper_optimizer=optax.adam(0.1))
row(
    "another λ's moments",
    lambda: step(
        ADAM, start(ADAM)._replace(hyper_state=start(ADAM, hparams=jnp.ones(2)).hyper_state)
    ),
    "state.hyper_state[0].mu has shape (2,)",
    "expected shape (3,)",
)
row(
    "a stream's raw keys",
    lambda: stream().step(stream_start()._replace(keys=(0, 0)), (BATCHES[0], OUTER)),
    "state.keys[0]",
    "typed key",
)
row("keys as tasks", lambda: step(learner(), tasks=jax.random.split(KEY)), "tasks", "sample_inner")
row(
    "text from sample_inner",
    lambda: step(learner(sample_inner=lambda key, task: "data")),
    "sample_inner(key, task) is a str",
    "array",
)
for value in (None, 1, jnp.ones(2, bool)):
    built = learner(HYPERDISTILL, fit_period=lambda m, v=value: v)
    row(f"fit_period returns {value}", lambda b=built: step(b), "fit_period(m) returned", "bool[]")
row(
    "an axis that is not mapped",
    lambda: learner().pure_step(start(learner()), TASKS, "d"),
    "axis_name='d'",
    "jax.pmap",
)
row(
    "dict of tasks",
    lambda: step(learner(), tasks={"a": TASKS[0]}),
    "tasks is a dict",
    "sample_inner",
)
row(
    "one half",
    lambda: step(learner(), tasks=TASKS[:1]),
    "tasks is a tuple",
    "sample_outer",
    "item 1",
)
row(
    "list of tasks",
    lambda: step(learner(), tasks=[TASKS, TASKS]),
    "tasks is a list of 2",
    "jnp.stack",
)
row(
    "uneven tasks", lambda: step(learner(), tasks=(TASKS[0], TASKS[1][:1])), "tasks", "leading axis"
)
row("no tasks", lambda: step(learner(), tasks=None), "tasks", "leading axis")
row("a scalar task", lambda: step(learner(), tasks=jnp.ones(())), "tasks", "leading axis")
row("no task", lambda: step(learner(), tasks=tuple(x[:0] for x in TASKS)), "meta-batch", ">= 1")
EMPTY = jnp.ones((2, 0, 4))
row(
    "empty inner",
    lambda: step(learner(), tasks=(EMPTY, TASKS[1])),
    "batch has shape (0, 4)",
    "example",
)
row("empty outer", lambda: step(learner(), tasks=(TASKS[0], EMPTY)), "outer_batch has shape (0, 4)")
row(
    "λ's optimizer wants values",
    lambda: step(learner(hyper_optimizer=optax.polyak_sgd(1.0))),
    "hyper_optimizer=",
    "'value'",
)
row(
    "φ's optimizer wants values",
    lambda: step(learner(initialization=hd.fomaml(optax.polyak_sgd(1.0)))),
    "initialization=",
    "'value'",
)
row(
    "fits nothing",
    lambda: stream().fit(stream_start(), BATCHES, OUTER),
    "stream.fit",
    "size to fit",
)

# Rules for φ, devices
RATES = [0, -1.0, NAN, "a", None, True]
bad_values("learning_rate", hd.reptile, RATES, "finite number > 0")
bad_values("optimizer", hd.fomaml, RATES, "finite number > 0")
row("fomaml uncalled", lambda: hd.fomaml(optax.sgd), "optimizer=", "call it")
row("fomaml MultiSteps", lambda: hd.fomaml(MULTI), "gradient_transformation()")
bad_values(
    "devices", lambda v: hd.pmap_step(learner(), v), ["cpu", [], ["cpu"], 2, {}], "jax.devices()"
)
TWICE = [jax.devices()[0]] * 2
row("a device twice", lambda: hd.pmap_step(learner(), TWICE), "devices=", "each device once")
row("pmap of no learner", lambda: hd.pmap_step(PROBLEM), "learner=", "hd.learner")
row("uneven devices", lambda: hd.pmap_step(learner())(0, jnp.ones((6, 2))), "6", "4 devices")

# Offline methods
for name in ("first_order", "one_step", "forward_mode", "reverse_mode", "drmad", "implicit"):
    method = getattr(hd.offline, name)
    row(f"{name} problem", lambda m=method: m(None, *CASE[1:]), "problem=None", "hd.Problem")
    row(f"{name} horizon", lambda m=method: m(*CASE, horizon=5), "horizon=5", "leading axis of 4")
    row(f"{name} info", lambda m=method: m(*CASE, return_info="yes"), "return_info='yes'", "True")
    row(f"{name} outer", lambda m=method: m(*CASE[:4], OUTER[:0]), "outer_batch has shape (0, 4)")
bad_values("horizon", lambda v: drmad(batches=None, horizon=v), COUNTS[1:4], "whole number")
MEMORIES = [-0.1, 1.1, NAN, "1"]
bad_values("memory", lambda v: hd.online.robust_hyperdistill(PROBLEM, memory=v), MEMORIES, "[0, 1]")
bad_values("window", lambda v: hd.offline.reverse_mode(*CASE, window=v), COUNTS, "whole|at most")
CHECKPOINTS = ["yes", 1, None, 2.0]
bad_values(
    "checkpoint", lambda v: hd.offline.reverse_mode(*CASE, checkpoint=v), CHECKPOINTS, "True"
)
bad_values("solver", lambda v: hd.offline.implicit(*CASE, solver=v), ["lu", None, 3], "neumann")
bad_values("terms", lambda v: hd.offline.implicit(*CASE, terms=v), [-1, 1.5, "5", None], "whole")
row("cg terms", lambda: hd.offline.implicit(*CASE, solver="cg", terms=0), "terms=0", ">= 1")
row("list of batches", lambda: drmad(batches=list(BATCHES)), "batches is a list of 4", "jnp.stack")
row("list of one", lambda: drmad(batches=[BATCHES[0]]), "batches is a list of 1", "jnp.stack")
row("list of numbers", lambda: drmad(batches=[1.0, 2.0]), "batches is a list of 2", "jnp.stack")
row("generator", lambda: drmad(batches=(x for x in BATCHES)), "batches is a generator", "array")
row("text", lambda: drmad(batches="data"), "batches is a str", "array")
row("strings", lambda: drmad(batches=np.array(["a", "b"])), "batches has dtype <U1", "numbers")
row("a scalar", lambda: drmad(batches=jnp.ones(())), "batches", "leading axis")
row("no step", lambda: drmad(batches=BATCHES[:0]), "leading axis is 0")
row("no example", lambda: drmad(batches=BATCHES[:, :0]), "batch has shape (0, 4)", "one example")
row("uneven", lambda: drmad(batches=(BATCHES, BATCHES[:3])), "batches[0]': 4", "batches[1]': 3")
row("no horizon", lambda: drmad(batches=lambda t: BATCHES[t]), "horizon=None", "horizon=T")
row("no data, no horizon", lambda: drmad(batches=None), "horizon=None", "horizon=T")
row(
    "past the data",
    lambda: drmad(batches=lambda t: BATCHES[t], horizon=6),
    "t = 5",
    "horizon=6",
    "index 5 is out of bounds",
    "size 4",
)
row(
    "past the data in fit_size",
    lambda: hd.fit_size(*CASE[:3], lambda t: BATCHES[t], OUTER, KEY, horizon=5),
    "t = 4",
    "out of bounds",
)
row(
    "past the data in unroll",
    lambda: hd.unroll(*CASE[:3], lambda t: BATCHES[t], horizon=5),
    "t = 4",
    "out of bounds",
)
DATA = np.arange(9.0)
row("NumPy data", lambda: drmad(batches=lambda t: DATA[t], horizon=3), "batches(t)", "jnp arrays")
LONG = 2**31 - 1
row(
    "a horizon that memory does not hold",
    lambda: hd.offline.reverse_mode(*CASE[:3], lambda t: BATCHES[0], OUTER, horizon=LONG),
    "horizon=2147483647",
    "GB",
)
row("a list", lambda: drmad(batches=lambda t: [1.0, 2.0][t], horizon=2), "batches(t)", "jnp arrays")
row("an int", lambda: drmad(batches=lambda t: int(t), horizon=2), "batches(t)", "Python int")
row("outer_batch text", lambda: drmad(outer="data"), "outer_batch is a str", "array")
row("params alone", lambda: drmad(weights=WEIGHTS.params), "weights", "InnerState(params")
row("unroll problem", lambda: hd.unroll(None, HPARAMS, WEIGHTS, BATCHES), "problem=None")
row("unroll horizon", lambda: hd.unroll(*CASE[:4], horizon=3), "horizon=3", "leading axis of 4")

# What Φ and L_val return
ODD_UPDATES = {
    "a Python float": (lambda w, h, d: 0.5, "problem.update", "Python number 0.5", "jnp.asarray"),
    "None": (lambda w, h, d: None, "problem.update", "structure", "expected PyTreeDef"),
    "another structure": (lambda w, h, d: w.params, "problem.update", "structure"),
    "another shape": (
        lambda w, h, d: w._replace(params=w.params[:, None]),
        "problem.update",
        "shape (4, 1)",
        "expected shape (4,)",
    ),
    "another dtype": (
        lambda w, h, d: w._replace(params=w.params.astype(jnp.float32)),
        "float32",
        "expected shape (4,) and dtype float64",
    ),
    "text": (lambda w, h, d: w._replace(params="w"), "problem.update", "is a str"),
}
for name, (update, *words) in ODD_UPDATES.items():
    odd = hd.Problem(update, PROBLEM.outer_loss)
    row(f"Φ returns {name}", lambda p=odd: drmad(p), *words)
    row(f"unrolled Φ returns {name}", lambda p=odd: hd.unroll(p, *CASE[1:4]), *words)
    built = hd.online.one_step(odd)
    row(
        f"the learner's Φ returns {name}",
        lambda p=odd, e=built: step(learner(e, problem=p)),
        *words,
    )
for name, odd in {
    "update": hd.Problem(lambda w, h: w, PROBLEM.outer_loss),
    "outer_loss": hd.Problem(PROBLEM.update, lambda w: w),
}.items():
    row(f"arguments of {name}", lambda p=odd: drmad(p), f"problem.{name}=", "(weights, hparams, b")
MISTAKEN = {
    "a tuple of T batches": lambda: drmad(batches=tuple(BATCHES)),
    "no outer batch": lambda: drmad(outer=None),
    "a dict of batches": lambda: drmad(batches=dict(enumerate(BATCHES))),
    "λ as a dict": lambda: drmad(hparams={"a": HPARAMS}),
    "NumPy in Φ": lambda: drmad(hd.Problem(lambda w, h, d: np.asarray(w), PROBLEM.outer_loss)),
}
for name, call in MISTAKEN.items():
    row(name, call, "problem.", "fails, ", "JAX can trace for weights=", "float64[")
MASKED = optax.masked(SGD, [True])
row("a mask of another tree", lambda: start(learner(hyper_optimizer=MASKED)), "hyper_optimizer=")
ODD_LOSSES = {
    "a Python float": (lambda w, h, d: 1.5, "problem.outer_loss", "Python number 1.5"),
    "None": (lambda w, h, d: None, "problem.outer_loss", "real scalar"),
    "a vector": (lambda w, h, d: w.params, "problem.outer_loss", "real scalar"),
    "an int": (lambda w, h, d: jnp.int32(1), "problem.outer_loss", "real scalar"),
    "complex": (lambda w, h, d: w.params.sum() + 1j, "problem.outer_loss", "real scalar"),
    "a pair": (lambda w, h, d: (w.params.sum(), h), "problem.outer_loss", "real scalar"),
}
for name, (loss, *words) in ODD_LOSSES.items():
    odd = hd.Problem(PROBLEM.update, loss)
    row(f"L_val returns {name}", lambda p=odd: drmad(p), *words)
    built = hd.online.one_step(odd)
    row(
        f"the learner's L_val returns {name}",
        lambda p=odd, e=built: step(learner(e, problem=p)),
        *words,
    )
row("complex weights", lambda: drmad(weights=jnp.ones(4, complex)), "weights", "complex", "real")

# from_losses


def simple(p, h, b):
    return jnp.sum((p - h) ** 2)


ONES = jnp.ones(2)


def from_losses(inner=simple, optimizer=SGD, params=ONES, state=None):
    problem = hd.from_losses(inner, simple, optimizer)
    state = optimizer.init(params) if state is None else state
    return hd.offline.one_step(
        problem, jnp.ones(2), hd.InnerState(params, state), None, None, horizon=2
    )


for name, i in (("inner_loss", 0), ("outer_loss", 1)):
    values = [(None, simple, SGD), (3, simple, SGD)]
    for value, *_ in values:
        losses = [simple, simple]
        losses[i] = value
        row(
            f"{name} {value}",
            lambda x=losses: hd.from_losses(*x, SGD),
            f"{name}={value}",
            "function",
        )
bad_values("optimizer", lambda v: hd.from_losses(simple, simple, v), [MULTI, *NO_OPTIMIZER[1:]])
row("inner MultiSteps", lambda: from_losses(optimizer=MULTI, state=()), "gradient_transformation()")
row("inner aux", lambda: from_losses(lambda p, h, b: (p.sum(), p)), "inner_loss", "only a real")
row("inner arguments", lambda: from_losses(lambda p: 0), "inner_loss=", "(params, hparams, batch)")
INTS = {"w": jnp.ones(2), "n": jnp.arange(2)}
row("int params", lambda: from_losses(params=INTS), "weights.params['n'] has dtype int64", "float")
row("inner vector", lambda: from_losses(lambda p, h, b: p), "inner_loss", "[2]", "real scalar")
row("inner float", lambda: from_losses(lambda p, h, b: 2.0 * p[0] > 1), "inner_loss", "bool")
row("inner int", lambda: from_losses(lambda p, h, b: jnp.int32(3)), "inner_loss", "int32", "scalar")
for name, optimizer in {
    "polyak": optax.polyak_sgd(1.0),
    "lbfgs": optax.lbfgs(),
    "plateau": optax.contrib.reduce_on_plateau(),
    "momo": optax.contrib.momo(),
}.items():
    row(f"inner {name}", lambda o=optimizer: from_losses(optimizer=o), "optimizer=", "'value'")
LOOKAHEAD = optax.lookahead(SGD, 5, 0.5)
SYNCED = optax.LookaheadParams.init_synced(jnp.ones(2))
row(
    "lookahead",
    lambda: from_losses(optimizer=LOOKAHEAD, params=SYNCED),
    "LookaheadParams",
    "hd.Problem",
)

# Online estimators
for name in hd.online.__all__:
    make = getattr(hd.online, name)
    more = {"window": 2} if name == "reverse_mode" else {}
    row(f"online {name} problem", lambda m=make, k=more: m(None, **k), "problem=None", "hd.Problem")
GAMMAS = [-0.1, 1.1, NAN, "0.9", True, None, jnp.ones(2)]
for make in (hd.online.hyperdistill, hd.online.greedy, hd.online.robust_hyperdistill):
    for i, gamma in enumerate(GAMMAS):
        name = f"{make.__name__} gamma {i}"
        row(name, lambda m=make, g=gamma: m(PROBLEM, gamma=g), "gamma=", "[0, 1]")
row("fit_size gamma", lambda: hd.fit_size(*CASE, KEY, gamma=2), "gamma=2", "[0, 1]")
SIZES = [-1.0, NAN, float("inf"), "best", None, True, np.ones(3), np.ones(()), jnp.ones(())]
bad_values("size", lambda v: hd.online.hyperdistill(PROBLEM, size=v), SIZES, "'fit'")
TRUSTS = [0, -1.0, NAN, float("inf"), "1", True, None]
bad_values("trust", lambda v: hd.online.robust_hyperdistill(PROBLEM, trust=v), TRUSTS, "> 0")
bad_values("window", lambda v: hd.online.reverse_mode(PROBLEM, window=v), [None, 0, 2.5], "whole")
row(
    "a window that memory does not hold",
    lambda: hd.online.reverse_mode(PROBLEM, window=2**31 - 1).init(WEIGHTS, HPARAMS, BATCHES[0]),
    "window=2147483647",
    "GB",
)
ODD_BATCHES = {
    "a key": ({"x": jnp.ones((6, 4)), "key": KEY}, "batch", "jax.random.split(key, examples)"),
    "a scalar": ({"x": jnp.ones((6, 4)), "t": jnp.ones(())}, "batch", "leading axis"),
    "uneven": ({"x": jnp.ones((6, 4)), "y": jnp.ones(5)}, "batch", "leading axis"),
    "text": ({"x": "a"}, "batch['x'] is a str"),
}
for name, (batch, *words) in ODD_BATCHES.items():
    row(f"batch {name}", lambda b=batch: HYPERDISTILL.init(WEIGHTS, HPARAMS, b), *words)


def estimate(estimator, state, key=KEY, **replaced):
    transition = hd.Transition(WEIGHTS, WEIGHTS, HPARAMS, BATCHES[0], OUTER)
    return estimator.step(state, transition._replace(**replaced), key)


STATE = HYPERDISTILL.init(WEIGHTS, HPARAMS, BATCHES[0])
row("ragged batch", lambda: estimate(HYPERDISTILL, STATE, batch=BATCHES[0][:3]), "transition.batch")
row("another w", lambda: estimate(HYPERDISTILL, STATE, previous=jnp.ones(4)), "transition.previous")
row("another λ", lambda: estimate(HYPERDISTILL, STATE, hparams=jnp.ones(2)), "transition.hparams")
RAW = [None, 0, jnp.zeros(2, jnp.uint32), jax.random.split(KEY)]
bad_values("key", lambda v: estimate(HYPERDISTILL, STATE, key=v), RAW, "one typed key")
OTHER = hd.online.one_step(PROBLEM).init(WEIGHTS, HPARAMS, BATCHES[0])
row("another estimator's state", lambda: estimate(HYPERDISTILL, OTHER), "state is a", "init")
row("no state at all", lambda: estimate(HYPERDISTILL, None), "state is a NoneType", "init")
row(
    "no transition",
    lambda: HYPERDISTILL.step(STATE, TASKS, KEY),
    "transition a tuple",
    "Transition",
)

# hd.compare
GREEDY = {"greedy": hd.online.greedy(PROBLEM)}
METHODS = [None, [1], "fo", {1: hd.online.greedy(PROBLEM)}]
bad_values("methods", lambda v: hd.compare(PROBLEM, v, *CASE[1:]), METHODS, "a dict", "by name")
row("named exact", lambda: hd.compare(PROBLEM, {"exact": HYPERDISTILL}, *CASE[1:]), "exact", "name")
row("no method", lambda: hd.compare(PROBLEM, {"a": max}, *CASE[1:]), "methods['a']=", "hd.online")
row("compare key", lambda: hd.compare(PROBLEM, GREEDY, *CASE[1:], key=1), "key=1", "typed")
row("compare horizon", lambda: hd.compare(PROBLEM, GREEDY, *CASE[1:], horizon=9), "horizon=9")
row("compare problem", lambda: hd.compare(None, GREEDY, *CASE[1:]), "problem=None")

# models/ and data/
for model in (Anil, MetaWeightNet, WarpGrad):
    row(f"{model.__name__} ways", lambda m=model: m(ways=0), "ways=0", ">= 1")
    row(f"{model.__name__} channels", lambda m=model: m(channels=-1), "channels=-1", ">= 1")
IMAGES = jnp.zeros((3, 4, 2, 2, 3), jnp.uint8)
for ways in (0, 4, 1.5):
    row(f"task of {ways} ways", lambda w=ways: sample_task(KEY, IMAGES, ways=w), f"ways={ways}")
row("images", lambda: sample_task(KEY, IMAGES[0], ways=2), "images", "expected [classes")
row("corruption", lambda: sample_task(KEY, IMAGES, ways=2, corruption=2), "corruption=2")
EXAMPLES = Examples(IMAGES[0], jnp.zeros(4, jnp.int32))
row("batch of 0", lambda: draw_batch(KEY, EXAMPLES, 0), "size=0", ">= 1")
row("0 sinusoids", lambda: sample_tasks(KEY, 0), "tasks=0", ">= 1")
row("0 shots", lambda: sample_tasks(KEY, 2, shots=0), "shots=0", ">= 1")


# What JAX has not, in each place
FOREIGN = {
    "longdouble": (np.ones(4, np.longdouble), "has dtype", "expected numbers that JAX has"),
    "Decimal": (decimal.Decimal("0.5"), "is a Decimal", "expected an array"),
    "structured": (np.zeros(4, [("a", "f4")]), "has dtype", "expected numbers that JAX has"),
    "big-endian": (np.ones(4, ">f8"), "another byte order", "x.astype('<f8')"),
    "pandas": (pd.Series(np.ones(4)), "is a Series", "expected an array"),
    "a shape": (jax.ShapeDtypeStruct((4,), jnp.float64), "ShapeDtypeStruct, float64[4]", "array"),
    "a large int": (2**70, f"={2**70}", "64 bits"),
    "dates": (np.zeros(4, "M8[s]"), "has dtype", "expected numbers that JAX has"),
}
for name, (value, *words) in FOREIGN.items():
    for place in ("hparams", "weights", "batches"):
        row(
            f"{name} in {place}",
            lambda p=place, v=value: drmad(**{p: {"x": v}}, horizon=4),
            f"{place}['x']",
            *words,
        )
    row(f"{name} as outer_batch", lambda v=value: drmad(outer=v), "outer_batch", *words)
    row(f"{name} as λ", lambda v=value: start(learner(), v), "hparams", *words)
    row(f"{name} as a start", lambda v=value: start(learner(), weights=v), "weights", *words)

# Callbacks to Python inside Φ
SHAPE = jax.ShapeDtypeStruct((4,), jnp.float64)


def calls_back(w, h, d):
    moved = jax.pure_callback(lambda x: np.asarray(x), SHAPE, w.params + h.sum())
    return w._replace(params=moved)


BACK = hd.Problem(calls_back, PROBLEM.outer_loss)
for name in ("one_step", "forward_mode", "reverse_mode", "drmad", "implicit"):
    method = getattr(hd.offline, name)
    row(f"{name} through a callback", lambda m=method: m(BACK, *CASE[1:]), "calls back to Python")
row(
    "a learner's callback",
    lambda: step(learner(hd.online.one_step(BACK), BACK)),
    "calls back to Python",
)

# Data of NumPy at a traced place
TABLE = np.ones((4, 4))
for name in ("sample_inner", "sample_outer"):
    row(
        f"NumPy data in {name}",
        lambda n=name: step(learner(**{n: lambda key, task, t: TABLE[t]})),
        f"{name}(key, task)",
        "jnp arrays",
    )


def evaluate(tasks):
    return hd.evaluate(PROBLEM, HPARAMS, WEIGHTS, tasks, horizon=2, count=2)


def drawn_by_numpy(key):
    return np.random.default_rng(0).normal(size=(6, 4)), OUTER


row("tasks by NumPy", lambda: evaluate(drawn_by_numpy), "does not depend on its key", "jax.random")
row("NumPy data in tasks", lambda: evaluate(lambda k: TABLE[k]), "tasks(key)", "jnp arrays")
row("compare in jit", lambda: jax.jit(lambda h: compare(h))(HPARAMS), "outside jax.jit")
row("compare in vmap", lambda: jax.vmap(lambda h: compare(h))(jnp.ones((2, 3))), "outside jax.jit")


def compare(hparams):
    return hd.compare(PROBLEM, GREEDY, hparams, *CASE[2:])["greedy"].cosine


# MAML
bad_values("optimizer", hd.maml, RATES, "finite number > 0")
row("maml uncalled", lambda: hd.maml(optax.sgd), "optimizer=", "call it")
MAML = {"initialization": hd.maml(0.1)}
WINDOWED = functools.partial(hd.offline.reverse_mode, window=2)
row("maml online", lambda: learner(**MAML), "hd.maml", "hd.offline.reverse_mode")
row("maml with a window", lambda: learner(WINDOWED, **MAML), "hd.maml", "without a window")
row("maml with DrMAD", lambda: step(learner(hd.offline.drmad, **MAML)), "`start`", "hd.maml")

# hdistill.training
STEP = functools.partial(lambda state, tasks, info: (state, info), info={"loss": 0.0})


def loop(act=None, step=STEP, tasks_at=lambda m: None, **more):
    """A run of two steps in a folder that goes away; or `act` on that folder."""
    with tempfile.TemporaryDirectory() as path:
        with training.RunFolder(path, {}) as folder:
            if act is None:
                training.run(step, jnp.ones(2), tasks_at, total=2, folder=folder, **more)
        if act is not None:
            act(folder)


for value in (3, "log", [3], [lambda m: 0], None):
    row("callbacks", lambda v=value: loop(callbacks=v), "callbacks", "function")
for value in (3, "log", lambda m: {}):
    row("validate", lambda v=value: loop(validate=v), "validate=", "(m, state)")
for name, info in {
    "object": {"loss": 0.0, "a": object()},
    "complex": {"loss": 0.0, "a": 1j},
    "bytes": {"loss": 0.0, "a": b"x"},
}.items():
    odd = functools.partial(STEP, info=info)
    row(f"an info of {name}", lambda s=odd: loop(step=s), "step's info['a']", "what JSON holds")
row("no tasks left", lambda: loop(tasks_at=iter([1]).__next__), "tasks_at", "(m)")
row("an iterator's end", lambda: loop(tasks_at=lambda m: next(iter(()))), "tasks_at(1)", "no tasks")
for name, act in {
    "log": lambda folder: folder.log({"step": 1}),
    "save": lambda folder: folder.save(1, jnp.ones(2)),
    "write": lambda folder: folder.write("a.txt", "a"),
    "finish": lambda folder: folder.finish({}),
}.items():
    row(f"{name} after close", lambda a=act: loop(a), f"{name}: ", "closed")


def link(name, act):
    """`act` on a folder in which a link lies in a file's place."""
    with tempfile.TemporaryDirectory() as path:
        (pathlib.Path(path) / "precious").write_text("7")
        with training.RunFolder(pathlib.Path(path) / "run", {}) as folder:
            (folder.path / name).unlink(missing_ok=True)
            (folder.path / name).symlink_to(pathlib.Path(path) / "precious")
            act(folder)


LINKED = {
    "metrics.jsonl": lambda folder: folder.log({"step": 1}),
    "run.lock": lambda folder: training.RunFolder(folder.path, {}),
}
for name, act in LINKED.items():
    row(f"a link at {name}", lambda n=name, a=act: link(n, a), f"{name} is a link", "expected")
ROW_VALUES = [None, 3, [1], "row"]
for value in ROW_VALUES:
    row(f"log({value!r})", lambda v=value: open_log(v), f"row={value!r}", "dict of figures")


def open_log(row):
    with tempfile.TemporaryDirectory() as path, training.RunFolder(path, {}) as folder:
        folder.log(row)


DEEP = functools.reduce(lambda inner, _: {"a": inner}, range(100_000), {})
row("a deep config", lambda: training.RunFolder("unused", DEEP), "config=", "JSON")

# Images
FLOATS = Examples(jnp.ones((4, 2, 2, 3)), jnp.zeros(4, jnp.int32))
FEW = Examples(IMAGES[0, :2], jnp.zeros(50, jnp.int32))
row("images in [0, 1]", lambda: draw_batch(KEY, FLOATS, 2), "examples: images float64", "integers")
row("fewer images", lambda: draw_batch(KEY, FEW, 2), "a label for each")
PIXELS = np.zeros((2, 2, 2, 3), np.uint8)
row("names' zeros", lambda: Pool(PIXELS, np.array([0, 1]), ("a\0", "b")), "names=", "zeros")


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore::hdistill.ZeroHypergradientWarning")
def test_is_refused_with_a_name_and_an_expectation(name):
    call, words = ROWS[name]
    with pytest.raises((ValueError, UserWarning)) as error:
        call()
    message, place = str(error.value), 0
    for word in words:  # "a|b" is a or b
        place = max(message.find(part, place) for part in word.split("|"))
        assert place >= 0, f"{word!r} not in {message!r}"
    assert not re.search("Tracer|jaxpr|<locals>.<lambda>.<locals>", message), message


def test_there_are_five_hundred():
    assert len(ROWS) >= 500
