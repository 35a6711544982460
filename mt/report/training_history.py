"""What the history of a training run lacks, and how its sample translations changed."""

from typing import NamedTuple

from mt.evaluation.analysis import sentence_chrf
from mt.training.metrics_log import MetricsHistory


class SampleVersion(NamedTuple):
    """The translation of a sample sentence, and the validations between which it did not change."""

    first_step: int
    last_step: int
    hyp: str
    chrf: float


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
