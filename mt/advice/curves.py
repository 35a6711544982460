"""Advice after a training, from its curves: losses, scores and learning rate over the updates.

Losses are in nats a target token. Each rule is a function of the curves. The thresholds come from
the runs in RECORDS.md and docs/log.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mt.advice.advice import Advice

# Fewer validations make no curve.
MIN_VALIDATIONS = 3

# Three seeds of one config ended with validation losses of 2.228, 2.275 and 2.243 (docs/log.md).
# Within a run the loss varies less. So a fall of 0.02 nats, 2 % of the perplexity, is real, and a
# rise of 0.05 nats is more than chance.
MIN_LOSS_FALL = 0.02
MIN_LOSS_RISE = 0.05

# Seeds of one config differed by up to 1.1 BLEU (RECORDS.md), so less than one point says nothing.
MIN_BLEU_RISE = 1.0

# The fraction of the run, at its end, in which a validation curve should have become flat.
LAST_FRACTION = 0.25

# The fraction of a run over which its training loss is averaged, because single values vary.
TRAIN_WINDOW = 0.1

# Training that works never loses so much of what it had learned.
MIN_TRAIN_LOSS_RISE = 0.3

# A run that learns, but is too short, lowers its loss by more than this in its second half: on 500
# pairs of Multi30k by 1.1 nats, up to a BLEU of 3.5. A learning rate that was 25 times too high
# gave 0.3 nats. With less, and a BLEU below 3, the model knows frequent words only.
MIN_SECOND_HALF_FALL = 0.4
FAILED_BLEU = 3.0

# Where the learning rate was still at 0.17 of its peak, BLEU was within 3 % of its final value; at
# 0.56 it was 7 to 13 % below.
MAX_FINAL_RATE = 0.25

# Loss scaling in fp16 skips a few updates at the start and about one in 2,000 later.
MAX_SKIPPED_FRACTION = 0.01

# Dropout makes the training loss higher than that of the same model in validation. With a dropout
# of 0.1 the difference was at most 0.1. With 0.2 and BPE-dropout it was 0.4 to 0.6, in runs of
# minutes that would have learned more without (RECORDS.md, "Batches and averages at equal time").
MAX_DROPOUT_LOSS = 0.3

# A run with the small config of docs/recipes.md, on 17,665 pairs, ended with 1.0. This is usual for
# little text.
MAX_GAP = 1.5

# More dropout is rare; fairseq's recipe for IWSLT14, 160,000 pairs, has this much.
LARGEST_DROPOUT = 0.3
DROPOUT_STEP = 0.1

# A rise of the validation loss for which one step of dropout is too little: half a nat raises the
# perplexity by 65 %.
LARGE_LOSS_RISE = 0.5


class TrainPoint(NamedTuple):
    """Training loss and learning rate at one update."""

    step: int
    nll: float  # with dropout, without label smoothing
    learning_rate: float


class ValidationPoint(NamedTuple):
    """The result of one validation."""

    step: int
    loss: float
    bleu: float
    is_best: bool  # better than all before it, by the metric of the config


@dataclass(frozen=True)
class RunCurves:
    """The history of a run in numbers, with the settings that change how to read it.

    Points whose numbers are missing or not finite are left out.
    """

    train: Sequence[TrainPoint]
    validations: Sequence[ValidationPoint]
    num_skipped: int  # updates
    dropout: float
    bpe_dropout: float
    # The limits of the config by key, such as {"train.max_steps": 2000}.
    limits: Mapping[str, float]

    @property
    def is_enough(self) -> bool:
        """Whether there are enough points to judge."""
        has_points = len(self.validations) >= MIN_VALIDATIONS and len(self.train) > 0
        return has_points and self.last_step > 0

    @property
    def last_step(self) -> int:
        """The last update with a record."""
        return max(self.train[-1].step, self.validations[-1].step)

    def train_loss(self, step: int) -> float:
        """Return the mean training loss of a tenth of the run, which ends with `step`."""
        start = step - TRAIN_WINDOW * self.last_step
        losses = [point.nll for point in self.train if start < point.step <= step]
        if not losses:
            nearest = min(self.train, key=lambda point: abs(point.step - step))
            return nearest.nll
        return sum(losses) / len(losses)

    def at_fraction(self, fraction: float) -> ValidationPoint:
        """Return loss and BLEU after a fraction of the run, interpolated between validations."""
        step = round(fraction * self.validations[-1].step)
        later_index = next(
            index for index, point in enumerate(self.validations) if point.step >= step
        )
        later = self.validations[later_index]
        earlier = self.validations[max(0, later_index - 1)]
        if later.step == earlier.step:
            return later
        weight = (step - earlier.step) / (later.step - earlier.step)
        loss = (1 - weight) * earlier.loss + weight * later.loss
        bleu = (1 - weight) * earlier.bleu + weight * later.bleu
        return ValidationPoint(step, loss, bleu, is_best=False)


# Rules. All of them expect curves with `is_enough`.


def advise_on_skipped_updates(curves: RunCurves) -> Advice | None:
    """Return advice if many updates had gradients that were not finite, else None."""
    fraction = curves.num_skipped / curves.last_step
    if fraction <= MAX_SKIPPED_FRACTION:
        return None
    observation = (
        f"{curves.num_skipped:,} of {curves.last_step:,} updates were skipped, "
        "because their gradients were not finite."
    )
    remedy = "Halve train.learning_rate. In fp16, try train.precision: bf16 or fp32."
    return Advice("Skipped updates", observation, remedy, {"train.learning_rate": -1})


def advise_on_diverged_training(curves: RunCurves) -> Advice | None:
    """Return advice if the training loss rose, else None."""
    losses = [curves.train_loss(point.step) for point in curves.validations]
    rise = losses[-1] - min(losses)
    if rise < MIN_TRAIN_LOSS_RISE:
        return None
    observation = f"The training loss rose by {rise:.2f} nats after its best time."
    remedy = "Halve train.learning_rate, and keep train.clip_norm at 1."
    return Advice("Learning rate", observation, remedy, {"train.learning_rate": -1})


def advise_on_failed_training(curves: RunCurves) -> Advice | None:
    """Return advice if the model stopped learning before it had learned anything, else None."""
    last = curves.validations[-1]
    fall = curves.at_fraction(0.5).loss - last.loss
    best_bleu = max(point.bleu for point in curves.validations)
    if best_bleu >= FAILED_BLEU or abs(fall) >= MIN_SECOND_HALF_FALL:
        return None
    observation = (
        f"BLEU is {last.bleu:.1f}, and the validation loss changed by only {abs(fall):.2f} nats in "
        "the second half of the run: the model does not learn to translate."
    )
    remedy = (
        "Take a quarter of train.learning_rate. If that does not help, look for lines that are "
        "out of step (mt check)."
    )
    changes = {"train.learning_rate": -1, **dict.fromkeys(curves.limits, -1)}
    return Advice("Learning rate", observation, remedy, changes)


def advise_on_overfitting(curves: RunCurves) -> Advice | None:
    """Return advice if the validation loss rose while the training loss fell, else None."""
    best = min(curves.validations, key=lambda point: point.loss)
    last = curves.validations[-1]
    rise = last.loss - best.loss
    train_fall = curves.train_loss(best.step) - curves.train_loss(last.step)
    if rise < MIN_LOSS_RISE or train_fall < MIN_LOSS_FALL:
        return None
    observation = (
        f"From update {best.step:,} on, the validation loss rose by {rise:.2f} nats while the "
        f"training loss fell by {train_fall:.2f}: the model memorizes the training text."
    )
    changes = {"model.dropout": 1, "model.d_model": -1}
    if curves.dropout < LARGEST_DROPOUT:
        step = LARGEST_DROPOUT if rise >= LARGE_LOSS_RISE else DROPOUT_STEP
        dropout = min(LARGEST_DROPOUT, curves.dropout + step)
        remedy = f"Raise model.dropout to {dropout:.1f}, or take a smaller model (model.d_model)."
    elif curves.bpe_dropout == 0:
        remedy = "Set tokenizer.bpe_dropout to 0.1, or take a smaller model (model.d_model)."
        changes["tokenizer.bpe_dropout"] = 1
    else:
        remedy = "Take a smaller model (model.d_model), or find more text."
    best_bleu = max(curves.validations, key=lambda point: point.bleu)
    if best_bleu.step < last.step:
        remedy += " A run with train.patience: 5 stops when nothing improves any more."
    changes.update(dict.fromkeys(curves.limits, -1))
    return Advice("Overfitting", observation, remedy, changes)


def advise_on_first_best(curves: RunCurves) -> Advice | None:
    """Return advice if no validation was better than the first, else None."""
    if any(point.is_best for point in curves.validations[1:]):
        return None
    first = curves.validations[0]
    observation = (
        f"The first of {len(curves.validations):,} validations, after {first.step:,} updates, gave "
        "the best checkpoint."
    )
    remedy = "Validate earlier (a lower train.validate_every), and try half of train.learning_rate."
    changes = {"train.validate_every": -1, "train.learning_rate": -1}
    return Advice("Best at first", observation, remedy, changes)


def advise_on_longer_training(curves: RunCurves) -> Advice | None:
    """Return advice if the validation still improved at the end of the run, else None."""
    before = curves.at_fraction(1 - LAST_FRACTION)
    last = curves.validations[-1]
    fall = before.loss - last.loss
    rise = last.bleu - before.bleu
    if fall >= MIN_LOSS_FALL:
        observation = f"The validation loss still fell by {fall:.2f} nats"
    elif rise >= MIN_BLEU_RISE and fall > -MIN_LOSS_RISE:
        observation = f"BLEU on the validation set still rose by {rise:.1f}"
    else:
        return None
    observation += " in the last quarter of the run."
    keys = " and ".join(curves.limits)
    remedy = f"Train longer: raise {keys}. Twice as long is a good next step."
    return Advice("Longer training", observation, remedy, dict.fromkeys(curves.limits, 1))


def advise_on_final_rate(curves: RunCurves) -> Advice | None:
    """Return advice if the learning rate was still high at the end, else None."""
    final_rate = curves.train[-1].learning_rate
    peak = max(point.learning_rate for point in curves.train)
    if final_rate <= MAX_FINAL_RATE * peak:
        return None
    observation = (
        f"At the end the learning rate was still {100 * final_rate / peak:.0f} % of its peak. "
        "Most models gain when it falls to zero."
    )
    remedy = (
        "If the run was interrupted, resume it with the same command, up to its end. If "
        "train.patience ended it, set a limit near the best update instead. Otherwise raise "
        "train.cooldown_fraction."
    )
    return Advice("Learning rate", observation, remedy)


def advise_on_less_dropout(curves: RunCurves) -> Advice | None:
    """Return advice if dropout keeps the training loss well above that of validation, else None."""
    last = curves.validations[-1]
    difference = curves.train_loss(last.step) - last.loss
    if difference < MAX_DROPOUT_LOSS or curves.dropout + curves.bpe_dropout == 0:
        return None
    observation = (
        f"The training loss, which is measured with dropout, is {difference:.2f} nats above the "
        "validation loss: the model is too small, or dropout too high."
    )
    changes = {"model.d_model": 1}
    if curves.bpe_dropout > 0:
        remedy = "Set tokenizer.bpe_dropout to 0"
        changes["tokenizer.bpe_dropout"] = -1
    else:
        remedy = f"Lower model.dropout, which is {curves.dropout:g}"
        changes["model.dropout"] = -1
    remedy += ", or take a larger model (model.d_model)."
    return Advice("Less dropout", observation, remedy, changes)


def advise_on_more_text(curves: RunCurves) -> Advice | None:
    """Return advice if the model knows its training text much better than other text, else None."""
    last = curves.validations[-1]
    gap = last.loss - curves.train_loss(last.step)
    if gap < MAX_GAP:
        return None
    observation = (
        f"The validation loss is {gap:.2f} nats above the training loss: there is too little text, "
        "or the validation text is of another kind."
    )
    remedy = "Add text of the same kind to data.train."
    return Advice("More text", observation, remedy)
