"""Structured logging as text or JSON, including the log lines of libraries."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor

from models.zoo.display import shown

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that is being answered; log lines include it."""


def configure_logging(format: Literal["auto", "text", "json"], level: str) -> None:
    """Send all log records to standard error in one format, with the request id if there is one."""
    as_json = format == "json" or (format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        _add_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        # the default formatter prints local variables, including client data
        else [
            _escape_controls,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.root.handlers = [handler]
    logging.root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it logs at every start
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _add_request_id(_: object, __: str, event: EventDict) -> EventDict:
    current = request_id.get()
    if current is not None:
        event.setdefault("request_id", current)
    return event


def _escape_controls(_: object, __: str, event: EventDict) -> EventDict:
    """Escape control characters, so that client data cannot control the terminal."""
    return {
        key: shown(value, keep="\n") if isinstance(value, str) and key != "exception" else value
        for key, value in event.items()
    }
