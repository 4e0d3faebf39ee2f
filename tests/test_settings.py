from pathlib import Path

import pytest

from animatediff.errors import ConfigurationError
from animatediff.settings import BUCKET_VARIABLES, VARIABLES, BucketSettings, Settings
from scripts import settings_table

BUCKET = {
    "BUCKET_NAME": "clips",
    "BUCKET_ACCESS_KEY_ID": "key",
    "BUCKET_SECRET_ACCESS_KEY": "hush",
}


def test_nothing_set_is_the_default() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"ANIMATEDIFF_DEVICE": " "}) == Settings()


def test_variables_are_read() -> None:
    settings = Settings.from_env(
        {
            "ANIMATEDIFF_MODELS_DIR": "/weights",
            "ANIMATEDIFF_DTYPE": "bfloat16",
            "ANIMATEDIFF_VAE_DECODE_CHUNK": "8",
        }
    )
    assert (settings.models_dir, settings.dtype, settings.vae_decode_chunk) == (
        Path("/weights"),
        "bfloat16",
        8,
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ANIMATEDIFF_DTYPE", "float8"),
        ("ANIMATEDIFF_ATTENTION", "flash"),
        ("ANIMATEDIFF_VAE_DECODE_CHUNK", "0"),
        ("ANIMATEDIFF_MAX_MEGAPIXEL_STEPS", "nan"),
        ("ANIMATEDIFF_VIDEO_QUALITY", "good"),
    ],
)
def test_wrong_value_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        Settings.from_env({name: text})
    assert text in caught.value.message
    assert caught.value.details["setting"] == name


def test_whole_bucket() -> None:
    settings = Settings.from_env(
        {
            **BUCKET,
            "BUCKET_ENDPOINT_URL": "https://s3.example.com/",
            "BUCKET_REGION": "eu-1",
        }
    )
    assert settings.bucket == BucketSettings(
        "clips", "key", "hush", endpoint_url="https://s3.example.com", region="eu-1"
    )
    assert "hush" not in repr(settings)


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
        ("BUCKET_KEY_TEMPLATE", "{"),
        ("BUCKET_ENDPOINT_URL", "s3.example.com"),
        ("BUCKET_ADDRESSING_STYLE", "dns"),
        ("BUCKET_URL_TTL_SECONDS", "999999999"),
    ],
)
def test_wrong_bucket_option_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_env({**BUCKET, name: text})


def test_readme_s_table_is_the_code_s() -> None:
    readme = settings_table.README.read_text(encoding="utf-8")
    assert readme == settings_table.with_table(readme)  # else: make schemas
    for name in VARIABLES.keys() | BUCKET_VARIABLES.keys():
        assert f"| `{name}` |" in readme
