"""Bad input, caught while tracing: a ValueError that names argument, value and expectation."""

import dataclasses
import numbers
import warnings

import jax
import jax.numpy as jnp

from hdistill.tree import dtype_of, is_real, shapes


class ZeroHypergradientWarning(UserWarning):
    """A hyperparameter can get no hypergradient from the method chosen, whatever the values."""


def check_gamma(gamma) -> float:
    """A decay γ in [0, 1], static."""
    if isinstance(gamma, bool) or not isinstance(gamma, numbers.Real) or not 0 <= float(gamma) <= 1:
        raise ValueError(f"gamma={gamma!r}: expected a Python number in [0, 1]")
    return float(gamma)


def check_positive(name: str, value) -> float:
    """A finite Python number above 0, static."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0 < value < float("inf"):
        raise ValueError(f"{name}={value!r}: expected a finite number > 0")
    return float(value)


def check_count(name: str, value, least: int = 1) -> int:
    """A static whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number >= {least}")
    return int(value)


def check_key(key) -> None:
    """A single typed PRNG key."""
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape:
        raise ValueError(f"key={key!r}: expected one typed key, jax.random.key(seed)")


def check_hparams(hparams) -> None:
    """Every hyperparameter is floating point."""
    for path, leaf in _named(hparams, "hparams"):
        if not is_real(leaf):
            raise ValueError(
                f"{path} has dtype {dtype_of(leaf)}: expected floating point, since a "
                "hypergradient is taken with respect to every hyperparameter"
            )


def check_update(problem, hparams, weights, batch) -> None:
    """Φ keeps the weights' structure, shapes and dtypes."""
    after = jax.eval_shape(problem.update, weights, hparams, batch)
    Signature.of(weights).check("problem.update(weights, hparams, batch)", after)


def check_problem(problem, hparams, weights, batch, outer_batch) -> None:
    """Φ keeps the weights' structure, shapes and dtypes; L_val is a scalar; λ is floating point.

    Works on shapes alone (`jax.eval_shape`): nothing is computed or compiled.
    """
    check_hparams(hparams)
    for path, leaf in _named(weights, "weights"):
        if jnp.issubdtype(dtype_of(leaf), jnp.complexfloating):
            raise ValueError(f"{path} has dtype {dtype_of(leaf)}: expected real weights")
    check_update(problem, hparams, weights, batch)
    loss = jax.eval_shape(problem.outer_loss, weights, hparams, outer_batch)
    if not jax.tree_util.all_leaves([loss]) or loss.shape or not is_real(loss):
        raise ValueError(
            f"problem.outer_loss(weights, hparams, batch) returned {loss}: expected a real scalar"
        )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Signature:
    """Structure, shapes and dtypes of a tree, carried inside a state without any array."""

    structure: jax.tree_util.PyTreeDef
    leaves: tuple

    @classmethod
    def of(cls, tree) -> "Signature":
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple((jnp.shape(x), str(dtype_of(x))) for x in leaves))

    def check(self, name: str, tree) -> None:
        """Raises a ValueError that names the first leaf of `tree` that differs."""
        other = Signature.of(tree)
        if self.structure != other.structure:
            raise ValueError(f"{name} has structure {other.structure}: expected {self.structure}")
        for (path, _), found, expected in zip(_named(tree, name), other.leaves, self.leaves):
            if found != expected:
                raise ValueError(
                    f"{path} has shape {found[0]} and dtype {found[1]}: expected shape "
                    f"{expected[0]} and dtype {expected[1]}"
                )


def warn_if_zero(problem, hparams, weights, batch, outer_batch, depth: int, method: str) -> None:
    """Warns of hyperparameters that the method can give no hypergradient, whatever the values.

    Args:
      depth: how many steps of Φ the method sees: 0 for first-order, 1 for the one-product methods,
        T for full-horizon ones.
      method: the name to use in the warning.
    """
    # λ may take several steps to act, at most as many as the weights have leaves to pass through
    # (and one); two are enough for any optimizer, so that only a suspicion costs the longer look.
    longest = min(depth, len(jax.tree.leaves(weights)) + 1)
    for steps in dict.fromkeys((min(depth, 2), longest)):
        reached = _reaches(problem, hparams, weights, batch, outer_batch, steps)
        zero = [path for (path, _), live in zip(_named(hparams, "hparams"), reached) if not live]
        if not zero:
            return
    warnings.warn(
        f"{method}: the hypergradient of {', '.join(zero)} is structurally zero: no path leads "
        f"from there to the outer loss through {longest} inner step(s)",
        ZeroHypergradientWarning,
        stacklevel=4,
    )


def _reaches(problem, hparams, weights, batch, outer_batch, depth: int) -> list[bool]:
    """Which leaves of λ a path leads from, through Φ repeated `depth` times, to L_val.

    A vector-Jacobian product is linear in its cotangent, so that a leaf is structurally zero just
    when no path in the traced program leads to it from the cotangent.
    """

    def pulled_back(cotangent, weights, hparams, batch, outer_batch):
        def value(hparams):
            last = weights
            for _ in range(depth):
                last = problem.update(last, hparams, batch)
            return problem.outer_loss(last, hparams, outer_batch)

        loss, pullback = jax.vjp(value, hparams)
        return pullback(cotangent.astype(loss.dtype))

    arguments = shapes((weights, hparams, batch, outer_batch))
    cotangent = shapes(jnp.zeros(()))
    return _reached(jax.make_jaxpr(pulled_back)(cotangent, *arguments).jaxpr)


def _reached(jaxpr) -> list[bool]:
    """Which outputs of a jaxpr depend on its first input."""
    live = {jaxpr.invars[0]}
    for equation in jaxpr.eqns:
        if any(v in live for v in equation.invars if not hasattr(v, "val")):
            live.update(equation.outvars)
    return [not hasattr(v, "val") and v in live for v in jaxpr.outvars]


def _named(tree, name):
    return [
        (f"{name}{jax.tree_util.keystr(path)}", leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
