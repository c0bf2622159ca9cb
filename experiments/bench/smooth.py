"""Does smoother training bring the cheap methods nearer to the exact hypergradient?

    python -m experiments.bench.smooth --problem sinusoid warpgrad --data-dir data

A training is an inner optimisation with its own activation, optimizer, rate and seed. The sinusoid:
ten points, a network of two hidden layers of 40, T = 30, λ the log of a factor on each parameter's
step. WarpGrad: the image study's preset cpu, T = 50, λ the warp layers. For each training: Ŝ
(`hd.smoothness`), and the cosine of g_T^SO to exact reverse mode's of DrMAD and of online methods.
Prints a row for each recipe as it ends, its means over the seeds; then Spearman's correlation of Ŝ
and each method's cosine over all trainings, the same among trainings of one optimizer and rate
(mean ± 95% over these groups), and that with the rate.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pandas as pd

import hdistill as hd
from experiments.draw.tables import format_interval, markdown
from experiments.image_meta.presets import CPU
from experiments.image_meta.setting import MODELS, make_setting
from experiments.recipes.few_shot_sinusoids import init, sample_tasks
from experiments.run.command import check_once, run_command
from experiments.run.images import WAYS
from hdistill.checks.values import check_count

ACTIVATIONS: dict[str, Callable] = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "tanh": jnp.tanh}
OPTIMIZERS: dict[str, Callable] = {
    "sgd": functools.partial(optax.sgd, momentum=0.9),
    "adam, eps_root 1e-8": functools.partial(optax.adam, eps_root=1e-8),
    "adam, eps_root 1e-3": functools.partial(optax.adam, eps_root=1e-3),
}
OFFLINE: dict[str, Callable] = {
    "DrMAD": hd.offline.drmad,
    "DrMAD, 6 anchors": functools.partial(hd.offline.drmad, anchors=6),
}
ONLINE: dict[str, Callable] = {
    "1-step": hd.online.one_step,
    "HyperDistill": functools.partial(hd.online.hyperdistill, gamma=0.99),
    "robust": hd.online.robust_hyperdistill,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      problem: the problems.
      seeds: trainings of each recipe.
      data_dir: folder of the images' pools, for WarpGrad.
    """

    problem: tuple[Literal["sinusoid", "warpgrad"], ...] = ("sinusoid",)
    seeds: int = 3
    data_dir: pathlib.Path = pathlib.Path("data")

    def check(self) -> None:
        """Raises ValueError for an option out of range."""
        check_once("problem", self.problem)
        check_count("seeds", self.seeds)


class Family(NamedTuple):
    """Trainings that differ in their rate only.

    Attributes:
      problem: rate -> problem.
      draw: key -> (λ, w_0, batches, outer batch).
      rates: of the optimizer.
    """

    problem: Callable[[Any], hd.Problem]
    draw: Callable[[Any], tuple]
    rates: tuple[float, ...]


def sinusoids() -> dict[str, Family]:
    """A family for each activation and optimizer."""
    return {
        f"{activation}, {optimizer}": _sinusoid(f, make)
        for activation, f in ACTIVATIONS.items()
        for optimizer, make in OPTIMIZERS.items()
    }


def _sinusoid(activation: Callable, make: Callable) -> Family:
    def loss(params, batch):
        x, y = batch
        for matrix, bias in params[:-1]:
            x = activation(x @ matrix + bias[None])
        return jnp.mean((x @ params[-1][0] + params[-1][1][None] - y) ** 2)

    def problem(rate):
        optimizer = make(rate)

        def update(weights, hparams, batch):
            gradient = jax.grad(loss)(weights.params, batch)
            steps, state = optimizer.update(gradient, weights.opt_state)
            steps = jax.tree.map(lambda h, s: jnp.exp(h) * s, hparams, steps)
            return hd.InnerState(optax.apply_updates(weights.params, steps), state)

        return hd.Problem(update, lambda weights, hparams, batch: loss(weights.params, batch))

    def draw(key):
        params = init(key)
        inner, outer = jax.tree.map(lambda x: x[0], sample_tasks(jax.random.fold_in(key, 1), 1))
        batches = jax.tree.map(lambda x: jnp.broadcast_to(x, (30, *x.shape)), inner)
        hparams = jax.tree.map(jnp.zeros_like, params)
        return hparams, hd.InnerState(params, make(0.0).init(params)), batches, outer

    return Family(problem, draw, (0.001, 0.003, 0.01, 0.03))


