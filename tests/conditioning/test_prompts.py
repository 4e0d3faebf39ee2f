"""Textual inversions in prompts, on the embedded family's text encoder."""

import pytest
import torch

from animatediff.conditioning.encoders import encode_prompt
from animatediff.conditioning.tokens import tokenize, uses
from animatediff.pipeline import AnimationPipeline


@pytest.fixture
def words(shapeworld: AnimationPipeline) -> dict[str, torch.Tensor]:
    """Vectors of words that the text encoder knows, under other names."""
    text = shapeworld.texts.models[0]
    table = text.encoder.get_input_embeddings().weight
    ids = text.tokenizer("red circle", add_special_tokens=False).input_ids
    assert len(ids) == 2
    return {"<rouge>": table[ids[:1]], "rotkreis": table[ids]}


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (
            "a <rouge> circle on a black background",
            "a red circle on a black background",
        ),
        ("a RotKreis, moving up", "a red circle, moving up"),
        ("rotkreis", "red circle"),
        ("<rouge> <rouge>, rotkreis", "red red, red circle"),
    ],
)
def test_a_word_stands_for_its_vectors(
    text: str, plain: str, words: dict[str, torch.Tensor], shapeworld: AnimationPipeline
) -> None:
    model = shapeworld.texts.models[0]
    models = (model.tokenizer, model.encoder)
    for clip_skip in (0, 1):
        got = encode_prompt(*models, text, clip_skip, words).embeds
        assert torch.equal(got, encode_prompt(*models, plain, clip_skip).embeds)
    assert not torch.equal(
        encode_prompt(*models, text).embeds, encode_prompt(*models, plain).embeds
    )


@pytest.mark.parametrize(
    "text", ["a rotkreise", "xrotkreis", "<rouge", "nothing of the kind"]
)
def test_parts_of_words_are_left_alone(
    text: str, words: dict[str, torch.Tensor], shapeworld: AnimationPipeline
) -> None:
    tokens = tokenize(shapeworld.texts.models[0].tokenizer, text, words)
    assert not tokens.vectors
    assert torch.equal(
        tokens.ids, tokenize(shapeworld.texts.models[0].tokenizer, text).ids
    )
    assert not any(uses(text, word) for word in words)


def test_what_does_not_fit_is_said(
    words: dict[str, torch.Tensor], shapeworld: AnimationPipeline
) -> None:
    long = tokenize(
        shapeworld.texts.models[0].tokenizer, "rotkreis " * 37 + "and a house", words
    )
    assert long.ids.shape == (1, 77)
    assert len(long.vectors) == 74
    assert long.cut == "a house"
    assert (
        tokenize(shapeworld.texts.models[0].tokenizer, "rotkreis " * 38, words).cut
        == "a textual inversion"
    )
