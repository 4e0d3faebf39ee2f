"""All conditions of a run as one value: the texts and the controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..controls.base import ControlCondition
from .encoders import Prompt, encode_prompt
from .tokens import Embeddings


@dataclass(frozen=True, eq=False)
class Conditions:
    """The conditions that steer a run.

    ``embeds`` are the text embeddings: (1, n, d), or (2, n, d) as [negative, prompt]
    if guidance needs both.
    """

    embeds: Tensor
    controls: Sequence[ControlCondition] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class TextStack:
    """A tokenizer and the text encoder that reads its tokens."""

    tokenizer: Any
    text_encoder: Any

    def encode(
        self, texts: Mapping[str, str], clip_skip: int, embeddings: Embeddings
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Encode texts, named for the warnings: (number of texts, n, d) and warnings.

        Raises InvalidRequest as ``encode_ids`` does.
        """
        prompts = {
            name: encode_prompt(
                self.tokenizer, self.text_encoder, text, clip_skip, embeddings
            )
            for name, text in texts.items()
        }
        embeds = torch.cat([prompt.embeds for prompt in prompts.values()])
        return embeds, self._warnings(prompts)

    def _warnings(self, prompts: Mapping[str, Prompt]) -> tuple[str, ...]:
        room = self.tokenizer.model_max_length
        return tuple(
            f"{name} is longer than the {room} tokens that CLIP reads; not used:"
            f" {prompt.cut}"
            for name, prompt in prompts.items()
            if prompt.cut
        )
