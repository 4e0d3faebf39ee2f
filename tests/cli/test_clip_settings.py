"""python -m animatediff.video: from a clip's file to the job that makes it again."""

import base64
import contextlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from animatediff import cli
from animatediff.cli.clip_settings import main
from animatediff.engine import Engine
from animatediff.errors import EncodeError, InvalidRequest
from animatediff.job.again import job_again, read_settings
from animatediff.job.provenance import metadata_of
from animatediff.job.result import Generated
from animatediff.settings import PROJECT_ROOT, Settings
from animatediff.video import OUTPUT_FORMATS, Video, write_video
from schemas import parse_job_input

SMALL = {"prompt": "a red circle", "num_frames": 3, "num_inference_steps": 2}
FRAMES = np.zeros((2, 16, 16, 3), np.uint8)
FAMILY = "shapeworld"
SECRET = "c4n4ry"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """With one picture in its input folder."""
    folder = tmp_path_factory.mktemp("input")
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    return Engine(Settings(default_model=FAMILY, input_dir=folder))


def made(engine: Engine, fields: Mapping[str, Any]) -> Generated:
    return engine.generate(engine.prepare(parse_job_input(fields)))


def written(generated: Generated, folder: Path, most: str = "full") -> Path:
    format = generated.clip.format
    path = folder / f"clip{OUTPUT_FORMATS[format].suffix}"
    metadata = metadata_of(generated, most)
    write_video(generated.video, path, format=format, metadata=metadata)
    return path


