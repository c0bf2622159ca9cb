"""Checkpoints by Orbax, the checksums of its files beside each; the last two are kept."""

import errno
import hashlib
import pathlib
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from hdistill.checks.values import describe, named
from hdistill.files import checksum, read_json, write_whole
from hdistill.training.processes import is_key

CHECKSUMS = "sha256"
CHECKPOINTS_LEFT, ITEMS = 2, ("state", "record")
METADATA, PARTIAL = "_CHECKPOINT_METADATA", ".orbax-checkpoint-tmp"  # Orbax's
COMMITTED = "commit_success.txt"
DIGITS = 4  # of a leaf's number, at least; a file's name in checkpoints that there are


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was written."""


def check_checkpoints(path: pathlib.Path) -> None:
    """There is nothing in the folder but checkpoints, and in those nothing that others have put."""
    for entry in sorted(path.iterdir()) if path.exists() else []:
        whole = entry.name.isdigit() and any((entry / x).exists() for x in (CHECKSUMS, METADATA))
        foreign = [] if whole or PARTIAL in entry.name else [*sorted(_files(entry)), entry]
        step, recorded = _listed(entry)
        if step is not None and step != entry.name:
            raise ValueError(
                f"{entry} is checkpoint {step}, renamed or copied: expected it where the run wrote "
                "it; move it"
            )
        if recorded is not None:
            foreign = sorted(_files(entry) - recorded.keys())
        if foreign:
            what = "it" if whole or foreign[0] == entry else f"{entry}, no longer a checkpoint,"
            raise ValueError(
                f"{foreign[0]} was not made by a run: expected checkpoints only; move {what} away"
            )


def recorded_config(path: pathlib.Path) -> dict | None:
    """The configuration in the last checkpoint that can be read, or None."""
    records = [p for p in path.glob("*/record/metadata") if p.parts[-3].isdigit()]
    for record in sorted(records, key=lambda p: int(p.parts[-3]))[::-1]:
        try:
            return (read_json(record) or {}).get("config")
        except ValueError:  # `Checkpoints.restore` says so
            continue
    return None


class Checkpoints:
    """The checkpoints of a run: the state after a step, the metrics up to it, the configuration.

    Orbax writes a checkpoint whole or not at all. It does not notice a flipped bit: the checksums
    do. A checkpoint without them was never finished, and is not used. Of one that is no longer
    needed the files are deleted that were made with it, and no others.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        last = path / str(max(self._steps(), default=""))
        if last != path and not (last / CHECKSUMS).exists():  # one that is older had it
            print(f"{last} was never finished: not used", file=sys.stderr)
            _discard(last)
        path.mkdir(exist_ok=True)
        self._manager = ocp.CheckpointManager(
            path,
            options=ocp.CheckpointManagerOptions(
                create=False,  # Orbax can't, as one process of several
                max_to_keep=None,  # `save` sees to it
                multiprocessing_options=_alone(),
            ),
            item_names=ITEMS,
        )

    def _steps(self) -> list[int]:
        return sorted(int(p.name) for p in self.path.glob("*") if p.name.isdigit() and p.is_dir())

    def save(self, step: int, state, record: dict) -> None:
        """Writes a checkpoint; it is on disk on return.

        Raises:
          OSError: it could not be written, as on a full disk.
        """
        record = record | {"state": _described(state)}
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(_arrays(state)), record=ocp.args.JsonSave(record)
        )
        try:
            if not self._manager.save(step, args=parts):
                raise FileExistsError(f"Orbax takes step {step} for saved")
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax raises many kinds
            full = "the disk is full" if _is_full(error) else type(error).__name__
            raise OSError(
                f"{self.path / str(step)} was not written, {full}; the checkpoint before it "
                f"stands: {str(error).splitlines()[0]}"
            ) from error
        _record(self.path / str(step))
        for old in self._steps()[:-CHECKPOINTS_LEFT]:
            _delete(self.path / str(old))

    def restore(self, state, fallback: bool) -> tuple[int, Any, dict | None]:
        """(step, state, record) of the last checkpoint; (0, `state`, None) without one.

        Args:
          state: of the structure of what was saved.
          fallback: use the checkpoint before a damaged one.

        Raises:
          DamagedCheckpoint: its checksums are not those beside it.
        """
        steps = self._steps()
        whole = [step for step in steps if _is_whole(self.path / str(step))]
        damaged = [step for step in steps if step > max(whole, default=0)]
        if damaged and not whole:
            raise DamagedCheckpoint(
                f"{self.path}: every checkpoint is damaged: expected them as they were written; "
                "opened without resume or fallback (--resume, --fallback) the run begins again"
            )
        if damaged and not fallback:
            raise DamagedCheckpoint(
                f"{self.path / str(steps[-1])} is damaged: its files do not match its checksums; "
                "fallback=True (--fallback) uses the checkpoint before it"
            )
        for step in damaged:
            print(f"{self.path / str(step)} is damaged: the one before is used", file=sys.stderr)
            _discard(self.path / str(step))
        self._manager.reload()  # it remembers the steps
        return (whole[-1], *self._read(whole[-1], state)) if whole else (0, state, None)

    def _read(self, step: int, state):
        record = self._manager.restore(
            step, args=ocp.args.Composite(record=ocp.args.JsonRestore())
        )["record"]
        _check_state(self.path / str(step), record.pop("state", None), state)
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(state))
        arrays = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(template))
        )["state"]
        return _like(state, arrays), record

    def close(self) -> None:
        """Lets go of the writer."""
        self._manager.close()


