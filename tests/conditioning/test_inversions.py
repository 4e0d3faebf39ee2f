"""The words of a job's textual inversions."""

from pathlib import Path
from typing import Any

import pytest
import torch

from animatediff.conditioning.inversions import read_embeddings
from animatediff.errors import InvalidRequest
from animatediff.fetch.weight_file import WeightFile

VECTORS = torch.ones(1, 8)


def file(content: Any, path: Path, name: str | None = None) -> WeightFile:
    torch.save(content, path)
    return WeightFile.at(path, name)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("embeddings/easynegative.pt", "easynegative"),
        ("https://example.org/a/easynegative.pt", "easynegative"),
        ("https://example.org/a/easy%20negative.pt", "easy negative"),
        ("https://example.org/api/models/9208", "9208"),
        ("hf://owner/repo/easynegative.pt@refs/pr/1", "easynegative"),
        ("easynegative.pt#sha256=" + "0" * 64, "easynegative"),
        ("/home/someone/easynegative.pt", "easynegative"),
    ],
)
def test_the_default_word_is_in_the_name_that_the_job_gave(
    name: str, word: str, tmp_path: Path
) -> None:
    inversion = file({"emb_params": VECTORS}, tmp_path / "0123456789.pt", name)
    words, warnings = read_embeddings([(inversion, None)], [f"a {word}"], 8)
    assert (list(words), warnings) == ([word], ())
    words, (warning,) = read_embeddings([(inversion, None)], ["a cat"], 8)
    assert warning.endswith(f": its word {word} is in no prompt that is read")
    assert "0123456789" not in warning


@pytest.mark.parametrize(
    ("text", "word"), [("a cat", "cat"), ("a file", "file"), ("a cat, a file", "file")]
)
def test_a_file_s_own_name_serves_if_only_that_is_used(
    text: str, word: str, tmp_path: Path
) -> None:
    content = {"string_to_param": {"*": VECTORS}, "name": "cat"}
    inversion = file(content, tmp_path / "file.pt")
    words, warnings = read_embeddings([(inversion, None)], [text, ""], 8)
    assert (list(words), warnings) == ([word], ())


def test_all_words_of_a_file_are_used(tmp_path: Path) -> None:
    inversion = file({"<a>": VECTORS, "<b>": 2 * VECTORS}, tmp_path / "two.bin")
    words, warnings = read_embeddings([(inversion, None)], ["", "only <b>"], 8)
    assert torch.equal(words["<a>"] * 2, words["<b>"])
    assert warnings == ()
    _, (warning,) = read_embeddings([(inversion, None)], ["none"], 8)
    assert warning == "two.bin: its words <a>, <b> are in no prompt that is read"


def test_one_word_cannot_stand_for_several(tmp_path: Path) -> None:
    inversion = file({"<a>": VECTORS, "<b>": VECTORS}, tmp_path / "two.bin")
    with pytest.raises(InvalidRequest, match=r"embeddings\.0\..*several words: <a>"):
        read_embeddings([(inversion, "cat")], ["cat"], 8)


def test_a_word_of_two_files_is_refused(tmp_path: Path) -> None:
    first = file({"<a>": VECTORS, "<b>": VECTORS}, tmp_path / "two.bin")
    second = file({"<B>": VECTORS}, tmp_path / "one.bin")
    with pytest.raises(InvalidRequest, match=r"embeddings\.1\.token: got <B>"):
        read_embeddings([(first, None), (second, None)], ["<a>"], 8)
