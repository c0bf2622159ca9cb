"""Un-jitted calls: compiled once for the same problem, batches, options and shapes; bounded."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
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
