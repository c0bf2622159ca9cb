"""The report of `hd.diagnose`: what was measured, as a table, with alarms in words."""

from typing import NamedTuple

import numpy as np

ENOUGH, SMOOTH, PREDICTED, RIGHT, GROWN = 0.95, 0.9, 0.5, 1.5, 1e4  # cosine, Ŝ, ..., slope, growth


class Cheaper(NamedTuple):
    """A cheaper method beside the exact one.

    Examples:
      >>> hd.Cheaper(cosine=0.98, products=1).products
      1

    Attributes:
      cosine: of its hypergradient to exact reverse mode's.
      products: Jacobian products of Φ.
    """

    cosine: float
    products: int


class Diagnosis(NamedTuple):
    """The report of `hd.diagnose`; prints as a table.

    Examples:
      >>> hd.Diagnosis._fields[:2]
      ('repeats', 'slope')

    Attributes:
      repeats: |f - f'| / |f| of two compilations of the same training; 0 if nothing outside λ, w_0
        and the batches decides it.
      slope: of log |f(λ + εv) - f(λ) - ε g·v| over log ε where ε is small: 2 if g is f's
        derivative, 1 if it is not; nan where the remainder is all rounding, and g is right.
      epsilons, remainders: what it was fitted to, floating [14]; ε times λ's length.
      noise: how much f changes by rounding, in float64 and in what Φ computes in float32.
      smoothness: Ŝ of Engstrom et al. 2025, 1 where training is smooth in λ, 0 where it is noise.
      curvature: S = |f(λ+2hv) - 2f(λ+hv) + f(λ)| / h².
      predicted: 1 - |Δ - h g·v| / max(|Δ|, |h g·v|), Δ = f(λ+hv) - f(λ): 1 where g says what that
        change of λ does, 0 or less where it does not.
      finite: whether weights, loss and hypergradient are finite.
      first_bad: the first that is not, in words, or "".
      precision: cosine of the hypergradient in the precision given to that in float64 (of
        `precise`, if given); nan where Φ does not run in float64.
      unreached: names of the leaves of λ that no path leads from to L_val.
      growth: ‖α_t ∘ w_t‖ / ‖α_T ∘ w_T‖ along the exact way back, t = T-1..0, floating [T]: what a
        relative change of the weights there does to the loss.
      cheaper: a `Cheaper` for each of the methods tried, by name.
      alarms: what to do something about, in words.
      notes: what to know.
    """

    repeats: float
    slope: float
    epsilons: np.ndarray
    remainders: np.ndarray
    noise: float
    smoothness: float
    curvature: float
    predicted: float
    finite: bool
    first_bad: str
    precision: float
    unreached: tuple[str, ...]
    growth: np.ndarray
    cheaper: dict[str, Cheaper]
    alarms: tuple[str, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        """A short table, and what to do."""
        rows = [
            ("trains the same twice", f"differs by {self.repeats:.1e}"),
            ("slope of Taylor's remainder", f"{self.slope:.2f}  (right: 2)"),
            ("smoothness of training, Ŝ", f"{self.smoothness:.3f}  (1: smooth)"),
            ("a change of λ by h, predicted", f"{self.predicted:.3f}  (1: by g)"),
            ("finite", self.first_bad or "yes"),
            ("cosine to float64", f"{self.precision:.5f}"),
            ("λ without a path to L_val", ", ".join(self.unreached) or "none"),
            ("largest growth of cotangents", f"{np.max(self.growth, initial=0):.3g}"),
        ]
        rows += [
            (name, f"cosine {of.cosine:.3f} for {of.products} products")
            for name, of in self.cheaper.items()
        ]
        lines = [f"{name:32}{value}" for name, value in rows]
        lines += [f"ALARM: {text}" for text in self.alarms] + list(self.notes)
        return "\n".join(lines)

    def plot(self):
        """Draws the remainder over ε and the cotangents over t; needs matplotlib.

        Returns:
          A matplotlib figure.
        """
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        left.loglog(self.epsilons, self.remainders, "o-", label="remainder")
        reference = self.remainders[0] * (self.epsilons / self.epsilons[0]) ** 2
        left.loglog(self.epsilons, reference, ":", label="slope 2")
        left.axhline(self.noise, color="0.7", label="rounding")
        left.set(xlabel="ε", ylabel="|f(λ + εv) - f(λ) - ε g·v|")
        left.legend()
        right.semilogy(np.arange(len(self.growth))[::-1], self.growth)
        right.set(xlabel="inner step t", ylabel="‖α_t ∘ w_t‖ / ‖α_T ∘ w_T‖")
        return figure


def alarms_of(found: dict) -> tuple[str, ...]:
    """What to do something about, in words."""
    alarms = []
    if found["repeats"] > 1e-3:
        alarms.append(
            "two compilations train differently: Φ, L_val or the batches draw from a state outside "
            "(NumPy's generator, a global); draw by t"
        )
    if not found["finite"]:
        alarms.append(f"{found['first_bad']} is not finite first (an eps_root? a lower rate?)")
    elif not np.isnan(found["slope"]) and found["slope"] < RIGHT:
        alarms.append(
            "g is not the derivative of L_val(w_T(λ), λ): something is cut off (stop_gradient, a "
            "surrogate, a cast, a custom derivative), or the method is an approximation"
        )
    if found["finite"] and found["precision"] < 0.99:
        alarms.append(f"the cosine to float64 is {found['precision']:.3f}: rounding decides g")
    if found["unreached"]:
        alarms.append(f"no path leads from {', '.join(found['unreached'])} to L_val")
    if np.max(found["growth"], initial=0) > GROWN:
        alarms.append("the cotangents grow on the way back: early steps drown the rest; a window")
    if found["finite"] and found["smoothness"] < SMOOTH and found["predicted"] < PREDICTED:
        alarms.append(
            f"training is not smooth (Ŝ = {found['smoothness']:.2f}): even the exact g says little "
            "of what a change of λ does; a lower rate, GELU, an eps_root, or a window"
        )
    return tuple(alarms)


def notes_of(found: dict, exact: int) -> tuple[str, ...]:
    """What to know: the cheapest method that is close enough."""
    enough = {k: m for k, m in found["cheaper"].items() if m.cosine >= ENOUGH}
    if not enough:
        return (f"no cheaper method has a cosine of {ENOUGH}: exact, {exact} products",)
    name, best = min(enough.items(), key=lambda item: item[1].products)
    return (f"cheapest with a cosine of {ENOUGH}: {name}, {best.products} products of {exact}",)
