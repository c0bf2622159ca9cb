"""Tasks or batches spread over host devices, in every way JAX has, give one device's numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hdistill as hd
from tests.problems import SAMPLERS, assert_close, data_problem, make_tasks


def test_any_number_of_devices():
    problem, hparams, weights = data_problem()
    built = hd.learner(
        problem, hd.online.one_step(problem), hyper_optimizer=optax.sgd(0.1), horizon=2
    )
    results = []
    for count in (1, 2, 4):
        step = hd.pmap_step(built, jax.devices()[:count])
        state, _ = step(built.init(jax.random.key(0), hparams, weights), make_tasks(4))
        results.append(state.hparams)
    assert_close(results[1], results[0], 1e-12)
    assert_close(results[2], results[0], 1e-12)


def test_the_second_step_compiles_nothing():
    problem, hparams, weights = data_problem()
    traces = []

    def sample(key, task):
        traces.append(1)
        return task[0]

    estimator, rule = hd.online.first_order(problem), optax.sgd(0.1)
    built = hd.learner(problem, estimator, hyper_optimizer=rule, horizon=2, sample_inner=sample)
    step = hd.pmap_step(built, jax.devices()[:2])
    state, _ = step(built.init(jax.random.key(0), hparams, weights), make_tasks(2))
    before = len(traces)
    step(state, make_tasks(2))
    assert len(traces) == before


MESHES = {
    kind.name: jax.make_mesh((2,), ("tasks",), axis_types=(kind,), devices=jax.devices()[:2])
    for kind in (AxisType.Auto, AxisType.Explicit)
}
SPREAD = PartitionSpec("tasks")


def over_a_mesh(built, check_vma):
    """The pure step in `jax.shard_map`, the state on every device."""
    step = functools.partial(built.pure_step, axis_name="tasks")
    specs = {"in_specs": (PartitionSpec(), SPREAD), "out_specs": PartitionSpec()}
    return jax.jit(jax.shard_map(step, mesh=MESHES["Auto"], check_vma=check_vma, **specs))


def by_vmap(built):
    """The pure step with a mapped axis that is no device's."""
    step = functools.partial(built.pure_step, axis_name="tasks")
    mapped = jax.jit(jax.vmap(step, axis_name="tasks", in_axes=(None, 0), out_axes=None))
    return lambda state, tasks: mapped(
        state, jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), tasks)
    )


def with_sharding(built, kind):
    """The compiled step as it is, of tasks that lie on two devices."""
    sharding = NamedSharding(MESHES[kind], SPREAD)
    return lambda state, tasks: built.step(state, jax.device_put(tasks, sharding))


WAYS = {
    "pmap": lambda built: hd.pmap_step(built, jax.devices()[:2]),
    "shard_map": functools.partial(over_a_mesh, check_vma=True),
    "shard_map, unchecked": functools.partial(over_a_mesh, check_vma=False),
    "vmap": by_vmap,
    "Auto": functools.partial(with_sharding, kind="Auto"),
    "Explicit": functools.partial(with_sharding, kind="Explicit"),
}
SPREAD_METHODS = {
    "hyperdistill": (lambda problem: hd.online.hyperdistill(problem, gamma=0.9), 2),
    "forward_mode": (hd.online.forward_mode, 1),
    "drmad, every loss": (lambda problem: functools.partial(hd.offline.drmad, anchors=2), 1),
}
# All but forward mode compile for seconds: the ways that differ most.
PAIRS = [("hyperdistill", "Explicit"), ("drmad, every loss", "shard_map")]
PAIRS += [("forward_mode", way) for way in WAYS if way != "Explicit"]


@pytest.fixture(scope="module")
def on_one_device(request):
    """(learner, step -> (state, info) after two steps, those on one device)."""
    problem, hparams, weights = data_problem()
    method, every = SPREAD_METHODS[request.param]
    built = hd.learner(
        problem,
        method(problem),
        hyper_optimizer=optax.sgd(0.05, momentum=0.9),
        initialization=hd.fomaml(optax.sgd(0.01)),
        horizon=4,
        every=every,
        **SAMPLERS,
    )
    tasks = make_tasks(4)

    def run(step):
        state = built.init(jax.random.key(0), hparams, weights)
        for _ in range(2):
            state, info = step(state, tasks)
        return state._replace(key=None), info

    return built, run, run(built.step)


@pytest.mark.parametrize("on_one_device, way", PAIRS, indirect=["on_one_device"])
def test_every_way_to_spread_tasks(way, on_one_device):
    built, run, expected = on_one_device
    for actual, wanted in zip(jax.tree.leaves(run(WAYS[way](built))), jax.tree.leaves(expected)):
        np.testing.assert_allclose(np.asarray(actual), np.asarray(wanted), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["Explicit"])
def test_a_stream_whose_batch_is_spread(kind):
    problem, hparams, weights = data_problem()
    built = hd.stream(
        problem, hd.online.hyperdistill(problem), hyper_optimizer=optax.sgd(0.05), steps=2
    )
    task = jax.tree.map(lambda x: x[0], make_tasks(1))

    def run(task):
        state = built.init(jax.random.key(0), hparams, weights, task)
        for _ in range(2):
            state, info = built.step(state, task)
        return state.hparams, state.weights, info

    spread = jax.device_put(task, NamedSharding(MESHES[kind], SPREAD))
    for actual, wanted in zip(jax.tree.leaves(run(spread)), jax.tree.leaves(run(task))):
        np.testing.assert_allclose(np.asarray(actual), np.asarray(wanted), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", [hd.offline.reverse_mode, hd.offline.drmad])
def test_an_hparams_that_is_spread_stays_so(method):
    """A decay for each of eight weights, half of them on each device."""

    def outer_loss(w, lam, batch):
        return 0.5 * jnp.sum((w - batch) ** 2)

    def inner_loss(w, lam, batch):
        return outer_loss(w, lam, batch) + 0.5 * jnp.sum(jnp.exp(lam) * w**2)

    optimizer = optax.sgd(0.1, momentum=0.5)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    hparams, params = jnp.linspace(-1.0, 1.0, 8), jnp.linspace(0.0, 1.0, 8)
    batches = jnp.cos(jnp.arange(32.0)).reshape(4, 8)

    @jax.jit
    def hypergradient(hparams, params):
        weights = hd.InnerState(params, optimizer.init(params))
        return method(problem, hparams, weights, batches, params).total

    sharding = NamedSharding(MESHES["Auto"], SPREAD)
    spread = hypergradient(*jax.device_put((hparams, params), sharding))
    assert spread.sharding.is_equivalent_to(sharding, 1)
    np.testing.assert_allclose(np.asarray(spread), hypergradient(hparams, params), rtol=1e-12)
