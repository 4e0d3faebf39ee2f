"""diffusers' VAE computes the same with our layers, by the same weights."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from animatediff.models.norm import GroupNorm, use_own_group_norm
from animatediff.models.vae import VaeResnet, use_own_layers
from animatediff.pipeline import AnimationPipeline


@pytest.fixture
def vae() -> Any:
    torch.manual_seed(0)
    model: Any = AutoencoderKL
    vae = model(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
    )
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def pictures(vae: Any) -> tuple[Tensor, Tensor]:
    """Return what the decoder and the encoder make of random values."""
    torch.manual_seed(1)
    latents, pixels = torch.randn(2, 4, 6, 5), torch.randn(2, 3, 12, 10)
    latents, pixels = latents.to(vae.dtype), pixels.to(vae.dtype)
    with torch.inference_mode():
        return vae.decode(latents).sample, vae.encode(pixels).latent_dist.mean


def test_results_are_diffusers(vae: Any) -> None:
    expected = pictures(vae.double())
    use_own_layers(vae)
    for result, other in zip(pictures(vae), expected, strict=True):
        torch.testing.assert_close(result, other, rtol=0, atol=1e-12)


def test_fewer_passes_change_no_bit(vae: Any) -> None:
    norms_alone = copy.deepcopy(vae)
    use_own_group_norm(norms_alone)
    use_own_layers(vae)
    for result, other in zip(pictures(vae), pictures(norms_alone), strict=True):
        assert torch.equal(result, other)


def test_weights_keep_their_names_and_places(vae: Any) -> None:
    before = vae.state_dict()
    use_own_layers(vae)
    after = vae.state_dict()
    assert before.keys() == after.keys()
    assert all(
        tensor.data_ptr() == after[key].data_ptr() for key, tensor in before.items()
    )
    assert not any(module.training for module in vae.modules())


def test_every_block_and_norm_is_ours(vae: Any) -> None:
    use_own_layers(vae)
    kinds = [type(module) for module in vae.modules()]
    assert kinds.count(VaeResnet) == 10
    assert ResnetBlock2D not in kinds
    assert nn.GroupNorm not in kinds


def test_a_block_of_another_kind_stays_diffusers(vae: Any) -> None:
    vae.decoder.mid_block.resnets[0].output_scale_factor = 2.0
    vae.decoder.conv_act = nn.ReLU()
    expected = pictures(vae)
    use_own_layers(vae)
    assert isinstance(vae.decoder.mid_block.resnets[0], ResnetBlock2D)
    assert type(vae.decoder.conv_norm_out) is GroupNorm
    for result, other in zip(pictures(vae), expected, strict=True):
        torch.testing.assert_close(result, other, rtol=0, atol=1e-5)


def test_it_trains(vae: Any) -> None:
    use_own_layers(vae)
    vae.train().requires_grad_(True)
    vae.decode(torch.randn(1, 4, 2, 2)).sample.sum().backward()
    conv = vae.decoder.mid_block.resnets[0].conv1
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().sum() > 0


def test_the_pipeline_has_it(shapeworld: AnimationPipeline) -> None:
    kinds = [type(module) for module in shapeworld.vae.modules()]
    assert kinds.count(VaeResnet) > 10
    assert ResnetBlock2D not in kinds
