"""metrics.jsonl: the schema of its lines, and how they are written and read.

A run appends one JSON object a line. Every line has `kind`, `step` and `timing`; everything that
depends on a clock stands under `timing`, so that two equal runs differ nowhere else. The other keys
depend on the kind:

    start      num_parameters, environment
    plan       total_steps, warmup_steps
    train      epoch, loss, nll, other sums of the objective, lr, grad_norm, tokens_seen,
               num_skipped
    valid      epoch, loss, perplexity, scores such as "BLEU", signatures, samples, is_best,
               num_lines, num_lines_in_set, beam_size, sets
    final      checkpoint, scores, signatures, num_lines, num_lines_in_set, beam_size, sets
    incident   text

Only a run with several validation sets has `sets`: a list with the name, the loss, the scores, the
signatures and num_lines of each. The loss and the scores of the line are then means over the sets,
in which all sets count the same, num_lines is of all sets, and the signatures are of the first.

The keys under `timing` are elapsed_seconds (of training, over all resumes), tokens_per_second and
peak_memory (in bytes) of a train line, translation_seconds of a valid line, and unix_time of a
start line.

A number that is not finite is written as null.
"""

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from mt.errors import DiskError
from mt.storage.atomic import atomic_file, fsync_path, os_errors_as_disk_error
from mt.wording import count_of

LARGEST_EXPONENT = 700.0  # exp of more has no float


class Sample(NamedTuple):
    """One validation sentence, its reference and the model's translation."""

    src: str
    ref: str
    hyp: str


class ScoreScope(NamedTuple):
    """Which lines of a set were scored, and which search translated them."""

    num_lines: int
    num_lines_in_set: int
    beam_size: int

    @property
    def is_sample(self) -> bool:
        """Whether some lines of the set were not scored."""
        return self.num_lines < self.num_lines_in_set

    def __str__(self) -> str:
        lines = count_of(self.num_lines_in_set, "line")
        if self.is_sample:
            lines = f"{self.num_lines:,} of {lines}"
        return f"{lines}, beam {self.beam_size}"


@dataclass(frozen=True)
class SetResult:
    """Loss and scores of one of several validation sets."""

    name: str
    num_lines: int
    scores: Mapping[str, float]  # by the metric's name, such as "BLEU"
    signatures: Mapping[str, str]
    loss: float | None = None  # None: not computed

    def values(self) -> dict[str, Any]:
        """Return the set as an item of `sets` in metrics.jsonl."""
        loss = {} if self.loss is None else {"loss": _finite_or_none(self.loss)}
        return {
            "name": self.name,
            **loss,
            **self.scores,
            "signatures": dict(self.signatures),
            "num_lines": self.num_lines,
        }


@dataclass(frozen=True)
class Validation:
    """Loss, scores and sample translations of the validation set at one time.

    With several sets, loss and scores are means over them, and the signatures are of the first.
    """

    loss: float  # unsmoothed negative log-likelihood in nats per target token
    scores: Mapping[str, float]  # by the metric's name, such as "BLEU"
    signatures: Mapping[str, str]  # sacreBLEU's signature of each score
    samples: Sequence[Sample]
    scope: ScoreScope | None = None  # None: there are no scores
    translation_seconds: float = 0.0  # how long the search took
    sets: Sequence[SetResult] = ()  # empty if there is only one

    @property
    def seconds_per_line(self) -> float | None:
        """How long the search took for a line; None if nothing was translated."""
        return None if self.scope is None else self.translation_seconds / self.scope.num_lines

    @property
    def perplexity(self) -> float:
        """exp(loss), or inf where that is too large for a float."""
        return math.exp(self.loss) if self.loss < LARGEST_EXPONENT else math.inf

    def selection_score(self, metric: str) -> float:
        """Return the number that chooses the best checkpoint; higher is better.

        `metric` is a value of `train.metric`.
        """
        if metric == "loss":
            return -self.loss
        scores = {name.lower(): score for name, score in self.scores.items()}
        return scores[metric]


