"""A canary in every field that can hold a secret leaves in no output, file or log."""

import io
import json
import logging
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from animatediff.engine import Engine
from animatediff.errors import InvalidRequest
from animatediff.progress import ignore
from animatediff.serving.job import JobRunner
from animatediff.serving.job_bucket import storage_of
from animatediff.serving.logs import JsonLines
from animatediff.serving.storage import LocalStorage
from animatediff.settings import Settings
from animatediff.video import OUTPUT_FORMATS, read_metadata
from lab.hostile.certificates import make_certificate
from schemas import parse_job_input, render_job_output
from tests.web_site import Answer, Site, running

pytestmark = pytest.mark.slow

CANARY = "c4n4ry"
SMALL = {"prompt": "a red circle", "num_frames": 2, "num_inference_steps": 1, "seed": 5}
FAMILY = Settings().models_dir / "shapeworld"
CONFIG = {
    "accessId": CANARY,
    "accessSecret": CANARY,
    "bucketName": "clips",
    "endpointUrl": f"https://127.0.0.1:9/?token={CANARY}",
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def site(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with one file for each field of a job that names one."""
    folder = tmp_path_factory.mktemp("site")
    Image.new("RGB", (64, 64), "red").save(folder / "picture.png")
    width = json.loads((FAMILY / "text_encoder" / "config.json").read_text())
    vectors = torch.zeros(1, width["hidden_size"])
    save_file({"emb_params": vectors}, folder / "word.safetensors")
    files = {
        "lora": FAMILY / "style_lora.safetensors",
        "motion": FAMILY / "motion_module_v3.safetensors",
        "dreambooth": FAMILY / "dreambooth.safetensors",
        "vae": FAMILY / "vae" / "diffusion_pytorch_model.safetensors",
        "control": FAMILY / "sparsectrl_rgb.safetensors",
        "word": folder / "word.safetensors",
        "picture": folder / "picture.png",
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with running(Site(context)) as site:
        for name, path in files.items():
            site.gives(Answer(path.read_bytes()), path=f"/{name}{path.suffix}")
        yield site


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    cache = tmp_path_factory.mktemp("cache")
    return Engine(Settings(private_hosts=True, cache_dir=cache, device="cpu"))


@pytest.fixture
def log(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that anybody logs, at the lowest level."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


def runner_of(engine: Engine, folder: Path, **changes: Any) -> JobRunner:
    return JobRunner(
        engine,
        LocalStorage(folder),
        engine.settings.replace(result_file=folder / "result.json", **changes),
        parse_job_input,
        render_job_output,
    )


def run(runner: JobRunner, fields: Any, **job: Any) -> dict[str, Any]:
    delivery: Mapping[str, Any] = {"id": "j", "input": fields, **job}
    return runner.run(delivery, ignore, threading.Event())


def signed(site: Site, path: str) -> str:
    return f"{site.url(path)}?X-Amz-Signature={CANARY}&token={CANARY}"


def everything(site: Site) -> dict[str, Any]:
    control = {
        "path": signed(site, "/control.safetensors"),
        "images": [signed(site, "/picture.png")],
    }
    return {
        **SMALL,
        "motion_module": signed(site, "/motion.safetensors"),
        "motion_module_version": "v3",
        "dreambooth": signed(site, "/dreambooth.safetensors"),
        "vae": signed(site, "/vae.safetensors"),
        "loras": [{"path": signed(site, "/lora.safetensors")}],
        "embeddings": [{"path": signed(site, "/word.safetensors")}],
        "controls": [control],
    }


def assert_nothing_leaked(folder: Path, log: io.StringIO, *answers: object) -> None:
    assert CANARY not in json.dumps(answers)
    assert CANARY not in log.getvalue()
    for path in folder.rglob("*"):
        assert CANARY not in path.name
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes()


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
def test_signed_urls_of_a_job_that_succeeds(
    format: str, site: Site, engine: Engine, tmp_path: Path, log: io.StringIO
) -> None:
    answer = run(runner_of(engine, tmp_path), {**everything(site), "format": format})
    assert "url" in answer, answer
    metadata = read_metadata(Path(urlsplit(answer["url"]).path))
    shown = metadata["request"]["loras"][0]["path"]
    assert shown == site.url("/lora.safetensors")
    assert_nothing_leaked(tmp_path, log, answer, metadata)
    assert "job_done" in log.getvalue()


WRONG = {
    "missing": "{site}/no.safetensors?token={canary}",
    "http": "http://127.0.0.1/no.safetensors?token={canary}",
    "upper case": "HTTPS://127.0.0.1/no.safetensors?token={canary}",
    "no scheme": "127.0.0.1/no.safetensors?token={canary}",
    "no weights": "{site}/no.html?token={canary}",
    "user": "https://me:{canary}@127.0.0.1/no.safetensors",
    "user alone": "me:{canary}@127.0.0.1/no.safetensors",
    "fragment": "{site}/no.safetensors#token={canary}",
    "hub": "hf://o/r/no.safetensors?token={canary}",
    "no hub": "hf:/o/r/no.safetensors?token={canary}",
    "malformed": "https://[{canary}/no.safetensors",
}
FIELDS = ("model", "motion_module", "dreambooth", "vae", "loras", "embeddings")


@pytest.mark.parametrize("kind", WRONG)
def test_references_that_fail(
    kind: str, site: Site, engine: Engine, tmp_path: Path, log: io.StringIO
) -> None:
    runner = runner_of(engine, tmp_path)
    text = WRONG[kind].format(site=site.url(""), canary=CANARY)
    text = text if kind != "malformed" else text.replace(CANARY, "x") + f"?t={CANARY}"
    picture = text.replace(".safetensors", ".png")
    control = {"path": signed(site, "/control.safetensors"), "images": [picture]}
    jobs: list[Any] = [
        {**SMALL, name: [{"path": text}] if name in ("loras", "embeddings") else text}
        for name in FIELDS
    ]
    jobs += [
        {**SMALL, "controls": [control]},
        {**SMALL, "loras": text},
        {**SMALL, "loras": [text]},
        {**SMALL, "lora": text},
        {**SMALL, "loras": [{"path": "a", "url": text}]},
        text,
    ]
    answers = [run(runner, job) for job in jobs]
    assert all("error" in answer for answer in answers)
    assert_nothing_leaked(tmp_path, log, answers)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": f"{CANARY} " * 1000},
        {"prompt": f"{CANARY}\0"},
        {"prompt": [CANARY]},
        {"prompt": "a", "negative_prompt": f"{CANARY} " * 1000},
        {"prompt": "a", "negative_promt": CANARY},
        {"promt": CANARY},
        {"prompts": [CANARY]},
        {"loras": [{"path": "a", "prompt": CANARY}], "prompt": "a"},
        CANARY,
        [CANARY],
        {"prompt": CANARY, "width": 513},
    ],
    ids=str,
)
def test_prompts_that_are_refused(
    fields: Any, engine: Engine, tmp_path: Path, log: io.StringIO
) -> None:
    answer = run(runner_of(engine, tmp_path), fields)
    assert answer["error"]["code"] == "INVALID_REQUEST"
    assert_nothing_leaked(tmp_path, log, answer)


def test_a_prompt_is_not_in_the_log(
    engine: Engine, tmp_path: Path, log: io.StringIO
) -> None:
    prompts = {"prompt": CANARY, "negative_prompt": CANARY}
    assert "url" in run(runner_of(engine, tmp_path), {**SMALL, **prompts})
    assert CANARY not in log.getvalue()


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
@pytest.mark.parametrize(
    ("job", "service", "level"),
    [
        ("no_prompts", "full", "no_prompts"),
        ("full", "no_prompts", "no_prompts"),
        ("none", "no_prompts", "none"),
        ("no_prompts", "none", "none"),
    ],
)
def test_metadata_can_be_left_out(
    job: str, service: str, level: str, format: str, engine: Engine, tmp_path: Path
) -> None:
    runner = runner_of(engine, tmp_path, file_metadata=service)
    fields = {"prompt": CANARY, "negative_prompt": CANARY, "format": format}
    answer = run(runner, {**SMALL, **fields, "file_metadata": job})
    path = Path(urlsplit(answer["url"]).path)
    assert CANARY.encode() not in path.read_bytes()
    metadata = read_metadata(path)
    if level == "none":
        assert metadata == {}
    else:
        assert metadata["request"]["seed"] == 5
        assert "prompt" not in metadata["request"]


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        {**CONFIG, "endpointUrl": f"http://10.0.0.1/{CANARY}?token={CANARY}"},
        {**CONFIG, "secret": CANARY},
        {**CONFIG, "bucketName": [CANARY]},
        {"accessId": CANARY},
        CANARY,
        [CANARY],
    ],
    ids=["unreachable", "http", "unknown", "type", "part", "text", "list"],
)
@pytest.mark.parametrize("allowed", [False, True])
def test_a_job_s_own_bucket_that_fails(
    config: Any,
    allowed: bool,
    engine: Engine,
    tmp_path: Path,
    log: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0
    )
    logging.getLogger("botocore").setLevel(logging.WARNING)
    runner = runner_of(engine, tmp_path, job_buckets=allowed)
    answer = run(runner, SMALL, s3Config=config)
    is_tried = allowed and config is CONFIG
    code = "STORAGE_FAILED" if is_tried else "INVALID_REQUEST"
    assert answer["error"]["code"] == code
    assert "refresh_worker" not in answer
    assert runner.status.gpu_seconds == 0
    assert_nothing_leaked(tmp_path, log, answer)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"accessId": None}, "s3Config.accessId"),
        ({"bucketName": "no spaces"}, "s3Config.bucketName"),
        ({"accessSecret": 5}, "s3Config.accessSecret"),
        ({"region": "x"}, "s3Config.region"),
    ],
)
def test_a_wrong_bucket_names_its_field_and_no_value(
    change: dict[str, Any], field: str
) -> None:
    config = {**CONFIG, **change}
    with pytest.raises(InvalidRequest) as caught:
        storage_of({"s3Config": config}, Settings(job_buckets=True))
    assert caught.value.details["field"] == field
    assert caught.value.details["got"] == "(not shown)"


def test_a_bucket_without_a_field_names_it() -> None:
    config = {key: value for key, value in CONFIG.items() if key != "accessSecret"}
    with pytest.raises(InvalidRequest, match=r"s3Config\.accessSecret: got nothing"):
        storage_of({"s3Config": config}, Settings(job_buckets=True))


def test_a_job_s_bucket_is_no_way_into_this_network(tmp_path: Path) -> None:
    settings = Settings(job_buckets=True, cache_dir=tmp_path)
    for host in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]"):
        config = {**CONFIG, "endpointUrl": f"https://{host}"}
        with pytest.raises(InvalidRequest, match="no public host"):
            storage_of({"s3Config": config}, settings)
    del config["endpointUrl"]
    storage = storage_of({"s3Config": config}, settings)
    assert storage is not None
    assert storage.bucket.name == "clips"
    assert CANARY not in repr(storage.bucket)
    assert storage_of({}, settings) is None
