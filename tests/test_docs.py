"""README, documentation and docstrings: their Python runs, and every public name has an example."""

import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys

import pytest

import hdistill as hd
from experiments.run import launch
from experiments.run.command import parse
from hdistill import training
from tests.conftest import CACHED
from tests.documents import PAGES, ROOT

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (hd, hd.offline, hd.online, training)
    for name in module.__all__
}


@pytest.mark.parametrize("what", ["pages", "examples"])
def test_python_runs(what):
    environment = os.environ | CACHED | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-m", "tests.documents", what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


COMMANDS = {
    command.strip()
    for page in PAGES
    for command in re.findall(r"python -m (experiments\.[^`#\n]*)", page.read_text())
    if "NAME" not in command
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_is_understood(command, monkeypatch):
    """Its module is there and takes its options; the studies' own tests run them."""
    name, *options = shlex.split(command)
    if name == "experiments.run.launch":  # which starts another
        given = launch.parse(options)
        name, options = given.study, given.options
    folder = ROOT / name.replace(".", "/")
    module = importlib.import_module(f"{name}.__main__" if folder.is_dir() else name)
    monkeypatch.setattr(sys, "argv", [name, *options])
    if hasattr(module, "Config"):
        parse(module.Config, None).check()
    else:
        assert not options


def test_the_two_commands_are_there():
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make ([\w-]+)", (ROOT / "README.md").read_text(), re.M)
    assert {"run", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", text, re.M), target


def test_the_reference_has_every_public_name():
    pages = "\n".join(path.read_text() for path in ROOT.glob("docs/api/*.md"))
    modules = {name for name, value in PUBLIC.items() if inspect.ismodule(value)}
    assert PUBLIC.keys() - modules <= set(re.findall(r"^::: (\S+)$", pages, re.M))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example(name):
    value = PUBLIC[name]
    if callable(value) and not (isinstance(value, type) and issubclass(value, BaseException)):
        described = hasattr(value, "_fields") or isinstance(value, type)
        assert ">>>" in value.__doc__ or (described and "Attributes:" in value.__doc__)


LINKING = [ROOT / "README.md", ROOT / "RESULTS.md", *ROOT.glob("experiments/results/**/README.md")]


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.parent.name)
def test_links_within_the_repository_lead_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text)
    assert links or page.parent != ROOT
    for target, anchor in links:
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            names = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in names, anchor
