"""Exact hypergradients whose forward pass is bfloat16: how near to float32 are they?

    python -m experiments.bench.half --horizon 10 100 1000

The network of `experiments.bench.long`. *inside*: weights, momenta and cotangents in float32, the
layers' products in bfloat16. *throughout*: weights and momenta in bfloat16 too. Prints a Markdown
table: the cosine of either exact hypergradient of a few λ to float32's, and its length.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

import hdistill as hd
from experiments.bench import long
from experiments.draw.tables import markdown
from experiments.run.command import run_command
from hdistill.checks.values import check_count, check_positive

FORMS = {"inside": (jnp.bfloat16, jnp.float32), "throughout": (jnp.bfloat16, jnp.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      horizon: T, each a row.
      rate: of SGD with momentum, each a row.
    """

    horizon: tuple[int, ...] = (10, 100, 1000)
    rate: tuple[float, ...] = (0.02, 0.1)

    def check(self) -> None:
        """Raises ValueError for an option out of range."""
        for horizon in self.horizon:
            check_count("horizon", horizon)
        for rate in self.rate:
            check_positive("rate", rate)


def problem_in(dtype, rate: float) -> hd.Problem:
    """The problem, its layers' products in a dtype, the loss in float32."""

    def losses(params, x, y):
        params, x = jax.tree.map(lambda a: a.astype(dtype), (params, x))
        for w, b in params[:-1]:
            x = jax.nn.gelu(x @ w + b[None])
        logits = (x @ params[-1][0] + params[-1][1][None]).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    def inner_loss(params, hparams, batch):
        decay, wide = jnp.exp(hparams), jax.tree.map(lambda a: a.astype(jnp.float32), params)
        parts = [sum(jnp.sum(x**2) for x in jax.tree.leaves(p)) for p in (wide[0], wide[1:])]
        return losses(params, *batch).mean() + decay @ jnp.stack(parts)

    def outer_loss(params, hparams, batch):
        return losses(params, *batch).mean()

    return hd.from_losses(inner_loss, outer_loss, optax.sgd(rate, momentum=0.9))


def hypergradient(compute, kept, rate: float, horizon: int) -> jax.Array:
    """g, float32 [2], of two decays."""
    weights = jax.tree.map(lambda a: a.astype(kept), long.start())
    given = problem_in(compute, rate), jnp.array([-7.0, -8.0]), weights, long.batch_at
    g = hd.offline.reverse_mode(*given, long.batch_at(10**6), horizon=horizon, checkpoint=True)
    return g.total


def main(config: Config) -> None:
    """Measures and prints."""
    rows = []
    for rate in config.rate:
        for horizon in config.horizon:
            exact = hypergradient(jnp.float32, jnp.float32, rate, horizon)
            row = {"rate": f"{rate:g}", "T": str(horizon)}
            for name, dtypes in FORMS.items():
                g = hypergradient(*dtypes, rate, horizon)
                length = float(jnp.linalg.norm(g) / jnp.linalg.norm(exact))
                cosine = float(jnp.vdot(g, exact) / jnp.linalg.norm(exact) ** 2) / length
                row |= {f"cosine, {name}": f"{cosine:.4f}", f"length, {name}": f"{length:.3f}"}
            rows.append(row)
    print(markdown(rows))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
