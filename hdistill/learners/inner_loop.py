"""One inner optimisation of a meta-batch of tasks, λ moving inside it or at its end."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.optimizers import transform
from hdistill.hypergradient.estimator import SIDE_BY_SIDE, Transition, spend
from hdistill.hypergradient.fit import FitStatus
from hdistill.learners.draws import draw, drawn_with, keys_of_step, redraw
from hdistill.learners.plan import MetaBatch, Plan
from hdistill.problem import InnerRun, PyTree, meta_problem
from hdistill.tree import is_finite, select, split


class LearnerInfo(NamedTuple):
    """Diagnostics of one inner optimisation, means over the meta-batch.

    Attributes:
      outer_loss: L_val(w_t, λ) at t = 1..T, before λ moves there, floating [T]. Of an offline
        method L_val at T only, [1], or with `every=n` at w_n, w_2n, ..., w_mn, [m]; its moved,
        finite and norms are [1], because λ moves once.
      theta: θ in use, floating []; 1 where nothing is fitted.
      fit: what became of the fit of θ, an `hd.FitStatus`, int8 [].
      moved: whether λ moved after step t, bool [T].
      finite: whether the outer loss and, where λ is to move, the mean hypergradient are finite,
        bool [T].
      first_order_norm: ‖g^FO‖ of the meta-batch's mean, floating [T]; 0 where λ rests.
      second_order_norm: ‖g^SO‖, likewise.
      products: Jacobian products of Φ spent for each task, a fit of θ included, int32 [], at most
        2³¹ - 1.
      hparams: λ after the last step.
      tasks_finite: whether each task's w_T is free of nan, and what is known of its own losses is
        finite (of an offline method that takes the tasks together only its derivative in w_0, where
        it has one), bool [tasks], of all devices. One bad task spoils the mean of all.
    """

    outer_loss: jax.Array
    theta: jax.Array
    fit: jax.Array
    moved: jax.Array
    finite: jax.Array
    first_order_norm: jax.Array
    second_order_norm: jax.Array
    products: jax.Array
    hparams: PyTree
    tasks_finite: jax.Array


class Step(NamedTuple):
    """The part of `LearnerInfo` that belongs to one inner step, or stacked [T]."""

    outer_loss: jax.Array
    moved: jax.Array
    finite: jax.Array
    first_order_norm: jax.Array
    second_order_norm: jax.Array


class Loop(NamedTuple):
    """The result of an inner optimisation.

    Attributes:
      state: with λ and its optimizer moved.
      final: w_T of each task, stacked.
      steps: a `Step` stacked.
      products: spent by a task at most, int32 [].
      sound: whether each task's losses, and what else is known of it, are finite, bool [tasks].
      start: the mean derivative of the outer loss in φ, None of a method that has none.
    """

    state: Any
    final: PyTree
    steps: Step
    products: jax.Array
    sound: jax.Array
    start: PyTree = None


def online_loop(plan: Plan, state, batch: MetaBatch):
    """T inner steps from φ, λ moving inside. Returns a `Loop`."""
    weights, hparams = batch.vary((state.weights, state.hparams))

    def start(task, key):
        return weights, plan.estimator.init(weights, hparams, draw(plan, key, task, 0)[0])

    starts = jax.vmap(start)(batch.tasks, batch.keys)
    state, (final, _), *measured = advance(plan, state, starts, batch)
    return Loop(state, final, *measured)


def advance(plan: Plan, state, starts, batch: MetaBatch, before=0):
    """T inner steps from wherever each task is, λ moving inside.

    Args:
      starts: (weights, estimator's state) of each task, stacked.
      before: the number of inner steps done before, from which the draws are numbered.

    Returns:
      (state with λ and its optimizer moved, `starts` T steps on, a `Step` stacked [T], products,
      whether all losses of each task were finite, bool [tasks]).
    """
    estimator, problem = plan.estimator, plan.problem
    weights, estimates = starts
    estimates = estimates._replace(products=jnp.zeros_like(estimates.products))
    if plan.fit is not None:
        estimates = estimates._replace(theta=jax.vmap(lambda _: state.theta)(batch.keys))

    def move(carry, transition_of, keys):
        (_, estimates), hparams, hyper_state, sound = carry
        if plan.shares_hparams:
            hyper, estimates = estimator.step(estimates, transition_of, keys)
            hyper = batch.mean_of_devices(hyper)
        else:
            step = jax.vmap(estimator.step, (0, SIDE_BY_SIDE, 0))
            hyper, estimates = step(estimates, transition_of, keys)
            hyper = batch.mean(hyper)
        losses = outer_losses(problem, transition_of)
        loss = batch.mean(losses)
        hparams, hyper_state, step = move_hparams(plan, hparams, hyper_state, hyper, loss)
        sound &= jnp.isfinite(losses)
        return ((transition_of.current, estimates), hparams, hyper_state, sound), step

    def rest(carry, transition_of, keys):
        (_, estimates), hparams, hyper_state, sound = carry
        observe = jax.vmap(estimator.observe, (0, SIDE_BY_SIDE, 0))
        estimates = observe(estimates, transition_of, keys)
        losses = outer_losses(problem, transition_of)
        loss = batch.mean(losses)
        zero = jnp.zeros_like(optax.tree.norm(hparams))  # of the norms' dtype, λ's
        step = Step(loss, jnp.array(False), jnp.isfinite(loss), zero, zero)
        sound &= jnp.isfinite(losses)
        return ((transition_of.current, estimates), hparams, hyper_state, sound), step

    def body(carry, keys):
        t, carry = carry
        (weights, _), hparams, *_ = carry
        local = batch.vary(hparams)

        def one_step(weights, task, keys):
            batch, outer_batch, key = drawn_with(plan, keys, task, before + t)
            current = problem.update(weights, local, batch)
            return Transition(weights, current, local, batch, outer_batch), key

        transition_of, keys = jax.vmap(one_step, out_axes=(SIDE_BY_SIDE, 0))(
            weights, batch.tasks, keys
        )
        if plan.always_moves:
            carry, step = move(carry, transition_of, keys)
        else:
            carry, step = jax.lax.cond(plan.moves(t), move, rest, carry, transition_of, keys)
        return (t + 1, carry), step

    sound = batch.vary(jnp.ones(batch.keys.shape, bool))
    carry = batch.vary((weights, estimates)), state.hparams, state.hyper_state, sound
    # All at once: inside the loop they took a tenth of HyperDistill's time on the sinusoids.
    numbers = before + jnp.arange(plan.horizon, dtype=jnp.int32)
    keys = jax.vmap(jax.vmap(keys_of_step, (0, None)), (None, 0))(batch.keys, numbers)
    (_, carry), steps = jax.lax.scan(body, (jnp.int32(0), carry), keys)
    ends, hparams, hyper_state, sound = carry
    state = state._replace(hparams=hparams, hyper_state=hyper_state)
    return state, ends, steps, batch.largest(ends[1].products), sound


def move_hparams(plan: Plan, hparams, hyper_state, hyper, loss):
    """λ moved by a mean hypergradient, or kept where that is not finite.

    Returns:
      (λ, its optimizer's state, `Step`).
    """
    total = hyper.total
    updates, new_state = transform(
        "hyper_optimizer", plan.hyper_optimizer, total, hyper_state, hparams
    )
    after = optax.apply_updates(hparams, updates), new_state
    finite, moved = is_finite(total), jnp.array(True)
    if plan.nonfinite == "keep":  # a finite hypergradient too may move λ beyond the largest number
        moved, before = finite & is_finite(after[0]), (hparams, hyper_state)
        # Not `jnp.where`: the compiler would fuse that with the step and round the step otherwise.
        after = jax.lax.cond(moved, lambda new, old: new, lambda new, old: old, after, before)
    norms = optax.tree.norm(hyper.first_order), optax.tree.norm(hyper.second_order)
    return *after, Step(loss, moved, finite & jnp.isfinite(loss).all(), *norms)


def offline_loop(plan: Plan, state, batch: MetaBatch):
    """One inner optimisation, λ moving at its end. Returns what `online_loop` returns."""
    hparams, weights = batch.vary((state.hparams, state.weights))
    options: dict = {"horizon": plan.horizon, "return_info": True}
    if plan.every is not None:
        options["every"] = plan.every
    of_tasks = _together if plan.shares_hparams else _one_by_one
    hyper, loss, start, final, products, sound = of_tasks(plan, hparams, weights, batch, options)
    hparams, hyper_state, step = move_hparams(plan, state.hparams, state.hyper_state, hyper, loss)
    state = state._replace(hparams=hparams, hyper_state=hyper_state)
    steps = Step(*(jnp.atleast_1d(x) for x in step))
    return Loop(state, final, steps, batch.largest(products).astype(jnp.int32), sound, start)


def _together(plan: Plan, hparams, weights, batch: MetaBatch, options: dict):
    """(mean hypergradient, loss and start, w_T of each task, products, sound) of one pass."""

    def drawn(t):
        each = jax.vmap(lambda task, key: draw(plan, key, task, t)[:2])
        return each(batch.tasks, batch.keys)

    outer_batch = drawn(plan.horizon - 1)[1] if plan.every is None else lambda t: drawn(t)[1]
    size = batch.keys.shape[0]
    starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *jnp.shape(x))), weights)
    hyper, info = plan.estimator(
        meta_problem(plan.problem), hparams, starts, lambda t: drawn(t)[0], outer_batch, **options
    )
    start = jax.tree.map(lambda x: jnp.sum(x, axis=0), info.start)  # of the mean loss
    means = batch.mean_of_devices((hyper, info.outer_loss, start))
    return *means, info.weights, info.products, _all_finite(info.start, size)


def _one_by_one(plan: Plan, hparams, weights, batch: MetaBatch, options: dict):
    """Computes the same as `_together` by a pass over each task, for what is not linear in α."""

    def one(task, key):
        def outer_batch_at(t):
            return draw(plan, key, task, t)[1]

        outer_batch = outer_batch_at if plan.every else outer_batch_at(plan.horizon - 1)
        batches = redraw(plan, key, task)
        return plan.estimator(plan.problem, hparams, weights, batches, outer_batch, **options)

    hyper, info = jax.vmap(one)(batch.tasks, batch.keys)
    means = batch.mean((hyper, info.outer_loss, info.start))
    return *means, info.weights, info.products, _all_finite(info.outer_loss, len(batch.keys))


def _all_finite(tree, tasks: int):
    """Tells whether each task's entries are finite, bool [tasks]."""
    leaves = [jnp.isfinite(x).reshape(tasks, -1).all(1) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack([jnp.ones(tasks, bool), *leaves]), axis=0)


def summarize(plan: Plan, status, fit_cost, loop: Loop, batch: MetaBatch) -> LearnerInfo:
    """The info of one inner optimisation."""
    state = loop.state
    theta = plan.fit.theta_of(state.theta) if plan.fit else state.theta
    sound = loop.sound & jax.vmap(_has_no_nan)(loop.final)
    return LearnerInfo(
        **loop.steps._asdict(),
        theta=theta,
        fit=status,
        products=spend(loop.products, fit_cost),
        hparams=state.hparams,
        tasks_finite=batch.gathered(sound),
    )


def _has_no_nan(weights):
    """Tells whether no entry is nan, bool []; infinite ones may be a mask's."""
    return ~jnp.any(jnp.stack([jnp.isnan(x).any() for x in split(weights)[0]] or [False]))


def outer_losses(problem, transition_of):
    """L_val of each task; the compiler shares the forward pass with the gradient's."""
    return jax.vmap(problem.outer_loss, (0, None, 0))(
        transition_of.current, transition_of.hparams, transition_of.outer_batch
    )


def theta_before(plan: Plan):
    """θ before any fit: 1 where nothing is fitted."""
    return plan.fit.first() if plan.fit else jnp.ones((), jnp.result_type(float))


def fit_theta(plan: Plan, state, batch: MetaBatch, before=0):
    """Fits θ where that is due, over all tasks together.

    Returns:
      (θ in use, its `FitStatus`, products spent on it).
    """
    fit = plan.fit
    if fit is None or plan.fit_period is None:
        never = FitStatus.NONE if fit is None else FitStatus.NOT_DUE
        return state.theta, jnp.int8(never), 0
    due = plan.fit_period(state.done + 1)
    hparams, weights = batch.vary((state.hparams, state.weights))

    @jax.jit  # traced once for its shapes and the program
    def measured(hparams, weights, tasks, keys):
        return jax.vmap(measure, (None, None, 0, 0))(hparams, weights, tasks, keys)

    def measure(hparams, weights, task, key):
        key = jax.random.fold_in(key, plan.horizon)
        batch_at = redraw(plan, key, task, before)
        outer_key, mix_key = jax.random.split(jax.random.fold_in(key, plan.horizon))
        last = before + jnp.int32(plan.horizon - 1)
        outer_batch = plan.sample_outer(outer_key, task, last)
        inner = InnerRun(plan.problem, hparams, weights, batch_at, plan.horizon)
        return fit.measure(inner, outer_batch, mix_key)

    given = hparams, weights, batch.tasks, batch.keys
    nothing = jax.tree.map(
        lambda x: batch.vary(jnp.zeros(x.shape, x.dtype)), jax.eval_shape(measured, *given)
    )
    statistics = jax.lax.cond(due, lambda: batch.vary(measured(*given)), lambda: nothing)
    theta, status = fit.accept(batch.mean(statistics), state.theta)
    status = jnp.where(due, status, jnp.int8(FitStatus.NOT_DUE))
    return select(due, theta, state.theta), status, jnp.where(due, fit.products(plan.horizon), 0)
