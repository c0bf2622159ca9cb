"""Arrays spread over devices by an explicit mesh (`jax.make_mesh`'s default)."""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def on_auto_axes(function, *arguments):
    """`function(*arguments)`, with how each value inside is spread left to the compiler.

    On a mesh with explicit axes JAX asks for the sharding of every ambiguous operation, which the
    user's functions and ours do not say. What comes back is the same on all devices.
    """
    meshes = {jax.typeof(x).sharding.mesh for x in jax.tree.leaves(arguments)}
    explicit = [mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types]
    if not explicit:
        return function(*arguments)
    mesh = explicit[0]
    axes = tuple(
        name for name, kind in zip(mesh.axis_names, mesh.axis_types) if kind == AxisType.Explicit
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=everywhere)(*arguments)
