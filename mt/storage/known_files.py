"""What is known of files that have not changed, so that they need not be read again.

The SHA-256 of a large file takes seconds, for example. It is kept beside what the system says of
the file: its size, times and inode. As long as these are the same, the content is taken to be the
same. After a copy or a move to another disk they differ, and the file is read again.
"""

import json
import time
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

from mt.errors import DataError, DiskError
from mt.storage.atomic import atomic_file, sha256

# Some filesystems store times in steps of two seconds, and two changes within a step look like one.
# So files that changed more recently than this are not remembered.
MIN_AGE_NS = 2_500_000_000


@dataclass(frozen=True)
class FileState:
    """What the system says of a file. A change of the content changes it."""

    size: int
    modified_ns: int
    inode_changed_ns: int
    inode: int
    # When the system was asked, in nanoseconds since 1970. Two states of the same content are equal
    # whenever they were asked for. Records of earlier versions do not have this number.
    observed_ns: int = field(default=0, compare=False)

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Return the present state. Raises OSError."""
        observed_ns = time.time_ns()
        status = path.stat()
        return cls(
            size=status.st_size,
            modified_ns=status.st_mtime_ns,
            inode_changed_ns=status.st_ctime_ns,
            inode=status.st_ino,
            observed_ns=observed_ns,
        )

    @property
    def is_settled(self) -> bool:
        """Whether a change after the observation would give other times."""
        latest_change_ns = max(self.modified_ns, self.inode_changed_ns)
        return self.observed_ns - latest_change_ns > MIN_AGE_NS


class KnownFiles:
    """Facts about files, each a short text. They are read from `path`; `save` writes them there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts = _read(path)
        self._is_changed = False

    def fact(self, path: Path) -> str | None:
        """Return what is known of a file; None if nothing is, or if the file has changed.

        Raises OSError.
        """
        if str(path) not in self._facts:
            return None
        state, fact = self._facts[str(path)]
        return fact if state == FileState.of(path) else None

    def remember(self, path: Path, fact: str, *, state: FileState) -> None:
        """Keep a fact about a file. `state` is the state before the file was read."""
        if state.is_settled:
            self._facts[str(path)] = (state, fact)
            self._is_changed = True

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file's content. Raises DataError."""
        try:
            digest = self.fact(path)
            if digest is None:
                state = FileState.of(path)
                digest = sha256(path)
                self.remember(path, digest, state=state)
        except OSError as error:
            raise DataError(f"{path}: cannot read: {error.strerror}") from error
        return digest

    def save(self) -> None:
        """Write the facts, if there are new ones and if the directory can be written to."""
        if not self._is_changed:
            return
        # Without the file, the next start is slower, and nothing else.
        with suppress(DiskError), atomic_file(self._path) as file:
            facts = {name: (astuple(state), fact) for name, (state, fact) in self._facts.items()}
            file.write(json.dumps(facts, indent=1).encode() + b"\n")
        self._is_changed = False


def _read(path: Path) -> dict[str, tuple[FileState, str]]:
    """Return the facts that `save` wrote; none if the file is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: (FileState(*state), str(fact)) for name, (state, fact) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
