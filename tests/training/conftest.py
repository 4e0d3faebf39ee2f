"""Small training runs, each with a folder of its own."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from small_runs import MakeConfig, small_config, write_family

from animatediff.checkpoints import diffusers_folder


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in diffusers' layout, with a motion module beside it."""
    folder = tmp_path_factory.mktemp("family")
    write_family(folder)
    return folder


@pytest.fixture
def make_config(family: Path, tmp_path: Path) -> MakeConfig:
    """``small_config`` of a stage and changes."""
    return lambda stage, /, **changes: small_config(
        stage, family, **{"output_dir": str(tmp_path / "run"), **changes}
    )


@pytest.fixture(scope="session", autouse=True)
def _one_tokenizer() -> Iterator[None]:
    """It takes longer to read than all the rest of these models, and nothing changes
    it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            diffusers_folder, "load_tokenizer", cache(diffusers_folder.load_tokenizer)
        )
        yield


@pytest.fixture
def pictures_of_the_loss() -> None:
    """Asked for by a test that wants loss.png."""


@pytest.fixture(autouse=True)
def _no_pictures_of_the_loss(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take as long as the training of these models."""
    if "pictures_of_the_loss" not in request.fixturenames:
        monkeypatch.setattr("animatediff.training.report.Report.draw", lambda _: None)


@pytest.fixture(autouse=True)
def _one_core_and_a_new_accelerator() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(True)
