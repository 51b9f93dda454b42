"""A TCP proxy that a test makes slow, deaf or broken while connections go through it."""

import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_PIECE = 1 << 16


class FaultyProxy:
    """Listens on this machine, and hands on to a port or a Unix socket, both ways, what it is not told to hold back."""

    def __init__(self, target: tuple[str, int] | Path) -> None:
        self._target = target
        self._open = threading.Event()
        self._open.set()
        self._live: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.refuses = False
        """Whether new connections are closed at once."""
        self.delay = 0.0
        """Seconds that each piece takes longer."""
        self.cut_after: int | None = None
        """So many more bytes of answers get through; then their connection is cut."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, name="faulty proxy", daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._open.set()
        # A thread that waits in accept() is woken by a shutdown, not by a close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._accepting.join(10)

    def swallow(self) -> None:
        """A black hole: connections are taken and stay, and nothing comes through any more."""
        self._open.clear()

    def heal(self) -> None:
        """No faults from now on; what was held back arrives."""
        self.refuses, self.delay, self.cut_after = False, 0.0, None
        self._open.set()

    def cut(self) -> None:
        """Cut every connection in the middle of whatever it does."""
        with self._lock:
            live, self._live = self._live, set()
        for one in live:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                client.close()
                continue
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            with self._lock:
                self._live |= {client, server}
            for source, sink, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, answers), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, Path):
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._target))
            except OSError:
                server.close()
                raise
            return server
        return socket.create_connection(self._target, timeout=None)

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                if self.delay:
                    self._ended.wait(self.delay)
                self._open.wait()
                if answers and self.cut_after is not None:
                    piece, self.cut_after = piece[: self.cut_after], self.cut_after - len(piece)
                    if self.cut_after <= 0:
                        self.cut_after = None
                        sink.sendall(piece)
                        break
                sink.sendall(piece)
        for one in (source, sink):
            with self._lock:
                self._live.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            if one is source:
                one.close()
