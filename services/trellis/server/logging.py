"""Structured logs: one JSON object a line, with the request id, tenant and job that it is about."""

import logging
import sys
from typing import Any

import structlog

from trellis.server.domain.blanking import blanked
from trellis.tracing import current_trace_id

# Without the frames' variables: they hold keys, tokens and tenants' data.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))

# At DEBUG these tell of every statement, request and header: what tenants wrote, and what opens stores.
_TALKATIVE = ("aiosqlite", "aiobotocore", "botocore", "fsspec", "httpcore", "httpx", "s3fs", "urllib3")


def configure_logging(log_format: str, level: str) -> None:
    """Send structlog's and the standard library's logs to stdout, as `json` or, for people, `console`."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if log_format == "console"
        else [_TRACEBACKS, structlog.processors.JSONRenderer(sort_keys=True)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers, _blank_secrets],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _add_trace(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Of the span that the line was written in, so that the one leads to the other."""
    if trace_id := current_trace_id():
        line["trace_id"] = trace_id
    return line


def _blank_secrets(_logger: object, _method: str, line: Any) -> str:
    """The whole line, last of all: nothing should have put a secret there, and if something did, it ends here."""
    return blanked(str(line))
