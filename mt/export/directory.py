"""The directory that an export writes: complete or absent, and replaced only by another export."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mt.errors import DiskError
from mt.export.tokens import LANGUAGES_FILE
from mt.storage.atomic import atomic_directory
from mt.storage.run_dir import EXPORT_MARKER

# All files that an export of any format writes, by their path in its directory.
EXPORTED_FILES = re.compile(
    "|".join(
        [
            re.escape(EXPORT_MARKER),
            r"README\.md",
            r"config\.(json|yaml)",
            r"source_stats\.json",
            r"metrics\.jsonl",
            r"model\.(bin|safetensors)",
            r"\w+_vocabulary\.json",
            r"tokenizer(\.src|\.tgt)?\.model",
            r"tokenizer\.json",
            r"tokenizer_config\.json",
            r"generation_config\.json",
            re.escape(LANGUAGES_FILE),
            r"checkpoints",
            r"checkpoints/(best|last)",
            r"checkpoints/step_[0-9]{8,}",
            r"checkpoints/step_[0-9]{8,}/(model\.safetensors|meta\.json|SHA256SUMS)",
        ]
    )
)


def require_replaceable(directory: Path) -> None:
    """Raise DiskError unless a path is free, an empty directory or an earlier export."""
    if directory.exists() and not _is_replaceable(directory):
        raise DiskError(
            f"{directory}: exists and was not written by mt export; choose another directory"
        )


@contextmanager
def export_directory(directory: Path) -> Iterator[Path]:
    """Make a directory that replaces `directory` once all files in it are written.

    Raises DiskError if the path exists and is neither an empty directory nor an earlier export.
    """
    require_replaceable(directory)
    with atomic_directory(directory.resolve()) as partial:
        yield partial
        (partial / EXPORT_MARKER).touch()


def _is_replaceable(directory: Path) -> bool:
    """Return whether a path is an empty directory, or an export to which nothing was added."""
    if not directory.is_dir():
        return False
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*")}
    if not names:
        return True
    return EXPORT_MARKER in names and all(EXPORTED_FILES.fullmatch(name) for name in names)
