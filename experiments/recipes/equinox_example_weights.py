"""A weight for each training example of an Equinox network: which labels can be trusted?

    python -m experiments.recipes.equinox_example_weights

A third of 600 labels are wrong; 100 clean examples say what the network is for. λ is the logit of
each example's weight. What to take from here: an Equinox module as weights (`eqx.partition`,
`eqx.combine`), training again and again from the start with the exact hypergradient of all of it
(`every=`), and a plot of λ.

References:
  Franceschi et al., "Forward and Reverse Gradient-Based Hyperparameter Optimization", ICML 2017.
"""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import hdistill as hd

EXAMPLES, CLEAN, TEST, INNER_STEPS = 600, 100, 2000, 100

START, STATIC = eqx.partition(eqx.nn.MLP(2, 3, 32, 2, key=jax.random.key(0)), eqx.is_array)


def losses(params, points):
    """Cross entropy of each example, floating [B]."""
    x, y = points
    logits = jax.vmap(eqx.combine(params, STATIC))(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def inner_loss(params, hparams, points):
    return jnp.mean(jax.nn.sigmoid(hparams) * losses(params, points))


def outer_loss(params, hparams, points):
    return losses(params, points).mean()


def make_data(key):
    """(training set, clean set, test set, which labels of the first are wrong): three spirals."""
    keys = jax.random.split(key, 4)
    count = EXAMPLES + CLEAN + TEST
    y = jax.random.randint(keys[0], (count,), 0, 3)
    radius = jnp.sqrt(jax.random.uniform(keys[1], (count,)))
    angle = 2 * jnp.pi * y / 3 + 3 * radius
    x = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    x += 0.08 * jax.random.normal(keys[2], x.shape)
    wrong = jnp.arange(EXAMPLES) < EXAMPLES // 3
    shift = wrong * jax.random.randint(keys[3], (EXAMPLES,), 1, 3)
    ends = EXAMPLES, EXAMPLES + CLEAN
    train, clean, test = zip(jnp.split(x, ends), jnp.split(y, ends), strict=True)
    return (train[0], (train[1] + shift) % 3), clean, test, wrong


def learn(outer_steps=60):
    """(λ, data, test accuracy with the first λ, with the last)."""
    train, clean, test, _ = data = make_data(jax.random.key(0))
    optimizer = optax.adam(0.02, eps_root=1e-10)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    learner = hd.learner(
        problem,
        hd.offline.reverse_mode,
        hyper_optimizer=optax.adam(0.2),
        horizon=INNER_STEPS,
        every=10,
    )
    weights = hd.InnerState(START, optimizer.init(START))
    first = jnp.zeros(EXAMPLES)
    state = learner.init(jax.random.key(0), first, weights)
    for _ in range(outer_steps):  # one task: a meta-batch of one
        state, _ = learner.step(state, jax.tree.map(lambda x: x[None], (train, clean)))

    def accuracy(hparams):
        end = hd.unroll(problem, hparams, weights, lambda t: train, horizon=INNER_STEPS)
        logits = jax.vmap(eqx.combine(end.params, STATIC))(test[0])
        return float((logits.argmax(-1) == test[1]).mean())

    return state.hparams, data, accuracy(first), accuracy(state.hparams)


def plot(hparams, data):
    """The training set, each example as dark as its weight, and the weights."""
    (x, y), _, _, wrong = data
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    weight = jax.nn.sigmoid(hparams)
    axes[0].scatter(*x.T, c=y, cmap="Set1", alpha=weight, s=14)
    axes[0].set(title="training set, each example as dark as its weight", xticks=[], yticks=[])
    for name, which, color in (("right", ~wrong, "C0"), ("wrong", wrong, "C3")):
        axes[1].hist(weight[which], 30, range=(0, 1), alpha=0.6, label=name, color=color)
    axes[1].set(xlabel="learnt weight", ylabel="examples")
    axes[1].legend(title="label")
    return figure


def main():
    hparams, data, before, after = learn()
    judged = (hparams < 0) == data[-1]
    print(f"test accuracy: {before:.3f} with all weights equal, {after:.3f} with the learnt ones")
    print(f"{judged.mean():.1%} of the examples on the right side of 1/2")
    pathlib.Path("runs").mkdir(exist_ok=True)
    plot(hparams, data).savefig("runs/equinox_example_weights.svg")


if __name__ == "__main__":
    main()
