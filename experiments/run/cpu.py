"""The use of a whole CPU: all its cores, and the width of its vectors."""

import contextlib
import os

import jax

SHORT_LOOPS = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"


def keep_short_loops() -> None:
    """Has XLA leave short loops as they are, those over 16 to 48 channels; for images.

    LLVM unrolls such a loop whole, and then takes the same channel of several pixels side by side,
    one load for each: simple loops are three to six times slower than with channels side by side,
    an inner step up to a sixth (RESULTS.md, bench/images). Flags of this kind that are set already
    stay, and a file of flags does; once JAX has begun it is too late.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    is_file = flags.strip() and not flags.strip().startswith("-")
    if "xla_backend_extra_options" not in flags and not is_file:
        os.environ["XLA_FLAGS"] = f"{flags} {SHORT_LOOPS}".strip()


def use_cores(tasks: int) -> None:
    """Shows a CPU as several devices: as many of its cores as divide the tasks of a meta-batch.

    XLA runs the small operations of an inner loop on one core, however many tasks are side by side
    (RESULTS.md, bench/images). Where the number is set already, or JAX has begun, it stays.
    """
    flags, option = os.environ.get("XLA_FLAGS", ""), "jax_num_cpu_devices"
    if "xla_force_host_platform_device_count" in flags or getattr(jax.config, option) > 0:
        return
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX has begun
        jax.config.update(option, _largest_divisor(tasks, ours or 1))


def cores(tasks: int) -> list[jax.Device] | None:
    """As many of a CPU's devices as divide the tasks of a meta-batch; None where that is one."""
    devices = jax.local_devices()
    count = _largest_divisor(tasks, len(devices)) if devices[0].platform == "cpu" else 1
    return devices[:count] if count > 1 else None


def _largest_divisor(number: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if number % n == 0)
