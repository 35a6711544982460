"""Compare variants of a training at equal processor time, on a machine that others use too.

    python -m scripts.recipes.speedrun_try --minutes 10 --jobs 2 \\
        --variant lr2 train.learning_rate=2e-3 \\
        --variant swiglu model.activation=swiglu model.d_ff=688

Each variant is the config with other values; the config itself is the variant `plain`. Steps:

1. Measure the time of an update of each variant from two short runs, one variant after the other.
   The number of updates of a variant is what fits into the minutes of processor time.
2. Train the variants, each on one thread, as many at once as --jobs says. Their validations are of
   a few lines and do not count.
3. Translate the validation set with the last checkpoint of each variant, by greedy search.
4. Compare the translations with those of `plain` by `mt evaluate`: scores with intervals, and the
   p-values of a paired bootstrap and of an approximate randomization.

What is finished is kept in --out, and is not done again when the same command is repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mt.config.load import load_config
from mt.errors import MtError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/recipes/speedrun.yaml"
BASELINE = "plain"
SHORT_RUNS = (30, 130)  # updates; the first ones are slower and cancel out in the difference
NUM_VALID_LINES = 2  # of the validations while a variant trains, so that they cost little


@dataclass(frozen=True)
class Variant:
    """A config with some other values."""

    name: str
    overrides: tuple[str, ...]  # each is KEY=VALUE


class TryError(Exception):
    """The variants cannot be compared. The message is one line."""


@dataclass(frozen=True)
class Trial:
    """The files of one variant, and what is done with them."""

    variant: Variant
    config: Path
    out: Path
    minutes: float  # of processor time

    @property
    def run_dir(self) -> Path:
        return self.out / f"{self.variant.name}-{self.minutes:g}"

    @property
    def hypotheses(self) -> Path:
        return self.out / f"{self.variant.name}-{self.minutes:g}.hyp"

    def seconds_per_update(self) -> float:
        """Return the processor time of an update, measured once."""
        path = self.out / f"{self.variant.name}.speed.json"
        if not path.exists():
            few, many = SHORT_RUNS
            seconds = (self._short_run(many) - self._short_run(few)) / (many - few)
            if seconds <= 0.0:
                raise TryError(f"{self.variant.name}: its updates are too quick to be measured")
            path.write_text(json.dumps(seconds), encoding="utf-8")
        return float(json.loads(path.read_text(encoding="utf-8")))

    def _short_run(self, num_updates: int) -> float:
        """Train for some updates and return the processor time, in seconds."""
        command = self._train_command(self.out / f"{self.variant.name}.short", num_updates)
        return self._mt([*command, "--fresh"])

    def train(self, num_updates: int) -> None:
        """Train for this number of updates. An interrupted training continues."""
        self._mt(self._train_command(self.run_dir, num_updates))

    def _train_command(self, run_dir: Path, num_updates: int) -> list[str]:
        values = [
            *self.variant.overrides,
            f"train.max_steps={num_updates}",
            f"train.validate_every={num_updates}",
            f"data.valid.prefix={self.out / 'short'}",
        ]
        command = ["train", str(self.config), "--run-dir", str(run_dir)]
        for value in values:
            command += ["--set", value]
        return command

    def translate(self, source: Path) -> None:
        """Translate the validation set by greedy search, once."""
        if not self.hypotheses.exists():
            command = ["translate", str(self.run_dir), "--checkpoint", "last", "--beam-size", "1"]
            self._mt([*command, "-i", str(source), "-o", str(self.hypotheses)])

    def _mt(self, command: Sequence[str]) -> float:
        """Run a command of mt on one thread and return its processor time, in seconds."""
        log = self.out / f"{self.variant.name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "mt", *command],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
            # Unlike RUSAGE_CHILDREN, this is the time of this process alone.
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise TryError(f"mt {command[0]} failed: its messages are in {log}")
        return usage.ru_utime + usage.ru_stime


def num_updates_in(minutes: float, seconds_per_update: float) -> int:
    """Return how many updates fit into the minutes, at least one."""
    return max(1, round(60.0 * minutes / seconds_per_update))


def parse_variants(lists: Sequence[Sequence[str]]) -> list[Variant]:
    """Return the plain variant and those of the options. Raises TryError for a bad one."""
    variants = [Variant(BASELINE, ())]
    for name, *overrides in lists:
        if not overrides or "=" in name or any("=" not in value for value in overrides):
            raise TryError(f"--variant {name}: wanted a name, and then KEY=VALUE one or more times")
        if name in [variant.name for variant in variants]:
            raise TryError(f"--variant {name}: wanted a name of its own")
        variants.append(Variant(name, tuple(overrides)))
    return variants


def write_short_valid(prefix: Path, out: Path, languages: Sequence[str]) -> None:
    """Write the first lines of the validation set, for the validations while a variant trains."""
    for lang in languages:
        lines = Path(f"{prefix}.{lang}").read_text(encoding="utf-8").split("\n")
        text = "\n".join(lines[:NUM_VALID_LINES]) + "\n"
        (out / f"short.{lang}").write_text(text, encoding="utf-8")


def run_trials(trials: Sequence[Trial], *, jobs: int, source: Path) -> None:
    """Measure the variants one after the other, then train and translate some at once."""
    num_updates = []
    for trial in trials:
        seconds = trial.seconds_per_update()
        num_updates.append(num_updates_in(trial.minutes, seconds))
        name_and_values = " ".join([trial.variant.name, *trial.variant.overrides])
        print(
            f"{name_and_values}: {seconds:.3f} s an update, {num_updates[-1]:,} updates", flush=True
        )

    def train_and_translate(trial: Trial, num_updates: int) -> None:
        trial.train(num_updates)
        trial.translate(source)

    with ThreadPoolExecutor(jobs) as executor:
        list(executor.map(train_and_translate, trials, num_updates))


def print_scores(trials: Sequence[Trial], reference: Path, lang: str) -> None:
    """Print the table of `mt evaluate`, in which the first variant is the baseline."""
    command = [sys.executable, "-m", "mt", "evaluate", "--ref", str(reference), "--lang", lang]
    for trial in trials:
        command += ["--hyp", str(trial.hypotheses)]
    subprocess.run([*command, "--metric", "bleu", "--metric", "chrf"], check=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--minutes", type=float, required=True, help="processor time of each")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once  [default: 1]")
    parser.add_argument(
        "--variant", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE")
    )
    parser.add_argument("--out", type=Path, default=Path("runs/speedrun_try"))
    options = parser.parse_args(arguments)

    try:
        variants = parse_variants(options.variant)
        for variant in variants:
            data = load_config(options.config, variant.overrides).data
        if len(data.valid) != 1 or data.valid[0].prefix is None:
            raise TryError(f"{options.config}: data.valid: wanted one set with a prefix")
        prefix = Path(data.valid[0].prefix)
        options.out.mkdir(parents=True, exist_ok=True)
        write_short_valid(prefix, options.out, (data.src_lang, data.tgt_lang))
        trials = [
            Trial(variant, options.config, options.out, options.minutes) for variant in variants
        ]
        source = Path(f"{prefix}.{data.src_lang}")
        run_trials(trials, jobs=options.jobs, source=source)
    except (TryError, MtError, OSError) as error:
        print(f"speedrun_try: {error}", file=sys.stderr)
        return 1
    print_scores(trials, Path(f"{prefix}.{data.tgt_lang}"), data.tgt_lang)
    return 0


if __name__ == "__main__":
    sys.exit(main())
