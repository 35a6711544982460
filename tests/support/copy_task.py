"""A language whose sentences translate to themselves: the smallest thing that there is to learn."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = ["balo", "deru", "fimi", "gona", "hupe", "jasi", "kelo", "mavu", "nira", "potu"]


def write_copy_task(directory: Path, config: str) -> Path:
    """Files train.{aa,bb} of 90 lines and valid.{aa,bb} of 6, and a config, in which AT stands for the directory."""
    draw = random.Random(1)
    for name, num_lines in (("train", 90), ("valid", 6)):
        text = "".join(
            " ".join(draw.choices(WORDS, k=draw.randint(1, 5))) + "\n" for _ in range(num_lines)
        )
        for lang in ("aa", "bb"):
            (directory / f"{name}.{lang}").write_text(text, encoding="utf-8")
    path = directory / "copy.yaml"
    path.write_text(config.replace("AT", str(directory)), encoding="utf-8")
    return path
