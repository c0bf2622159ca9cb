"""Planted faults that `hd.diagnose` must tell, and right problems that it must not alarm about.

    python -m experiments.bench.diagnosis

One small training (T = 12, two layers of eight), changed in one place each time. A fault is told if
there is an alarm with its word; prints a line for each case, then the counts.
"""

import functools
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd

STEPS = 12
KEYS = jax.random.split(jax.random.key(0), 4)
INPUTS = jax.random.normal(KEYS[0], (STEPS, 16, 5))
TARGETS = jnp.tanh(INPUTS @ jax.random.normal(KEYS[1], (5,)))
PARAMS = {"a": jax.random.normal(KEYS[2], (5, 8)) / 3, "b": jax.random.normal(KEYS[3], (8,)) / 3}
LAM = {"decay": jnp.array([-4.0, -5.0]), "rate": jnp.array(-2.5)}


class Case(NamedTuple):
    """A problem to diagnose.

    Attributes:
      word: of the alarm that is expected; "" for none.
    """

    problem: hd.Problem
    weights: Any
    word: str = ""
    hparams: Any = LAM
    batches: Any = (INPUTS, TARGETS)
    outer_batch: Any = (INPUTS[0], TARGETS[0])
    method: Callable = hd.offline.reverse_mode


def network(activation, params, x):
    return activation(x @ params["a"]) @ params["b"]


def fit(params, hparams, batch, activation=jax.nn.gelu):
    return jnp.mean((network(activation, params, batch[0]) - batch[1]) ** 2)


def inner(params, hparams, batch, fit=fit, seen=lambda h: h):
    decay = jnp.exp(seen(hparams["decay"]))
    terms = sum(decay[i] * jnp.sum(x**2) for i, x in enumerate(params.values()))
    return fit(params, hparams, batch) + terms


def scaled(problem: hd.Problem) -> hd.Problem:
    """Φ whose step is exp(rate) of the optimizer's."""

    def update(weights, hparams, batch):
        after = problem.update(weights, hparams, batch)
        rate = jnp.exp(hparams["rate"] + 2.5)

        def step(old, new):
            return (old + rate * (new - old)).astype(old.dtype)

        return after._replace(params=jax.tree.map(step, weights.params, after.params))

    return problem._replace(update=update)


def case(optimizer=None, loss=inner, outer=fit, params=PARAMS, **how) -> Case:
    optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
    problem = scaled(hd.from_losses(loss, outer, optimizer))
    return Case(problem, hd.InnerState(params, optimizer.init(params)), **how)


def changed(case: Case, update: Callable, **how) -> Case:
    """The case whose Φ is `update(Φ, weights, hparams, batch)`."""
    old = case.problem.update
    problem = case.problem._replace(update=lambda *given: update(old, *given))
    return case._replace(problem=problem, **how)


def activated(activation) -> dict:
    outer = functools.partial(fit, activation=activation)
    return {"loss": functools.partial(inner, fit=outer), "outer": outer}


def half(tree):
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)


def in_bfloat16(params, hparams, batch):
    x = network(jax.nn.gelu, half(params), half(batch[0])) - half(batch[1])
    return jnp.mean(x.astype(jnp.float32) ** 2).astype(params["b"].dtype)


@jax.custom_vjp
def wrong_square(x):
    return x**2


wrong_square.defvjp(lambda x: (x**2, x), lambda x, g: (g * x,))  # half of it


def forgets(factor):
    """Reverse mode times a factor, as by a mean where a sum is meant."""

    def method(*given, **how):
        g, info = hd.offline.reverse_mode(*given, **how)
        return jax.tree.map(lambda x: factor * x, g), info

    return method


def other_outer(problem, hparams, weights, batches, outer_batch, **how):
    batch = INPUTS[3], TARGETS[3]
    return hd.offline.reverse_mode(problem, hparams, weights, batches, batch, **how)


def last_decay_only(*given, **how):
    g, info = hd.offline.reverse_mode(*given, **how)
    cut = g.second_order | {"decay": g.second_order["decay"].at[0].set(0.0)}
    return g._replace(second_order=cut), info


