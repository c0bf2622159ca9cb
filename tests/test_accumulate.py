"""Micro-batches: the whole batch's loss, gradients and products, in the memory of a part."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.products import inner_pullback
from hdistill.tree import split
from tests.problems import assert_close

RNG = np.random.default_rng(0)
WIDTH = 32
PARAMS = [jnp.asarray(RNG.normal(size=(WIDTH, WIDTH)) / 6) for _ in range(3)]
BATCH = jnp.asarray(RNG.normal(size=(512, WIDTH))), jnp.asarray(RNG.normal(size=(512, WIDTH)))


def loss(params, hparams, batch):
    x = batch[0]
    for w in params:
        x = jnp.tanh(x @ w)
    return jnp.mean((x - batch[1]) ** 2) + hparams * sum(jnp.sum(w**2) for w in params)


def pullback(parts):
    inner = loss if parts is None else hd.accumulate(loss, parts)
    optimizer = optax.sgd(0.1, momentum=0.9)
    problem = hd.from_losses(inner, loss, optimizer)
    weights = hd.InnerState(PARAMS, optimizer.init(PARAMS))
    given = weights, jnp.array(0.1), BATCH, split(weights)[0]
    program = jax.jit(lambda w, h, b, alpha: inner_pullback(problem, w, h, b, alpha))
    compiled = program.lower(*given).compile()
    return compiled(*given), compiled.memory_analysis().temp_size_in_bytes


def test_products_are_the_whole_batch_s_in_the_memory_of_a_part():
    whole, memory = pullback(None)
    parts, less = pullback(8)
    assert_close(parts, whole, 1e-12)
    assert less < memory / 4
    other = hd.accumulate(lambda p, h, b: 2 * loss(p, h, b), 8)
    with pytest.raises(AssertionError):
        assert_close(other(PARAMS, 0.1, BATCH), loss(PARAMS, 0.1, BATCH), 1e-3)


@pytest.mark.parametrize(
    "parts, words", [(0, "parts=0"), (7, "parts=7: expected a divisor of the batch's 512 examples")]
)
def test_bad_parts_are_named(parts, words):
    with pytest.raises(ValueError, match=words):
        hd.accumulate(loss, parts)(PARAMS, 0.1, BATCH)


def test_a_batch_without_a_leading_axis_is_named():
    with pytest.raises(ValueError, match="batch"):
        hd.accumulate(loss, 2)(PARAMS, 0.1, (jnp.zeros(()), jnp.zeros(4)))
