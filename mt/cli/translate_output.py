"""Output formats of the command `mt translate`.

Programs read n-best lists and JSON, so both count lines from 0, as Moses does.
"""

import json
from collections.abc import Callable
from typing import Any

from mt.decoding.alignment import format_alignment
from mt.decoding.translation import Translation

# Returns what to print for a line: (index from 0, source, its translations) -> text
Format = Callable[[int, str, list[Translation]], str]


def best_line(index: int, src: str, translations: list[Translation]) -> str:
    """Return the best translation alone, as `text` or `text ||| alignment`."""
    best = translations[0]
    return " ||| ".join([best.text, *_alignment_field(best)])


def moses_lines(index: int, src: str, translations: list[Translation]) -> str:
    """Return an n-best list in the format of Moses, with a line for each translation.

    A line is `index ||| text ||| log_prob=... ||| score` with the index of the input line. An
    alignment is one more field at the end.
    """
    lines = []
    for translation in translations:
        fields = [
            str(index),
            translation.text,
            f"log_prob={translation.log_prob:.6f}",
            f"{translation.score:.6f}",
            *_alignment_field(translation),
        ]
        lines.append(" ||| ".join(fields))
    return "\n".join(lines)


def json_line(index: int, src: str, translations: list[Translation]) -> str:
    """Return one JSON object with the index of the line, the source, and its translations."""
    objects = [_json_object(translation) for translation in translations]
    fields = {"index": index, "src": src, "translations": objects}
    return json.dumps(fields, ensure_ascii=False)


def _json_object(translation: Translation) -> dict[str, Any]:
    """Return a translation as JSON writes it; `alignment` is there only if it was computed."""
    fields: dict[str, Any] = {
        "text": translation.text,
        "score": translation.score,
        "log_prob": translation.log_prob,
        "num_parts": len(translation.segments),
    }
    if translation.alignment is not None:
        fields["alignment"] = translation.alignment
    return fields


def _alignment_field(translation: Translation) -> list[str]:
    """Return the alignment as a list of one field, or no field if it was not computed."""
    if translation.alignment is None:
        return []
    return [format_alignment(translation.alignment)]
