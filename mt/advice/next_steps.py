"""What to try next after a training: the most important advice that does not contradict itself."""

from collections.abc import Iterable

from mt.advice.advice import Advice, drop_none
from mt.advice.curves import (
    RunCurves,
    advise_on_diverged_training,
    advise_on_failed_training,
    advise_on_final_rate,
    advise_on_first_best,
    advise_on_less_dropout,
    advise_on_longer_training,
    advise_on_more_text,
    advise_on_overfitting,
    advise_on_skipped_updates,
)
from mt.advice.outputs import (
    OutputCounts,
    advise_on_copied_outputs,
    advise_on_faulty_outputs,
    advise_on_same_outputs,
    advise_on_scores,
)
from mt.evaluation.metrics import Score

MAX_STEPS = 3  # with more changes at once, nobody knows which one helped


def suggest_next_steps(
    curves: RunCurves,
    outputs: OutputCounts | None,
    *,
    bleu: Score | None,
    chrf: Score | None,
) -> list[Advice]:
    """Return up to three pieces of advice, or none if nothing stands out.

    What explains the rest comes first: training that failed, then text that misleads, then a model
    that does not fit the text, then a run that could go on. `curves` must have `is_enough`.
    """
    found = [
        advise_on_skipped_updates(curves),
        advise_on_diverged_training(curves),
        advise_on_failed_training(curves),
    ]
    if outputs is not None:
        found += [advise_on_same_outputs(outputs), advise_on_copied_outputs(outputs)]
    found += [
        advise_on_overfitting(curves),
        advise_on_first_best(curves),
        advise_on_longer_training(curves),
        advise_on_final_rate(curves),
        advise_on_less_dropout(curves),
        advise_on_more_text(curves),
    ]
    if bleu is not None and chrf is not None:
        found.append(advise_on_scores(bleu, chrf))
    if outputs is not None:
        found.append(advise_on_faulty_outputs(outputs, limits=curves.limits))
    return without_contradictions(drop_none(found))[:MAX_STEPS]


def without_contradictions(advice: Iterable[Advice]) -> list[Advice]:
    """Leave out what contradicts earlier advice, and what repeats it.

    Advice contradicts another if it changes a key in the opposite direction. It repeats others if
    it has the topic of one, or if all of its changes were wanted before.
    """
    kept: list[Advice] = []
    topics: set[str] = set()
    directions: dict[str, int] = {}
    for item in advice:
        is_contrary = any(
            directions.get(key, direction) != direction for key, direction in item.changes.items()
        )
        is_repeated = bool(item.changes) and item.changes.keys() <= directions.keys()
        if is_contrary or is_repeated or item.topic in topics:
            continue
        kept.append(item)
        topics.add(item.topic)
        directions.update(item.changes)
    return kept
