"""Settings from environment variables and a .env file, and their documentation."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from animatediff import settings as settings_module
from animatediff.errors import ConfigurationError
from animatediff.settings import (
    BUCKET_VARIABLES,
    PROJECT_ROOT,
    VARIABLES,
    BucketSettings,
    Settings,
    unknown_variables,
)
from scripts import tables

BUCKET = {
    "BUCKET_NAME": "clips",
    "BUCKET_ACCESS_KEY_ID": "key",
    "BUCKET_SECRET_ACCESS_KEY": "hush",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a process without variables of ours."""
    for row in (*VARIABLES.values(), *BUCKET_VARIABLES.values()):
        for name in row.names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_set_is_the_default() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"ANIMATEDIFF_DEVICE": " "}) == Settings()


def test_variables_are_read() -> None:
    settings = Settings.from_env(
        {
            "ANIMATEDIFF_MODELS_DIR": "/weights",
            "ANIMATEDIFF_DTYPE": "bfloat16",
            "ANIMATEDIFF_VAE_DECODE_CHUNK": "8",
            "ANIMATEDIFF_ATTENTION": "xformers",
            "ANIMATEDIFF_OFFLINE": " 1 ",
            "RUNPOD_WEBHOOK_POST_OUTPUT": "https://example.org/$ID",
        }
    )
    assert settings.models_dir == Path("/weights")
    assert (settings.dtype, settings.vae_decode_chunk) == ("bfloat16", 8)
    assert settings.attention_backend == "xformers"
    assert settings.offline
    assert settings.on_platform


@pytest.mark.parametrize(
    ("text", "hosts"),
    [("*", None), ("none", ()), ("A.org, .b.org,", ("a.org", ".b.org"))],
)
def test_hosts(text: str, hosts: tuple[str, ...] | None) -> None:
    settings = Settings.from_env({"ANIMATEDIFF_DOWNLOAD_HOSTS": text})
    assert settings.download_hosts == hosts


@pytest.mark.parametrize("name", ["RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL"])
def test_the_level_of_the_sdk_s_log(name: str) -> None:
    assert Settings().sdk_log_level == "INFO"
    assert Settings.from_env({name: "debug"}).sdk_log_level == "DEBUG"


