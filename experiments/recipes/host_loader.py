"""λ and the network together in one run of training, fed by a host data loader (Grain).

    python -m experiments.recipes.host_loader

Ten classes, the rarest forty times rarer than the most frequent, and a small balanced set that says
that all of them matter. λ is the logits of the classes' weights in the loss. What to take from
here: a loader that hands over a stretch of batches at a time, `hd.stream` that runs through it in
one compiled call, and `sample_inner(key, task, t)`, which takes the t-th of them.
"""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd

CLASSES, FEATURES, EXAMPLES, BATCH, STRETCH = 10, 16, 8000, 64, 25


def make_data(seed):
    """(training set, balanced set, test set): dicts of x and y."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(CLASSES, FEATURES)) * 0.7
    frequency = np.geomspace(1, 1 / 40, CLASSES)
    y = np.concatenate(
        [
            rng.choice(CLASSES, EXAMPLES, p=frequency / frequency.sum()),
            rng.integers(CLASSES, size=4400),
        ]
    )
    x = (centers[y] + rng.normal(size=(y.size, FEATURES))).astype(np.float32)
    ends = EXAMPLES, EXAMPLES + 400
    parts = zip(np.split(x, ends), np.split(y.astype(np.int32), ends), strict=True)
    return [{"x": x, "y": y} for x, y in parts]


def make_loader(train, seed):
    """Stretches of batches without end: x [STRETCH, BATCH, FEATURES], y [STRETCH, BATCH]."""
    examples = [{"x": x, "y": y} for x, y in zip(train["x"], train["y"], strict=True)]
    dataset = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    # Two stretches ahead are enough; by default it would prepare 500.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(dataset.batch(BATCH).batch(STRETCH).to_iter_dataset(ahead))


def losses(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params["in"])
    logits = hidden @ params["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]), logits


def inner_loss(params, hparams, batch):
    weight = CLASSES * jax.nn.softmax(hparams)  # of mean 1: λ does not move the learning rate
    return jnp.mean(weight[batch["y"]] * losses(params, batch)[0])


def outer_loss(params, hparams, batch):
    return losses(params, batch)[0].mean()


def learn(stretches=80, rate=0.02, seed=0):
    """(λ, accuracy on the balanced test set); λ rests if its rate is 0."""
    train, balanced, test = make_data(seed)
    optimizer = optax.sgd(0.05, momentum=0.9)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "in": jax.random.normal(keys[0], (FEATURES, 64)) / 4,
        "out": jax.random.normal(keys[1], (64, CLASSES)) / 8,
    }
    stream = hd.stream(
        problem,
        hd.online.robust_hyperdistill(problem),
        hyper_optimizer=optax.adam(rate),
        steps=STRETCH,
        fit_period=lambda m: m & (m - 1) == 0,
        sample_inner=lambda key, task, t: jax.tree.map(lambda x: x[t % STRETCH], task[0]),
    )
    loader = make_loader(train, seed)
    weights = hd.InnerState(params, optimizer.init(params))
    state = stream.init(keys[2], jnp.zeros(CLASSES), weights, (next(loader), balanced))
    for _ in range(stretches):
        state, _ = stream.step(state, (next(loader), balanced))
    correct = losses(state.weights.params, test)[1].argmax(-1) == test["y"]
    return state.hparams, float(correct.mean())


def main():
    _, before = learn(rate=0.0)
    hparams, after = learn()
    print(f"accuracy over all classes alike: {before:.3f} with equal weights, {after:.3f} learnt")
    weights = CLASSES * jax.nn.softmax(hparams)
    print("learnt weights, frequent to rare: " + " ".join(f"{x:.2f}" for x in weights))


if __name__ == "__main__":
    main()
