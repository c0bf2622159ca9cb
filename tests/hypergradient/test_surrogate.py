"""A surrogate: A and B of plain gradient descent, along the trajectory of momentum.

The references are NumPy and dense Jacobians of w - η ∂L/∂w, written without the library.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.hypergradient.distill import mix_batches
from tests.problems import assert_close, data_problem, quadratic

RATE, MOMENTUM, STEPS, SIZE = 0.1, 0.5, 5, 6


def inner_loss(w, h, d):
    pull = 0.5 * jnp.sum((w - (1 + h.sum()) * d.mean(0)) ** 2)
    return pull + h[0] * jnp.sum(jnp.sin(w))


def outer_loss(w, h, d):
    return 0.5 * jnp.sum((w - d.mean(0)) ** 2) + 0.05 * jnp.sum(h**2)


@pytest.fixture(scope="module")
def case():
    optimizer, rng = optax.sgd(RATE, momentum=MOMENTUM), np.random.default_rng(4)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer, surrogate=optax.sgd(RATE))
    params = jnp.array([0.5, -0.3, 0.2, 0.9])
    weights = hd.InnerState(params, optimizer.init(params))
    batches, outer = (jnp.asarray(rng.normal(size=s)) for s in ((STEPS, SIZE, 4), (SIZE, 4)))
    return problem, jnp.array([0.1, -0.2, 0.3]), weights, batches, outer


@pytest.fixture(scope="module")
def dense(case):
    """(w_0..w_T of momentum, (A, B) of plain descent at (w, D), α at w_T, g^FO)."""
    _, hparams, weights, batches, outer = case
    gradient = jax.jit(jax.grad(inner_loss))
    params, trace = [np.asarray(weights.params)], np.zeros(4)
    for batch in batches:
        trace = gradient(params[-1], hparams, batch) + MOMENTUM * trace
        params.append(params[-1] - RATE * trace)
    jacobians = jax.jit(
        jax.jacfwd(lambda w, h, d: w - RATE * jax.grad(inner_loss)(w, h, d), (0, 1))
    )

    def at(w, batch):
        return tuple(np.asarray(x) for x in jacobians(jnp.asarray(w), hparams, jnp.asarray(batch)))

    alpha, direct = jax.grad(outer_loss, (0, 1))(params[-1], hparams, outer)
    return params, at, np.asarray(alpha), direct


def backward(points, at, batches, alpha, steps=STEPS):
    total, visited = np.zeros(3), []
    for t in reversed(range(STEPS - steps, STEPS)):
        a, b = at(points[t], batches[t])
        total, alpha = total + alpha @ b, alpha @ a
        visited.append(total)
    return visited


def line(params):
    return [(1 - t / STEPS) * params[0] + t / STEPS * params[-1] for t in range(STEPS)]


def test_values_are_phi_s_and_the_optimizer_s_state_passes_through(case):
    problem, hparams, weights, batches, _ = case
    plain = problem._replace(surrogate=None)
    jax.tree.map(
        np.testing.assert_array_equal,
        hd.unroll(problem, hparams, weights, batches),
        hd.unroll(plain, hparams, weights, batches),
    )
    carried = weights._replace(opt_state=jax.tree.map(jnp.ones_like, weights.opt_state))
    after = problem.surrogate(carried, hparams, batches[0])
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, carried.opt_state)
    expected = weights.params - RATE * jax.grad(inner_loss)(weights.params, hparams, batches[0])
    assert_close(after.params, expected, 1e-15)


def test_reverse_mode_and_drmad(case, dense):
    params, at, alpha, direct = dense
    for method, points in ((hd.offline.reverse_mode, params), (hd.offline.drmad, line(params))):
        result, info = method(*case, return_info=True)
        assert_close(result.second_order, backward(points, at, case[3], alpha)[-1], 1e-10)
        assert_close(result.first_order, direct, 1e-12)
        assert_close(info.weights.params, params[-1], 1e-12)
        with pytest.raises(AssertionError):  # the momentum differentiated is another result
            honest = case[0]._replace(surrogate=None)
            assert_close(method(honest, *case[1:]).second_order, result.second_order, 1e-3)


def test_forward_mode_implicit_and_online_methods(case, dense):
    params, at, alpha, _ = dense
    problem, hparams, weights, batches, outer = case
    exact = backward(params, at, batches, alpha)
    assert_close(hd.offline.forward_mode(*case).second_order, exact[-1], 1e-10)
    a, b = at(params[-2], batches[-1])
    fixed = np.linalg.solve((np.eye(4) - a).T, alpha) @ b
    powers = sum(alpha @ np.linalg.matrix_power(a, k) for k in range(4)) @ b
    for solver, expected in (("exact", fixed), ("neumann", powers)):
        result = hd.offline.implicit(*case, solver=solver, terms=3)
        assert_close(result.second_order, expected, 1e-10)
    assert_close(hd.offline.implicit(*case, solver="cg", terms=40).second_order, fixed, 1e-8)
    for name, options, expected in (
        ("reverse_mode", {"window": STEPS}, exact[-1]),
        ("reverse_mode", {"window": 2}, exact[1]),
        ("forward_mode", {}, exact[-1]),
    ):
        estimator = getattr(hd.online, name)(problem, **options)
        state, current = estimator.init(weights, hparams, batches[0]), weights
        for batch in batches:
            previous, current = current, problem.update(current, hparams, batch)
            transition = hd.Transition(previous, current, hparams, batch, outer)
            result, state = estimator.step(state, transition, jax.random.key(0))
        assert_close(result.second_order, expected, 1e-10)


def distil(past, gamma, key_at, apart):
    """(w*, D*, S) of Eqs. 13 and 14 after the (w, D) of `past`, the first one oldest."""
    weights, mixed, total = None, None, 0.0
    for t, (w, batch) in enumerate(past):
        share = gamma * total / (1 + gamma * total)
        total = 1 + gamma * total
        weights = w if t == 0 else share * weights + (1 - share) * w
        mixed = batch if t == 0 else mixture(key_at(t), share, mixed, batch, apart)
    return weights, mixed, total


def mixture(key, share, old, new, apart):
    place_key, count_key = jax.random.split(key)
    if apart:
        place_key, shuffle_key = jax.random.split(place_key)
        old = np.asarray(old)[np.asarray(jax.random.permutation(shuffle_key, SIZE))]
    count = np.floor(share * SIZE + jax.random.uniform(count_key, dtype=jnp.float64))
    from_old = np.asarray(jax.random.permutation(place_key, SIZE)) < count
    return np.where(from_old[:, None], old, new)


@pytest.mark.parametrize("mixing", ["aligned", "apart"])
def test_algorithm_4_and_hyperdistill(case, dense, mixing):
    params, at, alpha, _ = dense
    problem, hparams, weights, batches, outer = case
    gamma, key = 0.8, jax.random.key(9)
    theta, samples = hd.fit_size(*case, key, gamma=gamma, mixing=mixing)
    x, y = [], []
    weight, mixed, total = None, None, 0.0
    for s, exact in enumerate(backward(line(params), at, batches, alpha), 1):
        t = STEPS - s
        point = line(params)[t]
        total, before = 1 + gamma * total, total
        share = before / total
        weight = point if s == 1 else share * weight + (1 - share) * point
        fold = jax.random.fold_in(key, t)
        mixed = mixture(fold, share, mixed, batches[t], mixing == "apart") if s > 1 else batches[t]
        v = alpha @ at(weight, mixed)[1]
        x.append(np.linalg.norm(v) * total)
        y.append(v / np.linalg.norm(v) @ exact)
    assert_close(samples.x, x, 1e-10)
    assert_close(samples.y, y, 1e-10)
    assert_close(theta, np.dot(x, y) / np.dot(x, x), 1e-10)

    estimator = hd.online.hyperdistill(problem, gamma=gamma, mixing=mixing)
    state = estimator.init(weights, hparams, batches[0])._replace(theta=jnp.asarray(0.7))
    current, past = weights, []
    for t, batch in enumerate(batches):
        previous, current = current, problem.update(current, hparams, batch)
        past.append((np.asarray(previous.params), np.asarray(batch)))
        transition = hd.Transition(previous, current, hparams, batch, outer)
        result, state = estimator.step(state, transition, jax.random.fold_in(key, t))

        def key_at(t):
            return jax.random.fold_in(key, t)

        weight, mixed, total = distil(past, gamma, key_at, mixing == "apart")
        now = np.asarray(jax.grad(outer_loss)(current.params, hparams, outer))
        assert_close(result.second_order, 0.7 * total * now @ at(weight, mixed)[1], 1e-10)


def test_apart_takes_random_examples_and_keeps_pairs_and_shares():
    old = {"x": jnp.arange(8.0), "y": jnp.arange(8)}
    new = {"x": 100 + jnp.arange(8.0), "y": 100 + jnp.arange(8)}

    @jax.jit
    @jax.vmap
    def draw(key):
        return mix_batches(key, jnp.asarray(0.5), old, new, "apart")

    mixed = draw(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_array_equal(mixed["x"], mixed["y"])
    of_old = mixed["y"] < 100
    np.testing.assert_array_equal(of_old.sum(1), 4)
    for row in np.asarray(mixed["y"])[:50]:
        assert len(set(row)) == 8  # without replacement from either
    # An old example lands anywhere, and independently of which new ones it drives out.
    same = (np.asarray(mixed["y"]) == np.arange(8)).mean()
    np.testing.assert_allclose(same, 0.5 / 8, atol=0.01)
    unmixed = mix_batches(jax.random.key(1), jnp.asarray(0.0), old, new, "apart")
    jax.tree.map(np.testing.assert_array_equal, unmixed, new)


def test_a_learner_takes_values_from_its_own_problem(case):
    problem, hparams, weights, batches, outer = case
    plain = problem._replace(surrogate=None)
    tasks = (batches[:1], outer[None])
    states = []
    for of_learner, of_estimator in ((problem, problem), (plain, problem), (plain, plain)):
        built = hd.learner(
            of_learner,
            hd.online.reverse_mode(of_estimator, window=3),
            hyper_optimizer=optax.sgd(0.1),
            horizon=3,
        )
        states.append(built.step(built.init(jax.random.key(0), hparams, weights), tasks)[0])
    np.testing.assert_array_equal(states[0].hparams, states[1].hparams)
    assert np.abs(states[1].hparams - states[2].hparams).max() > 1e-4


def test_compare_s_exact_pass_drops_it(case):
    problem, *task = case
    compared = hd.compare(problem, {"one": hd.online.reverse_mode(problem, window=STEPS)}, *task)
    assert compared["one"].cosine[-1] < 0.9999
    np.testing.assert_allclose(compared["exact"].cosine, 1.0, rtol=1e-12)
    plain = hd.online.reverse_mode(problem._replace(surrogate=None), window=STEPS)
    again = hd.compare(problem, {"one": plain}, *task)
    np.testing.assert_allclose(again["one"].cosine, 1.0, rtol=1e-12)


def test_warnings_follow_it():
    problem, hparams, weights = data_problem()
    blind = problem._replace(surrogate=lambda w, h, d: w, outer_loss=lambda w, h, d: w.params.sum())
    batch = jnp.ones((2, 6, 4))
    with pytest.warns(hd.ZeroHypergradientWarning, match="one_step"):
        hd.offline.one_step(blind, hparams, weights, batch, batch[0])


def test_without_one_no_bit_changes():
    case = quadratic("momentum")
    plain = hd.Problem(case.problem.update, case.problem.outer_loss)
    itself = plain._replace(surrogate=plain.update)
    for method in (hd.offline.reverse_mode, hd.offline.drmad, hd.offline.implicit):
        results = [method(problem, *case[1:]) for problem in (case.problem, plain, itself)]
        for other in results[1:]:
            jax.tree.map(np.testing.assert_array_equal, results[0], other)


@pytest.mark.parametrize(
    "surrogate, words",
    [
        (optax.sgd(0.1, momentum=0.9), "surrogate=.*without state"),
        (optax.adam(0.1), "surrogate=.*without state"),
        (optax.sgd(lambda t: 0.1), "surrogate=.*without state"),
        (lambda g: g, "surrogate=.*optax transformation"),
    ],
)
def test_a_surrogate_with_a_state_is_named(surrogate, words):
    with pytest.raises(ValueError, match=words):
        hd.from_losses(inner_loss, outer_loss, optax.sgd(0.1), surrogate=surrogate)


def test_a_surrogate_of_other_weights_is_named(case):
    problem, *task = case
    for surrogate, words in (
        (lambda w, h, d: w.params, r"problem.surrogate\(weights, hparams, batch\).*structure"),
        (lambda w, h: w, r"problem.surrogate.*\(weights, hparams, batch\)"),
    ):
        with pytest.raises(ValueError, match=words):
            hd.offline.reverse_mode(problem._replace(surrogate=surrogate), *task)
