"""What the documentation's Python does: run as `python -m tests.documents pages|examples|code DIR`.

In a process of its own, because the tests' process has float64 on and four devices.

- pages: the blocks of README and of each page in docs/, page by page, in order.
- examples: the docstrings' examples, after the blocks of docs/api/index.md.
- code DIR: each page's blocks as one file, for type checkers.
"""

import doctest
import importlib
import os
import pathlib
import pkgutil
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "api" / "index.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_of(page: pathlib.Path) -> str:
    """The Python blocks of a page, in order; one with a title is another library's."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.M))


def run_pages() -> None:
    for page in PAGES:
        if python_of(page):
            print(page.relative_to(ROOT), flush=True)
            code = compile(python_of(page), str(page), "exec")
            exec(code, {"__name__": page.stem})


def run_examples() -> None:
    import hdistill

    names = {}
    exec(compile(python_of(REFERENCE), str(REFERENCE), "exec"), names)
    runner, finder = doctest.DocTestRunner(), doctest.DocTestFinder()
    for info in pkgutil.walk_packages(hdistill.__path__, "hdistill."):
        module = importlib.import_module(info.name)
        for test in finder.find(module, info.name, globs=names):
            runner.run(test)
    failed, tried = runner.summarize()
    assert tried > 100 and not failed, f"{failed} of {tried} examples"


def write_code(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        if python_of(page):
            name = "_".join(page.relative_to(ROOT).with_suffix(".py").parts).replace("-", "_")
            (folder / name).write_text(python_of(page))


if __name__ == "__main__":
    if sys.argv[1] == "code":
        write_code(pathlib.Path(sys.argv[2]))
    else:
        os.chdir(tempfile.mkdtemp())  # runs/ and pictures go there
        {"pages": run_pages, "examples": run_examples}[sys.argv[1]]()
