"""Adds to the site pages from outside docs/: the notebooks, RESULTS.md, and a page for each set."""

import pathlib
import re

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
DOCS = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(#[^)]*)?\)")
COPIED = (
    "notebooks/*.ipynb",
    "RESULTS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "experiments/README.md",
    "experiments/results/claims.md",
    "experiments/results/**/*.svg",
    "experiments/results/**/README.md",
    "experiments/results/research/*.md",
)


@event_priority(100)  # before mkdocs-jupyter, which turns the notebooks into pages
def on_files(files, config):
    """Adds them to the site's files where they are in a clone, and the sets to its navigation."""
    studies: dict[str, list[str]] = {}
    for path in [path for pattern in COPIED for path in sorted(ROOT.glob(pattern))]:
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
        if name.count("/") > 2 and path.suffix == ".md":
            studies.setdefault(name.split("/")[2], []).append(name)
    first = ["RESULTS.md", "experiments/results/claims.md", "experiments/README.md"]
    config.nav[-1] = {"Results": [*first, *({k: v} for k, v in studies.items())]}
    return files


def on_page_markdown(markdown, page, config, files):
    """Links that lead out of docs/, as they do in a clone, lead to the site's copies."""
    depth = page.file.src_uri.count("/")

    def mended(match: re.Match) -> str:
        up, target = "../" * (depth + 1), match[1]
        if not target.startswith(up):
            return match[0]
        return f"]({'../' * depth}{target.removeprefix(up)}{match[2] or ''})"

    return LINK.sub(mended, markdown) if page.file.src_uri in DOCS else markdown
