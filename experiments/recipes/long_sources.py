"""A weight for each of 20 sources of text, by exact hypergradients through 2,000 steps, or fewer.

    python -m experiments.recipes.long_sources

A transformer of 114,528 weights (NNX; AdamW with warmup, cosine and clipping; dropout by keys from
the step) learns to predict the next character of Python's documentation. In six of the sources the
characters of each text are in random order. λ are the logits of the sources' weights. What to take
from here: `hdistill.training.reverse_mode`, resumed after a kill; a window, which goes back through
the last steps only; `hd.online.robust_hyperdistill` by `hd.stream`, which moves λ in one training.
Whether a derivative through 2,000 steps says anything is a matter of how smooth training is (see
`hd.diagnose`): here, with GELU and an eps_root, the sign of every source's is right. Twenty minutes
of one core, 62 MB of disk in runs/long_sources; call it again and it goes on.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import hdistill as hd
from experiments.recipes.language_model import read_corpus
from hdistill import training

SOURCES, BAD, LENGTH, CHARACTERS = 20, 6, 32, 96
WIDTH, HEADS, LAYERS = 64, 4, 2
HORIZON, LAST = 2000, 200  # inner steps, and those that the windowed hypergradient goes through
FOLDER = pathlib.Path("runs/long_sources")


def make_data():
    """(texts [SOURCES, N, LENGTH + 1], the first BAD sources mixed up; clean texts; to test on)."""
    rng, corpus = np.random.default_rng(0), read_corpus()
    texts = np.lib.stride_tricks.sliding_window_view(corpus, LENGTH + 1)[:: LENGTH // 2]
    texts = rng.permutation(texts)
    clean, test, rest = texts[:400], texts[400:1400], texts[1400:]
    each = len(rest) // SOURCES
    sources = rest[: each * SOURCES].reshape(SOURCES, each, LENGTH + 1).copy()
    sources[:BAD] = rng.permuted(sources[:BAD], axis=-1)
    return sources, clean, test


class Block(nnx.Module):
    """Attention to what comes before, then two layers; dropout by the keys given."""

    def __init__(self, rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.qkv = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x, drop):
        q, k, v = jnp.split(self.qkv(self.norms[0](x)), 3, axis=-1)
        heads = [a.reshape(*a.shape[:2], HEADS, WIDTH // HEADS) for a in (q, k, v)]
        attended = jax.nn.dot_product_attention(*heads, is_causal=True)
        x = x + drop(self.out(attended.reshape(x.shape)))
        return x + drop(self.down(jax.nn.gelu(self.up(self.norms[1](x)))))


class Transformer(nnx.Module):
    """Logits of the next character, [B, LENGTH, CHARACTERS]."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(CHARACTERS, WIDTH, rngs=rngs)
        self.place = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, CHARACTERS, rngs=rngs)

    def __call__(self, texts, key=None):
        keys = None if key is None else iter(jax.random.split(key, 2 * LAYERS))

        def drop(x):
            if keys is None:
                return x
            return x * jax.random.bernoulli(next(keys), 0.9, x.shape) / 0.9

        x = self.embed(texts) + self.place(jnp.arange(LENGTH))[None]
        for block in self.blocks:
            x = block(x, drop)
        return self.last(self.norm(x))


GRAPH = nnx.graphdef(Transformer(nnx.Rngs(0)))


def losses(params, texts, key=None):
    """Mean cross entropy of each text, nats a character, floating [B]."""
    logits = nnx.merge(GRAPH, params)(texts[:, :-1], key)
    return optax.softmax_cross_entropy_with_integer_labels(logits, texts[:, 1:]).mean(-1)


def inner_loss(params, hparams, batch):
    """Each source's texts by its share; a text of each source in each batch."""
    texts, key = batch
    shares = jax.nn.softmax(hparams)
    return shares @ losses(params, texts, jax.random.wrap_key_data(key))


def outer_loss(params, hparams, texts):
    return losses(params, texts).mean()


