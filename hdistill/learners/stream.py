"""Online learning of λ on one task: an endless stream of inner steps, a stretch at a time."""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.batches import batch_stream, count_steps
from hdistill.checks.optimizers import begin
from hdistill.checks.problem import check_problem, differentiating
from hdistill.checks.values import Signature, check_arrays, check_count
from hdistill.devices import on_auto_axes
from hdistill.hypergradient.estimator import Estimator, spend
from hdistill.learners.draws import draw, first_half, second_half
from hdistill.learners.inner_loop import (
    LearnerInfo,
    Loop,
    advance,
    fit_theta,
    summarize,
    theta_before,
)
from hdistill.learners.learner import check_start, check_state
from hdistill.learners.plan import MetaBatch, Plan, make_plan, samplers_with_data, with_samplers
from hdistill.problem import InnerRun, PyTree
from hdistill.tree import own


class StreamState(NamedTuple):
    """All that the stream carries from one stretch to the next.

    Attributes:
      signature: structure, shapes and dtypes of (weights, hparams); static.
      done: stretches done, int32 [].
      keys: typed PRNG keys [], of the steps' draws and of the fits; always the same.
      hparams: λ.
      weights: w, which never restarts.
      hyper_state: state of the hyper-optimizer.
      estimate: state of the estimator, which never restarts either.
      theta: what the estimator fits: θ of Eq. 15, floating []; 1 where nothing is fitted.
    """

    signature: tuple[Signature, Signature]
    done: jax.Array
    keys: tuple[jax.Array, jax.Array]
    hparams: PyTree
    weights: PyTree
    hyper_state: PyTree
    estimate: PyTree
    theta: PyTree


class StreamInit(Protocol):
    """The state before the first inner step."""

    def __call__(
        self, key: jax.Array, hparams: PyTree, weights: PyTree, task: PyTree, /
    ) -> StreamState: ...


class StreamStep(Protocol):
    """A stretch of inner steps."""

    def __call__(self, state: StreamState, task: PyTree, /) -> tuple[StreamState, LearnerInfo]: ...


class StreamFit(Protocol):
    """A fit of θ over given batches."""

    def __call__(
        self, state: StreamState, batches: PyTree, outer_batch: PyTree, /
    ) -> tuple[StreamState, "FitInfo"]: ...


class Stream(NamedTuple):
    """A learner of λ and w together: pure functions over `StreamState`.

    Attributes:
      init: `(key, hparams, weights, task) -> state`. `task` gives shapes.
      step: `(state, task) -> (state, info)`, compiled, the buffers of `state` donated.
      fit: `(state, batches, outer_batch) -> (state, info)`, fits θ over the given inner batches,
        stacked [H, ...], from the present weights. For a host loader that hands the stream a batch
        at a time (steps=1), over which nothing can be fitted: call it before some of the steps, and
        give `fit_period=None`. Its info is a `FitInfo`.
    """

    init: StreamInit
    step: StreamStep
    fit: StreamFit


class FitInfo(NamedTuple):
    """Diagnostics of `stream.fit`.

    Attributes:
      theta: θ in use from now on, floating [].
      fit: what became of the fit, an `hd.FitStatus`, int8 [].
      products: Jacobian products spent, int32 [].
    """

    theta: jax.Array
    fit: jax.Array
    products: jax.Array


