"""The linear map of a VAE: least squares, kept under the hash of its weights."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from animatediff.autoencoder import Decoder
from animatediff.catalog import BASE_MODELS
from animatediff.families.base import PreviewFactors
from animatediff.pipeline import AnimationPipeline
from animatediff.previews import LinearSketch, SketchMaker, fitting
from animatediff.previews.fitting import (
    Sample,
    error_of,
    factors_of,
    fingerprint,
    fit,
    fitted,
    pictures,
)
from animatediff.previews.tiny import TinySketch, load_tiny
from animatediff.sampling.inputs import AnimationInputs

ROWS = ((0.2, -0.1, 0.3), (0.1, 0.4, -0.2))
BIAS = (0.5, 0.4, 0.6)


class LinearVae(torch.nn.Module):
    """A VAE whose latents are means of 4x4 pixels, turned by a known map."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.eye(3) + 0.3)
        self.config = SimpleNamespace(
            block_out_channels=(1, 1, 1),
            scaling_factor=0.5,
            sample_size=64,
            latent_channels=3,
        )
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.calls = 0

    def encode(self, pixels: Tensor) -> Any:
        self.calls += 1
        small = torch.nn.functional.avg_pool2d(pixels, 4)
        mean = torch.einsum("nchw,cd->ndhw", small, self.get_buffer("turn"))
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean))


def test_a_linear_relation_is_recovered() -> None:
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 500, generator=source, dtype=torch.float64) * 0.3
    colours = torch.tensor(ROWS).double().T @ latents + torch.tensor(BIAS)[:, None]
    result = fitted([Sample(latents[:, :200], colours[:, :200])])
    assert torch.allclose(torch.tensor(result.factors.rows), torch.tensor(ROWS))
    assert torch.allclose(torch.tensor(result.factors.bias), torch.tensor(BIAS))
    assert result.factors.spread == pytest.approx(0.3, rel=0.1)
    others = [Sample(latents[:, 200:], colours[:, 200:])]
    error, explained = error_of(result.factors, others)
    assert error < 1e-3
    assert explained > 0.9999


def test_the_error_is_in_levels_of_a_pixel() -> None:
    colours = torch.tensor([[0.2, 0.8]] * 3).double()
    gray = PreviewFactors(((0.0, 0.0, 0.0),), (0.5, 0.5, 0.5))
    error, explained = error_of(gray, [Sample(torch.zeros(1, 2).double(), colours)])
    assert error == pytest.approx(0.3 * 255)
    assert explained == pytest.approx(0.0)


def test_the_fit_of_a_linear_vae_shows_its_pictures() -> None:
    result = fit(LinearVae())
    assert result.error < 1
    assert result.explained > 0.999


def test_pictures_are_always_the_same_and_of_many_colours() -> None:
    first, second = list(pictures(32)), list(pictures(32))
    assert all(map(torch.equal, first, second))
    together = torch.stack(first)
    assert together.min() == 0.0
    assert together.max() == 1.0
    assert together.std() > 0.2


def test_a_vae_that_overflows_shows_gray() -> None:
    vae = LinearVae()
    vae.get_buffer("turn").fill_(float("nan"))
    result = fit(vae)
    assert result.factors.bias == (0.5, 0.5, 0.5)
    assert result.explained == 0.0


