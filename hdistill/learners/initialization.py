"""Rules by which the initial weights φ learn: Reptile, FOMAML, MAML, or not at all."""

import numbers
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.optimizers import check_optimizer
from hdistill.checks.values import check_positive
from hdistill.problem import InnerState
from hdistill.products import outer_pullback
from hdistill.tree import dtype_of, is_real, split


class Initialization(NamedTuple):
    """A rule for φ: a gradient for each task, averaged over the meta-batch, and an optimizer.

    Attributes:
      gradient: `(problem, initial, final, hparams, outer_batch) -> list`, one array for each
        floating-point leaf of φ's parameters; None where it is the exact one, `OfflineInfo.start`.
      optimizer: optax transformation that applies the mean of those gradients.

    Of `InnerState` weights only the parameters learn: each inner optimisation starts with the
    optimizer state that `learner.init` was given.
    """

    gradient: Callable | None
    optimizer: optax.GradientTransformation


def reptile(learning_rate: float = 1.0) -> Initialization:
    """φ ← φ + learning_rate · mean over tasks of (w_T - φ) (Nichol et al. 2018).

    Infinite entries of φ (the -inf of an attention mask, a best loss that begins at inf) stay.

    Examples:
      >>> learner = hd.learner(
      ...     problem,
      ...     hd.offline.drmad,
      ...     hyper_optimizer=optax.adam(0.1),
      ...     initialization=hd.reptile(0.5),
      ...     horizon=20,
      ... )
      >>> state = learner.init(jax.random.key(0), hparams, weights)
      >>> state, info = learner.step(state, tasks)
      >>> print(state.weights.params)
      [ 1.18  0.84 -0.09]

    Raises:
      ValueError: a learning rate that is not a positive number.
    """
    check_positive("learning_rate", learning_rate)

    def gradient(problem, initial, final, hparams, outer_batch):
        pairs = zip(params_of(initial), params_of(final))
        return [jnp.where(jnp.isinf(before), 0, before - after) for before, after in pairs]

    return Initialization(gradient, optax.sgd(learning_rate))


def maml(optimizer: optax.GradientTransformation | float) -> Initialization:
    """φ moves along the exact mean of dL_val(w_T(φ), λ)/dφ (MAML, Finn et al. 2017).

        dL_val/dφ = α_T A_T ... A_1

    the last cotangent of reverse mode, so that it costs nothing beside `hd.offline.reverse_mode`,
    the estimator that it needs (without a window, and without a surrogate for the exact one). What
    Φ hands on unchanged does not learn by it: such leaves are better a part of λ. With
    `every=n` of the learner it is the derivative of the sum of the losses at w_n, w_2n, ..., as in
    MAML++ (Antoniou et al. 2019) with equal weights.

    Examples:
      >>> learner = hd.learner(
      ...     problem,
      ...     hd.offline.reverse_mode,
      ...     hyper_optimizer=optax.adam(0.1),
      ...     initialization=hd.maml(optax.adam(1e-3)),
      ...     horizon=20,
      ... )
      >>> state = learner.init(jax.random.key(0), hparams, weights)
      >>> state, info = learner.step(state, tasks)
      >>> print(state.weights.params)
      [1. 1. 1.]

    Args:
      optimizer: optax transformation for φ, or the learning rate of plain SGD.

    Raises:
      ValueError: an optimizer that is neither; from `hd.learner`, another estimator.
    """
    return Initialization(None, _optimizer(optimizer))


def fomaml(optimizer: optax.GradientTransformation | float) -> Initialization:
    """φ moves along the mean of ∂L_val(w_T, λ)/∂w (first-order MAML, Finn et al. 2017).

    Examples:
      >>> learner = hd.learner(
      ...     problem,
      ...     hd.offline.drmad,
      ...     hyper_optimizer=optax.adam(0.1),
      ...     initialization=hd.fomaml(optax.adam(1e-3)),
      ...     horizon=20,
      ... )
      >>> state = learner.init(jax.random.key(0), hparams, weights)
      >>> state, info = learner.step(state, tasks)
      >>> print(state.weights.params)
      [1. 1. 1.]

    Args:
      optimizer: optax transformation for φ, or the learning rate of plain SGD.

    Raises:
      ValueError: an optimizer that is neither.
    """

    def gradient(problem, initial, final, hparams, outer_batch):
        _, alpha, _ = outer_pullback(problem, final, hparams, outer_batch)
        return params_of(split(final)[1](alpha))

    return Initialization(gradient, _optimizer(optimizer))


def _optimizer(optimizer) -> optax.GradientTransformation:
    if isinstance(optimizer, numbers.Number | str | None):
        return optax.sgd(check_positive("optimizer", optimizer))
    check_optimizer("optimizer", optimizer)
    return optimizer


def params_of(weights) -> list:
    """The leaves that learn: those of the weights, or of an `InnerState`'s params."""
    return _learning(weights)[0]


def with_params(weights, params: list):
    """The weights with those leaves replaced."""
    learnt = _learning(weights)[1](params)
    return weights._replace(params=learnt) if isinstance(weights, InnerState) else learnt


def gradients_of(weights, start) -> list:
    """The entries of `OfflineInfo.start` for `params_of(weights)`, 0 where it has none."""
    weights, start = (x.params if isinstance(x, InnerState) else x for x in (weights, start))
    pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(start, is_leaf=lambda x: x is None))
    return [jnp.zeros_like(x) if g is None else g for x, g in pairs if _learns(x)]


def _learns(leaf) -> bool:
    """Tells whether a leaf is of floating point, of more than 8 bits."""
    return is_real(leaf) and dtype_of(leaf).itemsize > 1


def _learning(weights):
    """(the leaves that learn, a function that puts such back)."""
    params = weights.params if isinstance(weights, InnerState) else weights
    leaves, structure = jax.tree.flatten(params)
    which = [_learns(x) for x in leaves]

    def merge(chosen):
        chosen = iter(chosen)
        return structure.unflatten(next(chosen) if w else x for w, x in zip(which, leaves))

    return [x for x, w in zip(leaves, which) if w], merge
