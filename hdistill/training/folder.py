"""The folder of a run: config.json, metrics.jsonl, checkpoints/ and summary.json."""

import fcntl
import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

import jax

from hdistill.checks.values import check_flag
from hdistill.files import (
    OwnedFolder,
    as_json,
    checksum,
    differences,
    digest,
    make_folder,
    open_own,
    plain,
    read_json,
    write_whole,
)
from hdistill.training.checkpoints import Checkpoints, check_checkpoints, recorded_config
from hdistill.training.provenance import commit, provenance

OWNER = "a run"
CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
CHECKPOINTS, LOCK = "checkpoints", "run.lock"
STANDARD = (CONFIG, METRICS, SUMMARY, CHECKPOINTS, LOCK)


class OtherRun(ValueError):
    """The folder holds a run with another configuration, or one that is going on."""


class RunFolder:
    """One run's folder, only this process's while it is open.

    - A run that starts afresh deletes what an earlier run with the same configuration made there,
      and nothing else. One that resumes goes on from the last checkpoint, to the same bits.
    - A folder with another configuration is refused, and the message names what differs.
    - metrics.jsonl is for people and plots. What the run goes on from, the rows so far included,
      is in the checkpoint, so that a damaged metrics.jsonl changes nothing; it is written again.
    - summary.json has the checksums of the other files, which `read_run` verifies.

    Examples:
      >>> from hdistill import training
      >>> with training.RunFolder("runs/one", {"rate": 0.1, "seed": 0}) as folder:
      ...     folder.log({"step": 1, "loss": 0.5})
      ...     summary = folder.finish({"test_loss": 0.4})
      >>> sorted(path.name for path in folder.path.iterdir())
      ['checkpoints', 'config.json', 'made.json', 'metrics.jsonl', 'run.lock', 'summary.json']

    Args:
      path: made if it is not there.
      config: everything that decides the result, for config.json; what JSON holds.
      resume: go on with what is there.
      fallback: go on, and where the last checkpoint is damaged, from the one before it.

    Raises:
      OtherRun: a ValueError.
      ValueError: a file in the way that no run made, a damaged file.
    """

    def __init__(
        self,
        path: pathlib.Path | str,
        config: dict,
        *,
        resume: bool = False,
        fallback: bool = False,
    ):
        resume, fallback = check_flag("resume", resume), check_flag("fallback", fallback)
        self.config: dict = _check_config(config)
        self.path = make_folder(path)
        self.fallback, self.rows = fallback, list[dict]()
        was_locked = (self.path / LOCK).exists()
        self._lock_file = _lock(self.path / LOCK)
        try:
            check_checkpoints(self.path / CHECKPOINTS)
            self._folder = self._open(resume or fallback)
            self._checkpoints = Checkpoints(self.path / CHECKPOINTS)
        except BaseException:
            self._lock_file.close()
            if not was_locked:
                (self.path / LOCK).unlink()
            raise

    def _open(self, resume: bool) -> OwnedFolder:
        folder = OwnedFolder(self.path, OWNER)
        if folder.is_damaged(CONFIG):
            raise ValueError(
                f"{self.path / CONFIG} is damaged: expected what the run wrote; delete it and "
                "resume"
            )
        before = read_json(self.path / CONFIG)
        if before is None and resume:  # config.json is gone
            before = recorded_config(self.path / CHECKPOINTS)
        if before is not None and (resume or CONFIG in folder.made):
            _check_same(self.path, before, self.config)
            _tell_commit(self.path, before)
        if resume and before is not None and not folder.made:  # made.json is gone
            folder.adopt(*STANDARD)
        if not resume:
            folder.empty(but=(LOCK,))
        folder.claim(*(name for name in STANDARD if name != LOCK))
        folder.adopt(LOCK)
        begun = (before or {}).get("commit") if resume else None
        self._commit = begun or commit()
        if not (self.path / CONFIG).exists():
            folder.write(CONFIG, as_json(self.config | {"commit": self._commit}))
        return folder

    @property
    def summary(self) -> dict | None:
        """The summary of a run that ended, or None."""
        return read_run(self.path).summary if (self.path / SUMMARY).exists() else None

    def save(self, step: int, state) -> None:
        """Checkpoints the state after so many steps, and the rows so far; on disk on return."""
        self._check_open("save")
        config = self.config | {"commit": self._commit}
        self._checkpoints.save(step, state, {"rows": self.rows, "config": config})

    def restore(self, state) -> tuple[int, Any]:
        """(steps done, state) of the last checkpoint, or (0, `state`)."""
        step, state, record = self._checkpoints.restore(state, self.fallback)
        if record is not None:
            _check_same(self.path, record["config"], self.config)
            self.rows = record["rows"]
        if step or read_lines(self.path / METRICS):
            print(f"{self.path}: goes on after step {step}", file=sys.stderr)
        write_whole(self.path / METRICS, "".join(map(_line, self.rows)))
        return step, state

    def log(self, row: dict) -> None:
        """Appends a line to metrics.jsonl, flushed; figures that are not finite become null."""
        self._check_open("log")
        if not isinstance(row, dict):
            raise ValueError(f"row={row!r}: expected a dict of figures")
        try:
            row = plain("row", row)
        except RecursionError as error:
            raise ValueError("row=...: expected what JSON holds, nested less deeply") from error
        line = _line(row)
        with os.fdopen(open_own(self.path / METRICS, os.O_WRONLY | os.O_APPEND), "a") as file:
            file.write(line)
        self.rows.append(row)

    def claim(self, name: str) -> pathlib.Path:
        """The path of a file or folder that the run is about to make."""
        return self._folder.claim(name)

    def write(self, name: str, text: str) -> None:
        """Writes a file of the run's, whole or not at all.

        Raises:
          ValueError: a name that is not a file's in the folder, or one of the run's own files.
        """
        self._check_open("write")
        if name in STANDARD:
            raise ValueError(f"name={name!r}: expected another, it is the run's own")
        self._folder.write(name, text)

    def read(self, name: str) -> str | None:
        """Reads a file that the run has written, verified; None where it has not yet."""
        return self._folder.read(name)

    def finish(self, figures: dict) -> dict:
        """Writes summary.json: the figures, what produced them, the checksums of the files.

        Figures that are not finite become null.

        Raises:
          ValueError: a figure that JSON cannot hold, or whose name is the summary's own; a file
            that is no longer what `write` wrote.
        """
        self._check_open("finish")
        if not isinstance(figures, dict):
            raise ValueError(f"figures={figures!r}: expected a dict")
        produced = provenance()
        own = {"files", "checksum", *produced} & figures.keys()
        if own:
            raise ValueError(f"figures={sorted(own)}: expected other names, these are the run's")
        write_whole(self.path / METRICS, "".join(map(_line, self.rows)))
        names = sorted(self._folder.made - {SUMMARY, LOCK})
        for name in names:
            self.read(name)
        summary = plain("figures", figures) | produced
        summary["files"] = {n: checksum(self.path / n) for n in names if (self.path / n).is_file()}
        summary = json.loads(as_json(summary))
        write_whole(self.path / SUMMARY, as_json(summary | {"checksum": digest(summary)}))
        return summary

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the folder; nothing can be written to it any more."""
        self._checkpoints.close()
        self._lock_file.close()

    def _check_open(self, call: str) -> None:
        if self._lock_file.closed:
            raise ValueError(f"{call}: {self.path} is closed; expected a call before that")


def _check_same(path, before: dict, config: dict) -> None:
    differing = differences(before, config, sorted((before.keys() | config.keys()) - {"commit"}))
    if differing:
        raise OtherRun(
            f"{path} holds a run with another configuration ({differing}): expected the same "
            "configuration, or another folder"
        )


def _tell_commit(path, before: dict) -> None:
    now = commit()
    then = before.get("commit", now)
    if then != now:
        print(f"{path} was begun at commit {then}, this is {now}", file=sys.stderr)


def _lock(path: pathlib.Path):
    """The open lock file; it holds the process's number, and is let go of when the process ends."""
    if path.exists() and (not path.is_file() or path.read_bytes().strip(b"0123456789")):
        raise ValueError(
            f"{path} was not made by a run, or is damaged: expected the number of a process; "
            "delete it if no run is going on there"
        )
    file = os.fdopen(open_own(path, os.O_RDWR | os.O_APPEND), "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        who = f"process {holder} runs there"
        if not _is_alive(holder):
            who = f"process {holder} has ended, but one that it started still holds {path.name}"
        raise OtherRun(f"{path.parent}: {who}; expected one run in a folder at a time") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process or 0), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # of another user
        pass
    return True


