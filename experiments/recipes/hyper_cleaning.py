"""Data hyper-cleaning: a weight for each training example, learned online while training goes on.

    python -m experiments.recipes.hyper_cleaning

Half of the training labels are wrong; a small clean set says which. λ is the logit of each
example's weight. What to take from here: batches that carry the indices of their examples,
`hd.stream`, which learns λ and the weights together, in one run of training, and
`hdistill.training`, which runs it with a progress bar, metrics and checkpoints: after Ctrl-C the
same command goes on where it stopped.

References:
  Franceschi et al., "Forward and Reverse Gradient-Based Hyperparameter Optimization", ICML 2017.
"""

import jax
import jax.numpy as jnp
import optax

import hdistill as hd
from hdistill import training

CLASSES, FEATURES, EXAMPLES, CLEAN, BATCH = 4, 20, 400, 100, 40
STRETCH = 100  # inner steps of one compiled call


def cross_entropy(params, x, y):
    logits = x @ params["w"] + params["b"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def inner_loss(params, hparams, batch):
    loss = cross_entropy(params, batch["x"], batch["y"])
    return jnp.mean(jax.nn.sigmoid(hparams[batch["index"]]) * loss)


def outer_loss(params, hparams, batch):
    return jnp.mean(cross_entropy(params, batch["x"], batch["y"]))


def make_data(key):
    """(training set, clean set, which labels of the training set are wrong [EXAMPLES])."""
    center_key, label_key, x_key, wrong_key, shift_key = jax.random.split(key, 5)
    centers = jax.random.normal(center_key, (CLASSES, FEATURES))
    labels = jax.random.randint(label_key, (EXAMPLES + CLEAN,), 0, CLASSES)
    x = centers[labels] + jax.random.normal(x_key, (EXAMPLES + CLEAN, FEATURES))
    wrong = jax.random.bernoulli(wrong_key, 0.5, (EXAMPLES,))
    shift = jax.random.randint(shift_key, (EXAMPLES,), 1, CLASSES)
    given = jnp.where(wrong, (labels[:EXAMPLES] + shift) % CLASSES, labels[:EXAMPLES])
    train = {"x": x[:EXAMPLES], "y": given, "index": jnp.arange(EXAMPLES)}
    return train, {"x": x[EXAMPLES:], "y": labels[EXAMPLES:]}, wrong


def sample_inner(key, task):
    chosen = jax.random.choice(key, EXAMPLES, (BATCH,), replace=False)
    return jax.tree.map(lambda leaf: leaf[chosen], task[0])


def learn(seed, optimizer, folder, stretches=10):
    """Learns λ in one run of training; (λ, which labels are wrong, clean loss [stretches])."""
    data_key, stream_key = jax.random.split(jax.random.key(seed))
    train, clean, wrong = make_data(data_key)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    params = {"w": jnp.zeros((FEATURES, CLASSES)), "b": jnp.zeros(CLASSES)}
    weights = hd.InnerState(params, optimizer.init(params))
    stream = hd.stream(
        problem,
        hd.online.robust_hyperdistill(problem),
        hyper_optimizer=optax.adam(0.05),
        steps=STRETCH,
        fit_period=lambda m: m & (m - 1) == 0,  # before stretches 1, 2, 4, 8, ...
        sample_inner=sample_inner,
    )
    state = stream.init(stream_key, jnp.zeros(EXAMPLES), weights, (train, clean))
    with training.RunFolder(folder, {"seed": seed, "stretches": stretches}, resume=True) as run:
        state = training.run(
            stream.step, state, lambda m: (train, clean), total=stretches, folder=run
        )
        return state.hparams, wrong, [row["outer_loss"] for row in run.rows]


def main():
    hparams, wrong, losses = learn(0, optax.sgd(0.3, momentum=0.9), "runs/hyper_cleaning")
    weight = jax.nn.sigmoid(hparams)
    print(f"clean loss: after {STRETCH} steps {losses[0]:.3f}, at the end {losses[-1]:.3f}")
    print(f"mean weight of a right label {weight[~wrong].mean():.3f},", end=" ")
    print(f"of a wrong one {weight[wrong].mean():.3f}")


if __name__ == "__main__":
    main()
