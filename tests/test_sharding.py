"""Weights over devices: the numbers of one device, a share of its memory, nothing gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import hdistill as hd
from hdistill import training
from tests.problems import assert_close

RNG = np.random.default_rng(0)
WIDTH, STEPS, DEVICES = 128, 8, 4
INPUTS, TARGETS = RNG.normal(size=(STEPS, 32, 16)), RNG.normal(size=(STEPS, 32, 4))
PARAMS = {"in": RNG.normal(size=(16, WIDTH)) / 4, "out": RNG.normal(size=(WIDTH, 4)) / 10}
SPLIT = {"in": PartitionSpec(None, "model"), "out": PartitionSpec("model", None)}
LAM, OUTER = jnp.array(-3.0), (INPUTS[0], TARGETS[0])


def fit(params, hparams, batch):
    return jnp.mean((jnp.tanh(batch[0] @ params["in"]) @ params["out"] - batch[1]) ** 2)


def loss(params, hparams, batch):
    decay = jnp.exp(hparams) * sum(jnp.sum(x**2) for x in params.values())
    return fit(params, hparams, batch) + decay


OPTIMIZER = optax.sgd(0.05, momentum=0.9)
PROBLEM = hd.from_losses(loss, fit, OPTIMIZER)


def start(split: bool) -> hd.InnerState:
    params = jax.tree.map(jnp.asarray, PARAMS)
    if split:
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((DEVICES,), ("model",), axis_types=auto)
        params = {k: jax.device_put(x, NamedSharding(mesh, SPLIT[k])) for k, x in params.items()}
    return hd.InnerState(params, OPTIMIZER.init(params))


def is_split(tree) -> bool:
    leaves = [x for x in jax.tree.leaves(tree) if x.ndim]
    shares = [x.addressable_shards[0].data.size * DEVICES == x.size for x in leaves]
    return bool(shares) and all(shares)


@pytest.mark.parametrize("how", [{}, {"checkpoint": True}, {"snapshots": 3}])
def test_a_program_s_memory_is_a_share(how):
    @jax.jit
    def call(hparams, weights, batches, outer_batch):
        arguments = PROBLEM, hparams, weights, batches, outer_batch
        return hd.offline.reverse_mode(*arguments, return_info=True, **how)

    results, memory, texts = [], [], []
    for split in (False, True):
        given = LAM, start(split), (INPUTS, TARGETS), OUTER
        compiled = call.lower(*given).compile()
        results.append(compiled(*given))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
        texts.append(compiled.as_text())
    (g, info), (of_one, info_of_one) = results[1], results[0]
    assert_close(g, of_one, 1e-12)
    assert_close(info.weights.params, info_of_one.weights.params, 1e-12)
    assert is_split(info.weights.params) and is_split(info.start.params)
    assert memory[1] < 1.2 * memory[0] / DEVICES
    assert "all-gather" not in texts[1]


def test_the_host_s_loop_puts_weights_where_they_were(tmp_path):
    def batch_at(t):
        return INPUTS[t], TARGETS[t]

    def call(split):
        arguments = PROBLEM, LAM, start(split), batch_at, OUTER
        how = {"horizon": STEPS, "segment": 3, "return_info": True}
        return training.reverse_mode(*arguments, folder=tmp_path / str(split), **how)

    (g, info), (of_one, _) = call(True), call(False)
    assert_close(g, of_one, 1e-12)
    assert is_split(info.weights.params) and is_split(info.start.params)
