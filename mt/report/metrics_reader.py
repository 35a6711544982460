"""The history of a training run, read from its metrics.jsonl."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mt.evaluation.analysis import sentence_chrf

MetricsLine = Mapping[str, Any]  # one line of metrics.jsonl


@dataclass(frozen=True)
class MetricsHistory:
    """The lines of a metrics.jsonl in the order in which they were written."""

    lines: Sequence[MetricsLine]
    num_unreadable: int = 0  # lines that are not JSON objects with a step
    file_exists: bool = True

    @property
    def start(self) -> MetricsLine:
        """The line written when training started; empty if there is none."""
        start_lines = self._of_kind("start")
        return start_lines[0] if start_lines else {}

    @property
    def train(self) -> list[MetricsLine]:
        """The lines with training loss, learning rate and speed."""
        return self._of_kind("train")

    @property
    def valid(self) -> list[MetricsLine]:
        """The lines with the results of a validation."""
        return self._of_kind("valid")

    @property
    def incidents(self) -> list[MetricsLine]:
        """The lines that report a problem, such as skipped updates."""
        return self._of_kind("incident")

    def _of_kind(self, kind: str) -> list[MetricsLine]:
        return [line for line in self.lines if line.get("kind") == kind]


class SampleVersion(NamedTuple):
    """The translation of a sample sentence, and the validations between which it did not change."""

    first_step: int
    last_step: int
    hyp: str
    chrf: float


def read_metrics_log(path: Path) -> MetricsHistory:
    """Read metrics.jsonl. Lines that cannot be read are counted and skipped.

    The last line may be incomplete, because training may still be running.
    """
    if not path.is_file():
        return MetricsHistory([], file_exists=False)
    lines: list[MetricsLine] = []
    num_unreadable = 0
    for raw_line in path.read_bytes().splitlines():
        line = _parse_line(raw_line)
        if line is None:
            num_unreadable += 1
        else:
            lines.append(line)
    return MetricsHistory(lines, num_unreadable)


def _parse_line(raw_line: bytes) -> MetricsLine | None:
    """Return a line as a dict; None for anything but a JSON object with a step."""
    try:
        value = json.loads(raw_line)
    except ValueError:
        return None
    if isinstance(value, dict) and isinstance(value.get("step"), int):
        return value
    return None


def missing_metrics(history: MetricsHistory, *, file_name: str) -> list[str]:
    """Return one sentence for everything that the history of a complete run would have."""
    if not history.file_exists:
        return [f"There is no {file_name}: nothing is known about the training."]
    missing = []
    if history.num_unreadable == 1:
        missing.append(
            f"{file_name}: 1 line cannot be read; if training is running, it may be incomplete."
        )
    elif history.num_unreadable > 1:
        missing.append(
            f"{file_name}: {history.num_unreadable:,} lines cannot be read;"
            " if training is running, the last one may be incomplete."
        )
    if not history.train:
        missing.append("No update has been logged yet.")
    if not history.valid:
        missing.append("There has been no validation yet.")
    return missing


def follow_samples(history: MetricsHistory) -> dict[tuple[str, str], list[SampleVersion]]:
    """Return the translations of each sample sentence over time, by (source, reference).

    A translation that stays the same from one validation to the next is one version.
    """
    versions_by_sample: dict[tuple[str, str], list[SampleVersion]] = {}
    for line in history.valid:
        for sample in line.get("samples", []):
            ref = sample["ref"]
            hyp = sample["hyp"]
            versions = versions_by_sample.setdefault((sample["src"], ref), [])
            if versions and versions[-1].hyp == hyp:
                versions[-1] = versions[-1]._replace(last_step=line["step"])
            else:
                chrf = sentence_chrf(hyp, [ref])
                versions.append(SampleVersion(line["step"], line["step"], hyp, chrf))
    return versions_by_sample
