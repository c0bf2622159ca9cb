"""Checks of optax transformations, and their calls with errors in our words."""

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.values import (
    describe,
)


class OptimizerError(ValueError):
    """An error of an optimizer that names its argument already: it is handed on as it is."""


def check_optimizer(name: str, optimizer) -> None:
    """An optax transformation."""
    if isinstance(optimizer, optax.GradientTransformation):
        return
    hint = ""
    if hasattr(optimizer, "gradient_transformation"):  # optax.MultiSteps
        hint = f"; take its {name}.gradient_transformation()"
    elif callable(optimizer):
        hint = "; call it, as optax.sgd(0.1)"
    raise ValueError(f"{name}={optimizer!r}: expected an optax transformation{hint}")


def check_stateless(name: str, optimizer, params=None):
    """An optax transformation that carries nothing. Returns its empty state.

    Args:
      params: what it is for; None where that is not known yet, and then not every state shows.
    """
    try:
        state = begin(name, optimizer, jnp.zeros(()) if params is None else params)
    except ValueError:
        if params is None:  # it may be made for a tree of another structure
            return None
        raise
    if jax.tree.leaves(state):
        raise ValueError(
            f"{name}={optimizer!r}: expected an optax transformation without state, such as "
            f"optax.sgd(rate), but its init returned {jax.tree.map(describe, state)}"
        )
    return state


def begin(name: str, optimizer, params):
    """`optimizer.init` of the parameters."""
    try:
        return optimizer.init(params)
    except OptimizerError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        structure = jax.tree.structure(params)
        raise ValueError(
            f"{name}={optimizer!r}: expected an optax transformation for a tree of {structure}, "
            f"but {error}"
        ) from error


def transform(name: str, optimizer, gradient, state, params, **extra):
    """`optimizer.update` of gradients, state and parameters, all that there is to give it.

    Args:
      extra: for the transformations among its parts that take it, as `hd.schedule` takes λ.
    """
    if extra:
        optimizer = optax.with_extra_args_support(optimizer)
    try:
        return optimizer.update(gradient, state, params, **extra)
    except OptimizerError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name}={optimizer!r}: expected an optax transformation that needs gradients, state "
            f"and parameters only, and the state that its init(params) gives, but {error}"
        ) from error
