"""Hypergradients that are not finite: told at the call, kept out of λ, φ and memories."""

import copy
import pickle

import jax
import jax.numpy as jnp
import optax
import pytest

import hdistill as hd
from hdistill import training
from tests.problems import assert_close, quadratic


def test_an_optimizer_without_eps_root_is_told():
    optimizer = optax.adamw(1e-3)
    problem = hd.from_losses(
        lambda p, h, b: jnp.sum((p["used"] - h) ** 2), lambda p, h, b: p["used"].sum(), optimizer
    )
    params = {"used": jnp.ones(2), "unused": jnp.ones(2)}
    weights, hparams = hd.InnerState(params, optimizer.init(params)), {"a": jnp.ones(2)}
    problem = problem._replace(
        update=lambda w, h, b, f=problem.update: f(w, h["a"], b),
        outer_loss=lambda w, h, b, f=problem.outer_loss: f(w, h["a"], b),
    )
    call = [problem, hparams, weights, None, None]
    with pytest.warns(hd.NonFiniteWarning, match=r"hparams\['a'\] is not finite.*eps_root") as told:
        hd.offline.reverse_mode(*call, horizon=3)
    assert len(told) == 1 and told[0].filename == __file__


def test_a_run_that_diverges_is_told():
    case = quadratic(optax.sgd(1e200), horizon=8)
    with pytest.warns(hd.NonFiniteWarning, match="diverged"):
        hd.offline.one_step(*case)


def test_greedy_forgets_a_bad_outer_batch():
    problem, hparams, weights, batches, outer_batch = quadratic("sgd")
    estimator = hd.online.greedy(problem, gamma=0.5)
    state, results = estimator.init(weights, hparams, batches[0]), []
    for t in range(3):
        outer = outer_batch * jnp.nan if t == 1 else outer_batch
        transition = hd.Transition(weights, weights, hparams, batches[0], outer)
        g, state = estimator.step(state, transition, jax.random.key(0))
        results.append(g.second_order)
    assert jnp.isnan(results[1]).all()
    assert_close(results[2], 1.25 * results[0], 1e-12)  # 1 + γ², without the bad one's γ


LOSS = {"loss": lambda w, h, b: jnp.mean((b[0] @ w - b[1]) ** 2)}


def poisoned(rule, **more):
    """A learner and its steps over six meta-batches, of which the third has a task of 1e200."""
    loss, optimizer = LOSS["loss"], optax.sgd(0.05)
    problem = hd.from_losses(
        lambda w, h, b: loss(w, h, b) + jnp.sum(jnp.exp(h) * w**2), loss, optimizer
    )
    learner = hd.learner(
        problem,
        hd.offline.reverse_mode,
        hyper_optimizer=optax.adam(0.05),
        initialization=rule,
        horizon=5,
        **more,
    )
    start = hd.InnerState(jnp.zeros(3), optimizer.init(jnp.zeros(3)))
    state = learner.init(jax.random.key(0), jnp.full(3, -2.0), start)
    for m in range(4):
        x = jax.random.normal(jax.random.key(m), (2, 4, 10, 3))
        x = x.at[0, 1].multiply(1e200) if m == 2 else x
        state, info = learner.step(state, ((x[0], x[0].sum(-1)), (x[1], x[1].sum(-1))))
        yield jax.tree.map(jnp.copy, state), info


@pytest.mark.parametrize(
    "rule",
    [hd.reptile(0.5), hd.fomaml(optax.adam(0.01)), hd.maml(optax.adam(0.01))],
    ids=["reptile", "fomaml", "maml"],
)
def test_one_task_that_diverges_spares_the_start(rule):
    before, bad, after = list(poisoned(rule))[1:]
    assert_close(bad[0].weights, before[0].weights, 0)
    assert bad[1].tasks_finite.tolist() == [True, False, True, True]
    assert bool(jnp.isfinite(after[0].weights.params).all())
    assert (after[0].weights.params != bad[0].weights.params).any() and after[1].moved[-1]


def test_take_takes_it():
    *_, (state, _) = poisoned(hd.reptile(0.5), nonfinite="take")
    assert jnp.isnan(state.weights.params).any()


