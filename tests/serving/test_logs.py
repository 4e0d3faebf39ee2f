"""The log's lines."""

import json
import logging
import sys

import pytest

from animatediff.serving.logs import JsonLines, log_event


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


@pytest.mark.parametrize(
    "text",
    [
        "HTTP Request: GET https://cdn.example.org/a?X-Amz-Signature=s3cr3t HTTP/1.1",
        'https://h:443 "GET /cdn/file?Expires=1&Signature=s3cr3t HTTP/1.1" 200',
        "Error while downloading from https://h/x?token=s3cr3t: timed out",
        "url: /x?sig=s3cr3t (Caused by NewConnectionError('https://h/x?a=s3cr3t'))",
    ],
)
def test_no_line_shows_the_query_of_a_url(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        info = sys.exc_info()
    record = logging.makeLogRecord({"name": "httpx2", "msg": text, "exc_info": info})
    line = line_of(record)
    assert "s3cr3t" not in str(line)
    assert str(line["event"])[:5] == text[:5]
    plain = logging.makeLogRecord({"name": "x", "msg": "why? a=b, is it so?"})
    assert line_of(plain)["event"] == "why? a=b, is it so?"


def test_a_long_id_of_a_job_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        log_event("job_done", job="a" * 100_000)
        log_event("job_done", job="short")
    lines = [line_of(record) for record in caplog.records]
    assert len(str(lines[0]["job"])) < 300
    assert lines[1]["job"] == "short"
