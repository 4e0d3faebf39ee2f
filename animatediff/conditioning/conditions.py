"""All conditions of a run as one value: the texts and the controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..controls.base import ControlCondition
from ..models.image_model import TextModel
from .encoders import Prompt, encode_ids, encode_prompt
from .tokens import Embeddings, tokenize


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
    """The text models of a family. Their vectors are joined along the last axis."""

    models: Sequence[TextModel]

    @property
    def widths(self) -> list[int]:
        """Numbers in a vector of each model."""
        return [model.encoder.config.hidden_size for model in self.models]

    def to(self, device: torch.device) -> None:
        """Move the encoders."""
        for model in self.models:
            model.encoder.to(device)

    def encode(
        self, texts: Mapping[str, str], clip_skip: int, embeddings: Embeddings
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Encode texts, named for the warnings: (number of texts, n, d) and warnings.

        The vectors of ``embeddings`` are as wide as those of all models together.
        Raises InvalidRequest as ``encode_ids`` does.
        """
        by_model = self._embeddings_by_model(embeddings)
        embeds: list[Tensor] = []
        warnings: list[str] = []
        for name, text in texts.items():
            prompts = [
                encode_prompt(model.tokenizer, model.encoder, text, clip_skip, words)
                for model, words in zip(self.models, by_model, strict=True)
            ]
            embeds.append(torch.cat([prompt.embeds for prompt in prompts], dim=-1))
            warnings += map(partial(_cut_warning, name), self.models, prompts)
        return torch.cat(embeds), tuple(dict.fromkeys(filter(None, warnings)))

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Encode captions in one batch, without textual inversions: (b, n, d)."""
        embeds: list[Tensor] = []
        for model in self.models:
            ids = [tokenize(model.tokenizer, caption).ids for caption in captions]
            embeds.append(encode_ids(model.encoder, torch.cat(ids)))
        return torch.cat(embeds, dim=-1)

    def _embeddings_by_model(self, embeddings: Embeddings) -> list[Embeddings]:
        """Return each model's share of the vectors (n, d) of each word."""
        shares = {
            word: torch.split(vectors, self.widths, dim=-1)
            for word, vectors in embeddings.items()
        }
        return [
            {word: share[i] for word, share in shares.items()}
            for i in range(len(self.models))
        ]


def _cut_warning(name: str, model: TextModel, prompt: Prompt) -> str:
    if not prompt.cut:
        return ""
    room = model.tokenizer.model_max_length
    return (
        f"{name} is longer than the {room} tokens that CLIP reads; not used:"
        f" {prompt.cut}"
    )
