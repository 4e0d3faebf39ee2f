"""animatediff fetch, from a hub on loopback."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hub import CONTENT, give, hub_answer, row
from web_site import COMMIT, Answer, Site

from animatediff.fetch.profiles import main

Make = Callable[..., Path]


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Ends as the command does, with what it said."""

    def call(table: Path, *arguments: str, profile: str = "small") -> tuple[int, str]:
        models = str(tmp_path / "models")
        code = main(
            [
                profile,
                "--files",
                str(table),
                "--models-dir",
                models,
                *arguments,
            ]
        )
        message = capsys.readouterr()
        assert message.out == ""
        return code, message.err

    return call


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )


def asked(hub: Site, method: str = "GET") -> list[str]:
    return [
        path for kind, path, _ in hub.asked if kind == method and "/resolve/" in path
    ]


def test_a_pinned_file_gets_its_place(
    hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer())
    code, message = run(table(row()))
    assert code == 0
    assert "weights/file.bin: 2048 bytes, checked" in message
    assert files(tmp_path / "models") == ["weights/file.bin"]
    assert (tmp_path / "models/weights/file.bin").read_bytes() == CONTENT


def test_what_is_here_is_not_asked_for(hub: Site, table: Make, run: Callable) -> None:
    give(hub, hub_answer())
    path = table(row())
    run(path)
    hub.asked.clear()
    code, message = run(path)
    assert (code, hub.asked) == (0, [])
    assert "1 of 1 files are here" in message


def test_what_is_here_but_wrong_is_fetched_anew(
    hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    target = tmp_path / "models/weights/file.bin"
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT[::-1])
    give(hub, hub_answer())
    assert run(table(row()))[0] == 0
    assert target.read_bytes() == CONTENT


def test_several_at_once(hub: Site, table: Make, run: Callable, tmp_path: Path) -> None:
    names = [f"file{i}.bin" for i in range(6)]
    for name in names:
        give(hub, hub_answer(), file=name)
    path = table(*(row(file=name, target=name) for name in names))
    assert run(path, "--jobs", "3")[0] == 0
    assert files(tmp_path / "models") == names


@pytest.mark.parametrize(
    "change", [{"sha256": "0" * 64}, {"bytes": 2047}], ids=["sha256", "bytes"]
)
def test_a_mismatch_keeps_nothing(
    change: dict, hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer())
    code, message = run(table(row(**change)), "--cache", str(tmp_path / "cache"))
    assert code == 1
    assert "FAILED owner/repo/folder/file.bin: has" in message
    assert "expected" in message
    assert files(tmp_path / "models") == []
    assert not list((tmp_path / "cache").rglob("file.bin"))


def test_one_failure_does_not_stop_the_others(
    hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer(), file="good.bin")
    give(hub, Answer(b"", 404, {"X-Error-Code": "EntryNotFound"}), file="none.bin")
    path = table(
        row(file="good.bin", target="good.bin"), row(file="none.bin", target="none.bin")
    )
    code, message = run(path, "--jobs", "1", "--cache", str(tmp_path / "cache"))
    assert code == 1
    assert "FAILED none.bin of owner/repo at revision" in message
    assert "the repository has no such file" in message
    assert files(tmp_path / "models") == ["good.bin"]


@pytest.mark.parametrize(
    ("status", "headers"), [(401, {}), (403, {"X-Error-Code": "GatedRepo"})]
)
def test_a_gate_is_said_to_need_a_token(
    status: int, headers: dict, hub: Site, table: Make, run: Callable
) -> None:
    give(hub, Answer(b"", status, headers))
    code, message = run(table(row()))
    assert code == 1
    assert "HF_TOKEN" in message


