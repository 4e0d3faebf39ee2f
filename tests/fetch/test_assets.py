"""From what jobs write to files: paths, published names, hub files, URLs, pictures."""

import base64
import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from animatediff import catalog
from animatediff.deadline import Deadline
from animatediff.errors import AssetError, InvalidRequest, JobTimedOut
from animatediff.fetch.assets import Assets
from animatediff.fetch.hub import HubFile
from animatediff.fetch.references import WebFile
from animatediff.fetch.weight_file import stamp
from animatediff.settings import Settings

ANIMATEDIFF_REVISION = "fdfe36afa161e51b3e9c24022b0e368d59e7345e"


def path_of(assets: Assets, reference: str, field: str) -> Path:
    return assets.fetch(assets.locate(reference, field), field).path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in (
        "loras/style.safetensors",
        "Motion_Module/v3_sd15_mm.ckpt",
        "sparsectrl/v3_sd15_sparsectrl_rgb.ckpt",
    ):
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "models"


@pytest.fixture
def assets(models: Path, tmp_path: Path) -> Assets:
    return Assets(
        Settings(
            models_dir=models,
            input_dir=tmp_path / "inputs",
            cache_dir=tmp_path / "cache",
        )
    )


@pytest.fixture
def offline(models: Path, tmp_path: Path) -> Assets:
    return Assets(
        Settings(models_dir=models, cache_dir=tmp_path / "cache", offline=True)
    )


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        ("loras/style.safetensors", "loras/style.safetensors"),
        ("models/loras/style.safetensors", "loras/style.safetensors"),
        ("v3_sd15_mm.ckpt", "Motion_Module/v3_sd15_mm.ckpt"),
        ("models/Motion_Module/v3_sd15_mm.ckpt", "Motion_Module/v3_sd15_mm.ckpt"),
        (
            "models/SparseCtrl/v3_sd15_sparsectrl_rgb.ckpt",
            "sparsectrl/v3_sd15_sparsectrl_rgb.ckpt",
        ),
    ],
)
def test_what_is_here_is_found(
    reference: str, file: str, assets: Assets, models: Path
) -> None:
    assert path_of(assets, reference, "x") == models / file
    source = assets.locate(reference, "x")
    assert (source.path, source.bytes) == (models / file, len(file))


def test_a_motion_module_of_the_catalog_may_lie_in_either_folder(
    assets: Assets, models: Path
) -> None:
    assert (
        path_of(assets, "v3_sd15_mm", "motion_module")
        == models / "Motion_Module" / "v3_sd15_mm.ckpt"
    )
    ours = models / "motion_modules" / "v3_sd15_mm.safetensors"
    ours.parent.mkdir()
    ours.write_bytes(b"x")
    assert path_of(assets, "v3_sd15_mm", "motion_module") == ours


def test_what_is_not_here_and_published_comes_from_the_hub(
    assets: Assets, offline: Assets
) -> None:
    source = assets.locate("models/MotionLoRA/v2_lora_ZoomIn.ckpt", "loras.0.path")
    assert (source.path, source.origin) == (
        None,
        f"hf://guoyww/animatediff/v2_lora_ZoomIn.ckpt@{ANIMATEDIFF_REVISION}",
    )
    assert source.bytes == 77_332_480
    with pytest.raises(AssetError) as caught:
        offline.locate("v2_lora_ZoomIn.ckpt", "loras.0.path")
    message = caught.value.message
    assert "put v2_lora_ZoomIn.ckpt" in message
    assert (
        "https://huggingface.co/guoyww/animatediff into the folder motion_lora"
        in message
    )


