"""Models that do not run here, and the marks by which a refusal can name them."""

from .base import ModelMarks

OTHER_MODELS = (
    ModelMarks(
        "SDXL",
        single_file_mark="conditioner.embedders.",
        embedding_keys=frozenset({"clip_l", "clip_g"}),
        motion_levels=3,
    ),
    ModelMarks("SD 2", single_file_mark="cond_stage_model.model.", text_width=1024),
)
