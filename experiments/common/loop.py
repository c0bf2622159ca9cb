"""The host loop over compiled learner steps: progress, metrics, checkpoints, non-finite losses."""

import time

import jax
import numpy as np
from tqdm import tqdm

from experiments.common.folder import RunFolder
from hdistill import FitStatus


class NonFiniteLoss(ValueError):
    """The run can't go on: a loss, λ or φ is not finite. The last good checkpoint is on disk."""

    def __init__(self, what: str, unit: str, number: int, inner_step: int, checkpoint: int):
        self.number, self.inner_step, self.checkpoint = number, inner_step, checkpoint
        kept = f"that of {unit} {checkpoint}" if checkpoint else "none yet"
        super().__init__(
            f"{what} at inner step {inner_step} of {unit} {number}; "
            f"expected it to be finite; last good checkpoint: {kept}"
        )


def meta_train(
    learner,
    state,
    tasks_at,
    *,
    total: int,
    horizon: int,
    folder: RunFolder,
    label: str,
    validate=lambda m, state: {},
    save_every: int = 10,
    unit: str = "inner optimisation",
):
    """Runs `total` inner optimisations, from the folder's last checkpoint on.

    Args:
      learner: from `hd.learner` or `hd.stream`.
      state: its first state, for a run without a checkpoint.
      tasks_at: m -> tasks of the m-th inner optimisation (m = 1, 2, ...), the same whenever asked.
      total: M.
      horizon: T, to number the inner steps.
      unit: what one call of `learner.step` is, for messages; in metrics.jsonl it is always counted
        as `inner_optimisation`.
      folder: where metrics and checkpoints go.
      label: for the progress bar.
      validate: (m, state) -> figures after inner optimisation m, for metrics.jsonl and the bar.
      save_every: inner optimisations between two checkpoints; the first is saved too.

    Returns:
      The state after the last inner optimisation.

    Raises:
      NonFiniteLoss: a ValueError that names the inner optimisation and the inner step.
    """
    done, state = folder.restore(state)
    products = sum(row["products"] for row in folder.metrics())
    shown: dict[str, str] = {}
    saved = done
    with tqdm(total=total, initial=done, desc=label, leave=False) as bar:
        for m in range(done + 1, total + 1):
            start = time.perf_counter()
            state, info = learner.step(state, tasks_at(m))
            info = jax.device_get(info)
            elapsed = time.perf_counter() - start
            _check_finite(info.outer_loss, unit, m, horizon, saved)
            products += int(info.products)
            validation = validate(m, state)
            folder.log(_row(m, info, elapsed) | validation)
            shown |= {name: f"{value:.3g}" for name, value in validation.items()}
            bar.set_postfix(
                loss=f"{info.outer_loss[-1]:.3g}",
                theta=f"{info.theta:.3g}",
                products=products,
                **shown,
            )
            bar.update()
            if m % save_every == 0 or m in (1, total):
                _check_state(state, unit, m, horizon, saved)
                folder.save(m, state)
                saved = m
    return state


def _row(m: int, info, seconds: float) -> dict:
    """One line of metrics.jsonl."""
    return {
        "inner_optimisation": m,
        "outer_loss": float(info.outer_loss[-1]),
        "theta": float(info.theta),
        "products": int(info.products),
        "fit": FitStatus(int(info.fit)).name,
        "first_order_norm": _mean(info.first_order_norm, info.moved),
        "second_order_norm": _mean(info.second_order_norm, info.moved),
        "seconds": seconds,
    }


def _mean(norms, moved) -> float:
    """The mean over the inner steps at which λ moved; 0 where it never did."""
    return float(norms[moved].mean()) if moved.any() else 0.0


def _check_finite(outer_loss, unit: str, m: int, horizon: int, saved: int) -> None:
    """Raises NonFiniteLoss at the first bad entry; an offline method's only entry is step T's."""
    bad = np.flatnonzero(~np.isfinite(outer_loss))
    if bad.size:
        step = horizon - len(outer_loss) + int(bad[0]) + 1
        raise NonFiniteLoss(f"outer loss is {outer_loss[bad[0]]}", unit, m, step, saved)


def _check_state(state, unit: str, m: int, horizon: int, saved: int) -> None:
    """Raises NonFiniteLoss where λ or φ is not fit to be kept (λ moves after the loss is taken)."""
    for name in ("hparams", "weights"):
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(getattr(state, name))):
            raise NonFiniteLoss(f"{name} are not finite", unit, m, horizon, saved)
