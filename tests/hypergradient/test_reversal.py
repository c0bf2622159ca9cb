"""Reversal: steps undone to the bit, the unroll's gradient, memory flat in T, faults as nan."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.reversible import steps_of_a_word
from tests.problems import assert_close, grad_of_unroll, mlp

RATE, MOMENTUM = 0.1, (9, 10)  # of tests.problems' momentum


def fixed(horizon, dtype=jnp.float64, momentum=MOMENTUM, room=None):
    """The MLP's case in fixed point; the same with optax's momentum, rounded by its floats only."""
    plain = mlp("momentum", horizon=horizon, dtype=dtype)

    def inner_loss(params, hparams, batch):
        h = hparams
        hidden = jnp.tanh((batch.x * h["scale"][None]) @ params["layers"][0] + params["layers"][1])
        error = hidden @ params["head"] + h["nested"][0] - batch.y
        squares = sum(jnp.sum(x**2) for x in jax.tree.leaves(params))
        return jnp.mean(error**2) + jnp.exp(h["nested"][1]) * squares

    def outer_loss(params, hparams, batch):
        weights = plain.weights._replace(params=params)
        return plain.problem.outer_loss(weights, hparams, batch)

    problem, start = hd.reversible_sgd(inner_loss, outer_loss, RATE, momentum)
    weights = start(plain.weights.params, horizon if room is None else room)
    return plain._replace(problem=problem, weights=weights), plain


@pytest.fixture(autouse=True)
def broadcasting():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("every", [None, 3])
def test_it_is_the_gradient_of_the_unroll(every):
    case, plain = fixed(7)
    how = {"every": every, "return_info": True}
    if every:
        stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), case.outer_batch)
        case, plain = (c._replace(outer_batch=stacked) for c in (case, plain))
    g, info = hd.offline.reversal(*case, **how)
    stored, there = hd.offline.reverse_mode(*case, **how)
    assert_close(g, stored, 1e-12)
    jax.tree.map(np.testing.assert_array_equal, info.weights, there.weights)
    assert_close(info.start.params, there.start.params, 1e-12)
    assert_close(jnp.atleast_1d(info.outer_loss), jnp.atleast_1d(there.outer_loss), 1e-14)
    assert info.finite and info.products == 2 * (6 if every else 7) - 1
    assert info.steps == 7 + (6 if every else 7)
    # The oracle knows of no grid: floats and optax.
    exact = (
        grad_of_unroll(plain)[0] if not every else hd.offline.reverse_mode(*plain, **how)[0].total
    )
    assert_close(g.total, exact, 1e-9)
    with pytest.raises(AssertionError):
        assert_close(g.first_order, exact, 1e-3)


@pytest.mark.parametrize("dtype, momentum", [(jnp.float32, (9, 10)), (jnp.float64, (3, 4))])
def test_every_step_is_undone_to_the_bit(dtype, momentum):
    case, _ = fixed(3, dtype, momentum, room=500)
    problem, hparams, weights, batches, _ = case

    def draw(t):
        return jax.tree.map(lambda x: x[t % 3] * jnp.cos(t), batches)

    there = jax.jit(lambda w, t: problem.update(w, hparams, draw(t)))
    back = jax.jit(lambda w, t: problem.update.inverse(w, hparams, draw(t)))
    path = [weights]
    for t in range(500):
        path.append(there(path[-1], t))
    assert len({leaf.tobytes() for leaf in map(np.asarray, (w.params["head"] for w in path))}) > 450
    weights = path[-1]
    for t in reversed(range(500)):
        weights = back(weights, t)
        jax.tree.map(np.testing.assert_array_equal, weights, path[t])


def test_the_bits_that_are_kept_are_those_that_gamma_loses():
    for n, d in ((9, 10), (1, 2), (99, 100)):
        bits = 32 / steps_of_a_word(n, d)
        assert math.log2(d / n) <= bits < 1.7 * math.log2(d / n)  # words have room at their top
    case, _ = fixed(3, room=1000)
    words = -(-1000 // steps_of_a_word(*MOMENTUM))
    assert case.weights.opt_state.lost["head"].shape == (words, 3)


def test_a_way_back_that_ends_elsewhere_is_nan():
    short, _ = fixed(400, jnp.float32, room=1)  # a word of 400 steps' digits overflows
    with pytest.warns(hd.NonFiniteWarning):
        g, info = hd.offline.reversal(*short, return_info=True)
    assert not info.finite and np.isnan(g.total["scale"]).all()
    assert np.isnan(info.start.params["head"]).all()  # hd.maml would move w_0 by it
    case, _ = fixed(5)
    honest = case.problem.update

    def forgetful(weights, hparams, batch):  # of the digits
        none = jax.tree.map(jnp.zeros_like, weights.opt_state.lost)
        weights = weights._replace(opt_state=weights.opt_state._replace(lost=none))
        return honest.inverse(weights, hparams, batch)

    wrong = case.problem._replace(update=hd.Reversible(honest.update, forgetful))
    with pytest.warns(hd.NonFiniteWarning):
        assert not hd.offline.reversal(wrong, *case[1:], return_info=True)[1].finite


def test_what_phi_hands_on_is_there_on_the_way_back():
    def there(w, shift, batch):
        return w | {"x": w["x"] + shift * w["mask"]}

    def back(w, shift, batch):
        return w | {"x": w["x"] - shift * w["mask"]}

    problem = hd.Problem(hd.Reversible(there, back), lambda w, h, d: jnp.sum(w["x"] ** 2))
    weights = {"x": jnp.zeros(3), "mask": jnp.array([1.0, 2.0, 0.0])}
    g, info = hd.offline.reversal(
        problem, jnp.ones(3), weights, None, None, horizon=4, return_info=True
    )
    assert_close(g.total, 2 * 16 * weights["mask"] ** 2, 1e-15)  # of Σ (4 λ mask)²
    assert info.start["mask"] is None and info.finite


def test_memory_is_flat_in_the_horizon():
    def temporaries(method, horizon):
        case, _ = fixed(3, jnp.float32, room=800)
        batch = jax.tree.map(lambda x: x[0], case.batches)
        call = functools.partial(method, case.problem, horizon=horizon)
        program = jax.jit(lambda h, w: call(h, w, lambda t: batch, case.outer_batch).total)
        lowered = program.lower(case.hparams, case.weights)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    reversed_ = [temporaries(hd.offline.reversal, horizon) for horizon in (50, 800)]
    assert reversed_[1] < 1.05 * reversed_[0]
    assert temporaries(hd.offline.reverse_mode, 800) > 10 * reversed_[1]


def test_tasks_side_by_side_in_a_learner():
    case, _ = fixed(4)
    inner = jax.tree.map(lambda x: x[0], case.batches)
    tasks = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), (inner, case.outer_batch))
    states = []
    for method in (hd.offline.reversal, hd.offline.reverse_mode):
        built = hd.learner(case.problem, method, hyper_optimizer=optax.sgd(0.1), horizon=4)
        state = built.init(jax.random.key(0), case.hparams, case.weights)
        states.append(built.step(state, tasks)[0].hparams)
    assert_close(*states, 1e-12)


def loss(params, hparams, batch):
    return jnp.sum(params)


@pytest.mark.parametrize(
    "how, words",
    [
        ({"rate": 0.0}, "rate=0.0"),
        ({"momentum": 0.9}, "momentum=0.9"),
        ({"momentum": (10, 9)}, r"momentum=\(10, 9\)"),
        ({"momentum": (0, 9)}, "momentum"),
    ],
)
def test_bad_arguments_are_named(how, words):
    with pytest.raises(ValueError, match=words):
        hd.reversible_sgd(loss, loss, **{"rate": 0.1} | how)


def test_bad_weights_and_problems_are_named():
    _, start = hd.reversible_sgd(loss, loss, 0.1)
    for params, words in (
        ({"w": jnp.ones(2, jnp.bfloat16)}, r"params\['w'\] is bfloat16"),
        ({"w": jnp.full(2, 16.0, jnp.float32)}, r"params\['w'\] has entries of 16"),
        ({"w": jnp.full(2, jnp.nan)}, r"params\['w'\] has entries"),
    ):
        with pytest.raises(ValueError, match=words):
            start(params, 5)
    with pytest.raises(ValueError, match="horizon"):
        start({"w": jnp.ones(2)}, 0)
    assert start({"w": [0.5, 1.0], "none": jnp.ones((0, 3))}, 5).params["w"] == [0.5, 1.0]
    with pytest.raises(ValueError, match=r"weights: expected start\(params, horizon\)"):
        hd.offline.reversal(fixed(2)[0].problem, jnp.ones(2), jnp.ones(2), None, None, horizon=2)
    plain = mlp("momentum", horizon=2)
    with pytest.raises(ValueError, match=r"problem.update=.*hd.Reversible"):
        hd.offline.reversal(*plain)
