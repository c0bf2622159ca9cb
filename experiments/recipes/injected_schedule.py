"""A learning rate for each step and a weight decay, learned through `optax.inject_hyperparams`.

    python -m experiments.recipes.injected_schedule

λ is the log of the rate of each of 60 steps of AdamW, and of its decay. What to take from here: how
a hyperparameter that an optax optimizer holds becomes λ (Φ writes it into the optimizer's state at
each step), a batch that carries the number of its step, and the exact hypergradient of a whole
training run. One start of training is not all starts: λ is learned over some, tested on others.
"""

import jax
import jax.numpy as jnp
import optax

import hdistill as hd

FEATURES, HIDDEN, POINTS, INNER_STEPS, STARTS = 8, 16, 200, 60, 8

OPTIMIZER = optax.inject_hyperparams(optax.adamw)(
    learning_rate=0.01, weight_decay=0.0, eps_root=1e-10
)


def loss(params, points):
    x, y = points
    hidden = jnp.tanh(x @ params["in"] + params["bias"][None])
    return jnp.mean((hidden @ params["out"] - y) ** 2)


def update(weights, hparams, batch):
    """Φ: a step of AdamW with the hyperparameters of λ."""
    t, points = batch
    now = {
        "learning_rate": jnp.exp(hparams["log_rates"][t]),
        "weight_decay": jnp.exp(hparams["log_decay"]),
    }
    opt_state = weights.opt_state._replace(hyperparams=weights.opt_state.hyperparams | now)
    gradient = jax.grad(loss)(weights.params, points)
    updates, opt_state = OPTIMIZER.update(gradient, opt_state, weights.params)
    return hd.InnerState(optax.apply_updates(weights.params, updates), opt_state)


PROBLEM = hd.Problem(update, lambda weights, hparams, points: loss(weights.params, points))


def make_data(key):
    """(points to fit, points to choose λ by, points to test on) of a smooth function with noise."""
    keys = jax.random.split(key, 2)
    x = jax.random.normal(keys[0], (3, POINTS, FEATURES))
    y = jnp.sin(2 * x[..., 0]) + x[..., 1] * x[..., 2]
    return zip(x, y + 0.3 * jax.random.normal(keys[1], y.shape), strict=True)


def start(key):
    """Random parameters and the optimizer's first state."""
    keys = jax.random.split(key, 2)
    params = {
        "in": jax.random.normal(keys[0], (FEATURES, HIDDEN)) / FEATURES**0.5,
        "bias": jnp.zeros(HIDDEN),
        "out": jax.random.normal(keys[1], (HIDDEN,)) / HIDDEN**0.5,
    }
    return hd.InnerState(params, OPTIMIZER.init(params))


def constant(rate, decay=1e-4):
    """λ with one rate for all steps."""
    log_rates = jnp.full(INNER_STEPS, jnp.log(rate))
    return {"log_rates": log_rates, "log_decay": jnp.log(jnp.asarray(decay))}


def learn(outer_steps=150):
    """(λ, {name: test loss over new starts}): the learnt schedule, the best of 24 constant rates.

    The best constant rate is chosen as λ is, by the validation loss.
    """
    train, validation, test = make_data(jax.random.key(0))
    optimizer = optax.adam(0.05)

    @jax.jit
    def step(hparams, state, starts):
        def one(weights):
            case = hparams, weights, lambda t: (t, train), validation
            return hd.offline.reverse_mode(PROBLEM, *case, horizon=INNER_STEPS).total

        mean = jax.tree.map(lambda g: g.mean(0), jax.vmap(one)(starts))
        updates, state = optimizer.update(mean, state, hparams)
        return optax.apply_updates(hparams, updates), state

    hparams = constant(0.02)
    state = optimizer.init(hparams)
    for key in jax.random.split(jax.random.key(1), outer_steps):
        hparams, state = step(hparams, state, jax.vmap(start)(jax.random.split(key, STARTS)))
    new = jax.vmap(start)(jax.random.split(jax.random.key(2), 50))

    @jax.jit
    def losses(hparams):
        """(validation loss, test loss) after training, means over the new starts."""

        def one(weights):
            end = hd.unroll(PROBLEM, hparams, weights, lambda t: (t, train), horizon=INNER_STEPS)
            return jnp.stack([loss(end.params, points) for points in (validation, test)])

        return jax.vmap(one)(new).mean(0)

    rates = jnp.geomspace(1e-3, 0.5, 24)
    grid = jax.vmap(losses)(jax.vmap(constant)(rates))
    best = grid[:, 0].argmin()
    name = f"the best constant rate of 24, {rates[best]:.3f}"
    return hparams, {name: float(grid[best, 1]), "the schedule": float(losses(hparams)[1])}


def main():
    hparams, losses = learn()
    for name, test_loss in losses.items():
        print(f"{name}: test loss {test_loss:.3f}")
    rates = jnp.exp(hparams["log_rates"])
    steps = range(0, INNER_STEPS, 10)
    print("rate at step " + ", ".join(f"{t}: {rates[t]:.3f}" for t in steps))
    print(f"decay {jnp.exp(hparams['log_decay']):.1e}")


if __name__ == "__main__":
    main()
