"""A server that answers as the real one would, from memory, and can be made to fail."""

from tests.fake_server.server import KEY, FakeServer

__all__ = ["KEY", "FakeServer"]
