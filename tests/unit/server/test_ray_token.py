"""Ray's token, as a text and in a file that comes later."""

from pathlib import Path

import httpx

from trellis.server.clusters.ray_token import RayToken


def said(token: RayToken) -> str | None:
    (request,) = token.auth_flow(httpx.Request("GET", "http://ray"))
    return request.headers.get("authorization")


def test_a_text_is_said() -> None:
    assert said(RayToken("hush")) == "Bearer hush"
    assert said(RayToken()) is None


def test_a_file_may_come_later_and_change(tmp_path: Path) -> None:
    path = tmp_path / "auth_token"
    token = RayToken(path)
    assert said(token) is None
    path.write_text("one\n")
    assert said(token) == "Bearer one"
    path.write_text("two")
    assert said(token) == "Bearer two"