@dataclass(frozen=True)
class Record:
    """What a line of one kind says, besides its step and timing."""

    kind: ClassVar[str]

    def values(self) -> dict[str, Any]:
        """Return the keys that only this kind has."""
        return asdict(self)


@dataclass(frozen=True)
class StartRecord(Record):
    """Written once, when a run begins."""

    kind: ClassVar[str] = "start"
    num_parameters: int
    environment: Mapping[str, str]


@dataclass(frozen=True)
class PlanRecord(Record):
    """Written when the planned number of updates is set or revised."""

    kind: ClassVar[str] = "plan"
    total_steps: int
    warmup_steps: int


@dataclass(frozen=True)
class TrainRecord(Record):
    """Means over the updates since the last line of this kind."""

    kind: ClassVar[str] = "train"
    epoch: int
    # Per target token, by the names of the objective's sums: "loss" (label-smoothed), "nll"
    # (unsmoothed, in nats) and others. nan when all updates were skipped.
    losses: Mapping[str, float]
    lr: float
    grad_norm: float
    tokens_seen: int  # target tokens since the run began
    num_skipped: int  # updates skipped since the run began

    def values(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            **self.losses,
            "lr": self.lr,
            "grad_norm": self.grad_norm,
            "tokens_seen": self.tokens_seen,
            "num_skipped": self.num_skipped,
        }


@dataclass(frozen=True)
class ValidationRecord(Record):
    """The result of one validation."""

    kind: ClassVar[str] = "valid"
    epoch: int
    validation: Validation
    is_best: bool

    def values(self) -> dict[str, Any]:
        validation = self.validation
        scope = {} if validation.scope is None else validation.scope._asdict()
        return {
            "epoch": self.epoch,
            "loss": validation.loss,
            "perplexity": validation.perplexity,
            **validation.scores,
            "signatures": dict(validation.signatures),
            "samples": [sample._asdict() for sample in validation.samples],
            "is_best": self.is_best,
            **scope,
            **_values_of_sets(validation.sets),
        }


@dataclass(frozen=True)
class FinalRecord(Record):
    """The score of the best checkpoint at the end of a run."""

    kind: ClassVar[str] = "final"
    checkpoint: str  # its name
    scores: Mapping[str, float]  # by the metric's name, such as "BLEU"
    signatures: Mapping[str, str]  # sacreBLEU's signature of each score
    scope: ScoreScope
    # Of the run, when an earlier process computed the score; None: it is computed now.
    elapsed_seconds: float | None = None
    sets: Sequence[SetResult] = ()  # empty if there is only one

    def values(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            **self.scores,
            "signatures": dict(self.signatures),
            **self.scope._asdict(),
            **_values_of_sets(self.sets),
        }


@dataclass(frozen=True)
class IncidentRecord(Record):
    """Something that went wrong without ending the run."""

    kind: ClassVar[str] = "incident"
    text: str


@dataclass(frozen=True)
class TrainingEvent:
    """A line of metrics.jsonl, for a program that watches its own training."""

    step: int  # updates since the run began
    record: Record
    timing: Mapping[str, float]


OnEvent = Callable[[TrainingEvent], None]


