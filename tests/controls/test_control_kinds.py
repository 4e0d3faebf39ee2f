"""A control file is read once: its content decides the kind, and becomes the model."""

from pathlib import Path

import pytest

from animatediff.checkpoints import files
from animatediff.controls.kinds import CONTROL_KINDS, load_control
from animatediff.errors import CheckpointError
from animatediff.fetch.weight_file import AnyFile, WeightFile
from animatediff.pipeline import AnimationPipeline

FAMILY = Path(__file__).parents[2] / "models" / "shapeworld"


def test_a_control_file_is_read_once(
    shapeworld: AnimationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[AnyFile] = []
    read_content = files.read_content

    def counted(file: AnyFile) -> files.FileContent:
        read.append(file)
        return read_content(file)

    monkeypatch.setattr(files, "read_content", counted)
    file = WeightFile.at(FAMILY / "sparsectrl_scribble.safetensors", "scribble")
    control = load_control(shapeworld.unet, file, "sdpa")
    assert control.kind is CONTROL_KINDS["SparseCtrl"]
    assert read == [file]


def test_a_file_of_another_kind_is_no_control(shapeworld: AnimationPipeline) -> None:
    file = WeightFile.at(FAMILY / "motion_module_v3.safetensors", "motion")
    with pytest.raises(CheckpointError, match="^motion is no control .SparseCtrl.: it"):
        load_control(shapeworld.unet, file, "sdpa")
