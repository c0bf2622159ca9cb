"""Algorithm 3 as a state transition: one inner optimisation of a meta-batch of tasks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks import Signature, check_count, check_hparams, check_key, check_problem
from hdistill.hypergradient.base import Estimator
from hdistill.initialization import Initialization, params_of, with_params
from hdistill.inner_loop import LearnerInfo, fit_theta, offline_loop, online_loop, theta_before
from hdistill.plan import Plan, draw, make_plan
from hdistill.problem import Problem, PyTree, leading_axis
from hdistill.tree import own


class LearnerState(NamedTuple):
    """All that meta-learning carries from one inner optimisation to the next."""

    signature: tuple[Signature, Signature]  # of (weights, hparams)
    done: jax.Array  # inner optimisations done, int32 []
    key: jax.Array  # typed PRNG key []
    hparams: PyTree  # λ
    weights: PyTree  # φ, the weights that each inner optimisation starts from
    hyper_state: PyTree  # state of the hyper-optimizer
    initialization_state: PyTree  # state of the optimizer of φ, or None
    theta: PyTree  # what the estimator fits: θ of Eq. 15, floating []; 1 where nothing is fitted


class Learner(NamedTuple):
    """A meta-learner: pure functions over `LearnerState`.

    Attributes:
      init: `(key, hparams, weights) -> state`.
      step: `(state, tasks) -> (state, info)`, compiled, the buffers of `state` donated: use the
        state it returns, not the one passed in.
      transition: the same step, neither compiled nor donated, with `axis_name` of a mapped device
        axis over which tasks are spread; what `pmap_step` maps.
    """

    init: Callable[..., LearnerState]
    step: Callable[..., tuple[LearnerState, LearnerInfo]]
    transition: Callable[..., tuple[LearnerState, LearnerInfo]]


def learner(
    problem: Problem,
    estimator: Estimator | Callable,
    *,
    hyper_optimizer: optax.GradientTransformation,
    initialization: Initialization | None = None,
    horizon: int,
    every: int = 1,
    last: int | None = None,
    fit_period: int | Callable = 50,
    sample_inner: Callable = lambda key, task: task[0],
    sample_outer: Callable = lambda key, task: task[1],
) -> Learner:
    """Online hyperparameter meta-learning (Algorithm 3 of Lee et al. 2022) with any estimator.

    A step is one inner optimisation of every task of a meta-batch from the shared φ, side by side:

        for t = 1..T:  w_t = Φ(w_{t-1}, λ; D_t) for each task;
                       where λ moves: λ ← hyper_optimizer(λ, mean over tasks of g_t)
        φ ← initialization(φ, w_T of the tasks)

    The whole of it is one compiled program for the whole run.

    Args:
      problem: Φ and L_val.
      estimator: an online estimator (`hd.online.NAME(problem, ...)`), or an offline method
        (`hd.offline.reverse_mode`, `hd.offline.drmad`, or a partial of one), for which λ moves
        once, at the end.
      hyper_optimizer: optax transformation for λ; its state is carried.
      initialization: `hd.reptile(...)`, `hd.fomaml(...)`, or None for a fixed φ.
      horizon: T, inner steps.
      every: λ moves after inner steps every, 2·every, ...
      last: λ moves in the last `last` inner steps only (the K of N.IFT); None for all.
      fit_period: θ is fitted (Algorithm 4, pooled over the meta-batch) before inner optimisations
        1, 1 + fit_period, 1 + 2·fit_period, ...; or a function of the number m = 1, 2, ... (a
        traced int32) that says whether to fit before the m-th.
      sample_inner: `(key, task) -> batch` for Φ, drawn anew for each inner step. By default a task
        is a pair and its first half is the batch.
      sample_outer: `(key, task) -> batch` for L_val, likewise; by default the second half.

    Returns:
      A `Learner`. `step(state, tasks)` takes tasks as a pytree with a leading meta-batch axis.

    Raises:
      ValueError: horizon, every, last or fit_period below 1, or such that λ never moves; every or
        last with an offline method; an estimator, initialization or hyper_optimizer of another
        kind; from `init`, a key that is none and hyperparameters that are not floating point; from
        `step`, while tracing, a Φ or L_val that is not one (see `hdistill.checks`) and tasks that
        do not fit together.
    """
    plan = make_plan(
        problem,
        estimator,
        hyper_optimizer,
        initialization,
        horizon,
        every,
        last,
        fit_period,
        sample_inner,
        sample_outer,
    )
    inner = online_loop if isinstance(estimator, Estimator) else offline_loop

    def init(key, hparams, weights) -> LearnerState:
        check_key(key)
        check_hparams(hparams)
        key, hparams, weights = jax.tree.map(own, (key, hparams, weights))
        return LearnerState(
            (Signature.of(weights), Signature.of(hparams)),
            jnp.zeros((), jnp.int32),
            key,
            hparams,
            weights,
            hyper_optimizer.init(hparams),
            initialization.optimizer.init(params_of(weights)) if initialization else None,
            theta_before(estimator),
        )

    def transition(state, tasks, axis_name=None):
        return _transition(plan, inner, state, tasks, axis_name)

    return Learner(init, jax.jit(transition, donate_argnums=0, static_argnums=2), transition)


def _transition(plan: Plan, inner, state: LearnerState, tasks, axis_name):
    state.signature[0].check("state.weights", state.weights)
    state.signature[1].check("state.hparams", state.hparams)
    size = check_count("meta-batch (the leading axis of tasks)", leading_axis(tasks, "tasks"))

    def mean(tree):
        tree = jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)
        return jax.lax.pmean(tree, axis_name) if axis_name else tree

    key, step_key = jax.random.split(state.key)
    first = jax.lax.axis_index(axis_name) * size if axis_name else 0
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, first + jnp.arange(size))
    task = jax.tree.map(lambda x: x[0], tasks)
    batch, outer_batch, _ = jax.eval_shape(lambda key, task: draw(plan, key, task, 0), key, task)
    check_problem(plan.problem, state.hparams, state.weights, batch, outer_batch)
    theta, fit_cost = fit_theta(plan, state, tasks, keys, mean)
    state = state._replace(key=key, theta=theta, done=state.done + 1)
    state, final, info = inner(plan, state, tasks, keys, mean)
    state = _learn_initialization(plan, state, final, tasks, keys, mean)
    return state, info._replace(theta=theta, products=info.products + fit_cost)


def _learn_initialization(plan, state, final, tasks, keys, mean):
    """φ ← φ + what the tasks' gradients say; φ itself where there is no rule."""
    rule = plan.initialization
    if rule is None:
        return state

    def gradient(weights, task, key):
        outer_batch = draw(plan, key, task, plan.horizon - 1)[1]
        return rule.gradient(plan.problem, state.weights, weights, state.hparams, outer_batch)

    gradients = mean(jax.vmap(gradient)(final, tasks, keys))
    params = params_of(state.weights)
    updates, rule_state = rule.optimizer.update(gradients, state.initialization_state, params)
    weights = with_params(state.weights, optax.apply_updates(params, updates))
    return state._replace(weights=weights, initialization_state=rule_state)
