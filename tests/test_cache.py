"""Un-jitted calls: compiled once for the same problem, batches, options and shapes; bounded."""

import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill import cache
from tests.problems import OFFLINE, quadratic

CASE = quadratic("sgd", horizon=3)
KEY = jax.random.key(0)


@contextlib.contextmanager
def compilations():
    """A list that grows by one with each program that XLA compiles."""
    compiled = []

    def listen(name, *_, **__):
        if "backend_compile" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def batch_at(t):
    return CASE.batches[t]


CALLS = {
    **{name: lambda m=method: m(*CASE) for name, method in OFFLINE.items()},
    "a batch function": lambda: hd.offline.drmad(*CASE[:3], batch_at, CASE.outer_batch, horizon=3),
    "every loss": lambda: hd.offline.reverse_mode(*CASE[:4], batch_at, every=1),
    "every loss, bent line": lambda: hd.offline.drmad(*CASE[:4], batch_at, every=1, anchors=2),
    "fit_size": lambda: hd.fit_size(*CASE, KEY),
    "unroll": lambda: hd.unroll(*CASE[:4]),
    "compare": lambda: hd.compare(CASE.problem, {}, *CASE[1:]),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_compiles_nothing(name):
    first = CALLS[name]()
    with compilations() as compiled:
        second = CALLS[name]()
    assert compiled == []
    if name != "compare":  # which has seconds in it
        jax.tree.map(np.testing.assert_array_equal, first, second)


def test_another_option_shape_or_function_is_another_program():
    def call(t=0, **options):
        return hd.offline.reverse_mode(*CASE[:3], CASE.batches[t:], CASE.outer_batch, **options)

    call()
    for variation in ({"window": 1}, {"t": 1}, {"checkpoint": True, "window": 1}):
        with compilations() as compiled:
            call(**variation)
        assert compiled
    wrapped = CASE.problem._replace(update=lambda w, h, d: CASE.problem.update(w, h, 2 * d))
    doubled = hd.offline.reverse_mode(wrapped, *CASE[1:])
    assert np.abs(doubled.total - call().total).max() > 1e-3


def test_another_setting_compiles_again():
    case = quadratic("sgd", horizon=3, dtype=jnp.float32)
    with jax.enable_x64(False):
        single = hd.offline.reverse_mode(*case).total
    with jax.default_matmul_precision("float32"), compilations() as compiled:
        hd.offline.reverse_mode(*case)
    assert compiled and single.dtype == jnp.float32


def test_the_cache_is_bounded_and_can_be_cleared():
    problem = hd.Problem(lambda w, h, d: w - h, lambda w, h, d: jnp.sum(w**2))
    for _ in range(cache.SIZE + 3):
        x = jnp.ones(2)
        hd.offline.one_step(problem, x, x, lambda t: None, None, horizon=1)  # a fresh lambda
    assert cache._program.cache_info().currsize == cache.SIZE
    hd.clear_cache()
    assert cache._program.cache_info().currsize == 0


def test_functions_without_a_hash_are_distinguished_by_identity():
    class Update:
        __hash__ = None

        def __init__(self, rate):
            self.rate = rate

        def __eq__(self, other):
            return True

        def __call__(self, w, h, d):
            return w - self.rate * h

    def slope(rate):
        problem = hd.Problem(Update(rate), lambda w, h, d: jnp.sum(w))
        return hd.offline.one_step(problem, jnp.ones(()), jnp.ones(()), None, None, horizon=1).total

    assert (slope(0.5), slope(0.25)) == (-0.5, -0.25)


def test_inside_a_compilation_it_is_part_of_that_program():
    before = cache._program.cache_info().currsize
    jax.jit(lambda h: hd.offline.drmad(CASE.problem, h, *CASE[2:]).total)(CASE.hparams)
    assert cache._program.cache_info().currsize == before


def test_under_grad_and_vmap_it_is_compiled_once_too():
    def total(h):
        return jnp.sum(hd.offline.one_step(CASE.problem, h, *CASE[2:]).total)

    def both():
        rows = jax.vmap(total)(jnp.stack([CASE.hparams] * 2))
        return jax.grad(total)(CASE.hparams), rows

    both()
    with compilations() as compiled:
        gradient, rows = both()
    assert compiled == [] and gradient.shape == (3,) and rows.shape == (2,)


SCALE = 1.0
DATA = np.ones(3)


class Model:
    """An object whose method is a loss."""

    def __init__(self):
        self.scale = 1.0

    def loss(self, w, h, batch):
        return self.scale * jnp.sum((w - DATA) ** 2) * h


def written_in_place():
    DATA[:] += 1


def test_what_a_function_reads_may_change_between_two_calls(monkeypatch):
    """Globals, closed-over names, an object's attributes, an array written in place."""
    model, closed = Model(), 1.0

    def update(w, h, batch):
        return w - 0.1 * closed * SCALE * jax.grad(model.loss)(w, h, batch)

    problem = hd.Problem(update, model.loss)

    def call(how):
        return how(jnp.ones(()))

    def hypergradient(h):
        return hd.offline.one_step(problem, h, jnp.zeros(3), None, None, horizon=2).total

    def check():
        fresh = jax.jit(lambda h: hypergradient(h))
        np.testing.assert_allclose(call(hypergradient), call(fresh), rtol=1e-14)
        return float(call(hypergradient))

    seen = [check()]
    monkeypatch.setattr(f"{__name__}.SCALE", 3.0)
    seen.append(check())
    closed = 0.5
    seen.append(check())
    model.scale = 2.0
    seen.append(check())
    with compilations() as compiled:
        assert float(call(hypergradient)) == seen[-1]
    assert compiled == []
    written_in_place()
    seen.append(float(call(hypergradient)))
    assert len(set(seen)) == 5


def test_what_the_losses_of_from_losses_read_may_change_too(monkeypatch):
    optimizer, params = optax.sgd(0.25), jnp.zeros(3)
    weights = hd.InnerState(params, optimizer.init(params))
    problem = hd.from_losses(
        lambda w, h, batch: SCALE * h * jnp.sum(w), lambda w, h, batch: jnp.sum(w), optimizer
    )
    for scale in (1.0, 3.0):
        monkeypatch.setattr(f"{__name__}.SCALE", scale)
        g = hd.offline.reverse_mode(problem, jnp.ones(()), weights, None, None, horizon=2)
        assert g.total == -scale * 0.25 * 3 * 2
        end = problem.update(weights, jnp.ones(()), None)
        np.testing.assert_array_equal(end.params, jnp.full(3, -0.25 * scale))


def test_a_call_makes_no_array_on_the_host():
    hparams, weights, batches, outer_batch = CASE[1:]
    hd.offline.drmad(*CASE)
    with jax.transfer_guard("disallow"):
        hd.offline.drmad(CASE.problem, hparams, weights, batches, outer_batch)


def test_under_vmap_nothing_is_kept():
    hd.clear_cache()

    def one(scale):
        scaled = CASE.problem._replace(
            outer_loss=lambda w, h, v: scale * CASE.problem.outer_loss(w, h, v)
        )
        return hd.offline.one_step(scaled, *CASE[1:]).total

    with jax.checking_leaks():
        mapped = jax.vmap(one)(jnp.arange(1.0, 3.0))
    np.testing.assert_allclose(mapped[1], 2 * mapped[0], rtol=1e-12)
    assert cache._program.cache_info().currsize == 0


class Config:
    rate = 1.0


HELPERS = {"f": lambda x: 0.9 * x}
LOG: list = []


def test_helpers_objects_and_partials_are_read_too_and_what_is_written_is_not():
    options = types.SimpleNamespace(rate=1.0)
    module = types.ModuleType("settings")
    module.rate = 1.0
    calls = 0

    def update(w, h, batch):
        nonlocal calls
        calls += 1
        LOG.append(calls)
        rate = options.rate * Config.rate * module.rate
        return w - 0.1 * h * rate * (w - HELPERS["f"](batch))

    problem = hd.Problem(update, lambda w, h, batch: jnp.sum((w - 2) ** 2))
    data = jnp.ones((3, 2))

    def read(data, t):
        return data[t] * options.rate

    def call():
        batches = jax.tree_util.Partial(read, data)
        case = problem, jnp.ones(()), jnp.zeros(2), batches, None
        return float(hd.offline.reverse_mode(*case, horizon=3).total)

    seen = [call()]
    before = calls
    assert call() == seen[0] and calls == before  # neither the counter nor the log is data
    changes = [
        lambda: HELPERS.update(f=lambda x: 0.5 * x),
        lambda: setattr(options, "rate", 2.0),
        lambda: setattr(Config, "rate", 0.5),
        lambda: setattr(module, "rate", 3.0),
    ]
    for change in changes:
        change()
        seen.append(call())
    assert len(set(seen)) == 5
    Config.rate = 1.0


def test_odd_values_that_functions_name_do_no_harm():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    large = 10**5000

    class Shy:
        def __getattr__(self, name):
            raise RuntimeError(name)

        def __call__(self, w, h, batch):
            return jnp.sum(w * h)

    shy = Shy()

    def update(w, h, batch):
        return w - 0.1 * h * bool(deep) * bool(large) * w

    problem = hd.Problem(update, lambda w, h, batch: shy(w, h, batch))
    hd.offline.one_step(problem, jnp.ones(()), jnp.ones(2), None, None, horizon=2)
