"""A network, its training, a weight for each example; the methods that attribute."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hdistill as hd
from experiments.attribution.presets import Preset, Recipe

STARTS = 8  # trainings that `over_starts` takes the mean of
ACTIVATIONS = {"gelu": jax.nn.gelu, "tanh": jnp.tanh, "relu": jax.nn.relu}


class Setting(NamedTuple):
    """One training to attribute.

    Attributes:
      problem: Φ and L_val; λ is a weight for each example.
      hparams: all at 1, [N].
      weights: w_0.
      batches: t -> (inputs, labels, numbers of the examples), with its data.
      queries: (inputs, labels) of test examples, each leaf [Q, 1, ...].
    """

    problem: hd.Problem
    hparams: jax.Array
    weights: hd.InnerState
    batches: Callable
    queries: tuple


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """That of a recipe."""
    if recipe.optimizer == "adamw":
        return optax.adamw(recipe.rate, eps_root=recipe.eps_root, weight_decay=recipe.decay)
    sgd = optax.sgd(recipe.rate, momentum=0.9)
    return optax.chain(optax.add_decayed_weights(recipe.decay), sgd)


def make_setting(data, preset: Preset, recipe: Recipe, seed: int) -> Setting:
    """The training of a seed, which decides w_0 and the order of the batches."""
    inputs, labels = data
    count = min(preset.examples, len(labels) - preset.queries)
    sizes = (inputs.shape[1], *preset.widths, 10)
    start_key, order_key = jax.random.split(jax.random.key(seed))
    keys = jax.random.split(start_key, len(sizes) - 1)
    params = [
        (jax.random.normal(key, (a, b)) * np.sqrt(1 / a), jnp.zeros(b))
        for key, a, b in zip(keys, sizes, sizes[1:])
    ]
    activation, optimizer = ACTIVATIONS[recipe.activation], make_optimizer(recipe)

    def losses(params, x, y):
        for w, b in params[:-1]:
            x = activation(x @ w + b[None])
        w, b = params[-1]
        logits = x @ w + b[None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    def inner_loss(params, weights, batch):
        x, y, numbers = batch
        return jnp.mean(weights[numbers] * losses(params, x, y))

    def outer_loss(params, weights, batch):
        return losses(params, *batch).mean()

    def batch_at(train, t):  # every example once an epoch, in a new order
        each = count // recipe.batch
        key = jax.random.fold_in(order_key, t // each)
        order = jax.random.permutation(key, count)
        numbers = jax.lax.dynamic_slice(order, (t % each * recipe.batch,), (recipe.batch,))
        x, y = train
        return x[numbers], y[numbers], numbers

    train = jnp.asarray(inputs[:count]), jnp.asarray(labels[:count])
    test = slice(count, count + preset.queries)
    return Setting(
        hd.from_losses(inner_loss, outer_loss, optimizer),
        jnp.ones(count),
        hd.InnerState(params, optimizer.init(params)),
        jax.tree_util.Partial(batch_at, train),
        (jnp.asarray(inputs[test])[:, None], jnp.asarray(labels[test])[:, None]),
    )


def over_starts(problem, hparams, weights, *task, horizon=None, return_info=False, spread=0.01):
    """Exact reverse mode, the mean of STARTS trainings whose w_0 is moved a little.

    Args:
      spread: of the moves, as a share of each leaf's root mean square.
    """
    leaves, structure = jax.tree.flatten(weights.params)

    def one(key):
        moved = [
            w + spread * jnp.sqrt(jnp.mean(w**2)) * jax.random.normal(k, w.shape)
            for w, k in zip(leaves, jax.random.split(key, len(leaves)))
        ]
        start = weights._replace(params=structure.unflatten(moved))
        run = problem, hparams, start, *task
        return hd.offline.reverse_mode(*run, horizon=horizon, return_info=True)

    found = jax.vmap(one)(jax.random.split(jax.random.key(0), STARTS))
    g, info = jax.tree.map(lambda x: x.mean(0).astype(x.dtype), found)
    return (g, info) if return_info else g


def methods(recipe: Recipe) -> dict[str, Callable]:
    """The offline methods by name, exact reverse mode first."""
    found: dict[str, Callable] = {"exact": hd.offline.reverse_mode}
    for k in (100, 50, 25, 12, 6, 3, 1):
        if k <= recipe.horizon // 3:
            found[f"DrMAD, {k} pieces"] = functools.partial(hd.offline.drmad, anchors=k)
    for spread in (0.01, 0.1):
        found[f"exact, mean of {STARTS} starts, {spread:.0%} apart"] = functools.partial(
            over_starts, spread=spread
        )
    for k in (200, 100, 30, 10, 3):
        if k < recipe.horizon:
            found[f"last {k} steps"] = functools.partial(hd.offline.reverse_mode, window=k)
    found["1-step"] = hd.offline.one_step
    found["implicit, 20 terms"] = functools.partial(hd.offline.implicit, terms=20)
    return found


def memory(setting: Setting, name: str, recipe: Recipe) -> int:
    """Bytes of the weights that a method keeps."""
    size = sum(x.nbytes for x in jax.tree.leaves(setting.weights))
    if "starts" in name:
        return size * recipe.horizon * STARTS
    kept = {"exact": recipe.horizon, "1-step": 1, "implicit, 20 terms": 1}
    number = name.split()[1].rstrip(",") if name not in kept else kept[name]
    return size * int(number)
