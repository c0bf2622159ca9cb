"""The methods of one backward pass at the end of an inner optimisation, against the exact pass."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import hdistill as hd
from experiments.fidelity.setting import adapted
from experiments.methods import METHODS
from experiments.run.study import Setting
from experiments.run.timing import medians


class Pass(NamedTuple):
    """A method's hypergradient g = g^FO + g^SO of a whole inner optimisation, and its cost.

    Attributes:
      cosine: to exact reverse mode with the same outer losses.
      ratio: of the norm of g to the exact one's.
      second_order_cosine, second_order_ratio: the same of g^SO only.
      products: Jacobian products of Φ.
      seconds: compiled, median of three.
      memory: bytes the compiled program needs beside its arguments and results.
    """

    cosine: float
    ratio: float
    second_order_cosine: float
    second_order_ratio: float
    products: int
    seconds: float
    memory: int


def compare_passes(setting: Setting, hparams, weights, batches, outer_batch) -> dict[str, Pass]:
    """Each offline method of the registry, by name, at fixed λ.

    A method with every loss estimates the sum of the hypergradients of L_val at w_n, w_2n, ..., on
    one outer batch, and is held against the exact sum; the others against L_val at w_T only.
    """
    case = hparams, weights, batches, outer_batch
    methods = [adapted(name, setting) for name in METHODS]
    methods = [m for m in methods if not isinstance(m.estimator(setting), hd.Estimator)]
    programs: list[Any] = [jax.jit(_offline(m, setting)).lower(*case).compile() for m in methods]
    seconds = medians([functools.partial(p, *case) for p in programs], 3)
    answers = {m.name: program(*case) for m, program in zip(methods, programs)}
    compared = {}
    for method, program, time in zip(methods, programs, seconds):
        (g, info), exact = answers[method.name], answers[reference(method)][0]
        compared[method.name] = Pass(
            *_closeness(g.total, exact.total),
            *_closeness(g.second_order, exact.second_order),
            int(info.products),
            time,
            program.memory_analysis().temp_size_in_bytes,
        )
    return compared


def reference(method) -> str:
    """The exact method that collects the same outer losses."""
    return "rmd-every" if "every" in method.arguments else "rmd-end"


def _offline(method, setting: Setting):
    """(λ, w_0, batches, outer batch) -> (hypergradient, info) of an offline method."""
    estimator = functools.partial(method.estimator(setting), method.problem(setting))
    every = method.arguments.get("every")

    def run(hparams, weights, batches, outer_batch):
        if every is None:
            return estimator(hparams, weights, batches, outer_batch, return_info=True)
        outer_batches = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (setting.horizon // every, *x.shape)), outer_batch
        )
        return estimator(hparams, weights, batches, outer_batches, every=every, return_info=True)

    return run


def _closeness(actual, exact) -> tuple[float, float]:
    """(cosine, norm ratio) of two trees."""
    norm, exact_norm = optax.tree.norm(actual), optax.tree.norm(exact)
    cosine = optax.tree.vdot(actual, exact) / (norm * exact_norm)
    return float(cosine), float(norm / exact_norm)
