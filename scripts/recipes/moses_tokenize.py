"""Bring text into the form of Multi30k's tokenized release: lowercased, normalized, tokenized.

    python -m scripts.recipes.moses_tokenize LANG <TEXT >TOKENIZED

So a model of raw text can be scored by the published measure, BLEU on the release without further
tokenization. sacremoses does it as the scripts of Moses did: on test_2016_flickr, all 1,000 lines
of both languages come out as in the release.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator


def tokenize(lines: Iterable[str], lang: str) -> Iterator[str]:
    """Yield each line lowercased, normalized and tokenized; special characters become entities."""
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    normalizer = MosesPunctNormalizer(lang)
    tokenizer = MosesTokenizer(lang)
    for line in lines:
        normalized = normalizer.normalize(line.lower())
        yield tokenizer.tokenize(normalized, return_str=True, escape=True)


def main() -> int:
    if len(sys.argv) != 2:
        print("moses_tokenize: wanted one argument, a language such as de", file=sys.stderr)
        return 1
    lang = sys.argv[1]
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        for line in tokenize((line.rstrip("\n") for line in sys.stdin), lang):
            print(line)
    except ModuleNotFoundError as error:
        print(f"moses_tokenize: {error}: pip install sacremoses", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
