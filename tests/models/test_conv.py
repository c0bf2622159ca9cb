"""The convolution and its gradients, in each form, against XLA's own and JAX's own rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from experiments.bench.peers.sides.jax_model import lax_conv
from hdistill.models import conv
from hdistill.models.conv import conv3x3
from tests.problems import assert_close

FORMS = {
    "xla": (conv.convolution_by_xla, conv.kernel_gradient_by_xla),
    "slices": (conv.convolution_by_slices, conv.kernel_gradient_by_slices),
}


def arrays(*shapes, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(  # 1, 2 and 8 neighbours; so small that slices are taken
    "tasks, channels, height, width",
    [(1, 3, 7, 5), (3, 3, 7, 6), (3, 9, 7, 8), (1, 3, 2, 2), (3, 2, 1, 5), (3, 2, 5, 1)],
)
def test_both_forms_of_both_primitives(form, tasks, channels, height, width, monkeypatch):
    monkeypatch.setattr(conv, "CACHE", 3000)  # several pieces of the examples
    convolution, kernel_gradient = FORMS[form]
    x, kernel, ct = arrays(
        (tasks, 5, height, width, channels),
        (tasks, 3, 3, channels, 4),
        (tasks, 5, height, width, 4),
    )

    @jax.jit
    def ours(x, kernel, ct):
        by_x = convolution(ct, conv.turned(kernel))
        return convolution(x, kernel), (by_x, kernel_gradient(x, ct))

    @jax.jit
    @jax.vmap
    def theirs(x, kernel, ct):
        y, pull = jax.vjp(lax_conv, x, kernel)
        return y, pull(ct)

    for one, other in zip(*(jax.tree.leaves(of(x, kernel, ct)) for of in (ours, theirs))):
        assert_close(one, other, 1e-12)


@pytest.mark.parametrize("examples, most", [(4, 4), (6, 2), (7, 4), (8, 4), (9, 4), (0, 0)])
def test_pieces_are_even_and_fit(examples, most, monkeypatch):
    monkeypatch.setattr(conv, "CACHE", 2 * 4 * 4 * 2 * 2 * 8)  # four examples and their cotangents
    x, ct = arrays((examples, 2, 2, 4), (examples, 2, 2, 4))
    assert conv._examples_in_a_piece(x, ct) == most


@pytest.mark.parametrize(
    "width, channels, out, together",
    [(16, 3, 16, 4), (32, 3, 32, 2), (8, 16, 16, 2), (8, 32, 32, 1), (9, 16, 16, 1), (8, 1, 1, 8)],
)
def test_neighbours_together(width, channels, out, together):
    x, kernel = arrays((2, 4, width, channels), (3, 3, channels, out))
    assert conv._neighbours(x, kernel) == together


def test_nested_vmaps_and_eager_calls():
    x, kernel = arrays((2, 3, 2, 5, 4, 3), (3, 3, 3, 3, 2))
    ours, theirs = (
        jax.vmap(jax.vmap(jax.grad(functools.partial(wave, c), (0, 1))), (0, None))
        for c in (conv3x3, lax_conv)
    )
    with jax.disable_jit():
        found = ours(x, kernel)
    for one, other in zip(found, theirs(x, kernel)):
        assert_close(one, other, 1e-12)


def test_dtypes_are_promoted_and_gradients_have_their_own():
    x, kernel = arrays((2, 5, 4, 3), (3, 3, 3, 2))
    images = (10 * jnp.abs(x)).astype(jnp.uint8)
    kernel = kernel.astype(jnp.float32)
    assert_close(conv3x3(images, kernel), lax_conv(images.astype(jnp.float32), kernel), 1e-5)
    gradient = jax.grad(functools.partial(wave, conv3x3), 1)(x, kernel)
    assert conv3x3(x, kernel).dtype == jnp.float64 and gradient.dtype == jnp.float32


@pytest.mark.parametrize("shape", [(3, 3, 4, 2), (5, 5, 3, 2), (3, 3, 3)])
def test_other_kernels_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[B, H, W, C\] and \[3, 3, C, O\]"):
        conv3x3(jnp.zeros((1, 4, 4, 3)), jnp.zeros(shape))


@pytest.mark.parametrize("shape", ["b, 4, 8, 3", "2, 4, w, 3"])
def test_an_exported_program_leaves_a_size_open(shape):
    x, kernel = arrays((2, 4, 8, 3), (3, 3, 3, 2), dtype=jnp.float32)
    gradients = jax.jit(jax.grad(functools.partial(wave, conv3x3), (0, 1)))
    size = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
    exported = jax.export.export(gradients, platforms=["cpu"])(size, kernel)
    for one, other in zip(exported.call(x, kernel), gradients(x, kernel)):
        assert_close(one, other, 1e-5)


@pytest.mark.parametrize("height, slices", [(2, True), (3, False)])
def test_small_images_are_taken_by_slices(height, slices):
    arguments = arrays((2, 5, height, 4, 3), (2, 3, 3, 3, 4), dtype=jnp.float32)
    program = str(jax.make_jaxpr(conv.convolution_by_xla)(*arguments))
    assert ("dot_general" in program, "conv_general_dilated" in program) == (slices, not slices)


@pytest.mark.parametrize("height", [2, 4])
@pytest.mark.parametrize("channels, out", [(0, 2), (3, 0)])
def test_no_channels(channels, out, height):
    x, kernel = arrays((2, height, 8, channels), (3, 3, channels, out), dtype=jnp.float32)
    for of in (conv3x3, jax.grad(functools.partial(wave, conv3x3))):
        assert not np.any(jax.jit(of)(x, kernel))


def wave(convolution, x, kernel):
    """A loss with derivatives of every order."""
    return jnp.sin(convolution(x, kernel)).sum()


def by_both(convolution, x, kernel):
    """‖∂wave‖², differentiated by both."""
    gradients = jax.grad(functools.partial(wave, convolution), (0, 1))
    return jax.grad(lambda *a: sum(jnp.sum(g**2) for g in gradients(*a)), (0, 1))(x, kernel)


def along(convolution, x, kernel):
    """A Hessian-vector product, forwards over backwards."""
    gradients = jax.grad(functools.partial(wave, convolution), (0, 1))
    return jax.jvp(gradients, (x, kernel), (jnp.cos(x), jnp.cos(kernel)))[1]


@pytest.mark.parametrize(
    "what, dtype, axes",
    [
        (by_both, jnp.float32, (0, 0)),
        (along, jnp.float32, None),
        (by_both, jnp.float64, None),
        (along, jnp.float64, (0, 0)),
        (by_both, jnp.float64, (None, 4)),
        (along, jnp.float64, (3, None)),
    ],
)
def test_derivatives_equal_those_of_lax_conv(what, dtype, axes):
    """float32 takes XLA's convolution on a CPU, float64 the nine slices; the oracle is float64."""
    x, kernel = arrays((2, 5, 4, 3), (3, 3, 3, 2))
    ours, theirs = (functools.partial(what, c) for c in (conv3x3, lax_conv))
    if axes:
        stack = [
            a if axis is None else jnp.stack([a, a**2, -a], axis)
            for a, axis in zip((x, kernel), axes)
        ]
        x, kernel = stack
        ours, theirs = jax.vmap(ours, axes), jax.vmap(theirs, axes)
    found = jax.jit(ours)(x.astype(dtype), kernel.astype(dtype))
    for ours_, theirs_ in zip(found, jax.jit(theirs)(x, kernel)):
        assert ours_.dtype == dtype
        rounding = 1e-12 if dtype == jnp.float64 else 1e-5
        assert_close(ours_.astype(jnp.float64), theirs_, rounding)


