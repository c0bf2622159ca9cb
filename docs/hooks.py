"""What the site has from outside docs/: the notebooks, and RESULTS.md, a page a study."""

import pathlib
import re

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
DOCS = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(#[^)]*)?\)")


@event_priority(100)  # before mkdocs-jupyter, which turns the notebooks into pages
def on_files(files, config):
    """Adds them to the site's files, and the results to its navigation."""
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("experiments/results/**/*.svg")]:
        files.append(_copied(path.relative_to(ROOT).as_posix(), config))
    research = []
    for path in sorted(ROOT.glob("experiments/results/research/*.md")):
        research.append(f"results/research/{path.name}")
        files.append(File.generated(config, research[-1], content=path.read_text()))
    titles, pages = _pages((ROOT / "RESULTS.md").read_text())
    for name, content in pages.items():
        files.append(File.generated(config, f"results/{name}", content=content))
    named = [{titles[name]: f"results/{name}"} for name in pages]
    config.nav[-1] = {"Results": [*named, *research]}
    return files


def on_page_markdown(markdown, page, config, files):
    """Links that lead out of docs/, as they do in a clone, lead to the site's copies."""
    depth = page.file.src_uri.count("/")

    def mended(match: re.Match) -> str:
        up, target = "../" * (depth + 1), match[1]
        if not target.startswith(up):
            return match[0]
        inside = target.removeprefix(up).replace("RESULTS.md", "results/index.md")
        return f"]({'../' * depth}{inside}{match[2] or ''})"

    return LINK.sub(mended, markdown) if page.file.src_uri in DOCS else markdown


def _copied(path: str, config) -> File:
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls)


def _pages(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """(title, content) by file name: a page for each heading of the first level, links mended."""
    parts = re.split(r"^(?=# )", text, flags=re.M)[1:]
    titles = {_name(i, part): part[2:].partition("\n")[0] for i, part in enumerate(parts)}
    anchors = {}
    for i, part in enumerate(parts):
        for heading in re.findall(r"^#+ (.*)$", part, re.M):
            anchors["#" + re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))] = (
                _name(i, part),
                "#" + re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-"),
            )

    def mended(match: re.Match) -> str:
        target, anchor = match[1], match[2] or ""
        if not target and anchor in anchors:
            return "](" + "".join(anchors[anchor]) + ")"
        if target.startswith("experiments/results/research"):
            return f"](research/{pathlib.PurePath(target).name})"
        return f"](../{target}{anchor})"

    return titles, {_name(i, part): LINK.sub(mended, part) for i, part in enumerate(parts)}


def _name(i: int, part: str) -> str:
    title = part[2:].partition("\n")[0].lower()
    return "index.md" if i == 0 else re.sub(r"\W+", "-", title).strip("-") + ".md"
