"""Ctrl-C and SIGTERM: the loop ends after the step that it is in, with a checkpoint."""

import signal
import threading


class Stopped(KeyboardInterrupt):
    """The run was asked to stop; its last checkpoint is on disk."""


class StopRequest:
    """Whether the process was asked to stop, within a `with` block. The second request kills."""

    def __enter__(self) -> "StopRequest":
        self.signal: int | None = None
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
