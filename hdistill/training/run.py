"""The host loop over compiled steps: progress, metrics, checkpoints, losses that are not finite."""

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from hdistill.checks.values import Signature, check_calls, check_count, named
from hdistill.files import plain
from hdistill.hypergradient.fit import FitStatus
from hdistill.learners.inner_loop import LearnerInfo
from hdistill.progress import Progress
from hdistill.training.folder import Follower, RunFolder
from hdistill.training.processes import agreed, agreed_json, is_key, largest, local
from hdistill.tree import is_real


class NonFiniteLoss(ValueError):
    """The run can't go on: a loss or the state is not finite. The last good checkpoint is on disk.

    Attributes:
      step: in which step of the run.
      inner_step: at which inner step of it, None where it has one loss only.
      checkpoint: the step of the last checkpoint, 0 if none was written.
    """

    def __init__(self, what: str, unit: str, step: int, inner_step: int | None, checkpoint: int):
        self.step, self.inner_step, self.checkpoint = step, inner_step, checkpoint
        self._made_of = what, unit, step, inner_step, checkpoint
        at = "in" if inner_step is None else f"at inner step {inner_step} of"
        last = f"that of {unit} {checkpoint}" if checkpoint else "none yet"
        super().__init__(
            f"{what} {at} {unit} {step}; expected finite numbers; last good checkpoint: {last}"
        )

    def __reduce__(self):
        """By what it was made of, so that it goes from a pool's process to another."""
        return type(self), self._made_of


