"""Algorithm 3 as a jitted step of a state: one inner optimisation of a meta-batch of tasks."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hdistill.checks.optimizers import begin, transform
from hdistill.checks.problem import check_problem, differentiating
from hdistill.checks.values import (
    Signature,
    check_count,
    check_hparams,
    check_key,
    check_no_list,
    check_weights,
    leading_axis,
    named,
)
from hdistill.devices import on_auto_axes
from hdistill.hypergradient.estimator import Estimator
from hdistill.learners.draws import draw, first_half, second_half
from hdistill.learners.initialization import (
    Initialization,
    gradients_of,
    params_of,
    with_params,
)
from hdistill.learners.inner_loop import (
    LearnerInfo,
    Loop,
    fit_theta,
    offline_loop,
    online_loop,
    summarize,
    theta_before,
)
from hdistill.learners.plan import MetaBatch, Plan, make_plan, samplers_with_data, with_samplers
from hdistill.problem import Problem, PyTree
from hdistill.tree import own, select, shapes


class LearnerState(NamedTuple):
    """All that meta-learning carries from one inner optimisation to the next.

    Attributes:
      signature: structure, shapes and dtypes of (weights, hparams); static.
      done: inner optimisations done, int32 [].
      key: typed PRNG key [].
      hparams: λ.
      weights: φ, the weights that each inner optimisation starts from.
      hyper_state: state of the hyper-optimizer.
      initialization_state: state of the optimizer of φ, or None.
      theta: what the estimator fits: θ of Eq. 15, floating []; 1 where nothing is fitted.
    """

    signature: tuple[Signature, Signature]
    done: jax.Array
    key: jax.Array
    hparams: PyTree
    weights: PyTree
    hyper_state: PyTree
    initialization_state: PyTree
    theta: PyTree


class LearnerInit(Protocol):
    """The state before the first inner optimisation."""

    def __call__(self, key: jax.Array, hparams: PyTree, weights: PyTree, /) -> LearnerState: ...


class LearnerStep(Protocol):
    """One inner optimisation of a meta-batch."""

    def __call__(
        self, state: LearnerState, tasks: PyTree, /
    ) -> tuple[LearnerState, LearnerInfo]: ...


class PureStep(Protocol):
    """The same, to be mapped over devices."""

    def __call__(
        self, state: LearnerState, tasks: PyTree, axis_name: str | None = None
    ) -> tuple[LearnerState, LearnerInfo]: ...


class Learner(NamedTuple):
    """A meta-learner: pure functions over `LearnerState`.

    Attributes:
      init: `(key, hparams, weights) -> state`.
      step: `(state, tasks) -> (state, info)`, compiled, the buffers of `state` donated: use the
        state it returns, not the one passed in.
      pure_step: the same step, neither compiled nor donated, with `axis_name` of a mapped device
        axis over which tasks are spread; what `pmap_step` maps.
    """

    init: LearnerInit
    step: LearnerStep
    pure_step: PureStep


def learner(
    problem: Problem,
    estimator: Estimator | Callable,
    *,
    hyper_optimizer: optax.GradientTransformation,
    initialization: Initialization | None = None,
    horizon: int,
    every: int | None = None,
    last: int | None = None,
    fit_period: int | Callable | None = 50,
    nonfinite: str = "keep",
    sample_inner: Callable = first_half,
    sample_outer: Callable = second_half,
) -> Learner:
    """Online hyperparameter meta-learning (Algorithm 3 of Lee et al. 2022) with any estimator.

    A step is one inner optimisation of every task of a meta-batch from the shared φ, side by side:

        for t = 1..T:  w_t = Φ(w_{t-1}, λ; D_t) for each task;
                       where λ moves: λ ← hyper_optimizer(λ, mean over tasks of g_t)
        φ ← initialization(φ, w_T of the tasks)

    The whole of it is one compiled program for the whole run.

    Examples:
      >>> learner = hd.learner(
      ...     problem,
      ...     hd.offline.reverse_mode,
      ...     hyper_optimizer=optax.adam(0.1),
      ...     initialization=hd.reptile(0.5),
      ...     horizon=20,
      ...     every=5,
      ... )
      >>> state = learner.init(jax.random.key(0), hparams, weights)
      >>> for _ in range(10):
      ...     state, info = learner.step(state, tasks)
      >>> print(info.outer_loss, info.products)
      [0.61 0.64 0.61 0.43] 39

    Args:
      problem: Φ and L_val.
      estimator: an online estimator (`hd.online.NAME(problem, ...)`), or an offline method
        (`hd.offline.reverse_mode`, `hd.offline.drmad`, or a partial of one), for which λ moves
        once, at the end. Values are always `problem`'s; an online estimator takes its products from
        the problem that it was made with. Your own function around an offline method may set its
        attribute `shares_hparams` to True if the hypergradient is linear in the loss's gradient, as
        ours have it (`functools.partial` and `functools.wraps` keep it): the tasks of a meta-batch
        are then taken together, which is faster.
      hyper_optimizer: optax transformation for λ; its state is carried.
      initialization: `hd.reptile(...)`, `hd.fomaml(...)`, or None for a fixed φ.
      horizon: T, inner steps.
      every: λ moves after inner steps every, 2·every, ...; None for every step. With an offline
        method that takes it, λ moves once, at the end, by the sum of the hypergradients of L_val at
        those steps, each with its own outer batch; None for L_val at T only.
      last: λ moves in the last `last` inner steps only (the K of N.IFT); None for all.
      fit_period: θ is fitted (Algorithm 4, pooled over the meta-batch) before inner optimisations
        1, 1 + fit_period, 1 + 2·fit_period, ...; or a function of the number m = 1, 2, ... (a
        traced int32) that says whether to fit before the m-th; or None for never. A θ that is not
        finite or not positive is refused: the one used last stays in use, 1 before any, and
        `info.fit` says why (`hd.FitStatus`).
      nonfinite: what to do with a mean hypergradient that is not finite: "keep" λ and its
        optimizer's state as they are, or "take" it. `info.finite` and `info.moved` tell.
      sample_inner: `(key, task) -> batch` for Φ, drawn for each inner step; or `(key, task, t)
        -> batch` with t = 0..T-1 the number of the inner step, int32 [] (past the end of an array
        JAX repeats its last entry). By default a task is a pair and its first half is the batch.
      sample_outer: `(key, task) -> batch` for L_val, or `(key, task, t) -> batch`, likewise; by
        default the second half. Large data that either reads: `jax.tree_util.Partial(function,
        data)`, called with (data, key, task), so that the data are no constants of the program.

    Returns:
      A `Learner`. `step(state, tasks)` takes tasks as a pytree with a leading meta-batch axis.

    Raises:
      ValueError: an argument of the wrong type or out of range; every and last such that λ never
        moves; `last` beside an offline method, or an `every` that it does not take; from `init`, a
        raw key and hyperparameters that are not floating point or not finite; from `step`, while
        tracing, a Φ or L_val that does not fit (see `hdistill.checks.problem`), tasks that do not
        fit together, and the state of another learner.
    """
    plan = make_plan(
        problem=problem,
        estimator=estimator,
        hyper_optimizer=hyper_optimizer,
        initialization=initialization,
        horizon=horizon,
        every=every,
        last=last,
        fit_period=fit_period,
        nonfinite=nonfinite,
        sample_inner=sample_inner,
        sample_outer=sample_outer,
    )

    def init(key, hparams, weights) -> LearnerState:
        check_start(key, hparams, weights)
        key, hparams, weights = jax.tree.map(own, (key, hparams, weights))
        # Some optimizers begin with the parameters themselves, which may be donated once only.
        hyper_state, rule_state = jax.tree.map(own, _init_optimizers(plan, hparams, weights))
        return LearnerState(
            (Signature.of(weights), Signature.of(hparams)),
            jnp.zeros((), jnp.int32),
            key,
            hparams,
            weights,
            hyper_state,
            rule_state,
            theta_before(plan),
        )

    def pure_step(state, tasks, axis_name=None):
        return step_with({}, state, tasks, axis_name)

    def step_with(samplers, state, tasks, axis_name):
        check_state(plan, state, LearnerState, tasks)
        here = with_samplers(plan, samplers)
        with differentiating():
            return on_auto_axes(lambda s, t: _step(here, s, t, axis_name), state, tasks)

    samplers = samplers_with_data(sample_inner, sample_outer)
    if not samplers:
        return Learner(init, jax.jit(pure_step, donate_argnums=0, static_argnums=2), pure_step)
    program = jax.jit(step_with, donate_argnums=1, static_argnums=3)
    return Learner(init, lambda state, tasks: program(samplers, state, tasks, None), pure_step)


def check_start(key, hparams, weights) -> None:
    """Checks the start of a learner or a stream; the values too, as long as they are not traced."""
    check_key(key)
    check_hparams(hparams)
    check_weights(weights)
    for path, leaf in named(hparams, "hparams"):
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"{path}={leaf}: expected finite hyperparameters")


def check_state(plan: Plan, state, kind, tasks) -> None:
    """`state` is one that this learner or stream made."""
    if not isinstance(state, kind):
        swapped = " (are state and tasks in each other's place?)" * isinstance(tasks, kind)
        raise ValueError(
            f"state is a {type(state).__name__}: expected the {kind.__name__} of init{swapped}"
        )
    state.signature[0].check("state.weights", state.weights)
    state.signature[1].check("state.hparams", state.hparams)
    optimizers = jax.eval_shape(lambda s: _init_optimizers(plan, s.hparams, s.weights), state)
    expected = dict(zip(("hyper_state", "initialization_state"), optimizers))
    for name, like in (expected | {"theta": theta_before(plan)}).items():
        try:
            Signature.of(like).check(f"state.{name}", getattr(state, name, None))
        except ValueError as error:
            hint = "is it the state of a learner with another optimizer or estimator?"
            raise ValueError(f"{error}; {hint}") from error
    Signature.of(jnp.int32(0)).check("state.done", state.done)
    for name in {"key", "keys"} & set(state._fields):
        for path, key in named(getattr(state, name), f"state.{name}"):
            check_key(key, path)


def _init_optimizers(plan: Plan, hparams, weights):
    """(state of λ's optimizer, state of φ's or None)."""
    rule = plan.initialization
    hyper_state = begin("hyper_optimizer", plan.hyper_optimizer, hparams)
    if rule is None:
        return hyper_state, None
    return hyper_state, begin("initialization", rule.optimizer, params_of(weights))


def _step(plan: Plan, state: LearnerState, tasks, axis_name):
    check_no_list("tasks", tasks, "meta-batch")
    size = check_count("meta-batch (the leading axis of tasks)", leading_axis(tasks, "tasks"))
    key, step_key = jax.random.split(state.key)
    first = _place(axis_name) * size if axis_name else 0
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, first + jnp.arange(size))
    batch = MetaBatch(tasks, keys, axis_name)
    task = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tasks)
    drawn = jax.eval_shape(lambda key, task: draw(plan, key, task, 0)[:2], shapes(key), task)
    check_problem(plan.problem, state.hparams, state.weights, *drawn)
    theta, status, fit_cost = fit_theta(plan, state, batch)
    state = state._replace(key=key, theta=theta, done=state.done + 1)
    loop = online_loop if isinstance(plan.estimator, Estimator) else offline_loop
    end = loop(plan, state, batch)
    info = summarize(plan, status, fit_cost, end, batch)
    return _learn_initialization(plan, end, batch), info


def _place(axis_name):
    """The number of this device on the mapped axis, int32 []."""
    try:
        return jax.lax.axis_index(axis_name)
    except NameError as error:
        raise ValueError(
            f"axis_name={axis_name!r}: expected an axis of jax.pmap, jax.shard_map or jax.vmap "
            "around this call, or None"
        ) from error


def _learn_initialization(plan: Plan, end: Loop, batch: MetaBatch):
    """φ ← φ + what the tasks' gradients say; φ itself where there is no rule.

    Where that is not finite φ and its optimizer's state stay, unless `nonfinite` is "take".
    """
    rule, state = plan.initialization, end.state
    if rule is None:
        return state
    params, gradients = params_of(state.weights), _start_gradients(rule, plan, end, batch)
    updates, rule_state = transform(
        "initialization", rule.optimizer, gradients, state.initialization_state, params
    )
    # Infinite entries stay: a decay of -inf would make them nan.
    stepped = zip(optax.apply_updates(params, updates), params)
    new = [jnp.where(jnp.isinf(old), old, moved) for moved, old in stepped]
    if plan.nonfinite == "keep":
        sound = [jnp.all(jnp.isfinite(x) | (x == y)) for x, y in zip(new, params)]
        before = params, state.initialization_state
        new, rule_state = select(jnp.all(jnp.stack(sound or [True])), (new, rule_state), before)
    weights = with_params(state.weights, new)
    return state._replace(weights=weights, initialization_state=rule_state)


def _start_gradients(rule: Initialization, plan: Plan, end: Loop, batch: MetaBatch) -> list:
    """The mean over the tasks of the gradients of φ's parameters."""
    state, of_one = end.state, rule.gradient
    if of_one is None:
        if end.start is None:
            raise ValueError(
                f"estimator={plan.estimator!r}: expected an info with `start` for hd.maml"
            )
        return gradients_of(state.weights, end.start)
    initial, hparams = batch.vary((state.weights, state.hparams))

    def gradient(weights, task, key):
        outer_batch = draw(plan, key, task, plan.horizon - 1)[1]
        return of_one(plan.problem, initial, weights, hparams, outer_batch)

    return batch.mean(jax.vmap(gradient)(end.final, batch.tasks, batch.keys))
