import json
import logging

import pytest
import structlog

from trellis.server.logging import configure_logging


@pytest.fixture(autouse=True)
def restored() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_variables(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(log_format, "INFO")
    token = "tra_" + "very-secret"
    try:
        raise ValueError(len(token))
    except ValueError:
        structlog.get_logger("a").exception("went_wrong")
    out = capsys.readouterr().out
    assert "went_wrong" in out
    assert "ValueError" in out
    assert token not in out


def test_a_line_is_one_json_object_with_what_was_bound(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    with structlog.contextvars.bound_contextvars(request_id="r1", tenant="acme"):
        structlog.get_logger("a").info("happened", job="j")
        logging.getLogger("other").warning("by the %s library", "standard")
    ours, theirs = map(json.loads, capsys.readouterr().out.splitlines())
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {
        "event": "happened",
        "job": "j",
        "level": "info",
        "logger": "a",
        "request_id": "r1",
        "tenant": "acme",
    }
    assert (theirs["event"], theirs["logger"], theirs["tenant"]) == ("by the standard library", "other", "acme")
