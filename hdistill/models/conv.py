"""A 3x3 convolution whose gradients of every order are fast, also inside `lax.scan`.

JAX writes the gradients of `lax.conv` as convolutions that XLA runs as plain loops on a CPU (jax
issue 12868). Here the convolution and its gradient in the kernel are two primitives, both bilinear;
what one of them needs for its derivatives is one of the two again. Each has two forms: XLA's own
convolution for float32 on a CPU, nine slices and one matrix product elsewhere, for arrays of an
Explicit mesh, and forwards for tiny images. Both are measured by
`python -m experiments.bench.images` (RESULTS.md, bench/images).

The precision of products (`jax.default_matmul_precision`) is that of the place where the program is
lowered, not of the line that calls `conv3x3`: set it for the whole program.
"""

import functools
import math

import jax
import jax.extend
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from hdistill.devices import vary_like

# A leading axis of tasks has a kernel for each: what `vmap` over tasks makes of a convolution.
convolution_p = jax.extend.core.Primitive("conv3x3")  # [T, B, H, W, C], [T, 3, 3, C, O]
kernel_gradient_p = jax.extend.core.Primitive("conv3x3_kernel_gradient")  # x, [T, B, H, W, O]

PADDING = ((1, 1), (1, 1))
CACHE = 2**20  # bytes of examples and their cotangents in one piece; a CPU's L2 holds them


def conv3x3(x, kernel):
    """3x3 convolution, stride 1, zero padding.

    Examples:
      >>> from hdistill.models.conv import conv3x3
      >>> conv3x3(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)))[0, 1, 1, 0]
      Array(18., dtype=float32)

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C, O], as `lax.conv` with NHWC and HWIO takes it; dtypes are promoted.

    Returns:
      [B, H, W, O].

    Raises:
      ValueError: other shapes.
    """
    if jnp.ndim(x) != 4 or jnp.shape(kernel)[:-1] != (3, 3, jnp.shape(x)[-1]):
        shapes = f"x has shape {jnp.shape(x)}, kernel {jnp.shape(kernel)}"
        raise ValueError(f"{shapes}: expected [B, H, W, C] and [3, 3, C, O]")
    dtype = jnp.result_type(x, kernel)
    x, kernel = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
    if any((*jax.typeof(x).sharding.spec, *jax.typeof(kernel).sharding.spec)):
        return convolution_by_slices(x[None], kernel[None])[0]
    x, kernel = vary_like((x, kernel), (x, kernel))
    return convolution_p.bind(x[None], kernel[None])[0]


def turned(kernel):
    """[T, 3, 3, C, O] -> [T, 3, 3, O, C], turned by half: the kernel of the gradient in x."""
    # Behind a barrier: XLA folds a lax.rev into the convolution, which is then a plain loop.
    return jax.lax.optimization_barrier(jax.lax.rev(kernel, (1, 2)).swapaxes(-1, -2))


def convolution_by_slices(x, kernel):
    """The convolution as one matrix product over nine shifted copies."""
    tasks, _, _, channels, out = kernel.shape
    product = _nine_slices(x) @ kernel.reshape(tasks, 9 * channels, out)
    return product.reshape(*x.shape[:-1], out)


def kernel_gradient_by_slices(x, cotangent):
    """The same for the gradient in the kernel."""
    tasks, out = x.shape[0], cotangent.shape[-1]
    cotangent = cotangent.reshape(tasks, math.prod(cotangent.shape[1:4]), out)
    product = _nine_slices(x).swapaxes(-1, -2) @ cotangent
    return product.reshape(tasks, 3, 3, x.shape[-1], out)


def _nine_slices(x):
    """[T, B·H·W, 9·C]."""
    tasks, examples, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    wide = jnp.concatenate(shifted, axis=-1)
    return wide.reshape(tasks, examples * height * width, 9 * channels)


def _task_by_task(function):
    def of_all(*args):
        if args[0].shape[0] == 1:
            return function(*(a[0] for a in args))[None]
        return jax.lax.map(lambda task: function(*task), args)

    return of_all


def convolution_by_xla(x, kernel):
    """XLA's convolution; slices of images so small that XLA would run a plain loop."""
    small = any(isinstance(size, int) and size < 3 for size in x.shape[2:4])
    return (convolution_by_slices if small else _convolution)(x, kernel)


