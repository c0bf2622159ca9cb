"""The examples behind a prediction: hypergradients of many outer batches, and their worth."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hdistill import offline
from hdistill.cache import compiled
from hdistill.checks.batches import batch_stream, count_steps, functions_in, separate
from hdistill.checks.problem import check_functions
from hdistill.checks.values import (
    check_arrays,
    check_count,
    check_hparams,
    check_weights,
    leading_axis,
)
from hdistill.problem import InnerRun, Problem
from hdistill.tree import nbytes

# Bytes that the cotangents of the queries in one pass may take: a CPU's cache, beyond which more of
# them side by side gain nothing, else a share of the device's memory.
CACHE, MEMORY = 4e6, 1e9


def influence(
    problem: Problem,
    hparams,
    weights,
    batches,
    queries,
    *,
    method: Callable = offline.reverse_mode,
    horizon: int | None = None,
    together: int | None = None,
):
    """The hypergradient of each of many outer batches, several in one pass over one trajectory.

    For query q, g_q = dL_val(w_T(λ), λ; q)/dλ. With a weight for each training example for λ, at
    1 each, -g_q[i] is what leaving example i out changes in the loss of q, to first order: exact
    reverse mode through the whole training is the score of MAGIC (Ilyas and Engstrom 2025,
    arXiv 2504.16430). `hd.lds` measures how well such scores predict retrainings.

    Warning: how well depends on how smooth training is. Prefer GELU or tanh to ReLU, momentum SGD
    or Adam with an `eps_root`, and a rate below the largest that trains; then check by
    `hd.leave_out`.

    Examples:
      >>> g = hd.influence(by_example, jnp.ones(8), weights, batches, queries, horizon=20)
      >>> g.shape
      (8, 8)

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree; a weight for each example, or any other.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      queries: outer batches, each leaf [Q, ...].
      method: an offline method, options by `functools.partial`.
      horizon: T, where `batches` does not tell it.
      together: how many queries go in one pass; None for as many as have their cotangents, each as
        large as the weights, in 4 MB on a CPU (its cache) and 1 GB elsewhere. Each pass runs the
        training once more.

    Returns:
      g, of the structure of λ, each leaf [Q, ...]. By the sum of both terms.

    Raises:
      ValueError: queries without a common leading axis, or arguments that do not fit together.
    """
    check_functions(problem)
    horizon = count_steps(batches, horizon)
    check_hparams(hparams)
    check_weights(weights)
    count = check_count("queries (their leading axis)", leading_axis(queries, "queries"))
    function, arrays = separate(batches)
    together = _together(together, weights, count)
    reads = functions_in(batches)
    program = compiled(_influence, problem, function, horizon, method, together, reads=reads)
    return program(hparams, weights, arrays, queries)


def _influence(problem, function, horizon, method, together):
    def call(hparams, weights, arrays, queries):
        def one(query):
            batches = arrays if function is None else function
            return method(problem, hparams, weights, batches, query, horizon=horizon).total

        return jax.lax.map(one, queries, batch_size=together)

    return call


def leave_out(
    problem: Problem,
    hparams,
    weights,
    batches,
    left_out,
    queries,
    *,
    horizon: int | None = None,
    absent: float = 0.0,
    together: int | None = None,
) -> jax.Array:
    """Trains again without some examples, many times; returns the queries' losses after each.

    Examples:
      >>> left_out = jnp.eye(8, dtype=bool)  # each example once
      >>> losses = hd.leave_out(
      ...     by_example, jnp.ones(8), weights, batches, left_out, queries, horizon=20
      ... )
      >>> losses.shape
      (8, 8)

    Args:
      problem: Φ and L_val.
      hparams: λ, floating [N], a weight for each example.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      left_out: bool [R, N], the examples that each of R trainings goes without.
      queries: outer batches, each leaf [Q, ...].
      horizon: T, where `batches` does not tell it.
      absent: λ of an example that is left out.
      together: how many trainings run side by side; None for as many as have their weights in the
        memory that `hd.influence` allows.

    Returns:
      L_val of each query after each training, floating [R, Q].

    Raises:
      ValueError: λ that is no vector, another shape of left_out, or arguments that do not fit
        together.
    """
    check_functions(problem)
    horizon = count_steps(batches, horizon)
    check_hparams(hparams)
    check_weights(weights)
    check_arrays("left_out", left_out)
    if not jax.tree_util.all_leaves([hparams]) or jnp.ndim(hparams) != 1:
        raise ValueError(f"hparams={hparams!r}: expected one array [N], a weight for each example")
    shape = jnp.shape(left_out)
    if len(shape) != 2 or shape[1] != len(hparams) or jnp.result_type(left_out) != jnp.bool_:
        kind = f"{jnp.result_type(left_out)}{list(shape)}"
        raise ValueError(f"left_out is {kind}: expected bool [R, {len(hparams)}]")
    leading_axis(queries, "queries")
    together = _together(together, weights, max(shape[0], 1))
    function, arrays = separate(batches)
    static = problem, function, horizon, float(absent), together
    program = compiled(_leave_out, *static, reads=functions_in(batches))
    return program(hparams, weights, arrays, left_out, queries)


def _leave_out(problem, function, horizon, absent, together):
    def call(hparams, weights, arrays, left_out, queries):
        batch_at = batch_stream(arrays if function is None else function)

        def one(gone):
            there = jnp.where(gone, absent, hparams)
            final, _ = InnerRun(problem, there, weights, batch_at, horizon).steps()
            return jax.vmap(problem.outer_loss, (None, None, 0))(final, there, queries)

        return jax.lax.map(one, left_out, batch_size=together)

    return call


def _together(together: int | None, weights, most: int) -> int:
    """The number side by side; if not given, as many as have their weights in that memory."""
    if together is None:
        room = CACHE if jax.default_backend() == "cpu" else MEMORY
        together = max(1, int(room // nbytes(weights)))
    return min(check_count("together", together), most)


class LDS(NamedTuple):
    """A linear datamodelling score.

    Attributes:
      mean: over the queries.
      half_width: of its 95% interval, from how the queries differ; nan for one query.
      each: Spearman's correlation of each query, floating [Q].
    """

    mean: float
    half_width: float
    each: np.ndarray

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half_width:.3f}"


def lds(scores, left_out, losses, base=None) -> LDS:
    """Scores predictions of retrainings: the linear datamodelling score (Park et al. 2023).

        predicted[r, q] = -Σ_(i left out in r) scores[q, i]
        LDS = mean over q of Spearman's correlation, over r, of predicted[r, q] and losses[r, q]

    Examples:
      >>> scores = np.array([[3.0, -1.0, 2.0], [0.0, 1.0, 4.0]])  # of two queries
      >>> left_out = np.eye(3, dtype=bool)  # each of three examples once
      >>> losses = 0.5 - scores.T  # what the scores predict, to the number
      >>> print(hd.lds(scores, left_out, losses))
      1.000 ± 0.000

    Args:
      scores: [Q, N], the derivative of each query's loss in each example's weight (`hd.influence`).
      left_out: bool [R, N], the examples that each training went without.
      losses: [R, Q], the queries' losses after each training (`hd.leave_out`).
      base: [Q], their losses after the training with all examples. It changes no rank, and so no
        score; given, it is taken off, so that `losses` may be of several starts, [R, Q] too.

    Returns:
      An `LDS`. A query whose losses or predictions are all equal counts as 0.

    Raises:
      ValueError: shapes that do not fit together, fewer than three trainings.
    """
    scores, left_out, losses = (np.asarray(x) for x in (scores, left_out, losses))
    queries, examples = scores.shape if scores.ndim == 2 else (0, 0)
    trainings = len(left_out)
    if left_out.shape != (trainings, examples) or losses.shape != (trainings, queries):
        raise ValueError(
            f"scores {scores.shape}, left_out {left_out.shape}, losses {losses.shape}: expected "
            "[Q, N], [R, N] and [R, Q]"
        )
    if trainings < 3:
        raise ValueError(f"left_out has {trainings} trainings: expected three at least")
    true = losses if base is None else losses - np.asarray(base)
    predicted = -left_out.astype(float) @ scores.T.astype(float)
    each = np.array([_spearman(predicted[:, q], true[:, q]) for q in range(queries)])
    spread = each.std(ddof=1) / np.sqrt(queries) if queries > 1 else np.nan
    return LDS(float(each.mean()), float(1.96 * spread), each)


def _spearman(a, b) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where all are equal."""
    a, b = (_ranks(x) - (len(x) - 1) / 2 for x in (a, b))
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 0 else 0.0


def _ranks(values):
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]
