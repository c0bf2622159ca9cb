"""Four host devices, float64 on, no silent rank promotion; warnings are errors (setup.cfg).

What is compiled is kept in .pytest_cache, for both processes of a run and for the next run.
"""

import gc
import pathlib

import jax

CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
# Of a process that runs documentation: what it compiles is kept too.
CACHED = {
    "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "JAX_PLATFORMS": "cpu",
    "MPLBACKEND": "agg",
}

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# Tracing makes millions of small objects that live on; looking through them all takes a tenth.
gc.set_threshold(1_000_000, 10, 10)


# What `make test-fast` runs: every estimator against an oracle, bad input, and what takes a moment.
FAST = {
    "hypergradient/test_exact.py",
    "hypergradient/test_snapshots.py",
    "hypergradient/test_hyperdistill.py",
    "hypergradient/test_implicit.py",
    "test_cache.py",
    "test_checks.py",
    "test_influence.py",
    "test_moving.py",
    "test_nonfinite.py",
    "test_odd_inputs.py",
    "test_reach.py",
}


def pytest_collection_modifyitems(items):
    """Marks the slow. The longest two come first, or at the end a core waits for them."""
    for item in items:
        name = item.path.relative_to(pathlib.Path(__file__).parent).as_posix()
        if name not in FAST:
            item.add_marker("slow")
    items.sort(key=lambda item: not item.name.startswith("test_python_runs"))
