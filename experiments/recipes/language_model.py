"""A weight for each of 100,000 training texts of a language model, learned while it trains.

    python -m experiments.recipes.language_model

Half of the texts (16 characters each, from the documentation of Python's standard library) have
their characters in random order; a small set of clean ones says what the model is for. λ is the
logit of each text's weight, 100,000 of them: no search could set these. What to take from here:
`hd.stream` on data that stays on the device, λ indexed by the batch, and a comparison that shows
what λ is worth: the same training with all weights equal, and with the right ones.

After Ren et al., "Learning to Reweight Examples for Robust Deep Learning", ICML 2018.
"""

import ast
import pathlib
import sysconfig

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import hdistill as hd

LENGTH, CONTEXT, EMBEDDING, HIDDEN, CHARACTERS = 16, 8, 16, 64, 96
BATCH, STRETCH = 300, 100  # texts of an inner step, inner steps of a compiled call


def read_corpus():
    """The docstrings of the standard library, characters 0..95, int32 [number of characters]."""
    texts = []
    for path in sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            nodes = ast.walk(ast.parse(path.read_text()))
        except (SyntaxError, UnicodeDecodeError):
            continue
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts += [ast.get_docstring(n) or "" for n in nodes if isinstance(n, documented)]
    words = " ".join(" ".join(texts).split()).encode("ascii", "ignore")
    return np.clip(np.frombuffer(words, np.uint8).astype(np.int32) - 32, 0, CHARACTERS - 1)


def make_data(seed, size):
    """(texts to train on [size, LENGTH], clean ones for λ, clean ones to test on, which is bad)."""
    rng, corpus = np.random.default_rng(seed), read_corpus()
    texts = np.lib.stride_tricks.sliding_window_view(corpus, LENGTH)[::7]
    train, held_out = texts[: len(texts) * 9 // 10], texts[len(texts) * 9 // 10 :]
    train = rng.permutation(train)[:size]
    held_out = rng.permutation(held_out)
    bad = rng.random(len(train)) < 0.5
    train[bad] = rng.permuted(train[bad], axis=1)
    return jnp.array(train), jnp.array(held_out[:2000]), jnp.array(held_out[2000:6000]), bad


def init(key):
    """The parameters: each character is predicted from the 8 before it by one hidden layer."""
    keys = jax.random.split(key, 3)
    return {
        "embed": jax.random.normal(keys[0], (CHARACTERS, EMBEDDING)),
        "hidden": jax.random.normal(keys[1], (CONTEXT * EMBEDDING, HIDDEN)) / 11,
        "out": jax.random.normal(keys[2], (HIDDEN, CHARACTERS)) / 50,
    }


def losses(params, texts):
    """Mean cross entropy of each text, nats a character, floating [B]."""
    x = params["embed"][texts]
    before = [x[:, i : i + LENGTH - CONTEXT] for i in range(CONTEXT)]
    hidden = jax.nn.relu(jnp.concatenate(before, axis=-1) @ params["hidden"])
    logits = hidden @ params["out"]
    targets = texts[:, CONTEXT:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(-1)


def inner_loss(params, hparams, batch):
    texts, index = batch
    return jnp.mean(jax.nn.sigmoid(hparams[index]) * losses(params, texts))


def outer_loss(params, hparams, texts):
    return losses(params, texts).mean()


def sample_inner(key, task):
    index = jax.random.randint(key, (BATCH,), 0, len(task[0]))
    return task[0][index], index


def sample_outer(key, task):
    return task[1][jax.random.randint(key, (BATCH,), 0, len(task[1]))]


def train(data, hparams, stretches, rate, inner_loss=inner_loss):
    """(λ, test loss) after one run of training, in which λ moves unless its rate is 0."""
    texts, clean, test, _ = data
    optimizer = optax.adam(3e-3, eps_root=1e-10)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    params = init(jax.random.key(0))
    moving = rate > 0
    stream = hd.stream(
        problem,
        hd.online.robust_hyperdistill(problem),
        hyper_optimizer=optax.adam(rate, b1=0.0) if moving else optax.set_to_zero(),
        steps=STRETCH,
        # Where λ rests, nothing but the training needs its time.
        every=1 if moving else STRETCH,
        fit_period=(lambda m: m & (m - 1) == 0) if moving else None,
        sample_inner=sample_inner,
        sample_outer=sample_outer,
    )
    weights = hd.InnerState(params, optimizer.init(params))
    state = stream.init(jax.random.key(1), hparams, weights, (texts, clean))
    for _ in range(stretches):
        state, _ = stream.step(state, (texts, clean))
    return state.hparams, float(jax.jit(losses)(state.weights.params, test).mean())


def compare(size=100_000, stretches=20):
    """(λ, which texts are bad, test loss by what the weights are)."""
    data = make_data(0, size)
    equal, right = jnp.zeros(len(data[0])), jnp.where(jnp.array(data[-1]), -20.0, 0.0)
    hparams, learnt = train(data, equal, stretches, rate=0.1)
    tests = {"learnt weights": learnt}
    tests["all weights equal"] = train(data, equal, stretches, rate=0.0)[1]
    tests["bad texts left out"] = train(data, right, stretches, rate=0.0)[1]
    return np.asarray(hparams), data[-1], tests


def plot(hparams, bad, tests):
    """The weights of good and bad texts, and what they are worth."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    weights = 1 / (1 + np.exp(-hparams))
    kinds = {"text": (~bad, "C0"), "characters in random order": (bad, "C3")}
    for name, (which, color) in kinds.items():
        left.hist(weights[which], 50, range=(0, 1), alpha=0.6, label=name, color=color)
    left.set(xlabel="learnt weight", ylabel="training texts")
    left.legend(fontsize=8)
    bars = right.barh(list(tests), list(tests.values()), color=["C2", "C7", "C0"])
    right.bar_label(bars, fmt="%.2f", padding=3)
    right.set(xlabel="test loss, nats a character", xlim=(2, max(tests.values()) + 0.1))
    return figure


def main():
    hparams, bad, tests = compare()
    share = np.mean((hparams < np.median(hparams)) == bad)
    print(f"{len(hparams):,} weights learnt; {share:.0%} of the texts on the right side")
    for name, loss in tests.items():
        print(f"{name}: test loss {loss:.3f}")
    pathlib.Path("runs").mkdir(exist_ok=True)
    plot(hparams, bad, tests).savefig("runs/language_model.svg")


if __name__ == "__main__":
    main()
