"""The tokens of an exported model: their names in other programs, and those of target languages."""

import json
from pathlib import Path

from mt.data.tokenizer import Tokenizer
from mt.decoding.translator import Translator

# The names of ids 0 to 3 in CTranslate2 and Transformers. They are not those in the tokenizer.
SPECIAL_TOKENS = ["<pad>", "<unk>", "<s>", "</s>"]

# A model of several target languages has this file, with the token that begins a source for each.
LANGUAGES_FILE = "target_languages.json"


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    """Return the name of each token, in order of ids."""
    other_ids = range(len(SPECIAL_TOKENS), tokenizer.vocab_size)
    return SPECIAL_TOKENS + [tokenizer.piece(token_id) for token_id in other_ids]


def language_tokens(translator: Translator) -> dict[str, str]:
    """Return the first token of a source for each target language: {"de": "<tag_0>"}.

    A model of one target language has none.
    """
    return {
        language: translator.src_tokenizer.piece(token_id)
        for language, token_id in translator.ids_by_language.items()
    }


def write_language_tokens(translator: Translator, directory: Path) -> None:
    """Write LANGUAGES_FILE into a directory, if the model has several target languages."""
    tokens = language_tokens(translator)
    if tokens:
        text = json.dumps(tokens, ensure_ascii=False)
        (directory / LANGUAGES_FILE).write_text(text, encoding="utf-8")
