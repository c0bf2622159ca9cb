"""The bilevel problem, an inner update Φ and an outer loss, and one inner optimisation of it."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from hdistill.cache import compiled
from hdistill.checks.batches import (
    batch_shapes,
    batch_stream,
    count_steps,
    functions_in,
    separate,
    warn_of_last_batch,
)
from hdistill.checks.optimizers import check_optimizer, check_stateless, transform
from hdistill.checks.problem import check_functions, check_update
from hdistill.checks.values import (
    check_arrays,
    check_calls,
    check_weights,
    named,
)
from hdistill.tree import dtype_of, is_finite, is_real

PyTree = Any


class Update(Protocol):
    """Φ, and a map that stands for it."""

    def __call__(self, weights: PyTree, hparams: PyTree, batch: PyTree, /) -> PyTree: ...


class Loss(Protocol):
    """A loss, real and scalar."""

    def __call__(self, weights: PyTree, hparams: PyTree, batch: PyTree, /) -> jax.Array: ...


class Problem(NamedTuple):
    """A bilevel problem w_t = Φ(w_{t-1}, λ; D_t), with outer loss L_val(w, λ).

    Examples:
      >>> plain = hd.Problem(
      ...     update=lambda w, rate, batch: w - rate * (w - batch),
      ...     outer_loss=lambda w, rate, batch: jnp.sum((w - batch) ** 2),
      ... )
      >>> print(plain.update(jnp.zeros(2), 0.5, jnp.ones(2)))
      [0.5 0.5]

    Attributes:
      update: Φ, `(weights, hparams, batch) -> weights`. Weights keep their structure, shapes and
        dtypes. Whatever Φ carries from step to step (momentum, Adam's moments) is part of weights.
      outer_loss: L_val, `(weights, hparams, batch) -> scalar`.
      surrogate: a map of Φ's signature whose Jacobians A and B stand for Φ's in every product of
        every method; None for Φ itself. The trajectory and all values are always Φ's. With one step
        of plain gradient descent for surrogate and momentum in Φ, A = I - η ∂²L, the form of Eq. 7
        of Lee et al. 2022. `jax.grad` through `hd.unroll` does not know of it, and `hd.compare`'s
        exact pass drops it.

    Weights, hparams and batches are arbitrary pytrees; hparams (λ) are all floating point.
    """

    update: Update
    outer_loss: Loss
    surrogate: Update | None = None

    @property
    def differentiated(self) -> Update:
        """The map whose Jacobians are taken: the surrogate, or Φ."""
        return self.update if self.surrogate is None else self.surrogate


class InnerState(NamedTuple):
    """Weights of a problem built by `from_losses`: what the inner optimizer maps to itself.

    Examples:
      >>> weights = hd.InnerState(params, optimizer.init(params))
    """

    params: PyTree
    opt_state: optax.OptState


def from_losses(
    inner_loss: Loss,
    outer_loss: Loss,
    optimizer: optax.GradientTransformation,
    surrogate: optax.GradientTransformation | None = None,
) -> Problem:
    """Builds the problem whose Φ is one step of an optax optimizer on the inner loss.

    The weights are `InnerState(params, opt_state)`, so that momentum is part of the state that Φ
    maps and every exact method differentiates through it. Start from
    `InnerState(params, optimizer.init(params))`.

    Examples:
      >>> problem = hd.from_losses(inner_loss, outer_loss, optax.sgd(0.1, momentum=0.9))
      >>> print(problem.update(weights, hparams, batch).params)
      [1.31 0.93 0.42]

    Args:
      inner_loss: L_train, `(params, hparams, batch) -> scalar`, twice differentiable.
      outer_loss: L_val, `(params, hparams, batch) -> scalar`.
      optimizer: any optax transformation whose update needs gradients, state and parameters only
        (not `optax.lbfgs` or `optax.polyak_sgd`, which also want values), or λ (`hd.schedule`: a
        rate or a momentum for each step). Of `optax.MultiSteps`
        take its `.gradient_transformation()` (after a step that only accumulates, a method that
        sees the last step only sees nothing). `optax.lookahead` keeps two sets of parameters:
        write its Φ as an `hd.Problem`.
      surrogate: an optax transformation without state, such as `optax.sgd(lr)`. One step of it on
        the inner loss is the problem's surrogate; the optimizer's state passes through it
        unchanged. None: the optimizer itself is differentiated.

    Returns:
      A `Problem` over `InnerState` weights.

    Warning: some transformations have no derivative where a gradient is exactly 0, and a method
    that differentiates there is nan, as `jax.grad` is. Nothing is added to Φ to hide that:
    `info.finite` says so, and a learner keeps λ as it is.

    - Where one entry has been 0 since the start (a dead ReLU, an unused embedding), those that
      divide by √v: adam, adamw, nadam, nadamw, amsgrad, radam, lamb, adopt, ademamix, prodigy,
      dadapt_adamw, schedule_free_adamw, rmsprop(eps_in_sqrt=False), and muon, dog and mechanize.
      Where there is an `eps_root`, give it: `optax.adam(1e-3, eps_root=1e-8)`.
    - Where the whole gradient of a leaf, or of all, is 0 (example weights that start at 0), those
      that divide by a norm too: clip_by_global_norm, clip_by_block_rms, adaptive_grad_clip,
      normalize_by_update_norm, scale_by_trust_ratio, lars, novograd, adafactor, dowg.

    Raises:
      ValueError: an argument that is not a function, or not an optax transformation; a surrogate
        with a state; from Φ, weights that are not an `InnerState`, an inner loss that is not a real
        scalar, an optimizer that asks for more.
    """
    for name, loss in (("inner_loss", inner_loss), ("outer_loss", outer_loss)):
        check_calls(name, loss, "(params, hparams, batch)")
    check_optimizer("optimizer", optimizer)
    if surrogate is not None:
        check_optimizer("surrogate", surrogate)
        check_stateless("surrogate", surrogate)

    def move(name, transformation, params, state, hparams, batch):
        gradient = jax.grad(_scalar(inner_loss))(params, hparams, batch)
        updates, state = transform(name, transformation, gradient, state, params, hparams=hparams)
        return optax.apply_updates(params, updates), state

    def update(weights: InnerState, hparams: PyTree, batch: PyTree) -> InnerState:
        params, opt_state = _params_and_state(weights)
        return InnerState(*move("optimizer", optimizer, params, opt_state, hparams, batch))

    def stand_in(weights: InnerState, hparams: PyTree, batch: PyTree) -> InnerState:
        params, opt_state = _params_and_state(weights)
        nothing = check_stateless("surrogate", surrogate, params)
        params, _ = move("surrogate", surrogate, params, nothing, hparams, batch)
        return InnerState(params, opt_state)

    def outer(weights: InnerState, hparams: PyTree, batch: PyTree) -> jax.Array:
        return outer_loss(_params_and_state(weights)[0], hparams, batch)

    return Problem(update, outer, None if surrogate is None else stand_in)


def _params_and_state(weights):
    if not isinstance(weights, InnerState):
        raise ValueError(
            "weights: expected an InnerState(params, optimizer.init(params)), because the problem "
            "is from_losses's"
        )
    if isinstance(weights.params, optax.LookaheadParams):
        raise ValueError(
            "weights.params are LookaheadParams: expected one set of parameters; write the Φ of "
            "optax.lookahead as hd.Problem(update, outer_loss)"
        )
    for path, leaf in named(weights.params, "weights.params"):
        if not is_real(leaf):
            raise ValueError(
                f"{path} has dtype {dtype_of(leaf)}: expected floating point, because the "
                "optimizer moves every entry of params; give other arrays in the batch"
            )
    return weights


def _scalar(inner_loss):
    def checked(params, hparams, batch):
        loss = inner_loss(params, hparams, batch)
        if not jax.tree_util.all_leaves([loss]):
            raise ValueError(
                f"inner_loss returned {jax.tree.structure(loss)}: expected only a real scalar"
            )
        if jnp.shape(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            kind = f"{jnp.result_type(loss)}{list(jnp.shape(loss))}"
            raise ValueError(f"inner_loss returned {kind}: expected a real scalar")
        return jnp.asarray(loss)

    return checked


def unroll(problem: Problem, hparams, weights, batches, horizon: int | None = None):
    """Runs the inner optimisation: w_t = Φ(w_{t-1}, λ; D_t) for t = 1..T.

    `jax.grad` through it is exact reverse mode with every intermediate value of Φ stored. A call
    outside `jax.jit` is compiled once; see `hd.clear_cache`.

    Examples:
      >>> end = hd.unroll(problem, hparams, weights, batches, horizon=20)
      >>> print(end.params)
      [ 1.92  0.59 -1.32]

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
    check_functions(problem)
    horizon = count_steps(batches, horizon)
    check_arrays("hparams", hparams)
    check_weights(weights)
    function, arrays = separate(batches)
    program = compiled(_unroll, problem, function, horizon, reads=functions_in(batches))
    return program(hparams, weights, arrays)


def _unroll(problem, function, horizon):
    if function is not None:
        warn_of_last_batch("batches", function, horizon)

    def call(hparams, weights, batches):
        batch_at = batch_stream(function or batches)
        batch = batch_shapes("batches", batch_at)
        check_update(problem, hparams, weights, batch)
        return InnerRun(problem, hparams, weights, batch_at, horizon).steps()[0]

    return call


class InnerRun(NamedTuple):
    """An inner optimisation at one λ, or a stretch of it: w_{t+1} = Φ(w_t, λ; D_{t+1}).

    Attributes:
      problem: Φ and L_val.
      hparams: λ.
      weights: w_0; of a stretch, the weights before its first step.
      batch_at: t -> D_{t+1}, t = 0..T-1, int32 [].
      horizon: T, an int; of a stretch, its number of steps.
      first: t of the first step, int32 [].
    """

    problem: Problem
    hparams: PyTree
    weights: PyTree
    batch_at: Callable[[Any], PyTree]
    horizon: int
    first: Any = 0

    def stretch(self, weights: PyTree, first, horizon: int) -> "InnerRun":
        """The `horizon` steps from `first` on, from these weights."""
        return self._replace(weights=weights, first=first, horizon=horizon)

    def step(self, weights: PyTree, t) -> PyTree:
        """w_{t+1} from w_t."""
        return self.problem.update(weights, self.hparams, self.batch_at(t))

    def finite_steps(self) -> jax.Array:
        """Whether the weights after each step are finite, bool [T]."""

        def body(carry, _):
            t, weights = carry
            weights = self.step(weights, t)
            return (t + 1, weights), is_finite(weights)

        start = (jnp.asarray(self.first, jnp.int32), self.weights)
        return jax.lax.scan(body, start, length=self.horizon)[1]

    def steps(self, keep: bool = False):
        """All steps; (the last weights, those before each step, stacked, or None)."""

        def body(carry, _):
            t, weights = carry
            return (t + 1, self.step(weights, t)), weights if keep else None

        if not self.horizon:  # jax.disable_jit cannot run an empty scan
            return self.weights, None
        start = (jnp.asarray(self.first, jnp.int32), self.weights)
        (_, last), before = jax.lax.scan(body, start, length=self.horizon)
        return last, before


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
      A `Problem`: every leaf of weights and batches has a leading axis of the tasks. Made again at
      each call: keep it, so that nothing compiles twice.
    """
    over_tasks = (0, None, 0)

    def outer_loss(weights, hparams, batch):
        return jax.vmap(problem.outer_loss, over_tasks)(weights, hparams, batch).mean()

    surrogate = problem.surrogate and jax.vmap(problem.surrogate, over_tasks)
    return Problem(jax.vmap(problem.update, over_tasks), outer_loss, surrogate)
