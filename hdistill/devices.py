"""Arrays on several devices: meshes, mapped axes, placing and splitting."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


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


def vary_like(tree, reference):
    """The tree, marked as varying over the device axes over which some leaf of `reference` varies.

    Under `jax.shard_map` the gradient of a value that is the same on all devices is summed over
    them, and a scan's carry must not begin to vary on the way. Elsewhere this is `tree` itself.
    """
    axes = frozenset().union(*map(_varying, jax.tree.leaves(reference)))

    def cast(leaf):
        lacking = axes - _varying(leaf)
        return jax.lax.pcast(leaf, tuple(lacking), to="varying") if lacking else leaf

    return jax.tree.map(cast, tree) if axes else tree


def _varying(leaf) -> frozenset:
    """The device axes over which an array varies; JAX's name for them depends on its version."""
    kind = jax.typeof(leaf)
    kind = getattr(kind, "manual_axis_type", kind)
    return getattr(kind, "varying", getattr(kind, "vma", frozenset()))


def check_devices(devices) -> list:
    """The devices; a ValueError where they are no list of some, each once."""
    listed = isinstance(devices, list | tuple) and devices
    if not (listed and all(isinstance(d, jax.Device) for d in devices)):
        raise ValueError(f"devices={devices!r}: expected None or a list, such as jax.devices()")
    if len(set(devices)) < len(devices):
        raise ValueError(f"devices={devices!r}: expected each device once")
    return list(devices)


def everywhere(devices, tree):
    """The tree, the same on each of the devices."""
    return jax.device_put(tree, NamedSharding(Mesh(np.array(devices), "tasks"), PartitionSpec()))


def scattered(devices, tree):
    """The tree, its leading axis split over the devices."""
    mesh = Mesh(np.array(devices), "tasks")
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("tasks")))


def split_over(devices, function):
    """`function(λ, φ, tasks, keys)` of tasks side by side, split over the devices."""
    mapped = jax.pmap(function, in_axes=(None, None, 0, 0), devices=devices)

    def call(hparams, weights, tasks, keys):
        split = jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), (tasks, keys))
        together = mapped(hparams, weights, *split)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), together)

    return call
