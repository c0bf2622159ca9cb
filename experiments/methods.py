"""The methods by name, each with the arguments that decide what it does."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import hdistill as hd
from experiments.run.command import check_once
from hdistill.checks.values import check_count, check_gamma, check_positive

# When θ is fitted again, where it is not every so many inner optimisations.
SCHEDULES = {"doubling": lambda m: m & (m - 1) == 0}  # before inner optimisations 1, 2, 4, 8, ...


# Arguments that are not the estimator's: the learner's, and the problem's.
OTHERS = ("every", "last", "fit_period", "fit_schedule", "hyper_rate", "surrogate")


class Method(NamedTuple):
    """A method with its arguments.

    Attributes:
      name: what `--method` says.
      title: the name in tables, with the arguments in braces.
      arguments: everything that decides what the method does beside the setting, recorded with
        each run. `surrogate` says whether A and B are those of plain gradient descent, Φ without
        its momentum; `every`, `last`, `fit_period`, `fit_schedule` and `hyper_rate`, λ's learning
        rate, are the learner's; the rest is `build`'s.
      build: `(problem, horizon, **arguments) -> estimator`.
      varied: the arguments that a command line gives several values, each a run.
      colour: in pictures.
    """

    name: str
    title: str
    arguments: dict[str, Any]
    build: Callable
    varied: tuple[str, ...] = ()
    colour: str = "C6"

    def adapted(self, arguments: Mapping) -> "Method":
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
        """The folder of its runs: another place for each value of what is varied."""
        return "-".join([self.name, *(f"{k}{self.arguments[k]}" for k in self.varied)])

    @property
    def learner_arguments(self) -> dict:
        """Those of the arguments that `hd.learner` takes."""
        taken = ("every", "last", "fit_period")
        arguments = {k: v for k, v in self.arguments.items() if k in taken}
        if "fit_schedule" in self.arguments:
            arguments["fit_period"] = SCHEDULES[self.arguments["fit_schedule"]]
        return arguments

    def problem(self, setting) -> hd.Problem:
        """The setting's problem as the method differentiates it."""
        return setting.momentum_free if self.arguments.get("surrogate") else setting.problem

    def estimator(self, setting):
        """The estimator on a setting's problem."""
        own = {k: v for k, v in self.arguments.items() if k not in OTHERS}
        return self.build(self.problem(setting), setting.horizon, **own)


def _method(name, colour, title, build, varied=(), **arguments) -> Method:
    return Method(name, title, {"hyper_rate": 1e-3} | arguments, build, varied, colour)


def _online(estimator):
    return lambda problem, horizon, **arguments: estimator(problem, **arguments)


def _offline(method):
    return lambda problem, horizon, **options: functools.partial(method, **options)


