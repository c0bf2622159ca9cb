"""A small architecture search on digits: cells found by moving mixed operations' weights.

    python -m experiments.bench.darts --data-dir data

A cell of two nodes on eight channels: input -> 1, input -> 2, 1 -> 2, each edge a mixture of six
operations with weights softmax(λ), λ [3, 6] (DARTS, Liu et al. 2019). λ and the weights are learnt
together by `hd.stream`, on 600 digits and 600 others; then each edge keeps its best operation but
"none", and the cell is trained from scratch on all 1,200 and tested on the rest. Beside it: cells
drawn at random, and the best of eight such by the loss on the second 600 after training on the
first: a random search of about the cost of one search. Prints a Markdown table, mean ± 95% over the
seeds.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd
from experiments.attribution.data import load
from experiments.draw.tables import format_interval, markdown
from experiments.run.command import check_once, run_command
from hdistill.checks.values import check_count
from hdistill.models.conv import conv3x3
from hdistill.progress import Progress

OPERATIONS = ("none", "skip", "conv 3x3", "conv 1x1", "max pool", "mean pool")
EDGES, CHANNELS, CLASSES, BATCH, PART, STRETCH = 3, 8, 10, 64, 600, 50
OPTIMIZER = optax.sgd(0.05, momentum=0.9)
HYPER_OPTIMIZER = optax.adam(0.01, b1=0.5)
METHODS: dict[str, Callable] = {
    "first-order DARTS": hd.online.first_order,
    "1-step": hd.online.one_step,
    "robust HyperDistill": hd.online.robust_hyperdistill,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      data_dir: where digits.npz of `experiments.attribution.data` is.
      seed: of the weights and the batches; digits are split in one way.
      steps: T of a search and of each training, a multiple of 50.
      random: cells of each seed's random search.
    """

    data_dir: pathlib.Path = pathlib.Path("data")
    seed: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 1000
    random: int = 8

    def check(self) -> None:
        """Raises ValueError for an option out of range."""
        check_once("seed", self.seed)
        if self.steps < STRETCH or self.steps % STRETCH:
            raise ValueError(f"steps={self.steps}: expected a multiple of {STRETCH}")
        check_count("random", self.random)


def init(key):
    """The weights of every operation, of the stem and of the last layer."""
    keys = jax.random.split(key, 4)
    wide, narrow = (EDGES, 3, 3, CHANNELS, CHANNELS), (EDGES, CHANNELS, CHANNELS)
    return {
        "stem": jax.random.normal(keys[0], (3, 3, 1, CHANNELS)) / 3,
        "wide": jax.random.normal(keys[1], wide) / (9 * CHANNELS / 2) ** 0.5,
        "narrow": jax.random.normal(keys[2], narrow) / (CHANNELS / 2) ** 0.5,
        "out": jax.random.normal(keys[3], (2 * CHANNELS, CLASSES)) / (2 * CHANNELS) ** 0.5,
        "bias": jnp.zeros(CLASSES),
    }


def pool(x, initial, reduce):
    """Over 3x3, stride 1, as large as before."""
    return jax.lax.reduce_window(x, initial, reduce, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")


def edge(x, share, wide, narrow):
    """A mixture of the operations, by their shares [6]."""
    axes = (0, 1, 2)
    spread = jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)
    normal = (x - x.mean(axes, keepdims=True)) / spread
    outputs = (
        jnp.zeros_like(x),
        x,
        jax.nn.relu(conv3x3(normal, wide)),
        jax.nn.relu(normal @ narrow),
        pool(x, -jnp.inf, jax.lax.max),
        pool(x, 0.0, jax.lax.add) / 9,
    )
    return sum(s * y for s, y in zip(share, outputs))


def loss(params, shares, batch):
    """Mean cross entropy of a cell, its shares of the operations [3, 6]."""
    return losses(params, shares, batch).mean()


def logits(params, shares, images):
    """Of images [B, 8, 8], floating [B, 10]."""
    x = jax.nn.relu(conv3x3(images[..., None], params["stem"]))
    sides = zip(shares, params["wide"], params["narrow"], strict=True)
    a, b, c = (functools.partial(edge, share=s, wide=w, narrow=n) for s, w, n in sides)
    one = a(x)
    nodes = jnp.concatenate([one, b(x) + c(one)], axis=-1)
    return nodes.mean((1, 2)) @ params["out"] + params["bias"][None]


def losses(params, shares, batch):
    """Cross entropy of each image."""
    return optax.softmax_cross_entropy_with_integer_labels(
        logits(params, shares, batch[0]), batch[1]
    )


def mixed_loss(params, hparams, batch):
    """The loss of a cell whose shares are learnt."""
    return loss(params, jax.nn.softmax(hparams), batch)


