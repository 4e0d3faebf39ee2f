"""The type of a downloaded file, by its first bytes: its name may be wrong."""

HEAD_BYTES = 512
SAFETENSORS, PICKLE = ".safetensors", ".ckpt"
_ZIP = b"PK\x03\x04"
"""The first bytes of PyTorch's files; before version 1.6 they were bare pickles."""
_BARE_PICKLE = b"\x80"
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")


def suffix_of(head: bytes) -> str | None:
    """Return the suffix for a weight file that begins with ``head``, None for others.

    A .safetensors file begins with the length of its header, which is JSON.
    """
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return SAFETENSORS
    if head.startswith((_ZIP, _BARE_PICKLE)):
        return PICKLE
    return None


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a page, such as a form to log in."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP)
