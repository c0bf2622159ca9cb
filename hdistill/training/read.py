"""A run that ended, read back and verified."""

import json
import pathlib
from typing import NamedTuple

from hdistill.files import checksum, digest, read_json

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"


class Run(NamedTuple):
    """What a run that ended left.

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
