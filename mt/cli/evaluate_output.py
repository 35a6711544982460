"""Output formats of the command `mt evaluate`."""

import json
from collections.abc import Sequence
from typing import Any

from mt.cli.logs import escape_control_chars
from mt.evaluation.evaluate import SetScores


def as_text(results: Sequence[SetScores]) -> str:
    """Return a line for each score: set, metric, value and signature."""
    names = [escape_control_chars(result.name) for result in results]
    width = max(len(name) for name in names)
    lines = []
    for name, result in zip(names, results, strict=True):
        for score in result.scores:
            line = f"{name:<{width}}  {score.name:<4}  {score.value:6.2f}  {score.signature}"
            lines.append(line)
    return "\n".join(lines)


def as_json(results: Sequence[SetScores]) -> str:
    """Return one JSON object: sets by name, and in each set its scores by metric in full."""
    sets: dict[str, dict[str, Any]] = {}
    for result in results:
        sets[result.name] = {"num_lines": result.num_lines}
        for score in result.scores:
            sets[result.name][score.name] = {"score": score.value, "signature": score.signature}
    return json.dumps(sets, indent=2)
