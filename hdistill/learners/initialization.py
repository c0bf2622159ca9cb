"""How the initial weights φ learn from the inner optimisations: Reptile, FOMAML, or not at all."""

import numbers
from collections.abc import Callable
from typing import NamedTuple

import optax

from hdistill.checks import check_positive
from hdistill.problem import InnerState
from hdistill.problem_checks import check_optimizer
from hdistill.products import outer_pullback
from hdistill.tree import split


class Initialization(NamedTuple):
    """A rule for φ: a gradient for each task, averaged over the meta-batch, and an optimizer.

    Attributes:
      gradient: `(problem, initial, final, hparams, outer_batch) -> list`, one array for each
        floating-point leaf of φ's parameters.
      optimizer: optax transformation that applies the mean of those gradients.

    Of `InnerState` weights only the parameters learn: each inner optimisation starts with the
    optimizer state that `learner.init` was given.
    """

    gradient: Callable
    optimizer: optax.GradientTransformation


def reptile(learning_rate: float = 1.0) -> Initialization:
    """φ ← φ + learning_rate · mean over tasks of (w_T - φ) (Nichol et al. 2018).

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
        return optax.tree.sub(params_of(initial), params_of(final))

    return Initialization(gradient, optax.sgd(learning_rate))


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
      ValueError: neither.
    """
    if isinstance(optimizer, numbers.Number | str | None):
        optimizer = optax.sgd(check_positive("optimizer", optimizer))
    check_optimizer("optimizer", optimizer)

    def gradient(problem, initial, final, hparams, outer_batch):
        _, alpha, _ = outer_pullback(problem, final, hparams, outer_batch)
        return params_of(split(final)[1](alpha))

    return Initialization(gradient, optimizer)


def params_of(weights) -> list:
    """The floating-point leaves that learn: all of the weights', or an `InnerState`'s params'."""
    return split(weights.params if isinstance(weights, InnerState) else weights)[0]


def with_params(weights, params: list):
    """The weights with those leaves replaced."""
    if isinstance(weights, InnerState):
        return weights._replace(params=split(weights.params)[1](params))
    return split(weights)[1](params)