def test_the_token_comes_from_a_file(
    hub: Site,
    table: Make,
    run: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    (tmp_path / "token").write_text("hf_from_a_file\n")
    monkeypatch.setattr(
        constants, "HF_TOKEN_PATH", str(tmp_path / "token")
    )  # what the variable HF_TOKEN_PATH sets
    give(hub, hub_answer())
    code, message = run(table(row()))
    assert code == 0
    assert {
        h.get("authorization") for _, path, h in hub.asked if "/resolve/" in path
    } == {"Bearer hf_from_a_file"}
    assert "hf_from_a_file" not in message


def test_a_broken_download_goes_on_where_it_broke(
    hub: Site,
    table: Make,
    run: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(vars(file_download)["time"], "sleep", lambda _: None)
    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", 256
    )  # less than what arrives before the break
    half = len(CONTENT) // 2
    rest = hub_answer(CONTENT[half:], status=206)
    rest.headers["Content-Range"] = f"bytes {half}-{len(CONTENT) - 1}/{len(CONTENT)}"
    give(hub, hub_answer(), hub_answer(CONTENT[:half], length=len(CONTENT)), rest)
    code, message = run(table(row()))
    assert code == 0, message
    assert (tmp_path / "models/weights/file.bin").read_bytes() == CONTENT
    ranges = [
        headers.get("range")
        for method, path, headers in hub.asked
        if method == "GET" and "/resolve/" in path
    ]
    assert ranges == [None, f"bytes={half}-"]


def test_a_second_run_fetches_only_what_is_missing(
    hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    path = table(row(file="a.bin", target="a.bin"), row(file="b.bin", target="b.bin"))
    give(hub, hub_answer(), file="a.bin")
    give(hub, Answer(b"", 404, {"X-Error-Code": "EntryNotFound"}), file="b.bin")
    assert run(path)[0] == 1
    hub.asked.clear()
    give(hub, hub_answer(), file="b.bin")
    assert run(path)[0] == 0
    assert asked(hub) == [f"/owner/repo/resolve/{COMMIT}/b.bin"]
    assert files(tmp_path / "models") == ["a.bin", "b.bin"]


def test_a_kept_cache_serves_the_next_run(
    hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer())
    path, cache = table(row()), str(tmp_path / "cache")
    run(path, "--cache", cache)
    (tmp_path / "models/weights/file.bin").unlink()
    hub.asked.clear()
    assert run(path, "--cache", cache)[0] == 0
    assert asked(hub) == asked(hub, "HEAD") == []
    assert files(tmp_path / "models") == ["weights/file.bin"]


@pytest.mark.parametrize("field", ["revision", "sha256", "bytes"])
def test_unpinned_is_refused(
    field: str, hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    code, message = run(
        table(row(), row(file="other.bin", target="other.bin", **{field: None}))
    )
    assert code == 2
    assert "not pinned: owner/repo/other.bin" in message
    assert "make pin" in message
    assert hub.asked == []
    assert not (tmp_path / "models").exists()


def test_unpinned_is_taken_when_it_is_allowed(
    hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer(), revision="main")
    code, message = run(
        table(row(revision=None, sha256=None, bytes=None)), "--allow-unpinned"
    )
    assert code == 0, message
    assert "NOT PINNED, not checked" in message
    assert files(tmp_path / "models") == ["weights/file.bin"]


def test_what_an_unpinned_row_does_say_is_checked(
    hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    give(hub, hub_answer(), revision="main")
    code, _ = run(
        table(row(revision=None, sha256="0" * 64, bytes=None)), "--allow-unpinned"
    )
    assert code == 1
    assert not list((tmp_path / "models").rglob("file.bin"))


def test_dry_run_asks_nobody(
    hub: Site, table: Make, run: Callable, tmp_path: Path
) -> None:
    code, message = run(
        table(row(), row(file="b.bin", target="b.bin", sha256=None, bytes=None)),
        "--dry-run",
    )
    assert code == 0
    assert (
        f"weights/file.bin  <-  owner/repo/folder/file.bin  (0.0 MB, pinned at"
        f" {COMMIT[:12]})" in message
    )
    assert "b.bin  <-  owner/repo/b.bin  (size unknown, NOT PINNED)" in message
    assert "2 files, 0.00 GB and 1 of unknown size" in message
    assert hub.asked == []
    assert not (tmp_path / "models").exists()


def test_no_such_profile(table: Make, run: Callable) -> None:
    code, message = run(table(row()), profile="sd21")
    assert code == 2
    assert "no profile 'sd21', only small, all" in message
