"""README, documentation and docstrings: their Python runs, and every public name has an example."""

import os
import re
import subprocess
import sys

import pytest

import hdistill as hd
from hdistill import training
from tests.conftest import QUICK
from tests.documents import ROOT

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (hd, hd.offline, hd.online, training)
    for name in module.__all__
}


@pytest.mark.parametrize("what", ["pages", "examples"])
def test_python_runs(what):
    environment = os.environ | QUICK | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-m", "tests.documents", what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example(name):
    value = PUBLIC[name]
    if callable(value) and not (isinstance(value, type) and issubclass(value, BaseException)):
        described = hasattr(value, "_fields") or isinstance(value, type)
        assert ">>>" in value.__doc__ or (described and "Attributes:" in value.__doc__)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "RESULTS.md"])
def test_links_within_the_repository_lead_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text)
    assert links
    for target, anchor in links:
        file = ROOT / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            names = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in names, anchor
