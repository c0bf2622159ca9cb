"""The checked arguments of a learner or a stream."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill import offline, online
from hdistill.checks.optimizers import check_optimizer
from hdistill.checks.problem import check_functions
from hdistill.checks.values import check_calls, check_choice, check_count, describe
from hdistill.devices import vary_like
from hdistill.hypergradient.estimator import Estimator
from hdistill.hypergradient.offline_method import is_offline
from hdistill.learners.draws import numbered
from hdistill.learners.initialization import Initialization
from hdistill.problem import Problem


class Plan(NamedTuple):
    """The arguments of `hd.learner` or `hd.stream`, checked."""

    problem: Problem
    estimator: Any
    hyper_optimizer: optax.GradientTransformation
    horizon: int
    every: Any  # checked: a number, or None of an offline method that sees L_val at T only
    fit_period: Any  # checked: m -> whether to fit before the m-th, or None for never
    nonfinite: str
    sample_inner: Callable  # checked: (key, task, t) -> batch
    sample_outer: Callable  # checked: (key, task, t) -> batch
    initialization: Initialization | None = None
    last: Any = None  # checked: a number

    @property
    def fit(self):
        """The estimator's `Fit`, or None."""
        return self.estimator.fit if isinstance(self.estimator, Estimator) else None

    @property
    def shares_hparams(self) -> bool:
        """Tells whether the offline method, or the estimator's step, takes the tasks together."""
        estimator = self.estimator
        method = estimator.step if isinstance(estimator, Estimator) else estimator
        while isinstance(method, functools.partial):
            method = method.func
        return bool(getattr(method, "shares_hparams", False))

    @property
    def always_moves(self) -> bool:
        """Tells whether λ moves after every inner step."""
        return self.every == 1 and self.last == self.horizon

    def moves(self, t):
        """Tells whether λ moves after inner step t = 0..T-1, bool []."""
        return ((t + 1) % self.every == 0) & (t + 1 > self.horizon - self.last)


class MetaBatch(NamedTuple):
    """Tasks side by side, spread over the devices of a mapped axis or not.

    Attributes:
      tasks: a pytree with a leading axis.
      keys: PRNG keys, one for each task.
      axis_name: the mapped device axis, or None.
    """

    tasks: Any
    keys: jax.Array
    axis_name: str | None = None

    def mean(self, tree):
        """The mean over all tasks on all devices, the same on every device."""
        return self.mean_of_devices(jax.tree.map(lambda x: jnp.mean(x, axis=0), tree))

    def mean_of_devices(self, tree):
        """The mean over the devices of what is the mean over each device's tasks."""
        return jax.lax.pmean(tree, self.axis_name) if self.axis_name else tree

    def largest(self, counts):
        """The largest of a count over all tasks on all devices."""
        counts = jnp.max(counts)
        return jax.lax.pmax(counts, self.axis_name) if self.axis_name else counts

    def gathered(self, values):
        """Each device's values, [tasks], in one array on every device."""
        if not self.axis_name:
            return values
        devices, place = jax.lax.axis_size(self.axis_name), jax.lax.axis_index(self.axis_name)
        everywhere = jnp.zeros((devices, *values.shape), jnp.int32).at[place].set(values)
        return jax.lax.psum(everywhere, self.axis_name).reshape(-1).astype(bool)

    def vary(self, tree):
        """The tree, ready to meet the tasks on their devices (see `vary_like`)."""
        return vary_like(tree, (self.tasks, self.keys))


