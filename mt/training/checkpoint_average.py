"""The average of a run's checkpoints, for `mt average`."""

from mt.errors import CheckpointError
from mt.experiment import Experiment
from mt.storage.checkpoint import average_weights, checkpoints_newest_first, step_name
from mt.training.metrics_log import read_metrics_log

OUTPUT_NAME = "average"  # beside the checkpoints that training makes


def average_checkpoints(experiment: Experiment, *, count: int, by_score: bool) -> list[str]:
    """Average `count` checkpoints of a run into the checkpoint `average`; return their names.

    They are the newest ones, or with `by_score` those with the best validations. Raises
    CheckpointError when there are fewer, DiskError when the average cannot be written.
    """
    checkpoints_dir = experiment.run_dir.checkpoints_dir
    directories = checkpoints_newest_first(checkpoints_dir)
    if by_score and experiment.config.train.ema_decay > 0.0:
        raise CheckpointError(
            "--best compares scores of moving averages (train.ema_decay), but the weights "
            "themselves are averaged: wanted --last"
        )
    if by_score:
        scores = _validation_scores(experiment)
        directories = [directory for directory in directories if directory.name in scores]
        directories.sort(key=lambda directory: scores[directory.name], reverse=True)
    if len(directories) < count:
        kind = "checkpoints with a validation" if by_score else "checkpoints"
        raise CheckpointError(
            f"{checkpoints_dir}: wanted {count} {kind}, found {len(directories)} "
            "(train.keep_checkpoints says how many are kept)"
        )
    chosen = directories[:count]
    average_weights(chosen, checkpoints_dir / OUTPUT_NAME)
    return [directory.name for directory in chosen]


def _validation_scores(experiment: Experiment) -> dict[str, tuple[float, float]]:
    """Return what selects the best checkpoint, by the name of the checkpoint; higher is better.

    This is the value of `train.metric`, and the loss for equal values.
    """
    metric = experiment.config.train.metric
    scores = {}
    for line in read_metrics_log(experiment.run_dir.metrics_path).valid:
        values = {key.lower(): value for key, value in line.items()}
        loss = values.get("loss")
        score = values.get(metric)
        if loss is None or score is None:  # it was not finite
            continue
        sign = -1 if metric == "loss" else 1
        scores[step_name(line["step"])] = (sign * score, -loss)
    return scores
