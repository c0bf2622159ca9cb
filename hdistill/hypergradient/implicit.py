"""Implicit differentiation of the fixed point of Φ, by several ways of inverting I - A."""

import functools
from typing import Literal, overload

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from hdistill.checks.values import check_choice, check_count
from hdistill.devices import vary_like
from hdistill.hypergradient.estimator import Estimator, Hypergradient
from hdistill.hypergradient.last_step import LastStep, offline_last_step, online_last_step
from hdistill.hypergradient.offline_method import Arguments, OfflineInfo
from hdistill.problem import Problem, PyTree
from hdistill.products import differentiable, hparams_pullback
from hdistill.tree import like


@overload
def implicit(
    problem: Problem,
    hparams: PyTree,
    weights: PyTree,
    batches: PyTree,
    outer_batch: PyTree,
    *,
    solver: str = ...,
    terms: int = ...,
    horizon: int | None = ...,
    return_info: Literal[False] = ...,
) -> Hypergradient: ...


@overload
def implicit(
    problem: Problem,
    hparams: PyTree,
    weights: PyTree,
    batches: PyTree,
    outer_batch: PyTree,
    *,
    solver: str = ...,
    terms: int = ...,
    horizon: int | None = ...,
    return_info: Literal[True],
) -> tuple[Hypergradient, OfflineInfo]: ...


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
    itself, momentum and all. Exact where w_T is a fixed point of a contracting Φ. For Lorraine et
    al.'s, which iterates plain gradient descent, give the problem that for its surrogate.

    Weights that λ does not reach (a frozen body, the rate that `optax.inject_hyperparams` carries,
    a unit that is dead on the whole batch) have no response to λ, and Φ may carry them unchanged,
    which makes I - A singular. They are left out: with U the weights that λ reaches through any
    number of steps, g^SO = α_U (I - A_UU)⁻¹ B_U, the limit of the Neumann sum.

    Solvers, x = α (I - A)⁻¹:
      identity: x = α. One product; the same as `one_step`.
      neumann: x = Σ_{k=0..terms} α A^k (Lorraine et al. 2020). terms + 1 products.
      cg: conjugate gradient on the normal equations (I-A)(I-A)ᵀ xᵀ = (I-A) αᵀ, at most `terms`
        iterations (Rajeswaran et al. 2019 use plain CG on the Hessian; with momentum in the
        state A is not symmetric, hence the normal equations). At most 2·terms + 2 products, and
        two or three to find U.
      exact: A is formed, one product for each weight (and two or three to find U), and the system
        solved. Small weights only. Where I - A_UU is singular still, or so nearly that
        less than three digits are right, the result is not finite, and `info.finite` says so.
        (cg and neumann do not tell.) In float16 cg may overflow: take bfloat16 or float32.

    References:
      Lorraine et al., "Optimizing Millions of Hyperparameters by Implicit Differentiation",
      AISTATS 2020; Pedregosa, "Hyperparameter Optimization with Approximate Gradient", ICML 2016.

    Examples:
      >>> plain = hd.from_losses(inner_loss, outer_loss, optax.sgd(0.1))
      >>> w = hd.InnerState(params, optax.sgd(0.1).init(params))
      >>> g = hd.offline.implicit(plain, hparams, w, batches, outer_batch, solver="cg", horizon=100)
      >>> print(g.total)
      [-0.16 -0.    0.05]

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val.
      solver: "neumann", "cg", "identity" or "exact".
      terms: highest power of A (neumann), or number of iterations (cg).
      horizon: T, where `batches` does not tell it.
      return_info: also return an `OfflineInfo`; its products count cg's iterations as `terms`.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info.

    Raises:
      ValueError: an unknown solver, terms < 0 (neumann) or < 1 (cg), or arguments that do not fit
        together; see `hdistill.checks`.

    Warns:
      ZeroHypergradientWarning: no path leads from some leaf of λ through one step to L_val.
    """
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon)
    return offline_last_step(_method(solver, terms), arguments, return_info)


def online_implicit(problem, *, solver: str = "neumann", terms: int = 5) -> Estimator:
    """The implicit hypergradient at (w_{t-1}, λ; D_t) after every inner step.

    See `hdistill.offline.implicit`. The paper's N.IFT(N, K) is solver="neumann", terms=N, with λ
    moving in the last K inner steps (`learner(..., last=K)`).

    Examples:
      >>> estimator = hd.online.implicit(problem, terms=10)
      >>> state = estimator.init(weights, hparams, batch)
      >>> g, state = estimator.step(state, transition, jax.random.key(0))
      >>> print(g.total, state.products)
      [-0.62 -0.91 -1.  ] 11

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
    check_choice("solver", solver, _SOLVERS)
    return _last_step(solver, check_count("terms", terms, least=1 if solver == "cg" else 0))


