"""The paper's methods by name, with the arguments of `hd.learner` that go with each."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import optax

import hdistill as hd

MethodName = Literal[
    "fo",
    "one-step",
    "drmad",
    "nift",
    "greedy",
    "one-step-sized",
    "hyperdistill",
    "robust",
    "rmd-end",
    "rmd",
]
METHODS: tuple[str, ...] = get_args(MethodName)


def descent(problem: hd.Problem, inner_loss: Callable, rate: float) -> hd.Problem:
    """The problem with one step of plain gradient descent for Φ, the map of N.IFT.

    Args:
      problem: Φ and L_val, from `hd.from_losses`.
      inner_loss: its inner loss, of (params, hparams, batch).
      rate: the learning rate.
    """

    def update(weights, hparams, batch):
        gradient = jax.grad(inner_loss)(weights.params, hparams, batch)
        return weights._replace(params=optax.tree.add_scale(weights.params, -rate, gradient))

    return problem._replace(update=update)


class Method(NamedTuple):
    """A method as the tables name it.

    Attributes:
      title: the name in the tables.
      estimator: what `hd.learner` takes.
      arguments: further arguments of `hd.learner`.
    """

    title: str
    estimator: hd.Estimator | Callable
    arguments: dict


def methods(
    problem: hd.Problem,
    descent: hd.Problem,
    *,
    horizon: int,
    gamma: float,
    neumann: tuple[int, int],
    size: str | float = "fit",
) -> dict[str, Method]:
    """All methods of a study.

    Args:
      problem: Φ and L_val.
      descent: the same with one step of plain gradient descent for Φ, the map whose fixed point
        N.IFT differentiates: Lorraine et al.'s, without the momentum of `problem`'s Φ.
      horizon: T, over which online RMD is exact.
      gamma: γ of HyperDistill.
      neumann: (N, K) of N.IFT: the terms, and the last inner steps in which λ moves.
      size: of HyperDistill's second-order term, and of the one-step term that is sized likewise
        (the ablation that leaves w* and D* out).
    """
    terms, last = neumann
    online = hd.online
    return {
        "fo": Method("FO", online.first_order(problem), {}),
        "one-step": Method("1-step", online.one_step(problem), {}),
        "drmad": Method("DrMAD", hd.offline.drmad, {}),
        "nift": Method(
            f"N.IFT({terms}, {last})",
            online.implicit(descent, solver="neumann", terms=terms),
            {"last": last},
        ),
        "greedy": Method("Greedy (γ=0.5)", online.greedy(problem, gamma=0.5), {}),
        "one-step-sized": Method(
            "1-step, size fitted" if size == "fit" else f"1-step, size {size:g}",
            online.hyperdistill(problem, gamma=0.0, size=size),
            {},
        ),
        "hyperdistill": Method(
            f"HyperDistill (γ={gamma})", online.hyperdistill(problem, gamma=gamma, size=size), {}
        ),
        "robust": Method(
            "Robust HyperDistill",
            online.robust_hyperdistill(problem),
            # Early on λ moves far: fits before inner optimisations 1, 2, 4, 8, ...
            {"fit_period": lambda m: m & (m - 1) == 0},
        ),
        "rmd-end": Method("RMD (exact, once at T)", hd.offline.reverse_mode, {}),
        "rmd": Method("Online RMD (exact)", online.reverse_mode(problem, window=horizon), {}),
    }