class MetricsLog:
    """The file metrics.jsonl of a run that is training.

    A line that a full disk refuses is kept in memory until the next write, so that the file never
    has half a line or a gap. `on_event`, if it is set, is called after each line. What it raises is
    not caught.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.on_event: OnEvent | None = None
        self._pending = b""

    def write(self, record: Record, *, step: int, timing: Mapping[str, float]) -> "MetricsLine":
        """Append one line, and return it.

        Floats keep every digit, so that equal runs write equal lines.
        """
        line: dict[str, Any] = {"kind": record.kind, "step": step}
        for key, value in record.values().items():
            line[key] = _finite_or_none(value) if isinstance(value, float) else value
        line["timing"] = dict(timing)
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
        # The text of an incident may name a file with bytes that are not UTF-8.
        self._pending += text.encode(errors="backslashreplace") + b"\n"
        with suppress(DiskError):
            self._write_pending()
        if self.on_event is not None:
            self.on_event(TrainingEvent(step, record, timing))
        return line

    def sync(self) -> int:
        """Wait until all lines are on the disk, and return the file's size in bytes.

        Raises DiskError when the disk refuses; lines that did not fit stay pending.
        """
        self._write_pending()
        with os_errors_as_disk_error(self.path):
            fsync_path(self.path)
        return self._size()

    def clear(self) -> None:
        """Drop all lines."""
        if self._size() > 0:
            os.truncate(self.path, 0)

    def cut_back(self, size: int, *, step: int) -> bool:
        """Cut the file to its first `size` bytes; a resumed run writes the later lines again.

        If the file is shorter or was changed since update `step`, its complete lines up to that
        update are kept, and False is returned.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        kept = content[:size]
        is_intact = len(kept) == size and kept[-1:] in (b"", b"\n")
        if not is_intact:
            with atomic_file(self.path) as file:
                file.write(b"".join(_complete_lines(content, step=step)))
        elif kept != content:
            os.truncate(self.path, size)  # needs no space on the disk
        return is_intact

    def incidents(self) -> list[str]:
        """Return what went wrong since the run began, a text for each incident."""
        return [f"update {line['step']:,}: {line['text']}" for line in self.history().incidents]

    def history(self) -> "MetricsHistory":
        """Return all lines, with those that could not be written yet."""
        written = self.path.read_bytes() if self.path.exists() else b""
        return parse_metrics(written + self._pending)

    def _write_pending(self) -> None:
        """Write the pending lines, all of them or nothing."""
        size = self._size()
        with os_errors_as_disk_error(self.path), self.path.open("ab", buffering=0) as file:
            if file.write(self._pending) != len(self._pending):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._pending = b""

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


MetricsLine = Mapping[str, Any]  # one line of metrics.jsonl; see `_parse_line`

Step = Annotated[int, Field(ge=0, le=2**53)]  # has an exact float, for plots
Number = Annotated[float, Field(allow_inf_nan=False)] | None  # None: it was not finite
UnixTime = Annotated[float, Field(ge=0, le=253_402_300_799)]  # up to the year 9999


# The types of the keys of a line. Any key but `step` may be missing, and a key that is not named
# here, such as a loss or a score, has a number.


class _Types(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Number]


class _TimingTypes(_Types):
    unix_time: UnixTime | None = None


class _SampleTypes(_Types):
    src: str
    ref: str
    hyp: str


class _SetTypes(_Types):
    name: str
    signatures: dict[str, str] = {}
    num_lines: NonNegativeInt = 0


class _LineTypes(_Types):
    kind: str = ""
    step: Step
    timing: _TimingTypes | None = None
    # start
    num_parameters: NonNegativeInt = 0
    environment: dict[str, Any] | None = None
    # plan
    total_steps: NonNegativeInt = 0
    warmup_steps: NonNegativeInt = 0
    # train, valid and final
    epoch: NonNegativeInt = 0
    tokens_seen: NonNegativeInt = 0
    num_skipped: NonNegativeInt = 0
    checkpoint: str = ""
    signatures: dict[str, str] = {}
    samples: list[_SampleTypes] = []
    is_best: bool = False
    num_lines: NonNegativeInt = 0
    num_lines_in_set: NonNegativeInt = 0
    beam_size: NonNegativeInt = 0
    sets: list[_SetTypes] = []
    # incident
    text: str = ""


