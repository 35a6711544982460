"""The numbers of metrics.jsonl as an event file, which TensorBoard shows (`train.tensorboard`).

The event file is a copy. When a run starts or resumes, all events are written again from
metrics.jsonl; after that, each new line adds an event. So the file has each event once, after a
kill or a resume too.

TensorBoard is an optional dependency, imported only when an event file is written.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mt.errors import PackageError
from mt.storage.atomic import OutputFile, atomic_file, os_errors_as_disk_error
from mt.training.metrics_log import MetricsLine

FILE_NAME = "events.out.tfevents.mt"  # TensorBoard looks for "tfevents" in names
FILE_VERSION = "brain.Event:2"  # of the format, in the first event
# Numbers of a line that are axes of a plot, not curves.
AXES = ("step", "elapsed_seconds", "unix_time")


class EventFile:
    """An event file of TensorBoard with the numbers of a metrics.jsonl."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self._start_time = time.time()

    def rewrite(self, lines: Sequence[MetricsLine]) -> None:
        """Write the events of all lines of a run, in place of earlier ones. Raises DiskError."""
        if lines:
            self._start_time = lines[0].get("timing", {}).get("unix_time", self._start_time)
        with os_errors_as_disk_error(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path) as file:
            _write_event(file, {"wall_time": self._start_time, "file_version": FILE_VERSION})
            for line in lines:
                self._write_line(file, line)

    def append(self, line: MetricsLine) -> None:
        """Write the event of a new line. Raises DiskError."""
        with os_errors_as_disk_error(self.path), self.path.open("ab") as file:
            self._write_line(OutputFile(file, self.path), line)

    def _write_line(self, file: OutputFile, line: MetricsLine) -> None:
        """Write the event of a line. Its time leaves out the pauses between stop and resume."""
        elapsed_seconds = line.get("timing", {}).get("elapsed_seconds", 0.0)
        values = [{"tag": tag, "simple_value": value} for tag, value in curves(line)]
        fields = {"step": line["step"], "summary": {"value": values}}
        _write_event(file, {"wall_time": self._start_time + elapsed_seconds, **fields})


def curves(line: MetricsLine) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line with the names of their curves, such as `train/loss`."""
    kind = line["kind"]
    yield from _numbers(line, prefix=kind)
    yield from _numbers(line.get("timing", {}), prefix=kind)
    for result in line.get("sets", []):
        yield from _numbers(result, prefix=f"{kind}/{result['name']}")


def _numbers(values: Mapping[str, Any], *, prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and key not in AXES:
            yield f"{prefix}/{key}", float(value)


def _write_event(file: OutputFile, fields: Mapping[str, Any]) -> None:
    """Append an event with these fields to a file, in TensorBoard's format."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    RecordWriter(file).write(Event(**fields).SerializeToString())


def require_tensorboard() -> None:
    """Raise PackageError when the package tensorboard is not installed."""
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError as error:
        raise PackageError(
            f"train.tensorboard: cannot import the package tensorboard ({error}); "
            "install it with pip install -e '.[tensorboard]', or use false"
        ) from error
