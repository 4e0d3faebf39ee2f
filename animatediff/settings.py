"""How the service is set up. ``Settings.from_env`` is the only place that reads
environment variables.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigurationError

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class BucketSettings:
    """An S3 bucket. ``endpoint_url`` None means AWS itself.

    ``key_template`` may use {job_id}, {date} (YYYY-MM-DD, UTC), {sha256} and {suffix}
    (with its dot). With ``public_base_url`` an object's URL is that base plus its key;
    without it the URL is presigned for ``url_ttl_seconds``.
    """

    name: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: str = "auto"
    key_template: str = "animatediff/{job_id}-{sha256:.12}{suffix}"
    public_base_url: str | None = None
    url_ttl_seconds: int = 7 * 24 * 3600


@dataclass(frozen=True)
class Settings:
    """Everything that differs between two installations of the same code."""

    models_dir: Path = PROJECT_ROOT / "models"
    output_dir: Path = PROJECT_ROOT / "outputs"
    input_dir: Path = PROJECT_ROOT / "inputs"
    cache_dir: Path = Path.home() / ".cache" / "animatediff"
    result_file: Path | None = None
    default_model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention_backend: str = "sdpa"
    vae_decode_chunk: int = 4
    device_memory_bytes: int | None = None
    """What weights and work may take of the device's memory; None: all of a card's, and
    any amount of a CPU's.
    """
    max_megapixel_steps: float = 1000.0
    video_quality: int = 90
    on_platform: bool = False
    """Jobs come from RunPod's queue, and clients wait for their answers there."""
    concurrency: int = 2
    job_timeout_seconds: float | None = None
    max_inline_bytes: int = 7_000_000
    log_prompts: bool = False
    offline: bool = False
    download_hosts: tuple[str, ...] | None = None
    """Hosts that jobs may name in URLs; None: any public one, empty: none.
    ".example.org" means all below it.
    """
    max_download_bytes: int = 10_000_000_000
    any_path: bool = False
    """Paths anywhere on this machine may be named, not only those below the folders:
    for command lines.
    """
    bucket: BucketSettings | None = None

    @property
    def inline_limit(self) -> int | None:
        """The largest file that can be answered, where files go into the answers; None
        where they are stored.
        """
        return (
            self.max_inline_bytes if self.on_platform and self.bucket is None else None
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Settings as the environment variables say; unset or empty ones keep their
        defaults.

        Raises ConfigurationError that names the variable, what it holds and what it may
        hold.
        """
        environ = os.environ if environ is None else environ
        given = _read(environ, VARIABLES)
        return cls(**given, bucket=_bucket(environ))


@dataclass(frozen=True)
class Variable:
    """One environment variable: the field it sets, how its text is read, and what it is
    for.

    ``default`` is how README tells of a default that is no value.
    """

    field: str
    parse: Callable[[str], Any]
    meaning: str
    default: str = ""


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text

    return parse


def _number(kind: type, low: float, high: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        allowed = f"a number from {low:g} to {high:g}"
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(allowed) from None
        if not low <= value <= high:
            raise ValueError(allowed)
        return value

    return parse


def _switch(text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError("0 or 1")
    return text.lower() in ("1", "true")


def _hosts(text: str) -> tuple[str, ...] | None:
    if text == "*":
        return None
    return (
        ()
        if text == "none"
        else tuple(host.strip().lower() for host in text.split(",") if host.strip())
    )


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("a URL that starts with https:// or http://")
    return text.rstrip("/")


VARIABLES: Mapping[str, Variable] = {
    "ANIMATEDIFF_MODELS_DIR": Variable("models_dir", Path, "folder of the weights"),
    "ANIMATEDIFF_OUTPUT_DIR": Variable(
        "output_dir", Path, "folder of finished files when no bucket is configured"
    ),
    "ANIMATEDIFF_INPUT_DIR": Variable(
        "input_dir", Path, "folder of pictures that jobs may name by path"
    ),
    "ANIMATEDIFF_CACHE_DIR": Variable(
        "cache_dir", Path, "folder of files fetched from URLs"
    ),
    "ANIMATEDIFF_RESULT_FILE": Variable(
        "result_file", Path, "also write each job's output here, as JSON"
    ),
    "ANIMATEDIFF_DEFAULT_MODEL": Variable(
        "default_model", str, "model of jobs that name none"
    ),
    "ANIMATEDIFF_DEVICE": Variable(
        "device", str, "torch device; auto: cuda if there is one, else cpu"
    ),
    "ANIMATEDIFF_DTYPE": Variable(
        "dtype",
        _one_of("auto", "float16", "bfloat16", "float32"),
        "auto: float16 on cuda, float32 on cpu",
    ),
    "ANIMATEDIFF_ATTENTION": Variable(
        "attention_backend", _one_of("sdpa", "xformers"), "attention kernels"
    ),
    "ANIMATEDIFF_VAE_DECODE_CHUNK": Variable(
        "vae_decode_chunk", _number(int, 1, 64), "frames decoded at once"
    ),
    "ANIMATEDIFF_DEVICE_MEMORY_BYTES": Variable(
        "device_memory_bytes",
        _number(int, 1, 1e15),
        "memory for weights and work; larger jobs are refused at once",
        "all of the card's",
    ),
    "ANIMATEDIFF_MAX_MEGAPIXEL_STEPS": Variable(
        "max_megapixel_steps",
        _number(float, 0.01, 1e6),
        "largest job: frames x width x height x steps / 1e6",
    ),
    "ANIMATEDIFF_OFFLINE": Variable(
        "offline", _switch, "1: fetch nothing, use what is here"
    ),
    "ANIMATEDIFF_DOWNLOAD_HOSTS": Variable(
        "download_hosts",
        _hosts,
        "hosts that jobs may name in URLs, with commas; * any public one, none: no"
        " downloads",
        "`*`",
    ),
    "ANIMATEDIFF_MAX_DOWNLOAD_BYTES": Variable(
        "max_download_bytes", _number(int, 1, 1e12), "largest file that is fetched"
    ),
    "RUNPOD_WEBHOOK_POST_OUTPUT": Variable(
        "on_platform", bool, "set by RunPod: there is a client to tell", "-"
    ),
    "ANIMATEDIFF_CONCURRENCY": Variable(
        "concurrency",
        _number(int, 1, 16),
        "jobs taken at once; one is on the device, the others download or upload",
    ),
    "ANIMATEDIFF_JOB_TIMEOUT_SECONDS": Variable(
        "job_timeout_seconds",
        _number(float, 0.001, 1e6),
        "a job that takes longer is stopped at its next step",
    ),
    "ANIMATEDIFF_MAX_INLINE_BYTES": Variable(
        "max_inline_bytes",
        _number(int, 1, 20_000_000),
        "largest file in an answer, where there is no bucket",
    ),
    "ANIMATEDIFF_LOG_PROMPTS": Variable(
        "log_prompts", _switch, "1: prompts appear in the log"
    ),
    "ANIMATEDIFF_VIDEO_QUALITY": Variable(
        "video_quality", _number(int, 1, 100), "of mp4, webm and webp"
    ),
}

BUCKET_VARIABLES: Mapping[str, Variable] = {
    "BUCKET_NAME": Variable("name", str, "bucket"),
    "BUCKET_ACCESS_KEY_ID": Variable("access_key_id", str, "access key"),
    "BUCKET_SECRET_ACCESS_KEY": Variable("secret_access_key", str, "secret key"),
    "BUCKET_ENDPOINT_URL": Variable("endpoint_url", _url, "S3 endpoint; unset: AWS"),
    "BUCKET_REGION": Variable("region", str, "region that requests are signed for"),
    "BUCKET_ADDRESSING_STYLE": Variable(
        "addressing_style", _one_of("auto", "path", "virtual"), "bucket in path or host"
    ),
    "BUCKET_KEY_TEMPLATE": Variable(
        "key_template", str, "object key; {job_id} {date} {sha256} {suffix}"
    ),
    "BUCKET_PUBLIC_BASE_URL": Variable(
        "public_base_url", _url, "URLs are this plus the key, instead of presigned"
    ),
    "BUCKET_URL_TTL_SECONDS": Variable(
        "url_ttl_seconds", _number(int, 1, 7 * 24 * 3600), "life of presigned URLs"
    ),
}

_BUCKET_NEEDS = ("BUCKET_NAME", "BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY")


def _read(
    environ: Mapping[str, str], variables: Mapping[str, Variable]
) -> dict[str, Any]:
    given = {}
    for name, variable in variables.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            given[variable.field] = variable.parse(text)
        except ValueError as error:
            shown = "(not shown)" if "SECRET" in name else repr(text)
            raise ConfigurationError(
                f"{name} is {shown}, must be {error}", setting=name
            ) from None
    return given


def _bucket(environ: Mapping[str, str]) -> BucketSettings | None:
    given = _read(environ, BUCKET_VARIABLES)
    if not given:
        return None
    missing = [
        name for name in _BUCKET_NEEDS if BUCKET_VARIABLES[name].field not in given
    ]
    if missing:
        raise ConfigurationError(
            f"a bucket is configured in part: {', '.join(missing)} not set. Set all"
            f" of {', '.join(_BUCKET_NEEDS)}, "
            "or no BUCKET_ variable at all to keep files in a local folder",
            setting=missing[0],
        )
    template = given.get("key_template", BucketSettings.key_template)
    try:
        template.format(job_id="j", date="d", sha256="0" * 64, suffix=".mp4")
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigurationError(
            f"BUCKET_KEY_TEMPLATE is {template!r}: {error!r}; may use {{job_id}},"
            f" {{date}}, {{sha256}}, {{suffix}}",
            setting="BUCKET_KEY_TEMPLATE",
        ) from None
    return BucketSettings(**given)
