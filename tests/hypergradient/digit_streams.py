"""Streams on digits, with and without the refusal of fitted sizes.

150 handwritten digits (8x8), a network of 64 tanh units, SGD 0.1 on batches of 50; λ is the log
weight decay and the logit of the label smoothing, by Adam. θ is fitted before every fifth stretch
of T steps. Rules: "literal" takes every θ; "refuse" is `hd.stream`'s (θ finite and above 0);
"and large" refuses θ S_T > T (T + 1) / 2 too, more one-step terms than g^SO can have.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd

DIGITS = pathlib.Path(__file__).parent / "digits.npz"
CHANCE = 0.2  # an accuracy below is no better than chance, 0.1, and its noise


def largest_size(gamma: float, stretch: int) -> float:
    """θ at which θ S_T is T (T + 1) / 2."""
    return stretch * (stretch + 1) / 2 / sum(gamma**k for k in range(stretch))


def with_rule(estimator, rule: str, largest: float):
    """The estimator with another idea of which θ is refused."""
    judged = {
        "literal": lambda theta: jnp.ones_like(theta),
        "refuse": lambda theta: theta,
        "and large": lambda theta: jnp.where(theta > largest, -1.0, theta),
    }[rule]
    return estimator._replace(fit=estimator.fit._replace(theta_of=judged))


def logits(params, images):
    hidden = jnp.tanh(images @ params["w0"] + params["b0"][None])
    return hidden @ params["w1"] + params["b1"][None]


def cross_entropy(params, images, targets):
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits(params, images)), -1))


def inner_loss(params, hparams, batch):
    images, targets = batch
    smoothing = jax.nn.sigmoid(hparams["smoothing"])
    decay = jnp.exp(hparams["decay"]) * sum(jnp.sum(v**2) for v in jax.tree.leaves(params))
    return cross_entropy(params, images, (1 - smoothing) * targets + smoothing / 10) + decay


def outer_loss(params, hparams, batch):
    return cross_entropy(params, *batch)


def halves():
    """(training, validation, test), each (images float32 [150, 64], one-hot labels [150, 10])."""
    data = np.load(DIGITS)
    images = jnp.asarray(data["images"] / 16, jnp.float32)
    labels = jax.nn.one_hot(data["labels"], 10, dtype=jnp.float32)
    return [(images[i : i + 150], labels[i : i + 150]) for i in (0, 150, 300)]


def first_params(key):
    keys, single = jax.random.split(key), jnp.float32
    return {
        "w0": jax.random.normal(keys[0], (64, 64), single) / 8,
        "b0": jnp.zeros(64, single),
        "w1": jax.random.normal(keys[1], (64, 10), single) / 8,
        "b1": jnp.zeros(10, single),
    }


def sample(key, task):
    """Fifty of the training examples."""
    index = jax.random.randint(key, (50,), 0, task[0][0].shape[0])
    return task[0][0][index], task[0][1][index]


def run_streams(rule, *, stretch, gamma, momentum, rate, steps, seeds):
    """(test accuracy [seeds], last outer loss [seeds], θ and FitStatus [seeds, stretches])."""
    *task, test = halves()
    optimizer = optax.sgd(0.1, momentum=momentum)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    estimator = hd.online.hyperdistill(problem, gamma=gamma)
    # `info.theta` is what the rule makes of θ: the θ in use is in the stream's state.
    built = hd.stream(
        problem,
        with_rule(estimator, rule, largest_size(gamma, stretch)),
        hyper_optimizer=optax.adam(rate),
        steps=stretch,
        fit_period=5,
        sample_inner=sample,
    )

    def step(state, _):
        state, info = built.step(state, task)
        return state, (state.theta, info.fit, info.outer_loss[-1])

    def run(seed):
        params = first_params(jax.random.key(seed))
        hparams = {"decay": jnp.float32(-7), "smoothing": jnp.float32(-3)}
        weights = hd.InnerState(params, optimizer.init(params))
        state = built.init(jax.random.key(seed + 100), hparams, weights, task)
        state, (theta, fit, loss) = jax.lax.scan(step, state, length=steps // stretch)
        right = logits(state.weights.params, test[0]).argmax(-1) == test[1].argmax(-1)
        return jnp.mean(right), loss[-1], theta, fit

    return map(np.asarray, jax.jit(jax.vmap(run))(jnp.arange(seeds)))