@pytest.mark.parametrize(
    "reference",
    [
        "../loras/style.safetensors",
        "/loras/style.safetensors",
        "loras\\style.safetensors",
        "loras/style.txt",
        "loras/style",
        "loras/st\nyle.ckpt",
        "http://example.org/style.safetensors",
        "https://example.org/style.txt?x=.ckpt",
        "ftp://example.org/style.ckpt",
        "file:///etc/style.ckpt",
        "https://[::1/style.ckpt",
        "https://\u2100.example/style.ckpt",
        "hf://owner/style.safetensors",
        "hf://owner/repo/style.txt",
        "hf://owner/repo/style.ckpt@rev ision",
        "hf://owner/repo/../../private.ckpt@main",
        "hf://owner/repo//style.ckpt",
        "hf://owner/repo/./style.ckpt",
        "hf://../repo/style.ckpt",
        "hf://owner/../style.ckpt",
        "hf://owner/repo/style.ckpt@../main",
        "hf://owner/repo/style.ckpt@/main",
        "https://huggingface.co/owner/repo/resolve/main/..%2F..%2Fprivate.ckpt",
        "https://huggingface.co/owner/repo/resolve/..%2F../style.ckpt",
        "https://huggingface.co/owner/repo/blob/main/README.md",
        "https://example.org/workflow.json",
    ],
)
def test_what_is_no_reference(reference: str, assets: Assets) -> None:
    with pytest.raises(InvalidRequest) as caught:
        assets.locate(reference, "vae")
    assert caught.value.details["field"] == "vae"
    assert "a path below the models folder" in caught.value.details["allowed"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (
            "https://civitai.com/api/download/models/130072",
            "https://civitai.com/api/download/models/130072",
        ),
        (
            "https://civitai.com/api/download/models/1?type=Model&token=hush",
            "https://civitai.com/api/download/models/1",
        ),
        (
            "https://drive.google.com/uc?export=download&id=1",
            "https://drive.google.com/uc",
        ),
        (
            "https://example.org/style.safetensors/download",
            "https://example.org/style.safetensors/download",
        ),
        ("https://example.org/v1.5", "https://example.org/v1.5"),
        (
            "https://huggingface.co/datasets/o/r/resolve/main/x.safetensors",
            "https://huggingface.co/datasets/o/r/resolve/main/x.safetensors",
        ),
    ],
)
def test_a_url_need_not_end_in_a_file_s_name(
    url: str, name: str, assets: Assets
) -> None:
    source = assets.locate(url, "loras.0.path")
    assert isinstance(source.remote, WebFile)
    assert (source.remote.url, source.remote.suffix) == (
        url,
        ".safetensors" if url.endswith("x.safetensors") else "",
    )
    assert (source.reference, source.origin) == (name, name)


@pytest.mark.parametrize("kind", ["blob", "resolve", "raw"])
@pytest.mark.parametrize("host", ["huggingface.co", "www.huggingface.co", "hf.co"])
def test_a_link_to_the_hub_s_web_site_is_a_file_on_the_hub(
    kind: str, host: str, assets: Assets
) -> None:
    url = f"https://{host}/o/r/{kind}/refs%2Fpr%2F1/a/My%20Style.SafeTensors"
    source = assets.locate(f"{url}?download=true", "vae")
    assert source.remote == HubFile("o/r", "a/My Style.SafeTensors", "refs/pr/1")
    assert source.reference == url
    assert source.origin == "hf://o/r/a/My Style.SafeTensors@refs/pr/1"


