"""The launcher: who failed, that the others end, Ctrl-C; a process's share of the tasks."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest

from experiments.run import distributed
from experiments.run.launch import advice, start, stop, wait

ROOT = pathlib.Path(__file__).parents[2]
# One that fails in process 1, and one that needs a second to save what it has when it is asked to.
STUDY = """
import os, pathlib, signal, sys, time
rank, folder = os.environ["HDISTILL_PROCESS"], pathlib.Path(sys.argv[2])
def save(number, frame):
    signal.signal(number, lambda *_: os._exit(9))
    time.sleep(1)
    (folder / rank).write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
(folder / f"{rank}-runs").write_text("")
if sys.argv[1] == "fails" and rank == "1":
    sys.exit("no more")
time.sleep(60)
"""


def launched(folder, *options):
    (folder / "study.py").write_text(STUDY)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}"}
    command = [
        sys.executable,
        "-m",
        "experiments.run.launch",
        "--processes",
        "2",
        "study",
        *options,
    ]
    return subprocess.Popen(
        [*command, str(folder)], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_who_failed_is_shown_and_the_others_end(tmp_path):
    launcher = launched(tmp_path, "fails")
    *words, last = launcher.communicate(timeout=60)[1].splitlines()
    assert launcher.returncode == 1 and words == ["no more"]
    assert last.startswith("process 1 of 2 ended with status 1, the others were stopped; the same")
    assert "the command was refused" in advice(0, 2, 2, [])
    assert "the same command goes on" in advice(0, 2, -9, ["--resume"])


def test_ctrl_c_leaves_each_process_time_to_save(tmp_path):
    launcher = launched(tmp_path, "runs")
    while len(list(tmp_path.glob("*-runs"))) < 2:
        time.sleep(0.05)
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=60)
    assert launcher.returncode == 130
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["saved", "saved"]


def test_all_may_end_well_or_one_by_a_signal(tmp_path):
    assert wait(start(["true"], 2, None, tmp_path)) == (0, 0)
    children = start(["sleep", "60"], 2, 2, tmp_path)
    children[1].process.kill()
    assert wait(children) == (1, -signal.SIGKILL)
    stop(children)
    assert all(child.status is not None for child in children)


def test_a_process_has_its_share(monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.jax, "process_index", lambda: 1)
    assert distributed.share(jnp.arange(6)).tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match=r"tasks: 5 do not split over 2 processes"):
        distributed.share(jnp.arange(5))
