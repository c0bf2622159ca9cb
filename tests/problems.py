"""Problems with known answers, for tests: a quadratic in closed form and a small MLP."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd

LEARNING_RATE = 0.1
OPTIMIZERS = {
    "sgd": optax.sgd(LEARNING_RATE),
    "momentum": optax.sgd(LEARNING_RATE, momentum=0.9),
    # eps inside Adam's root as well: its derivative is infinite where a gradient is 0 exactly.
    "adam": optax.adam(LEARNING_RATE, eps_root=1e-8),
}


OFFLINE = {
    "first_order": hd.offline.first_order,
    "one_step": hd.offline.one_step,
    "forward_mode": hd.offline.forward_mode,
    "forward_mode directions": functools.partial(
        hd.offline.forward_mode, directions=2, key=jax.random.key(3)
    ),
    "reverse_mode": hd.offline.reverse_mode,
    "reverse_mode checkpoint": functools.partial(hd.offline.reverse_mode, checkpoint=True),
    "reverse_mode snapshots": functools.partial(hd.offline.reverse_mode, snapshots=2),
    "reverse_mode window": functools.partial(hd.offline.reverse_mode, window=2),
    "drmad": hd.offline.drmad,
    "implicit neumann": hd.offline.implicit,
    "implicit cg": functools.partial(hd.offline.implicit, solver="cg"),
    "implicit exact": functools.partial(hd.offline.implicit, solver="exact"),
    "implicit identity": functools.partial(hd.offline.implicit, solver="identity"),
}
ONLINE = {
    "first_order": hd.online.first_order,
    "one_step": hd.online.one_step,
    "forward_mode": hd.online.forward_mode,
    "forward_mode directions": functools.partial(hd.online.forward_mode, directions=2),
    "reverse_mode": functools.partial(hd.online.reverse_mode, window=4),
    "implicit": functools.partial(hd.online.implicit, solver="neumann", terms=3),
    "nres": functools.partial(hd.online.nres, directions=2),
    "greedy": functools.partial(hd.online.greedy, gamma=0.8),
    "hyperdistill": functools.partial(hd.online.hyperdistill, gamma=0.8),
    "robust_hyperdistill": hd.online.robust_hyperdistill,
    "hyperdistill fixed": functools.partial(hd.online.hyperdistill, gamma=0.8, size=1.0),
}


class Case(NamedTuple):
    """A problem and one set of arguments for it."""

    problem: hd.Problem
    hparams: object
    weights: object
    batches: object  # stacked [T, B, ...]
    outer_batch: object


class QuadraticConstants(NamedTuple):
    hessian: np.ndarray  # H [n, n], symmetric positive definite, eigenvalues in [0.5, 2]
    coupling: np.ndarray  # C [n, k]


def quadratic_constants(weights=4, hparams=3, seed=0) -> QuadraticConstants:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(weights, weights)))
    hessian = basis @ np.diag(np.linspace(0.5, 2.0, weights)) @ basis.T
    return QuadraticConstants(hessian, rng.normal(size=(weights, hparams)))


def quadratic(optimizer="sgd", horizon=8, batch=6, dtype=jnp.float64, seed=0) -> Case:
    """L_train = ½ wᵀHw - wᵀ(Cλ + mean of D), L_val = ½‖w - mean of V‖² + ½‖λ‖²."""
    hessian, coupling = (jnp.asarray(x, dtype) for x in quadratic_constants())

    def inner_loss(w, h, d):
        return 0.5 * w @ hessian @ w - w @ (coupling @ h + d.mean(0))

    def outer_loss(w, h, v):
        return 0.5 * jnp.sum((w - v.mean(0)) ** 2) + 0.5 * jnp.sum(h**2)

    rng = np.random.default_rng(seed + 1)
    params, hparams, batches, outer = (
        jnp.asarray(rng.normal(size=s), dtype)
        for s in [(4,), (3,), (horizon, batch, 4), (batch, 4)]
    )
    optimizer = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    weights = hd.InnerState(params, optimizer.init(params))
    return Case(hd.from_losses(inner_loss, outer_loss, optimizer), hparams, weights, batches, outer)


class Data(NamedTuple):
    x: jax.Array  # [B, 2]
    y: jax.Array  # [B]


def mlp(optimizer="sgd", horizon=6, batch=5, dtype=jnp.float64, seed=0) -> Case:
    """A tanh MLP with awkward trees: w a dict with a list, λ a dict with a tuple, D a NamedTuple.

    λ holds input scales (inside the network), a log weight decay and an output shift that the
    outer loss sees directly.
    """

    def predict(w, h, x):
        hidden = jnp.tanh((x * h["scale"][None]) @ w["layers"][0] + w["layers"][1][None])
        return hidden @ w["head"] + h["nested"][0]

    def inner_loss(w, h, d):
        decay = sum(jnp.sum(x**2) for x in jax.tree.leaves(w))
        return jnp.mean((predict(w, h, d.x) - d.y) ** 2) + jnp.exp(h["nested"][1]) * decay

    def outer_loss(w, h, d):
        return jnp.mean((predict(w, h, d.x) - d.y) ** 2)

    rng = np.random.default_rng(seed + 2)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    params = {"layers": [0.5 * normal(2, 3), normal(3)], "head": normal(3)}
    hparams = {"scale": 1 + 0.1 * normal(2), "nested": (0.1 * normal(), normal() - 3)}
    batches = Data(normal(horizon, batch, 2), normal(horizon, batch))
    optimizer = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    weights = hd.InnerState(params, optimizer.init(params))
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    return Case(problem, hparams, weights, batches, Data(normal(batch, 2), normal(batch)))


CASES = {"quadratic": quadratic, "mlp": mlp}


def grad_of_unroll(case: Case, last=None):
    """The oracle: `jax.grad` of L_val through a Python loop over Φ.

    Args:
      last: how many of the last steps λ acts through (traced, if you like); None for all.

    Returns:
      (total, first_order), the first with λ live in those steps and in L_val.
    """
    problem, hparams, weights, batches, outer_batch = case
    horizon = jax.tree.leaves(batches)[0].shape[0]
    last = horizon if last is None else last

    def value(h):
        w = weights
        for t in range(horizon):
            live = t >= horizon - last
            used = jax.tree.map(lambda x, fixed: jnp.where(live, x, fixed), h, hparams)
            w = problem.update(w, used, jax.tree.map(lambda x: x[t], batches))
        return problem.outer_loss(w, h, outer_batch)

    final = hd.unroll(problem, hparams, weights, batches)
    return jax.grad(value)(hparams), jax.grad(problem.outer_loss, 1)(final, hparams, outer_batch)


def assert_close(actual, expected, rtol):
    """Relative to the largest entry of the whole expected tree."""
    actual, expected = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (actual, expected)
    )
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.abs(expected).max())


def transitions(case):
    """The transitions of an inner optimisation with λ fixed."""
    problem, hparams, weights, batches, outer_batch = case
    for t in range(jax.tree.leaves(batches)[0].shape[0]):
        batch = jax.tree.map(lambda x: x[t], batches)
        current = problem.update(weights, hparams, batch)
        yield hd.Transition(weights, current, hparams, batch, outer_batch)
        weights = current


TASKS = 3


def make_tasks(count=TASKS, size=6):
    """Tasks of the quadratic: pools of inner and outer examples, each [count, 12, 4]."""
    rng = np.random.default_rng(11)
    return tuple(jnp.asarray(rng.normal(size=(count, 2 * size, 4))) for _ in range(2))


def sample(half, key, task):
    """Six examples of a half of the task, drawn with replacement."""
    return task[half][jax.random.randint(key, (6,), 0, task[half].shape[0])]


SAMPLERS = {
    "sample_inner": functools.partial(sample, 0),
    "sample_outer": functools.partial(sample, 1),
}


def data_problem():
    """A problem in which data, λ and w all meet in ∂Φ/∂λ, with momentum."""
    optimizer = optax.sgd(0.1, momentum=0.5)

    def inner_loss(w, h, d):
        return 0.5 * jnp.sum((w - (1 + h.sum()) * d.mean(0)) ** 2) + h[0] * jnp.sum(jnp.sin(w))

    def outer_loss(w, h, d):
        return 0.5 * jnp.sum((w - d.mean(0)) ** 2) + 0.05 * jnp.sum(h**2)

    params = jnp.array([0.5, -0.3, 0.2, 0.9])
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    return problem, jnp.array([0.1, -0.2, 0.3]), hd.InnerState(params, optimizer.init(params))
