"""A regulariser learnt on some domains for another: MetaReg's weighted L1, a weight a parameter.

    python -m experiments.recipes.unseen_domain

Half of the features say the same of the label everywhere; the others say much, but in each domain
something else. λ is the log of each parameter's L1 penalty, learnt so that what is trained on one
domain is right on another (Balaji et al., "MetaReg: Towards Domain Generalization using
Meta-Regularization", NeurIPS 2018). What to take from here: a pair of domains as a task of
`hd.learner`, and the comparison with what one would do without, a grid over one penalty for all.
"""

import jax
import jax.numpy as jnp
import optax

import hdistill as hd

FEATURES, POINTS, SOURCES, UNSEEN, INNER_STEPS, META_STEPS = 20, 60, 6, 200, 30, 300
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def make_domains(key, count):
    """(x [count, POINTS, FEATURES], y of ±1 [count, POINTS])."""
    label_key, sign_key, noise_key = jax.random.split(key, 3)
    y = jax.random.rademacher(label_key, (count, POINTS), float)
    same = jnp.full((count, FEATURES // 2), 0.3)
    other = 0.6 * jax.random.rademacher(sign_key, (count, FEATURES // 2), float)
    means = jnp.concatenate([same, other], axis=-1)
    noise = jax.random.normal(noise_key, (count, POINTS, FEATURES))
    return y[..., None] * means[:, None] + noise, y


def logistic(w, batch):
    x, y = batch
    return jnp.mean(jax.nn.softplus(-y * (x @ w)))


def absolute(w):
    """|w|, smooth within a hundredth of 0."""
    return jnp.sqrt(w**2 + 1e-4)


def inner_loss(w, hparams, batch):
    return logistic(w, batch) + jnp.sum(jnp.exp(hparams) * absolute(w))


PROBLEM = hd.from_losses(inner_loss, lambda w, hparams, batch: logistic(w, batch), OPTIMIZER)
START = jnp.full(FEATURES, -5.0)
WEIGHTS = hd.InnerState(jnp.zeros(FEATURES), OPTIMIZER.init(jnp.zeros(FEATURES)))


def learn(domains, seed, meta_steps=META_STEPS):
    """λ, over pairs of domains: trained on one, judged on another."""
    learner = hd.learner(
        PROBLEM, hd.offline.reverse_mode, hyper_optimizer=optax.adam(0.05), horizon=INNER_STEPS
    )
    key = jax.random.key(seed)
    state = learner.init(key, START, WEIGHTS)
    for m in range(meta_steps):
        order = jax.random.permutation(jax.random.fold_in(key, m), SOURCES)
        pairs = [jax.tree.map(lambda x, o=o: x[o], domains) for o in (order, jnp.roll(order, 1))]
        state, _ = learner.step(state, tuple(pairs))
    return state.hparams


def wrong(w, domain):
    """The share of wrong labels."""
    x, y = domain
    return jnp.mean(jnp.sign(x @ w) != y)


def errors(domains, hparams, unseen):
    """In each unseen domain, after training on all given ones."""
    together = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), domains)
    end = hd.unroll(PROBLEM, hparams, WEIGHTS, lambda t: together, horizon=INNER_STEPS)
    return jax.vmap(wrong, (None, 0))(end.params, unseen)


def transfer(domains, hparams):
    """The error on one domain after training on another, what the grid is chosen by."""
    ends = jax.vmap(
        lambda one: hd.unroll(PROBLEM, hparams, WEIGHTS, lambda t: one, horizon=INNER_STEPS).params
    )(domains)
    found = jax.vmap(jax.vmap(wrong, (None, 0)), (0, None))(ends, domains)
    return jnp.sum(found * (1 - jnp.eye(SOURCES)))


def compare(seed, meta_steps=META_STEPS):
    """(λ, mean error in unseen domains by penalty)."""
    keys = jax.random.split(jax.random.key(seed))
    domains, unseen = make_domains(keys[0], SOURCES), make_domains(keys[1], UNSEEN)
    learnt = learn(domains, seed, meta_steps)
    grid = jnp.repeat(jnp.linspace(-8.0, 1.0, 28)[:, None], FEATURES, axis=1)
    one = grid[jnp.argmin(jax.lax.map(lambda h: transfer(domains, h), grid))]
    penalties = {"none": START - 20, "one for all, by a grid": one, "learnt": learnt}
    return learnt, {name: float(errors(domains, h, unseen).mean()) for name, h in penalties.items()}


def main(seeds=range(5)):
    found = [compare(seed) for seed in seeds]
    for name in found[0][1]:
        share = jnp.array([100 * of[name] for _, of in found])
        print(f"penalty {name}: {share.mean():.1f} ± {share.std(ddof=1):.1f}% wrong where unseen")
    logs = jnp.stack([hparams for hparams, _ in found])
    same, other = logs[:, : FEATURES // 2], logs[:, FEATURES // 2 :]
    print(f"median log penalty: {jnp.median(same):.1f} of features that mean the same", end=" ")
    print(f"everywhere, {jnp.median(other):.1f} of the others")


if __name__ == "__main__":
    main()
