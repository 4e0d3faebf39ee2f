"""What is shown of a text that holds references."""

import pytest

from animatediff.errors import InvalidRequest, shorten
from animatediff.shown import shown_values, without_secrets

PIN = "#sha256=" + "a" * 64


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h.org/a.safetensors?token=x&y=z", "https://h.org/a.safetensors"),
        ("https://h.org/a.safetensors?x", "https://h.org/a.safetensors"),
        (f"https://h.org/a.safetensors?t=x{PIN}", f"https://h.org/a.safetensors{PIN}"),
        (f"https://h.org/a.safetensors{PIN}", f"https://h.org/a.safetensors{PIN}"),
        ("https://h.org/a#token=x", "https://h.org/a"),
        ("https://me:x@h.org:8443/a", "https://h.org:8443/a"),
        ("HTTPS://h.org/a?sig=x", "HTTPS://h.org/a"),
        ("h.org/a.safetensors?token=x", "h.org/a.safetensors"),
        ("me:x@h.org/a.safetensors", "h.org/a.safetensors"),
        ("hf://o/r/a.safetensors?token=x@main", "hf://o/r/a.safetensors"),
        ("GET /cdn/file?Signature=x HTTP/1.1", "GET /cdn/file HTTP/1.1"),
        ("got https://h.org/?s=x, allowed: y", "got https://h.org/ allowed: y"),
        ("hf://o/r/folder/a.safetensors@main", "hf://o/r/folder/a.safetensors@main"),
        ("did you mean prompt? there are more", "did you mean prompt? there are more"),
        ("loras/style.safetensors", "loras/style.safetensors"),
        ("data:image/png;base64,AAAA==", "data:image/png;base64,AAAA=="),
    ],
)
def test_secrets_are_left_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_every_text_of_a_value_is_shown() -> None:
    value = {"a": ["https://h.org/?s=x", 1, None], "https://h.org/?s=x": True}
    shown = {"a": ["https://h.org/", 1, None], "https://h.org/": True}
    assert shown_values(value) == shown


def test_errors_show_values_so() -> None:
    assert shorten(["https://h.org/a?s=x"]) == "['https://h.org/a"
    error = InvalidRequest("vae", "https://h.org/a?s=secret", "a path")
    assert "secret" not in str(error.to_dict())