def make_plan(**arguments) -> Plan:
    """A `Plan` from `hd.learner`'s arguments, or a ValueError that names the one at fault."""
    plan = Plan(**arguments)
    check_functions(plan.problem)
    online = isinstance(plan.estimator, Estimator)
    horizon = check_count("horizon", plan.horizon)
    every: Any = 1 if plan.every is None and online else plan.every
    every = every if every is None else check_count("every", every)
    last = min(check_count("last", horizon if plan.last is None else plan.last), horizon)
    _check_estimator(plan.estimator)
    if not isinstance(plan.initialization, Initialization | None):
        raise ValueError(
            f"initialization={plan.initialization!r}: expected hd.reptile(...), hd.fomaml(...) or "
            "None"
        )
    check_optimizer("hyper_optimizer", plan.hyper_optimizer)
    check_choice("nonfinite", plan.nonfinite, ("keep", "take"))
    if plan.initialization is not None and plan.initialization.gradient is None:
        _check_start_gradient(plan.estimator)
    if not online:
        _check_offline(plan.estimator, horizon, every, last)
    elif horizon - horizon % every <= horizon - last:
        raise ValueError(
            f"every={every}, last={last}: λ would never move in horizon={horizon} inner steps; "
            "expected a multiple of every among the last steps"
        )
    return plan._replace(
        horizon=horizon,
        every=every,
        last=last,
        fit_period=_schedule(plan.fit_period),
        sample_inner=numbered("sample_inner", plan.sample_inner),
        sample_outer=numbered("sample_outer", plan.sample_outer),
    )


def _check_estimator(estimator) -> None:
    if isinstance(estimator, Estimator):
        return
    uncalled = any(estimator is getattr(online, name) for name in online.__all__)
    if uncalled or not is_offline(estimator):
        raise ValueError(
            f"estimator={estimator!r}: expected a call, hd.online.NAME(problem, ...), a method of "
            "hd.offline, or a function called like one"
        )
    fixed = {"every", "horizon", "return_info"} & set(getattr(estimator, "keywords", {}))
    if fixed:
        raise ValueError(
            f"estimator={estimator!r}: expected no {' or '.join(sorted(fixed))} in the partial, "
            "which the learner sets itself"
        )


def _check_start_gradient(estimator) -> None:
    method = getattr(estimator, "func", estimator)
    window = getattr(estimator, "keywords", {}).get("window")
    if isinstance(estimator, Estimator) or (method is offline.reverse_mode and window is not None):
        raise ValueError(
            "initialization=hd.maml(...): expected an offline method whose info has the gradient "
            f"in the start, hd.offline.reverse_mode without a window, got estimator={estimator!r}"
        )


def _check_offline(estimator, horizon: int, every: int | None, last: int) -> None:
    """λ moves once, at the end, by the sum over every so many steps or by L_val at T."""
    if last != horizon:
        raise ValueError(
            f"last={last}: expected None, because an offline method moves λ once, at the end"
        )
    if every is None:
        return
    if every > horizon:
        raise ValueError(f"every={every}: expected at most horizon={horizon}")
    if not is_offline(estimator, every=every):
        raise ValueError(
            f"every={every}: expected None, because estimator={estimator!r} is an offline method "
            "without that option (hd.offline.reverse_mode and hd.offline.drmad have it)"
        )


def _schedule(fit_period):
    """m -> whether to fit before the m-th inner optimisation; None for never."""
    if fit_period is None:
        return None
    if not callable(fit_period):
        period = check_count("fit_period", fit_period)
        return lambda m: (m - 1) % period == 0
    check_calls("fit_period", fit_period, "(m)")

    def refits(m):
        due = fit_period(m)
        if not isinstance(due, bool) and describe(due) != "bool[]":
            raise ValueError(
                f"fit_period(m) returned {describe(due)}: expected bool[], whether to fit before "
                "the m-th"
            )
        return due

    return refits


def samplers_with_data(sample_inner, sample_outer) -> dict:
    """Those samplers that are a `jax.tree_util.Partial`, a function with its data, by name."""
    samplers = {"sample_inner": sample_inner, "sample_outer": sample_outer}
    return {k: v for k, v in samplers.items() if isinstance(v, jax.tree_util.Partial)}


def with_samplers(plan: Plan, samplers: dict) -> Plan:
    """The plan with those samplers, so that their data are what a program is called with."""
    return plan._replace(**{name: numbered(name, sample) for name, sample in samplers.items()})
