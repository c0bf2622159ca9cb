"""Four host devices, float64 on, no silent rank promotion; warnings are errors (setup.cfg).

What is compiled is kept in .pytest_cache, for both processes of a run and for the next run.
"""

import pathlib

import jax

CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
