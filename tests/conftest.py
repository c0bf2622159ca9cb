"""Four host devices, float64 on, no silent rank promotion; warnings are errors (setup.cfg).

Compiling is most of what the suite does, so the compiler's costly passes are off (a third of the
time); the tests of memory turn them on again.
"""

import os

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start
