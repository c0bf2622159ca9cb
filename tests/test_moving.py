"""Leaves that Φ hands on are kept once, may be anything; the derivative in w_0 is exact."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import hdistill as hd
from tests.hypergradient.test_common import run_online
from tests.problems import OFFLINE, ONLINE, assert_close, mlp

T = 5


def masked(body):
    """(problem, λ, w_0, batches, outer batch, the loss of λ and w_0): a head learns on a body."""

    def update(w, h, batch):
        def loss(head):
            return jnp.mean((jnp.tanh(batch @ w["body"].astype(head.dtype)) @ head - h) ** 2)

        return w | {"head": w["head"] - 0.1 * jax.grad(loss)(w["head"])}

    def outer_loss(w, h, batch):
        return jnp.mean((jnp.tanh(batch @ w["body"].astype(w["head"].dtype)) @ w["head"]) ** 2)

    key = jax.random.key(0)
    batches = jax.random.normal(key, (T, 6, 3))
    weights = {"body": jax.random.normal(key, (3, 2)).astype(body), "head": jnp.ones(2)}
    return hd.Problem(update, outer_loss), jnp.asarray(0.3), weights, batches, batches[0]


def unrolled(problem, hparams, weights, batches, outer_batch):
    return problem.outer_loss(hd.unroll(problem, hparams, weights, batches), hparams, outer_batch)


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}], ids=str)
def test_the_derivative_in_the_start_is_that_of_the_unroll(options):
    for case in (masked(jnp.float64), mlp("momentum", horizon=T)):
        _, info = hd.offline.reverse_mode(*case, return_info=True, **options)
        expected = jax.grad(unrolled, argnums=2)(*case)
        if "body" in case[2]:  # what Φ hands on is no weight
            assert info.start["body"] is None
            expected = expected | {"body": None}
        assert_close(info.start, expected, 1e-12)


def test_the_start_of_a_sum_of_losses():
    problem, hparams, weights, batches, outer_batch = mlp("sgd", horizon=T)

    def total(weights):
        ends = [jax.tree.map(lambda x: x[:n], batches) for n in (2, 4)]
        return sum(unrolled(problem, hparams, weights, b, outer_batch) for b in ends)

    _, info = hd.offline.reverse_mode(
        problem, hparams, weights, batches, lambda t: outer_batch, every=2, return_info=True
    )
    assert_close(info.start, jax.grad(total)(weights), 1e-12)


def test_there_is_no_start_with_a_window_or_in_another_method():
    case = mlp("sgd", horizon=T)
    for method in (functools.partial(hd.offline.reverse_mode, window=2), hd.offline.drmad):
        assert method(*case, return_info=True)[1].start is None


@pytest.mark.parametrize(
    "name", ["one_step", "forward_mode", "reverse_mode", "reverse_mode snapshots", "drmad"]
)
@pytest.mark.filterwarnings("ignore::hdistill.ZeroHypergradientWarning")
def test_a_still_leaf_may_have_8_bits_offline(name):
    problem, *rest = masked(jnp.float8_e4m3fn)
    outside = _closed_over(problem, rest[1]["body"])
    whole = OFFLINE[name](problem, *rest)
    rest[1] = rest[1]["head"]
    assert_close(whole, OFFLINE[name](outside, *rest), 1e-12)


@pytest.mark.parametrize(
    "name", ["one_step", "forward_mode", "reverse_mode", "robust_hyperdistill"]
)
@pytest.mark.filterwarnings("ignore::hdistill.ZeroHypergradientWarning")
def test_a_still_leaf_may_have_8_bits_online(name):
    problem, *rest = masked(jnp.float8_e4m3fn)
    outside = _closed_over(problem, rest[1]["body"])
    whole = run_online(ONLINE[name](problem), problem, *rest)
    rest[1] = rest[1]["head"]
    assert_close(whole, run_online(ONLINE[name](outside), outside, *rest), 1e-12)


def _closed_over(problem, body):
    return hd.Problem(
        lambda w, h, d: problem.update({"body": body, "head": w}, h, d)["head"],
        lambda w, h, d: problem.outer_loss({"body": body, "head": w}, h, d),
    )


METHODS = {
    "stored": hd.offline.reverse_mode,
    "checkpoint": functools.partial(hd.offline.reverse_mode, checkpoint=True),
    "anchors": functools.partial(hd.offline.drmad, anchors=20),
    "forward": hd.offline.forward_mode,
}


@pytest.mark.parametrize("name", METHODS)
def test_a_still_body_is_kept_once(name):
    """The program's memory, without its arguments, in copies of a body of 2 MB."""
    body, steps = jnp.ones((512, 512)), 200

    def loss(w, h, x):
        return jnp.mean((x @ w["body"] @ w["head"]) ** 2) * jnp.exp(h)

    def update(w, h, x):
        gradient = jax.grad(lambda head: loss(w | {"head": head}, h, x))(w["head"])
        return w | {"head": w["head"] - 0.01 * gradient}

    problem = hd.Problem(update, loss)
    weights, x = {"body": body, "head": jnp.ones(512)}, jnp.ones((4, 512))

    def call(h, weights):
        return METHODS[name](problem, h, weights, lambda t: x * t, x, horizon=steps).total

    memory = jax.jit(call).lower(jnp.zeros(()), weights).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2 * body.nbytes