def test_fields_without_a_description_are_no_variables() -> None:
    """Among them the one that opens every path of the machine to jobs."""
    environ = {"ANIMATEDIFF_ANY_PATH": "1", "ANIMATEDIFF_BUCKET": '{"name": "x"}'}
    assert Settings.from_env(environ) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("ANIMATEDIFF_DTYPE", "float8", "auto, float16, bfloat16, float32"),
        ("ANIMATEDIFF_ATTENTION", "flash", "sdpa, xformers"),
        ("ANIMATEDIFF_VAE_DECODE_CHUNK", "0", "a whole number from 1 to 64 frames"),
        ("ANIMATEDIFF_MAX_MEGAPIXEL_STEPS", "nan", "a number from 0.001 to 1,000,000"),
        ("ANIMATEDIFF_VIDEO_QUALITY", "good", "a whole number from 1 to 100"),
        ("ANIMATEDIFF_OFFLINE", "maybe", "0 or 1"),
        ("RUNPOD_DEBUG_LEVEL", "loud", "NOTSET, TRACE, DEBUG, INFO, WARN, ERROR"),
    ],
)
def test_wrong_value_names_its_variable(name: str, text: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({name: text})
    assert caught.value.message == f"{name} is {text!r}; allowed: {allowed}"
    assert caught.value.details["setting"] == name


def test_settings_are_frozen_and_checked() -> None:
    settings = Settings(vae_decode_chunk=2)
    with pytest.raises(ValidationError):
        settings.vae_decode_chunk = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.replace(vae_decode_chunk=0)
    with pytest.raises(ValidationError):
        settings.replace(vae_decode_chunks=3)
    assert settings.replace(dtype="float32") == Settings(
        vae_decode_chunk=2, dtype="float32"
    )


def test_the_constructor_reads_no_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIMATEDIFF_DTYPE", "float32")
    (folder / ".env").write_text("ANIMATEDIFF_DEVICE=cpu\n")
    assert (Settings().dtype, Settings().device) == ("auto", "auto")


def test_the_environment_precedes_the_env_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.from_env() == Settings()
    text = "# ours\nANIMATEDIFF_DTYPE=float32\nANIMATEDIFF_DEVICE='cpu'\nHF_TOKEN=x\n"
    (folder / ".env").write_text(text + "BUCKET_REGIN=eu-1\n")
    monkeypatch.setenv("ANIMATEDIFF_DTYPE", "bfloat16")
    settings = Settings.from_env()
    assert (settings.dtype, settings.device) == ("bfloat16", "cpu")
    assert Settings.from_env({}) == Settings()
    assert unknown_variables() == ["BUCKET_REGIN (did you mean BUCKET_REGION?)"]


def test_an_empty_variable_leaves_the_env_file_s_value(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("ANIMATEDIFF_DEVICE=cpu\n")
    monkeypatch.setenv("ANIMATEDIFF_DEVICE", "")
    assert Settings.from_env().device == "cpu"


def test_an_unreadable_env_file_is_named(folder: Path) -> None:
    (folder / ".env").write_bytes(b"ANIMATEDIFF_DEVICE=\xff\n")
    with pytest.raises(ConfigurationError, match=r"the file \.env cannot be read"):
        Settings.from_env()


def test_data_is_in_the_checkout_or_in_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings().models_dir == PROJECT_ROOT / "models"
    site_packages = folder / "lib" / "site-packages"
    site_packages.mkdir(parents=True)
    monkeypatch.setattr(settings_module, "PROJECT_ROOT", site_packages)
    settings = Settings.from_env()
    assert settings.models_dir == folder / "models"
    assert settings.output_dir == folder / "outputs"
    assert settings.input_dir == folder / "inputs"
    (site_packages / "handler.py").touch()  # as in the image
    assert Settings().models_dir == site_packages / "models"


def test_unknown_variables_are_named_with_the_closest_one() -> None:
    environ = {
        "ANIMATEDIFF_DTYP": "float32",
        "BUCKET_ZZZ": "x",
        "ANIMATEDIFF_DTYPE": "float32",
        "BUCKET_NAME": "b",
        "PATH": "/bin",
    }
    assert unknown_variables(environ) == [
        "ANIMATEDIFF_DTYP (did you mean ANIMATEDIFF_DTYPE?)",
        "BUCKET_ZZZ",
    ]


def test_whole_bucket() -> None:
    settings = Settings.from_env(
        {
            **BUCKET,
            "BUCKET_ENDPOINT_URL": "https://s3.example.com/",
            "BUCKET_REGION": "eu-1",
        }
    )
    assert settings.bucket == BucketSettings(
        name="clips",
        access_key_id=SecretStr("key"),
        secret_access_key=SecretStr("hush"),
        endpoint_url="https://s3.example.com",
        region="eu-1",
    )
    assert "hush" not in repr(settings)
    assert "'key'" not in repr(settings)
    assert "hush" not in settings.model_dump_json()


def test_a_bucket_without_keys_leaves_the_credentials_to_boto3() -> None:
    bucket = Settings.from_env({"BUCKET_NAME": "clips"}).bucket
    assert bucket == BucketSettings(name="clips")


def test_aws_variables_alone_make_no_bucket() -> None:
    aws = {"AWS_REGION": "eu-1", "AWS_SESSION_TOKEN": "hush"}
    assert Settings.from_env(aws).bucket is None


@pytest.mark.parametrize(
    ("environ", "token"),
    [
        ({"BUCKET_SESSION_TOKEN": "t"}, "t"),
        ({"AWS_SESSION_TOKEN": "t"}, "t"),
        ({"AWS_SESSION_TOKEN": "t", "AWS_ACCESS_KEY_ID": "key"}, "t"),
        ({"AWS_SESSION_TOKEN": "t", "AWS_ACCESS_KEY_ID": "another key"}, None),
        ({}, None),
    ],
)
def test_a_token_belongs_to_its_key(environ: dict[str, str], token: str | None) -> None:
    bucket = Settings.from_env({**BUCKET, **environ}).bucket
    assert bucket is not None
    secret = bucket.session_token
    assert (secret.get_secret_value() if secret else None) == token
    assert "'t'" not in repr(bucket)


@pytest.mark.parametrize(
    "names", [("AWS_REGION", "AWS_DEFAULT_REGION"), ("AWS_DEFAULT_REGION",)]
)
def test_aws_s_own_region_is_known(names: tuple[str, ...]) -> None:
    environ = dict(zip(names, ("eu-1", "eu-2"), strict=False))
    bucket = Settings.from_env({**BUCKET, **environ}).bucket
    assert bucket is not None
    assert (bucket.region, bucket.aws_region) == (None, "eu-1")


@pytest.mark.parametrize(
    "template", ["{job_id}", "{sha256}", "{date}/{job_id}{suffix}", "{sha256:.12}"]
)
def test_a_key_of_job_or_content_is_right(template: str) -> None:
    bucket = Settings.from_env({**BUCKET, "BUCKET_KEY_TEMPLATE": template}).bucket
    assert bucket is not None
    assert bucket.key_template == template


@pytest.mark.parametrize("missing", BUCKET)
def test_half_a_bucket_is_refused(missing: str) -> None:
    with pytest.raises(ConfigurationError, match="in part") as caught:
        Settings.from_env(
            {name: value for name, value in BUCKET.items() if name != missing}
        )
    assert caught.value.details["setting"] == missing


def test_option_without_bucket_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="in part"):
        Settings.from_env({"BUCKET_REGION": "eu-1"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BUCKET_KEY_TEMPLATE", "{user}/{suffix}"),
        ("BUCKET_KEY_TEMPLATE", "{job_id.name}"),
        ("BUCKET_KEY_TEMPLATE", "{"),
        ("BUCKET_KEY_TEMPLATE", "clip{suffix}"),
        ("BUCKET_KEY_TEMPLATE", "{date}/clip{suffix}"),
        ("BUCKET_KEY_TEMPLATE", "{sha256:.4}{suffix}"),
        ("BUCKET_KEY_TEMPLATE", "{job_id:.4}{suffix}"),
        ("BUCKET_ACL", "everybody"),
        ("BUCKET_SSE", "rot13"),
        ("BUCKET_PUBLIC_ENDPOINT_URL", "files.example.org"),
        ("BUCKET_ENDPOINT_URL", "s3.example.com"),
        ("BUCKET_ADDRESSING_STYLE", "dns"),
        ("BUCKET_URL_TTL_SECONDS", "999999999"),
    ],
)
def test_wrong_bucket_option_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({**BUCKET, name: text})
    allowed = BUCKET_VARIABLES[name].allowed
    assert caught.value.message == f"{name} is {text!r}; allowed: {allowed}"


@pytest.mark.parametrize(
    "name",
    ["BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY", "BUCKET_SESSION_TOKEN"],
)
def test_a_wrong_secret_is_not_shown(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is .not shown.") as caught:
        Settings.from_env({**BUCKET, name: "hush\udcff"})
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_every_variable_is_documented_with_its_allowed_values() -> None:
    for row in (*VARIABLES.values(), *BUCKET_VARIABLES.values()):
        assert row.meaning
        assert row.allowed
        assert row.default


def test_the_table_of_docs_is_the_code_s() -> None:
    table = tables.settings_table()
    for name in VARIABLES.keys() | BUCKET_VARIABLES.keys():
        assert f"| `{name}` |" in table


def test_settings_import_no_torch() -> None:
    code = "import sys, animatediff.settings; sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=PROJECT_ROOT, check=False).returncode == 0


def test_tokens_are_pairs_of_host_and_token() -> None:
    name = "ANIMATEDIFF_DOWNLOAD_TOKENS"
    text = "Civitai.com=abc=d, files.example.org:8443 = x ,"
    settings = Settings.from_env({name: text})
    assert settings.download_token_pairs == (
        ("civitai.com", "abc=d"),
        ("files.example.org:8443", "x"),
    )
    assert "abc" not in repr(settings)
    assert Settings().download_token_pairs == ()
    for wrong in (
        "hush",
        "=hush",
        "https://civitai.com=hush",
        "civitai.com=",
        "a=hu\nsh",
    ):
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_env({name: wrong})
        assert caught.value.details["setting"] == name
        assert "hush" not in str(caught.value.to_dict())


def test_repositories_are_a_list() -> None:
    name = "ANIMATEDIFF_HUB_REPOSITORIES"
    assert Settings.from_env({name: "a/b, c/*"}).hub_repositories == ("a/b", "c/*")
    assert Settings().hub_repositories == ()
