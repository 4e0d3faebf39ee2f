"""The settings of an installation, as one frozen value.

Every row of ``Settings`` and ``BucketSettings`` with a description is an environment
variable; ``VARIABLES`` lists them. ``Settings.from_env`` is the only code that reads
environment variables and the ``.env`` file.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from .errors import ConfigurationError
from .variables import Variable, Words, variables_of

PROJECT_ROOT = Path(__file__).resolve().parent.parent
ENV_FILE = ".env"
"""Read from the working directory. Variables of the environment take precedence."""
_PREFIXES = ("ANIMATEDIFF_", "BUCKET_")


def data_root() -> Path:
    """The folder of models, inputs and outputs.

    It is the folder of the package in a checkout, which has pyproject.toml, and in the
    image, which has handler.py. An installed package's folder, site-packages, is no
    place for data: then it is the working directory.
    """
    marks = (PROJECT_ROOT / "pyproject.toml", PROJECT_ROOT / "handler.py")
    return PROJECT_ROOT if any(mark.is_file() for mark in marks) else Path.cwd()


def _read_hosts(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value == "*":
        return None
    if value == "none":
        return ()
    hosts = (host.strip().lower() for host in value.split(","))
    return tuple(filter(None, hosts))


def _read_url(text: str | None) -> str | None:
    if text is None:
        return None
    if not text.startswith(("http://", "https://")):
        raise ValueError("not a URL")
    return text.rstrip("/")


def _read_template(template: str) -> str:
    """Check that clips of different jobs, or of different content, have own keys."""
    job, content = "j" * 35, "0" * 11  # what two of them may have in common
    one = _example_key(template, f"{job}1", f"{content:0<64}")
    other_job = _example_key(template, f"{job}2", f"{content:0<64}")
    other_content = _example_key(template, f"{job}1", f"{content:1<64}")
    if one == other_job == other_content:
        raise ValueError("clips would overwrite each other")
    return template


def _example_key(template: str, job_id: str, sha256: str) -> str:
    try:
        return template.format(job_id=job_id, date="d", sha256=sha256, suffix=".mp4")
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise ValueError("an unknown field") from error


def _check_encoding(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None:
        secret.get_secret_value().encode()
    return secret


def _is_header(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable()


def _read_tokens(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    tokens = [(host.strip().lower(), token.strip()) for host, _, token in pairs]
    if any(not host or "/" in host or not _is_header(token) for host, token in tokens):
        raise ValueError("not host=token")
    return tuple(tokens)


def _check_tokens(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None:
        _read_tokens(secret.get_secret_value())
    return secret


def _read_names(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(filter(None, (name.strip() for name in value.split(","))))


def _is_set(value: Any) -> bool:
    return bool(value)


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Hosts = Annotated[
    tuple[str, ...] | None,
    NoDecode,
    BeforeValidator(_read_hosts),
    Words(allowed="host names separated by commas, `*` or `none`", default="`*`"),
]
Repositories = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_read_names),
    Words(allowed="`owner/repo`, `owner/*` or `*`, separated by commas", default="-"),
]
Tokens = Annotated[
    SecretStr | None,
    AfterValidator(_check_tokens),
    Words(allowed="`host=token`, separated by commas"),
]
Url = Annotated[
    str | None,
    AfterValidator(_read_url),
    Words(allowed="a URL that starts with https:// or http://"),
]
KeyTemplate = Annotated[
    str,
    AfterValidator(_read_template),
    Words(
        allowed="text with {job_id}, or {sha256} with at least 12 digits, so that no"
        " clip overwrites another; also {date} and {suffix}"
    ),
]
Secret = Annotated[
    SecretStr | None, AfterValidator(_check_encoding), Words(allowed="text in UTF-8")
]
CannedAcl = Literal[
    "private",
    "public-read",
    "authenticated-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
]
Bytes = Annotated[int, Words(unit="bytes")]
Presence = Annotated[
    bool, BeforeValidator(_is_set), Words(allowed="a URL", default="-")
]
LogLevel = Annotated[
    Literal["NOTSET", "TRACE", "DEBUG", "INFO", "WARN", "ERROR"],
    BeforeValidator(_upper),
]


class _Declaration(BaseSettings):
    """Settings whose constructor takes plain values and reads no environment."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, allow_inf_nan=False
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing but the constructor's arguments."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


