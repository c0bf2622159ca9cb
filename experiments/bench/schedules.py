"""A learnt curve of the learning rate against the best of 1,000 one-cycle schedules.

    python -m experiments.bench.schedules --dataset digits --data-dir data

A network of D-64-64-10 (GELU), SGD with momentum 0.9, batches of 64 drawn by the step, T steps, on
200 training examples. *one-cycle*: a line up to a peak, a cosine down; peak, share of the way up,
first and last rate drawn at random, each trained under `jax.vmap`. *curve*: eight knots of the log
rate (`hd.schedule`), moved by exact hypergradients of the validation loss, from the best constant.
All are chosen by the mean validation loss over seeds 10 to 12 and tested on seeds 0 to 4, also when
the same schedule is stretched over another T. Prints a Markdown table.
"""

import dataclasses
import functools
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd
from experiments.attribution.data import NAMES, load
from experiments.bench.long import losses
from experiments.draw.tables import format_interval, markdown
from experiments.run.command import run_command
from hdistill.checks.values import check_choice, check_count

CHOSEN_ON, TESTED_ON = (10, 11, 12), (0, 1, 2, 3, 4)
KNOTS, BATCH, TRAIN = 8, 64, 200


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      dataset: "digits" or "mnist1d" of `experiments.attribution.data`.
      data_dir: where its file is.
      horizon: T.
      candidates: one-cycle schedules.
      outer_steps: moves of the curve.
      rate: of Adam on the curve's knots.
    """

    dataset: str = "digits"
    data_dir: pathlib.Path = pathlib.Path("data")
    horizon: int = 1000
    candidates: int = 1000
    outer_steps: int = 60
    rate: float = 0.1

    def check(self) -> None:
        """Raises ValueError for an option out of range."""
        check_choice("dataset", self.dataset, NAMES)
        for name in ("horizon", "candidates", "outer_steps"):
            check_count(name, getattr(self, name))


class Data(NamedTuple):
    """Pairs (inputs, labels)."""

    train: tuple
    validation: tuple
    test: tuple


def split(inputs, labels) -> Data:
    """TRAIN examples to train on, as many again to choose by, the rest to test on."""
    of = (slice(0, TRAIN), slice(TRAIN, 2 * TRAIN), slice(2 * TRAIN, None))
    return Data(*((jnp.asarray(inputs[s]), jnp.asarray(labels[s])) for s in of))


def loss(params, hparams, batch):
    """The inner and the outer loss."""
    return losses(params, *batch).mean()


def make_problem(horizon: int, knots: int):
    """(the problem, its optimizer) with so many knots of the log rate."""
    optimizer = hd.schedule(
        lambda log_rate: optax.sgd(jnp.exp(log_rate), momentum=0.9), jnp.zeros(knots), horizon
    )
    return hd.from_losses(loss, loss, optimizer), optimizer


def start(optimizer, width: int, seed) -> hd.InnerState:
    """w_0 of a seed."""
    sizes = (width, 64, 64, 10)
    keys = jax.random.split(jax.random.key(seed), 3)
    params = [
        (jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros(b))
        for k, a, b in zip(keys, sizes, sizes[1:])
    ]
    return hd.InnerState(params, optimizer.init(params))


def batches(train, seed):
    """t -> a batch."""

    def batch_at(t):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), seed), t)
        index = jax.random.randint(key, (BATCH,), 0, TRAIN)
        return train[0][index], train[1][index]

    return batch_at


@functools.partial(jax.jit, static_argnums=(0, 1))
def trained(horizon: int, count: int, data: Data, log_rates, seeds):
    """(validation loss, test error) of each row of log rates and each seed, [rows, seeds]."""
    problem, optimizer = make_problem(horizon, count)
    width = data.train[0].shape[1]

    def one(log_rates, seed):
        weights, batch_at = start(optimizer, width, seed), batches(data.train, seed)
        params = hd.unroll(problem, log_rates, weights, batch_at, horizon).params
        x, y = data.test
        wrong = jnp.argmax(-losses(params, x[:, None], jnp.arange(10)[None]), -1) != y
        return loss(params, None, data.validation), wrong.mean()

    return jax.lax.map(lambda row: jax.vmap(lambda s: one(row, s))(seeds), log_rates, batch_size=50)


def one_cycle(key, horizon: int):
    """The log rates of a random schedule, [T]."""
    keys = jax.random.split(key, 4)
    peak, first, last = (
        jnp.exp(jax.random.uniform(k, minval=np.log(a), maxval=np.log(b)))
        for k, (a, b) in zip(keys, ((3e-4, 0.6), (1e-2, 1.0), (1e-3, 1.0)))
    )
    up = jax.random.uniform(keys[3], minval=0.0, maxval=0.5)
    u = jnp.arange(horizon) / horizon
    rising = first + (1 - first) * u / jnp.maximum(up, 1e-3)
    falling = last + (1 - last) * 0.5 * (1 + jnp.cos(jnp.pi * (u - up) / (1 - up)))
    return jnp.log(peak * jnp.where(u < up, rising, falling))


def learn(config: Config, data: Data, knots):
    """The curve after it has moved, by its mean validation loss the best on the way."""
    problem, optimizer = make_problem(config.horizon, KNOTS)
    width, rule = data.train[0].shape[1], optax.adam(config.rate)

    @jax.jit
    def hypergradient(knots):
        def one(seed):
            case = knots, start(optimizer, width, seed), batches(data.train, seed), data.validation
            g, info = hd.offline.reverse_mode(
                problem, *case, horizon=config.horizon, checkpoint=True, return_info=True
            )
            return g.total, info.outer_loss

        g, value = jax.vmap(one)(jnp.array(CHOSEN_ON))
        return g.mean(0), value.mean()

    state, best = rule.init(knots), (np.inf, knots)
    for _ in range(config.outer_steps):
        g, value = hypergradient(knots)
        best = min(best, (float(value), knots), key=lambda pair: pair[0])
        clipped = g * jnp.minimum(1, 1 / jnp.linalg.norm(g))
        updates, state = rule.update(clipped, state)
        knots = optax.apply_updates(knots, updates)
    return best[1]


def main(config: Config) -> None:
    """Chooses, tests and prints."""
    data = split(*load(config.dataset, config.data_dir))
    of = functools.partial(trained, config.horizon)
    rates = jnp.log(jnp.geomspace(3e-4, 0.6, 24))[:, None]
    cycles = jax.vmap(lambda key: one_cycle(key, config.horizon))(
        jax.random.split(jax.random.key(0), config.candidates)
    )
    chosen, seconds = {}, {}
    for name, candidates in (("constant, best of 24", rates), ("one-cycle, best", cycles)):
        begun = time.perf_counter()
        validation, _ = of(candidates.shape[1], data, candidates, jnp.array(CHOSEN_ON))
        chosen[name] = candidates[int(jnp.nan_to_num(validation, nan=jnp.inf).mean(1).argmin())]
        seconds[name] = time.perf_counter() - begun
    begun, constant = time.perf_counter(), chosen["constant, best of 24"]
    chosen["learnt curve"] = learn(config, data, jnp.full(KNOTS, constant[0]))
    seconds["learnt curve"] = time.perf_counter() - begun
    rows, base = [], dict[int, jax.Array]()
    for name, log_rates in chosen.items():
        row = {"schedule": name, "s": f"{seconds[name]:.0f}"}
        for horizon in (config.horizon, config.horizon // 3, 3 * config.horizon):
            stretched = log_rates
            if len(log_rates) == config.horizon:
                place = np.linspace(0, 1, horizon), np.linspace(0, 1, config.horizon)
                stretched = jnp.interp(jnp.asarray(place[0]), jnp.asarray(place[1]), log_rates)
            _, errors = trained(
                horizon, len(stretched), data, stretched[None], jnp.array(TESTED_ON)
            )
            row[f"test error at T = {horizon}, %"] = format_interval(100 * errors[0], 2)
            gap = 100 * (errors[0] - base.setdefault(horizon, errors[0]))
            row[f"less the constant's, {horizon}"] = format_interval(gap, 2)
        rows.append(row)
    print(markdown(rows))
    print("rates of the curve's knots:", np.round(np.exp(chosen["learnt curve"]), 4).tolist())


if __name__ == "__main__":
    run_command(Config, main, __doc__)