@dataclass(frozen=True)
class MetricsHistory:
    """The lines of a metrics.jsonl, in the order in which they were written."""

    lines: Sequence[MetricsLine]
    num_unreadable: int = 0  # lines that are cut, or have values of wrong types
    file_exists: bool = True

    @property
    def start(self) -> MetricsLine:
        """The line written when the run began; empty if there is none."""
        start_lines = self.of_kind("start")
        return start_lines[0] if start_lines else {}

    @property
    def train(self) -> list[MetricsLine]:
        """The lines with training loss, learning rate and speed."""
        return self.of_kind("train")

    @property
    def valid(self) -> list[MetricsLine]:
        """The lines with the results of a validation."""
        return self.of_kind("valid")

    @property
    def final(self) -> list[MetricsLine]:
        """The lines with the score of the best checkpoint at the end of the run."""
        return self.of_kind("final")

    @property
    def incidents(self) -> list[MetricsLine]:
        """The lines that report a problem, such as skipped updates."""
        return self.of_kind("incident")

    @property
    def elapsed_seconds(self) -> float | None:
        """The training time at the last line that has it; None if no line has it."""
        for line in reversed(self.lines):
            timing = line.get("timing", {})
            if "elapsed_seconds" in timing:
                return float(timing["elapsed_seconds"])
        return None

    def of_kind(self, kind: str) -> list[MetricsLine]:
        """Return the lines of one kind."""
        return [line for line in self.lines if line.get("kind") == kind]


def read_metrics_log(path: Path) -> MetricsHistory:
    """Read a run's metrics.jsonl. Lines that cannot be read are counted and skipped.

    The last line may be incomplete, because training may still be running.
    """
    if not path.is_file():
        return MetricsHistory([], file_exists=False)
    return parse_metrics(path.read_bytes())


def parse_metrics(content: bytes) -> MetricsHistory:
    """Parse the content of a metrics.jsonl."""
    lines: list[MetricsLine] = []
    num_unreadable = 0
    for raw_line in content.splitlines():
        line = _parse_line(raw_line)
        if line is None:
            num_unreadable += 1
        else:
            lines.append(line)
    return MetricsHistory(lines, num_unreadable)


def read_scores(line: MetricsLine) -> dict[str, float]:
    """Return the scores of a line by name, without those that are not finite.

    An item of `sets` has scores under the same keys.
    """
    names = line.get("signatures", {})
    return {name: line[name] for name in names if line.get(name) is not None}


def read_scope(line: MetricsLine) -> ScoreScope | None:
    """Return what the scores of a line are of; None in the lines of older versions."""
    if any(key not in line for key in ScoreScope._fields):
        return None
    return ScoreScope(*(line[key] for key in ScoreScope._fields))


def read_sets(line: MetricsLine) -> list[SetResult]:
    """Return the results of the single sets of a line; none if there was one set."""
    return [
        SetResult(
            item["name"],
            num_lines=item.get("num_lines", 0),
            scores=read_scores(item),
            signatures=item.get("signatures", {}),
            loss=item.get("loss"),
        )
        for item in line.get("sets", [])
    ]


def _values_of_sets(sets: Sequence[SetResult]) -> dict[str, Any]:
    """Return the key `sets` of a line, which a line about one set does not have."""
    return {"sets": [item.values() for item in sets]} if sets else {}


def _finite_or_none(value: float) -> float | None:
    """Return a number as JSON writes it: null if it is not finite."""
    return value if math.isfinite(value) else None


def _complete_lines(content: bytes, *, step: int) -> Iterator[bytes]:
    """Yield the lines that can be read, with their line ends, up to those of update `step`."""
    for raw_line in content.splitlines(keepends=True):
        line = _parse_line(raw_line)
        if line is not None and line["step"] <= step and raw_line.endswith(b"\n"):
            yield raw_line


def _parse_line(raw_line: bytes) -> MetricsLine | None:
    """Return a line as a dict, or None for anything but a JSON object with the right types.

    A line may lack keys of its kind, except for `step` and the text of an incident.
    """
    try:
        line: dict[str, Any] = json.loads(raw_line)
        _LineTypes.model_validate(line)
    except (ValueError, RecursionError):  # pydantic's ValidationError is a ValueError
        return None
    if line.get("kind") == IncidentRecord.kind and "text" not in line:
        return None
    if "timing" in line:
        # A null says nothing, so it is as if the key were missing.
        timing = line["timing"] or {}
        line["timing"] = {key: value for key, value in timing.items() if value is not None}
    return line
