#!/usr/bin/env python3
"""Draws how fast runs trained and how much memory they took, over the minutes that they lasted.

    .venv/bin/python -m scripts.benchmarks.plot_speed RUN_DIR [RUN_DIR ...] -o speed.png [--names NAME ...]

From `metrics.jsonl`: target tokens a second between two lines of the log, validations left out, and the most memory
that the process ever had (of a GPU: its tensors). It also prints both, for each sixth of a run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from mt.storage.run_dir import RunDir


class Course(NamedTuple):
    """What the log of a run says, line by line."""

    minutes: list[float]
    speeds: list[float]  # target tokens a second
    gigabytes: list[float]


def read_course(run: RunDir) -> Course:
    lines = map(json.loads, run.metrics.read_text(encoding="utf-8").splitlines())
    timings = [line["timing"] for line in lines if line["kind"] == "train"]
    return Course(
        [timing["elapsed_seconds"] / 60 for timing in timings],
        [timing["tokens_per_second"] for timing in timings],
        [timing["peak_memory"] / 1e9 for timing in timings],
    )


def describe(name: str, course: Course, *, parts: int = 6) -> str:
    """A line for each sixth of the run: median speed, and the memory at its end."""
    parts = min(parts, len(course.minutes))
    edges = [round(part * len(course.minutes) / parts) for part in range(parts + 1)]
    rows = [
        f"  to minute {course.minutes[end - 1]:5.1f}: {statistics.median(course.speeds[start:end]):8,.0f} tokens/s, "
        f"{course.gigabytes[end - 1]:.2f} GB"
        for start, end in pairwise(edges)
    ]
    return "\n".join([name, *rows])


def draw(courses: list[tuple[str, Course]], path: Path) -> None:
    figure = Figure(figsize=(8, 2.8), layout="constrained", dpi=110)
    speed, memory = figure.subplots(1, 2)
    for name, course in courses:
        speed.plot(course.minutes, course.speeds, linewidth=1.0, label=name)
        memory.plot(course.minutes, course.gigabytes, linewidth=1.6, label=name)
    for axes, title in ((speed, "target tokens a second"), (memory, "most memory so far, GB")):
        axes.set(title=title, xlabel="minutes", xlim=(0, None), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    if len(courses) > 1:
        memory.legend(loc="lower right", frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--names", nargs="*", help="of the runs  [default: those of their directories]"
    )
    options = parser.parse_args()
    names = options.names or [path.name for path in options.run_dirs]
    if len(names) != len(options.run_dirs):
        parser.error(
            f"--names: wanted one for each run, {len(options.run_dirs)}; found {len(names)}"
        )
    courses = [
        (name, read_course(RunDir(path)))
        for name, path in zip(names, options.run_dirs, strict=True)
    ]
    if empty := [name for name, course in courses if not course.minutes]:
        parser.error(f"nothing has been logged yet of {', '.join(empty)}")
    draw(courses, options.output)
    print("\n".join(describe(*each) for each in courses))


if __name__ == "__main__":
    main()