def test_a_finite_hypergradient_whose_step_overflows_is_kept_out():
    problem = hd.Problem(lambda w, h, d: w, lambda w, h, d: jnp.sum(h * 1e300))
    learner = hd.learner(
        problem, hd.online.first_order(problem), hyper_optimizer=optax.sgd(1e300), horizon=1
    )
    state = learner.init(jax.random.key(0), jnp.ones(2), jnp.ones(2))
    state, info = learner.step(state, (jnp.ones((1, 2)), jnp.ones((1, 2))))
    assert not info.moved[0] and info.finite[0]
    assert_close(state.hparams, jnp.ones(2), 0)


def test_maml_moves_the_start_by_the_exact_gradient():
    problem, hparams, weights, batches, outer_batch = quadratic("sgd", horizon=1)
    tasks = tuple(jnp.stack([x, 2 * x]) for x in (batches[0], outer_batch))
    rule = {"initialization": hd.maml(optax.sgd(0.3)), "hyper_optimizer": optax.sgd(0.1)}
    learner = hd.learner(problem, hd.offline.reverse_mode, horizon=4, **rule)
    state, _ = learner.step(learner.init(jax.random.key(0), hparams, weights), tasks)

    def mean_loss(params):
        def one(batch, outer):
            end = hd.unroll(
                problem, hparams, weights._replace(params=params), lambda t: batch, horizon=4
            )
            return problem.outer_loss(end, hparams, outer)

        return jax.vmap(one)(*tasks).mean()

    expected = weights.params - 0.3 * jax.grad(mean_loss)(weights.params)
    assert_close(state.weights.params, expected, 1e-12)
    first_order = hd.learner(
        problem, hd.offline.reverse_mode, horizon=4, **rule | {"initialization": hd.fomaml(0.3)}
    )
    other, _ = first_order.step(first_order.init(jax.random.key(0), hparams, weights), tasks)
    assert not jnp.allclose(other.weights.params, expected, rtol=1e-3)


def test_the_error_of_a_bad_loss_goes_from_a_process_to_another():
    error = training.NonFiniteLoss("outer loss is nan", "step", 3, 2, 1)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(twin) == str(error) and (twin.step, twin.inner_step) == (3, 2)


@pytest.mark.parametrize(
    "rule", [hd.maml(optax.adamw(0.1)), hd.fomaml(optax.adamw(0.1))], ids=["maml", "fomaml"]
)
def test_a_body_of_8_bits_and_a_mask_stay_and_the_rest_learns(rule):
    """adamw's decay of -inf is infinite: it must neither reach φ nor keep the rest of φ."""

    def update(w, h, batch):
        gradient = jax.grad(lambda v: jnp.sum((v * jnp.exp(h) - batch) ** 2))(w["w"])
        return w | {"w": w["w"] - 0.1 * gradient}

    problem = hd.Problem(update, lambda w, h, batch: jnp.sum((w["w"] - batch) ** 2))
    body = jnp.ones(3, jnp.float8_e4m3fn)
    weights = {"w": jnp.zeros(2), "mask": jnp.array([0.0, -jnp.inf]), "body": body}
    learner = hd.learner(
        problem,
        hd.offline.reverse_mode,
        hyper_optimizer=optax.sgd(0.1),
        initialization=rule,
        horizon=3,
    )
    state = learner.init(jax.random.key(0), jnp.zeros(()), weights)
    state, _ = learner.step(state, (jnp.ones((2, 2)), jnp.ones((2, 2))))
    assert (state.weights["w"] > 0.05).all()
    assert state.weights["mask"][1] == -jnp.inf
    assert (state.weights["body"] == body).all()


@pytest.mark.parametrize("online", [False, True])
def test_a_task_whose_outer_batch_is_bad_is_named(online):
    problem, hparams, weights, batches, outer_batch = quadratic("sgd", horizon=1)
    learner = hd.learner(
        problem,
        (hd.online.one_step(problem) if online else hd.offline.reverse_mode),
        hyper_optimizer=optax.sgd(0.1),
        horizon=2,
    )
    outer = jnp.stack([outer_batch, jnp.nan * outer_batch, outer_batch])
    tasks = jnp.stack([batches[0]] * 3), outer
    _, info = learner.step(learner.init(jax.random.key(0), hparams, weights), tasks)
    assert info.tasks_finite.tolist() == [True, False, True] and not info.moved[0]
