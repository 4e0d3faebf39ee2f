"""Learners of the models around a UNet: the autoencoder and a small text encoder."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioning.tokens import tokenize
from .config import TrainConfig
from .feeding import GlobalBatch, Item, Slot
from .learners import Batch, Learner, Sample
from .libraries import uniform
from .loss import edge_weights, gaussian_kl
from .source import SourceDataset

SHOWN_FRAMES, MEASURED_FRAMES, MEASURED_CAPTIONS = 8, 32, 256


class VaeLearner(Learner):
    """An autoencoder of single frames, trained by L1, mean square and a little KL.

    Edges count more (arXiv 2112.10752, section 3.1).
    """

    def __init__(self, config: TrainConfig, batch: GlobalBatch, vae: Any) -> None:
        super().__init__(config, batch)
        self.vae = vae

    def prepare_one(self, slot: Slot, item: Item, rng: torch.Generator) -> Batch:  # noqa: ARG002 - overrides
        """See ``Learner.prepare_one``."""
        frames = item["pixels"]
        (draw,) = uniform(1, rng)
        picture = frames[int(draw * len(frames))]
        noise = torch.randn(self._latent_shape(picture), generator=rng)
        return {"pixels": picture, "drawn": noise}

    def _latent_shape(self, picture: Tensor) -> tuple[int, int, int]:
        config = self.vae.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        height, width = picture.shape[1:]
        return config.latent_channels, height // factor, width // factor

    def forward(self, batch: Batch) -> Tensor:
        """Losses (b,) of a prepared batch."""
        pixels = batch["pixels"].contiguous(memory_format=torch.channels_last)
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * batch["drawn"]
        difference = self.vae.decode(latents).sample.float() - pixels
        weighted = (difference.abs() + difference**2) * edge_weights(pixels)
        error = weighted.flatten(1).mean(dim=1)
        if self.config.vae.decoder_only:
            return error
        divergence = gaussian_kl(posterior.mean.float(), posterior.logvar.float())
        return error + self.config.vae.kl_weight * divergence

    @torch.no_grad()
    def before_export(self, clips: SourceDataset) -> None:
        """Set scaling_factor so that the latents get a standard deviation of 1."""
        if self.config.vae.decoder_only:
            return
        count = min(self.config.vae.scaling_items, len(clips))
        means = [self._mean_latents(self._frame(clips, i)) for i in range(count)]
        self.vae.register_to_config(scaling_factor=float(1 / torch.cat(means).std()))

    def _mean_latents(self, frames: Tensor) -> Tensor:
        return self.vae.encode(frames).latent_dist.mean

    def _frame(self, clips: SourceDataset, index: int) -> Tensor:
        """One frame of a clip, always the same: (1, 3, H, W)."""
        frames = clips.item(0, index)["pixels"]
        frame = frames[index % len(frames)][None]
        return frame.to(self.vae.device, memory_format=torch.channels_last)

    @torch.no_grad()
    def _pairs(self, clips: SourceDataset, count: int) -> tuple[Tensor, Tensor]:
        """Frames and their reconstructions, each (n, 3, H, W)."""
        count = min(count, len(clips))
        originals = torch.cat([self._frame(clips, i) for i in range(count)])
        latents = [self._mean_latents(one[None]) for one in originals]
        decoded = [self.vae.decode(one).sample for one in latents]
        return originals, torch.cat(decoded).float().clamp(-1, 1)

    def show(self, clips: SourceDataset) -> Iterable[Sample]:
        """Eight frames above their reconstructions."""
        pairs = self._pairs(clips, SHOWN_FRAMES)
        rows = [torch.cat(list(row), dim=2) for row in pairs]
        picture = (torch.cat(rows, dim=1) / 2 + 0.5) * 255
        picture = picture.round().to(torch.uint8).permute(1, 2, 0)
        yield Sample("reconstructions", picture[None].cpu().numpy())

    def measure(self, clips: SourceDataset) -> Mapping[str, float]:
        """Peak signal-to-noise ratio over 32 frames, in decibels."""
        originals, decoded = self._pairs(clips, MEASURED_FRAMES)
        error = (((originals - decoded) / 2) ** 2).mean()
        return {"psnr": float(-10 * error.log10())}


class TextLearner(Learner):
    """A small text encoder that must state what a caption says.

    At every position from the caption's end on, linear heads read each attribute; the
    heads are discarded later. This replaces CLIP's own training on a small scale:
    without it, a small UNet learns colours but no shapes. Only tokens that captions use
    have their own vectors. All others share one, which is trained by inserting it into
    captions.

    ``rows`` (vocabulary,): the row of the small table for each token; 0 is the shared
    one. ``attributes``: the number of classes of each.
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
        width = encoder.config.hidden_size
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, count) for name, count in attributes.items()}
        )

    def prepare_one(self, slot: Slot, item: Item, rng: torch.Generator) -> Batch:  # noqa: ARG002 - overrides
        """See ``Learner.prepare_one``."""
        ids = tokenize(self.tokenizer, item["caption"]).ids[0]
        end = int((ids == self.tokenizer.eos_token_id).nonzero()[0])
        rows = self.rows[ids]
        draw, place = uniform(2, rng)
        if draw < self.config.text.unknown and end < len(rows) - 1:
            rows = _with_unknown(rows, 1 + int(place * end))
            end += 1
        labels = torch.tensor([item["attributes"][name] for name in self.heads])
        return {"rows": rows, "end": torch.tensor(end), "labels": labels}

    def forward(self, batch: Batch) -> Tensor:
        """Losses (b,) of a prepared batch."""
        hidden = self.encoder(batch["rows"]).last_hidden_state
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        is_read = (positions >= batch["end"][:, None]).float()  # (b, n)
        total = hidden.new_zeros(len(hidden))
        for head, labels in self._heads_with(batch["labels"]):
            logits = head(hidden).float().transpose(1, 2)  # (b, classes, n)
            targets = labels[:, None].expand(is_read.shape)
            losses = F.cross_entropy(logits, targets, reduction="none")
            total = total + (losses * is_read).sum(dim=1) / is_read.sum(dim=1)
        return total

    def _heads_with(self, labels: Tensor) -> Iterable[tuple[nn.Module, Tensor]]:
        """Each head with its labels (b,), from ``labels`` (b, heads)."""
        return zip(self.heads.values(), labels.T, strict=True)

    @torch.no_grad()
    def measure(self, clips: SourceDataset) -> Mapping[str, float]:
        """The share of 256 captions whose attribute is read correctly at their end."""
        count = min(MEASURED_CAPTIONS, len(clips))
        entries = [(Slot(0, i, 0, i), clips.item(0, i)) for i in range(count)]
        batch = self.prepare(entries, next(self.parameters()).device)
        hidden = self.encoder(batch["rows"]).last_hidden_state
        last = hidden[torch.arange(len(hidden)), batch["end"]]
        shares: list[float] = [
            (head(last).argmax(1) == labels).float().mean().item()
            for head, labels in self._heads_with(batch["labels"])
        ]
        names = (f"accuracy_{name}" for name in self.heads)
        return dict(zip(names, shares, strict=True))

    def full_table(self) -> Tensor:
        """The token embeddings of the whole vocabulary: (vocabulary, d)."""
        small = self.encoder.get_input_embeddings().weight.detach()
        return small[self.rows.to(self.encoder.device)]


def _with_unknown(rows: Tensor, place: int) -> Tensor:
    """Insert the shared row at ``place``, and drop the last one."""
    return torch.cat([rows[:place], rows.new_zeros(1), rows[place:-1]])
