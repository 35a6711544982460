"""What the history of a training run lacks, its curves, and how its sample translations changed."""

from typing import NamedTuple

from mt.advice.curves import RunCurves, TrainPoint, ValidationPoint
from mt.config.schema import Config
from mt.evaluation.analysis import sentence_chrf
from mt.training.metrics_log import MetricsHistory
from mt.wording import count_of


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
    if history.num_unreadable > 0:
        missing.append(
            f"{file_name}: {count_of(history.num_unreadable, 'line')} cannot be read;"
            " if training is running, the last one may be incomplete."
        )
    if history.lines and not history.start and not history.train:
        missing.append(
            f"{file_name} has only the scores of the exported model: its losses are in the "
            "run from which it was exported."
        )
        return missing
    if not history.train:
        missing.append("No update has been logged yet.")
    if not history.valid:
        missing.append("There has been no validation yet.")
    return missing


def read_curves(history: MetricsHistory, config: Config) -> RunCurves:
    """Return the numbers of a run over time, for the advice about it."""
    train_points = [
        TrainPoint(line["step"], line["nll"], line["lr"])
        for line in history.train
        if line.get("nll") is not None and line.get("lr") is not None
    ]
    validations = []
    for line in history.valid:
        if line.get("loss") is not None:
            bleu = line.get("BLEU") or 0.0
            is_best = line.get("is_best", False)
            validations.append(ValidationPoint(line["step"], line["loss"], bleu, is_best))
    limits = {}
    for key in ("max_steps", "max_epochs", "max_minutes"):
        value = getattr(config.train, key)
        if value is not None:
            limits[f"train.{key}"] = value
    return RunCurves(
        train=train_points,
        validations=validations,
        num_skipped=max((line.get("num_skipped", 0) for line in history.train), default=0),
        dropout=config.model.dropout,
        bpe_dropout=config.tokenizer.bpe_dropout,
        limits=limits,
    )


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