PROBLEM = hd.from_losses(mixed_loss, mixed_loss, OPTIMIZER)
FIXED = hd.from_losses(loss, loss, OPTIMIZER)  # the shares as they are given


def draw(key, data):
    """A batch of (images, labels)."""
    index = jax.random.randint(key, (BATCH,), 0, len(data[1]))
    return jax.tree.map(lambda x: x[index], data)


def make_stream(method: str) -> hd.Stream:
    """STRETCH steps of the weights and of λ."""
    return hd.stream(
        PROBLEM,
        METHODS[method](PROBLEM),
        hyper_optimizer=HYPER_OPTIMIZER,
        steps=STRETCH,
        sample_inner=lambda key, task: draw(key, task[0]),
        sample_outer=lambda key, task: draw(key, task[1]),
    )


def search(stream: hd.Stream, halves, seed: int, steps: int):
    """λ, learnt together with the weights, [3, 6]."""
    key = jax.random.key(seed)
    params = init(key)
    weights = hd.InnerState(params, OPTIMIZER.init(params))
    state = stream.init(key, jnp.zeros((EDGES, len(OPERATIONS))), weights, halves)
    for _ in range(steps // STRETCH):
        state, _ = stream.step(state, halves)
    return np.asarray(state.hparams)


def cell_of(hparams):
    """The operation that each edge keeps, int [3]."""
    return 1 + np.argmax(hparams[:, 1:], axis=1)


@functools.partial(jax.jit, static_argnames="steps")
def train(shares, train, held_out, seed, steps):
    """(mean loss, accuracy) on images held out, after training a cell from scratch."""
    key = jax.random.key(seed)
    params = init(jax.random.fold_in(key, 1))
    weights, keys = hd.InnerState(params, OPTIMIZER.init(params)), jax.random.split(key, steps)
    end = hd.unroll(FIXED, shares, weights, lambda t: draw(keys[t], train), horizon=steps)
    params = end.params
    guess = logits(params, shares, held_out[0]).argmax(-1)
    return loss(params, shares, held_out), jnp.mean(guess == held_out[1])


def shares_of(cell):
    """One operation for each edge."""
    return jax.nn.one_hot(jnp.asarray(cell), len(OPERATIONS))


def split(data_dir: pathlib.Path):
    """Two parts of PART digits to search on, and the rest."""
    inputs, labels = load("digits", data_dir)
    images = inputs.reshape(-1, 8, 8)
    parts = (slice(0, PART), slice(PART, 2 * PART), slice(2 * PART, None))
    return [(jnp.asarray(images[s]), jnp.asarray(labels[s])) for s in parts]


def main(config: Config) -> None:
    """Searches, trains and prints."""
    first, second, test = split(config.data_dir)
    both = jax.tree.map(lambda *x: jnp.concatenate(x), first, second)
    found: dict[str, list] = {name: [] for name in (*METHODS, "random", "best of random")}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    cells: dict[str, list] = {name: [] for name in found}

    def tested(cell, seed) -> float:
        return float(train(shares_of(cell), both, test, seed, config.steps)[1])

    def keep(name, cell, accuracy, start) -> None:
        cells[name].append(cell)
        found[name].append(100 * accuracy)
        seconds[name].append(time.perf_counter() - start)

    streams = {name: make_stream(name) for name in METHODS}
    with Progress(len(config.seed), 0, "seeds") as bar:
        for seed in config.seed:
            for name, stream in streams.items():
                start = time.perf_counter()
                cell = cell_of(search(stream, (first, second), seed, config.steps))
                keep(name, cell, tested(cell, seed), start)
            start, rng = time.perf_counter(), np.random.default_rng(seed)
            drawn = rng.integers(1, len(OPERATIONS), (config.random, EDGES))
            ends = [float(train(shares_of(c), first, second, seed, config.steps)[0]) for c in drawn]
            best = drawn[np.argmin(ends)]
            keep("best of random", best, tested(best, seed), start)
            start = time.perf_counter()
            accuracies = [tested(cell, seed) for cell in drawn]
            keep("random", drawn[0], np.mean(accuracies), start)
            bar.advance()
    rows = []
    for name in found:
        gap = np.subtract(found[name], found["random"])
        cell = ", ".join(OPERATIONS[i] for i in cells[name][0])
        rows.append(
            {
                "cell": name,
                "test accuracy, %": format_interval(found[name], 2),
                "less random": format_interval(gap, 2) if name != "random" else "",
                "s": f"{np.median(seconds[name]):.0f}",
                "the first seed's": cell if name != "random" else "",
            }
        )
    print(markdown(rows))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
