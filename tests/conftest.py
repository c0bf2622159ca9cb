"""Four host devices, float64 on, no silent rank promotion; warnings are errors (setup.cfg).

What is compiled is kept in .pytest_cache, for both processes of a run and for the next run.
"""

import os
import pathlib

# Programs here run for a moment and take seconds to compile; a fifth less with fewer of LLVM's
# passes. By the environment, so that notebooks and commands that tests start have it too. (With
# none at all, as jax_disable_most_optimizations has it, convolutions come out wrong.)
FEWER_PASSES = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FEWER_PASSES}"

import jax

CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