def printed(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> Any:
    assert main([str(path), *options]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("format", OUTPUT_FORMATS)
def test_the_printed_job_makes_the_same_frames(
    format: str, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seed is drawn, so nothing but the file can tell it."""
    first = made(engine, {**SMALL, "format": format, "prompt": 'höher; a=b\n"q" \\'})
    job = printed(written(first, tmp_path), capsys, "--job")
    again = made(engine, job["input"])
    assert np.array_equal(again.video.frames, first.video.frames)
    assert again.clip == first.clip


@pytest.mark.slow
def test_every_field_of_a_job_comes_back(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {
        **SMALL,
        "negative_prompt": "blurry",
        "seed": 0,
        "guidance_scale": 0.0,
        "scheduler": "euler",
        "clip_skip": 1,
        "context": {"length": 2, "overlap": 1, "fuse": "flat"},
        "loop": True,
        "motion_module": "shapeworld_v2",
        "loras": [{"path": f"{FAMILY}/style_lora.safetensors", "strength": 0.25}],
        "dreambooth": f"{FAMILY}/dreambooth.safetensors",
        "vae": f"{FAMILY}/vae/diffusion_pytorch_model.safetensors",
        "controls": [
            {
                "path": f"{FAMILY}/sparsectrl_rgb.safetensors",
                "images": ["red.png"],
                "frame_indices": [-1],
                "end": 0.75,
            }
        ],
    }
    first = made(engine, fields)
    job = printed(written(first, tmp_path), capsys, "--job")
    again = made(engine, job["input"])
    assert again.clip == first.clip
    assert np.array_equal(again.video.frames, first.video.frames)


@pytest.fixture(scope="module")
def generated(engine: Engine) -> Generated:
    return made(engine, {**SMALL, "negative_prompt": "gray", "num_inference_steps": 1})


def test_settings_are_the_job_and_the_hashes(
    generated: Generated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = printed(written(generated, tmp_path), capsys)
    assert settings["request"]["seed"] == generated.clip.seed
    assert settings["model"]["sha256"] == generated.model.sha256


def test_a_job_without_its_prompts_says_so(
    generated: Generated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(generated, tmp_path, "no_prompts")
    assert main([str(path), "--job"]) == 1
    out, err = capsys.readouterr()
    assert "prompt" not in json.loads(out)["input"]
    assert err.splitlines() == [
        "not in the clip: prompt: the file does not tell it",
        "not in the clip: negative_prompt: the file does not tell it",
    ]
    assert main([str(path)]) == 0


def test_a_picture_of_which_only_the_hash_is_there_is_named(
    engine: Engine, generated: Generated, tmp_path: Path
) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    control = {
        "path": f"{FAMILY}/sparsectrl_rgb.safetensors",
        "images": ["red.png", image],
        "frame_indices": [0, 1],
    }
    request = parse_job_input({**SMALL, "controls": [control], "seed": 1})
    asked = Generated(
        generated.video,
        engine.resolve(request),
        generated.model,
        engine.prepare(request).files.map(lambda _: generated.model),
        {},
        (),
    )
    again = job_again(read_settings(written(asked, tmp_path)))
    (gap,) = again.gaps
    assert gap.startswith("controls.0.images.1: the file has the hash")


def foreign(metadata: dict[str, Any], path: Path, format: str = "gif") -> Path:
    write_video(Video(FRAMES, 8), path, format=format, metadata=metadata)
    return path


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"title": "holidays"},
        {"software": "another", "request": {"prompt": "x"}},
        {"software": "animatediff-serverless", "request": [1]},
    ],
    ids=["nothing", "another", "software", "request"],
)
def test_a_clip_of_someone_else_holds_no_settings(
    format: str,
    metadata: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = foreign(metadata, tmp_path / "clip", format)
    assert cli.run(main, [str(path)], "video") == 1
    out, err = capsys.readouterr()
    assert not out
    assert err == "ENCODE_FAILED: clip holds no settings of a job\n"


def zip_with(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", content)


def locked_zip(path: Path) -> None:
    zip_with(path, b"{}")
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1  # it needs a password
    path.write_bytes(content)


def broken_zip(path: Path) -> None:
    zip_with(path, bytes(range(256)))
    content = path.read_bytes()
    place = content.index(b"metadata.json") + len(b"metadata.json")
    path.write_bytes(content[:place] + b"\xff" * 20 + content[place + 20 :])


def huge_picture(path: Path) -> None:
    """A PNG that claims 60,000 x 60,000 pixels."""
    foreign({}, path, "apng")
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    crc = zlib.crc32(content[12:29])
    content[29:33] = crc.to_bytes(4, "big")
    path.write_bytes(content)


def number_in_place_of_text(path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = 7
    Image.new("RGB", (8, 8)).save(path, "WEBP", exif=exif)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: zip_with(path, b"[" * 100_000),
        lambda path: zip_with(path, b" " * 5_000_000),
        locked_zip,
        broken_zip,
        huge_picture,
        number_in_place_of_text,
        lambda path: Image.new("RGB", (8, 8)).save(path, "JPEG"),
        lambda path: path.write_bytes(b""),
        Path.mkdir,
        lambda _path: None,
    ],
    ids=[
        "depth",
        "size",
        "password",
        "broken",
        "huge",
        "number",
        "jpeg",
        "empty",
        "folder",
        "missing",
    ],
)
def test_an_odd_file_is_one_line(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "clip")
    assert cli.run(main, [str(tmp_path / "clip")], "video") == 1
    err = capsys.readouterr().err
    assert err.startswith("ENCODE_FAILED: clip holds no settings: ")
    assert err.count("\n") == 1
    assert str(tmp_path) not in err


@pytest.mark.parametrize("format", ["gif", "webp", "apng", "png_zip"])
def test_a_damaged_clip_raises_nothing_unexpected(
    format: str, generated: Generated, tmp_path: Path
) -> None:
    path = tmp_path / "clip"
    metadata = metadata_of(generated)
    write_video(generated.video, path, format=format, metadata=metadata)
    content = path.read_bytes()
    source = np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(content)
        for place in source.integers(0, len(content), 20):
            damaged[place] = source.integers(256)
        path.write_bytes(damaged[: source.integers(30, len(content))])
        with contextlib.suppress(EncodeError, InvalidRequest):
            job_again(read_settings(path))


def test_secrets_of_another_writer_are_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"https://user:{SECRET}@example.org/a.safetensors?token={SECRET}"
    metadata = {
        "software": "animatediff-serverless",
        "request": {**SMALL, "dreambooth": url, "loras": [{"path": url}]},
        "dreambooth": {"name": url},
    }
    path = foreign(metadata, tmp_path / "clip.gif")
    for options in ((), ("--job",)):
        main([str(path), *options])
        out = capsys.readouterr().out
        assert "https://example.org/a.safetensors" in out
        assert SECRET not in out


def test_a_field_of_another_version_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = {**SMALL, "sparkle": 3}
    metadata = {"software": "animatediff-serverless", "request": request}
    path = foreign(metadata, tmp_path / "clip.gif")
    assert cli.run(main, [str(path), "--job"], "video") == 1
    assert "sparkle" in capsys.readouterr().err


def test_letters_are_readable_and_steer_no_terminal(
    generated: Generated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "灯台 é \x1b[31m \x9b31m \u202e \x00"
    metadata = metadata_of(generated)
    metadata["request"]["prompt"] = prompt
    path = foreign(metadata, tmp_path / "clip.gif")
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["request"]["prompt"] == prompt
    assert "灯台 é" in out
    assert all(char == "\n" or char.isprintable() for char in out)


@pytest.mark.slow
def test_the_module_is_a_command(generated: Generated, tmp_path: Path) -> None:
    path = written(generated, tmp_path)
    command = [sys.executable, "-m", "animatediff.video", path.name]
    shutil.copy(path, tmp_path / "copy")
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT_ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["request"]["seed"] == generated.clip.seed
