"""Robust HyperDistill: matrices worked out by hand, its bound, problems made to diverge."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.hypergradient.robust import RobustSize
from hdistill.problem import InnerRun
from tests.problems import LEARNING_RATE, assert_close, quadratic, quadratic_constants

HORIZON, GAMMA = 5, 0.5


def by_hand(trust):
    """(g^SO after each step, RobustSize), on the quadratic, from matrices alone.

    Φ(w) = w - η(Hw - Cλ - d): A = I - ηH and B = ηC wherever they are taken, so that DrMAD is exact
    and neither w* nor D* matters: v_t = α_t B, g_s^SO = Σ_{k<s} α_T A^k B.
    """
    case = quadratic("sgd", horizon=HORIZON)
    hessian, coupling = quadratic_constants()
    jacobian, effect = np.eye(4) - LEARNING_RATE * hessian, LEARNING_RATE * coupling
    w, h = np.asarray(case.weights.params), np.asarray(case.hparams)
    alphas = []
    for batch in np.asarray(case.batches):
        w = jacobian @ w + LEARNING_RATE * (coupling @ h + batch.mean(0))
        alphas.append(w - np.asarray(case.outer_batch).mean(0))
    sums = [sum(GAMMA**k for k in range(t)) for t in range(1, HORIZON + 1)]
    pulled = [alphas[-1] @ np.linalg.matrix_power(jacobian, k) for k in range(HORIZON)]
    exact = np.array([sum(pulled[:s]) @ effect for s in range(1, HORIZON + 1)])
    squares = np.sum(exact**2)
    last = means([s * alphas[-1] @ effect for s in sums])
    theta = np.sqrt(squares / np.sum(np.square(last)))
    products = [s * alpha @ effect for s, alpha in zip(sums, alphas)]
    averages, lengths = means(products), means([np.linalg.norm(x) for x in products])
    cut = []
    for t, (m, length) in enumerate(zip(averages, lengths), 1):
        u = min(theta, t * (t + 1) / 2 / sums[t - 1]) * m
        longest = trust * (np.linalg.norm(m) / length) ** 2 * np.linalg.norm(h)  # g^FO = λ
        cut.append(u * min(1, longest / np.linalg.norm(u)))
    return np.array(cut), theta, np.sqrt(squares / HORIZON)


def means(terms):
    """Σ_i ρ^(t-i) x_i / Σ_i ρ^(t-i) for every t, ρ = 0.65."""
    decays = [0.65 ** np.arange(t, -1, -1.0) for t in range(len(terms))]
    return np.array([d @ np.array(terms[: d.size]) / d.sum() for d in decays])


@pytest.mark.parametrize("trust", [0.2, 1.0, 50.0])
def test_equals_matrices_worked_out_by_hand(trust):
    case = quadratic("sgd", horizon=HORIZON)
    estimator = hd.online.robust_hyperdistill(case.problem, gamma=GAMMA, trust=trust)
    batch_at = case.batches.__getitem__
    inner = InnerRun(case.problem, case.hparams, case.weights, batch_at, HORIZON)
    statistics = estimator.fit.measure(inner, case.outer_batch, jax.random.key(0))
    size = estimator.fit.solve(statistics)
    expected, theta, limit = by_hand(trust)
    assert_close(size, RobustSize(theta, limit), 1e-12)
    state = estimator.init(case.weights, case.hparams, case.batches[0])._replace(theta=size)
    previous, computed = case.weights, []
    for batch in case.batches:
        current = case.problem.update(previous, case.hparams, batch)
        transition = hd.Transition(previous, current, case.hparams, batch, case.outer_batch)
        hyper, state = estimator.step(state, transition, jax.random.key(1))
        assert_close(hyper.first_order, case.hparams, 1e-12)
        computed.append(hyper.second_order)
        previous = current
    assert_close(np.array(computed), expected, 1e-12)
    assert state.products == HORIZON
    if trust == 0.2:  # the bound was at work: without it the term is another
        assert np.abs(by_hand(50.0)[0] - expected).max() > 0.1 * np.abs(expected).max()


def test_the_product_is_at_the_mean_of_weights_and_the_batch_of_the_step():
    """Φ(w) = w - η w λ b², whose derivative in λ is -η w b²: of w and of b as they are put in."""

    def update(w, h, b):
        return w - 0.1 * w * h * jnp.mean(b) ** 2

    def outer_loss(w, h, _):
        return jnp.sum(w * jnp.array([1.0, -2.0])) + 5.0 * jnp.sum(h)

    problem, h = hd.Problem(update, outer_loss), jnp.array([0.3, 0.7])
    estimator = hd.online.robust_hyperdistill(problem, gamma=GAMMA, trust=1e9)
    ws, bs = [jnp.array([1.0, 2.0])], [jnp.full(2, b) for b in (1.0, -3.0, 2.0, 0.5)]
    state, computed = estimator.init(ws[0], h, bs[0]), []
    for b in bs:
        ws.append(update(ws[-1], h, b))
        hyper, state = estimator.step(
            state, hd.Transition(ws[-2], ws[-1], h, b, None), jax.random.key(0)
        )
        computed.append(hyper.second_order)
    terms = []
    for t, b in enumerate(bs):
        decays = GAMMA ** np.arange(t, -1, -1.0)
        # S_t times the decayed mean of w_0..w_t is the decayed sum.
        terms.append(np.array([1.0, -2.0]) * -0.1 * b[0] ** 2 * (decays @ np.array(ws[: t + 1])))
    assert_close(np.array(computed), means(terms), 1e-12)


def at_rest(trust=1e9, theta=1e6, limit=jnp.inf, outer_loss=None):
    """(estimator, state, transition, v): on the quadratic, the same transition again and again."""
    case = quadratic("sgd", horizon=HORIZON)
    problem = case.problem
    if outer_loss is not None:
        problem = problem._replace(outer_loss=outer_loss)
    estimator = hd.online.robust_hyperdistill(problem, gamma=GAMMA, trust=trust)
    state = estimator.init(case.weights, case.hparams, case.batches[0])
    state = state._replace(theta=RobustSize(jnp.asarray(theta), jnp.asarray(limit)))
    transition = hd.Transition(
        case.weights, case.weights, case.hparams, case.batches[0], case.outer_batch
    )
    one_step = hd.online.one_step(problem)
    v, _ = one_step.step(one_step.init(*transition[1:4]), transition, None)
    return estimator, state, transition, v.second_order


def test_the_longest_term_counts_the_steps_at_which_the_hparams_rest():
    estimator, state, transition, v = at_rest()
    sums = [sum(GAMMA**k for k in range(t)) for t in range(1, 5)]
    moments = {2: sums[1], 4: (0.65 * sums[1] + sums[3]) / 1.65}  # m_t / v
    for t, moment in moments.items():
        state = estimator.observe(state, transition, jax.random.key(0))
        result, state = estimator.step(state, transition, jax.random.key(0))
        assert_close(result.second_order, t * (t + 1) / 2 / sums[t - 1] * moment * v, 1e-12)


def test_the_longest_term_does_not_overflow_on_an_endless_stream():
    estimator, state, transition, v = at_rest(trust=1e30, theta=1e30)
    state = state._replace(steps=jnp.asarray(99_999, jnp.int32))
    result, _ = estimator.step(state, transition, jax.random.key(0))
    assert_close(result.second_order, 100_000 * 100_001 / 2 * v, 1e-12)


@pytest.mark.parametrize("prior", [0.0, 0.5])
@pytest.mark.parametrize("share, usable", [(0.1, True), (0.9, False)])
def test_a_term_that_overflows_leaves_the_first_order_one(share, usable, prior):
    def outer_loss(size, w, h, _):
        return size * jnp.sum(w.params) + prior * jnp.sum(h**2)

    unit = at_rest(outer_loss=functools.partial(outer_loss, 1.0))[-1]
    largest = np.sqrt(np.finfo(np.float64).max)  # norm: its square is the largest number
    size = share * largest / np.linalg.norm(unit)
    estimator, state, transition, _ = at_rest(outer_loss=functools.partial(outer_loss, size))
    state = state._replace(steps=jnp.asarray(1, jnp.int32))  # up to three products long
    result, _ = estimator.step(state, transition, jax.random.key(0))
    assert np.isfinite(result.second_order).all()
    assert (np.abs(result.second_order).max() > 0) == usable
    assert_close(result.first_order, 2 * prior * transition.hparams, 1e-12)


@pytest.mark.parametrize(
    "statistics, status, theta, limit",
    [
        ((-1.0, 4.0, 9.0), hd.FitStatus.REFUSED_NOT_POSITIVE, 0.7, 0.2),
        ((0.0, 0.0, 9.0), hd.FitStatus.REFUSED_NOT_POSITIVE, 0.7, 0.2),
        ((1.0, 4.0, jnp.inf), hd.FitStatus.REFUSED_NOT_FINITE, 0.7, 0.2),
        ((1.0, 4.0, 9.0), hd.FitStatus.USED, 1.5, 3.0),
    ],
)
def test_a_fit_that_says_nothing_leaves_the_last_one_in_force(statistics, status, theta, limit):
    fit = at_rest()[0].fit
    statistics = tuple(jnp.asarray(x, float) for x in statistics)
    old = RobustSize(jnp.asarray(0.7), jnp.asarray(0.2))
    assert fit.accept(statistics, old) == (RobustSize(theta, limit), status)


@pytest.mark.parametrize("ratio, times", [(1.1e-3, 1.1e-3), (0.9e-3, 1.0)])
def test_a_thousandth_of_the_last_fit_is_where_the_bound_changes(ratio, times):
    def outer_loss(w, h, v):
        return 0.5 * jnp.sum((w.params - v.mean(0)) ** 2) + ratio * jnp.vdot(h, jnp.eye(h.size)[0])

    estimator, state, transition, v = at_rest(0.5, 1e6, 1.0, outer_loss)
    state = state._replace(steps=jnp.asarray(9_999, jnp.int32))  # the other bound is far
    result, _ = estimator.step(state, transition, jax.random.key(0))
    assert_close(result.second_order, 0.5 * times * v / np.linalg.norm(v), 1e-12)


@pytest.mark.parametrize("prior", [0.0, 1e-9])
def test_where_the_first_order_term_is_negligible_the_last_fit_is_the_bound(prior):
    case = quadratic("sgd", horizon=HORIZON)
    problem = case.problem._replace(
        outer_loss=lambda w, h, v: (
            0.5 * jnp.sum((w.params - v.mean(0)) ** 2) + prior * jnp.sum(h**2)
        )
    )
    estimator = hd.online.robust_hyperdistill(problem, trust=0.5)
    batch = case.batches[0]
    current = problem.update(case.weights, case.hparams, batch)
    transition = hd.Transition(case.weights, current, case.hparams, batch, case.outer_batch)
    state = estimator.init(case.weights, case.hparams, batch)
    unfitted = RobustSize(jnp.asarray(1.0), jnp.asarray(jnp.inf if prior == 0 else 1e6))
    before, _ = estimator.step(state._replace(theta=unfitted), transition, jax.random.key(0))
    literal, _ = hd.online.one_step(problem).step(
        hd.online.one_step(problem).init(case.weights, case.hparams, batch), transition, None
    )
    assert_close(before.second_order, literal.second_order, 1e-12)  # no bound, or one far away
    fitted = RobustSize(jnp.asarray(1.0), 0.1 * optax.tree.norm(literal.second_order))
    after, _ = estimator.step(state._replace(theta=fitted), transition, jax.random.key(0))
    assert_close(after.second_order, 0.05 * literal.second_order, 1e-12)


@pytest.mark.parametrize("trust", [1e-3, 1e9])
def test_a_product_that_overflows_is_left_out_of_the_means(trust):
    case = quadratic("sgd", horizon=HORIZON)
    estimator = hd.online.robust_hyperdistill(case.problem, gamma=0.0, trust=trust)
    one_step = hd.online.one_step(case.problem)
    state = estimator.init(case.weights, case.hparams, case.batches[0])
    parts, products = [], []
    for outer in (1.0, jnp.inf, -3.0):
        outer_batch = outer * case.outer_batch
        transition = hd.Transition(
            case.weights, case.weights, case.hparams, case.batches[0], outer_batch
        )
        hyper, state = estimator.step(state, transition, jax.random.key(0))
        parts.append(hyper.second_order)
        v, _ = one_step.step(one_step.init(*transition[1:4]), transition, None)
        products.append(v.second_order)
    first, last = products[0], products[2]
    mean = (0.65 * first + last) / 1.65
    length = (0.65 * np.linalg.norm(first) + np.linalg.norm(last)) / 1.65
    for u, m, agreement in (
        (parts[0], first, 1),
        (parts[1], first, 1),
        (parts[2], mean, np.linalg.norm(mean) / length),
    ):
        longest = trust * agreement**2 * np.linalg.norm(case.hparams)  # g^FO = λ
        assert_close(u, m * min(1, longest / np.linalg.norm(m)), 1e-12)


@pytest.mark.parametrize("trust", [0, -1.0, float("inf"), float("nan"), "1", True])
def test_trust_is_checked(trust):
    with pytest.raises(ValueError, match="trust="):
        hd.online.robust_hyperdistill(quadratic().problem, trust=trust)


MOMENTUM = 0.9


def scaled_regression(key):
    """A linear regression on λ∘x whose largest curvature is 0.5 to 1.05 of SGD's limit.

    λ is between 10⁻² and 10² by coordinate; Φ's limit is 2(1+μ)/η.
    """
    keys = jax.random.split(key, 5)
    hparams = 10.0 ** jax.random.uniform(keys[0], (3,), minval=-2.0, maxval=2.0)
    x = jax.random.normal(keys[1], (2, 8, 3)) / hparams[None, None]
    features = x[0] * hparams[None]
    largest = jnp.linalg.eigvalsh(2 * features.T @ features / 8)[-1]
    limit = 2 * (1 + MOMENTUM) / LEARNING_RATE
    share = jax.random.uniform(keys[2], minval=0.5, maxval=1.05)
    x = x * jnp.sqrt(share * limit / largest)
    y = jax.random.normal(keys[3], (2, 8))
    return hparams, jax.random.normal(keys[4], (3,)), (x, y)


def with_any_size(estimator):
    """The estimator with no fit refused."""
    return estimator._replace(fit=estimator.fit._replace(theta_of=lambda theta: jnp.ones(())))


@functools.cache
def stress(horizon, batch, method, count=50, outer_steps=5):
    """Tells whether λ and w_T stay finite over a few inner optimisations of each random problem."""

    def loss(params, hparams, data):
        x, y = data
        return jnp.mean((x @ (hparams * params) - y) ** 2)

    optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    problem = hd.from_losses(loss, loss, optimizer)
    estimator = {
        "exact": lambda: hd.online.reverse_mode(problem, window=horizon),
        "pass": lambda: functools.partial(hd.offline.reverse_mode, window=30),
        "robust": lambda: hd.online.robust_hyperdistill(problem),
        "literal": lambda: with_any_size(hd.online.hyperdistill(problem)),
    }[method]()

    def draw(half, key, task):
        index = jnp.arange(8) if batch == 8 else jax.random.randint(key, (batch,), 0, 8)
        return task[0][half][index], task[1][half][index]

    built = hd.learner(
        problem,
        estimator,
        hyper_optimizer=optax.adam(0.05),
        initialization=hd.reptile(0.5),
        horizon=horizon,
        **({"every": 1} if method == "pass" else {"fit_period": 2}),
        nonfinite="take",  # so that the learner saves no method from itself
        sample_inner=functools.partial(draw, 0),
        sample_outer=functools.partial(draw, 1),
    )

    @jax.jit
    @jax.vmap
    def run(key):
        hparams, params, task = scaled_regression(key)
        state = built.init(
            jax.random.key(0), hparams, hd.InnerState(params, optimizer.init(params))
        )
        tasks = jax.tree.map(lambda x: x[None], task)
        state, _ = jax.lax.scan(
            lambda s, _: (built.pure_step(s, tasks)[0], None), state, None, outer_steps
        )
        return optax.tree.norm((state.hparams, state.weights.params))

    return np.isfinite(run(jax.random.split(jax.random.key(batch), count)))


@pytest.mark.parametrize("horizon, batch", [(1, 8), (20, 1)])
def test_stays_finite_wherever_exact_reverse_mode_does(horizon, batch):
    exact, robust = (stress(horizon, batch, method) for method in ("exact", "robust"))
    assert exact.sum() >= 25  # or there would be little to compare
    assert robust[exact].all()
    if horizon == 20:  # the problems are hard enough
        assert not stress(horizon, batch, "literal")[exact].all()
        assert stress(horizon, batch, "pass").all()
