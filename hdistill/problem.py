"""The bilevel problem: an inner update Φ and an outer loss, both pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks import check_count, check_update

PyTree = Any


class Problem(NamedTuple):
    """A bilevel problem w_t = Φ(w_{t-1}, λ; D_t), with outer loss L_val(w, λ).

    Attributes:
      update: Φ, `(weights, hparams, batch) -> weights`. Weights keep their structure, shapes and
        dtypes. Whatever Φ carries from step to step (momentum, Adam's moments) is part of weights.
      outer_loss: L_val, `(weights, hparams, batch) -> scalar`.

    Weights, hparams and batches are arbitrary pytrees; hparams (λ) are all floating point.
    """

    update: Callable[[PyTree, PyTree, PyTree], PyTree]
    outer_loss: Callable[[PyTree, PyTree, PyTree], jax.Array]


class InnerState(NamedTuple):
    """Weights of a problem built by `from_losses`: what the inner optimizer maps to itself."""

    params: PyTree
    opt_state: optax.OptState


def from_losses(
    inner_loss: Callable[[PyTree, PyTree, PyTree], jax.Array],
    outer_loss: Callable[[PyTree, PyTree, PyTree], jax.Array],
    optimizer: optax.GradientTransformation,
) -> Problem:
    """Builds the problem whose Φ is one step of an optax optimizer on the inner loss.

    The weights are `InnerState(params, opt_state)`, so that momentum is part of the state that Φ
    maps and every exact method differentiates through it. Start from
    `InnerState(params, optimizer.init(params))`.

    Args:
      inner_loss: L_train, `(params, hparams, batch) -> scalar`, twice differentiable.
      outer_loss: L_val, `(params, hparams, batch) -> scalar`.
      optimizer: any optax transformation whose update needs gradients and parameters alone (not
        `optax.lbfgs`, which also wants values).

    Returns:
      A `Problem` over `InnerState` weights.

    Warning: Adam and its kin divide by √v, whose derivative is infinite at v = 0: where an entry of
    the gradient has been exactly 0 since the start (a dead ReLU, an unused embedding) every exact
    method is nan, as `jax.grad` is. Give them `eps_root`, as `optax.adam(1e-3, eps_root=1e-8)`.

    Raises:
      ValueError: an optimizer of another kind.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"optimizer={optimizer!r}: expected an optax transformation")

    def update(weights: InnerState, hparams: PyTree, batch: PyTree) -> InnerState:
        if not isinstance(weights, InnerState):
            raise ValueError(
                f"weights is a {type(weights).__name__}: expected "
                "InnerState(params, optimizer.init(params)), since the problem is from_losses's"
            )
        gradient = jax.grad(inner_loss)(weights.params, hparams, batch)
        updates, opt_state = optimizer.update(gradient, weights.opt_state, weights.params)
        return InnerState(optax.apply_updates(weights.params, updates), opt_state)

    def outer(weights: InnerState, hparams: PyTree, batch: PyTree) -> jax.Array:
        return outer_loss(weights.params, hparams, batch)

    return Problem(update, outer)


def batch_stream(batches, horizon: int | None) -> tuple[Callable[[jax.Array], PyTree], int]:
    """Turns stacked batches, or a function of the step, into `(batch_at, horizon)`.

    Args:
      batches: a pytree of arrays [T, ...], or a function t -> batch for t = 0..T-1 (`batches(t)` is
        the paper's D_{t+1}), or None for a Φ without data.
      horizon: T. Needed where `batches` does not tell it.

    Raises:
      ValueError: leading axes that differ, a horizon that is missing, below 1 or not the batches'.
    """
    if horizon is not None:
        horizon = check_count("horizon", horizon)
    if callable(batches) or not jax.tree.leaves(batches):
        if horizon is None:
            raise ValueError("horizon=None: a function of the step, or no batches, needs horizon=T")
        return (batches if callable(batches) else lambda t: batches), horizon
    steps = leading_axis(batches, "batches")
    if horizon not in (None, steps):
        raise ValueError(f"horizon={horizon}: the stacked batches have a leading axis of {steps}")
    if steps < 1:
        raise ValueError("batches: the leading axis is 0, expected one batch for each inner step")
    return (lambda t: jax.tree.map(lambda x: jnp.asarray(x)[t], batches)), steps


def leading_axis(tree: PyTree, name: str) -> int:
    """The length of the leading axis that all leaves share, or a ValueError that names them."""
    sizes = {
        f"{name}{jax.tree_util.keystr(path)}": jnp.shape(leaf)[0] if jnp.ndim(leaf) else None
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    first = next(iter(sizes.values()), None)
    if first is None or set(sizes.values()) != {first}:
        raise ValueError(f"{name}: expected one leading axis shared by all leaves, got {sizes}")
    return first


def unroll(problem: Problem, hparams, weights, batches, horizon: int | None = None):
    """Runs the inner optimisation: w_t = Φ(w_{t-1}, λ; D_t) for t = 1..T.

    `jax.grad` through it is exact reverse mode with every intermediate value of Φ stored.

    Args:
      problem: Φ and L_val.
      hparams: λ, held fixed.
      weights: w_0.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      horizon: T, where `batches` does not tell it.

    Returns:
      w_T, of the structure of `weights`.

    Raises:
      ValueError: a Φ that changes the weights' structure, shapes or dtypes; batches or a horizon
        that do not fit together.
    """
    batch_at, horizon = batch_stream(batches, horizon)
    check_update(problem, hparams, weights, jax.eval_shape(batch_at, jnp.zeros((), jnp.int32)))
    return run(problem, hparams, weights, batch_at, jnp.arange(horizon))[0]


def run(problem: Problem, hparams, weights, batch_at, steps, keep: bool = False):
    """Φ over the given steps: (last weights, the weights *before* each step stacked, or None)."""

    def body(weights, t):
        return problem.update(weights, hparams, batch_at(t)), weights if keep else None

    if not steps.size:
        return weights, None
    return jax.lax.scan(body, weights, steps)