def test_infinite_entries_mix_to_themselves():
    """A bias of -inf that Φ moves (all of it by 0), and a best loss that begins at inf."""

    def update(w, h, batch):
        rows = jax.nn.softmax(w["bias"])
        moved = w["w"] - 0.1 * (rows @ (w["w"] - batch) + h)
        return {"w": moved, "bias": w["bias"] + 0.0, "best": jnp.minimum(w["best"], moved.sum())}

    problem = hd.Problem(update, lambda w, h, batch: jnp.sum((w["w"] - 1) ** 2))
    weights = {"w": jnp.zeros(3), "best": jnp.asarray(jnp.inf)}
    weights["bias"] = jnp.where(jnp.tri(3, dtype=bool), 0.0, -jnp.inf)
    case = problem, jnp.ones(3), weights, jnp.ones((T, 3)), None
    bare = hd.Problem(
        lambda w, h, d: update(weights | {"w": w}, h, d)["w"], lambda w, h, d: jnp.sum((w - 1) ** 2)
    )
    plain = bare, case[1], weights["w"], case[3], None
    for method in (hd.offline.drmad, functools.partial(hd.offline.drmad, anchors=T)):
        assert_close(method(*case), method(*plain), 1e-12)
    key = jax.random.key(0)
    assert_close(hd.fit_size(*case, key)[0], hd.fit_size(*plain, key)[0], 1e-12)
    for make in (hd.online.hyperdistill, hd.online.robust_hyperdistill):
        whole = run_online(make(problem, gamma=0.9), *case)
        assert_close(whole, run_online(make(bare, gamma=0.9), *plain), 1e-12)
    tasks = jnp.ones((1, 3)), jnp.ones((1, 3))
    learner = hd.learner(
        problem,
        hd.online.one_step(problem),
        hyper_optimizer=optax.sgd(0.1),
        initialization=hd.reptile(0.5),
        horizon=T,
    )
    state, info = learner.step(learner.init(key, case[1], weights), tasks)
    assert bool((state.weights["bias"] == weights["bias"]).all())
    assert state.weights["best"] == jnp.inf and bool(info.tasks_finite.all())
    assert bool(jnp.isfinite(state.weights["w"]).all())


@pytest.mark.parametrize("gamma", [0.99, 1.0])
def test_a_mean_of_half_precision_does_not_stall(gamma):
    """HyperDistill's w*, seen through a product that is linear in it, against float64."""
    steps, rate = 1000, 0.125
    path = jnp.linspace(0.05, 1.0, steps + 1).astype(jnp.bfloat16)

    def update(w, h, batch):
        return (batch[0] - rate * (jnp.exp(h) - 1) * w.astype(jnp.float32)).astype(jnp.bfloat16)

    problem = hd.Problem(update, lambda w, h, batch: w[0].astype(jnp.float32))
    estimator, h = hd.online.hyperdistill(problem, gamma=gamma), jnp.zeros((), jnp.float32)

    def body(state, t):
        now, after = path[t][None], path[t + 1][None]
        step = hd.Transition(now, after, h, (after,), (path[:1],))
        g, state = estimator.step(state, step, jax.random.key(0))
        return state, g.second_order

    state = estimator.init(path[:1], h, (path[:1],))
    actual = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(steps))[1])(state)[-1]
    decays = gamma ** jnp.arange(steps - 1.0, -1.0, -1.0)
    expected = -rate * jnp.sum(decays * path[:-1].astype(jnp.float64))
    assert abs(actual / expected - 1) < 0.02


def test_a_sum_over_hparams_of_half_precision_does_not_stall():
    """2,000 steps that add 2^-12 each: bfloat16 by itself would stop at a twelfth of the sum."""
    problem = hd.Problem(
        lambda w, h, d: w + 2.0**-12 * h.astype(jnp.float32), lambda w, h, d: jnp.sum(w)
    )
    case = problem, jnp.ones((), jnp.bfloat16), jnp.zeros((), jnp.float32), None, None
    for method in (hd.offline.reverse_mode, hd.offline.drmad):
        g = method(*case, horizon=2000)
        assert g.total.dtype == jnp.bfloat16
        assert abs(g.total / (2000 * 2.0**-12) - 1) < 0.01
