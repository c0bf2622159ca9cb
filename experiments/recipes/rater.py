"""A network that rates texts, learnt while a language model trains, then used on other texts.

    python -m experiments.recipes.rater

The texts are those of `language_model`, half of them with their characters in random order. There
λ is a weight for each text, and says nothing of another text. Here λ is a small network of a text's
characters whose output is the text's weight: learnt on 11,000 texts, it rates 100,000 that it never
saw. What to take from here: λ as the weights of a network, and the same training with λ at rest.

After Shu et al., "Meta-Weight-Net", NeurIPS 2019, whose network sees an example's loss only.
"""

import jax
import jax.numpy as jnp

from experiments.recipes.language_model import CHARACTERS, losses, make_data, train

EMBEDDING, HIDDEN, WINDOW, LARGEST, RATE = 8, 32, 3, 4.0, 0.003


def init(key):
    """λ: it rates every text alike, as its last layer is 0."""
    keys = jax.random.split(key)
    return {
        "embed": jax.random.normal(keys[0], (CHARACTERS, EMBEDDING)),
        "hidden": jax.random.normal(keys[1], (WINDOW * EMBEDDING, HIDDEN)) / 5,
        "out": jnp.zeros(HIDDEN),
    }


def logits(hparams, texts):
    """The logit of each text's weight, by what follows what in it, floating [B]."""
    x = hparams["embed"][texts]
    count = texts.shape[1] - WINDOW + 1
    windows = jnp.concatenate([x[:, i : i + count] for i in range(WINDOW)], axis=-1)
    rating = jax.nn.gelu(windows @ hparams["hidden"]).mean(1) @ hparams["out"]
    return LARGEST * jnp.tanh(rating / LARGEST)


def inner_loss(params, hparams, batch):
    texts, _ = batch
    return jnp.mean(jax.nn.sigmoid(logits(hparams, texts)) * losses(params, texts))


def compare(size=100_000, rated=11_000, learning=60, stretches=20):
    """(share of the unseen texts on the right side, test loss by what the weights are)."""
    texts, clean, test, bad = make_data(0, size + rated)
    seen = texts[size:], clean, test, bad[size:]
    unseen = texts[:size], clean, test, bad[:size]
    hparams, _ = train(seen, init(jax.random.key(2)), learning, RATE, inner_loss)
    right = jnp.where(jnp.array(unseen[-1]), -20.0, 0.0)
    tests = {
        "rated by what was learnt on others": train(unseen, hparams, stretches, 0.0, inner_loss)[1],
        "all weights equal": train(unseen, 0 * right, stretches, 0.0)[1],
        "bad texts left out": train(unseen, right, stretches, 0.0)[1],
    }
    rating = jnp.concatenate([logits(hparams, part) for part in jnp.array_split(unseen[0], 20)])
    return float(jnp.mean((rating < jnp.median(rating)) == unseen[-1])), tests


def main():
    share, tests = compare()
    print(f"{share:.1%} of the texts never seen are on the right side")
    for name, loss in tests.items():
        print(f"{name}: test loss {loss:.3f}")


if __name__ == "__main__":
    main()