def run(
    step: Callable,
    state,
    tasks_at: Callable,
    *,
    total: int,
    folder: RunFolder | Follower,
    validate: Callable | None = None,
    callbacks: Iterable[Callable] = (),
    save_every: int = 10,
    unit: str = "step",
    label: str = "",
):
    """Runs `total` steps, from the folder's last checkpoint on, with a progress bar.

    The bar is shown in a terminal or a notebook; elsewhere, as in a log, there is a line a minute.

    After each step: a row for metrics.jsonl; after steps 1, save_every, 2·save_every, ... and the
    last, a checkpoint. On Ctrl-C or SIGTERM the step at hand ends, a checkpoint is written, and
    `Stopped` is raised.

    In several processes (`jax.distributed`, a step of `hd.pmap_step`, `folder` of `shared_folder`)
    all start from process 0's checkpoint, and end after the same step where one of them is told to
    stop. `validate` and the callbacks get the state as arrays of their process only.

    Examples:
      >>> from hdistill import training
      >>> learner = hd.learner(
      ...     problem, hd.offline.drmad, hyper_optimizer=optax.adam(0.1), horizon=20
      ... )
      >>> state = learner.init(jax.random.key(0), hparams, weights)
      >>> with training.RunFolder("runs/mine", {"seed": 0}, resume=True) as folder:
      ...     state = training.run(learner.step, state, lambda m: tasks, total=5, folder=folder)
      ...     summary = folder.finish({"loss": folder.rows[-1]["outer_loss"]})
      >>> [row["products"] for row in folder.rows]
      [39, 39, 39, 39, 39]

    Args:
      step: `(state, tasks) -> (state, info)`: a learner's or a stream's, or any other. If info is
        not an `hd.LearnerInfo` but another NamedTuple or a dict, its scalars go into the row.
      state: the first state, for a run without a checkpoint; a pytree of arrays.
      tasks_at: m -> what the m-th step is given (m = 1, 2, ...), the same whenever it is asked.
      total: how many steps.
      folder: where metrics and checkpoints go.
      validate: `(m, state) -> dict` of figures after step m, for the row and the bar.
      callbacks: each called with `(m, state, info, row)` after step m, before its checkpoint.
      save_every: steps between two checkpoints.
      unit: what a step is, for messages.
      label: for the progress bar.

    Returns:
      The state after the last step.

    Raises:
      NonFiniteLoss: a ValueError: the info's `outer_loss` or `loss` is not finite, or, where a
        checkpoint is due, the state's `hparams` or `weights`; it names the step.
      Stopped: a KeyboardInterrupt, on Ctrl-C or SIGTERM.
      DamagedCheckpoint: a ValueError, from the folder.
      ValueError: another argument that is not what was expected; it is named.
    """
    check_count("total", total), check_count("save_every", save_every)
    check_calls("step", step, "(state, tasks)")
    check_calls("tasks_at", tasks_at, "(m)")
    if validate is not None:
        check_calls("validate", validate, "(m, state)")
    callbacks = _callbacks(callbacks)
    if not isinstance(folder, RunFolder | Follower):
        raise ValueError(f"folder={folder!r}: expected a training.RunFolder(path, config)")
    _check_arrays(state)
    kind, infinite = Signature.of(state), _with_infinities(state)
    done, state = agreed(folder.restore(state))
    done, folder.rows = int(done), agreed_json(folder.rows)
    if done > total:
        raise ValueError(f"total={total}: expected at least {done}, the {unit}s already done")
    saved, moved = done, done == total
    with StopRequest() as stop, Progress(total, done, label) as bar:
        for m in range(done + 1, total + 1):
            start = time.perf_counter()
            state, info = _pair(step(state, _tasks(tasks_at, m)))
            kind.check("step's state", state)
            info = jax.device_get(info)
            seconds = time.perf_counter() - start
            _check_loss(info, unit, m, saved)
            row = {"step": m, "seconds": seconds}
            row |= _added("step's info has", figures(info), row)
            row |= _added("validate returned", validate(m, local(state)), row) if validate else {}
            folder.log(row)
            for callback in callbacks:
                callback(m, local(state), info, row)
            bar.advance({k: f"{v:.3g}" for k, v in _shown(row).items()})
            stopped_by = largest(stop.signal or 0)
            if m in (1, total) or m % save_every == 0 or stopped_by:
                _check_state(state, infinite, unit, m, saved)
                folder.save(m, local(state))
                saved = m
            if stopped_by:
                largest(0)  # none ends before process 0 has saved
                name = signal.Signals(stopped_by).name
                raise Stopped(f"{name}: stopped after {unit} {m}, checkpointed in {folder.path}")
            moved = moved or not isinstance(info, LearnerInfo) or bool(np.any(info.moved))
    if not moved:
        warnings.warn(
            f"λ never moved in {unit}s {done + 1}..{total}: no hypergradient was finite (does the "
            "inner optimizer divide by √v? give it an eps_root)",
            stacklevel=2,
        )
    return local(state)


def _callbacks(callbacks) -> tuple:
    """The callbacks, of a list or of what gives them once only."""
    if not isinstance(callbacks, Iterable):
        raise ValueError(f"callbacks={callbacks!r}: expected a list of functions")
    callbacks = tuple(callbacks)
    for i, callback in enumerate(callbacks):
        check_calls(f"callbacks[{i}]", callback, "(m, state, info, row)")
    return callbacks


def _tasks(tasks_at: Callable, m: int):
    try:
        return tasks_at(m)
    except StopIteration as error:
        raise ValueError(f"tasks_at({m}): no tasks left; expected some for each step") from error


def _with_infinities(state) -> dict[str, np.ndarray]:
    """The leaves that begin with infinite entries, a mask or a best loss, as they begin."""
    leaves = {name: _values(x) for name, x in named(state, "state") if is_real(x)}
    return {name: x for name, x in leaves.items() if np.isinf(x).any()}


def _values(leaf) -> np.ndarray:
    """A leaf for NumPy, which knows no half precision."""
    return np.asarray(leaf, np.float32 if np.dtype(leaf.dtype).itemsize < 4 else None)


def _check_arrays(state) -> None:
    """Raises ValueError for a state that a checkpoint cannot hold."""
    leaves = named(state, "state")
    if not leaves:
        raise ValueError(f"state={state!r}: expected at least one array")
    for name, leaf in leaves:
        if not hasattr(leaf, "dtype"):
            raise ValueError(f"{name}={leaf!r}: expected an array, which a checkpoint can hold")


