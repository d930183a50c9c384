"""Logging: one JSON object a line, or plain text on a terminal; every line says which resource it is about."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

# Namespace and name of the resource that this task works on.
subject: ContextVar[tuple[str, str] | None] = ContextVar("subject", default=None)


@contextmanager
def about(key: tuple[str, str]) -> Iterator[None]:
    """Have every line that is logged inside, and in the tasks started there, name a resource."""
    token = subject.set(key)
    try:
        yield
    finally:
        subject.reset(token)


def named(key: tuple[str, str]) -> dict[str, object]:
    """Give the `extra` of one line that names a resource."""
    return {"subject": key}


def key_of(record: logging.LogRecord) -> tuple[str, str] | None:
    """Give the resource that a line is about."""
    key: tuple[str, str] | None = getattr(record, "subject", None) or subject.get()
    return key


class Json(logging.Formatter):
    """One JSON object a line; what a traceback says is one field of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if key := key_of(record):
            line |= {"namespace": key[0], "name": key[1]}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Text(logging.Formatter):
    """A line for a person; the resource stands before what is said of it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        """Give the line without its traceback."""
        key = key_of(record)
        record.message = f"{key[0]}/{key[1]}: {record.message}" if key else record.message
        return super().formatMessage(record)


def configure(level: str, form: str) -> None:
    """Send every log line to stderr in the wanted form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
