"""The log's lines."""

import json
import logging
import sys

from animatediff.serving.logs import JsonLines


def line_of(record: logging.LogRecord) -> dict[str, object]:
    return json.loads(JsonLines().format(record))


def test_a_line_has_the_event_and_its_fields() -> None:
    record = logging.makeLogRecord(
        {"name": "animatediff.events", "msg": "job_done", "fields": {"job": "a\nb"}}
    )
    line = line_of(record)
    assert (line["event"], line["job"]) == ("job_done", "a\nb")
    assert "logger" not in line


def test_a_library_s_line_has_its_logger_and_traceback() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        info = sys.exc_info()
    record = logging.makeLogRecord({"name": "urllib3", "msg": "bad", "exc_info": info})
    line = line_of(record)
    assert line["logger"] == "urllib3"
    assert "KeyError: 'x'" in str(line["traceback"])
