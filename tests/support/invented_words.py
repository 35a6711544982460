"""Words of an invented language, for tests that need a small vocabulary."""

from random import Random

INVENTED_WORDS = [
    "balo",
    "deru",
    "fimi",
    "gona",
    "hupe",
    "jasi",
    "kelo",
    "mavu",
    "nira",
    "potu",
    "ruke",
    "sifa",
]


def invented_text(seed: int, num_words: int) -> str:
    return " ".join(Random(seed).choices(INVENTED_WORDS, k=num_words))