def _check_config(config) -> dict:
    """The configuration as it is read back: lists for tuples."""
    if not isinstance(config, dict) or "commit" in config:
        raise ValueError(
            f"config={config!r}: expected a dict without 'commit', which the run adds itself"
        )
    try:
        return json.loads(as_json(config))
    except RecursionError as error:
        raise ValueError("config=...: expected what JSON holds, nested less deeply") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"config={config!r}: expected what JSON holds, but {error}") from error


def _line(row: dict) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


class Run(NamedTuple):
    """A run that ended.

    Attributes:
      path: its folder.
      config: what decided its result.
      summary: its figures, and what produced them.
      rows: a dict for each step, as in metrics.jsonl.
    """

    path: pathlib.Path
    config: dict
    summary: dict
    rows: list[dict]


def read_run(path: pathlib.Path | str) -> Run:
    """The configuration, summary and metrics of a run that ended, verified.

    Examples:
      >>> from hdistill import training
      >>> with training.RunFolder("runs/two", {"seed": 0}) as folder:
      ...     summary = folder.finish({"test_loss": 0.4})
      >>> run = training.read_run("runs/two")
      >>> run.config["seed"], run.summary["test_loss"]
      (0, 0.4)

    Raises:
      ValueError: no run ended there, or a file is not what was written.
    """
    path = pathlib.Path(path)
    summary = read_json(path / SUMMARY)
    if summary is None:
        raise ValueError(f"{path}: expected {SUMMARY}, of a run that ended")
    stated = summary.pop("checksum", None)
    if stated != digest(summary):
        raise ValueError(
            f"{path / SUMMARY} is damaged: it does not match its checksum; delete it and resume"
        )
    for name, expected in summary.pop("files").items():
        if not (path / name).exists() or checksum(path / name) != expected:
            raise ValueError(
                f"{path / name} is damaged or gone: expected what the run wrote; delete {SUMMARY} "
                "and resume, and the run ends again from its last checkpoint"
            )
    return Run(path, read_json(path / CONFIG) or {}, summary, read_lines(path / METRICS))


