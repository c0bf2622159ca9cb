"""Progress of long work: a bar where a person watches, elsewhere a line now and then."""

import sys
import time
from collections.abc import Iterator, Sequence

from tqdm import tqdm

PERIOD = 60.0  # seconds between two lines


class Progress:
    """Counts steps, within a `with` block: a bar in a terminal or a notebook, else a line a minute.

    Args:
      total: how many steps.
      done: how many are done already.
      label: what they are.
    """

    def __init__(self, total: int, done: int = 0, label: str = ""):
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._bar = tqdm(total=total, initial=done, desc=label, leave=False, disable=not watched)
        self._total, self._done, self._label = total, done, label
        self._told = None if watched else time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()

    def advance(self, figures: dict[str, str] | None = None) -> None:
        """One step more, and figures to show beside it."""
        self._done += 1
        figures = figures or {}
        if self._told is None:
            self._bar.set_postfix(figures)
            self._bar.update()
        elif time.monotonic() - self._told >= PERIOD:
            self._told = time.monotonic()
            shown = ", ".join(f"{k} {v}" for k, v in figures.items())
            text = f"{self._label}: {self._done} of {self._total}{', ' * bool(shown)}{shown}"
            print(text.removeprefix(": "), file=sys.stderr, flush=True)


def progress(items: Sequence, label: str) -> Iterator:
    """The items, counted as they are taken."""
    with Progress(len(items), label=label) as shown:
        for item in items:
            yield item
            shown.advance()
