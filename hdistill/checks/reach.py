"""Leaves that a derivative can reach, and leaves that Φ hands on: read off the traced program."""

import jax
from jax.interpreters.partial_eval import dce_jaxpr

from hdistill.tree import is_real, shapes, split


def reaching_hparams(problem, hparams, weights, batch, outer_batch, depth: int) -> list[bool]:
    """For each leaf of λ, whether a path leads from it to L_val through at most `depth` steps of Φ.

    Backwards from L_val: which leaves it needs, which leaves those need one step earlier, and so on
    until nothing new is found. L_val and Φ (or its surrogate) are each traced once, in forward mode
    (so that Φ needs no reverse one).

    Args:
      depth: how many steps of Φ the path may take: 0 for first-order, T for full-horizon methods.

    Returns:
      One bool for each leaf of λ.
    """
    count = len(split(weights)[0])
    needed = _needed(_tangents(problem.outer_loss, weights, hparams, outer_batch), [True])
    frontier, reached = needed[:count], needed[count:]
    seen, step = frontier, None
    while depth and any(frontier) and not all(reached):
        step = step or _tangents(problem.differentiated, weights, hparams, batch)
        needed = _needed(step, frontier)
        reached = [a or b for a, b in zip(reached, needed[count:])]
        frontier = [new and not old for new, old in zip(needed, seen)]
        seen, depth = [a or b for a, b in zip(seen, frontier)], depth - 1
    return reached


def reaching_weights(problem, hparams, weights, outer_batch) -> list[bool]:
    """For each floating-point leaf of the weights, whether L_val depends on it."""
    loss = _tangents(problem.outer_loss, weights, hparams, outer_batch)
    return _needed(loss, [True])[: len(split(weights)[0])]


def unchanged(problem, hparams, weights, batch) -> list[bool]:
    """For each leaf of the weights, whether Φ (and its surrogate) hands it on as it is."""
    arguments, count = shapes((weights, hparams, batch)), len(jax.tree.leaves(weights))
    same = [True] * count
    for function in filter(None, (problem.update, problem.surrogate)):
        jaxpr = jax.make_jaxpr(lambda *a, f=function: jax.tree.leaves(f(*a)))(*arguments).jaxpr
        same = [s and i == source for s, (i, source) in zip(same, enumerate(_forwarded(jaxpr)))]
    return same


def _tangents(function, weights, hparams, batch):
    """(the jaxpr of a function's tangents, how many of its inputs are tangents).

    Those come first: of the weights' floating-point leaves and of λ's. The outputs are the tangents
    of the function's floating-point leaves.
    """

    def push(tangents, weights, hparams, batch):
        real, merge = split(weights)

        def values(real, hparams):
            return [x for x in jax.tree.leaves(function(merge(real), hparams, batch)) if is_real(x)]

        return jax.jvp(values, (real, hparams), tangents)[1]

    weights, hparams, batch = shapes((weights, hparams, batch))
    tangents = split(weights)[0], hparams
    jaxpr = jax.make_jaxpr(push)(tangents, weights, hparams, batch).jaxpr
    return jaxpr, len(jax.tree.leaves(tangents))


def _needed(traced, outputs: list[bool]) -> list[bool]:
    """Finds the tangents that the chosen outputs need: the program without its dead code."""
    jaxpr, count = traced
    return dce_jaxpr(jaxpr, outputs)[1][:count]


def _called(equation):
    """The jaxpr that an equation calls on just its own inputs (jit, remat and their like)."""
    inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    inner = getattr(inner, "jaxpr", inner)
    fits = (
        inner is not None
        and len(inner.invars) == len(equation.invars)
        and len(inner.outvars) == len(equation.outvars)
    )
    return inner if fits else None


def _forwarded(jaxpr) -> list[int | None]:
    """For each output the number of the input that it is, None where it is computed."""
    source = {variable: i for i, variable in enumerate(jaxpr.invars)}

    def read(variable):
        return None if hasattr(variable, "val") else source.get(variable)

    for equation in jaxpr.eqns:
        inner = _called(equation)
        if inner and equation.primitive.name != "scan":
            for variable, i in zip(equation.outvars, _forwarded(inner)):
                if i is not None:
                    source[variable] = read(equation.invars[i])
    return [read(variable) for variable in jaxpr.outvars]