@_task_by_task
def _convolution(x, kernel):
    """For one task; for several neighbours of a row at a time if there are few channels.

    A CPU multiplies matrices of 32 columns or more at twice the rate of those of 16, so the
    kernels of neighbours lie side by side in one that is as much wider and takes longer strides.
    """
    together = _neighbours(x, kernel)
    if together == 1:  # filled up to eight channels, as XLA is slow with three
        lacking = max(0, 8 - x.shape[-1])
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, lacking)))
        return _lax_conv(x, jnp.pad(kernel, ((0, 0), (0, 0), (0, lacking), (0, 0))), PADDING)
    side_by_side = [
        jnp.pad(kernel, ((0, 0), (n, together - 1 - n), (0, 0), (0, 0))) for n in range(together)
    ]
    wide = jnp.concatenate(side_by_side, axis=-1)
    out = _lax_conv(x, wide, PADDING, strides=(1, together))
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def _neighbours(x, kernel):
    """The number, from measurements (RESULTS.md, bench/images); they must divide the width."""
    width, channels = x.shape[-2:]
    out = kernel.shape[-1]
    if not isinstance(width, int) or out == 0:  # an exported program leaves the width open
        return 1
    columns = 64 if channels < 8 else 32  # the wider kernel costs less where channels are few
    return math.gcd(max(1, min(8, columns // out)), width)


@_task_by_task
def kernel_gradient_by_xla(x, cotangent):
    """XLA's convolution with the examples for channels, of as many as fit the cache at a time."""
    examples = x.shape[0]
    most = _examples_in_a_piece(x, cotangent)
    if examples <= most:
        return _kernel_gradient(x, cotangent)
    lacking = -examples % most  # filled up with zeros, whose gradient is zero
    cut = [
        jnp.pad(a, ((0, lacking), (0, 0), (0, 0), (0, 0))).reshape(-1, most, *a.shape[1:])
        for a in (x, cotangent)
    ]

    def add(total, piece):
        return total + _kernel_gradient(*piece), None

    zeros = jnp.zeros((3, 3, x.shape[-1], cotangent.shape[-1]), x.dtype)
    return jax.lax.scan(add, vary_like(zeros, cut), cut)[0]


def _examples_in_a_piece(x, cotangent):
    """Even, as XLA is slow with an odd number of channels, and a divisor where one is near."""
    shape = x.shape + cotangent.shape
    if not all(isinstance(size, int) for size in shape) or 0 in shape:
        return x.shape[0]  # sizes that an exported program leaves open; nothing to cut
    pieces = -(-(x.nbytes + cotangent.nbytes) // CACHE)
    each = -(-x.shape[0] // pieces)
    each += each % 2
    whole = [n for n in range(2, each + 1, 2) if x.shape[0] % n == 0 and 2 * n >= each]
    return max(whole, default=each)


def _kernel_gradient(x, cotangent):
    x, cotangent = x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3)
    out = _lax_conv(x, cotangent, PADDING)
    return out.transpose(1, 2, 0, 3)


def _lax_conv(x, kernel, padding, strides=(1, 1)):
    layout = ("NHWC", "HWIO", "NHWC")  # the one that XLA does not run as a plain loop
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)


def _on_a_cpu(by_xla, by_slices, x, other):
    # Of other dtypes XLA's convolution is a plain loop; tasks that lie on the devices of an
    # Explicit mesh cannot be taken one by one.
    one_by_one = not any(jax.typeof(x).sharding.spec)
    return (by_xla if one_by_one and x.dtype == jnp.float32 else by_slices)(x, other)


def _batched(primitive, args, axes):
    """The new axis and that of the tasks in one."""
    size = next(a.shape[axis] for a, axis in zip(args, axes) if axis is not None)
    args = [batching.bdim_at_front(a, axis, size) for a, axis in zip(args, axes)]
    out = primitive.bind(*(a.reshape(-1, *a.shape[2:]) for a in args))
    return out.reshape(size, -1, *out.shape[1:]), 0


def _convolution_batched(args, axes):
    """With one kernel for all, the new axis is one of more examples."""
    x, kernel = args
    if axes[1] is not None:
        return _batched(convolution_p, args, axes)
    x = jnp.moveaxis(x, axes[0], 1)
    out = convolution_p.bind(x.reshape(x.shape[0], -1, *x.shape[3:]), kernel)
    return out.reshape(*x.shape[:-1], -1), 1


def _define(primitive, shape, batched, by_xla, by_slices):
    primitive.def_impl(by_slices)  # outside of jax.jit
    primitive.def_abstract_eval(
        lambda x, other: x.update(shape=shape(x.shape, other.shape), weak_type=False)
    )
    batching.primitive_batchers[primitive] = batched
    on_a_cpu = functools.partial(_on_a_cpu, by_xla, by_slices)
    for function, platform in ((by_slices, None), (on_a_cpu, "cpu")):
        lowering = mlir.lower_fun(function, multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)


_define(
    convolution_p,
    lambda x, kernel: (*x[:-1], kernel[-1]),
    _convolution_batched,
    convolution_by_xla,
    convolution_by_slices,
)
_define(
    kernel_gradient_p,
    lambda x, cotangent: (x[0], 3, 3, x[-1], cotangent[-1]),
    functools.partial(_batched, kernel_gradient_p),
    kernel_gradient_by_xla,
    kernel_gradient_by_slices,
)
# The rules' first argument is the cotangent of the output.
ad.defbilinear(
    convolution_p,
    lambda ct, x, kernel: convolution_p.bind(ct, turned(kernel)),
    lambda ct, x, kernel: kernel_gradient_p.bind(x, ct),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda ct, x, cotangent: convolution_p.bind(cotangent, turned(ct)),
    lambda ct, x, cotangent: convolution_p.bind(x, ct),
)
