"""builder.fetch_models: what it adds to animatediff fetch."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hub import CONTENT, give, hub_answer, row
from web_site import Answer, Site

from builder.fetch_models import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("status", "headers"), [(401, {}), (403, {"X-Error-Code": "GatedRepo"})]
)
def test_a_gated_repository_needs_a_token_as_a_build_secret(
    status: int,
    headers: dict[str, str],
    hub: Site,
    table: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(hub, Answer(b"", status, headers))
    options = ["--files", str(table(row())), "--models-dir", str(tmp_path / "models")]
    assert main(["small", *options]) == 1
    message = capsys.readouterr().err
    assert "HF_TOKEN" in message
    assert "--secret id=hf_token" in message


def test_the_image_gets_its_files_as_everybody_does(
    hub: Site,
    table: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(hub, hub_answer())
    models = tmp_path / "models"
    options = ["--files", str(table(row())), "--models-dir", str(models)]
    assert main(["small", *options, "--cache", str(tmp_path / "cache")]) == 0
    assert (models / "weights/file.bin").read_bytes() == CONTENT
    assert "--secret" not in capsys.readouterr().err


def test_pins_are_the_services_own() -> None:
    def pins(path: Path) -> set[str]:
        return {line for line in path.read_text().splitlines() if "==" in line}

    assert pins(ROOT / "builder/requirements.txt") <= pins(ROOT / "requirements.txt")
