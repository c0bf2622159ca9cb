"""Every outer loss in one pass back: exact, along a line, in a window, and in a learner."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.hypergradient import drmad as drmad_module
from hdistill.hypergradient.outer_losses import OuterLosses
from tests.problems import CASES, assert_close, quadratic

EXACT = {
    "plain": hd.offline.reverse_mode,
    "checkpointed": functools.partial(hd.offline.reverse_mode, checkpoint=True),
    "drmad at every step": lambda *a, **o: hd.offline.drmad(*a, anchors=7, **o),
}


def with_outer_batches(case, every):
    """The case with another outer batch for each of ⌊T / every⌋ losses."""
    count = jax.tree.leaves(case.batches)[0].shape[0] // every
    rng = np.random.default_rng(every)

    def drawn(x):
        return jnp.asarray(rng.normal(size=(count, *x.shape)))

    return case._replace(outer_batch=jax.tree.map(drawn, case.outer_batch))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _oracle(problem, every, hparams, weights, batches, outer_batches, begin):
    """(Σ L_val, (each L_val, w_T)) by a Python loop; λ acts and counts after step `begin` only."""

    def value(h):
        w, losses = weights, []
        for t in range(jax.tree.leaves(batches)[0].shape[0]):
            used = jax.tree.map(lambda x, fixed: jnp.where(t >= begin, x, fixed), h, hparams)
            w = problem.update(w, used, jax.tree.map(lambda x: x[t], batches))
            if (t + 1) % every == 0:
                batch = jax.tree.map(lambda x: x[t // every], outer_batches)
                losses.append(problem.outer_loss(w, used, batch))
        return sum(losses), (jnp.stack(losses), w)

    return jax.grad(value, has_aux=True)(hparams)


def oracle(case, every, begin=0):
    problem, hparams, weights, batches, outer_batches = case
    return _oracle(problem, every, hparams, weights, batches, outer_batches, begin)


@pytest.mark.parametrize(
    "name, optimizer, every",  # of 7 steps: 2 and 3 leave one over
    [
        ("quadratic", "sgd", 1),
        ("quadratic", "momentum", 7),
        ("quadratic", "adam", 3),
        ("mlp", "adam", 3),
    ],
)
def test_equals_the_gradient_of_the_sum_through_the_unroll(name, optimizer, every):
    case = with_outer_batches(CASES[name](optimizer, horizon=7), every)
    expected, (losses, final) = oracle(case, every)
    for method in EXACT.values():
        result, info = method(*case, every=every, return_info=True)
        assert_close(result.total, expected, 1e-10)
        assert_close(info.outer_loss, losses, 1e-12)
        assert_close(info.weights.params, final.params, 1e-12)
        assert info.products == 2 * (7 // every * every) - 1 and info.finite


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("window", [1, 3, 4])
def test_in_a_window_only_its_losses_and_steps_count(window, checkpoint):
    case = with_outer_batches(quadratic("momentum", horizon=6), 2)
    expected, (losses, _) = oracle(case, 2, begin=6 - window)
    result, info = hd.offline.reverse_mode(
        *case, every=2, window=window, checkpoint=checkpoint, return_info=True
    )
    assert_close(result.total, expected, 1e-10)
    assert_close(info.outer_loss, losses, 1e-12)
    assert info.products == 2 * window - 1


def test_outer_batches_by_a_function_of_the_inner_step():
    case = with_outer_batches(quadratic("momentum", horizon=4), 2)
    steps = []

    def outer_batch(t):
        if isinstance(t, jax.core.Tracer):
            return case.outer_batch[t // 2]
        steps.append(int(t))
        return case.outer_batch[t // 2]

    for method in (hd.offline.reverse_mode, hd.offline.drmad):
        expected = method(*case, every=2).total
        drawn = method(*case._replace(outer_batch=outer_batch), every=2).total
        assert_close(drawn, expected, 1e-14)
    with jax.disable_jit():
        hd.offline.reverse_mode(*case._replace(outer_batch=outer_batch), every=2)
    assert set(steps) == {1, 3}


@pytest.mark.parametrize("anchors, every", [(1, 2), (3, 3), (8, 2)])
def test_drmad_equals_a_loop_with_explicit_jacobians_on_the_bent_line(anchors, every):
    case = with_outer_batches(CASES["quadratic"]("momentum", horizon=8), every)
    problem, hparams, weights, batches, outer_batches = case
    flat, unravel = jax.flatten_util.ravel_pytree(weights)

    def phi(vector, h, batch):
        return jax.flatten_util.ravel_pytree(problem.update(unravel(vector), h, batch))[0]

    points = [flat]
    for t in range(8):
        points.append(phi(points[-1], hparams, batches[t]))
    corners = [int(np.ceil(j * 8 / anchors)) for j in range(anchors + 1)]
    line = [np.interp(t, corners, range(anchors + 1)) for t in range(9)]
    ends = np.stack([points[corner] for corner in corners])
    gradient = jax.jit(jax.grad(lambda v, h, d: problem.outer_loss(unravel(v), h, d), (0, 1)))
    jacobians = jax.jit(jax.jacrev(phi, (0, 1)))
    alpha, expected = jnp.zeros_like(flat), jnp.zeros(3)
    for t in reversed(range(8)):
        if (t + 1) % every == 0:
            direct = gradient(points[t + 1], hparams, outer_batches[t // every])
            alpha, expected = alpha + direct[0], expected + direct[1]
        piece = min(int(line[t]), anchors - 1)
        share = line[t] - piece
        point = (1 - share) * ends[piece] + share * ends[piece + 1]
        a, b = jacobians(jnp.asarray(point), hparams, batches[t])
        expected, alpha = expected + alpha @ b, alpha @ a
    result = hd.offline.drmad(*case, every=every, anchors=anchors)
    assert_close(result.total, expected, 1e-10)
    if anchors == 8:
        assert_close(result.total, oracle(case, every)[0], 1e-10)


def test_counters_and_keys_on_the_way_of_several_losses():
    def update(w, h, d):
        key, draw = jax.random.split(w["key"])
        step = h * jax.random.normal(draw, (2,)) * (1 + w["n"])
        return {"key": key, "n": (w["n"] + 1) % 3, "w": w["w"] + step}

    problem = hd.Problem(update, lambda w, h, d: jnp.sum(w["w"] ** 2))
    weights = {"key": jax.random.key(3), "n": jnp.array(1), "w": jnp.zeros(2)}
    arguments = problem, jnp.ones(2), weights, None, None
    exact = hd.offline.reverse_mode(*arguments, horizon=7, every=2).total
    assert_close(hd.offline.drmad(*arguments, horizon=7, every=2).total, exact, 1e-12)

    def value(h):
        w, total = weights, 0.0
        for t in range(7):
            w = update(w, h, None)
            total += jnp.sum(w["w"] ** 2) if t % 2 else 0.0
        return total

    assert_close(exact, jax.grad(value)(jnp.ones(2)), 1e-12)


@pytest.mark.parametrize("every", [2, 4])
def test_a_learner_moves_once_by_the_sum(every):
    case = quadratic("momentum")
    tasks = tuple(jnp.stack([x, 2 * x]) for x in (case.batches[0], case.outer_batch))
    for method in (hd.offline.reverse_mode, functools.partial(hd.offline.drmad, anchors=4)):
        built = hd.learner(
            case.problem, method, hyper_optimizer=optax.sgd(0.1), horizon=4, every=every
        )
        state, info = built.step(built.init(jax.random.key(0), case.hparams, case.weights), tasks)
        expected = [
            oracle(
                case._replace(
                    batches=jnp.stack([inner] * 4), outer_batch=jnp.stack([outer] * (4 // every))
                ),
                every,
            )
            for inner, outer in zip(*tasks)
        ]
        mean = (expected[0][0] + expected[1][0]) / 2
        assert_close(state.hparams, case.hparams - 0.1 * mean, 1e-10)
        losses = (expected[0][1][0] + expected[1][1][0]) / 2
        assert_close(info.outer_loss, losses, 1e-10)
        assert info.products == 7
        for field in ("moved", "finite", "first_order_norm", "second_order_norm"):
            assert getattr(info, field).shape == (1,)


def test_each_loss_of_a_learner_has_an_outer_batch_of_its_own():
    case, losses = quadratic("momentum"), []
    tasks = (case.batches[:1], jnp.zeros((1, 1)))

    def sample_outer(key, task):
        return jax.random.normal(key, (6, 4))

    built = hd.learner(
        case.problem,
        hd.offline.reverse_mode,
        hyper_optimizer=optax.sgd(0.0),
        horizon=6,
        every=2,
        sample_outer=sample_outer,
    )
    # At λ's rate 0 an online method sees the same weights and the same draws.
    online = hd.learner(
        case.problem,
        hd.online.first_order(case.problem),
        hyper_optimizer=optax.sgd(0.0),
        horizon=6,
        every=2,
        sample_outer=sample_outer,
    )
    for learner in (built, online):
        state = learner.init(jax.random.key(5), case.hparams, case.weights)
        losses.append(learner.step(state, tasks)[1].outer_loss)
    assert_close(losses[0], losses[1][1::2], 1e-12)


@pytest.mark.parametrize("fault", ["a loss a step late", "g^FO of the last loss only"])
def test_the_oracle_catches_a_pass_that_is_wrong(fault, monkeypatch):
    case = with_outer_batches(quadratic("momentum", horizon=6), 2)
    expected, _ = oracle(case, 2)
    if fault == "a loss a step late":

        def falls_at(self, t, begin=0):
            return (t % self.every == 1) & (t > begin)

        monkeypatch.setattr(OuterLosses, "falls_at", falls_at)
    else:
        honest = drmad_module.walk

        def forgetful(*arguments):
            walked = honest(*arguments)
            last = jax.grad(case.problem.outer_loss, 1)(
                walked.final, case.hparams, case.outer_batch[-1]
            )
            return walked._replace(first_order=last)

        monkeypatch.setattr(drmad_module, "walk", forgetful)
    hd.clear_cache()
    with pytest.raises(AssertionError):
        assert_close(hd.offline.drmad(*case, every=2, anchors=6).total, expected, 1e-10)
    hd.clear_cache()


@pytest.mark.parametrize("name", ["reverse_mode", "drmad"])
def test_bad_options_are_named(name):
    method, case = getattr(hd.offline, name), quadratic(horizon=5)
    two = with_outer_batches(case, 2)
    for options, words in (
        ({"every": 0}, "every=0: expected a whole number >= 1"),
        ({"every": 6}, "every=6: expected at most horizon=5"),
        ({"every": 1}, "leading axis is 2, expected 5.*every=1 and horizon=5"),
    ):
        with pytest.raises(ValueError, match=words):
            method(*two, **options)
    with pytest.raises(ValueError, match=r"outer_batch is a list.*outer loss axis"):
        method(*case._replace(outer_batch=[case.outer_batch] * 2), every=2)
    with pytest.warns(hd.OutOfDataWarning, match=r"outer_batch\(t\) at t = 3"):
        data = case.outer_batch[None]
        method(*case._replace(outer_batch=lambda t: data[t // 2]), every=2)
    if name == "drmad":
        for anchors, words in ((0, "anchors=0"), (6, "anchors=6: expected at most horizon=5")):
            with pytest.raises(ValueError, match=words):
                method(*case, anchors=anchors)
    else:
        with pytest.raises(ValueError, match="window=1: the last outer loss is after step 4"):
            method(*two, every=2, window=1)
