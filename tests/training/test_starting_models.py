"""The models that training starts from."""

import json
from pathlib import Path
from typing import Any

import pytest

from animatediff.errors import ConfigurationError
from animatediff.training.starting_models import load_base
from tests.training.small_runs import SHAPEWORLD, small_config


@pytest.mark.parametrize(
    "noise",
    [{"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}],
)
def test_a_base_of_another_noise_schedule_is_refused(
    noise: dict[str, Any], tmp_path: Path
) -> None:
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        (tmp_path / part).symlink_to(SHAPEWORLD / part)
    (tmp_path / "scheduler").mkdir()
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text("{}")
    start = small_config("image", tmp_path, output_dir=str(tmp_path / "out"))
    load_base(start, motion=False)
    config.write_text(json.dumps(noise))
    with pytest.raises(ConfigurationError, match="another noise schedule"):
        load_base(start, motion=False)
