"""Choices and limits of a config that other modules share.

This imports quickly, for the command line and for the processes that encode text.
"""

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

MAX_TAGS = 16  # control pieces that every new tokenizer reserves, e.g. for target languages
MAX_VOCAB_SIZE = 500_000
