"""A run's folder in several processes: process 0's, and what the others have in its place."""

import pathlib

import jax

from hdistill.training.folder import RunFolder


class Follower:
    """What a process other than the first has for a run's folder: it reads and writes nothing."""

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
