"""A learning rate for each of 1,761 parameters of a Flax NNX network, meta-learned over tasks.

    python -m experiments.recipes.nnx_learning_rates

Tasks are sine curves to be fitted from ten points in five steps, from one start. λ is the log of
each parameter's rate, and the start is learned beside it. What to take from here: an NNX module as
weights (`nnx.split`, `nnx.merge`), your own Φ, and λ of the structure of the parameters.

References:
  Li et al., "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import hdistill as hd

POINTS, INNER_STEPS, META_BATCH = 10, 5, 16


class Network(nnx.Module):
    """1-40-40-1 with ReLU."""

    def __init__(self, rngs):
        self.first = nnx.Linear(1, 40, rngs=rngs)
        self.second = nnx.Linear(40, 40, rngs=rngs)
        self.last = nnx.Linear(40, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.second(nnx.relu(self.first(x)))))


GRAPH, START = nnx.split(Network(nnx.Rngs(0)))


def loss(params, points):
    x, y = points
    return jnp.mean((nnx.merge(GRAPH, params)(x) - y) ** 2)


def update(params, log_rates, points):
    """Φ: gradient descent, each parameter at its own rate."""
    gradient = jax.grad(loss)(params, points)
    return jax.tree.map(lambda w, g, r: w - jnp.exp(r) * g, params, gradient, log_rates)


PROBLEM = hd.Problem(update, lambda params, log_rates, points: loss(params, points))


def sample_tasks(key):
    """(ten points to fit, ten to test on) of META_BATCH curves."""
    keys = jax.random.split(key, 3)
    height = jax.random.uniform(keys[0], (META_BATCH, 1, 1), minval=0.1, maxval=5.0)
    shift = jax.random.uniform(keys[1], (META_BATCH, 1, 1), maxval=jnp.pi)
    x = jax.random.uniform(keys[2], (META_BATCH, 2 * POINTS, 1), minval=-5.0, maxval=5.0)
    y = height * jnp.sin(x + shift)
    return (x[:, :POINTS], y[:, :POINTS]), (x[:, POINTS:], y[:, POINTS:])


def learn(meta_steps, rate):
    """(λ, start) after meta-training; λ moves unless its rate is 0."""
    learner = hd.learner(
        PROBLEM,
        hd.offline.reverse_mode,
        hyper_optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        initialization=hd.fomaml(optax.adam(2e-3)),
        horizon=INNER_STEPS,
        every=1,
    )
    log_rates = jax.tree.map(lambda w: jnp.full_like(w, jnp.log(0.02)), START)
    state = learner.init(jax.random.key(0), log_rates, START)
    for m in range(meta_steps):
        state, _ = learner.step(state, sample_tasks(jax.random.key(m)))
    return state.hparams, state.weights


def compare(meta_steps=4000):
    """(λ, test error of new tasks by what was learnt)."""
    tasks = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]),
        jax.vmap(sample_tasks)(jax.random.split(jax.random.key(10**6), 30)),
    )
    errors, log_rates = {}, None
    for name, rate in (("only the start", 0.0), ("start and rates", 3e-3)):
        log_rates, start = learn(meta_steps, rate)
        test = hd.evaluate(PROBLEM, log_rates, start, tasks, horizon=INNER_STEPS)
        errors[name] = float(test.mean())
    return log_rates, errors


def main():
    log_rates, errors = compare()
    for name, error in errors.items():
        print(f"{name}: error of new tasks after {INNER_STEPS} steps {error:.3f}")
    for layer in ("first", "second", "last"):
        rates = jnp.exp(log_rates[layer]["kernel"][...])
        low, high = jnp.percentile(rates, jnp.array([5, 95]))
        print(f"{layer} kernel: rates from {low:.4f} to {high:.4f} (5th, 95th percentile)")


if __name__ == "__main__":
    main()
