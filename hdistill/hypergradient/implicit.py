"""Implicit differentiation of the fixed point of Φ, by several ways of inverting I - A."""

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from hdistill.checks import check_count
from hdistill.hypergradient.base import (
    Estimator,
    Hypergradient,
    LastStep,
    OfflineInfo,
    offline_last_step,
    online_last_step,
)
from hdistill.products import hparams_pullback
from hdistill.tree import split


def implicit(
    problem,
    hparams,
    weights,
    batches,
    outer_batch,
    *,
    solver: str = "neumann",
    terms: int = 5,
    horizon=None,
    return_info=False,
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """g = g^FO + α_T (I - A)⁻¹ B, as if w_{T-1} were a fixed point of Φ.

    A = ∂Φ/∂w and B = ∂Φ/∂λ are taken at the last step, (w_{T-1}, λ; D_T): the map iterated is Φ
    itself, momentum and all, not plain gradient descent on the inner loss. Exact where w_T is a
    fixed point of a contracting Φ.

    Solvers, x = α (I - A)⁻¹:
      identity: x = α. One product; the same as `one_step`.
      neumann: x = Σ_{k=0..terms} α A^k (Lorraine et al. 2020). terms + 1 products.
      cg: conjugate gradient on the normal equations (I-A)(I-A)ᵀ xᵀ = (I-A) αᵀ, at most `terms`
        iterations (Rajeswaran et al. 2019 use plain CG on the Hessian; with momentum in the
        state A is not symmetric, hence the normal equations). At most 2·terms + 2 products.
      exact: A is formed, one product for each weight, and the system solved. Small weights only.

    References:
      Lorraine et al., "Optimizing Millions of Hyperparameters by Implicit Differentiation",
      AISTATS 2020; Pedregosa, "Hyperparameter Optimization with Approximate Gradient", ICML 2016.

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val.
      solver: "neumann", "cg", "identity" or "exact".
      terms: highest power of A (neumann), or number of iterations (cg).
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`; its products are the upper bound for cg.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info.

    Raises:
      ValueError: an unknown solver, terms < 0 (neumann) or < 1 (cg), or arguments that do not fit
        together; see `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ through one step to L_val.
    """
    return offline_last_step(
        _method(solver, terms),
        problem,
        hparams,
        weights,
        batches,
        outer_batch,
        horizon,
        return_info,
    )


def online_implicit(problem, *, solver: str = "neumann", terms: int = 5) -> Estimator:
    """The implicit hypergradient at (w_{t-1}, λ; D_t) after every inner step.

    See `hdistill.offline.implicit`. The paper's N.IFT(N, K) is solver="neumann", terms=N, with λ
    moving in the last K inner steps (`learner(..., last=K)`).

    Args:
      problem: Φ and L_val.
      solver: "neumann", "cg", "identity" or "exact".
      terms: highest power of A (neumann), or number of iterations (cg).

    Returns:
      An `Estimator`.

    Raises:
      ValueError: an unknown solver, or terms < 0 (neumann) or < 1 (cg).
    """
    return online_last_step(_method(solver, terms), problem)


def _method(solver: str, terms: int) -> LastStep:
    if solver not in _SOLVERS:
        raise ValueError(f"solver={solver!r}: expected one of {sorted(_SOLVERS)}")
    terms = check_count("terms", terms, least=1 if solver == "cg" else 0)
    solve, products = _SOLVERS[solver]

    def second_order(problem, previous, hparams, batch, alpha):
        real, merge = split(previous)

        def phi(values):
            return split(problem.update(merge(values), hparams, batch))[0]

        return hparams_pullback(problem, previous, hparams, batch, solve(phi, real, alpha, terms))

    return LastStep(
        f"implicit(solver={solver!r})",
        1,
        lambda weights: products(sum(jnp.size(x) for x in split(weights)[0]), terms),
        second_order,
    )


def _neumann(phi, point, alpha, terms):
    _, pullback = jax.vjp(phi, point)

    def body(carry, _):
        power, total = carry
        (power,) = pullback(power)
        return (power, optax.tree.add(total, power)), None

    return jax.lax.scan(body, (alpha, alpha), length=terms)[0][1]


def _cg(phi, point, alpha, terms):
    _, push = jax.linearize(phi, point)
    pull = jax.linear_transpose(push, point)

    def left(x):  # (I - A) x
        return optax.tree.sub(x, push(x))

    def right(x):  # (I - A)ᵀ x
        return optax.tree.sub(x, pull(x)[0])

    # Iterates to the last digit or `terms`, whichever comes first.
    tolerance = jnp.finfo(jnp.result_type(*alpha)).eps
    return jax.scipy.sparse.linalg.cg(
        lambda x: left(right(x)), left(alpha), tol=tolerance, maxiter=terms
    )[0]


def _exact(phi, point, alpha, terms):
    flat, unravel = ravel_pytree(point)
    jacobian = jax.jacrev(lambda x: ravel_pytree(phi(unravel(x)))[0])(flat)
    wide = jnp.promote_types(flat.dtype, jnp.float32)  # solvers know no half precision
    system = (jnp.eye(flat.size, dtype=wide) - jacobian.astype(wide)).T
    solution = jnp.linalg.solve(system, ravel_pytree(alpha)[0].astype(wide))
    return unravel(solution.astype(flat.dtype))


_SOLVERS = {  # name: (solve, products as a function of the number of weights and terms)
    "identity": (lambda phi, point, alpha, terms: alpha, lambda size, terms: 1),
    "neumann": (_neumann, lambda size, terms: terms + 1),
    "cg": (_cg, lambda size, terms: 2 * terms + 2),
    "exact": (_exact, lambda size, terms: size + 1),
}
