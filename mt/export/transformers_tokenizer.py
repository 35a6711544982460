"""tokenizer.json for Transformers: a tokenizer of mt and its normalization.

The format is that of the library `tokenizers`.

The steps of a text are: normalization, replacement of characters without a piece, the escape of
U+2581 (see mt/data/tokenizer.py), U+2581 for spaces, words, pieces, tag and eos.
"""

import re
from collections import defaultdict
from typing import Any

from mt.data.normalization import (
    ACCENTS,
    JOINABLE,
    JOINERS,
    WITHOUT_MEANING,
    Normalizer,
)
from mt.data.sentencepiece_model import changes_words_in_context
from mt.data.tokenizer import EOS_ID, ESCAPE, SPACE_SYMBOL, UNK_ID, Tokenizer
from mt.decoding.translator import Translator
from mt.export.run import ExportedRun
from mt.export.tokens import SPECIAL_TOKENS, vocabulary

Step = dict[str, Any]

# The characters at which `str.split` splits a text.
WHITE_SPACE = "\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# A step removes one group of joiners after a character that they cannot join. Each accent between
# two groups needs a further step; no natural text needs more steps than this.
NUM_JOINER_STEPS = 3


def tokenizer_json(run: ExportedRun) -> dict[str, Any]:
    """Return the content of tokenizer.json.

    Raises ConfigError for a tokenizer that another program made with other rules for words.
    """
    tokenizer = run.translator.src_tokenizer
    if changes_words_in_context(tokenizer.model):
        raise run.config_error(
            "tokenizer.model: it has pieces that a user defined, or puts no space before a text; "
            "wanted a tokenizer as `mt tokenizer train` makes them"
        )
    special_ids = sorted({*range(len(SPECIAL_TOKENS)), *tokenizer.tag_ids})
    names = vocabulary(tokenizer)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special_token(token_id, names[token_id]) for token_id in special_ids],
        "normalizer": {
            "type": "Sequence",
            "normalizers": _normalizers(run.translator.src_normalizer),
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _splits(tokenizer)},
        "post_processor": _post_processor(run.translator),
        "decoder": {"type": "Sequence", "decoders": _decoders()},
        "model": _bpe(tokenizer) if tokenizer.kind == "bpe" else _unigram(tokenizer),
    }


def _special_token(token_id: int, name: str) -> Step:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": name, **flags, "special": True}


def _normalizers(normalizer: Normalizer) -> list[Step]:
    """Return the steps from a text to what the model of the tokenizer reads."""
    return [
        *_normalization(normalizer.form),
        *_replacements(normalizer),
        _replace(ESCAPE, ESCAPE + "e"),
        _replace(SPACE_SYMBOL, ESCAPE + "s"),
        {"type": "Prepend", "prepend": SPACE_SYMBOL},
        _replace(" ", SPACE_SYMBOL),
    ]


def _normalization(form: str) -> list[Step]:
    """Return the steps of `normalize`."""
    if form == "none":
        return []
    not_joined = f"(?:^|[^{JOINABLE}{ACCENTS}{JOINERS}])[{ACCENTS}]*\\K[{JOINERS}]+"
    return [
        {"type": form.upper()},
        _replace_matches(WITHOUT_MEANING.pattern, ""),
        *[_replace_matches(not_joined, "") for _ in range(NUM_JOINER_STEPS)],
        {"type": form.upper()},
        _replace_matches(f"[{WHITE_SPACE}]+", " "),
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ]


def _replacements(normalizer: Normalizer) -> list[Step]:
    """Return the steps that replace characters without a piece, as `Normalizer` does."""
    characters: dict[str, list[str]] = defaultdict(list)  # by their replacement
    for character, replacement in normalizer.replaced_characters().items():
        characters[replacement].append(character)
    steps = [
        _replace_matches(f"[{re.escape(''.join(replaced))}]", replacement)
        for replacement, replaced in characters.items()
    ]
    # Two spaces may meet where a character was removed.
    return [*steps, *_normalization(normalizer.form)] if steps else []


def _splits(tokenizer: Tokenizer) -> list[Step]:
    """Return the steps that split a text into parts, each of which is encoded on its own.

    The parts are words. A text must not give control or byte tokens by their names. A unigram model
    would find these names, so they are split too. A BPE model has no merges that make them.
    """
    words = {"pattern": {"String": SPACE_SYMBOL}, "behavior": "MergedWithNext"}
    steps = [words]
    if tokenizer.kind == "unigram":
        scores = tokenizer.ordinary_pieces.scores
        names = [name for name in vocabulary(tokenizer) if name not in scores]
        first_characters = [f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names]
        steps.append({"pattern": {"Regex": "|".join(first_characters)}, "behavior": "Isolated"})
    return [{"type": "Split", **step, "invert": False} for step in steps]


def _decoders() -> list[Step]:
    """Return the steps from pieces to a text."""
    return [
        _replace(SPACE_SYMBOL, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        _replace(ESCAPE + "s", SPACE_SYMBOL),
        _replace(ESCAPE + "e", ESCAPE),
    ]


def _post_processor(translator: Translator) -> Step:
    """Return the step that ends a text with eos, and begins it with the default language's tag.

    A model of one target language has no tag.
    """
    tokenizer = translator.src_tokenizer
    prefix_ids = translator.language_prefix(None)
    names = {token_id: tokenizer.piece(token_id) for token_id in prefix_ids}
    names[EOS_ID] = SPECIAL_TOKENS[EOS_ID]
    special_tokens = {
        name: {"id": name, "ids": [token_id], "tokens": [name]} for token_id, name in names.items()
    }
    template = {name: {"SpecialToken": {"id": name, "type_id": 0}} for name in special_tokens}
    beginning = [template[names[token_id]] for token_id in prefix_ids]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second_text = {"Sequence": {"id": "B", "type_id": 0}}
    end = template[names[EOS_ID]]
    return {
        "type": "TemplateProcessing",
        "single": [*beginning, text, end],
        "pair": [*beginning, text, end, second_text, end],
        "special_tokens": special_tokens,
    }


def _bpe(tokenizer: Tokenizer) -> Step:
    """Return a BPE model.

    SentencePiece merges two neighbors if both together are a piece. The piece with the highest
    score is merged first. So each way to cut a piece into two other pieces is a merge.
    """
    pieces = tokenizer.ordinary_pieces
    merges = []
    for piece in sorted(pieces.ids, key=lambda text: -pieces.scores[text]):
        for middle in range(1, len(piece)):
            left = piece[:middle]
            right = piece[middle:]
            if left in pieces.ids and right in pieces.ids:
                merges.append([left, right])
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": SPECIAL_TOKENS[UNK_ID],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {name: token_id for token_id, name in enumerate(vocabulary(tokenizer))},
        "merges": merges,
    }


def _unigram(tokenizer: Tokenizer) -> Step:
    scores = tokenizer.ordinary_pieces.scores
    vocab = [[name, scores.get(name, 0.0)] for name in vocabulary(tokenizer)]
    return {"type": "Unigram", "unk_id": UNK_ID, "vocab": vocab, "byte_fallback": True}


def _replace(text: str, replacement: str) -> Step:
    return {"type": "Replace", "pattern": {"String": text}, "content": replacement}


def _replace_matches(pattern: str, replacement: str) -> Step:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": replacement}
