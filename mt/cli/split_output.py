"""Output of `mt split`, and of `mt init` about the same."""

from collections.abc import Iterator
from pathlib import Path

from mt.data.split import Part, Split
from mt.data.split_files import FILE_NAMES


def describe_split(split: Split, *, name: str, directory: Path) -> Iterator[str]:
    """Yield lines about how many pairs there are, where they are now, and what a leak would be."""
    yield f"{len(split.parts):9,} pairs in {name}"
    yield f"{split.count(Part.BLANK):9,} with a blank side, left out"
    yield f"{split.count(Part.DUPLICATE):9,} the same as another one, left out"
    for part, file_name in FILE_NAMES.items():
        if split.count(part) == 0:
            continue
        yield f"{split.count(part):9,} in {directory / file_name}"
    if split.count(Part.VALID) + split.count(Part.TEST) > 0:
        yield (
            "No held-out source or target is in the training text. A random split would have left "
            f"{split.random_src_leak:.0%} of the sources and {split.random_tgt_leak:.0%} of the "
            "targets there."
        )
