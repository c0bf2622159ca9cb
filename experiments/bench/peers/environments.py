"""An environment for each peer, made once."""

import pathlib
import subprocess
import sys

# As they were measured; of torch the release whose build for Python 3.11 needs no GPU.
PACKAGES = {
    "torch": ("torch==2.13.0", "numpy"),
    "higher": ("higher==0.2.1", "torch==2.13.0", "numpy"),
    "torchopt": ("torchopt==0.7.3", "torch==2.13.0", "numpy"),
    "jaxopt": ("jaxopt==0.8.5",),
    "gradhpo": ("gradhpo==0.1.3",),
}


def python_of(peer: str, folder: pathlib.Path) -> str | None:
    """The Python of a peer's environment, which is made if it is not there.

    hdistill and plain JAX run in our own. None, with a line on stderr, if it cannot be made.
    """
    if peer not in PACKAGES:
        return sys.executable
    python = folder / peer / "bin" / "python"
    if _runs(python, peer):
        return str(python)
    print(f"{peer}: making {folder / peer}", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", str(folder / peer)],
        [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[peer]],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            print(f"{peer} left out, it could not be installed: {reason[-1]}", file=sys.stderr)
            return None
    return str(python)


def _runs(python: pathlib.Path, peer: str) -> bool:
    if not python.exists():
        return False
    return subprocess.run([python, "-c", f"import {peer}"], capture_output=True).returncode == 0
