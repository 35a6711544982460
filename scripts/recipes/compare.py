"""Compare the scores of a recipe with those that its header expects; exit code 1 if one is lower.

    mt evaluate RUN_DIR --json >RUN_DIR/scores.json
    python -m scripts.recipes.compare scripts/recipes/NAME RUN_DIR/scores.json ...

The header of a recipe has a line for each score:

    # expected: test_2016_flickr BLEU tok:13a 38.0 ± 0.5
    # expected: test_2016_flickr BLEU tok:none not measured yet

These are the set, the metric, a part of sacreBLEU's signature, and the score with the largest
distance that a seed may have from it. A score by another signature cannot be compared, so the
signature must have this part. If the folder of the first file is that of a run, the time of its
training is printed too.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt.errors import DataError, MtError
from mt.storage.run_dir import RunDir
from mt.training.metrics_log import read_metrics_log

EXPECTED = re.compile(r"^# expected: (\S+) (\S+) (\S+) (.+)$", re.MULTILINE)
VALUE = re.compile(r"(\d+\.\d+) ± (\d+\.\d+)")
NOT_MEASURED = "not measured yet"

Scores = Mapping[str, Mapping[str, Any]]  # what `mt evaluate --json` prints for one system


@dataclass(frozen=True)
class Expectation:
    """A score that a recipe should reach."""

    set_name: str
    metric: str
    signature_part: str
    score: float | None  # None: not measured yet
    spread: float = 0.0  # the largest distance of a seed from the score


@dataclass(frozen=True)
class Comparison:
    """What was found beside what was expected."""

    text: str  # one line
    is_low: bool = False


def read_expectations(recipe: Path) -> list[Expectation]:
    """Return the scores that the header of a recipe expects. Raises DataError."""
    expectations = []
    for line in EXPECTED.finditer(recipe.read_text(encoding="utf-8")):
        set_name, metric, signature_part, rest = line.groups()
        value = VALUE.fullmatch(rest)
        if value is None and rest != NOT_MEASURED:
            raise DataError(
                f"{recipe}: {line[0]}: wanted a score such as 38.0 ± 0.5, or {NOT_MEASURED}"
            )
        score = None if value is None else float(value[1])
        spread = 0.0 if value is None else float(value[2])
        expectations.append(Expectation(set_name, metric, signature_part, score, spread))
    if not expectations:
        raise DataError(f"{recipe}: has no line that begins with '# expected: '")
    return expectations


def compare(expectation: Expectation, scores: Scores) -> Comparison:
    """Compare one score. A score that is higher than expected is no failure."""
    name = f"{expectation.set_name} {expectation.metric} {expectation.signature_part}"
    found = scores.get(expectation.set_name, {}).get(expectation.metric)
    if found is None:
        return Comparison(f"{name}: there is no such score", is_low=True)
    signature = found["signature"]
    if expectation.signature_part not in signature.split("|"):
        return Comparison(f"{name}: cannot be compared with a score by {signature}", is_low=True)
    score = found["score"]
    if expectation.score is None:
        return Comparison(f"{name}: {score:.2f} ({NOT_MEASURED}: nothing is expected)")
    wanted = f"expected {expectation.score} ± {expectation.spread}"
    if not score >= expectation.score - expectation.spread:  # also catches nan
        return Comparison(f"{name}: {score:.2f} is lower than {wanted}", is_low=True)
    if score > expectation.score + expectation.spread:
        return Comparison(f"{name}: {score:.2f} is higher than {wanted}")
    return Comparison(f"{name}: {score:.2f} is as {wanted}")


def training_minutes(run_dir: Path) -> float | None:
    """Return how long a run trained, with validations, in minutes; None if it is no run."""
    lines = read_metrics_log(RunDir(run_dir).metrics_path).lines
    if not lines:
        return None
    seconds: float = lines[-1]["timing"]["elapsed_seconds"]
    return seconds / 60.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("scores", type=Path, nargs="+", help="what mt evaluate --json printed")
    options = parser.parse_args(arguments)

    try:
        scores: dict[str, Mapping[str, Any]] = {}
        for path in options.scores:
            scores |= json.loads(path.read_text(encoding="utf-8"))
        expectations = read_expectations(options.recipe)
    except (MtError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    run_dir = options.scores[0].parent
    minutes = training_minutes(run_dir)
    if minutes is not None:
        print(f"{run_dir}: {minutes:.1f} minutes of training with validations")
    comparisons = [compare(expectation, scores) for expectation in expectations]
    for comparison in comparisons:
        print(comparison.text)
    return 1 if any(comparison.is_low for comparison in comparisons) else 0


if __name__ == "__main__":
    sys.exit(main())
