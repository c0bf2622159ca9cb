"""The recipes: exact where they say so, learning what they should, on no model or data of ours."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from experiments.recipes import hyper_cleaning, learning_rates, weight_decay
from tests.problems import Case, assert_close, grad_of_unroll

RECIPES = [hyper_cleaning, learning_rates, weight_decay]
STEPS = 3


def decay_case(optimizer):
    train, validation, _ = weight_decay.make_data(jax.random.key(1))
    problem = hd.from_losses(weight_decay.inner_loss, weight_decay.outer_loss, optimizer)
    batches = jax.tree.map(lambda x: jnp.stack([x] * STEPS), train)
    return problem, weight_decay.START, jnp.zeros(weight_decay.FEATURES), batches, validation


def rates_case(optimizer):
    inner, outer = jax.tree.map(lambda x: x[0], learning_rates.sample_tasks(jax.random.key(1)))
    batches = jax.tree.map(lambda x: jnp.stack([x] * STEPS), inner)
    features = learning_rates.SCALES.size
    hparams = 0.3 * jax.random.normal(jax.random.key(2), (features,))
    return learning_rates.make_problem(optimizer), hparams, jnp.zeros(features), batches, outer


def cleaning_case(optimizer):
    train, clean, _ = hyper_cleaning.make_data(jax.random.key(1))
    keys = jax.random.split(jax.random.key(2), STEPS)
    batches = jax.vmap(lambda key: hyper_cleaning.sample_inner(key, (train, clean)))(keys)
    problem = hd.from_losses(hyper_cleaning.inner_loss, hyper_cleaning.outer_loss, optimizer)
    hparams = jax.random.normal(jax.random.key(3), (hyper_cleaning.EXAMPLES,))
    shape = (hyper_cleaning.FEATURES, hyper_cleaning.CLASSES)
    params = {"w": jnp.zeros(shape), "b": jnp.zeros(shape[1])}
    return problem, hparams, params, batches, clean


CASES = {"weight_decay": decay_case, "learning_rates": rates_case, "hyper_cleaning": cleaning_case}
OPTIMIZERS = {
    "momentum": optax.sgd(0.005, momentum=0.9),
    "adam": optax.adam(0.01, eps_root=1e-8),
    "clipped rmsprop": optax.chain(
        optax.clip_by_global_norm(5.0), optax.rmsprop(0.01, eps_in_sqrt=True)
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("recipe", CASES)
def test_any_optax_optimizer_is_differentiated_through(recipe, optimizer):
    problem, hparams, params, batches, outer = CASES[recipe](OPTIMIZERS[optimizer])
    weights = hd.InnerState(params, OPTIMIZERS[optimizer].init(params))
    case = Case(problem, hparams, weights, batches, outer)
    total, _ = jax.jit(lambda: grad_of_unroll(case))()
    assert_close(hd.offline.reverse_mode(*case).total, total, rtol=1e-10)
    # The last step alone is another answer: the comparison can tell.
    one_step = hd.offline.one_step(*case).total
    assert np.abs(one_step - total).max() > 1e-3 * np.abs(total).max()


def test_weight_decay_learns_which_features_are_noise():
    optimizer = optax.sgd(0.03, momentum=0.9)
    hparams, before, after = weight_decay.learn(jax.random.key(1), optimizer, outer_steps=60)
    useful, noise = hparams[: weight_decay.USEFUL], hparams[weight_decay.USEFUL :]
    assert after < 0.6 * before
    assert jnp.median(noise) > jnp.median(useful) + 1


def test_learning_rates_go_to_the_features_scales():
    factors, losses = learning_rates.learn(jax.random.key(1), optax.sgd(0.002), meta_steps=150)
    assert np.mean(losses[-6:]) < 0.5 * np.mean(losses[:6])
    # Gradient descent wants a rate that falls with the square of the scale.
    assert (jnp.diff(factors) < 0).all()


def test_hyper_cleaning_finds_the_wrong_labels(tmp_path):
    optimizer = optax.sgd(0.3, momentum=0.9)
    hparams, wrong, losses = hyper_cleaning.learn(1, optimizer, tmp_path)
    judged = hparams < 0
    assert np.mean(judged == wrong) > 0.9
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda module: module.__name__.split(".")[-1])
def test_a_recipe_needs_jax_optax_and_the_library_s_face_alone(recipe):
    tree = ast.parse(pathlib.Path(recipe.__file__).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else _names(node))
    }
    assert imported <= {"jax", "jax.numpy", "optax", "hdistill"}


def _names(node):
    return [alias.name for alias in node.names]


def test_a_recipe_runs_as_a_script(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hyper_cleaning.main()
    assert "mean weight of a right label" in capsys.readouterr().out
