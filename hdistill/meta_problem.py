"""The tasks of a meta-batch as one problem."""

import jax

from hdistill.problem import Problem


def meta_problem(problem: Problem) -> Problem:
    """Makes the problem of several tasks at once: w and the batches stacked, λ shared.

        Φ((w^1, ..., w^n), λ; (D^1, ..., D^n)) = (Φ(w^1, λ; D^1), ..., Φ(w^n, λ; D^n))
        L_val((w^1, ..., w^n), λ)              = (1/n) Σ_i L_val(w^i, λ)

    Its hypergradient is the mean of the tasks'. It is faster than `jax.vmap` of a method and a mean
    afterwards, because what falls on λ is summed over the tasks inside the products, and no
    hypergradient of a single task is ever held: half the time on the sinusoids, whose λ is large
    (RESULTS.md, bench/peers). `hd.learner` does so by itself with `hd.offline.first_order`,
    `one_step`, `reverse_mode` and `drmad`, also in a `functools.partial`.

    Warning: a method that is not linear in the cotangent α gives another result here, not the mean
    of the tasks': one with a size by norms (`hd.online.hyperdistill(size=1.0)`,
    `hd.online.robust_hyperdistill`), and conjugate gradients.

    Examples:
      >>> one = hd.Problem(
      ...     update=lambda w, rate, batch: w - rate * (w - batch),
      ...     outer_loss=lambda w, rate, batch: 0.5 * jnp.sum((w - batch) ** 2),
      ... )
      >>> several = hd.meta_problem(one)
      >>> starts, ends = jnp.zeros((4, 3)), jnp.arange(12.0).reshape(4, 3)
      >>> g = hd.offline.reverse_mode(several, 0.5, starts, lambda t: ends, ends, horizon=2)
      >>> print(f"{g.total:.3f}")
      -31.625

    Args:
      problem: Φ and L_val of one task.

    Returns:
      A `Problem`: every leaf of weights and batches has a leading axis of the tasks. Made anew at
      each call: keep it, so that nothing compiles twice.
    """
    over_tasks = (0, None, 0)

    def outer_loss(weights, hparams, batch):
        return jax.vmap(problem.outer_loss, over_tasks)(weights, hparams, batch).mean()

    surrogate = problem.surrogate and jax.vmap(problem.surrogate, over_tasks)
    return Problem(jax.vmap(problem.update, over_tasks), outer_loss, surrogate)
