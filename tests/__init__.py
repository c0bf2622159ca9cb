"""Set before JAX is imported: fewer of LLVM's passes, in what tests start in processes too."""

import os

FEWER_PASSES = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FEWER_PASSES}"
