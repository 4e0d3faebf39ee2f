"""The parts around a UNet, trained from nothing or on: the autoencoder, and the text
tower of the synthetic world.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioning.tokens import tokenize
from .config import TrainConfig
from .data import SourceDataset
from .feeding import GlobalBatch, Item, Slot
from .learners import Batch, Learner, Shown
from .loss import edge_weights, gaussian_kl


class VaeLearner(Learner):
    """An autoencoder of single frames: L1 and mean square, more at edges, and a little
    KL (arXiv 2112.10752, 3.1).
    """

    def __init__(self, config: TrainConfig, batch: GlobalBatch, vae: Any) -> None:
        super().__init__(config, batch)
        self.vae = vae

    def prepare_one(self, slot: Slot, item: Item, chance: torch.Generator) -> Batch:  # noqa: ARG002
        frames = item["pixels"]
        picture = frames[
            int(torch.rand(1, generator=chance, dtype=torch.float64) * len(frames))
        ]
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (
            self.vae.config.latent_channels,
            picture.shape[1] // factor,
            picture.shape[2] // factor,
        )
        return {"pixels": picture, "drawn": torch.randn(shape, generator=chance)}

    def forward(self, batch: Batch) -> Tensor:
        pixels = batch["pixels"].contiguous(memory_format=torch.channels_last)
        posterior = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(
            posterior.mean + posterior.std * batch["drawn"]
        ).sample.float()
        difference, weights = decoded - pixels, edge_weights(pixels)
        error = ((difference.abs() + difference**2) * weights).flatten(1).mean(dim=1)
        if self.config.vae.decoder_only:
            return error
        return error + self.config.vae.kl_weight * gaussian_kl(
            posterior.mean.float(), posterior.logvar.float()
        )

    @torch.no_grad()
    def before_export(self, clips: SourceDataset) -> None:
        """Set scaling_factor to one over the latents' deviation, so that they have
        about the noise's size.
        """
        if self.config.vae.decoder_only:
            return
        count = min(self.config.vae.scaling_items, len(clips))
        means = [
            self.vae.encode(self._frame(clips, i)).latent_dist.mean
            for i in range(count)
        ]
        self.vae.register_to_config(scaling_factor=float(1 / torch.cat(means).std()))

    def _frame(self, clips: SourceDataset, index: int) -> Tensor:
        """One frame of a clip, always the same: (1, 3, H, W)"""
        frames = clips.item(0, index)["pixels"]
        return frames[index % len(frames)][None].to(
            self.vae.device, memory_format=torch.channels_last
        )

    @torch.no_grad()
    def _pairs(self, clips: SourceDataset, count: int) -> tuple[Tensor, Tensor]:
        originals = torch.cat(
            [self._frame(clips, i) for i in range(min(count, len(clips)))]
        )
        decoded = [
            self.vae.decode(self.vae.encode(one[None]).latent_dist.mean).sample
            for one in originals
        ]
        return originals, torch.cat(decoded).float().clamp(-1, 1)

    def show(self, clips: SourceDataset) -> Iterable[Shown]:
        """Eight frames above what the autoencoder makes of them."""
        rows = [torch.cat(list(row), dim=2) for row in self._pairs(clips, 8)]
        picture = ((torch.cat(rows, dim=1) / 2 + 0.5) * 255).round().to(torch.uint8)
        yield Shown("reconstructions", picture.permute(1, 2, 0)[None].cpu().numpy())

    def measure(self, clips: SourceDataset) -> Mapping[str, float]:
        """Peak signal-to-noise ratio over 32 frames, in decibels."""
        originals, decoded = self._pairs(clips, 32)
        return {"psnr": float(-10 * (((originals - decoded) / 2) ** 2).mean().log10())}


class TextLearner(Learner):
    """A small text tower that must tell, at every position from the caption's end on,
    what the caption says.

    What CLIP brings along from its own training, in little: without it a UNet of this
    size learns colours and no shapes. Linear heads read each attribute off every such
    position, and are thrown away. Only the tokens that captions use have vectors of
    their own; all others share one, which is trained by putting it into captions.
    """

    def __init__(
        self,
        config: TrainConfig,
        batch: GlobalBatch,
        encoder: Any,
        tokenizer: Any,
        rows: Tensor,
        attributes: Mapping[str, int],
    ) -> None:
        super().__init__(config, batch)
        self.encoder, self.tokenizer, self.rows = encoder, tokenizer, rows
        """``rows`` (vocabulary,): the row of the small table that each token has; 0 is
        the shared one.
        """
        width = encoder.config.hidden_size
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, count) for name, count in attributes.items()}
        )

    def prepare_one(self, slot: Slot, item: Item, chance: torch.Generator) -> Batch:  # noqa: ARG002
        ids = tokenize(self.tokenizer, item["caption"]).ids[0]
        end = int((ids == self.tokenizer.eos_token_id).nonzero()[0])
        rows = self.rows[ids]
        draw, place = torch.rand(2, generator=chance, dtype=torch.float64).tolist()
        if draw < self.config.text.unknown and end < len(rows) - 1:
            at = 1 + int(place * end)
            rows = torch.cat([rows[:at], rows.new_zeros(1), rows[at:-1]])
            end += 1
        labels = torch.tensor([item["attributes"][name] for name in self.heads])
        return {"rows": rows, "end": torch.tensor(end), "labels": labels}

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.encoder(batch["rows"]).last_hidden_state
        read = (
            torch.arange(hidden.shape[1], device=hidden.device) >= batch["end"][:, None]
        ).float()  # (b, n)
        total = hidden.new_zeros(len(hidden))
        for head, labels in zip(self.heads.values(), batch["labels"].T, strict=True):
            logits = head(hidden).float().transpose(1, 2)  # (b, classes, n)
            losses = F.cross_entropy(
                logits, labels[:, None].expand(read.shape), reduction="none"
            )
            total = total + (losses * read).sum(dim=1) / read.sum(dim=1)
        return total

    @torch.no_grad()
    def measure(self, clips: SourceDataset) -> Mapping[str, float]:
        """The share of 256 captions of which each attribute is read right at their end."""
        entries = [
            (Slot(0, i, 0, i), clips.item(0, i)) for i in range(min(256, len(clips)))
        ]
        batch = self.prepare(entries, next(self.parameters()).device)
        hidden = self.encoder(batch["rows"]).last_hidden_state
        last = hidden[torch.arange(len(hidden)), batch["end"]]
        pairs = zip(self.heads.items(), batch["labels"].T, strict=True)
        return {
            f"accuracy_{name}": float((head(last).argmax(1) == labels).float().mean())
            for (name, head), labels in pairs
        }

    def full_table(self) -> Tensor:
        """The token embeddings of the whole vocabulary: (vocabulary, d)"""
        return self.encoder.get_input_embeddings().weight.detach()[
            self.rows.to(self.encoder.device)
        ]