def drawn(generator):
    """Batches from a generator's state."""
    return lambda t: (
        INPUTS[t] + 0.3 * generator.normal(size=(16, 5)).astype("float32"),
        TARGETS[t],
    )


def counter_state(old, weights, hparams, batch):
    """Φ whose rate cycles by a count that is rounded from λ."""
    steps = jnp.round(hparams["rate"] * 4) / 4
    return old(weights, hparams | {"rate": steps}, batch)


def chaos(old, weights, hparams, batch):
    """Φ with a logistic map among the weights that the others follow."""
    after = old(weights, hparams, batch)
    x = after.params["a"]
    for _ in range(4):
        x = jnp.sin(7 * x + hparams["decay"][0])
    return after._replace(params=after.params | {"a": x})


def growing(old, weights, hparams, batch):
    """Φ that stretches its last layer six times a step, and folds it back."""
    after = old(weights, hparams, batch)
    return after._replace(params=after.params | {"b": jnp.sin(6 * after.params["b"])})


FAULTS: dict[str, Callable[[], Case]] = {
    "λ detached": lambda: case(
        loss=functools.partial(inner, seen=jax.lax.stop_gradient), word="path"
    ),
    "one entry of λ detached": lambda: case(
        loss=functools.partial(inner, seen=lambda h: h.at[0].set(jax.lax.stop_gradient(h[0]))),
        word="derivative",
    ),
    "Φ detached from the step before": lambda: changed(
        case(),
        lambda old, w, h, b: old(jax.lax.stop_gradient(w), h, b),
        word="derivative",
    ),
    "momentum dropped by the surrogate": lambda: case(word="derivative")._replace(
        problem=scaled(
            hd.from_losses(inner, fit, optax.sgd(0.1, momentum=0.9), surrogate=optax.sgd(0.1))
        )
    ),
    "a custom derivative that is half": lambda: case(
        outer=lambda p, h, b: fit(p, h, b) + 0.1 * wrong_square(p["b"].sum()),
        word="derivative",
    ),
    "λ rounded": lambda: changed(case(), counter_state, word="path"),
    "λ cast to integers": lambda: case(
        loss=functools.partial(inner, seen=lambda h: h.astype(int).astype(h.dtype)), word="path"
    ),
    "half of the hypergradient": lambda: case(method=forgets(0.5), word="derivative"),
    "the wrong sign": lambda: case(method=forgets(-1.0), word="derivative"),
    "a loss of another batch": lambda: case(method=other_outer, word="derivative"),
    "an entry left out": lambda: case(method=last_decay_only, word="derivative"),
    "one step for exact": lambda: case(method=hd.offline.one_step, word="derivative"),
    "DrMAD's line for exact": lambda: case(
        optax.adam(0.05, eps_root=1e-8), method=hd.offline.drmad, word="derivative"
    ),
    "a window for exact": lambda: case(
        method=functools.partial(hd.offline.reverse_mode, window=2), word="derivative"
    ),
    "batches from a generator": lambda: case(
        batches=drawn(np.random.default_rng(0)), word="two compilations"
    ),
    "√v at 0": lambda: case(
        optax.adam(0.05), params=PARAMS | {"c": jnp.zeros(3)}, word="not finite"
    ),
    "a rate that diverges": lambda: case(optax.sgd(30.0), word="not finite"),
    "bfloat16": lambda: case(
        loss=lambda p, h, b: inner(p, h, b, fit=in_bfloat16), outer=in_bfloat16, word="a cast"
    ),
    "cotangents that grow": lambda: changed(case(optax.sgd(0.1)), growing, word="grow"),
    "chaos": lambda: changed(case(optax.sgd(0.01)), chaos, word="smooth"),
}
RIGHT: dict[str, Callable[[], Case]] = {
    "momentum": case,
    "sgd": lambda: case(optax.sgd(0.1)),
    "nesterov": lambda: case(optax.sgd(0.05, momentum=0.9, nesterov=True)),
    "adam with eps_root": lambda: case(optax.adam(0.02, eps_root=1e-8)),
    "adamw with eps_root": lambda: case(optax.adamw(0.02, eps_root=1e-8)),
    "rmsprop": lambda: case(optax.rmsprop(0.01, eps=1e-3)),
    "a trust ratio": lambda: case(optax.chain(optax.scale_by_trust_ratio(), optax.sgd(0.05))),
    "clipping": lambda: case(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))),
    "a cosine schedule": lambda: case(
        optax.sgd(optax.cosine_decay_schedule(0.1, STEPS), momentum=0.9)
    ),
    "tanh": lambda: case(**activated(jnp.tanh)),
    "elu": lambda: case(**activated(jax.nn.elu)),
    "softplus": lambda: case(**activated(jax.nn.softplus)),
    "float32 inside": lambda: case(
        **activated(lambda x: jax.nn.gelu(x.astype(jnp.float32)).astype(x.dtype))
    ),
    "batches by a function": lambda: case(batches=lambda t: (INPUTS[t], TARGETS[t])),
    "noise by the step's key": lambda: case(
        batches=lambda t: (
            INPUTS[t] + 0.3 * jax.random.normal(jax.random.key(t), (16, 5)),
            TARGETS[t],
        )
    ),
    "a frozen layer": lambda: changed(
        case(),
        lambda old, w, h, b: (after := old(w, h, b))._replace(
            params=after.params | {"a": w.params["a"]}
        ),
    ),
    "λ in L_val too": lambda: case(
        outer=lambda p, h, b: fit(p, h, b) + 0.01 * jnp.sum(h["decay"] ** 2)
    ),
    "λ at 0": lambda: case()._replace(
        hparams=jax.tree.map(jnp.zeros_like, LAM),
        problem=scaled(
            hd.from_losses(
                lambda p, h, b: inner(p, {"decay": h["decay"] - 4.0}, b), fit, optax.sgd(0.01)
            )
        ),
        weights=hd.InnerState(PARAMS, optax.sgd(0.01).init(PARAMS)),
    ),
    "a linear model": lambda: case(
        loss=lambda p, h, b: (
            jnp.mean((b[0] @ p["a"][:, 0] - b[1]) ** 2)
            + jnp.exp(h["decay"]).sum() * sum(jnp.sum(x**2) for x in p.values())
        ),
        outer=lambda p, h, b: jnp.mean((b[0] @ p["a"][:, 0] - b[1]) ** 2),
    ),
    "snapshots": lambda: case(method=functools.partial(hd.offline.reverse_mode, snapshots=3)),
    "forward mode": lambda: case(method=hd.offline.forward_mode),
}


