"""Hands on what the process prints, line by line, and still prints it."""

import io
import logging
import sys
import threading
from collections.abc import Callable
from typing import Final, TextIO

_MAX_LINE_CHARS: Final = 8192
FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Tee(io.TextIOBase):
    """A text stream that writes to another one and gives whole lines to `sink`; of a progress bar only its last state."""

    def __init__(self, stream: TextIO, sink: Callable[[str], None]) -> None:
        self._stream = stream
        self._sink = sink
        self._partial = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write, and hand on the lines that are complete now."""
        self._stream.write(text)
        with self._lock:
            *lines, self._partial = (self._partial + text).split("\n")
            self._partial = self._partial.rpartition("\r")[2][-_MAX_LINE_CHARS:]
            if lines:
                self._sink("".join(_clean(line) + "\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        """Flush the other stream."""
        self._stream.flush()

    def writable(self) -> bool:
        """True."""
        return True


def _clean(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2][:_MAX_LINE_CHARS]


def capture_output(sink: Callable[[str], None]) -> None:
    """From now on give `sink` all that is printed or logged; log records go to stderr."""
    sys.stdout = Tee(sys.stdout, sink)
    sys.stderr = Tee(sys.stderr, sink)
    logging.basicConfig(level=logging.INFO, format=FORMAT, stream=sys.stderr, force=True)
    logging.captureWarnings(True)
