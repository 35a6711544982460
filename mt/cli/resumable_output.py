"""The output file of `mt translate --resume`: a new command continues after one that was killed.

Beside the output FILE, `FILE.partial` holds the chunks of lines that are translated, and
`FILE.partial.json` records how many lines these are. Both are removed when FILE is complete. A
chunk that was not recorded is removed and translated again, so the output is the same as without
an interruption.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BufferedWriter
from pathlib import Path
from typing import Any, Self

from mt.errors import DataError, DiskError, MtError
from mt.storage.atomic import atomic_file, fsync_path, os_errors_as_disk_error, remove
from mt.storage.locks import try_lock
from mt.wording import count_of


class ResumableOutput:
    """Writes chunks of output, and records after each how many lines of the input it is for."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open the output, and find out what an earlier command left of it.

        `settings` is all that the translations depend on, besides the input, as JSON values. Raises
        DataError if the earlier command had other settings or is still running, and DiskError if it
        left damaged files.
        """
        self.path = path.resolve()  # so that the target of a link is written, not the link
        if self.path.exists() and not self.path.is_file():
            raise DataError(f"{path}: --resume writes to a file only")
        self._partial = self.path.with_name(f"{self.path.name}.partial")
        self._state_path = self.path.with_name(f"{self.path.name}.partial.json")
        self._settings = json.loads(json.dumps(settings))
        self._input_hash = hashlib.sha256()
        self.num_lines = 0  # of the input that are translated and written
        self._size = 0
        self._input_digest = self._input_hash.hexdigest()
        if not self._partial.exists():
            # An earlier command that was killed when its output was complete may leave its record.
            remove(self._state_path)
        self._file = self._open()
        try:
            if self._state_path.exists():
                self._read_state()
        except MtError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file, and leave it for the next command if it is not finished."""
        self._file.close()

    def skip_translated(self, lines: Iterator[str]) -> Iterator[str]:
        """Return the lines of the input that are not translated yet.

        Raises DataError if the lines that are translated have changed, or if there are fewer.
        """
        for number in range(self.num_lines):
            line = next(lines, None)
            if line is None:
                raise DataError(
                    self._problem(f"the input had more than {count_of(number, 'line')}")
                )
            self._hash_line(line)
        if self._input_hash.hexdigest() != self._input_digest:
            raise DataError(self._problem("the input has changed"))
        with os_errors_as_disk_error(self.path):
            self._file.truncate(self._size)  # what follows is not recorded
        return lines

    def write_chunk(self, lines: Sequence[str], output: Iterable[str]) -> None:
        """Write the output for some lines of the input, and record it. Raises DiskError."""
        data = "".join(f"{line}\n" for line in output).encode(errors="backslashreplace")
        with os_errors_as_disk_error(self.path):
            self._file.write(data)
            self._file.flush()
            fsync_path(self._partial)
        self._size += len(data)
        self.num_lines += len(lines)
        for line in lines:
            self._hash_line(line)
        state = {
            "settings": self._settings,
            "num_lines": self.num_lines,
            "size": self._size,
            "input_digest": self._input_hash.hexdigest(),
        }
        with atomic_file(self._state_path) as file:
            file.write(json.dumps(state).encode())

    def finish(self) -> None:
        """Give the complete output its name. Raises DiskError."""
        with os_errors_as_disk_error(self.path):
            self._file.flush()
            if self.path.exists():
                os.fchmod(self._file.fileno(), self.path.stat().st_mode & 0o7777)
            self._partial.replace(self.path)
            fsync_path(self.path.parent)
        remove(self._state_path)

    def _open(self) -> BufferedWriter:
        """Open the partial output and lock it. The lock ends with the file or the process."""
        with os_errors_as_disk_error(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._partial.open("ab")
        if not try_lock(file.fileno()):
            file.close()
            raise DataError(f"{self._partial}: another command is writing it")
        return file

    def _read_state(self) -> None:
        """Read how far the earlier command came."""
        try:
            state = json.loads(self._state_path.read_text(encoding="utf-8"))
            self.num_lines = int(state["num_lines"])
            self._size = int(state["size"])
            self._input_digest = str(state["input_digest"])
            settings = dict(state["settings"])
            is_complete = self._partial.stat().st_size >= self._size
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DiskError(self._problem(f"its files are damaged ({error})")) from None
        if not is_complete:
            raise DiskError(self._problem("its files are damaged (the output is too short)"))
        for name, value in self._settings.items():
            if settings.get(name) != value:
                raise DataError(self._problem(f"{name} has changed"))

    def _hash_line(self, line: str) -> None:
        """Add a translated line of the input to the hash of all translated lines."""
        self._input_hash.update(f"{line}\n".encode(errors="surrogateescape"))

    def _problem(self, cause: str) -> str:
        return (
            f"{self._partial}: cannot continue what an earlier command began: {cause}; undo the "
            f"change, or delete this file and {self._state_path.name}"
        )
