"""The worker's log: one JSON object a line, on stderr. No prompts, no credentials, no
URLs.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

_log = logging.getLogger("animatediff.events")


def log_event(
    event: str,
    *,
    level: int = logging.INFO,
    cause: BaseException | None = None,
    **fields: Any,
) -> None:
    """Log ``event`` with JSON-ready ``fields``, ``job`` among them where it is about
    one; ``cause`` with traceback.
    """
    _log.log(level, event, extra={"fields": fields}, exc_info=cause)


class JsonLines(logging.Formatter):
    """A record as one line: time, level, event, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        if not record.name.startswith("animatediff"):
            line["logger"] = record.name
        return json.dumps(line, default=str)


def configure_logs() -> None:
    """Send every log record of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