def diagnose(made: Case, seed: int = 1) -> hd.Diagnosis:
    """The case's report, without the methods beside it."""
    arguments = made.problem, made.hparams, made.weights, made.batches, made.outer_batch
    with warnings.catch_warnings(action="ignore"):
        return hd.diagnose(
            *arguments, key=jax.random.key(seed), horizon=STEPS, method=made.method, cheaper={}
        )


def is_told(made: Case, report: hd.Diagnosis) -> bool:
    """Whether the report has the alarm that is expected, or none where none is."""
    return any(made.word in alarm for alarm in report.alarms) if made.word else not report.alarms


def main() -> None:
    """Diagnoses every case."""
    wanted = sys.argv[1:]
    for kind, cases in (("fault", FAULTS), ("right", RIGHT)):
        told = 0
        for name, make in cases.items():
            if wanted and name not in wanted:
                continue
            start, made = time.perf_counter(), make()
            report = diagnose(made)
            told += is_told(made, report)
            seconds = time.perf_counter() - start
            verdict = "as it should" if is_told(made, report) else "NOT as it should"
            figures = f"slope {report.slope:.2f}, Ŝ {report.smoothness:.3f}"
            words = "; ".join(report.alarms)
            line = f"{kind} | {name} | {verdict} | {figures} | {seconds:.1f} s | {words}"
            print(line, flush=True)
        print(f"{told} of {len(cases)} {kind}s")


if __name__ == "__main__":
    main()
