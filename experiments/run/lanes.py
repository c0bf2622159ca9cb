"""Several runs in one program, for an accelerator: one training, its rows and states told apart."""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hdistill.files import read_json
from hdistill.training import RunFolder
from hdistill.training import run as train
from hdistill.training.run import figures
from hdistill.tree import is_real


class Trained(NamedTuple):
    """The result of a training of several runs.

    Attributes:
      state: after the last step, a leading axis of runs but in `done`.
      rows: of each run, up to where it diverged.
      diverged: why, or None.
    """

    state: Any
    rows: list[list[dict]]
    diverged: list[str | None]


def stack(states: list):
    """The states of several runs as one, which `step_of_all` moves on."""
    # `done` stays one number, so that θ is fitted when it is due and not at every step.
    return jax.tree.map(lambda *x: jnp.stack(x), *states)._replace(done=states[0].done)


def lane_of(tree, i: int):
    """The i-th run's part of what is stacked."""
    return jax.tree.map(lambda x: x[i], tree)


def step_of_all(step: Callable, state, *axes):
    """The step of several runs in one program.

    Args:
      step: (state, ...) -> (state, info) of one run.
      state: a stacked one.
      axes: of the step's other arguments, as `jax.vmap` has them.
    """
    state_axes = jax.tree.map(lambda _: 0, state)._replace(done=None)
    return jax.jit(jax.vmap(step, (state_axes, *axes), (state_axes, 0)), donate_argnums=0)


def train_lanes(
    step: Callable,
    state,
    tasks_at: Callable,
    *,
    total: int,
    folder: RunFolder,
    validate: Callable,
    unit: str,
    label: str,
) -> Trained:
    """`training.run` of several runs at once, in a folder of its own, from which it resumes.

    A run that diverges takes no other with it. A row's seconds are the program's, divided by the
    runs.

    Args:
      step: (state, tasks) -> (state, info), a leading axis of runs.
      state: stacked.
      tasks_at: m -> the tasks of all of them.
      validate: (m, state) -> {name: a figure of each}.
    """

    def step_all(state, tasks):
        moved, info = step(state["runs"], tasks)
        info = jax.device_get(info)
        return {"runs": moved}, {str(i): _row(lane_of(info, i)) for i in range(len(info[0]))}

    state = train(
        step_all,
        {"runs": state},
        tasks_at,
        total=total,
        folder=folder,
        validate=lambda m, state: {"validated": validate(m, state["runs"])},
        unit=unit,
        label=label,
    )["runs"]
    last = jax.device_get((state.hparams, state.weights))
    count = len(jax.tree.leaves(last[0])[0])
    rows, diverged = zip(*(_apart(folder.rows, i, count, unit) for i in range(count)))
    lost = [  # λ moves after the last loss is taken
        not all(np.isfinite(x[i]).all() for x in jax.tree.leaves(last) if is_real(x))
        for i in range(count)
    ]
    late = f"state is not finite after {unit} {total}"
    return Trained(
        state, list(rows), [d or (late if bad else None) for d, bad in zip(diverged, lost)]
    )


def _row(info) -> dict:
    return figures(info) | {"finite": bool(np.isfinite(info.outer_loss).all())}


def _apart(rows: list[dict], i: int, count: int, unit: str):
    """(the rows of the i-th run, why it diverged or None)."""
    mine: list[dict] = []
    for row in rows:
        own = dict(row[str(i)])
        if not own.pop("finite"):
            return mine, f"outer loss is not finite in {unit} {row['step']}"
        validated = {name: each[i] for name, each in row["validated"].items()}
        mine.append({"step": row["step"], "seconds": row["seconds"] / count} | own | validated)
    return mine, None


def unfinished(runs: Iterable[str], out: pathlib.Path, how: dict) -> list[str]:
    """Those of the runs that are to be done; one that has ended stays where `how` resumes.

    Raises:
      ValueError: a run that would be resumed was begun by itself, with checkpoints.
    """
    resumes = any(how.values())
    asked = [x for x in runs if not (resumes and (out / x / "summary.json").exists())]
    for name in asked if resumes else []:
        if any((out / name).glob("**/checkpoints/*")):
            raise ValueError(f"{out / name} has a checkpoint: expected one run at a time there")
    return asked


def lanes_of(path: pathlib.Path, runs: list[str], asked: list[str], how: dict) -> list[str]:
    """The runs of the program in this folder: those that have not ended, or of one that resumes.

    A program that was killed while its runs ended one by one resumes with all of them.
    """
    before = (read_json(path / "config.json") or {}).get("lanes", [])
    resumes = any(how.values()) and set(asked) <= set(before) <= set(runs)
    return before if resumes else asked


def write_rows(folder: RunFolder, rows: list[dict]) -> None:
    """Writes a run's rows into its folder, in place of those that were there."""
    folder.restore(None)
    for row in rows:
        folder.log(row)