def test_a_fit_is_kept_under_the_hash_of_the_weights(tmp_path: Path) -> None:
    vae = LinearVae()
    first = factors_of(vae, tmp_path)
    calls = vae.calls
    assert factors_of(vae, tmp_path) == first
    assert vae.calls == calls
    (path,) = tmp_path.iterdir()
    assert path.stem == fingerprint(vae)
    vae.get_buffer("turn")[0, 0] += 0.1
    assert fingerprint(vae) != path.stem
    assert factors_of(vae, tmp_path) != first
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [[1]]}', '{"rows": 3}'])
def test_a_damaged_cache_is_fitted_again(content: str, tmp_path: Path) -> None:
    vae = LinearVae()
    factors = factors_of(vae, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert factors_of(vae, tmp_path) == factors
    assert json.loads(path.read_text())["spread"] == factors.spread


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert factors_of(LinearVae(), tmp_path / "file").spread > 0


def decoder_of(vae: Any) -> Decoder:
    return Decoder(vae)


def test_a_sketch_is_made_once_for_each_vae(tmp_path: Path) -> None:
    maker, vae = SketchMaker(tmp_path, tmp_path / "none"), LinearVae()
    decoder = decoder_of(vae)
    first = maker.sketch(decoder, None)
    calls = vae.calls
    assert maker.sketch(decoder, None) is first
    assert vae.calls == calls == fitting.PICTURES
    another = decoder_of(LinearVae())
    assert maker.sketch(another, None) is not first


def test_known_factors_need_no_fit(tmp_path: Path) -> None:
    vae, known = LinearVae(), PreviewFactors(ROWS, BIAS)
    sketch = SketchMaker(tmp_path, tmp_path / "none").sketch(decoder_of(vae), known)
    assert isinstance(sketch, LinearSketch)
    assert sketch.factors == known
    assert vae.calls == 0


@pytest.mark.slow
def test_the_known_factors_show_the_embedded_family(
    shapeworld: AnimationPipeline,
) -> None:
    known = BASE_MODELS["shapeworld"].preview
    assert known is not None
    clips = [
        shapeworld(
            AnimationInputs(
                prompt,
                width=64,
                height=64,
                num_frames=4,
                num_inference_steps=10,
                guidance_scale=4.0,
                seeds=(11,),
            )
        )
        for prompt in (
            "a blue square on a white background, moving right",
            "a red circle on a black background, moving up",
        )
    ]
    samples = [Sample.of(clip.latents[0], clip.videos[0]) for clip in clips]
    _, explained = error_of(known, samples)
    assert explained > 0.6


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of this package, and not diffusers' own."""
    return [each.message for each in caplog.records if "animatediff" in each.name]


def save_tiny(folder: Path) -> None:
    """Save a tiny autoencoder with random weights."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    torch.manual_seed(0)
    widths = (8, 8, 8, 8)
    model = AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths
    )
    model.save_pretrained(folder)


def test_a_tiny_autoencoder_is_loaded_and_shows_larger_pictures(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    model = load_tiny(tmp_path, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        shown = TinySketch(model, 1.0)(torch.randn(4, 2, 8, 6))
        large = TinySketch(model, 1.0)(torch.randn(4, 1, 48, 96))
    assert (shown.shape, shown.dtype) == ((2, 64, 48, 3), torch.uint8)
    assert large.shape == (1, 96, 192, 3)


def test_a_tiny_autoencoder_of_another_vae_is_not_used(
    tmp_path: Path, shapeworld: AnimationPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    save_tiny(tmp_path / "taesd")
    maker = SketchMaker(tmp_path / "cache", tmp_path / "taesd")
    known = BASE_MODELS["shapeworld"].preview
    with caplog.at_level(logging.WARNING):
        sketch = maker.sketch(Decoder(shapeworld.vae), known)
    assert isinstance(sketch, LinearSketch)
    assert ours(caplog) == ["no tiny autoencoder"]


def test_a_tiny_autoencoder_that_fits_is_used(
    tmp_path: Path, shapeworld: AnimationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path / "taesd")
    monkeypatch.setattr(TinySketch, "explained", lambda _self, _sample: 0.8)
    maker = SketchMaker(tmp_path / "cache", tmp_path / "taesd")
    known = BASE_MODELS["shapeworld"].preview
    assert isinstance(maker.sketch(Decoder(shapeworld.vae), known), TinySketch)


def test_a_folder_of_something_else_is_no_tiny_autoencoder(
    tmp_path: Path, shapeworld: AnimationPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text("{}")
    maker = SketchMaker(tmp_path / "cache", tmp_path)
    known = BASE_MODELS["shapeworld"].preview
    with caplog.at_level(logging.WARNING):
        sketch = maker.sketch(Decoder(shapeworld.vae), known)
    assert isinstance(sketch, LinearSketch)
    assert ours(caplog) == ["no tiny autoencoder"]


def test_the_vae_s_own_colours_are_explained_by_a_perfect_decoder() -> None:
    """The share is 1 for pixels that are the picture, and below for others."""
    sample = Sample(torch.rand(4, 16).double(), torch.rand(3, 16).double())
    small = sample.colours.float().unflatten(1, (4, 4))[None]  # 1 3 h w
    pixels = torch.nn.functional.interpolate(small, scale_factor=8.0)
    perfect: Any = SimpleNamespace(
        dtype=torch.float32,
        device=torch.device("cpu"),
        decode=lambda _frames: SimpleNamespace(sample=2 * pixels - 1),
    )
    assert TinySketch(perfect, 1.0).explained(sample) == pytest.approx(1.0)
    perfect.decode = lambda _frames: SimpleNamespace(sample=1 - 2 * pixels)
    assert TinySketch(perfect, 1.0).explained(sample) < 0.5
