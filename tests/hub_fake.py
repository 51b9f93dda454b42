"""A hub of models on this machine, spoken to over HTTP as the real one is: its API, its files with ranges, its refusals."""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from safetensors.numpy import save_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, "vocab_size": 11}
_PIECE = 64 << 10


def write_base(folder: Path, *, shards: int = 2, rows: int = 60_000, seed: int = 0) -> Path:
    """A model of `shards` files of 16 bytes a row, with what is beside a model on hubs: pickles and another split."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    rng, named = np.random.default_rng(seed), {}
    for number in range(shards):
        name, tensor = f"model-{number + 1}-of-{shards}.safetensors", f"model.layers.{number}.mlp.up_proj.weight"
        save_file({tensor: rng.standard_normal((rows, 4), np.float32)}, folder / name)
        named[tensor] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    save_file({"all": np.zeros(4, np.float32)}, folder / "consolidated.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("Not wanted.")
    return folder


@dataclass
class Hub:
    """The hub: what it serves, and how it fails."""

    folders: dict[str, Path] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    """Which token opens a model."""
    commit: str = COMMIT
    cuts: list[int] = field(default_factory=list)
    """After so many bytes each, the next answers with weights are cut off."""
    wrong: Counter[str] = field(default_factory=Counter)
    """So many more answers of a file have a wrong byte."""
    busy: int = 0
    """So many more answers are 503."""
    hold_after: int = 0
    """After so many bytes, answers with weights wait for `go_on`; 0 for never."""
    go_on: threading.Event = field(default_factory=threading.Event)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes that went out, by file."""
    asked: Counter[str] = field(default_factory=Counter)
    """Bytes that were asked for, by file."""
    calls: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    """Set when an answer waits."""
    endpoint: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub while the block runs."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_said: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.calls.append(path)
        with hub.lock:
            busy, hub.busy = hub.busy > 0, max(0, hub.busy - 1)
        if busy:
            self._refuse(503)
        elif found := re.fullmatch(r"/api/models/(.+)/revision/(.+)", path):
            self._list(found[1], found[2])
        elif found := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self._send(found[1], found[2], found[3])
        else:
            self._refuse(404)

    def _may(self, model: str, revision: str) -> bool:
        if model not in self.hub.folders:
            self._refuse(401, "RepoNotFound")
        elif model in self.hub.gated and self.headers.get("authorization") != f"Bearer {self.hub.gated[model]}":
            self._refuse(403 if self.headers.get("authorization") else 401, "GatedRepo")
        elif revision not in {"main", self.hub.commit}:
            self._refuse(404, "RevisionNotFound")
        else:
            return True
        return False

    def _list(self, model: str, revision: str) -> None:
        if not self._may(model, revision):
            return
        siblings = [_sibling(path) for path in sorted(self.hub.folders[model].iterdir())]
        body = json.dumps({"id": model, "sha": self.hub.commit, "siblings": siblings}).encode()
        self._answer(200, {"content-type": "application/json"}, len(body))
        self.wfile.write(body)

    def _send(self, model: str, revision: str, name: str) -> None:
        if not self._may(model, revision):
            return
        data = (self.hub.folders[model] / name).read_bytes()
        with self.hub.lock:
            if self.hub.wrong[name]:
                self.hub.wrong[name] -= 1
                data = data[:-1] + bytes([data[-1] ^ 1])
        first = int(found[1]) if (found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))) else 0
        self.hub.asked[name] += len(data) - first
        ranged = {"content-range": f"bytes {first}-{len(data) - 1}/{len(data)}"} if first else {}
        self._answer(
            206 if first else 200, {"etag": f'"{hashlib.sha256(data).hexdigest()}"', **ranged}, len(data) - first
        )
        self._pieces(name, data[first:])

    def _pieces(self, name: str, data: bytes) -> None:
        hub, heavy = self.hub, name.endswith(".safetensors")
        with hub.lock:
            cut = hub.cuts.pop(0) if heavy and hub.cuts else len(data)
        for at in range(0, min(cut, len(data)), _PIECE):
            if heavy and hub.hold_after and at >= hub.hold_after:
                hub.held.set()
                hub.go_on.wait(30)
            piece = data[at : min(at + _PIECE, cut)]
            self.wfile.write(piece)
            hub.sent[name] += len(piece)
        if cut < len(data):
            self.close_connection = True
            self.connection.close()

    def _refuse(self, status: int, code: str = "") -> None:
        self._answer(status, {"x-error-code": code} if code else {}, 0)

    def _answer(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # who asked was killed


def _sibling(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    found = {"rfilename": path.name, "size": len(data), "blobId": blob}
    if path.suffix in {".safetensors", ".bin"}:
        found["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
    return found
