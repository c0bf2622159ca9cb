"""Gradient steps that are learnt: Meta-SGD, Meta-Curvature and MT-net, on sinusoids of ten points.

    python -m experiments.recipes.few_shot_preconditioners

φ is the start that all tasks share, λ how the inner step goes: a rate for each parameter (Meta-SGD,
Li et al. 2017), two matrices around each layer's gradient (Meta-Curvature, Park and Oliva 2019), or
a matrix after each layer with a mask over its units, drawn for each task (MT-net, Lee and Choi
2018). What to take from here: an inner step written as an `hd.Problem`, of which λ may be any part,
its forward pass included; noise as part of a task's batch; `hd.maml` for φ.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import hdistill as hd
from experiments.recipes.few_shot_sinusoids import ADAM, WIDTH, init, sample_tasks

RATE, TEMPERATURE, INNER_STEPS, META_STEPS = 0.01, 0.5, 5, 1500


class Kind(NamedTuple):
    """A way to step.

    Attributes:
      start: φ -> λ, with which a step is plain gradient descent, masked at random (MT-net).
      turn: (gradient of a layer, its λ, its noise) -> the direction of its step.
      warp: (output of a layer, its λ) -> what goes on.
    """

    start: Callable
    turn: Callable
    warp: Callable = lambda x, hparams: x


def rates(params):
    """The log of a factor on each parameter's rate."""
    return jax.tree.map(jnp.zeros_like, params)


def by_rates(gradient, log_factors, noise):
    return jax.tree.map(lambda g, h: jnp.exp(h) * g, gradient, log_factors)


def identities(params):
    """A matrix for each side of each layer's matrix."""
    return [tuple(jnp.eye(n) for n in matrix.shape) for matrix, _ in params]


def by_curvature(gradient, sides, noise):
    (matrix, bias), (left, right) = gradient, sides
    return left @ matrix @ right, bias @ right


def masks(params):
    """A matrix after each layer, and the logit of each unit's mask."""
    return [(jnp.eye(len(bias)), jnp.zeros_like(bias)) for _, bias in params]


def by_masks(gradient, hparams, noise):
    """The units that the task draws move, the others rest; a draw has a derivative (Gumbel)."""
    mask, (matrix, bias) = jax.nn.sigmoid((hparams[1] + noise) / TEMPERATURE), gradient
    return mask[None] * matrix, mask * bias


KINDS = {
    "MAML": Kind(rates, by_rates),  # whose λ rests
    "Meta-SGD": Kind(rates, by_rates),
    "Meta-Curvature": Kind(identities, by_curvature),
    "MT-net": Kind(masks, by_masks, lambda x, hparams: x @ hparams[0]),
}


def make_problem(kind: Kind) -> hd.Problem:
    """Φ: gradient descent, turned by λ."""

    def loss(params, hparams, batch):
        x, y, _ = batch
        layers = list(zip(params, hparams, strict=True))
        for i, ((matrix, bias), h) in enumerate(layers):
            x = kind.warp(x @ matrix + bias[None], h)
            x = x if i == len(layers) - 1 else jnp.tanh(x)
        return jnp.mean((x - y) ** 2)

    def update(params, hparams, batch):
        gradient = jax.grad(loss)(params, hparams, batch)
        steps = map(kind.turn, gradient, hparams, batch[2])
        return [
            jax.tree.map(lambda p, d: p - RATE * d, w, dw)
            for w, dw in zip(params, steps, strict=True)
        ]

    return hd.Problem(update, loss)


def draw_tasks(key, count):
    """(points to fit, points to test on), each with the noise of its masks, a layer an entry."""
    sizes = (WIDTH, WIDTH, 1)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(sizes))
    noise = [jax.random.logistic(k, (count, n)) for k, n in zip(keys, sizes, strict=True)]
    return tuple((*points, noise) for points in sample_tasks(key, count))


def learn(name, seed, meta_steps=META_STEPS):
    """Meta-learns φ and λ; returns (λ, φ)."""
    kind, key = KINDS[name], jax.random.key(seed)
    learner = hd.learner(
        make_problem(kind),
        hd.offline.reverse_mode,
        hyper_optimizer=optax.set_to_zero() if name == "MAML" else ADAM,
        initialization=hd.maml(ADAM),
        horizon=INNER_STEPS,
    )
    params = init(jax.random.fold_in(key, META_STEPS))
    state = learner.init(key, kind.start(params), params)
    draw = jax.jit(draw_tasks, static_argnums=1)
    for m in range(meta_steps):
        state, _ = learner.step(state, draw(jax.random.fold_in(key, m), 25))
    return state.hparams, state.weights


def test_error(name, hparams, params):
    """The mean loss on 1,000 new tasks after INNER_STEPS steps."""
    tasks, problem = draw_tasks(jax.random.key(10_000), 1000), make_problem(KINDS[name])
    return float(hd.evaluate(problem, hparams, params, tasks, horizon=INNER_STEPS).mean())


def main(seeds=range(5)):
    for name in KINDS:
        errors = jnp.array([test_error(name, *learn(name, seed)) for seed in seeds])
        print(f"{name}: error of new tasks {errors.mean():.3f} ± {errors.std(ddof=1):.3f}")


if __name__ == "__main__":
    main()