def make_problem(steps):
    """The problem; the rate goes up for a twentieth of the steps, then down to 0."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, max(steps // 20, 1), steps)
    # The derivative of Adam's root is large where a gradient is nearly 0: hence the eps_root.
    adam = optax.adamw(rate, b2=0.99, eps_root=1e-6, weight_decay=1e-2)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adam)
    return hd.from_losses(inner_loss, outer_loss, optimizer), optimizer


def start(optimizer, seed):
    """w_0."""
    params = nnx.state(Transformer(nnx.Rngs(seed)))
    return hd.InnerState(params, optimizer.init(params))


def draw(sources, seed, t):
    """D_{t+1}, by t: a text of each source, and the key of the dropout."""
    rng = np.random.default_rng((seed, t))
    index = rng.integers(0, sources.shape[1], SOURCES)
    return sources[np.arange(SOURCES), index], rng.integers(0, 2**32, 2, np.uint32)


@functools.partial(jax.jit, static_argnums=0)
def _steps(update, hparams, weights, batches):
    return jax.lax.scan(lambda w, d: (update(w, hparams, d), None), weights, batches)[0]


def train(problem, hparams, weights, batch_at, steps, stretch=50):
    """w after so many steps, a stretch in a program."""
    for first in range(0, steps, stretch):
        each = [batch_at(t) for t in range(first, min(first + stretch, steps))]
        weights = _steps(
            problem.update, hparams, weights, jax.tree.map(lambda *x: np.stack(x), *each)
        )
    return weights


def exact(problem, hparams, weights, batch_at, clean, horizon, folder):
    """The exact hypergradient of the loss after all steps."""
    return training.reverse_mode(
        problem, hparams, weights, batch_at, clean, horizon=horizon, folder=folder
    ).total


def exact_of_the_last(problem, hparams, weights, batch_at, clean, horizon, last, folder):
    """The exact hypergradient through the last steps only, of a training from w_0."""
    near = train(problem, hparams, weights, batch_at, horizon - last)

    def late(t):
        return batch_at(horizon - last + t)

    return exact(problem, hparams, near, late, clean, last, folder)


def learn_by_window(problem, weights, batch_at, clean, horizon, last, rounds, folder):
    """λ by a few exact hypergradients through the last steps only, each of a training from w_0."""
    hparams, optimizer = jnp.zeros(SOURCES), optax.adam(0.5)
    state = optimizer.init(hparams)
    for n in range(rounds):
        place = folder / f"round-{n}"
        given = problem, hparams, weights, batch_at, clean, horizon, last, place
        g = exact_of_the_last(*given)
        updates, state = optimizer.update(g, state, hparams)
        hparams = optax.apply_updates(hparams, updates)
    return hparams


def learn_online(problem, weights, data, horizon, stretch=50):
    """λ while one training goes on: a product a step."""
    stream = hd.stream(
        problem,
        hd.online.robust_hyperdistill(problem),
        hyper_optimizer=optax.adam(0.01, b1=0.0),
        steps=stretch,
        fit_period=lambda m: m & (m - 1) == 0,
        sample_inner=sample_inner,
        sample_outer=lambda key, task: task[1][jax.random.randint(key, (50,), 0, len(task[1]))],
    )
    task = jax.tree.map(jnp.asarray, data)
    state = stream.init(jax.random.key(1), jnp.zeros(SOURCES), weights, task)
    for _ in range(horizon // stretch):
        state, _ = stream.step(state, task)
    return state.hparams


def sample_inner(key, task):
    index = jax.random.randint(key, (SOURCES,), 0, task[0].shape[1])
    return task[0][jnp.arange(SOURCES), index], jax.random.key_data(key)


def compare(horizon=HORIZON, last=LAST, rounds=5, seeds=(1, 2), folder=FOLDER):
    """(each hypergradient at equal weights, each learnt λ, test losses by λ and seed)."""
    sources, clean, test = make_data()
    problem, optimizer = make_problem(horizon)
    weights, equal = start(optimizer, 0), jnp.zeros(SOURCES)
    batch_at = functools.partial(draw, sources, 0)
    given = problem, equal, weights, batch_at, clean, horizon
    g = {
        f"all {horizon} steps": exact(*given, folder / "all"),
        f"the last {last}": exact_of_the_last(*given, last, folder / "last"),
    }
    learnt = {
        "equal weights": equal,
        f"exact, the last {last} steps": learn_by_window(
            problem, weights, batch_at, clean, horizon, last, rounds, folder
        ),
        "robust HyperDistill, online": learn_online(problem, weights, (sources, clean), horizon),
        "bad sources left out": jnp.where(jnp.arange(SOURCES) < BAD, -20.0, 0.0),
    }
    tests, measure = {}, jax.jit(lambda params: losses(params, test).mean())
    for name, hparams in learnt.items():
        for seed in seeds:
            end = train(
                problem,
                hparams,
                start(optimizer, seed),
                functools.partial(draw, sources, seed),
                horizon,
            )
            tests[name, seed] = float(measure(end.params))
    return jax.device_get(g), jax.device_get(learnt), tests


def plot(g, learnt):
    """The hypergradients and the learnt shares; bad sources in red."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
    shares = {name: np.asarray(jax.nn.softmax(h)) for name, h in list(learnt.items())[1:3]}
    titles = [f"dL/dλ, {name}" for name in g] + [f"share, {name}" for name in shares]
    colours = ["C3"] * BAD + ["C0"] * (SOURCES - BAD)
    for axis, title, values in zip(axes, titles, [*g.values(), *shares.values()]):
        axis.bar(range(SOURCES), values, color=colours)
        axis.set(title=title, xlabel="source")
    return figure


def main():
    g, learnt, tests = compare()
    bad = np.arange(SOURCES) < BAD
    for name, of in g.items():
        right = np.mean((of > 0) == bad)
        print(f"dL/dλ through {name}: mean of bad sources {of[bad].mean():.1e}, of good", end=" ")
        print(f"{of[~bad].mean():.1e}, largest {np.abs(of).max():.1e}, {right:.0%} of signs right")
    for name, hparams in learnt.items():
        share = np.asarray(jax.nn.softmax(hparams))[bad].sum()
        retrained = ", ".join(f"{loss:.3f}" for (of, _), loss in tests.items() if of == name)
        print(f"{name}: share of the bad sources {share:.2f}, test loss retrained {retrained}")
    plot(g, learnt).savefig(FOLDER / "long_sources.svg")


if __name__ == "__main__":
    main()
