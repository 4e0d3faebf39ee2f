"""The command of the page: its options, and what it says without what it needs."""

import argparse
import importlib.util

import pytest

from animatediff import cli
from animatediff.cli.app import _auth, _desk, _parser
from animatediff.errors import ConfigurationError
from animatediff.settings import Settings


def options(*words: str) -> argparse.Namespace:
    return _parser("app").parse_args(words)


def test_only_this_machine_may_come_unless_asked() -> None:
    assert options().host == "127.0.0.1"
    assert options().auth is None


def test_the_line_has_an_end() -> None:
    with pytest.raises(SystemExit):
        options("--queue-size", "0")
    with pytest.raises(SystemExit):
        options("--queue-size", "100")


def test_a_user_has_a_password() -> None:
    assert _auth("me:a:b") == ("me", "a:b")
    assert _auth(None) is None
    for text in ("me", "me:", ":secret"):
        with pytest.raises(ConfigurationError) as caught:
            _auth(text)
        assert "secret" not in caught.value.message


def test_an_endpoint_needs_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    settings = Settings(output_dir=tmp_path)
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="RUNPOD_API_KEY"):
        _desk(options("--endpoint", "abc"), settings)
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_secret")
    desk = _desk(options("--endpoint", "abc"), settings)
    assert desk.backend.title == "RunPod endpoint abc"
    assert "rpa_secret" not in repr(desk)


@pytest.mark.skipif(
    importlib.util.find_spec("gradio") is not None, reason="Gradio is installed here"
)
def test_without_gradio_the_command_says_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["app"]) == 1
    assert "make app" in capsys.readouterr().err
