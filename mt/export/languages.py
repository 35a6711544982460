"""The target languages of an exported model, and the tokens that choose them."""

import json
from pathlib import Path

from mt.decoding.translator import Translator

# A model of several target languages has this file, with the token that begins a source for each.
LANGUAGES_FILE = "target_languages.json"


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
