"""Runs to compare: their records, their groups, and how their configs differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mt.config.load import diff_configs, load_run_config
from mt.config.schema import Config
from mt.progress_bar import format_duration
from mt.report.facts import hide_directories
from mt.storage.run_dir import open_run_dir
from mt.training.metrics_log import MetricsHistory, read_metrics_log

# Runs that differ in these keys only are of one group: they show how much chance changes a score.
SEED_KEYS = {"train.seed", "train.run_dir", "train.device"}
# Keys that are not shown as differences.
HIDDEN_KEYS = {"train.run_dir"}


@dataclass(frozen=True)
class ComparedRun:
    """A run with its records."""

    path: Path
    name: str  # different from that of all other runs of the page
    config: Config
    history: MetricsHistory
    differences: Sequence[str]  # of its config from that of the first run, one line for each key
    group: int  # the index of its group


@dataclass(frozen=True)
class RunFacts:
    """What the table of runs shows of a run; "" where it is not known."""

    seed: str
    parameters: str
    updates: str
    duration: str
    device: str


def read_runs(run_dirs: Sequence[Path]) -> list[ComparedRun]:
    """Read the configs and records of runs. Raises MtError."""
    opened = [open_run_dir(path) for path in run_dirs]
    configs = [load_run_config(run.config_path) for run in opened]
    names = unique_names([run.path for run in opened])
    groups = group_by_seed(configs)
    runs = []
    for run, name, config, group in zip(opened, names, configs, groups, strict=True):
        differences = [
            hide_directories(str(difference))
            for difference in diff_configs(configs[0], config)
            if difference.key not in HIDDEN_KEYS
        ]
        history = read_metrics_log(run.metrics_path)
        runs.append(ComparedRun(run.path, name, config, history, differences, group))
    return runs


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of directories, with a number where another one has the same name."""
    names: list[str] = []
    for path in paths:
        name = path.resolve().name
        number = 1
        while name in names:
            number += 1
            name = f"{path.resolve().name} ({number})"
        names.append(name)
    return names


def group_by_seed(configs: Sequence[Config]) -> list[int]:
    """Return the number of each config's group. Configs of a group differ in the seed only."""
    representatives: list[Config] = []  # the first config of each group
    groups = []
    for config in configs:
        fitting = [
            group
            for group, representative in enumerate(representatives)
            if _differ_in_seed_only(representative, config)
        ]
        if not fitting:
            fitting = [len(representatives)]
            representatives.append(config)
        groups.append(fitting[0])
    return groups


def _differ_in_seed_only(first: Config, second: Config) -> bool:
    return all(difference.key in SEED_KEYS for difference in diff_configs(first, second))


def run_facts(run: ComparedRun) -> RunFacts:
    """Return the facts about a run."""
    history = run.history
    parameters = history.start.get("num_parameters")
    updates = history.lines[-1].get("step") if history.lines else None
    seconds = history.elapsed_seconds
    return RunFacts(
        seed=str(run.config.train.seed),
        parameters="" if parameters is None else f"{parameters:,}",
        updates="" if updates is None else f"{updates:,}",
        duration="" if seconds is None else format_duration(seconds),
        device=f"{run.config.train.device}, {run.config.train.precision}",
    )
