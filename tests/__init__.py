"""Set before JAX is imported, so that it holds in what tests start in processes too.

Most of the suite's time goes into compiling: few of XLA's and LLVM's passes, and XLA's older
emitter of fused loops, which takes 0.6 of the newer one's time, as long as there are both.
Operations do not carry the lines that they come from.
"""

import importlib.metadata
import os

QUICK = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",  # both cores have work
]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK])
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
