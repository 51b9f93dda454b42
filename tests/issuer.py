"""A real identity provider on a loopback port: discovery, keys, and tokens that it signs."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class LocalIssuer:
    """Publishes `published`, and counts how often it is asked; signs with any of its keys, published or not."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[PrivateKey, str]] = {"rsa": (_RSA, "RS256"), "ec": (new_ec(), "ES256")}
        self.published = ["rsa", "ec"]
        self.asked = 0
        self.document: dict[str, Any] = {}
        """Laid over the discovery document."""
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/realms/ml"

    def token(self, key: str = "rsa", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token with these claims, signed; a claim of None is left out."""
        private, algorithm = self.keys[key]
        sound = {claim: value for claim, value in {"iss": self.url, **claims}.items() if value is not None}
        return jwt.encode(sound, private, algorithm, headers={"kid": key, **(headers or {})})

    def start(self) -> None:
        """Answer, at the same port as before."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(issuer.answer(self.path)).encode()
                self.send_response(200 if body != b"null" else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def answer(self, path: str) -> Any:
        if path == "/realms/ml/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.document}
        if path == "/realms/ml/keys":
            self.asked += 1
            return {"keys": [published(name, *self.keys[name]) for name in self.published]}
        return None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def new_ec() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def published(name: str, private: PrivateKey, algorithm: str) -> dict[str, Any]:
    public = private.public_key()
    key = (
        RSAAlgorithm.to_jwk(public, as_dict=True)
        if isinstance(public, rsa.RSAPublicKey)
        else ECAlgorithm.to_jwk(public, as_dict=True)
    )
    return {**key, "kid": name, "use": "sig", "alg": algorithm}
