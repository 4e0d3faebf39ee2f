"""Several text models of a family as one: their vectors stand side by side."""

import torch

from animatediff.conditioning.conditions import TextStack
from animatediff.pipeline import AnimationPipeline

TEXTS = {"negative_prompt": "", "prompt": "a red circle and a <blue> square"}


def test_the_vectors_of_all_models_are_joined(shapeworld: AnimationPipeline) -> None:
    one = shapeworld.texts
    two = TextStack([*one.models, *one.models])
    assert two.widths == one.widths * 2
    alone, warnings = one.encode(TEXTS, 1, {})
    together, _ = two.encode(TEXTS, 1, {})
    assert torch.equal(together, torch.cat([alone, alone], dim=-1))
    assert warnings == ()
    captions = two.encode_captions(list(TEXTS.values()))
    expected = one.encode(TEXTS, 0, {})[0].repeat(1, 1, 2)
    assert torch.allclose(captions, expected, atol=1e-5)


def test_each_model_gets_its_share_of_a_textual_inversion(
    shapeworld: AnimationPipeline,
) -> None:
    one = shapeworld.texts
    (width,) = one.widths
    shares = torch.randn(2, 2, width)  # for each model, two vectors
    both = {"<blue>": torch.cat([*shares], dim=-1)}
    together, _ = TextStack([*one.models, *one.models]).encode(TEXTS, 0, both)
    alone = [one.encode(TEXTS, 0, {"<blue>": share})[0] for share in shares]
    assert torch.equal(together, torch.cat(alone, dim=-1))


def test_a_text_that_all_models_cut_is_one_warning(
    shapeworld: AnimationPipeline,
) -> None:
    two = TextStack([*shapeworld.texts.models] * 2)
    _, warnings = two.encode({"prompt": "circle " * 80}, 0, {})
    (warning,) = warnings
    assert warning.startswith("prompt is longer than the 77 tokens that CLIP reads")