def read_lines(path: pathlib.Path) -> list[dict]:
    """The rows of metrics.jsonl up to one that is not whole: a kill may cut the last."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return rows


class Follower:
    """A stand-in for a run's folder in a process that is not the first: it writes nothing."""

    summary = None

    def __init__(self, path: pathlib.Path | str, config: dict):
        self.path, self.config, self.fallback = pathlib.Path(path), config, False
        self.rows = list[dict]()

    def save(self, step: int, state) -> None:
        """Does nothing: process 0 saves."""

    def restore(self, state):
        """Returns (0, `state`); `training.run` then takes process 0's."""
        return 0, state

    def log(self, row: dict) -> None:
        """Keeps the row in memory."""
        self.rows.append(row)

    def claim(self, name: str) -> pathlib.Path:
        """The path that the file has in process 0."""
        return self.path / name

    def write(self, name: str, text: str) -> None:
        """Does nothing."""

    def read(self, name: str) -> None:
        """Returns None."""

    def finish(self, figures: dict) -> dict:
        """Returns the figures."""
        return figures

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *error) -> None:
        self.close()


def shared_folder(path: pathlib.Path | str, config: dict, **how) -> RunFolder | Follower:
    """Opens a run's folder in process 0 of `jax.distributed`; the others get a stand-in.

    `hdistill.training.run` starts all of them from process 0's checkpoint, so that the disk need
    not be shared, and a run goes on with another number of processes or devices. In one process it
    is a `RunFolder`.

    Examples:
      >>> from hdistill import training
      >>> with training.shared_folder("runs/shared", {"seed": 0}) as folder:
      ...     print(type(folder).__name__)
      RunFolder

    Args:
      path, config, how: as for `RunFolder`.
    """
    return RunFolder(path, config, **how) if jax.process_index() == 0 else Follower(path, config)
