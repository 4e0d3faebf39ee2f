"""A small text encoder whose table has only the tokens that captions use."""

from typing import Any

import torch
from torch import Tensor, nn

from .config import TextShape
from .libraries import clip_text_config, clip_text_model
from .source import SourceDataset

_TOKEN_STD, _POSITION_STD = 0.7, 0.05
"""Standard deviations at the start. CLIP's own 0.02 is too small for a narrow model."""
_SPECIAL = ("bos", "eos", "pad")


def small_table(tokenizer: Any, clips: SourceDataset, num_captions: int) -> Tensor:
    """The row of a small table for each token: int64 (vocabulary,).

    Tokens that the first ``num_captions`` captions use have rows from 1 on; all others
    share row 0.
    """
    tokens = {getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL}
    for i in range(num_captions):
        epoch, index = divmod(i, len(clips))
        tokens.update(tokenizer(clips.item(epoch, index)["caption"]).input_ids)
    rows = torch.zeros(len(tokenizer), dtype=torch.long)
    rows[sorted(tokens)] = torch.arange(1, len(tokens) + 1)
    return rows


@torch.no_grad()
def new_text_encoder(shape: TextShape, tokenizer: Any, rows: Tensor) -> Any:
    """A CLIPTextModel with random weights, for the table ``rows``."""
    special = {
        f"{name}_token_id": int(rows[getattr(tokenizer, f"{name}_token_id")])
        for name in _SPECIAL
    }
    config = clip_text_config(
        vocab_size=int(rows.max()) + 1,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=shape.hidden_size,
        **special,
        **shape.model_dump(),
    )
    encoder = clip_text_model(config)
    for name, parameter in encoder.named_parameters():
        if name.endswith("token_embedding.weight"):
            nn.init.normal_(parameter, std=_TOKEN_STD)
        elif name.endswith("position_embedding.weight"):
            nn.init.normal_(parameter, std=_POSITION_STD)
    return encoder


def full_config(encoder: Any, tokenizer: Any) -> Any:
    """The config of ``encoder`` with the whole vocabulary of ``tokenizer``."""
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL
    }
    small = encoder.config.to_dict()
    return clip_text_config(**{**small, **special, "vocab_size": len(tokenizer)})
