"""Checks of Φ, L_val and optimizers, by shapes only: nothing is computed or compiled."""

import contextlib
import numbers
import warnings

import jax
import jax.numpy as jnp

from hdistill.checks.reach import reaching_hparams
from hdistill.checks.values import (
    LARGEST,
    Signature,
    check_arrays,
    check_calls,
    check_hparams,
    check_weights,
    describe,
    is_concrete,
    named,
    outside,
)
from hdistill.tree import dtype_of, is_real, shapes


class NonFiniteWarning(UserWarning):
    """A hypergradient that is nan or infinite came out of a call outside `jax.jit`."""


class ZeroHypergradientWarning(UserWarning):
    """A hyperparameter can get no hypergradient from the method chosen, whatever the values."""


def check_functions(problem) -> None:
    """A `Problem`: two functions."""
    for name in ("update", "outer_loss"):
        function = getattr(problem, name, None)
        if not callable(function):
            raise ValueError(
                f"problem={problem!r}: expected hd.Problem(update, outer_loss) or "
                f"hd.from_losses(...); its {name} is not a function"
            )
        check_calls(f"problem.{name}", function, "(weights, hparams, batch)")
    if getattr(problem, "surrogate", None) is not None:
        check_calls("problem.surrogate", problem.surrogate, "(weights, hparams, batch)")


def check_update(problem, hparams, weights, batch) -> None:
    """Φ, and its surrogate if there is one, keep the weights' structure, shapes and dtypes."""
    for field in ("update", "surrogate"):
        function = getattr(problem, field)
        if function is not None:
            name = f"problem.{field}(weights, hparams, batch)"
            Signature.of(weights).check(name, _result(name, function, weights, hparams, batch))


def check_problem(problem, hparams, weights, batch, outer_batch) -> None:
    """Φ keeps the weights' structure, shapes and dtypes; L_val is a scalar; λ is floating point."""
    check_functions(problem)
    check_hparams(hparams)
    check_weights(weights)
    warn_if_empty("batch", batch)
    warn_if_empty("outer_batch", outer_batch)
    for path, leaf in named(weights, "weights"):
        if jnp.issubdtype(dtype_of(leaf), jnp.complexfloating):
            raise ValueError(f"{path} has dtype {dtype_of(leaf)}: expected real weights")
    check_update(problem, hparams, weights, batch)
    name = "problem.outer_loss(weights, hparams, batch)"
    loss = _result(name, problem.outer_loss, weights, hparams, outer_batch)
    if not jax.tree_util.all_leaves([loss]) or loss.shape or not is_real(loss):
        shown = jax.tree.map(describe, loss)
        raise ValueError(f"{name} returned {shown}: expected a real scalar")


def _result(name: str, function, *arguments):
    """The shapes of what a function returns, which must be arrays.

    A Python number among them is a constant, through which no derivative passes.
    """

    def call(*arguments):
        result = function(*arguments)
        for path, leaf in named(result, name):
            if isinstance(leaf, numbers.Number):
                raise ValueError(
                    f"{path} returned the Python number {leaf!r}: expected an array that depends "
                    "on the arguments (jnp.asarray(...) for a constant)"
                )
        check_arrays(name, result)
        return result

    try:
        return jax.eval_shape(call, *shapes(arguments))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        weights, hparams, batch = (jax.tree.map(describe, x) for x in shapes(arguments))
        reason = str(error).splitlines()[0].rstrip(".")
        if isinstance(error, KeyError):
            reason = f"there is no {reason}"
        if isinstance(error, jax.errors.JAXTypeError):
            reason = "it asks for the values of traced arrays, as NumPy, float(), int() and `if` do"
        raise ValueError(
            f"{name} fails, {reason}. Expected a function that JAX can trace for "
            f"weights={weights}, hparams={hparams}, batch={batch}"
        ) from error


def warn_if_empty(name: str, batch) -> None:
    """Warns of a batch all of whose leaves are empty: without edges a graph still has nodes."""
    leaves = named(batch, name)
    if leaves and all(0 in jnp.shape(leaf) for _, leaf in leaves):
        path, leaf = leaves[0]
        warnings.warn(
            f"{path} has shape {jnp.shape(leaf)}: expected at least one example",
            stacklevel=outside(),
        )


@contextlib.contextmanager
def differentiating():
    """Says in our words where Φ or L_val calls back to Python."""
    try:
        yield
    except (NotImplementedError, TypeError, ValueError) as error:
        if "callback" not in str(error).lower():
            raise
        raise ValueError(
            "problem.update or problem.outer_loss calls back to Python (jax.pure_callback or "
            "jax.experimental.io_callback): expected a function with a derivative; give the "
            f"callback one by jax.custom_vjp, or load data in batches(t) ({error})"
        ) from error


def warn_if_zero(problem, hparams, weights, batch, outer_batch, depth: int, method: str) -> None:
    """Warns of hyperparameters that the method can give no hypergradient, whatever the values.

    Args:
      depth: how many steps of Φ the method sees: 0 for first-order, 1 for the one-product methods,
        T for full-horizon ones.
      method: the name to use in the warning.
    """
    try:
        reached = reaching_hparams(problem, hparams, weights, batch, outer_batch, depth)
    except Exception:  # a kernel without the derivative that the trace takes; the method may not
        return
    zero = [path for (path, _), live in zip(named(hparams, "hparams"), reached) if not live]
    if zero:
        of = "" if problem.surrogate is None else " of the problem's surrogate"
        steps = f"{depth} inner step(s) at most" if depth <= LARGEST else "any number of steps"
        warnings.warn(
            f"{method}: the hypergradient of {', '.join(zero)} is structurally zero: no path leads "
            f"from there to the outer loss through {steps}{of}",
            ZeroHypergradientWarning,
            stacklevel=outside(),
        )


def warn_if_not_finite(method: str, result, info, weights) -> None:
    """Warns of a hypergradient that is not finite, with its first such leaf and what is likely."""
    if not is_concrete(info.finite):
        return
    with jax.transfer_guard("allow"):
        if bool(info.finite):
            return
        bad = [path for path, x in named(result.total, "hparams") if not jnp.isfinite(x).all()]
        lost = not jnp.isfinite(info.outer_loss).all()
    what = f"the hypergradient of {bad[0]} is" if bad else "the outer loss is"
    if lost:
        reason = "the inner optimisation diverged, or a batch has no examples"
    elif _divides_by_root(weights):
        reason = (
            "the optimizer divides by √v, which has no derivative at v = 0: give it an eps_root, "
            "as optax.adamw(1e-3, eps_root=1e-8)"
        )
    else:
        reason = "Φ or L_val has no finite derivative there (see hd.from_losses)"
    warnings.warn(f"{method}: {what} not finite; {reason}", NonFiniteWarning, stacklevel=outside())


def _divides_by_root(weights) -> bool:
    """Tells whether an optimizer's state among the weights has second moments, v."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    names = {getattr(key, "name", None) for path, _ in leaves for key in path}
    return bool(names & {"nu", "nu_max", "v", "v_row", "v_col"})
