"""The recipes: exact where they say so, learning what they should, on no model or data of ours."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from experiments.recipes import (
    equinox_example_weights,
    few_shot_preconditioners,
    few_shot_sinusoids,
    host_loader,
    hyper_cleaning,
    injected_schedule,
    language_model,
    learning_rates,
    logging_run,
    long_sources,
    nnx_learning_rates,
    rater,
    unseen_domain,
    weight_decay,
)
from tests.problems import Case, assert_close, grad_of_unroll

ALONE = {"jax", "jax.numpy", "optax", "hdistill"}
PLOT = {"matplotlib.pyplot", "numpy", "pathlib"}
RECIPES = {  # what each may import besides
    equinox_example_weights: {"equinox"} | PLOT,
    few_shot_preconditioners: {
        "collections.abc",
        "typing",
        "experiments.recipes.few_shot_sinusoids",
    },
    few_shot_sinusoids: set(),
    host_loader: {"grain", "numpy"},
    hyper_cleaning: set(),
    injected_schedule: set(),
    language_model: {"ast", "sysconfig"} | PLOT,
    learning_rates: set(),
    logging_run: {"csv", "tensorboardX", "experiments.recipes.weight_decay"} | PLOT,
    long_sources: {"flax", "functools", "experiments.recipes.language_model"} | PLOT,
    nnx_learning_rates: {"flax"},
    rater: {"experiments.recipes.language_model"},
    unseen_domain: set(),
    weight_decay: set(),
}
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


@pytest.mark.parametrize("recipe, optimizer", list(zip(CASES, OPTIMIZERS)))
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


def test_maml_is_ahead_of_its_first_order():
    exact, first_order = (
        few_shot_sinusoids.test_error(*few_shot_sinusoids.learn(name, 7, meta_steps=100))
        for name in ("MAML", "first-order MAML")
    )
    assert exact < 0.9 * first_order < 4


@pytest.mark.parametrize("name", ["Meta-Curvature", "MT-net"])
def test_a_learnt_step_is_ahead_of_the_one_it_began_as(name):
    hparams, params = few_shot_preconditioners.learn(name, 7, meta_steps=60)
    start = few_shot_preconditioners.KINDS[name].start(params)
    learnt, plain = (few_shot_preconditioners.test_error(name, h, params) for h in (hparams, start))
    assert learnt < 0.9 * plain


def test_what_differs_from_domain_to_domain_is_penalised():
    hparams, errors = unseen_domain.compare(7, meta_steps=80)
    same, other = jnp.split(hparams, 2)
    assert jnp.median(other) > jnp.median(same) + 1
    assert errors["learnt"] < errors["none"]


def test_hyper_cleaning_finds_the_wrong_labels(tmp_path):
    optimizer = optax.sgd(0.3, momentum=0.9)
    hparams, wrong, losses = hyper_cleaning.learn(1, optimizer, tmp_path)
    judged = hparams < 0
    assert np.mean(judged == wrong) > 0.9
    assert losses[-1] < 0.5 * losses[0]


def test_every_recipe_is_tested():
    folder = pathlib.Path(weight_decay.__file__).parent
    names = {path.stem for path in folder.glob("[a-z]*.py")}
    assert names == {recipe.__name__.split(".")[-1] for recipe in RECIPES}


def test_a_language_model_s_bad_texts_lose_weight(monkeypatch):
    monkeypatch.setattr(language_model, "BATCH", 50)
    monkeypatch.setattr(language_model, "STRETCH", 20)
    data = language_model.make_data(1, 200)
    hparams, _ = language_model.train(data, jnp.zeros(200), 6, rate=0.1)
    bad = data[-1]
    assert 70 < bad.sum() < 130
    assert hparams[bad].mean() < hparams[~bad].mean() - 0.3
    hparams = np.asarray(hparams)
    assert language_model.plot(hparams, bad, {"a": 2.1}).axes


def test_a_rater_moves_as_the_weights_that_it_gives():
    """By the chain rule: the hypergradient of each text's weight, pulled back to the rater."""
    texts = language_model.make_data(1, 40)[0]
    hparams = rater.init(jax.random.key(0)) | {"out": jnp.linspace(-1.0, 1.0, rater.HIDDEN)}
    rating, pull = jax.vjp(lambda h: rater.logits(h, texts), hparams)
    index = jax.random.randint(jax.random.key(1), (STEPS, 10), 0, 40)
    batches = texts[index], index
    params, optimizer = language_model.init(jax.random.key(2)), optax.sgd(1.0, momentum=0.9)
    found = []
    for recipe, h in ((language_model, rating), (rater, hparams)):
        losses = recipe.inner_loss, language_model.outer_loss
        problem = hd.from_losses(*losses, optimizer)
        weights = hd.InnerState(params, optimizer.init(params))
        found.append(hd.offline.reverse_mode(problem, h, weights, batches, texts[:7]).total)
    assert_close(found[1], pull(found[0])[0], rtol=1e-9)