def _added(whence: str, figures, row: dict) -> dict:
    if not isinstance(figures, dict):
        raise ValueError(f"{whence} {figures!r}: expected a dict of figures")
    taken = sorted(figures.keys() & row.keys())
    if taken:
        raise ValueError(f"{whence} {taken}: expected other names, the row has these")
    return figures


def _pair(result):
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"step returned a {type(result).__name__}: expected (state, info)")
    return result


def figures(info) -> dict:
    """The figures of an info for a row: of `hd.LearnerInfo` its means, of another its scalars."""
    if isinstance(info, LearnerInfo):
        return {
            "outer_loss": float(info.outer_loss[-1]),
            "theta": float(info.theta),
            "products": int(info.products),
            "fit": FitStatus(int(info.fit)).name,
            "first_order_norm": _mean(info.first_order_norm, info.moved),
            "second_order_norm": _mean(info.second_order_norm, info.moved),
        }
    scalars = {k: v for k, v in _fields(info).items() if np.ndim(v) == 0}
    return {str(k): _number(f"step's info[{k!r}]", v) for k, v in scalars.items()}


def _number(name: str, value):
    """A figure for a row; what JSON cannot hold is named."""
    if is_key(value):
        raise ValueError(f"{name} is a key: expected what JSON holds")
    return plain(name, np.asarray(value).item() if hasattr(value, "dtype") else value)


def _fields(info) -> Mapping:
    if hasattr(info, "_asdict"):
        return info._asdict()
    if not isinstance(info, Mapping):
        raise ValueError(f"step's info is a {type(info).__name__}: expected a NamedTuple or a dict")
    return info


def _shown(row: dict) -> dict:
    return {
        k: v
        for k, v in row.items()
        if isinstance(v, int | float) and k not in ("step", "seconds") and not k.endswith("_norm")
    }


def _mean(norms, moved) -> float:
    """The mean over the inner steps at which λ moved; 0 where it never did."""
    return float(norms[moved].mean()) if moved.any() else 0.0


def _check_loss(info, unit: str, m: int, saved: int) -> None:
    fields = _fields(info)
    losses = np.ravel(fields.get("outer_loss", fields.get("loss", 0.0)))
    if losses.dtype.kind not in "fiub" and losses.dtype.name != "bfloat16":
        raise ValueError(f"the info's loss is {losses.tolist()}: expected numbers")
    bad = np.flatnonzero(~np.isfinite(losses))
    if not bad.size:
        return
    first, steps = int(bad[0]), np.size(fields.get("moved", losses))
    if losses.size == 1 or losses.size != steps:  # of an offline method, every so many steps
        number = f" {first + 1} of {losses.size}" if losses.size > 1 else ""
        raise NonFiniteLoss(f"outer loss{number} is {losses[first]}", unit, m, None, saved)
    raise NonFiniteLoss(f"outer loss is {losses[first]}", unit, m, first + 1, saved)


def _check_state(state, infinite: dict, unit: str, m: int, saved: int) -> None:
    """λ moves after the loss is taken: what is not finite is never saved.

    Args:
      infinite: leaves that began with infinite entries, which may stay as they were.
    """
    watched = [f"state{x}" for x in (".hparams", ".weights", "['hparams']", "['weights']")]
    for name, leaf in named(state, "state"):
        if not name.startswith(tuple(watched)) or not is_real(leaf):
            continue
        values = _values(leaf)
        bad = ~np.isfinite(values)
        if name in infinite:  # a best loss that began at inf may be finite by now
            bad &= values != infinite[name]
        if bad.any():
            raise NonFiniteLoss(f"{name} is not finite", unit, m, None, saved)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop; its last checkpoint is on disk."""


class StopRequest:
    """Notes whether the process was asked to stop, in a `with` block. The second time kills."""

    def __enter__(self) -> "StopRequest":
        self.signal: int | None = None
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
