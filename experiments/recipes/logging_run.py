"""A run followed while it runs: CSV, TensorBoard and a picture of λ, cosines and θ.

    python -m experiments.recipes.logging_run

Then `tensorboard --logdir runs/logging` shows the same. The problem is `weight_decay`'s, with
robust HyperDistill online. What to take from here: callbacks of `hdistill.training.run`, each a
function of (step, state, info, row), and `hd.compare` inside one, which says how close the method
is to the exact hypergradient.
"""

import csv
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from tensorboardX import SummaryWriter

import hdistill as hd
from experiments.recipes.weight_decay import (
    FEATURES,
    START,
    USEFUL,
    inner_loss,
    make_data,
    outer_loss,
)
from hdistill import training

HORIZON = 30


def to_csv(path):
    """A callback that appends each step's λ to a CSV file."""

    def write(m, state, info, row):
        with pathlib.Path(path).open("a", newline="") as file:
            csv.writer(file).writerow([m, *np.asarray(state.hparams).tolist()])

    return write


def to_tensorboard(writer):
    """A callback that writes the row's figures and the histogram of λ."""

    def write(m, state, info, row):
        for name in ("outer_loss", "theta", "first_order_norm", "second_order_norm"):
            writer.add_scalar(name, row[name], m)
        writer.add_histogram("λ", np.asarray(state.hparams), m)

    return write


def to_history(history, problem, estimators, batch, outer_batch, period):
    """A callback that compares the methods with the exact hypergradient, every so many steps."""

    def write(m, state, info, row):
        history["theta"].append(row["theta"])
        history["hparams"].append(np.asarray(state.hparams))
        if m % period == 1:
            case = state.hparams, state.weights, batch, outer_batch
            compared = hd.compare(problem, estimators, *case, horizon=HORIZON)
            cosines = {name: float(np.nanmean(of.cosine)) for name, of in compared.items()}
            history["cosines"].append((m, cosines))

    return write


def train(folder, total=100, period=20):
    """Learns λ; what was logged."""
    optimizer = optax.sgd(0.03, momentum=0.9)
    problem = hd.from_losses(inner_loss, outer_loss, optimizer)
    estimators = {
        "1-step": hd.online.one_step(problem),
        "robust HyperDistill": hd.online.robust_hyperdistill(problem),
    }
    points, validation, _ = make_data(jax.random.key(1))
    params = jnp.zeros(FEATURES)
    learner = hd.learner(
        problem,
        estimators["robust HyperDistill"],
        hyper_optimizer=optax.adam(0.01),
        horizon=HORIZON,
        fit_period=lambda m: m & (m - 1) == 0,
    )
    state = learner.init(jax.random.key(0), START, hd.InnerState(params, optimizer.init(params)))
    tasks = jax.tree.map(lambda x: x[None], (points, validation))
    history = {"theta": [], "hparams": [], "cosines": []}
    with training.RunFolder(folder, {"seed": 1}) as run, SummaryWriter(str(run.path)) as writer:
        callbacks = [
            to_csv(run.path / "hparams.csv"),
            to_tensorboard(writer),
            to_history(history, problem, estimators, lambda t: points, validation, period),
        ]
        training.run(
            learner.step, state, lambda m: tasks, total=total, folder=run, callbacks=callbacks
        )
    return history


def plot(history):
    """λ, cosines and θ over the run."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    hparams = np.stack(history["hparams"])
    axes[0].plot(hparams[:, :USEFUL], "C0", lw=1)
    axes[0].plot(hparams[:, USEFUL:], "C7", lw=0.5)
    axes[0].set(title="λ: log decay (blue: of useful features)", xlabel="inner optimisation")
    steps = [m for m, _ in history["cosines"]]
    for name in history["cosines"][0][1]:
        axes[1].plot(steps, [cosines[name] for _, cosines in history["cosines"]], "o-", label=name)
    axes[1].set(title="cosine to the exact hypergradient", xlabel="inner optimisation")
    axes[1].legend(fontsize=8)
    axes[2].plot(history["theta"])
    axes[2].set(title="θ, the fitted size", xlabel="inner optimisation")
    return figure


def main():
    figure = plot(train("runs/logging"))
    figure.savefig("runs/logging.svg")
    print("runs/logging/hparams.csv, events for TensorBoard beside it, and runs/logging.svg")


if __name__ == "__main__":
    main()
