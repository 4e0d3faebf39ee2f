"""A weight file's name: that of the job, fit to be shown."""

from pathlib import Path

import pytest

from animatediff.errors import AssetError
from animatediff.fetch.weight_file import WeightFile


@pytest.mark.parametrize(
    ("job_name", "name", "word"),
    [
        (None, "0123.pt", "0123"),
        ("loras/style.pt", "loras/style.pt", "style"),
        ("/home/someone/style.pt", "style.pt", "style"),
        (f"style.pt#sha256={'0' * 64}", "style.pt", "style"),
        ("hf://owner/repo/a/style.pt@main", "hf://owner/repo/a/style.pt@main", "style"),
        ("https://host.example/my%20style.pt", None, "my style"),
    ],
)
def test_name_and_word(
    job_name: str | None, name: str | None, word: str, tmp_path: Path
) -> None:
    (tmp_path / "0123.pt").touch()
    file = WeightFile.at(tmp_path / "0123.pt", job_name)
    assert (file.name, file.word) == (name or job_name, word)
    assert WeightFile.of(file) is file


def test_the_name_does_not_tell_two_files_apart(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert WeightFile.at(tmp_path / "a", "x") == WeightFile.of(tmp_path / "a")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="^there is no weight file a$"):
        WeightFile.of(tmp_path / "a")
