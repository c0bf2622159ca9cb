"""The methods by name: the only list of them, each with the arguments that decide what it does."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import hdistill as hd
from hdistill.checks import check_gamma

# When θ is fitted again, where it is not every so many inner optimisations.
SCHEDULES = {"doubling": lambda m: m & (m - 1) == 0}  # before inner optimisations 1, 2, 4, 8, ...


class Method(NamedTuple):
    """A method with its arguments.

    Attributes:
      name: what `--method` says.
      title: the name in tables, with the arguments in braces.
      arguments: everything that decides what the method does beside the setting, recorded with
        each run. `last`, `fit_period` and `fit_schedule` are the learner's, the rest is `build`'s.
      build: `(setting, **arguments) -> estimator`, of a setting with `problem`, `descent` and
        `horizon`.
      varied: the arguments that a command line gives several values, each a run.
    """

    name: str
    title: str
    arguments: dict[str, Any]
    build: Callable
    varied: tuple[str, ...] = ()

    def adapted(self, arguments: dict) -> "Method":
        """The method with those of the arguments that it has."""
        return self._replace(
            arguments={k: arguments.get(k, value) for k, value in self.arguments.items()}
        )

    @property
    def label(self) -> str:
        """The title, its arguments filled in."""
        shown = dict(self.arguments)
        if "size" in shown:
            shown["size"] = "fitted" if shown["size"] == "fit" else f"{shown['size']:g}"
        return self.title.format(**shown)

    @property
    def folder(self) -> str:
        """Where its runs go: another place for each value of what is varied."""
        return "-".join([self.name, *(f"{k}{self.arguments[k]}" for k in self.varied)])

    @property
    def learner_arguments(self) -> dict:
        """Those of the arguments that `hd.learner` takes."""
        arguments = {k: v for k, v in self.arguments.items() if k in ("last", "fit_period")}
        if "fit_schedule" in self.arguments:
            arguments["fit_period"] = SCHEDULES[self.arguments["fit_schedule"]]
        return arguments

    def estimator(self, setting):
        """The estimator on a setting's problem."""
        others = ("last", "fit_period", "fit_schedule")
        return self.build(setting, **{k: v for k, v in self.arguments.items() if k not in others})


def _hyperdistill(setting, gamma, size):
    return hd.online.hyperdistill(setting.problem, gamma=gamma, size=size)


METHODS = {
    method.name: method
    for method in (
        Method("fo", "FO", {}, lambda s: hd.online.first_order(s.problem)),
        Method("one-step", "1-step", {}, lambda s: hd.online.one_step(s.problem)),
        Method("drmad", "DrMAD", {}, lambda s: hd.offline.drmad),
        Method(
            "nift",
            "N.IFT({terms}, {last})",
            {"terms": 5, "last": 5},
            lambda s, terms: hd.online.implicit(s.descent, solver="neumann", terms=terms),
        ),
        Method(
            "greedy",
            "Greedy (γ={gamma})",
            {"gamma": 0.5},
            lambda s, gamma: hd.online.greedy(s.problem, gamma=gamma),
        ),
        # HyperDistill without w* and D*: what the size alone is worth.
        Method(
            "one-step-sized",
            "1-step, size {size}",
            {"gamma": 0.0, "size": "fit", "fit_period": 50},
            _hyperdistill,
        ),
        Method(
            "hyperdistill",
            "HyperDistill (γ={gamma})",
            {"gamma": 0.9, "size": "fit", "fit_period": 50},
            _hyperdistill,
            varied=("gamma",),
        ),
        # Early on λ moves far, hence the schedule.
        Method(
            "robust",
            "Robust HyperDistill",
            {"gamma": 0.6, "trust": 0.9, "fit_schedule": "doubling"},
            lambda s, **arguments: hd.online.robust_hyperdistill(s.problem, **arguments),
        ),
        Method("rmd-end", "RMD (exact, once at T)", {}, lambda s: hd.offline.reverse_mode),
        Method(
            "rmd",
            "Online RMD (exact)",
            {},
            lambda s: hd.online.reverse_mode(s.problem, window=s.horizon),
        ),
        Method("unlearnt", "λ not learnt", {}, lambda s: hd.online.first_order(s.problem)),
    )
}


def chosen(
    name: str, among: Iterable[str], arguments: dict, varied: Mapping[str, Iterable]
) -> list[Method]:
    """The methods that a command line asks for.

    Args:
      name: one method's, or "all".
      among: what "all" means.
      arguments: of the preset, for the methods that have them.
      varied: the values of each varied argument; each value gives a method.

    Raises:
      ValueError: a name that is not a method's, a γ outside [0, 1].
    """
    for gamma in varied.get("gamma", ()):
        check_gamma(gamma)
    if name != "all" and name not in METHODS:
        raise ValueError(f"method={name!r}: expected 'all' or one of {', '.join(METHODS)}")
    methods = []
    for method in (METHODS[n] for n in ([name] if name != "all" else among)):
        method = method.adapted({k: v for k, v in arguments.items() if k not in method.varied})
        versions = [method]
        for key in method.varied:
            versions = [m.adapted({key: x}) for m in versions for x in varied[key]]
        methods += versions
    return methods
