"""Choices that a config and the command line share. It imports quickly, for the command line."""

from typing import Literal

Normalization = Literal["nfc", "nfkc", "none"]

MbrUtility = Literal["chrf", "bleu"]  # how alike two translations are

# The tokenizers of sacreBLEU's BLEU, and "auto"; spm is an older name of flores101.
BleuTokenizer = Literal[
    "auto",
    "none",
    "13a",
    "intl",
    "zh",
    "ja-mecab",
    "ko-mecab",
    "char",
    "spm",
    "flores101",
    "flores200",
    "spBLEU-1K",
]
