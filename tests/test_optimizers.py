"""Optimizers whose first state is the parameters themselves: for λ, for φ, in a stream."""

import jax
import jax.numpy as jnp
import optax
import pytest

import hdistill as hd

OPTIMIZERS = {
    "prodigy": optax.contrib.prodigy(),
    "dog": optax.contrib.dog(),
    "mechanize": optax.contrib.mechanize(optax.sgd(0.1)),
    "cocob": optax.contrib.cocob(),
    "sam": optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05)),
    "schedule_free": optax.contrib.schedule_free_sgd(0.1),
}
PROBLEM = hd.from_losses(
    lambda p, h, b: jnp.sum((p - b) ** 2 + jnp.exp(h) * p**2),
    lambda p, h, b: jnp.sum((p - b) ** 2),
    optax.sgd(0.1),
)
WEIGHTS = hd.InnerState(jnp.ones(2), optax.sgd(0.1).init(jnp.ones(2)))
TASKS = jnp.ones((3, 2)), jnp.full((3, 2), 2.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("place", ["hyper_optimizer", "fomaml"])
def test_in_the_learner(name, place):
    optimizer = OPTIMIZERS[name]
    arguments = (
        {"hyper_optimizer": optimizer}
        if place == "hyper_optimizer"
        else {"hyper_optimizer": optax.sgd(0.1), "initialization": hd.fomaml(optimizer)}
    )
    built = hd.learner(PROBLEM, hd.online.one_step(PROBLEM), horizon=2, **arguments)
    state = built.init(jax.random.key(0), jnp.zeros(2), WEIGHTS)
    first = state.hparams + 0, state.weights.params + 0
    for _ in range(3):
        state, info = built.step(state, TASKS)
    assert info.finite.all()
    assert (state.hparams != first[0]).all()
    assert (state.weights.params != first[1]).any() == (place == "fomaml")


@pytest.mark.parametrize("name", ["prodigy", "mechanize"])
def test_in_a_stream(name):
    built = hd.stream(
        PROBLEM, hd.online.one_step(PROBLEM), hyper_optimizer=OPTIMIZERS[name], steps=2
    )
    task = jax.tree.map(lambda x: x[0], TASKS)
    state = built.init(jax.random.key(0), jnp.zeros(2), WEIGHTS, task)
    for _ in range(3):
        state, _ = built.step(state, task)
    assert (state.hparams != 0).all()