class BucketSettings(_Declaration):
    """An S3 bucket.

    ``endpoint_url`` None means AWS. Without keys, boto3 looks for credentials: in its
    own variables and files, and in the role of the machine. In ``key_template``, {date}
    is YYYY-MM-DD in UTC and {suffix} starts with a dot. An object's URL is
    ``public_base_url`` plus its key; without a base it is presigned for
    ``url_ttl_seconds``, for the host of ``public_endpoint_url``.
    """

    model_config = SettingsConfigDict(env_prefix="BUCKET_")

    name: str = Field(description="name of the bucket")
    access_key_id: Secret = Field(
        default=None, description="access key; unset: boto3 looks for credentials"
    )
    secret_access_key: Secret = Field(default=None, description="secret key")
    session_token: Secret = Field(
        default=None,
        validation_alias=AliasChoices("BUCKET_SESSION_TOKEN", "AWS_SESSION_TOKEN"),
        description="token of temporary keys; their URLs end with them",
    )
    endpoint_url: Url = Field(default=None, description="S3 endpoint; unset: AWS")
    region: str | None = Field(
        default=None,
        description="region that requests are signed for; unset: the endpoint's",
    )
    aws_region: str | None = Field(
        default=None,
        validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"),
        description="region if neither `BUCKET_REGION` nor the endpoint names one",
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="where the bucket's name goes: into the path or the host",
    )
    key_template: KeyTemplate = Field(
        default="animatediff/{job_id}-{sha256:.12}{suffix}",
        description="key of an object",
    )
    acl: CannedAcl | None = Field(
        default=None, description="rights of an object; unset: the bucket's"
    )
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        default=None, description="encryption of an object; unset: the bucket's"
    )
    sse_kms_key_id: str | None = Field(
        default=None, description="key of the encryption with `aws:kms`"
    )
    public_base_url: Url = Field(
        default=None,
        description="URLs are this plus the key; unset: URLs are presigned",
    )
    public_endpoint_url: Url = Field(
        default=None,
        description="endpoint in presigned URLs, if clients use another one",
    )
    url_ttl_seconds: Annotated[int, Words(unit="seconds")] = Field(
        default=7 * 24 * 3600,
        ge=1,
        le=7 * 24 * 3600,
        description="lifetime of presigned URLs",
    )


