"""The launcher: who failed, and that the others end; a process's share of the tasks."""

import sys
import time

import jax.numpy as jnp
import pytest

from experiments.common import distributed
from experiments.launch import start, stop, wait

FAILS = (
    "import os, time; time.sleep(60 * (os.environ['HDISTILL_PROCESS'] != '1')); raise SystemExit(3)"
)


def test_the_others_are_stopped_where_one_fails():
    began = time.monotonic()
    started = start([sys.executable, "-c", FAILS], 3, devices=2)
    assert wait(started) == (1, 3)
    stop(started)
    assert all(process.poll() is not None for process in started)
    assert time.monotonic() - began < 30
    assert wait(start([sys.executable, "-c", ""], 2, devices=None)) == (0, 0)


def test_a_process_has_its_share(monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.jax, "process_index", lambda: 1)
    assert distributed.share(jnp.arange(6)).tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match=r"tasks: 5 do not split over 2 processes"):
        distributed.share(jnp.arange(5))
