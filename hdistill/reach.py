"""Which leaves a derivative can reach, read off the traced program: nothing is computed."""

import functools
import operator

import jax

from hdistill.tree import is_real, shapes, split


def reaching_hparams(problem, hparams, weights, batch, outer_batch, depth: int) -> list[bool]:
    """For each leaf of λ, whether a path leads from it to L_val through at most `depth` steps of Φ.

    Φ (or its surrogate) and L_val are each traced once, in forward mode (so that Φ needs no reverse
    one): the graph of which leaf depends on which is the same at every step.

    Args:
      depth: how many steps of Φ the path may take: 0 for first-order, T for full-horizon methods.

    Returns:
      One bool for each leaf of λ.
    """
    count = len(split(weights)[0])
    weights_only, everything = (1 << count) - 1, (1 << len(jax.tree.leaves(hparams))) - 1
    (loss,) = _dependence(problem.outer_loss, weights, hparams, outer_batch)
    reached, needed = loss >> count, loss & weights_only
    if depth and reached != everything:
        step = _dependence(problem.differentiated, weights, hparams, batch)
        # A shortest path visits no leaf twice, so that more steps than leaves find nothing new.
        for _ in range(min(depth, count + 1)):
            before = _union(mask for i, mask in enumerate(step) if needed >> i & 1)
            reached, needed = reached | before >> count, before & weights_only
    return [bool(reached >> j & 1) for j in range(len(jax.tree.leaves(hparams)))]


def reaching_weights(problem, hparams, weights, outer_batch) -> list[bool]:
    """For each floating-point leaf of the weights, whether L_val depends on it."""
    (loss,) = _dependence(problem.outer_loss, weights, hparams, outer_batch)
    return [bool(loss >> i & 1) for i in range(len(split(weights)[0]))]


def unchanged(problem, hparams, weights, batch) -> list[bool]:
    """For each leaf of the weights, whether Φ hands it on as it is."""
    arguments = shapes((weights, hparams, batch))
    jaxpr = jax.make_jaxpr(lambda *a: jax.tree.leaves(problem.update(*a)))(*arguments).jaxpr
    count = len(jax.tree.leaves(weights))
    return [source == i for i, source in zip(range(count), _forwarded(jaxpr))]


def _dependence(function, weights, hparams, batch) -> list[int]:
    """For each floating-point output leaf the inputs it depends on, a set of bits.

    Bit i is the i-th floating-point leaf of the weights, and after those come λ's.
    """

    def push(tangents, weights, hparams, batch):
        real, merge = split(weights)

        def values(real, hparams):
            return [x for x in jax.tree.leaves(function(merge(real), hparams, batch)) if is_real(x)]

        return jax.jvp(values, (real, hparams), tangents)[1]

    weights, hparams, batch = shapes((weights, hparams, batch))
    tangents = split(weights)[0], hparams
    jaxpr = jax.make_jaxpr(push)(tangents, weights, hparams, batch).jaxpr
    live = [1 << i for i in range(len(jax.tree.leaves(tangents)))]
    return _spread(jaxpr, live + [0] * (len(jaxpr.invars) - len(live)))


def _union(masks) -> int:
    return functools.reduce(operator.or_, masks, 0)


def _spread(jaxpr, incoming: list[int]) -> list[int]:
    """The bits that arrive at each output of a jaxpr, given those of its inputs."""
    bits = dict(zip(jaxpr.invars, incoming))

    def read(variables):
        return [0 if hasattr(v, "val") else bits.get(v, 0) for v in variables]

    for equation in jaxpr.eqns:
        bits.update(zip(equation.outvars, _through(equation, read(equation.invars))))
    return read(jaxpr.outvars)


def _through(equation, given: list[int]) -> list[int]:
    """The same through one equation, inside the programs that it may hold."""
    parameters = equation.params
    match equation.primitive.name:
        case "scan":
            consts, carry = _scan_inputs(parameters)
            body, end = parameters["jaxpr"].jaxpr, consts + carry
            return _settle(body, given[:consts], given[consts:end], given[end:])
        case "while":
            start, consts = parameters["cond_nconsts"], parameters["body_nconsts"]
            end = start + consts
            return _settle(parameters["body_jaxpr"].jaxpr, given[start:end], given[end:], [])
        case "cond":
            branches = [_spread(branch.jaxpr, given[1:]) for branch in parameters["branches"]]
            return [_union(masks) for masks in zip(*branches)]
    inner = _called(equation)
    return _spread(inner, given) if inner else [_union(given)] * len(equation.outvars)


def _scan_inputs(parameters) -> tuple[int, int]:
    """How many of a scan's inputs are constants, and how many carry; JAX 0.12 says it otherwise."""
    if "num_consts" in parameters:
        return parameters["num_consts"], parameters["num_carry"]
    consts, carry, _ = (len(list(group)) for group in parameters["ft_in"].unpack())
    return consts, carry


def _settle(body, consts, carry, slices) -> list[int]:
    """Through a loop: again until the carry's bits no longer grow."""
    while True:
        out = _spread(body, [*consts, *carry, *slices])
        grown = [old | new for old, new in zip(carry, out)]
        if grown == carry:
            return [*grown, *out[len(carry) :]]
        carry = grown


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