class Settings(_Declaration):
    """Everything that differs between two installations of the same code.

    ``Settings(...)`` takes plain values; ``from_env`` reads the environment. Both raise
    on values that are not allowed: ValidationError and ConfigurationError.
    """

    model_config = SettingsConfigDict(env_prefix="ANIMATEDIFF_")

    models_dir: Annotated[Path, Words(default="`models`")] = Field(
        default_factory=lambda: data_root() / "models", description="folder of weights"
    )
    output_dir: Annotated[Path, Words(default="`outputs`")] = Field(
        default_factory=lambda: data_root() / "outputs",
        description="folder of finished files when no bucket is configured",
    )
    input_dir: Annotated[Path, Words(default="`inputs`")] = Field(
        default_factory=lambda: data_root() / "inputs",
        description="folder of pictures that jobs may name by path",
    )
    cache_dir: Annotated[Path, Words(default="`~/.cache/animatediff`")] = Field(
        default_factory=lambda: Path.home() / ".cache" / "animatediff",
        description="folder of files downloaded from URLs",
    )
    result_file: Path | None = Field(
        default=None, description="file that also receives each job's output, as JSON"
    )
    default_model: Annotated[
        str | None,
        Words(allowed="name of a base model", default="the first installed"),
    ] = Field(default=None, description="model of jobs that name none")
    device: Annotated[str, Words(allowed="auto, or a torch device such as cuda:1")] = (
        Field(default="auto", description="device; auto: cuda if available, else cpu")
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        default="auto", description="precision; auto: float16 on cuda, float32 on cpu"
    )
    attention_backend: Literal["sdpa", "xformers"] = Field(
        default="sdpa",
        validation_alias="ANIMATEDIFF_ATTENTION",
        description="attention kernels; sdpa: PyTorch's own",
    )
    kernels: Literal["auto", "torch"] = Field(
        default="auto",
        description="operators; auto: own Triton kernels on cuda, torch: PyTorch's",
    )
    vae_decode_chunk: Annotated[
        int | None, Words(unit="frames", default="by free memory; 4 on a CPU")
    ] = Field(default=None, ge=1, le=64, description="frames decoded at once")
    device_memory_bytes: Annotated[
        int | None, Words(unit="bytes", default="the card's free memory")
    ] = Field(
        default=None,
        ge=1,
        le=10**15,
        description="memory for weights and work; larger jobs are rejected at once",
    )
    max_megapixel_steps: float = Field(
        default=1000.0,
        ge=0.001,
        le=1e6,
        description="largest job: frames x width x height x steps / 1e6",
    )
    offline: bool = Field(
        default=False, description="1: download nothing, use local files"
    )
    download_hosts: Hosts = Field(
        default=None,
        description="hosts that jobs may name in URLs; `*`: every public host,"
        " `none`: no downloads, `.example.org`: all hosts below it",
    )
    private_hosts: bool = Field(
        default=False,
        validation_alias="RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS",
        description="1: URLs of jobs may lead to addresses that are not public",
    )
    max_download_bytes: Bytes = Field(
        default=10_000_000_000,
        ge=1,
        le=10**12,
        description="largest file that is downloaded",
    )
    max_pictures: Annotated[int, Words(unit="pictures")] = Field(
        default=128, ge=1, le=128, description="most pictures of one job"
    )
    max_picture_bytes: Bytes = Field(
        default=200_000_000,
        ge=1,
        le=10**10,
        description="largest total of the picture files of one job",
    )
    max_picture_megapixels: float = Field(
        default=500.0,
        ge=0.001,
        le=1e5,
        description="largest total of the pictures of one job, as they arrive",
    )
    picture_memory_bytes: Bytes = Field(
        default=1_500_000_000,
        ge=200_000_000,
        le=10**12,
        description="memory for reading a picture, and for all at the clip's size",
    )
    picture_seconds: Annotated[int, Words(unit="seconds")] = Field(
        default=60,
        ge=1,
        le=3600,
        description="computing time for reading the pictures of one job",
    )
    download_seconds: Annotated[float, Words(unit="seconds")] = Field(
        default=3600.0, ge=1.0, le=1e6, description="longest time of one download"
    )
    min_download_rate: Annotated[int, Words(unit="bytes a second")] = Field(
        default=10_000,
        ge=0,
        le=10**9,
        description="lowest rate of a download; a slower one is ended after 20 s",
    )
    max_cache_bytes: Bytes = Field(
        default=50_000_000_000,
        ge=1,
        le=10**15,
        description="size of all downloads; the least recently used are removed first",
    )
    download_tokens: Tokens = Field(
        default=None,
        description="tokens for hosts of URLs, `civitai.com=TOKEN`, separated by"
        " commas; a token goes to its host alone",
    )
    hub_repositories: Repositories = Field(
        default=(),
        description="with a token of the hub: the repositories that jobs may name;"
        " `owner/*`: all of an owner, `*`: all",
    )
    on_platform: Presence = Field(
        default=False,
        validation_alias="RUNPOD_WEBHOOK_POST_OUTPUT",
        description="set by RunPod: jobs come from its queue, answers go back there",
    )
    concurrency: Annotated[int, Words(unit="jobs")] = Field(
        default=2,
        ge=1,
        le=16,
        description="jobs taken at once; one computes, the others download or upload",
    )
    job_timeout_seconds: Annotated[
        float | None, Words(unit="seconds", default="no limit")
    ] = Field(
        default=None,
        ge=0.001,
        le=1e6,
        description="limit of a job's own work; waiting for other jobs does not count",
    )
    stop_seconds: Annotated[float, Words(unit="seconds")] = Field(
        default=20.0,
        ge=0.0,
        le=3600.0,
        description="time that running jobs have to end after SIGTERM",
    )
    max_inline_bytes: Bytes = Field(
        default=7_000_000,
        ge=1,
        le=20_000_000,
        description="largest file inside an answer, where there is no bucket",
    )
    file_metadata: Literal["none", "no_prompts", "full"] = Field(
        default="full",
        description="the most that a file shows of its job; jobs may ask for less",
    )
    job_buckets: bool = Field(
        default=False,
        description="1: a job may bring a bucket of its own, as RunPod's `s3Config`",
    )
    log_prompts: bool = Field(default=False, description="1: prompts appear in the log")
    sdk_log_level: LogLevel = Field(
        default="INFO",
        validation_alias=AliasChoices("RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL"),
        description="log level of RunPod's SDK; its DEBUG shows whole jobs and answers",
    )
    video_quality: int = Field(
        default=90, ge=1, le=100, description="quality of mp4, webm and webp"
    )
    any_path: bool = False
    """Jobs may name any path of this machine. For command lines, not for services."""
    bucket: BucketSettings | None = None

    @property
    def download_token_pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of host and token of ``download_tokens``."""
        text = self.download_tokens.get_secret_value() if self.download_tokens else ""
        return _read_tokens(text)

    @property
    def inline_limit(self) -> int | None:
        """The largest file, in bytes, that fits into an answer.

        None if files are stored in a bucket or a folder instead.
        """
        stored = self.bucket is not None or not self.on_platform
        return None if stored else self.max_inline_bytes

    def replace(self, **changes: Any) -> "Settings":
        """The same settings with some fields changed."""
        return Settings(**{**dict(self), **changes})

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Settings from environment variables and the ``.env`` file.

        Unset and empty variables keep their defaults. With ``environ``, nothing else is
        read. Raises ConfigurationError with the variable, its value (unless that is
        secret) and the allowed values.
        """
        texts = _texts(environ)
        values = _values(cls, VARIABLES, texts)
        try:
            settings = cls(**values)
        except ValidationError as error:
            raise _configuration_error(error, VARIABLES, texts) from None
        return settings.replace(bucket=_bucket(texts))


