"""Long learning of λ: one exact hypergradient of a whole long training after another."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks.optimizers import begin, check_optimizer, transform
from hdistill.checks.values import check_count, check_hparams
from hdistill.files import differences
from hdistill.training.folder import Follower, OtherRun, RunFolder
from hdistill.training.host_batches import checksum_of
from hdistill.training.long import reverse_mode
from hdistill.training.run import run

INNER, OPTIONS = "inner", "outer_run.json"


class OuterState(NamedTuple):
    """λ and its optimizer's state.

    Examples:
      >>> from hdistill import training
      >>> state = training.OuterState(hparams, optax.adam(0.1).init(hparams))
    """

    hparams: Any
    hyper_state: Any


class OuterInfo(NamedTuple):
    """Figures of one long hypergradient, for a row of metrics.jsonl.

    Examples:
      >>> from hdistill import training
      >>> training.OuterInfo._fields
      ('outer_loss', 'first_order_norm', 'second_order_norm', 'products')

    Attributes:
      outer_loss: L_val before λ moves, the sum where there are several, floating [].
      first_order_norm, second_order_norm: ‖g^FO‖ and ‖g^SO‖, floating [].
      products: Jacobian products of Φ, int32 [].
    """

    outer_loss: jax.Array
    first_order_norm: jax.Array
    second_order_norm: jax.Array
    products: jax.Array | int


def outer_run(
    problem,
    hparams,
    weights,
    batch_at: Callable[[int], Any],
    outer_batch,
    *,
    hyper_optimizer: optax.GradientTransformation,
    total: int,
    folder: RunFolder,
    label: str = "",
    **how,
) -> OuterState:
    """Moves λ by the exact hypergradient of a whole training, `total` times, each from w_0.

    λ_{m+1} = λ_m - (the optimizer's step of) dL_val(w_T(λ_m), λ_m)/dλ, each hypergradient by
    `hdistill.training.reverse_mode`. Killed at any moment, also in the middle of an inner training
    and on its way back, the same call goes on to the same bits: what an inner training has is in
    `folder`/inner/, and λ after each is a checkpoint of `hdistill.training.run`.

    Examples:
      >>> from hdistill import training
      >>> with training.RunFolder("runs/outer", {"seed": 0}, resume=True) as folder:
      ...     state = training.outer_run(
      ...         problem, hparams, weights, batches, outer_batch, horizon=20,
      ...         hyper_optimizer=optax.sgd(0.1), total=3, folder=folder,
      ...     )
      >>> [f"{row['outer_loss']:.2f}" for row in folder.rows]
      ['1.85', '1.80', '1.76']

    Args:
      problem: Φ and L_val.
      hparams: the first λ, a floating-point pytree.
      weights: w_0, the same for each training.
      batch_at, outer_batch: as for `hdistill.training.reverse_mode`.
      hyper_optimizer: an optax transformation, of λ.
      total: how many trainings.
      folder: a `RunFolder`, whose configuration says what else decides the result (the optimizers'
        rates, the data); the first λ and `how` are checked against those it was begun with.
      label: for the progress bar.
      how: further options of `hdistill.training.reverse_mode`: horizon, segment, store, every, ...

    Returns:
      An `OuterState`, the last λ and its optimizer's state.

    Raises:
      ValueError: arguments that do not fit together; see `hdistill.training.reverse_mode`.
      NonFiniteLoss: a ValueError: a loss, weights, a cotangent or λ that is not finite.
      Stopped: a KeyboardInterrupt, on Ctrl-C or SIGTERM.
    """
    check_optimizer("hyper_optimizer", hyper_optimizer)
    check_count("total", total)
    check_hparams(hparams)
    taken = {"folder", "return_info", "queries"} & how.keys()
    if taken:
        raise ValueError(f"{sorted(taken)[0]}: expected none of it, outer_run sets it itself")
    if not isinstance(folder, RunFolder | Follower):
        raise ValueError(f"folder={folder!r}: expected a training.RunFolder(path, config)")
    hparams = jax.tree.map(jnp.asarray, hparams)
    _check_same(folder, {"first_hparams": checksum_of(hparams)} | how)
    inner = folder.claim(INNER)

    @jax.jit
    def move(state: OuterState, g):
        updates, hyper_state = transform(
            "hyper_optimizer", hyper_optimizer, g.total, state.hyper_state, state.hparams
        )
        norms = optax.tree.norm(g.first_order), optax.tree.norm(g.second_order)
        return OuterState(optax.apply_updates(state.hparams, updates), hyper_state), norms

    def step(state: OuterState, m: int):
        _remove_but(inner, str(m))
        given = problem, state.hparams, weights, batch_at, outer_batch
        g, info = reverse_mode(*given, folder=inner / str(m), return_info=True, **how)
        state, (first, second) = move(state, g)
        return state, OuterInfo(jnp.sum(info.outer_loss), first, second, info.products)

    start = OuterState(hparams, begin("hyper_optimizer", hyper_optimizer, hparams))
    return run(
        step,
        start,
        lambda m: m,
        total=total,
        folder=folder,
        save_every=1,
        unit="training",
        label=label,
    )


def _check_same(folder, options: dict) -> None:
    """Raises OtherRun where the folder's trainings had other options."""
    now = json.loads(json.dumps(options, default=repr))
    before = json.loads(folder.read(OPTIONS) or "null")
    differing = differences(before, now, sorted(before.keys() | now.keys())) if before else ""
    if differing:
        raise OtherRun(
            f"{folder.path} holds trainings with other options ({differing}): expected the same "
            "ones, or another folder"
        )
    folder.write(OPTIONS, json.dumps(now))


def _remove_but(folder: pathlib.Path, name: str) -> None:
    """Earlier trainings: what they found is in λ."""
    for path in folder.iterdir() if folder.exists() else []:
        if path.name != name:
            shutil.rmtree(path)
