"""An exact hypergradient through many steps: seconds in trainings, and bytes, by what is kept.

    python -m experiments.bench.long --horizon 1000 10000

A network of 32-128-128-10 (21,898 weights), SGD with momentum, batches of 64 drawn by the step; λ
are two decays. *training*: `hd.unroll`. *jax.grad*: of the same unroll, which keeps what is inside
a step too, and by hand of a scan of checkpointed stretches. *reversal*: of `hd.reversible_sgd`, the
same losses. *host*: `hdistill.training.reverse_mode`, its states on disk. Prints a Markdown table;
medians of three calls, after one that compiles. Before it forward steps and weights kept, by
counting: of snapshots, and of the two laws that bergson has (PyTorch; commit of 2026-08-18).
"""

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd
from experiments.draw.tables import markdown
from experiments.run.command import run_command
from experiments.run.timing import medians, warn_if_busy
from hdistill import training
from hdistill.checks.values import check_count
from hdistill.hypergradient.snapshots import schedule

SIZES = (32, 128, 128, 10)
RATE = 0.02
OPTIMIZER = optax.sgd(RATE, momentum=0.9)


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      horizon: T, each a table.
      repeats: calls of which the median is taken.
    """

    horizon: tuple[int, ...] = (1000,)
    repeats: int = 3

    def check(self) -> None:
        """Raises ValueError for an option out of range."""
        for name, values in (("horizon", self.horizon), ("repeats", (self.repeats,))):
            for value in values:
                check_count(name, value)


def losses(params, x, y):
    """Cross-entropy of each example."""
    for w, b in params[:-1]:
        x = jax.nn.gelu(x @ w + b[None])
    w, b = params[-1]
    return optax.softmax_cross_entropy_with_integer_labels(x @ w + b[None], y)


def inner_loss(params, hparams, batch):
    """With a decay for the first layer and one for the rest."""
    decay = jnp.exp(hparams)
    parts = [sum(jnp.sum(x**2) for x in jax.tree.leaves(p)) for p in (params[0], params[1:])]
    return losses(params, *batch).mean() + decay @ jnp.stack(parts)


def outer_loss(params, hparams, batch):
    """Without them."""
    return losses(params, *batch).mean()


PROBLEM = hd.from_losses(inner_loss, outer_loss, OPTIMIZER)


def batch_at(t):
    """64 noisy patterns."""
    key = jax.random.fold_in(jax.random.key(1), t)
    y = jax.random.randint(key, (64,), 0, 10)
    patterns = jax.random.normal(jax.random.key(2), (10, 32))
    return patterns[y] + jax.random.normal(key, (64, 32)), y


def start() -> hd.InnerState:
    """w_0."""
    keys = jax.random.split(jax.random.key(0), len(SIZES) - 1)
    pairs = zip(keys, SIZES, SIZES[1:])
    params = [(jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros(b)) for k, a, b in pairs]
    return hd.InnerState(params, OPTIMIZER.init(params))


def by_hand(horizon: int) -> Callable:
    """`jax.grad` of a scan over checkpointed stretches of √T steps."""
    length = int(np.sqrt(horizon))

    def unrolled(hparams, weights, outer_batch):
        @jax.checkpoint
        def stretch(weights, first):
            def step(weights, t):
                return PROBLEM.update(weights, hparams, batch_at(t)), None

            return jax.lax.scan(step, weights, first + jnp.arange(length))[0], None

        starts = jnp.arange(0, horizon // length * length, length)
        weights, _ = jax.lax.scan(stretch, weights, starts)
        return PROBLEM.outer_loss(weights, hparams, outer_batch)

    return jax.grad(unrolled)


def programs(horizon: int) -> dict[str, Callable]:
    """(λ, w_0, outer batch) -> what is timed, by name."""

    def of(**how):
        def call(hparams, weights, outer_batch):
            given = PROBLEM, hparams, weights, batch_at, outer_batch
            return hd.offline.reverse_mode(*given, horizon=horizon, **how).total

        return call

    undone, begin = hd.reversible_sgd(inner_loss, outer_loss, RATE, (9, 10))
    fixed = begin(start().params, horizon)

    def reversal(hparams, weights, outer_batch):
        given = undone, hparams, fixed, batch_at, outer_batch
        return hd.offline.reversal(*given, horizon=horizon).total

    def train(hparams, weights, outer_batch):
        end = hd.unroll(PROBLEM, hparams, weights, batch_at, horizon)
        return PROBLEM.outer_loss(end, hparams, outer_batch)

    return {
        "training": train,
        "stored": of(),
        "checkpoint=True": of(checkpoint=True),
        "snapshots=50": of(snapshots=50),
        "snapshots=10": of(snapshots=10),
        "reversal, fixed point": reversal,
        "jax.grad of the unroll": jax.grad(train),
        "jax.grad, checkpointed by hand": by_hand(horizon),
    }


def forward_steps(name: str, horizon: int) -> float:
    """Forward steps / T, without those inside a product."""
    if name.startswith("snapshots="):
        return schedule(horizon, int(name.removeprefix("snapshots="))).steps / horizon
    return {
        "training": 1.0,
        "stored": 1.0,
        "checkpoint=True": 2.0,
        "reversal, fixed point": 2.0,
    }.get(name, np.nan)


def by_halves(horizon: int) -> tuple[int, int]:
    """(forward steps, weights kept at most) of bergson's `save_mode="log"`, MAGIC's own law.

    Weights are kept before step 0, then each time after half of the steps that are left; on the way
    back likewise between the last that are kept and the step that is wanted.
    """
    kept, steps, t = [], horizon, 0
    while t < horizon:
        kept.append(t)
        t += max(1, (horizon - t) // 2)
    most = len(kept)
    for wanted in reversed(range(horizon)):
        t = kept[-1]
        steps += wanted - t
        while half := (wanted - t) // 2:
            t += half
            kept.append(t)
        most = max(most, len(kept))
        if kept[-1] == wanted:
            kept.pop()
    return steps, most


def laws(horizon: int) -> list[dict]:
    """A row for each law, and one for as many snapshots."""
    root = int(np.sqrt(horizon))
    halves = by_halves(horizon)
    every_root = 2 * horizon - root, 2 * root  # a chunk of √T again before each
    found = {"by halves (bergson, log)": halves, "every √T (bergson, sqrt)": every_root}
    for _, most in (halves, every_root):
        found[f"snapshots={most}"] = schedule(horizon, most).steps, most
    return [
        {
            "T": str(horizon),
            "law": name,
            "weights kept": str(most),
            "forward steps / T": f"{steps / horizon:.2f}",
        }
        for name, (steps, most) in found.items()
    ]


def measure(horizon: int, repeats: int) -> list[dict]:
    """A row for each program, and one for the host's loop."""
    weights, hparams, outer_batch = start(), jnp.array([-7.0, -8.0]), batch_at(10**6)
    given, compiled = (hparams, weights, outer_batch), {}
    for name, program in programs(horizon).items():
        compiled[name] = jax.jit(program).lower(*given).compile()
    calls = [lambda of=of: of(*given) for of in compiled.values()]
    step = jax.jit(batch_at)
    folder = pathlib.Path(tempfile.mkdtemp())

    def host():
        shutil.rmtree(folder)
        arguments = PROBLEM, hparams, weights, lambda t: jax.device_get(step(t)), outer_batch
        return training.reverse_mode(*arguments, horizon=horizon, folder=folder).total

    seconds = medians([*calls, host], repeats)
    exact = compiled["stored"](*given)
    rows = []
    for name, second in zip([*compiled, "host, √T segments on disk"], seconds):
        of = compiled.get(name)
        analysis = of.memory_analysis() if of else None
        memory = f"{analysis.temp_size_in_bytes / 1e6:.1f}" if analysis else "–"
        g = exact if name == "training" else of(*given) if of else host()
        error = float(jnp.linalg.norm(g - exact) / jnp.linalg.norm(exact))
        steps = forward_steps(name, horizon)
        rows.append(
            {
                "T": str(horizon),
                "kept": name,
                "s": f"{second:.2f}",
                "in trainings": f"{second / seconds[0]:.2f}",
                "forward steps / T": "–" if np.isnan(steps) else f"{steps:.2f}",
                "MB": memory,
                "from stored, relative": "–" if name == "training" else f"{error:.1e}",
            }
        )
    return rows


def main(config: Config) -> None:
    """Measures and prints."""
    print(markdown([row for horizon in config.horizon for row in laws(horizon)]), flush=True)
    warn_if_busy()
    for horizon in config.horizon:
        print(markdown(measure(horizon, config.repeats)), flush=True)


if __name__ == "__main__":
    run_command(Config, main, __doc__)
