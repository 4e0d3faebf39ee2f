"""Which files there are, and what their captions say."""

import json
from pathlib import Path

import pytest

from animatediff.errors import ConfigurationError
from animatediff.training.manifests import VIDEO_SUFFIXES, open_listing


def table(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def rows(root: Path, manifest: Path) -> list[tuple[str, str | None]]:
    listing = open_listing(root, manifest, VIDEO_SUFFIXES)
    return [
        (listing[i].name, listing[i].caption) for i in reversed(range(len(listing)))
    ][::-1]


def test_folder_with_captions_beside_the_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.mp4", "b/y.webm", "x.GIF", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path / "z.txt").write_text(" a red\n circle ")
    (tmp_path / "b/y.txt").write_bytes(b"\xff\xfe")
    listing = open_listing(tmp_path, None, VIDEO_SUFFIXES)
    entries = [(listing[i].name, listing[i].caption) for i in range(len(listing))]
    assert entries == [("b/y.webm", None), ("x.GIF", None), ("z.mp4", "a red circle")]
    assert [listing[i].trouble for i in range(len(listing))] == [
        "y.txt is not UTF-8",
        "there is no caption in x.txt or x.caption",
        "",
    ]


def test_caption_files_of_other_trainers(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "a.caption").write_text("from a caption file")
    (tmp_path / "b.caption").write_bytes(b"\xff\xfea\x00")
    (tmp_path / "c.caption").write_text("not this")
    (tmp_path / "c.txt").write_text("but this")
    listing = open_listing(tmp_path, None, VIDEO_SUFFIXES)
    entries = [listing[i] for i in range(len(listing))]
    captions = [entry.caption for entry in entries]
    assert captions == ["from a caption file", None, "but this"]
    assert entries[1].trouble == "b.caption is not UTF-8"


@pytest.mark.parametrize("mark", ["\ufeff", "\ufeff\ufeff "])
def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path, mark: str) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.txt").write_text(f"{mark}a red\nball", encoding="utf-8")
    assert open_listing(tmp_path, None, VIDEO_SUFFIXES)[0].caption == "a red ball"
    for name, text in (
        ("a.csv", f'path,caption\na.mp4,"{mark}a red ball"'),
        ("a.jsonl", json.dumps({"path": "a.mp4", "caption": f"{mark}a red ball"})),
    ):
        assert rows(tmp_path, table(tmp_path, name, text)) == [("a.mp4", "a red ball")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path,caption\na.mp4,a ball\nb.mp4,a red ball, moving\n", 3),
        ("caption,path\na red ball, moving,a.mp4\n", 2),
        ('path,caption\na.mp4,"a\nb"\nb.mp4,"a", b, c', 4),
    ],
)
def test_a_comma_without_quotes_cuts_no_caption(
    tmp_path: Path, text: str, line: int
) -> None:
    message = rf"^manifest: clips.csv, line {line}: got \d values for 2 columns"
    with pytest.raises(ConfigurationError, match=message):
        rows(tmp_path, table(tmp_path, "clips.csv", text))


def test_empty_values_behind_the_last_column(tmp_path: Path) -> None:
    manifest = table(tmp_path, "clips.csv", "path,caption\na.mp4,a ball,, \n")
    assert rows(tmp_path, manifest) == [("a.mp4", "a ball")]


@pytest.mark.parametrize(
    ("file", "caption"), [("path", "caption"), ("file", "text"), ("file_name", "text")]
)
def test_csv(tmp_path: Path, file: str, caption: str) -> None:
    lines = [
        f"\ufeff{caption},extra,{file}",
        '"a ""red"" circle,\nmoving",1,a/1.mp4',
        "",
        ",2,b.mp4",
        "ün,3,ü.mp4",
    ]
    text = "\r\n".join(lines)
    got = rows(tmp_path, table(tmp_path, "clips.csv", text))
    assert got == [
        ("a/1.mp4", 'a "red" circle, moving'),
        ("b.mp4", ""),
        ("ü.mp4", "ün"),
    ]


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        json.dumps(
            {"path": f"{i}.mp4", "caption": f"{i} ü", "fps": 8}, ensure_ascii=False
        )
        for i in range(5)
    ]
    got = rows(
        tmp_path,
        table(tmp_path, "clips.jsonl", "\n".join([*lines[:2], "", *lines[2:]])),
    )
    assert got == [(f"{i}.mp4", f"{i} ü") for i in range(5)]


def test_webvid(tmp_path: Path) -> None:
    """As the published code reads it, videoid.mp4 in one folder; and as WebVid's script
    writes it, in page_dir.
    """
    lines = [
        "videoid,name,page_dir,duration",
        "11,Waves,000001_000050,9",
        "12,Trees,000051_000100,8",
    ]
    text = "\n".join(lines) + "\n"
    (tmp_path / "000051_000100").mkdir()
    (tmp_path / "000051_000100/12.mp4").touch()
    listing = open_listing(
        tmp_path, table(tmp_path, "results.csv", text), VIDEO_SUFFIXES
    )
    assert (listing[0].path, listing[0].caption) == (tmp_path / "11.mp4", "Waves")
    assert (listing[1].path, listing[1].caption) == (
        tmp_path / "000051_000100/12.mp4",
        "Trees",
    )


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", "path,caption\n1.mp4,x\n,y\n", "a.csv, row 2"),
        ("a.csv", "path,title\n1.mp4,x\n", "got path, title"),
        ("a.csv", "path,caption\n", "contains no files"),
        ("a.csv", 'path,caption\n"1.mp4,x\n', "line"),
        ("a.csv", "path,caption\n1.mp4,\xff\n", "UTF-8"),
        ("a.jsonl", '{"path": "1.mp4", "caption": 7}\n', "row 1"),
        ("a.jsonl", "[1]\n", "not a JSON object"),
        ("a.jsonl", "path: 1.mp4\n", "not JSON"),
        ("a.parquet", "", ".csv or .jsonl"),
    ],
)
def test_tables_that_are_none(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match="manifest") as raised:
        open_listing(tmp_path, tmp_path / name, VIDEO_SUFFIXES)
    assert problem in raised.value.message


def test_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="root: there is no folder"):
        open_listing(tmp_path / "no", None, VIDEO_SUFFIXES)
    with pytest.raises(ConfigurationError, match="root: .* contains no files"):
        open_listing(tmp_path, None, VIDEO_SUFFIXES)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        open_listing(tmp_path, tmp_path / "no.csv", VIDEO_SUFFIXES)
