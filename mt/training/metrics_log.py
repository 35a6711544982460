"""What a person sees while it runs, and the same in metrics.jsonl for whoever comes later."""

import errno
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mt.errors import DiskError
from mt.storage.atomic import fsync_path, os_errors_as_disk_error


class Sample(NamedTuple):
    """One validation sentence, and what the model makes of it."""

    src: str
    ref: str
    hyp: str


class Validation(NamedTuple):
    """What one look at the validation set found."""

    loss: float  # unsmoothed negative log-likelihood in nats per target token
    scores: dict[str, float]  # by the metric's name, such as "BLEU"
    signatures: dict[str, str]  # likewise
    samples: Sequence[Sample]

    @property
    def perplexity(self) -> float:
        """exp(loss); inf where that has no float."""
        return math.exp(self.loss) if self.loss < 700.0 else math.inf

    def selection_score(self, metric: str) -> float:
        """What the config's `metric` says of the model: higher is better."""
        return {"loss": -self.loss, **{name.lower(): score for name, score in self.scores.items()}}[
            metric
        ]

    def as_json(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        numbers = {"loss": self.loss, "perplexity": self.perplexity, **self.scores}
        return {
            **numbers,
            "signatures": self.signatures,
            "samples": [sample._asdict() for sample in self.samples],
        }


class MetricsFile:
    """metrics.jsonl: one JSON object a line, everything that a clock decides under `timing`.

    A line that the disk has no room for waits for the next one, so that the file never has half a line or a gap.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""

    def append(
        self, kind: str, step: int, values: dict[str, Any], timing: dict[str, float]
    ) -> None:
        """Add one line; floats keep every digit, so that equal runs write equal lines; what is not finite is null."""
        known = {
            key: None if isinstance(x, float) and not math.isfinite(x) else x
            for key, x in values.items()
        }
        line = json.dumps(
            {"kind": kind, "step": step, **known, "timing": timing},
            ensure_ascii=False,
            allow_nan=False,
        )
        self._waiting += f"{line}\n".encode()
        with suppress(DiskError):
            self._write()

    def sync(self) -> int:
        """Wait until all lines are on the disk; the size in bytes. Raises DiskError, and keeps what did not fit."""
        self._write()
        with os_errors_as_disk_error(self.path):
            fsync_path(self.path)
        return self._size

    def _write(self) -> None:
        """Write what waits, all of it or nothing."""
        size = self._size
        with os_errors_as_disk_error(self.path), self.path.open("ab", buffering=0) as file:
            if file.write(self._waiting) != len(self._waiting):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._waiting = b""

    def truncate(self, size: int) -> None:
        """Forget all that came after the first `size` bytes: updates that a resumed run will do again."""
        if self._size > size:
            os.truncate(self.path, size)

    def incidents(self) -> list[str]:
        """What went wrong since the run began, in words."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        found = [
            json.loads(line)
            for line in (*lines, *self._waiting.splitlines())
            if b'"kind": "incident"' in line
        ]
        return [f"update {incident['step']:,}: {incident['text']}" for incident in found]

    @property
    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


class Display:
    """One bar with the run's pulse on a terminal, plain lines elsewhere; always on stderr."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.bar = tqdm(disable=True)

    @contextmanager
    def bar_to(self, total: int | None, *, step: int) -> Iterator[None]:
        """Within it, a terminal shows a bar, which is at `step` of `total`."""
        hidden = not (self.enabled and sys.stderr.isatty())
        shape = None if total is None else "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
        bar = tqdm(
            total=total,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            bar_format=shape,
            disable=hidden,
        )
        with bar as self.bar:
            yield

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        self.bar.update(step - self.bar.n)

    def say(self, line: str) -> None:
        """A line that stays, above the bar if there is one."""
        if self.enabled:
            self.bar.write(line, file=sys.stderr)
            sys.stderr.flush()

    def show(
        self, step: int, *, loss: float, lr: float, tokens_per_second: float, seconds_left: float
    ) -> None:
        """How it goes: in the bar, or as a line of its own."""
        pulse = f"loss {loss:.3f} | {tokens_per_second:,.0f} tok/s | lr {lr:.2e} | {clock(seconds_left)} left"
        self.bar.set_postfix_str(pulse)
        if self.bar.disable:
            self.say(f"step {step:,}{f'/{self.bar.total:,}' if self.bar.total else ''} | {pulse}")


def describe_validation(step: int, found: Validation, *, is_best: bool) -> str:
    """The line of one validation, and its samples below."""
    scores = "".join(f" | {name} {value:.2f}" for name, value in found.scores.items())
    best = " | best" if is_best else ""
    lines = [f"valid {step:,} | loss {found.loss:.3f} | ppl {found.perplexity:.2f}{scores}{best}"]
    for sample in found.samples:
        lines += [f"    src {sample.src}", f"    ref {sample.ref}", f"    hyp {sample.hyp}", ""]
    return "\n".join(lines).rstrip()


def clock(seconds: float) -> str:
    """75 -> 1:15, 3700 -> 1:01:40"""
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
    )