def _alone() -> ocp.options.MultiprocessingOptions:
    """Only this process writes, and waits for no other."""
    here = jax.process_index()
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix="hdistill"
    )


def _files(folder: pathlib.Path) -> set[pathlib.Path]:
    """The files of a checkpoint, but the one with the checksums."""
    files = {path for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return files - {folder / CHECKSUMS}


def _record(folder: pathlib.Path) -> None:
    """Lists the checksum and name of each file, below the step and a checksum of the list."""
    lines = [f"{checksum(path)}  {path.relative_to(folder)}\n" for path in sorted(_files(folder))]
    text = "".join(lines)
    write_whole(folder / CHECKSUMS, f"{_head(folder.name, text)}\n{text}")


def _head(step: str, text: str) -> str:
    return step + " " + hashlib.sha256(f"{step}\n{text}".encode()).hexdigest()


def _listed(folder: pathlib.Path) -> tuple[str | None, dict[pathlib.Path, str] | None]:
    """(step, checksum of each file) as it was written; Nones where the list is gone or damaged."""
    try:
        head, _, text = (folder / CHECKSUMS).read_bytes().decode().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None, None
    step = head.partition(" ")[0]
    if head != _head(step, text):
        return None, None
    pairs = [line.split("  ", 1) for line in text.splitlines()]
    if not all(len(pair) == 2 and _is_inside(pair[1]) for pair in pairs):
        return None, None
    return step, {folder / name: value for value, name in pairs}


def _is_inside(name: str) -> bool:
    """Tells whether a relative path leads nowhere outside."""
    path = pathlib.PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _delete(folder: pathlib.Path) -> None:
    """Deletes a checkpoint: the files that are listed, or where no list is, those of Orbax.

    What says that the folder is a checkpoint goes last, and under a name of Orbax's for what is not
    finished, so that a kill leaves nothing that could be somebody else's.
    """
    _, recorded = _listed(folder)
    if recorded is None:
        listed = [folder / name for name in (*ITEMS, COMMITTED)]
    else:
        listed = sorted(recorded.keys() & _files(folder) - {folder / METADATA})
    for path in listed:
        is_folder = path.is_dir() and not path.is_symlink()
        shutil.rmtree(path) if is_folder else path.unlink(missing_ok=True)
    for path in sorted(folder.rglob("*"), reverse=True):  # the deepest first
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    (folder / CHECKSUMS).unlink(missing_ok=True)
    if {path.name for path in folder.iterdir()} <= {METADATA}:
        folder = folder.rename(folder.with_name(f"{folder.name}{PARTIAL}-deleted"))
    (folder / METADATA).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _is_full(error: BaseException | None) -> bool:
    """Tells whether it comes from a disk without space."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _discard(folder: pathlib.Path) -> None:
    """Deletes a checkpoint that is of no use.

    Raises:
      ValueError: something of others is in it, which stays.
    """
    _delete(folder)
    if folder.exists():
        raise ValueError(
            f"{sorted(_files(folder))[0]} was not made by a run: expected checkpoints only; move "
            f"{folder}, no longer a checkpoint, away"
        )


def _is_whole(folder: pathlib.Path) -> bool:
    step, recorded = _listed(folder)
    files = _files(folder)
    linked = any(path.is_symlink() for path in files)
    return not linked and step == folder.name and recorded == {p: checksum(p) for p in files}


def _described(state) -> dict[str, str]:
    """Dtype and shape of each leaf by its path."""
    return {name: describe(leaf) for name, leaf in named(state, "state")}


def _check_state(folder: pathlib.Path, saved: dict[str, str] | None, state) -> None:
    """The state has the structure, shapes and dtypes of the one that was saved."""
    now = _described(state)
    for name in sorted(now.keys() | (saved or now).keys()):
        then, given = (saved or now).get(name, "nothing"), now.get(name, "nothing")
        if then != given:
            raise ValueError(f"{name} is {given}: expected {then}, as {folder} has it")


def _arrays(state) -> dict:
    """The state's leaves by their numbers, keys as their data: what is static stays behind.

    Empty leaves do too, which Orbax does not write.
    """
    leaves = {_name(i): x for i, x in enumerate(jax.tree.leaves(state)) if np.size(x)}
    arrays = {name: jax.random.key_data(x) if is_key(x) else x for name, x in leaves.items()}
    arrays = arrays or {"none": np.zeros(1)}  # Orbax writes no empty tree
    several = jax.process_count() > 1  # Orbax takes an array of JAX for one of all processes
    return {
        name: np.asarray(x) if several or isinstance(x, np.generic) else x
        for name, x in arrays.items()
    }


def _name(i: int) -> str:
    return str(i).zfill(DIGITS)


def _like(state, arrays: dict):
    """The state whose `_arrays` these are."""
    leaves, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(
        structure,
        [_leaf(old, arrays[_name(i)]) if np.size(old) else old for i, old in enumerate(leaves)],
    )


def _leaf(old, saved):
    """A leaf as it was saved, of the kind of the one in its place."""
    if is_key(old):
        return jax.random.wrap_key_data(saved, impl=jax.random.key_impl(old))
    if isinstance(old, np.generic):
        return old.dtype.type(saved)
    if isinstance(old, jax.Array) and not old.committed:  # or a compiled step compiles once more
        return jnp.asarray(np.asarray(saved))
    return saved