# "The paper's" are DrMAD and HyperDistill with A and B of plain gradient descent; beside them stand
# those that differentiate Φ with its momentum.
METHODS = {
    method.name: method
    for method in (
        _method("fo", "C7", "FO", _online(hd.online.first_order)),
        _method("one-step", "C0", "1-step", _online(hd.online.one_step)),
        _method("drmad", "C5", "DrMAD", _offline(hd.offline.drmad), surrogate=True),
        _method("drmad-momentum", "#c49c94", "DrMAD, with momentum", _offline(hd.offline.drmad)),
        _method(
            "nift",
            "C2",
            "N.IFT({terms}, {last})",
            _online(hd.online.implicit),
            surrogate=True,
            terms=5,
            last=5,
        ),
        _method("greedy", "C8", "Greedy (γ={gamma})", _online(hd.online.greedy), gamma=0.5),
        # HyperDistill without w* and D*: what only the size is worth.
        _method(
            "one-step-sized",
            "C9",
            "1-step, size {size}",
            _online(hd.online.hyperdistill),
            surrogate=True,
            gamma=0.0,
            size="fit",
            fit_period=50,
        ),
        _method(
            "hyperdistill",
            "C3",
            "HyperDistill (γ={gamma})",
            _online(hd.online.hyperdistill),
            varied=("gamma",),
            surrogate=True,
            mixing="aligned",
            gamma=0.9,
            size="fit",
            fit_period=50,
        ),
        # D* as Eq. 14 draws it. With the same examples at every inner step, as the sinusoids have,
        # some then come twice in D* and others not at all (RESULTS.md, sinusoid/points-10).
        _method(
            "hyperdistill-apart",
            "#8c2d2d",
            "HyperDistill, D* apart (γ={gamma})",
            _online(hd.online.hyperdistill),
            surrogate=True,
            mixing="apart",
            gamma=0.9,
            size="fit",
            fit_period=50,
        ),
        _method(
            "hyperdistill-momentum",
            "#ff9896",
            "HyperDistill, with momentum (γ={gamma})",
            _online(hd.online.hyperdistill),
            varied=("gamma",),
            gamma=0.9,
            size="fit",
            fit_period=50,
        ),
        # Early on λ moves far, hence the schedule.
        _method(
            "robust",
            "C1",
            "Robust HyperDistill",
            _online(hd.online.robust_hyperdistill),
            gamma=0.6,
            memory=0.65,
            trust=0.9,
            fit_schedule="doubling",
        ),
        _method("drmad-every", "#008080", "DrMAD, every loss", _offline(hd.offline.drmad), every=1),
        _method(
            "drmad-bent",
            "#7b9cc4",
            "DrMAD, every loss, {anchors} anchors",
            _offline(hd.offline.drmad),
            every=1,
            anchors=6,
        ),
        _method("rmd-end", "C4", "RMD (exact, once at T)", _offline(hd.offline.reverse_mode)),
        _method(
            "rmd-every", "#5254a3", "RMD, every loss", _offline(hd.offline.reverse_mode), every=1
        ),
        _method(
            "rmd-window",
            "#9c9ede",
            "RMD, every loss of the last {window} steps",
            _offline(hd.offline.reverse_mode),
            every=1,
            window=30,
        ),
        _method(
            "rmd",
            "k",
            "Online RMD (exact)",
            lambda problem, horizon: hd.online.reverse_mode(problem, window=horizon),
        ),
        _method("unlearnt", "C6", "λ not learnt", _online(hd.online.first_order)),
    )
}


TITLES = {"gamma": " (γ={gamma})", "hyper_rate": ", rate {hyper_rate:g}"}


def chosen(
    name: str,
    among: Iterable[str],
    arguments: Callable[[str], dict],
    gammas: Iterable[float],
    given: Mapping[str, tuple],
) -> list[Method]:
    """The methods that a command line asks for.

    Args:
      name: one method's, or "all".
      among: what "all" means.
      arguments: a method's name -> those of its arguments that the preset decides.
      gammas: γ of HyperDistill where none is given, each a method.
      given: values of an argument on the command line, each a method; γ of the methods that vary
        it, or of the one that is named.

    Raises:
      ValueError: a value given twice, a name that is not a method's, a γ outside [0, 1], a rate
        that is not positive, a number of anchors < 1, or a value of what the method has not.
    """
    given = {key: values for key, values in given.items() if values}
    for key in given:
        check_once(key, given[key])
    for gamma in given.get("gamma", ()):
        check_gamma(gamma)
    for rate in given.get("hyper_rate", ()):
        check_positive("hyper_rate", rate)
    for anchors in given.get("anchors", ()):
        check_count("anchors", anchors)
    if name != "all" and name not in METHODS:
        raise ValueError(f"method={name!r}: expected 'all' or one of {', '.join(METHODS)}")
    if name != "all":
        for key, (value, *_) in given.items():
            if key not in METHODS[name].arguments:
                raise ValueError(f"{key}={value}: expected none, method={name!r} has no {key}")
    methods = []
    for method in (METHODS[n] for n in ([name] if name != "all" else among)):
        method = method.adapted(arguments(method.name))
        for key in given:
            named = key in method.arguments and (key != "gamma" or name != "all")
            if named and key not in method.varied:
                shown = TITLES[key] if f"{{{key}" not in method.title else ""
                method = method._replace(title=method.title + shown, varied=(*method.varied, key))
        versions, values = [method], {"gamma": gammas} | given
        for key in method.varied:
            versions = [m.adapted({key: x}) for m in versions for x in values[key]]
        methods += versions
    return methods