def test_with_a_token_of_the_hub_only_listed_repositories_may_be_named(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog's own files are no job's choice."""

    def refused(*repositories: str, any_path: bool = False) -> set[str]:
        settings = Settings(
            models_dir=models,
            cache_dir=tmp_path,
            hub_repositories=repositories,
            any_path=any_path,
        )
        assets, names = Assets(settings), set[str]()
        for reference in (
            "hf://own/er/a.ckpt",
            "hf://own/other/a.ckpt@main",
            "https://huggingface.co/Strange/r/blob/main/a.ckpt",
            "mm_sd_v15_v2.ckpt",
        ):
            try:
                assets.locate(reference, "vae")
            except InvalidRequest as error:
                names.add(f"{error.details['got']} {error.details['allowed']}")
        assert all("ANIMATEDIFF_HUB_REPOSITORIES" in name for name in names)
        return {name.partition(" ")[0] for name in names}

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "-"))
    assert refused() == set()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert refused() == {"own/er", "own/other", "Strange/r"}
    assert refused("OWN/er") == {"own/other", "Strange/r"}
    assert refused("own/*") == {"Strange/r"}
    assert refused("*") == set()
    assert refused(any_path=True) == set()


def test_a_signed_url_is_not_repeated(assets: Assets) -> None:
    with pytest.raises(InvalidRequest) as caught:
        assets.locate("https://example.org/style.txt?signature=hush", "vae")
    assert "hush" not in str(caught.value.to_dict())
    source = assets.locate("https://example.org/style.ckpt?signature=hush", "vae")
    assert "hush" not in source.origin


@pytest.mark.parametrize(
    "reference", ["loras/none.ckpt", "a" * 300 + ".ckpt", "loras/none.safetensors"]
)
def test_a_file_that_is_nowhere(reference: str, assets: Assets) -> None:
    with pytest.raises(AssetError, match="below the models folder"):
        assets.locate(reference, "vae")


def test_a_path_that_looks_like_the_hub_s_gets_a_hint(assets: Assets) -> None:
    with pytest.raises(AssetError, match="would be hf://o/r/style.safetensors"):
        assets.locate("o/r/style.safetensors", "vae")
    with pytest.raises(AssetError) as caught:
        assets.locate("loras/none.safetensors", "vae")
    assert "hf://" not in caught.value.message


def test_references_elsewhere_are_not_fetched_offline(offline: Assets) -> None:
    for reference in (
        "hf://owner/repo/style.ckpt@main",
        "https://example.org/style.ckpt",
    ):
        assert offline.locate(reference, "vae").path is None
        with pytest.raises(AssetError):
            path_of(offline, reference, "vae")


def test_a_hash_in_the_reference_is_checked(
    assets: Assets, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = hashlib.sha256(b"loras/style.safetensors").hexdigest()
    assert (
        path_of(assets, f"loras/style.safetensors#sha256={right}", "vae")
        == models / "loras/style.safetensors"
    )
    hashed = f"loras/style.safetensors#sha256={right}"
    with monkeypatch.context() as patch:
        patch.setattr(
            "animatediff.fetch.hashes.content_sha256", None
        )  # would fail if a file were hashed again
        assert path_of(assets, hashed, "vae") == models / "loras/style.safetensors"
    wrong = right[::-1]
    with pytest.raises(AssetError, match=f"has the sha256 {right}, expected {wrong}"):
        path_of(assets, f"loras/style.safetensors#sha256={wrong}", "vae")


def test_a_slow_disk_ends_with_the_job_and_a_file_is_read_ahead_once(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []

    class SlowFile(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            pieces.append(size or 0)
            time.sleep(0.02)
            return super().read(1)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_, **__: SlowFile(bytes(1000)))
        source = assets.locate("loras/style.safetensors", "vae")
        with pytest.raises(JobTimedOut) as caught:
            assets.fetch(source, "vae", deadline=Deadline(0.1))
        assert caught.value.details["phase"] == "read"
        assert len(pieces) < 20
    assets.fetch(source, "vae")
    monkeypatch.setattr(Path, "open", None)  # would fail if it were read again
    assets.fetch(source, "vae")


def test_only_command_lines_may_name_any_path(models: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.ckpt"
    elsewhere.write_bytes(b"x")
    with pytest.raises(InvalidRequest):
        Assets(Settings(models_dir=models)).locate(str(elsewhere), "vae")
    assert (
        Assets(Settings(models_dir=models, any_path=True))
        .locate(str(elsewhere), "vae")
        .path
        == elsewhere
    )


def test_pictures(assets: Assets, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "cat.png").write_bytes(b"cat")
    (tmp_path / "secret.png").write_bytes(b"secret")
    text = base64.b64encode(b"dog").decode()
    assert assets.picture("cat.png", "f") == b"cat"
    assert assets.picture(text, "f") == b"dog"
    assert assets.picture(f"data:image/png;base64,{text}", "f") == b"dog"
    for reference in (
        "../secret.png",
        str(tmp_path / "secret.png"),
        "what is this",
        "http://example.org/a.png",
        "s3://bucket/a.png",
        "data:image/png;base64,!",
    ):
        with pytest.raises(InvalidRequest) as caught:
            assets.picture(reference, "controls.0.images.0")
        assert caught.value.details["field"] == "controls.0.images.0"
    with pytest.raises(AssetError, match="no picture"):
        assets.picture("none.png", "f")
    (tmp_path / "inputs" / "big.png").write_bytes(b"\0" * 20_000_001)
    with pytest.raises(InvalidRequest, match="at most 20000000 bytes"):
        assets.picture("big.png", "f")


CONTENT = bytes(range(248, 256)) * 20  # its base64 has + and /, and two =
TEXT = base64.b64encode(CONTENT).decode()
LINES = "\n".join(TEXT[at : at + 76] for at in range(0, len(TEXT), 76)) + "\n"
URI = "data:image/png;base64,"


@pytest.mark.parametrize(
    "reference",
    {
        "bare": TEXT,
        "lines": LINES,
        "windows": LINES.replace("\n", "\r\n"),
        "indented": "  " + LINES.replace("\n", "\n  "),
        "unpadded": TEXT.rstrip("="),
        "url alphabet": TEXT.replace("+", "-").replace("/", "_").rstrip("="),
        "data uri": URI + TEXT,
        "wrapped data uri": URI + LINES,
        "upper case": "DATA:image/PNG;BASE64," + TEXT,
        "no type": "data:;base64," + TEXT,
        "parameters": "data:image/png;name=a.png;base64," + TEXT,
        "escaped": URI + quote(TEXT, safe=""),
        "plain": "data:image/png," + quote(CONTENT),
        "half a data uri": "base64," + TEXT,
    }.items(),
    ids=lambda pair: pair[0],
)
def test_base64_as_programs_write_it(assets: Assets, reference: tuple) -> None:
    assert assets.picture(reference[1], "f") == CONTENT


@pytest.mark.parametrize("text", ["a b", "é", "=", "data:;base64,", "YWJj!", "abcde"])
def test_other_text_is_no_base64(assets: Assets, text: str) -> None:
    with pytest.raises(InvalidRequest, match="f: got .*base64"):
        assets.picture(text, "f")


def test_base64_of_too_many_bytes_is_refused(assets: Assets) -> None:
    with pytest.raises(InvalidRequest, match="20000001 bytes.*at most 20000000"):
        assets.picture(base64.b64encode(bytes(20_000_001)).decode(), "f")


def test_a_published_file_gets_its_pin_and_its_hash(assets: Assets) -> None:
    row = catalog.PUBLISHED_FILES["mm_sd_v15_v2.ckpt"]
    for reference, field in {
        "mm_sd_v15_v2": "motion_module",
        "mm_sd_v15_v2.ckpt": "motion_module",
        "models/Motion_Module/mm_sd_v15_v2.ckpt": "vae",
    }.items():
        source = assets.locate(reference, field)
        assert source.remote == HubFile(row.repo, row.file, row.revision)
        assert (source.sha256, source.bytes) == (row.sha256, row.bytes)
    digest = "0" * 64
    reference = assets.locate(f"mm_sd_v15_v2.ckpt#sha256={digest}", "motion_module")
    assert reference.sha256 == digest


def test_another_file_under_a_published_name_is_refused(
    assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.ckpt").write_bytes(b"not what was published")
    monkeypatch.setattr(
        "animatediff.fetch.assets.fetch_hub", lambda *_: tmp_path / "other.ckpt"
    )
    source = assets.locate("mm_sd_v15_v2.ckpt", "motion_module")
    with pytest.raises(AssetError, match=f"expected {source.sha256}"):
        assets.fetch(source, "motion_module")


def test_a_published_file_that_is_installed_is_not_hashed(assets: Assets) -> None:
    """It may be the converted twin, whose hash is another one."""
    source = assets.locate("v3_sd15_mm", "motion_module")
    assert source.path is not None
    assert source.sha256 is None


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("loras/style.safetensors", "loras/style.safetensors"),
        ("v3_sd15_mm", "v3_sd15_mm"),
        ("hf://owner/repo/style.ckpt@main", "hf://owner/repo/style.ckpt@main"),
        (
            "https://user.example.org:8443/a/style.ckpt?signature=hush",
            "https://user.example.org/a/style.ckpt",
        ),
    ],
)
def test_a_file_keeps_the_name_that_the_job_gave_it(
    reference: str, name: str, assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = assets.models.path / "loras/style.safetensors"
    for fetch in ("fetch_hub", "fetch_url"):
        monkeypatch.setattr(f"animatediff.fetch.assets.{fetch}", lambda *_, **__: here)
    source = assets.locate(reference, "motion_module")
    file = assets.fetch(source, "motion_module")
    assert file.name == name
    assert file.stamp == stamp(file.path)


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(AssetError) as caught:
        call()
    return caught.value.message


def test_a_missing_model_names_folder_and_command(tmp_path: Path) -> None:
    models = tmp_path / "weights"
    for any_path in (False, True):
        assets = Assets(Settings(models_dir=models, any_path=any_path, offline=True))
        for message in (
            message_of(assets.first_base_model),
            message_of(lambda assets=assets: assets.base_model_folder("sd15")),
            message_of(
                lambda assets=assets: assets.locate("v3_sd15_mm", "motion_module")
            ),
            message_of(lambda assets=assets: assets.locate("loras/a.ckpt", "vae")),
        ):
            assert "which does not exist" in message
            assert (str(tmp_path) in message) is any_path
            assert any_path or "weights (ANIMATEDIFF_MODELS_DIR)" in message
            assert "loras" in message or "`animatediff fetch sd15-v3`" in message
    models.mkdir()
    message = message_of(lambda: assets.base_model_folder("sd15"))
    assert message.startswith(
        f"model sd15 is not installed in {models / 'stable-diffusion-v1-5'}: run"
        " `animatediff fetch sd15-v3`, or put a model in diffusers' layout there"
    )
    assert "fetch" not in message_of(lambda: assets.base_model_folder("shapeworld"))


def test_base_models(tmp_path: Path) -> None:
    unet = tmp_path / "own" / "unet"
    unet.mkdir(parents=True)
    (unet / "config.json").write_text("{}")
    assets = Assets(Settings(models_dir=tmp_path))
    assert assets.base_model_folder("own") == tmp_path / "own"
    with pytest.raises(AssetError, match="model sd15 is not installed"):
        assets.base_model_folder("sd15")
    for name in ("none", "../own", "/own"):
        with pytest.raises(InvalidRequest):
            assets.base_model_folder(name)