def stream(
    problem,
    estimator: Estimator,
    *,
    hyper_optimizer: optax.GradientTransformation,
    steps: int,
    every: int = 1,
    fit_period: int | Callable | None = 50,
    nonfinite: str = "keep",
    sample_inner: Callable = first_half,
    sample_outer: Callable = second_half,
) -> Stream:
    """Online hyperparameter optimisation in standard learning (Appendix H of Lee et al. 2022).

    One task whose weights never restart:

        for t = 1, 2, ...:  w_t = Φ(w_{t-1}, λ; D_t);
                            where λ moves: λ ← hyper_optimizer(λ, g_t)

    Each call of `step` is one stretch of `steps` inner steps, one compiled program for all of them;
    between two stretches the state may be saved, and the run goes on from it to the same bits. How
    long a stretch is changes no draw and no result, except where θ is fitted: over the stretch to
    come, from the present weights.

    Examples:
      >>> stream = hd.stream(
      ...     problem, hd.online.one_step(problem), hyper_optimizer=optax.adam(0.01), steps=50
      ... )
      >>> state = stream.init(jax.random.key(0), hparams, weights, task)
      >>> state, info = stream.step(state, task)
      >>> info.outer_loss.shape, state.hparams.shape
      ((50,), (3,))

    Args:
      problem: Φ and L_val.
      estimator: an online estimator, `hd.online.NAME(problem, ...)`.
      hyper_optimizer: optax transformation for λ; its state is carried.
      steps: inner steps of a stretch.
      every: λ moves after inner steps every, 2·every, ...; a divisor of `steps`.
      fit_period: θ is fitted before stretches 1, 1 + fit_period, ...; or a function of the stretch
        m = 1, 2, ... (a traced int32) that says whether to fit before the m-th; or None for never.
        A θ that is not finite or not positive is refused, as in `hd.learner`.
      nonfinite: "keep" or "take" a hypergradient that is not finite, as in `hd.learner`.
      sample_inner: `(key, task) -> batch` for Φ, drawn for each inner step, or `(key, task, t)
        -> batch` with t = 0, 1, 2, ... the number of the inner step since `init`, int32 []. By
        default a task is a pair and its first half is the batch.
      sample_outer: `(key, task) -> batch` for L_val, or `(key, task, t) -> batch`, likewise; by
        default the second half. Large data that either reads: `jax.tree_util.Partial(function,
        data)`, called with (data, key, task), so that the data are no constants of the program.

    Returns:
      A `Stream`. Its `info` has one entry for each inner step of the stretch.

    Raises:
      ValueError: an argument of the wrong type or out of range; an `every` that does not divide
        `steps`; an estimator that is not online; from `init`, a raw key and a
        Φ or L_val that does not fit (see `hdistill.checks.problem`); from `step`, while tracing,
        the state of another stream.
    """
    if not isinstance(estimator, Estimator):
        raise ValueError(
            f"estimator={estimator!r}: expected hd.online.NAME(problem, ...), because a stream has "
            "no end at which an offline method could look back"
        )
    steps, every = check_count("steps", steps), check_count("every", every)
    if steps % every:
        raise ValueError(f"every={every}: expected a divisor of steps={steps}")
    plan = make_plan(
        problem=problem,
        estimator=estimator,
        hyper_optimizer=hyper_optimizer,
        horizon=steps,
        every=every,
        fit_period=fit_period,
        nonfinite=nonfinite,
        sample_inner=sample_inner,
        sample_outer=sample_outer,
    )

    def init(key, hparams, weights, task) -> StreamState:
        check_start(key, hparams, weights)
        check_arrays("task", task)
        drawn = jax.eval_shape(lambda k, t: draw(plan, k, t, 0)[:2], key, task)
        check_problem(problem, hparams, weights, *drawn)
        key, hparams, weights = jax.tree.map(own, (key, hparams, weights))
        estimate = first_estimate(weights, hparams, key, task)
        return StreamState(
            (Signature.of(weights), Signature.of(hparams)),
            jnp.zeros((), jnp.int32),
            tuple(jax.random.split(key)),
            hparams,
            weights,
            jax.tree.map(own, begin("hyper_optimizer", hyper_optimizer, hparams)),
            jax.tree.map(own, estimate),
            theta_before(plan),
        )

    @jax.jit
    def first_estimate(*arguments):
        def estimate(weights, hparams, key, task):
            return estimator.init(weights, hparams, draw(plan, key, task, 0)[0])

        return on_auto_axes(estimate, *arguments)

    def step_with(samplers, state, task):
        check_state(plan, state, StreamState, task)
        here = with_samplers(plan, samplers)
        with differentiating():
            return on_auto_axes(lambda s, t: _stretch(here, s, t), state, task)

    def fit(state, batches, outer_batch):
        if plan.fit is None:
            raise ValueError("stream.fit: expected an estimator with a size to fit")
        check_state(plan, state, StreamState, batches)
        if callable(batches):
            raise ValueError("stream.fit: batches is a function; expected them stacked, [H, ...]")
        steps = count_steps(batches, None)
        theta, info = fit_over(state, batches, outer_batch, steps)
        return state._replace(theta=theta), info

    @functools.partial(jax.jit, static_argnums=3)
    def fit_over(state, batches, outer_batch, steps):
        batch_at = batch_stream(batches)
        batch = jax.eval_shape(batch_at, jnp.zeros((), jnp.int32))
        check_problem(problem, state.hparams, state.weights, batch, outer_batch)
        key = jax.random.fold_in(state.keys[1], state.done)
        inner = InnerRun(problem, state.hparams, state.weights, batch_at, steps)
        statistics = plan.fit.measure(inner, outer_batch, key)
        theta, status = plan.fit.accept(statistics, state.theta)
        products = spend(jnp.int32(0), plan.fit.products(steps))
        return theta, FitInfo(plan.fit.theta_of(theta), status, products)

    samplers = samplers_with_data(sample_inner, sample_outer)
    if not samplers:
        pure = functools.partial(step_with, {})
        return Stream(init, jax.jit(pure, donate_argnums=0), fit)
    program = jax.jit(step_with, donate_argnums=1)
    return Stream(init, lambda state, task: program(samplers, state, task), fit)


def _stretch(plan: Plan, state: StreamState, task):
    def add_axis(tree):
        return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)

    def drop_axis(tree):
        return jax.tree.map(lambda x: x[0], tree)

    tasks, (steps_key, fit_key) = add_axis(task), state.keys
    before = state.done * plan.horizon
    fit_keys = jax.random.fold_in(fit_key, state.done)[None]
    theta, status, fit_cost = fit_theta(plan, state, MetaBatch(tasks, fit_keys), before)
    state = state._replace(theta=theta)
    starts = add_axis((state.weights, state.estimate))
    batch = MetaBatch(tasks, steps_key[None])
    state, ends, *measured = advance(plan, state, starts, batch, before)
    weights, estimate = drop_axis(ends)
    state = state._replace(weights=weights, estimate=estimate, done=state.done + 1)
    loop = Loop(state, ends[0], *measured)
    return state, summarize(plan, status, fit_cost, loop, batch)
