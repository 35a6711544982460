"""Output formats of the command `mt evaluate`."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mt.cli.logs import escape_control_chars
from mt.evaluation.by_length import LengthScores
from mt.evaluation.evaluate import SetScores, TranslatedSet
from mt.evaluation.metrics import Score, Scoring
from mt.evaluation.per_sentence import SentenceScorer
from mt.evaluation.significance import PairedScores
from mt.wording import count_of


class SetComparison(NamedTuple):
    """A set with the scores of several systems, the baseline first."""

    name: str
    num_lines: int
    systems: list[str]
    scores: list[PairedScores]  # one for each metric


class SystemLengths(NamedTuple):
    """The scores of one system on one set by source length."""

    set_name: str
    system: str
    lengths: LengthScores


def as_text(results: Sequence[SetScores]) -> str:
    """Return a line for each score: set, metric, value and signature."""
    names = [escape_control_chars(result.name) for result in results]
    name_width = max(len(name) for name in names)
    metric_width = max([4, *(len(score.name) for item in results for score in item.scores)])
    lines = []
    for name, result in zip(names, results, strict=True):
        for score in result.scores:
            metric = f"{score.name:<{metric_width}}"
            line = f"{name:<{name_width}}  {metric}  {score.value:6.2f}  {score.signature}"
            lines.append(line)
    return "\n".join(lines)


def as_json(results: Sequence[SetScores], lengths: Sequence[SystemLengths] = ()) -> str:
    """Return one JSON object: sets by name, and in each set its scores by metric in full."""
    sets: dict[str, dict[str, Any]] = {}
    for result in results:
        sets[result.name] = {"num_lines": result.num_lines}
        for score in result.scores:
            sets[result.name][score.name] = {"score": score.value, "signature": score.signature}
    for item in lengths:
        sets[item.set_name]["by_length"] = _length_values(item.lengths)
    return json.dumps(sets, indent=2)


def comparison_as_text(results: Sequence[SetComparison]) -> str:
    """Return a table for each set: metric, system, value, interval and p-values.

    The signatures of the bootstrap and of the randomization follow.
    """
    lines = []
    for result in results:
        lines.append(f"{escape_control_chars(result.name)}: {count_of(result.num_lines, 'line')}")
        systems = [escape_control_chars(name) for name in result.systems]
        width = max(len("system"), *(len(name) for name in systems))
        lines.append(f"metric  {'system':<{width}}   score  95 % interval    p (bs)  p (ar)")
        for scores in result.scores:
            for system, compared in zip(systems, scores.systems, strict=True):
                score = compared.score
                line = f"{scores.metric:<6}  {system:<{width}}  {score.value:6.2f}"
                line += f"  {_format_interval(score):<15}"
                for p in (compared.bootstrap_p, compared.randomization_p):
                    line += "        " if p is None else f"  {p:6.4f}"
                lines.append(line.rstrip())
        lines.append("")
    baseline = escape_control_chars(results[0].systems[0])
    lines.append(
        f"p: the probability of a difference from {baseline} at least this large if both systems "
        "were equally good"
    )
    signatures = []
    for result in results:
        for scores in result.scores:
            signatures.append(f"{scores.metric} (bs)|{scores.bootstrap_signature}")
            signatures.append(f"{scores.metric} (ar)|{scores.randomization_signature}")
    lines += dict.fromkeys(signatures)  # each once
    return "\n".join(lines)


def comparison_as_json(
    results: Sequence[SetComparison], lengths: Sequence[SystemLengths] = ()
) -> str:
    """Return one JSON object: sets by name; in each the systems with their scores in full."""
    sets: dict[str, dict[str, Any]] = {}
    for result in results:
        systems: list[dict[str, Any]] = [{"system": name} for name in result.systems]
        for scores in result.scores:
            for values, compared in zip(systems, scores.systems, strict=True):
                values[scores.metric] = {
                    "score": compared.score.value,
                    "interval": _interval_or_none(compared.score),
                    "p_bootstrap": compared.bootstrap_p,
                    "p_randomization": compared.randomization_p,
                }
        for item in lengths:
            if item.set_name == result.name:
                index = result.systems.index(item.system)
                systems[index]["by_length"] = _length_values(item.lengths)
        sets[result.name] = {
            "num_lines": result.num_lines,
            "signatures": {
                scores.metric: {
                    "bootstrap": scores.bootstrap_signature,
                    "randomization": scores.randomization_signature,
                }
                for scores in result.scores
            },
            "systems": systems,
        }
    return json.dumps(sets, indent=2)


def lengths_as_text(items: Sequence[SystemLengths]) -> str:
    """Return a table for each set and system: the scores by source length."""
    lines = []
    for item in items:
        name = escape_control_chars(f"{item.set_name}, {item.system}")
        metrics = [score.name for score in item.lengths.buckets[0][1]]
        header = f"{item.lengths.unit:<12}{'lines':>7}"
        lines += ["", name, header + "".join(f"{metric:>8}" for metric in metrics)]
        for bucket, scores in item.lengths.buckets:
            values = "".join(f"{score.value:8.2f}" for score in scores)
            lines.append(f"{bucket.label:<12}{len(bucket.indices):>7,}{values}")
    return "\n".join(lines)


def sentences_as_jsonl(
    sets: Sequence[TranslatedSet], scorers: Mapping[Scoring, SentenceScorer]
) -> Iterator[str]:
    """Yield a JSON object for each line of each set and each system."""
    for item in sets:
        eval_set = item.eval_set
        scorer = scorers[item.scoring]
        for index, src in enumerate(eval_set.src):
            refs = [lines[index] for lines in eval_set.refs]
            for output in item.outputs:
                hyp = output.lines[index]
                scores = scorer.score(hyp, refs)
                values = {
                    "set": eval_set.name,
                    "index": index,
                    "system": output.system,
                    "src": src if item.has_sources else None,
                    "refs": refs,
                    "hyp": hyp,
                    "BLEU": scores.bleu,
                    "chrF": scores.chrf,
                }
                yield json.dumps(values, ensure_ascii=False)


def _length_values(lengths: LengthScores) -> dict[str, Any]:
    buckets = []
    for bucket, scores in lengths.buckets:
        values: dict[str, Any] = {"length": bucket.label, "num_lines": len(bucket.indices)}
        for score in scores:
            values[score.name] = score.value
        buckets.append(values)
    return {"unit": lengths.unit, "buckets": buckets}


def _interval_or_none(score: Score) -> tuple[float, float] | None:
    return None if math.isnan(score.half_width) else score.interval


def _format_interval(score: Score) -> str:
    """Return both ends of the interval, or nothing for a set that is too small."""
    if math.isnan(score.half_width):
        return ""
    low, high = score.interval
    return f"{low:.2f} – {high:.2f}"
