"""Every notebook runs from top to bottom."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.conftest import QUICK

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

# In a process of its own: a kernel is started there, away from this one's JAX configuration.
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_runs(path):
    environment = {k: v for k, v in (os.environ | QUICK).items() if k != "MPLBACKEND"}
    command = [sys.executable, "-c", EXECUTE, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


def test_there_is_a_quickstart():
    assert "quickstart" in [path.stem for path in NOTEBOOKS]
