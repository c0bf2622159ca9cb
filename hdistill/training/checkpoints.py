"""Checkpoints by Orbax, a checksum beside each; the last two are kept."""

import pathlib
import shutil
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from hdistill.training.files import checksum, write_whole

CHECKSUM = "sha256"


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was written."""


class Checkpoints:
    """The checkpoints of a run: the state after a step, the metrics up to it, the configuration.

    Orbax writes a checkpoint whole or not at all. It does not notice a flipped bit: the checksum
    does. A checkpoint without its checksum was never finished, and is not used.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        for step in self._steps():
            if not (path / str(step) / CHECKSUM).exists():
                print(f"{path / str(step)} was never finished: not used", file=sys.stderr)
                shutil.rmtree(path / str(step))
        self._manager = ocp.CheckpointManager(
            path,
            options=ocp.CheckpointManagerOptions(max_to_keep=2),
            item_names=("state", "record"),
        )

    def _steps(self) -> list[int]:
        return sorted(int(p.name) for p in self.path.glob("*") if p.name.isdigit() and p.is_dir())

    def save(self, step: int, state, record: dict) -> None:
        """Writes a checkpoint; it is on disk on return."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_arrays(state)), record=ocp.args.JsonSave(record)
            ),
        )
        self._manager.wait_until_finished()
        folder = self.path / str(step)
        write_whole(folder / CHECKSUM, checksum(*_parts(folder)))

    def restore(self, state, fallback: bool) -> tuple[int, Any, dict | None]:
        """(step, state, record) of the last checkpoint; (0, `state`, None) without one.

        Args:
          state: of the structure of what was saved.
          fallback: use the checkpoint before a damaged one.

        Raises:
          DamagedCheckpoint: its checksum is not the one beside it.
        """
        for step in reversed(self._steps()):
            folder = self.path / str(step)
            if checksum(*_parts(folder)) == (folder / CHECKSUM).read_text():
                return step, *self._read(step, state)
            if not fallback:
                raise DamagedCheckpoint(
                    f"{folder} is damaged, its checksum is another: expected the checkpoint as it "
                    "was written; fallback=True (--fallback) uses the one before it"
                )
            print(f"{folder} is damaged: the one before it is used", file=sys.stderr)
            self._manager.delete(step)
        return 0, state, None

    def _read(self, step: int, state):
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(state))
        saved = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), record=ocp.args.JsonRestore()
            ),
        )
        return _like(state, saved["state"]), saved["record"]

    def close(self) -> None:
        """Lets go of the writer."""
        self._manager.close()


def _parts(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.name != CHECKSUM)


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _arrays(state) -> dict:
    """The state's leaves as a dict of arrays, keys as their data: what is static stays behind."""
    leaves = enumerate(jax.tree.leaves(state))
    return {f"{i:04}": jax.random.key_data(x) if _is_key(x) else x for i, x in leaves}


def _like(state, arrays: dict):
    """The state whose `_arrays` these are."""
    leaves, structure = jax.tree.flatten(state)
    saved = [arrays[name] for name in sorted(arrays)]
    return jax.tree.unflatten(
        structure,
        [
            jax.random.wrap_key_data(x, impl=jax.random.key_impl(old)) if _is_key(old) else x
            for x, old in zip(saved, leaves)
        ],
    )
