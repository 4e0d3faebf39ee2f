"""What the page's server refuses: other files, other hosts, large files, strangers."""

import os
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.app_browser.page_server import ROOT, PageServer

FORBIDDEN = (400, 403, 404)


def read(server: PageServer, path: str) -> requests.Response:
    return requests.get(f"{server.url}/gradio_api/file={path}", timeout=20)


def test_the_clips_are_served(server: PageServer) -> None:
    server.outputs.mkdir(exist_ok=True)
    (server.outputs / "clip of words.gif").write_bytes(b"GIF89a")
    assert read(server, f"{server.outputs}/clip of words.gif").content == b"GIF89a"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "//etc/passwd",
        "{outputs}/../page.log",
        "{outputs}/..%2fpage.log",
        "{outputs}/%2e%2e/page.log",
        "{outputs}/x/../../page.log",
        "{root}/app.py",
        "{root}/.env",
        "app.py",
        "./app.py",
        "{root}/models/shapeworld/README.md",
        "{folder}/page.log",
        "{outputs}",
        "file:///etc/passwd",
        "{outputs}%00/etc/passwd",
    ],
)
def test_other_files_are_not(server: PageServer, path: str) -> None:
    places = {"outputs": server.outputs, "root": ROOT, "folder": server.folder}
    answer = read(server, path.format(**places))
    assert answer.status_code in FORBIDDEN, answer.text[:200]


@pytest.mark.parametrize("route", ["/static/../../app.py", "/file=/etc/passwd"])
def test_other_routes_lead_nowhere_else(server: PageServer, route: str) -> None:
    answer = requests.get(server.url + route, timeout=20)
    assert "root:" not in answer.text
    assert "animatediff.cli" not in answer.text


def test_no_other_server_is_asked(server: PageServer) -> None:
    proxy = f"{server.url}/gradio_api/proxy=http://127.0.0.1:{server.port}/config"
    answer = requests.get(proxy, timeout=20)
    assert answer.status_code in FORBIDDEN


def test_another_host_name_is_refused(server: PageServer) -> None:
    """A page elsewhere may let its own name lead to this machine."""
    headers = {"Host": "attacker.example"}
    assert requests.get(server.url, headers=headers, timeout=20).status_code == 400


def test_a_large_file_is_not_taken(server: PageServer) -> None:
    content = bytes(51_000_000)
    answer = requests.post(
        f"{server.url}/gradio_api/upload",
        files={"files": ("large.mp4", content)},
        timeout=60,
    )
    assert answer.status_code == 413
    folder = server.folder / "uploads"
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert max(sizes, default=0) < len(content)


def call(server: PageServer, target: str, data: list[Any], event: Any = None) -> str:
    """Send an event of the component ``target`` as the page's script would."""
    config = requests.get(f"{server.url}/config", timeout=20).json()
    ids = {each["props"].get("elem_id"): each["id"] for each in config["components"]}
    (function,) = [
        each["id"]
        for each in config["dependencies"]
        if any(source == ids[target] for source, _ in each["targets"])
        and each["backend_fn"]
    ][:1]
    body = {
        "data": data, "event_data": event, "fn_index": function,
        "session_hash": os.urandom(5).hex(), "trigger_id": ids[target],
    }  # fmt: skip
    joined = requests.post(f"{server.url}/gradio_api/queue/join", json=body, timeout=20)
    if not joined.ok:
        return joined.text
    stream = requests.get(
        f"{server.url}/gradio_api/queue/data",
        params={"session_hash": body["session_hash"]},
        stream=True,
        timeout=60,
    )
    lines: list[str] = []
    for line in stream.iter_lines():
        lines.append(line.decode())
        if "process_completed" in lines[-1] or "close_stream" in lines[-1]:
            break
    return "\n".join(lines)


def test_no_path_of_this_machine_counts_as_an_upload(server: PageServer) -> None:
    """The event of a dropped clip names a file that nobody has uploaded."""
    secret = server.folder / "secret.gif"
    secret.write_bytes(b"GIF89a secret words")
    forged = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    answer = call(server, "drop", [forged])
    assert "process_completed" in answer
    assert '"success":false' in answer.replace(" ", "")
    assert "holds no settings" not in answer  # it was not even looked at


def test_the_gallery_opens_nothing_else(server: PageServer) -> None:
    for name in ("../secret.gif", "/etc/passwd", "presets.json"):
        answer = call(server, "gallery", [], {"act": "open", "value": name})
        assert "process_completed" in answer
        assert "are in the form" not in answer
        assert "passwd" not in answer


def test_a_password_guards_everything(tmp_path: Path) -> None:
    with PageServer(tmp_path, ["--auth", "me:secret"]) as server:
        server.ready()
        server.outputs.mkdir(exist_ok=True)
        (server.outputs / "a.gif").write_bytes(b"GIF89a")
        assert read(server, f"{server.outputs}/a.gif").status_code == 401
        assert requests.get(f"{server.url}/config", timeout=20).status_code == 401
        with requests.Session() as session:
            wrong = {"username": "me", "password": "guess"}
            login = f"{server.url}/login"
            assert session.post(login, wrong, timeout=20).status_code == 400
            right = {"username": "me", "password": "secret"}
            assert session.post(login, right, timeout=20).ok
            file = f"{server.url}/gradio_api/file={server.outputs}/a.gif"
            assert session.get(file, timeout=20).content == b"GIF89a"
        assert "secret" not in server.log()
