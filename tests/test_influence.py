"""Influence of examples, retrainings without them, and the score that compares both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import hdistill as hd
from tests.problems import assert_close

N, Q, T = 80, 5, 30
KEYS = jax.random.split(jax.random.key(0), 4)
X, TEST = jax.random.normal(KEYS[0], (N, 3)), jax.random.normal(KEYS[1], (Q, 3))
Y = jnp.tanh(X.sum(-1)) + 0.3 * jax.random.normal(KEYS[2], (N,))
OPTIMIZER = optax.sgd(0.05, momentum=0.8)
QUERIES = TEST[:, None], jnp.sin(TEST.sum(-1))[:, None]


def predict(w, x):
    return jnp.tanh(x @ w["a"]) @ w["b"]


def inner_loss(w, h, index):
    return jnp.mean(h[index] * (predict(w, X[index]) - Y[index]) ** 2)


def outer_loss(w, h, query):
    return jnp.mean((predict(w, query[0]) - query[1]) ** 2)


PROBLEM = hd.from_losses(inner_loss, outer_loss, OPTIMIZER)
PARAMS = {"a": 0.5 * jax.random.normal(KEYS[3], (3, 4)), "b": jnp.ones(4) / 2}
WEIGHTS = hd.InnerState(PARAMS, OPTIMIZER.init(PARAMS))
INDEX = jnp.stack([jax.random.permutation(jax.random.key(t), N)[:40] for t in range(T)])
ONES = jnp.ones(N)


def losses_after(h):
    end = hd.unroll(PROBLEM, h, WEIGHTS, INDEX)
    return jax.vmap(PROBLEM.outer_loss, (None, None, 0))(end, h, QUERIES)


@pytest.mark.parametrize("together", [None, 1, 2, 5, 50])
def test_influence_is_the_jacobian_of_the_unroll(together):
    g = hd.influence(PROBLEM, ONES, WEIGHTS, INDEX, QUERIES, together=together)
    assert_close(g, jax.jacobian(losses_after)(ONES), 1e-10)


def test_influence_by_other_methods_and_in_jit():
    few = functools.partial(hd.offline.reverse_mode, snapshots=3)
    expected = hd.influence(PROBLEM, ONES, WEIGHTS, INDEX, QUERIES)
    call = jax.jit(lambda h: hd.influence(PROBLEM, h, WEIGHTS, INDEX, QUERIES, method=few))
    assert_close(call(ONES), expected, 1e-12)
    last = hd.influence(PROBLEM, ONES, WEIGHTS, INDEX, QUERIES, method=hd.offline.one_step)
    outer = jax.tree.map(lambda x: x[2], QUERIES)
    one = hd.offline.one_step(PROBLEM, ONES, WEIGHTS, INDEX, outer)
    assert_close(last[2], one.total, 1e-12)
    assert not np.allclose(last, expected, rtol=0.1)  # the comparison can tell


def test_leave_out_is_a_loop_of_trainings():
    left_out = jax.random.bernoulli(jax.random.key(9), 0.2, (6, N))
    losses = hd.leave_out(PROBLEM, ONES, WEIGHTS, INDEX, left_out, QUERIES, together=4)
    for r in range(6):
        assert_close(losses[r], losses_after(jnp.where(left_out[r], 0.0, 1.0)), 1e-12)


def test_the_exact_influence_predicts_retrainings_and_one_step_does_not():
    keys = jax.random.split(jax.random.key(1), 60)
    left_out = jax.vmap(lambda key: jax.random.permutation(key, N) < 2)(keys)
    losses = hd.leave_out(PROBLEM, ONES, WEIGHTS, INDEX, left_out, QUERIES)
    exact = hd.influence(PROBLEM, ONES, WEIGHTS, INDEX, QUERIES)
    last = hd.influence(PROBLEM, ONES, WEIGHTS, INDEX, QUERIES, method=hd.offline.one_step)
    base = losses_after(ONES)
    score = hd.lds(exact, left_out, losses, base)
    assert score.mean > 0.95 and score.half_width < 0.05
    assert hd.lds(last, left_out, losses).mean < 0.6
    assert hd.lds(-exact, left_out, losses).mean < -0.95


def test_the_score_is_spearman_s_with_ties():
    rng = np.random.default_rng(0)
    scores, left_out = rng.integers(0, 3, (4, 9)), rng.random((20, 9)) < 0.4
    losses = rng.integers(0, 4, (20, 4))
    score = hd.lds(scores, left_out, losses)
    for q in range(4):
        expected = scipy.stats.spearmanr(-left_out.astype(int) @ scores[q], losses[:, q]).statistic
        np.testing.assert_allclose(score.each[q], expected, rtol=1e-12)
    assert str(score) == f"{score.each.mean():.3f} ± {score.half_width:.3f}"
    assert hd.lds(scores, left_out, 0 * losses).mean == 0


def test_bad_arguments_are_named():
    good = PROBLEM, ONES, WEIGHTS, INDEX
    for together in (0, 1.5, "2"):
        with pytest.raises(ValueError, match="together="):
            hd.influence(*good, QUERIES, together=together)
    with pytest.raises(ValueError, match="queries: expected one leading axis"):
        hd.influence(*good, (TEST, Y))
    with pytest.raises(ValueError, match=r"left_out is float64\[2, 3\]: expected bool \[R, 80\]"):
        hd.leave_out(*good, jnp.ones((2, 3)), QUERIES)
    with pytest.raises(ValueError, match="a weight for each example"):
        hd.leave_out(PROBLEM, {"a": ONES}, *good[2:], jnp.ones((2, N), bool), QUERIES)
    with pytest.raises(ValueError, match=r"expected \[Q, N\], \[R, N\] and \[R, Q\]"):
        hd.lds(np.ones((2, 3)), np.ones((4, 3), bool), np.ones((4, 3)))
    with pytest.raises(ValueError, match="expected three at least"):
        hd.lds(np.ones((2, 3)), np.ones((2, 3), bool), np.ones((2, 2)))
