"""The worker's log: one JSON object per line, on stderr.

It contains no prompts (unless ANIMATEDIFF_LOG_PROMPTS is 1), no credentials, and URLs
only without their secrets, whoever wrote the record.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from ..errors import shorten
from ..shown import shown_values

_log = logging.getLogger("animatediff.events")


def log_event(
    event: str,
    *,
    level: int = logging.INFO,
    cause: BaseException | None = None,
    **fields: Any,
) -> None:
    """Log ``event`` with JSON-ready ``fields``, and the traceback of ``cause``.

    The field ``job`` is the id of the job that the event belongs to, cut if it is long.
    """
    if "job" in fields:
        fields["job"] = shorten(fields["job"], 200)
    _log.log(level, event, extra={"fields": fields}, exc_info=cause)


class JsonLines(logging.Formatter):
    """Formats a record as one line with its time, level, event and fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON text of ``record``."""
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
        return json.dumps(shown_values(json.loads(json.dumps(line, default=str))))


LIBRARIES = (
    "asyncio",
    "boto3",
    "botocore",
    "diffusers",
    "filelock",
    "httpcore",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "PIL",
    "requests",
    "runpod",
    "s3transfer",
    "transformers",
    "urllib3",
)
"""Loggers of libraries that describe requests and files below WARNING.

Some of them set their own levels, so the level of the root does not suffice.
"""
TALKATIVE = ("huggingface_hub.file_download", "huggingface_hub.utils._http")
"""Loggers that show whole URLs in warnings of what is then tried again.

They have a handler of their own, which knows nothing of secrets.
"""


def configure_logs() -> None:
    """Send every log record of this process to stderr as JSON lines.

    All but this package report warnings and errors only.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("animatediff").setLevel(logging.INFO)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
