"""Hyperparameters that a derivative reaches, through every kind of program that Φ may hold."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.checks.reach import reaching_hparams, unchanged
from tests.problems import assert_close

X = jnp.arange(3.0)


def plain(w, h, d):
    return {"a": w["a"] - 0.1 * h["used"] * d, "b": w["b"] + w["a"]}


def loop(w, h, d):
    return jax.lax.scan(lambda w, _: (plain(w, h, d), None), w, length=2)[0]


def while_loop(w, h, d):
    return jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, plain(c[1], h, d)), (0, w))[
        1
    ]


def branch(w, h, d):
    return jax.lax.cond(d[0] > 0, lambda: plain(w, h, d), lambda: w)


@jax.custom_vjp
def _double(x):
    return 2 * x


_double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


def own_derivative(w, h, d):
    return jax.tree.map(_double, plain(w, h, d))


PROGRAMS = {
    "plain": plain,
    "jit": jax.jit(plain),
    "checkpoint": jax.checkpoint(plain),
    "scan": loop,
    "while": while_loop,
    "cond": branch,
    "vmap": lambda w, h, d: (
        jax.vmap(plain, (None, None, 0))(w, h, d[None])
        and jax.tree.map(lambda x: x[0], jax.vmap(plain, (None, None, 0))(w, h, d[None]))
    ),
    "custom_vjp": own_derivative,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_unused_is_found_in_every_program(name):
    problem = hd.Problem(PROGRAMS[name], lambda w, h, d: jnp.sum(w["b"]) + h["outer"])
    hparams = {"outer": jnp.ones(()), "unused": jnp.ones(2), "used": jnp.ones(3)}
    weights = {"a": X, "b": X}
    reached = functools.partial(reaching_hparams, problem, hparams, weights, X, None)
    assert reached(0) == [True, False, False]
    # λ moves a, and only a step later does a move b, unless a step holds two of them.
    assert reached(1) == [True, False, name in ("scan", "while")]
    assert reached(2) == reached(1000) == [True, False, True]


def test_derivatives_that_are_stopped_do_not_count():
    problem = hd.Problem(
        lambda w, h, d: w * jax.lax.stop_gradient(h["stopped"]) + jnp.round(h["whole"]) * h["real"],
        lambda w, h, d: jnp.sum(w),
    )
    hparams = {name: jnp.ones(3) for name in ("real", "stopped", "whole")}
    assert reaching_hparams(problem, hparams, X, None, None, 5)[:2] == [True, False]


def test_integers_take_no_derivative():
    problem = hd.Problem(
        lambda w, h, d: (w[0] + h, (w[1] + h.sum()).astype(jnp.int32)),
        lambda w, h, d: jnp.sum(w[1] * 1.0),
    )
    assert reaching_hparams(problem, jnp.ones(3), (X, jnp.int32(1)), None, None, 5) == [False]


def test_the_check_traces_phi_a_few_times_however_many_leaves_there_are():
    traces = []

    def update(w, h, d):
        traces.append(1)
        return [x - 0.1 * h["used"] for x in w]

    problem = hd.Problem(update, lambda w, h, d: sum(jnp.sum(x) for x in w))
    hparams = {"unused": jnp.ones(()), "used": jnp.ones(())}
    with pytest.warns(
        hd.ZeroHypergradientWarning, match=r"hparams\['unused'\] is structurally zero"
    ):
        jax.eval_shape(
            lambda h: hd.offline.reverse_mode(problem, h, [X] * 50, None, None, horizon=500),
            hparams,
        )
    assert len(traces) <= 6  # for shapes, for paths, forwards and back


def test_forward_mode_needs_no_reverse_pass_of_phi():
    def update(w, h, n):  # as many steps as n says, which reverse mode cannot go back through
        def body(carry):
            i, w = carry
            return i + 1, w - 0.1 * (w - 1 + jnp.exp(h) * w)

        return jax.lax.while_loop(lambda carry: carry[0] < n, body, (0, w))[1]

    problem = hd.Problem(update, lambda w, h, b: (w - 2.0) ** 2)
    h, n = jnp.asarray(0.1), np.array([3, 1, 2])

    def value(h):
        w = jnp.asarray(2.5)
        for _ in range(n.sum()):
            w = w - 0.1 * (w - 1 + jnp.exp(h) * w)
        return (w - 2.0) ** 2

    result = hd.offline.forward_mode(problem, h, jnp.asarray(2.5), jnp.asarray(n), None)
    assert_close(result.total, jax.grad(value)(h), 1e-12)
    estimator = hd.online.forward_mode(problem)
    state, w = estimator.init(jnp.asarray(2.5), h, jnp.int64(1)), jnp.asarray(2.5)
    for count in n:
        after = update(w, h, count)
        transition = hd.Transition(w, after, h, jnp.asarray(count), None)
        result, state = estimator.step(state, transition, jax.random.key(0))
        w = after
    assert_close(result.total, jax.grad(value)(h), 1e-12)


def test_which_leaves_phi_hands_on():
    def update(w, h, d):
        count = (w["count"] + 1) % 3
        return w | {"count": count, "w": w["w"] - h * d, "copied": w["copied"] * 1.0}

    weights = {"copied": X, "count": jnp.int32(0), "fixed": jnp.arange(3), "w": X}
    for program in (update, jax.jit(update)):
        problem = hd.Problem(program, None)
        assert unchanged(problem, jnp.ones(()), weights, X) == [False, False, True, False]
    swap = hd.Problem(lambda w, h, d: (w[1], w[0]), None)
    assert unchanged(swap, jnp.ones(()), (X, X), X) == [False, False]


def test_no_warning_where_every_hyperparameter_acts():
    optimizer = optax.adam(0.1, eps_root=1e-8)
    problem = hd.from_losses(
        lambda p, h, b: jnp.sum((p - h) ** 2), lambda p, h, b: jnp.sum(p**2), optimizer
    )
    weights = hd.InnerState(X, optimizer.init(X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (hd.offline.one_step, hd.offline.drmad):
            jax.eval_shape(lambda h, m=method: m(problem, h, weights, None, None, horizon=3), X)