def test_forms_are_chosen_by_dtype():
    """That the test above sees both: XLA's convolution is in one program and not in the other."""
    x, kernel = arrays((2, 5, 4, 3), (3, 3, 3, 2), dtype=jnp.float32)
    texts = [
        jax.jit(conv3x3).lower(*(a.astype(t) for a in (x, kernel))).as_text()
        for t in (jnp.float32, jnp.float64)
    ]
    assert ["stablehlo.convolution" in text for text in texts] == [True, False]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_tasks_over_devices(kind):
    x, kernel = arrays((2, 2, 5, 4, 3), (2, 3, 3, 3, 2), dtype=jnp.float32)
    gradient = jax.vmap(jax.grad(functools.partial(wave, conv3x3), (0, 1)))
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(kind,), devices=jax.devices()[:2])
    spread = jax.device_put((x, kernel), jax.sharding.NamedSharding(mesh, PartitionSpec("tasks")))
    for found, expected in zip(jax.jit(gradient)(*spread), gradient(x, kernel)):
        assert_close(np.asarray(found), expected, 1e-5)


def test_images_over_devices_and_one_kernel(monkeypatch):
    """Under `jax.shard_map`, whose checks want to know what varies over the devices."""
    monkeypatch.setattr(conv, "CACHE", 1000)  # several pieces on each device
    x, kernel = arrays((6, 5, 4, 3), (3, 3, 3, 2), dtype=jnp.float32)
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    specs = {"in_specs": (PartitionSpec("tasks"), PartitionSpec()), "out_specs": PartitionSpec()}

    def local(x, kernel):
        return jax.lax.psum(wave(conv3x3, x, kernel), "tasks")

    spread = jax.shard_map(local, mesh=mesh, **specs)
    found, expected = (
        jax.jit(jax.grad(f, (0, 1)))(x, kernel) for f in (spread, functools.partial(wave, lax_conv))
    )
    for ours, theirs in zip(found, expected):
        assert_close(ours, theirs, 1e-5)
