"""Plot how fast runs trained and how much memory they took, over the minutes that they lasted.

    python -m scripts.benchmarks.plot_speed RUN_DIR [RUN_DIR ...] -o speed.png [--names NAME ...]

From `metrics.jsonl`: target tokens per second between two lines of the log, without validations,
and the most memory that the process had so far (on a GPU: its tensors). Also prints both, for each
sixth of a run.
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


class SpeedLog(NamedTuple):
    """Speed and memory of a run, with one value for each line of its log."""

    minutes: list[float]
    tokens_per_second: list[float]  # target tokens
    gigabytes: list[float]


def read_speed_log(run: RunDir) -> SpeedLog:
    log = SpeedLog([], [], [])
    for line in run.metrics_path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "train":
            timing = entry["timing"]
            log.minutes.append(timing["elapsed_seconds"] / 60)
            log.tokens_per_second.append(timing["tokens_per_second"])
            log.gigabytes.append(timing["peak_memory"] / 1e9)
    return log


def describe(name: str, log: SpeedLog, *, num_parts: int = 6) -> str:
    """Return a line for each sixth of the run: its median speed, and the memory at its end."""
    num_entries = len(log.minutes)
    num_parts = min(num_parts, num_entries)
    edges = [round(part * num_entries / num_parts) for part in range(num_parts + 1)]
    lines = [name]
    for start, end in pairwise(edges):
        speed = statistics.median(log.tokens_per_second[start:end])
        lines.append(
            f"  to minute {log.minutes[end - 1]:5.1f}: {speed:8,.0f} tokens/s, "
            f"{log.gigabytes[end - 1]:.2f} GB"
        )
    return "\n".join(lines)


def plot(logs: dict[str, SpeedLog], path: Path) -> None:
    """Write an image with two plots, speed and memory, in which each run is a line."""
    figure = Figure(figsize=(8, 2.8), layout="constrained", dpi=110)
    speed_axes, memory_axes = figure.subplots(1, 2)
    for name, log in logs.items():
        speed_axes.plot(log.minutes, log.tokens_per_second, linewidth=1.0, label=name)
        memory_axes.plot(log.minutes, log.gigabytes, linewidth=1.6, label=name)
    speed_axes.set_title("target tokens per second")
    memory_axes.set_title("most memory so far, GB")
    for axes in (speed_axes, memory_axes):
        axes.set(xlabel="minutes", xlim=(0, None), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    if len(logs) > 1:
        memory_axes.legend(loc="lower right", frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--names", nargs="*", help="of the runs  [default: their directories']")
    options = parser.parse_args()

    num_runs = len(options.run_dirs)
    names = options.names or [path.name for path in options.run_dirs]
    if len(names) != num_runs:
        parser.error(f"--names: found {len(names)}; wanted one for each of {num_runs} runs")
    if len(set(names)) != num_runs:
        parser.error("--names: two runs have the same name")

    logs = {}
    for name, path in zip(names, options.run_dirs, strict=True):
        logs[name] = read_speed_log(RunDir(path))
        if not logs[name].minutes:
            parser.error(f"{path}: nothing has been logged yet")
    plot(logs, options.output)
    for name, log in logs.items():
        print(describe(name, log))


if __name__ == "__main__":
    main()
