"""DrMAD, and the backward scan that it shares with reverse mode and the fit of θ."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.hypergradient.backward import backward
from hdistill.hypergradient.drmad_line import walk
from hdistill.hypergradient.outer_losses import outer_losses
from hdistill.problem import InnerRun
from tests.problems import CASES, Case, assert_close, grad_of_unroll


def test_exact_where_the_trajectory_is_a_straight_line():
    def update(w, h, d):
        return w + jnp.stack([h[0] * h[1], jnp.sin(h[0])]) * 0.1  # constant speed

    def outer_loss(w, h, d):
        return jnp.sum(jnp.cos(w)) * h[1]

    problem = hd.Problem(update, outer_loss)
    hparams, weights = jnp.array([0.7, -1.2]), jnp.array([0.3, 0.4])
    result = hd.offline.drmad(problem, hparams, weights, None, None, horizon=9)
    expected = jax.grad(
        lambda h: outer_loss(hd.unroll(problem, h, weights, None, horizon=9), h, None)
    )(hparams)
    assert_close(result.total, expected, 1e-10)


def test_exact_where_the_jacobian_changes_along_the_line():
    # w[1] walks λ a step, and w[0]'s Jacobian depends on how far w[1] is from a clock that does so
    # too: the line is the trajectory, and on it A and B are those of the clock's time.
    def update(w, h, clock):
        return jnp.stack([w[0] + h * jnp.sin(w[1] - clock) + 0.1 * jnp.exp(w[1] - clock), w[1] + h])

    problem = hd.Problem(update, lambda w, h, d: jnp.sum(w**3))
    hparams, weights, clock = jnp.array(0.1), jnp.array([1.0, 2.0]), 2 + 0.1 * jnp.arange(6)
    arguments = (problem, hparams, weights, clock, None)
    expected, _ = grad_of_unroll(Case(*arguments))
    assert_close(hd.offline.drmad(*arguments).total, expected, 1e-10)
    curved = problem._replace(update=lambda w, h, clock: w + h * jnp.sin(w) * clock)
    arguments = (curved, *arguments[1:])
    with pytest.raises(AssertionError):  # where it is not a line, it is another
        assert_close(hd.offline.drmad(*arguments).total, grad_of_unroll(Case(*arguments))[0], 1e-6)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_every_horizon_is_exact_when_fed_the_true_trajectory(optimizer):
    problem, hparams, weights, batches, outer_batch = case = CASES["mlp"](optimizer)
    steps = 6

    def at(tree):
        return lambda t: jax.tree.map(lambda x: x[t], tree)

    inner = InnerRun(problem, hparams, weights, at(batches), steps)
    final, trajectory = inner.steps(keep=True)
    gradient = jax.grad(problem.outer_loss, allow_int=True)(final, hparams, outer_batch)
    alpha = [x for x in jax.tree.leaves(gradient) if x.dtype == jnp.float64]

    def visit(carry, t, w, d, alpha, total):
        return carry, alpha, total

    totals = jax.jit(lambda: backward(inner, at(trajectory), alpha, visit=visit).outputs)()
    total, first_order = jax.jit(jax.vmap(lambda s: grad_of_unroll(case, last=s)))(
        1 + jnp.arange(steps)
    )
    expected = optax.tree.sub(total, first_order)
    for s in range(1, 7):
        at_s = jax.tree.map(lambda x: x[s - 1], expected)
        assert_close(jax.tree.map(lambda x: x[6 - s], totals), at_s, 1e-12)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_equals_a_loop_with_explicit_jacobians_on_the_interpolation(optimizer):
    problem, hparams, weights, batches, outer_batch = case = CASES["quadratic"](optimizer)
    horizon = batches.shape[0]
    final = hd.unroll(problem, hparams, weights, batches)
    # Independent of the library: dense Jacobians of Φ over one flat vector, counters apart.
    is_float = [x.dtype == jnp.float64 for x in jax.tree.leaves(weights)]
    structure = jax.tree.structure(weights)

    def flat(tree):
        return jnp.concatenate([x.ravel() for x, f in zip(jax.tree.leaves(tree), is_float) if f])

    def unflat(vector, counter):
        leaves, start = [], 0
        for leaf, f in zip(jax.tree.leaves(weights), is_float):
            if f:
                leaves.append(vector[start : start + leaf.size].reshape(leaf.shape))
                start += leaf.size
            else:
                leaves.append(jnp.asarray(counter, leaf.dtype))
        return structure.unflatten(leaves)

    def phi(vector, h, t):
        return flat(problem.update(unflat(vector, t), h, batches[t]))

    alpha = jax.grad(lambda v: problem.outer_loss(unflat(v, 0), hparams, outer_batch))(flat(final))
    jacobians, expected = jax.jit(jax.jacrev(phi, (0, 1))), jnp.zeros(3)
    for t in reversed(range(horizon)):
        point = (1 - t / horizon) * flat(weights) + (t / horizon) * flat(final)
        a, b = jacobians(point, hparams, t)
        expected, alpha = expected + alpha @ b, alpha @ a
    assert_close(hd.offline.drmad(*case).second_order, expected, 1e-10)


def test_the_line_meets_both_ends_and_has_the_true_counters():
    problem = hd.Problem(
        lambda w, h, d: {"w": 2 * w["w"] + h, "cycle": (w["cycle"] + 1) % 3, "fixed": w["fixed"]},
        lambda w, h, d: jnp.sum(w["w"]),
    )
    first = {"w": jnp.array([1.0, 2.0]), "cycle": jnp.array(1), "fixed": jnp.array(7)}
    inner = InnerRun(problem, jnp.array(0.5), first, lambda t: None, 10)
    walked = walk(inner, outer_losses(10, None))
    final, point_at = walked.final, walked.point_at
    for t in range(11):
        point = point_at(t)
        np.testing.assert_allclose(point["w"], first["w"] + t / 10 * (final["w"] - first["w"]))
        assert point["fixed"] == 7
        if t < 10:  # of w_10 only the end of the line is asked for
            assert point["cycle"] == (1 + t) % 3


def accumulated():
    """Gradients accumulated over two batches, and by hand plain SGD on the mean of each pair."""

    def inner(p, h, b):
        return jnp.sum((p - b) ** 2 + jnp.exp(h) * p**2)

    def pair(p, h, b):
        return (inner(p, h, b[0]) + inner(p, h, b[1])) / 2

    def outer(p, h, b):
        return jnp.sum((p - b) ** 2)

    sgd, params, batches = optax.sgd(0.1), jnp.ones(2), jnp.arange(24.0).reshape(12, 2)
    every_second = optax.MultiSteps(sgd, every_k_schedule=2).gradient_transformation()
    for loss, optimizer, data in (
        (inner, every_second, batches),
        (pair, sgd, batches.reshape(6, 2, 2)),
    ):
        weights = hd.InnerState(params, optimizer.init(params))
        problem = hd.from_losses(loss, outer, optimizer)
        yield Case(problem, jnp.zeros(2), weights, data, jnp.full(2, 30.0))


def test_a_counter_that_cycles():
    multi, pairs = accumulated()
    exact = hd.offline.reverse_mode(*multi).total
    assert_close(exact, grad_of_unroll(multi)[0], 1e-12)
    assert_close(exact, hd.offline.reverse_mode(*pairs).total, 1e-7)  # optax's mean is float32's
    drmad, by_pairs = (hd.offline.drmad(*case).total for case in (multi, pairs))
    assert_close(drmad, by_pairs, 0.3)  # the two lines differ; with a wrong counter it is 0
    for case in (multi, pairs):
        assert hd.fit_size(*case, jax.random.key(0))[0] > 0.3


def test_lookahead_as_a_phi():
    optimizer = optax.lookahead(optax.sgd(0.02), sync_period=3, slow_step_size=0.5)
    first = optax.LookaheadParams.init_synced(jnp.ones(2))

    def update(weights, h, b):
        params, state = weights
        gradient = jax.grad(lambda p: jnp.sum((p - b) ** 2 + jnp.exp(h) * p**2))(params.fast)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    problem = hd.Problem(update, lambda w, h, b: jnp.sum((w[0].slow - b) ** 2))
    case = (
        problem,
        jnp.zeros(2),
        (first, optimizer.init(first)),
        jnp.zeros((12, 2)),
        jnp.full(2, 9.0),
    )
    exact, drmad = hd.offline.reverse_mode(*case).total, hd.offline.drmad(*case).total
    assert_close(exact, grad_of_unroll(Case(*case))[0], 1e-10)
    assert ((drmad / exact > 0.5) & (drmad / exact < 2)).all()


def test_keys_among_the_weights_are_the_true_ones():
    # Φ adds noise to λ's effect, drawn from a key that it carries.
    def update(w, h, d):
        key, draw = jax.random.split(w["key"])
        return {"key": key, "w": w["w"] + h * jax.random.normal(draw, (2,))}

    problem = hd.Problem(update, lambda w, h, d: jnp.sum(w["w"]))
    weights = {"key": jax.random.key(3), "w": jnp.zeros(2)}
    arguments = problem, jnp.ones(2), weights, None, None
    exact = hd.offline.reverse_mode(*arguments, horizon=5).total
    assert_close(hd.offline.drmad(*arguments, horizon=5).total, exact, 1e-12)  # Φ is linear in w


def test_a_long_run_of_a_decaying_rate():
    horizon = 60_000  # the square of 46,341 is more than an int32 holds
    optimizer = optax.sgd(optax.linear_schedule(1e-3, 0.0, horizon))
    rate = 1e-3 * (1 - np.arange(horizon) / horizon)

    def inner(p, h, _):
        return 0.5 * (p - 1) ** 2 + 0.5 * jnp.exp(h) * p**2

    problem = hd.from_losses(inner, lambda p, h, _: 0.5 * (p - 2) ** 2, optimizer)
    zero = jnp.zeros(())
    weights = hd.InnerState(zero, optimizer.init(zero))
    drmad = hd.offline.drmad(problem, zero, weights, None, None, horizon=horizon).total
    w = 0.0
    for t in range(horizon):
        w -= rate[t] * (2 * w - 1)
    alpha, expected = w - 2, 0.0
    for t in reversed(range(horizon)):
        expected -= alpha * rate[t] * (t / horizon) * w
        alpha *= 1 - 2 * rate[t]
    np.testing.assert_allclose(drmad, expected, rtol=1e-5)  # optax's schedule is float32's


def test_the_line_in_half_precision():
    problem = hd.Problem(lambda w, h, d: jnp.where(d == 0, w + 1, w), lambda w, h, d: w + h)
    horizon, zero = 70_000, jnp.zeros((), jnp.float16)  # which counts to 65 504
    inner = InnerRun(problem, zero, zero, lambda t: t, horizon)
    walked = walk(inner, outer_losses(horizon, None))
    assert walked.final == 1
    for t in (7000, 69_999):
        np.testing.assert_allclose(walked.point_at(t), t / horizon, rtol=1e-3)