def test_rates_of_an_nnx_network_help_on_new_tasks():
    log_rates, start = nnx_learning_rates.learn(150, rate=0.02)
    tasks = nnx_learning_rates.sample_tasks(jax.random.key(1))
    first = jax.tree.map(lambda w: jnp.full_like(w, jnp.log(0.02)), start)
    learnt, fixed = (
        hd.evaluate(nnx_learning_rates.PROBLEM, rates, start, tasks, horizon=5).mean()
        for rates in (log_rates, first)
    )
    assert learnt < fixed


def test_weights_of_an_equinox_network_s_examples():
    hparams, data, before, after = equinox_example_weights.learn(outer_steps=5)
    assert hparams[data[-1]].mean() < hparams[~data[-1]].mean() - 0.5
    assert 0.8 < before <= 1 and 0.8 < after <= 1
    assert equinox_example_weights.plot(hparams, data).axes


def test_an_injected_schedule_is_better_than_the_rate_it_began_with(monkeypatch):
    monkeypatch.setattr(injected_schedule, "INNER_STEPS", 12)
    monkeypatch.setattr(injected_schedule, "STARTS", 3)
    (_, before), (hparams, after) = (injected_schedule.learn(n) for n in (0, 20))
    assert after["the schedule"] < 0.98 * before["the schedule"]
    assert np.ptp(hparams["log_rates"]) > 0.1


def test_rare_classes_from_a_loader_gain_weight(monkeypatch):
    monkeypatch.setattr(host_loader, "EXAMPLES", 1500)
    monkeypatch.setattr(host_loader, "STRETCH", 15)
    hparams, accuracy = host_loader.learn(stretches=6)
    assert hparams[-3:].mean() > hparams[:3].mean() + 0.3
    assert accuracy > 0.2


def test_a_transformer_s_sources_are_mixed_and_drawn_by_the_step():
    sources, clean, test = long_sources.make_data()
    assert sources.shape[0] == 20 and len(clean) == 400 and len(test) == 1000
    spaces = (sources[..., :-1] == 0) & (sources[..., 1:] == 0)  # two in a row: only by mixing
    assert (spaces[: long_sources.BAD].mean((1, 2)) > 5 * spaces[long_sources.BAD :].mean()).all()
    texts, key = long_sources.draw(sources, 0, 7)
    again, same = long_sources.draw(sources, 0, 7)
    np.testing.assert_array_equal(texts, again), np.testing.assert_array_equal(key, same)
    assert (long_sources.draw(sources, 0, 8)[1] != key).any()
    problem, optimizer = long_sources.make_problem(40)
    start, batch_at = long_sources.start(optimizer, 0), lambda t: (texts, key)
    equal = jnp.zeros(long_sources.SOURCES)
    after = long_sources.train(problem, equal, start, batch_at, 30, stretch=10)
    before, now = (problem.outer_loss(w, equal, texts) for w in (start, after))
    assert now < before - 0.5


def test_what_is_logged(tmp_path):
    history = logging_run.train(tmp_path, total=3, period=2)
    assert len((tmp_path / "hparams.csv").read_text().splitlines()) == 3
    assert list(tmp_path.glob("events*"))
    assert [m for m, _ in history["cosines"]] == [1, 3]
    assert len(logging_run.plot(history).axes) == 3


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda module: module.__name__.split(".")[-1])
def test_a_recipe_needs_the_public_names_alone_and_what_it_shows(recipe):
    tree = ast.parse(pathlib.Path(recipe.__file__).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else _names(node))
    }
    assert imported <= ALONE | RECIPES[recipe]


def _names(node):
    return [alias.name for alias in node.names]


def test_a_recipe_runs_as_a_script(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hyper_cleaning.main()
    assert "mean weight of a right label" in capsys.readouterr().out
