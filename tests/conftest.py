"""Four host devices, float64 on, no silent rank promotion; warnings are errors (setup.cfg)."""

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
