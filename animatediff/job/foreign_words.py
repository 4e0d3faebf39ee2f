"""Notation of other programs in a prompt, which CLIP reads as plain words here.

The forms are those of the AUTOMATIC1111 web UI, of ComfyUI and of compel.
"""

import re
from collections.abc import Iterator

_SHOWN_WORDS = 5
_SHOWN_LETTERS = 40
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_TAG = re.compile(r"<\s*[a-z]+\s*:[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(rf"(?<!\\)\([^()]*:\s*{_NUMBER}\s*\)")
_RATIO = re.compile(r"\d\s*:\s*\d+\s*\)$")
"""The end of "(16:9)" or "(at 10:30)", which are ordinary parentheses."""
_WEIGHT_AFTER = re.compile(r"(?<!\\)\([^()]+\)(?:\++(?!\w)|-{2,}(?!\w)|\d*\.\d+)")
_NESTED = re.compile(r"(?<!\\)\(\([^()]*\)\)")
_BRACKETS = re.compile(r"(?<!\\)\[[^\[\]]*\]")
_OPERATOR = re.compile(r"\b(?:BREAK|AND)\b")
_EMBEDDING = re.compile(r"\bembedding:[^\s,()]+", re.IGNORECASE)
_PARAMETERS = re.compile(
    r"\bNegative prompt:"
    r"|\bSteps: *\d+ *(?=,|$)"
    r"|\bSampler: *\w+"
    r"|\bCFG scale: *[\d.]+"
    r"|\bClip skip: *\d+"
    r"|\bDenoising strength: *[\d.]+"
    r"|\bModel(?: hash)?: *\w+ *(?=,)"
    r"|\bSeed: *\d+ *(?=,|$)"
    r"|\bSize: *\d+x\d+",
    re.IGNORECASE | re.MULTILINE,
)


def foreign_words(text: str) -> list[str]:
    """Return the parts of a prompt that another program would act on, each once.

    They are ``<lora:...>`` and its like, weights as in ``(word:1.3)``, ``((word))`` or
    ``(word)++``, ``[word]``, ``BREAK``, ``AND``, ``embedding:...``, and the parameters
    of a picture, such as ``Steps: 20,``. Ordinary parentheses, times and ratios are
    none, nor is a capital AND among capitals.
    """
    return list(dict.fromkeys(" ".join(word.split()) for word in _matches(text)))


def foreign_words_warning(field: str, text: str) -> str | None:
    """Return the warning about ``foreign_words`` in a field; None if there are none."""
    words = [_shortened(word) for word in foreign_words(text)]
    if not words:
        return None
    rest = len(words) - _SHOWN_WORDS
    more = f" and {rest} more" if rest > 0 else ""
    shown = ", ".join(words[:_SHOWN_WORDS])
    return (
        f"{field} has notation of other programs, which is read as plain words here:"
        f" {shown}{more}; LoRAs, textual inversions and settings have their own fields"
    )


def _matches(text: str) -> Iterator[str]:
    for pattern in (_TAG, _WEIGHT_AFTER, _NESTED, _BRACKETS, _EMBEDDING, _PARAMETERS):
        yield from pattern.findall(text)
    for word in _WEIGHT.findall(text):
        if not _RATIO.search(word):
            yield word
    if any(letter.islower() for letter in _OPERATOR.sub("", text)):
        yield from _OPERATOR.findall(text)


def _shortened(word: str) -> str:
    if len(word) <= _SHOWN_LETTERS:
        return word
    return f"{word[: _SHOWN_LETTERS - 1]}…"
