"""Encoding of many texts word by word, each different word once.

A text repeats its words, and no piece of a tokenizer contains a space after its start. So the ids
of a text are those of its words, and a word that has been encoded before need not be encoded again.
On Europarl this takes a third of SentencePiece's own time.
"""

from collections.abc import Sequence

import numpy as np

from mt.data.token_array import TokenArray, offsets_of
from mt.data.tokenizer import Tokenizer, escape

# Words that are remembered, about 170 bytes each. Then all are forgotten.
MAX_WORDS = 400_000

# Stands for the end of a text among the words. No text contains it.
END = "\n"


class WordEncoder:
    """Encodes texts exactly as `Tokenizer.encode`, and remembers the ids of the words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._end_ids = TokenArray.from_rows([[tokenizer.eos_id]])
        self._numbers: dict[str, int] = {}  # by word; the place of its ids in `_encoded`
        self._encoded = self._end_ids
        self._forget()

    def encode(self, texts: Sequence[str]) -> TokenArray:
        """Return the ids of each text, with eos as the last."""
        if not self._tokenizer.encodes_words_alone or not all(map(_is_regular, texts)):
            return TokenArray.from_rows(self._tokenizer.encode(texts))
        if not texts:
            return TokenArray.from_rows([])
        joined = escape(f" {END} ".join(texts))
        words = [*joined.split(" "), END]
        self._remember(words)
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        ids = self._encoded.take(numbers)
        ends = ids.offsets[1:][numbers == self._numbers[END]]
        assert len(ends) == len(texts), (len(ends), len(texts))
        return TokenArray(ids.ids, np.concatenate([[0], ends]))

    def _remember(self, words: Sequence[str]) -> None:
        """Encode the words that are not known yet."""
        if len(self._numbers) > MAX_WORDS:
            self._forget()
        new_words = [word for word in dict.fromkeys(words) if word not in self._numbers]
        if not new_words:
            return
        encoded = TokenArray.from_rows(self._tokenizer.encode_words(new_words))
        for word in new_words:
            self._numbers[word] = len(self._numbers)
        self._encoded = _concatenate(self._encoded, encoded)

    def _forget(self) -> None:
        """Forget all words but the end of a text, which is encoded as eos."""
        self._numbers = {END: 0}
        self._encoded = self._end_ids


def _is_regular(text: str) -> bool:
    """Return whether a text consists of words with single spaces between them."""
    return text != "" and text[0] != " " and text[-1] != " " and "  " not in text


def _concatenate(first: TokenArray, second: TokenArray) -> TokenArray:
    """Return the sequences of both arrays in one."""
    lengths = np.concatenate([first.lengths, second.lengths])
    return TokenArray(np.concatenate([first.ids, second.ids]), offsets_of(lengths))