def warpgrad(data_dir: pathlib.Path) -> dict[str, Family]:
    """The image study's, at its own rate and at others."""
    model = MODELS["warpgrad"](WAYS, CPU.channels)
    setting = make_setting("warpgrad", data_dir=data_dir)

    def problem(rate):
        optimizer = optax.sgd(rate, momentum=CPU.momentum)
        return hd.from_losses(model.inner_loss, model.outer_loss, optimizer)

    def draw(key):
        return *setting.start(key), *setting.draw(jax.random.fold_in(key, 1))

    return {"warpgrad": Family(problem, draw, (0.003, 0.01, 0.03, 0.1, 0.3))}


def measure(family: Family, rate, key) -> dict[str, jax.Array]:
    """Ŝ and each method's cosine at T, of one training."""
    problem, (hparams, weights, batches, outer) = family.problem(rate), family.draw(key)
    case = problem, hparams, weights, batches
    exact = hd.offline.reverse_mode(*case, outer)
    found = {"Ŝ": hd.smoothness(*case, key=key)}
    for name, method in OFFLINE.items():
        found[name] = cosine(method(*case, outer), exact)
    for name, make in ONLINE.items():
        found[name] = cosine(at_the_end(make(problem), *case, outer), exact)
    return found


def at_the_end(estimator: hd.Estimator, problem, hparams, weights, batches, outer):
    """(g_T^FO, g_T^SO) of an online method."""
    state = estimator.init(weights, hparams, jax.tree.map(lambda x: x[0], batches))
    zeros = hd.Hypergradient(*2 * [optax.tree.zeros_like(hparams)])

    def step(carry, at):
        (weights, state, _), (batch, key) = carry, at
        after = problem.update(weights, hparams, batch)
        transition = hd.Transition(weights, after, hparams, batch, outer)
        hypergradient, state = estimator.step(state, transition, key)
        return (after, state, hypergradient), None

    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(batches)[0]))
    return jax.lax.scan(step, (weights, state, zeros), (batches, keys))[0][2]


def cosine(one: hd.Hypergradient, other: hd.Hypergradient) -> jax.Array:
    """Of the second-order terms: that of HyperDistill has no size to be fitted then."""
    a, b = one.second_order, other.second_order
    return optax.tree.vdot(a, b) / (optax.tree.norm(a) * optax.tree.norm(b))


def main(config: Config) -> None:
    """Measures each recipe and prints."""
    keys = jax.random.split(jax.random.key(0), config.seeds)
    for name in config.problem:
        families = sinusoids() if name == "sinusoid" else warpgrad(config.data_dir)
        shown, rows = ["Ŝ", *OFFLINE, *ONLINE], []
        print(f"\n| {name} | rate | {' | '.join(shown)} |\n|{' --- |' * (len(shown) + 2)}")
        for title, family in families.items():
            one = jax.jit(functools.partial(measure, family))
            for rate in family.rates:
                of = [jax.tree.map(float, jax.device_get(one(rate, key))) for key in keys]
                optimizer = title.partition(", ")[2]
                rows += [{"optimizer": optimizer, "rate": rate} | row for row in of]
                cells = [f"{mean:.3f}" for mean in pd.DataFrame(of)[shown].mean()]
                print(f"| {title} | {rate:g} | {' | '.join(cells)} |", flush=True)
        print(f"\n{correlations(pd.DataFrame(rows), shown[1:])}", flush=True)


def correlations(frame: pd.DataFrame, methods: list[str]) -> str:
    """Markdown: Spearman's of each method's cosine and Ŝ, over all trainings and in groups."""
    rows = []
    groups = [of for _, of in frame.groupby(["optimizer", "rate"])]
    for method in methods:
        within = [of["Ŝ"].corr(of[method], "spearman") for of in groups]
        rows.append(
            {
                "cosine of": method,
                "with Ŝ": f"{frame['Ŝ'].corr(frame[method], 'spearman'):.2f}",
                "with Ŝ, at one optimizer and rate": format_interval(within, 2),
                "with the rate": f"{frame['rate'].corr(frame[method], 'spearman'):.2f}",
            }
        )
    return markdown(rows) + f"\nSpearman's, over {len(frame)} trainings, {len(groups)} groups.\n"


if __name__ == "__main__":
    run_command(Config, main, __doc__)
