"""The copy task: a language of sentences that translate to themselves, for the smallest models."""

from __future__ import annotations

import random
from pathlib import Path

from invented_words import INVENTED_WORDS

NUM_LINES = {"train": 90, "valid": 6}


def write_copy_task(directory: Path, config: str) -> Path:
    """Write train.{aa,bb}, valid.{aa,bb} and copy.yaml; return the path of copy.yaml.

    Args:
        config: the text of copy.yaml, in which AT stands for the directory.
    """
    rng = random.Random(1)
    for name, num_lines in NUM_LINES.items():
        lines = []
        for _ in range(num_lines):
            words = rng.choices(INVENTED_WORDS[:10], k=rng.randint(1, 5))
            lines.append(" ".join(words) + "\n")
        for lang in ("aa", "bb"):
            (directory / f"{name}.{lang}").write_text("".join(lines), encoding="utf-8")
    path = directory / "copy.yaml"
    path.write_text(config.replace("AT", str(directory)), encoding="utf-8")
    return path