@functools.cache  # so that two calls with the same options share a program
def _last_step(solver: str, terms: int) -> LastStep:
    def second_order(problem, previous, hparams, batch, alpha):
        phi, real = differentiable(problem, previous, batch)
        if not real:  # integer weights: nothing responds to λ
            return optax.tree.zeros_like(hparams), 0
        x, products = _SOLVERS[solver](phi, real, hparams, alpha, terms)
        return hparams_pullback(problem, previous, hparams, batch, x), products

    linear = solver in ("identity", "neumann")
    return LastStep(f"implicit(solver={solver!r})", 1, second_order, linear)


def _identity(phi, point, hparams, alpha, terms):
    return alpha, 1


def _neumann(phi, point, hparams, alpha, terms):
    _, pullback = jax.vjp(lambda w: phi(w, hparams), point)

    def body(carry, _):
        power, total = carry
        (power,) = pullback(power)
        return (power, optax.tree.add(total, power)), None

    return jax.lax.scan(body, (alpha, alpha), length=terms)[0][1], terms + 1


def _cg(phi, point, hparams, alpha, terms):
    _, push_both = jax.linearize(phi, point, hparams)
    nothing = optax.tree.zeros_like(hparams)
    pull = jax.linear_transpose(lambda x: push_both(x, nothing), point)
    reached, pushes = _reached(push_both, point, hparams)

    def inside(x):
        return jax.tree.map(lambda r, x: jnp.where(r, x, 0), reached, x)

    def left(x):  # (I - A) x
        return optax.tree.sub(x, inside(push_both(x, nothing)))

    def right(x):  # (I - A)ᵀ x
        return optax.tree.sub(x, inside(pull(x)[0]))

    # In one dtype, of no less than 32 bits; to the last digit or `terms`, whichever comes first.
    dtype = jnp.result_type(jnp.float32, *alpha)

    def up(tree):
        return [x.astype(dtype) for x in tree]

    solution, _ = jax.scipy.sparse.linalg.cg(
        lambda x: up(left(right(like(x, alpha)))),
        up(left(inside(alpha))),
        tol=jnp.finfo(dtype).eps,
        maxiter=terms,
    )
    return like(solution, alpha), 2 * terms + 2 + pushes


def _exact(phi, point, hparams, alpha, terms):
    flat, unravel = ravel_pytree(point)
    jacobian = jax.jacrev(lambda x: ravel_pytree(phi(unravel(x), hparams))[0])(flat)
    _, push = jax.linearize(phi, point, hparams)
    reached, pushes = _reached(push, point, hparams)
    reached, _ = ravel_pytree(reached)
    wide = jnp.promote_types(flat.dtype, jnp.float32)  # solvers know no half precision
    identity, target = jnp.eye(flat.size, dtype=wide), ravel_pytree(alpha)[0].astype(wide)
    both = reached[:, None] & reached[None, :]
    system = jnp.where(both, identity - jacobian.astype(wide), identity)
    target = jnp.where(reached, target, 0)
    solution = jnp.linalg.solve(system.T, target)
    # A singular system gives arbitrary numbers; dividing by 0 makes them inf.
    error, largest = jnp.abs(solution @ system - target).max(), jnp.abs(target).max()
    rounding = jnp.finfo(wide).eps * jnp.abs(solution).max()
    solved = (error <= 0.01 * largest) & (rounding <= 1e-3 * largest)
    solution = (solution / solved.astype(wide)).astype(flat.dtype)
    return unravel(solution), flat.size + 1 + pushes


def _reached(push, point, hparams):
    """Finds the weights that λ reaches through any number of steps, and counts the products.

    Tangents of random numbers, fresh at each step, start from λ; an entry that none arrives at
    does not depend on λ. The steps end when they find no entry that is new.

    Args:
      push: (tangent of the weights, tangent of λ) -> tangent of Φ.

    Returns:
      (bool arrays of the structure of `point`, int32 []).
    """

    def step(carry):
        reached, _, pushes = carry
        first, second = jax.random.split(jax.random.fold_in(jax.random.key(0), pushes))
        noise = optax.tree.random_like(first, point, _at_random)
        known = jax.tree.map(lambda r, x: jnp.where(r, x, 0), reached, noise)
        arrived = push(known, optax.tree.random_like(second, hparams, _at_random))
        grown = jax.tree.map(lambda r, x: r | (x != 0), reached, arrived)
        pairs = zip(jax.tree.leaves(grown), jax.tree.leaves(reached))
        return grown, jnp.any(jnp.stack([(a != b).any() for a, b in pairs])), pushes + 1

    start = jax.tree.map(lambda x: jnp.zeros_like(x, bool), point)
    carry = (start, vary_like(jnp.array(True), point), vary_like(jnp.int32(0), point))
    reached, _, pushes = jax.lax.while_loop(lambda carry: carry[1], step, carry)
    return reached, pushes


def _at_random(key, shape, dtype):
    """Uniform in [1, 2): never 0, and a smaller program than normal numbers take."""
    return 1 + jax.random.uniform(key, shape, dtype)


_SOLVERS = {"identity": _identity, "neumann": _neumann, "cg": _cg, "exact": _exact}
