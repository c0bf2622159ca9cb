"""A weight decay for each parameter, learned offline: exact reverse mode at the end of training.

    python -m experiments.recipes.weight_decay

A linear model with more features than points to fit, most of the features noise. λ is the log of
the decay of each weight. What to take from here: `hd.from_losses` with your losses and your optax
optimizer, one jitted function that trains, differentiates and moves λ, and `hd.evaluate`, which
trains again with a λ and tests.
"""

import jax
import jax.numpy as jnp
import optax

import hdistill as hd

FEATURES, USEFUL, POINTS, INNER_STEPS = 40, 5, 30, 50
START = jnp.full(FEATURES, -4.0)  # λ: log of each weight's decay


def inner_loss(params, hparams, batch):
    x, y = batch
    return jnp.mean((x @ params - y) ** 2) + jnp.sum(jnp.exp(hparams) * params**2)


def outer_loss(params, hparams, batch):
    x, y = batch
    return jnp.mean((x @ params - y) ** 2)


def make_data(key):
    """(points to fit, points to choose λ by, points to test on) of one linear function."""
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (3, POINTS, FEATURES))
    y = x[..., :USEFUL].sum(-1) + 0.5 * jax.random.normal(noise_key, (3, POINTS))
    return zip(x, y, strict=True)


def learn(key, optimizer, outer_steps=100, hyper_optimizer=None):
    """Learns λ over whole training runs; (λ, test loss with the first λ, with the last)."""
    hyper_optimizer = hyper_optimizer or optax.adam(0.1)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    train, validation, test = make_data(key)
    params = jnp.zeros(FEATURES)
    weights = hd.InnerState(params, optimizer.init(params))

    @jax.jit
    def step(hparams, hyper_state):
        hypergradient = hd.offline.reverse_mode(
            problem, hparams, weights, lambda t: train, validation, horizon=INNER_STEPS
        )
        updates, hyper_state = hyper_optimizer.update(hypergradient.total, hyper_state, hparams)
        return optax.apply_updates(hparams, updates), hyper_state

    def test_loss(hparams):
        tasks = jax.tree.map(lambda x: x[None], (train, test))
        return float(hd.evaluate(problem, hparams, weights, tasks, horizon=INNER_STEPS)[0])

    hparams, hyper_state = START, hyper_optimizer.init(START)
    for _ in range(outer_steps):
        hparams, hyper_state = step(hparams, hyper_state)
    return hparams, test_loss(START), test_loss(hparams)


def main():
    hparams, before, after = learn(jax.random.key(0), optax.sgd(0.03, momentum=0.9))
    decays = jnp.exp(hparams)
    print(f"test loss: {before:.3f} with one decay for all, {after:.3f} with those learned")
    print(f"median decay of a useful weight {jnp.median(decays[:USEFUL]):.4f},", end=" ")
    print(f"of one of noise {jnp.median(decays[USEFUL:]):.4f}")


if __name__ == "__main__":
    main()
