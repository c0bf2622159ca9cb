"""The documentation's Python: `python -m tests.documents pages|examples|code DIR`.

In its own process, because the tests' process has float64 on and four devices.

- pages: the blocks of README, of each page in docs/ and of each notebook, in order.
- examples: the docstrings' examples, after the blocks of docs/api/index.md.
- code DIR: each page's blocks as one file, for type checkers.
"""

import doctest
import gc
import importlib
import json
import os
import pathlib
import pkgutil
import re
import sys
import tempfile
import time
import warnings

ROOT = pathlib.Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "api" / "index.md"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_of(page: pathlib.Path) -> str:
    """The Python blocks of a page, in order; one with a title is another library's."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.M))


def cells_of(notebook: pathlib.Path) -> str:
    """The code of a notebook, in order."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def run_pages() -> None:
    warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")  # plt.show()
    texts = {page: python_of(page) for page in PAGES}
    texts |= {notebook: cells_of(notebook) for notebook in NOTEBOOKS}
    for file, text in texts.items():
        if text:
            start = time.perf_counter()
            exec(compile(text, str(file), "exec"), {"__name__": file.stem})
            print(f"{file.relative_to(ROOT)}: {time.perf_counter() - start:.1f} s", flush=True)


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
        gc.set_threshold(1_000_000, 10, 10)  # as in conftest.py
        os.chdir(tempfile.mkdtemp())  # runs/ and pictures go there
        {"pages": run_pages, "examples": run_examples}[sys.argv[1]]()
