"""The image models' hypergradients, on small instances in float64, against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill.models.anil import Anil
from hdistill.models.metaweightnet import MetaWeightNet, _weighted
from hdistill.models.warpgrad import WarpGrad
from tests.problems import Case


def small(model_class, horizon=2, batch=3) -> Case:
    """The model with 2 channels, 3 ways and 8x8 images (16x16 for ANIL's fourth block)."""
    model = model_class(ways=3, channels=2)
    optimizer = optax.sgd(0.05, momentum=0.9)
    size = 16 if model_class is Anil else 8
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(horizon + 1, batch, size, size, 3)))
    labels = jnp.asarray(rng.integers(0, 3, (horizon + 1, batch)))
    hparams, params = jax.tree.map(
        lambda x: x.astype(jnp.float64), jax.jit(model.init)(jax.random.key(1), images[0])
    )
    batches, outer = (images[:-1], labels[:-1]), (images[-1], labels[-1])
    problem = hd.from_losses(model.inner_loss, model.outer_loss, optimizer)
    return Case(problem, hparams, hd.InnerState(params, optimizer.init(params)), batches, outer)


@pytest.mark.parametrize("model_class", [Anil, WarpGrad, MetaWeightNet])
@pytest.mark.filterwarnings("ignore::hdistill.ZeroHypergradientWarning")
def test_exact_hypergradients_of_the_model_equal_differences(model_class):
    case = small(model_class)
    problem, hparams, weights, batches, outer_batch = case
    exact = hd.offline.reverse_mode(*case)

    @jax.jit
    def value(h):
        return problem.outer_loss(hd.unroll(problem, h, weights, batches), h, outer_batch)

    rng, step = np.random.default_rng(1), 1e-6
    for _ in range(3):
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), hparams)
        ahead, behind = (
            value(optax.tree.add_scale(hparams, by, direction)) for by in (step, -step)
        )
        slope = (ahead - behind) / (2 * step)
        along, first_order = (
            optax.tree.vdot(term, direction) for term in (exact.total, exact.first_order)
        )
        np.testing.assert_allclose(along, slope, rtol=1e-5)
        assert abs(first_order - slope) > 1e-2 * abs(slope)  # without g^SO it would not do


def test_weights_are_constants_of_the_gradient_and_not_of_its_derivative():
    def slope(h, loss):  # weight h·loss², so that the gradient is that and not 3 h·loss²
        return jax.grad(lambda x: _weighted(lambda h, x: h * x**2, h, x))(loss)

    h, loss = jnp.asarray(0.7), jnp.asarray(1.3)
    np.testing.assert_allclose(slope(h, loss), h * loss**2)
    np.testing.assert_allclose(jax.grad(slope, (0, 1))(h, loss), [loss**2, 2 * h * loss])


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameter_counts():
    """At the paper's sizes; a block has a kernel, and batch norm's scale and bias."""
    images = jnp.zeros((2, 32, 32, 3), jnp.float32)

    def block(inputs, channels=32):
        return 9 * inputs * channels + 2 * channels

    def sizes(model):
        return [count(tree) for tree in jax.eval_shape(model.init, jax.random.key(0), images)]

    assert sizes(Anil()) == [block(3) + 2 * block(32), block(32) + 2 * 2 * 32 * 10 + 10]
    classifier = block(3) + 2 * block(32) + 4 * 4 * 32 * 10 + 10
    assert sizes(WarpGrad()) == [6 * block(32), classifier]
    assert sizes(MetaWeightNet()) == [200 + 200 + 200 + 1, classifier]


def test_weights_of_examples_are_bounded():
    model = MetaWeightNet(ways=3, channels=2)
    hparams, _ = jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, 16, 16, 3)))
    weights = model.weights(hparams, jnp.linspace(0, 50, 20))
    assert weights.shape == (20,) and (weights >= 0.1).all() and (weights <= 1).all()