VARIABLES = variables_of(Settings)
"""The service's environment variables by name."""
BUCKET_VARIABLES = variables_of(BucketSettings)
"""The bucket's environment variables by name."""


class _TextSource(EnvSettingsSource):
    """Environment variables from a mapping."""

    def __init__(
        self, declaration: type[_Declaration], texts: Mapping[str, str]
    ) -> None:
        self._texts = texts
        super().__init__(declaration)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): text for name, text in self._texts.items()}


def _texts(environ: Mapping[str, str] | None) -> dict[str, str]:
    """All variables that are set: of ``environ``, or of the process and ``.env``."""
    variables: Mapping[str, str | None] = environ or {}
    if environ is None:
        variables = {**_env_file(), **_stripped(os.environ)}
    return _stripped(variables)


def _env_file() -> Mapping[str, str | None]:
    try:
        source = DotEnvSettingsSource(_Declaration, ENV_FILE, case_sensitive=True)
    except (OSError, UnicodeDecodeError) as error:
        message = f"the file {ENV_FILE} cannot be read: it must be text in UTF-8"
        raise ConfigurationError(message, setting=ENV_FILE) from error
    return source.env_vars


def _stripped(variables: Mapping[str, str | None]) -> dict[str, str]:
    texts = {name: (text or "").strip() for name, text in variables.items()}
    return {name: text for name, text in texts.items() if text}


def _values(
    declaration: type[_Declaration],
    variables: Mapping[str, Variable],
    texts: Mapping[str, str],
) -> dict[str, Any]:
    """The constructor's arguments, still as text."""
    names = {name for row in variables.values() for name in row.names}
    declared = {name: text for name, text in texts.items() if name in names}
    return _TextSource(declaration, declared)()


def _configuration_error(
    error: ValidationError, variables: Mapping[str, Variable], texts: Mapping[str, str]
) -> ConfigurationError:
    place = error.errors(include_url=False)[0]["loc"][0]
    rows = variables.values()
    row = next(row for row in rows if place in (row.field, *row.names))
    name = next(name for name in row.names if name in texts)
    shown = "(not shown)" if row.secret else repr(texts[name])
    return ConfigurationError(
        f"{name} is {shown}; allowed: {row.allowed}", setting=name
    )


def _bucket(texts: Mapping[str, str]) -> BucketSettings | None:
    if not any(name in BUCKET_VARIABLES for name in _ours(texts)):
        return None
    values = _values(BucketSettings, BUCKET_VARIABLES, _without_strange_token(texts))
    _check_complete(values)
    try:
        return BucketSettings(**values)
    except ValidationError as error:
        raise _configuration_error(error, BUCKET_VARIABLES, texts) from None


def _without_strange_token(texts: Mapping[str, str]) -> dict[str, str]:
    """``texts`` without AWS_SESSION_TOKEN, unless it belongs to the bucket's key."""
    key = texts.get("BUCKET_ACCESS_KEY_ID")
    belongs = key is not None and texts.get("AWS_ACCESS_KEY_ID", key) == key
    return {n: text for n, text in texts.items() if belongs or n != "AWS_SESSION_TOKEN"}


_TOGETHER = ("BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY")


def _check_complete(values: Mapping[str, Any]) -> None:
    present = {
        name
        for name, row in BUCKET_VARIABLES.items()
        if not values.keys().isdisjoint((row.field, *row.names))
    }
    needed = {"BUCKET_NAME"}
    if not present.isdisjoint((*_TOGETHER, "BUCKET_SESSION_TOKEN")):
        needed.update(_TOGETHER)
    missing = [name for name in BUCKET_VARIABLES if name in needed - present]
    if missing:
        raise ConfigurationError(
            f"the bucket is configured only in part: {', '.join(missing)} not set."
            f" Set BUCKET_NAME and both of {', '.join(_TOGETHER)}, or neither of them"
            " for credentials that boto3 finds, or no BUCKET_ variable at all to keep"
            " files in a local folder",
            setting=missing[0],
        )


def _ours(texts: Mapping[str, str]) -> list[str]:
    return [name for name in texts if name.startswith(_PREFIXES)]


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Variables with our prefixes that nothing reads, each with the closest name.

    Reads the same variables as ``Settings.from_env``.
    """
    names = {**VARIABLES, **BUCKET_VARIABLES}
    ours = _ours(_texts(environ))
    return [_with_suggestion(name, names) for name in ours if name not in names]


def _with_suggestion(name: str, names: Iterable[str]) -> str:
    prefix = name.partition("_")[0] + "_"
    ends = [other.removeprefix(prefix) for other in names if other.startswith(prefix)]
    closest = difflib.get_close_matches(name.removeprefix(prefix), ends, n=1)
    return f"{name} (did you mean {prefix}{closest[0]}?)" if closest else name
