"""A text to train on for a second: few words, some of them markup, in an order of their own."""

from __future__ import annotations

import random

WORDS = ["captain", "harbour", "the", "of", "ships", "slept", "&", "and", "saw"]
MARKUP = ["<i>Anne</i>"] * 6


def sentences(lines: int = 800, seed: int = 0) -> str:
    """Lines of nine words, so that pairs of words repeat and runs of eight do not."""
    source = random.Random(seed)
    words = WORDS + MARKUP + [f"{a}{b}{a}" for a in ("ka", "lo", "mi", "tu") for b in "rstvz"]
    return "".join(" ".join(source.choices(words, k=9)) + ".\n" for _ in range(lines))
