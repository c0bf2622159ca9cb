"""The provenance of a run's figures: commit, machine, versions."""

import importlib.metadata
import pathlib
import platform
import resource
import subprocess

import jax


def provenance() -> dict:
    """Device, packages, commit, and the peak memory of this process so far (bytes)."""
    installed = {name: _version(name) for name in ("hdistill-jax", "jax", "flax", "optax")}
    return {
        "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}, {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name, version in installed.items() if version},
        "commit": commit(),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The git commit of the code that runs, marked where it has uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    here = pathlib.Path(__file__).parent
    tracked = ["git", "ls-files", "--error-unmatch", pathlib.Path(__file__).name]
    try:
        # A copy that was installed may lie in another project's repository.
        for asked in (tracked, command):
            answer = subprocess.run(asked, cwd=here, capture_output=True, check=True, text=True)
        return answer.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
