"""Advice after a training, from its translations of an evaluation set and their scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mt.advice.advice import Advice
from mt.evaluation.analysis import words_and_punctuation
from mt.evaluation.metrics import Score

# Fewer sentences say little about how often something happens.
MIN_SENTENCES_FOR_ADVICE = 50

# Names and numbers are copied rightly; such lines do not count. One line in 50 is more than the
# odd sentence without a translation.
MAX_COPIED_FRACTION = 0.02

# A trained model repeats itself in fewer than one line in 100.
MAX_FAULTY_FRACTION = 0.02

# A phrase of up to so many words, so often in a row, is a repetition, if the reference has none.
MAX_PHRASE_WORDS = 4
MIN_REPEATS = 3

# Different sources with one translation are usual for paraphrases, but not for a tenth of a set.
MAX_SAME_FRACTION = 0.1

# BLEU was 0.28 of chrF for the weakest runs of RECORDS.md (6 and 22), and 0.5 to 0.75 for trained
# ones. Below chrF 30, BLEU is near 0 for all models early in training.
MIN_CHRF = 30.0
MIN_BLEU_OF_CHRF = 0.2


@dataclass(frozen=True)
class OutputCounts:
    """How many translations of a set have a fault that can be seen without reading them."""

    num_sentences: int
    num_empty: int  # though the source is not
    num_copied: int  # equal to the source, and not to the reference
    num_repetitive: int  # with a repetition that the reference lacks
    num_same: int  # equal to the most frequent translation, of different sources


def count_outputs(sources: Sequence[str], hyps: Sequence[str], refs: Sequence[str]) -> OutputCounts:
    """Count the faults in the translations of an evaluation set."""
    num_empty = 0
    num_copied = 0
    num_repetitive = 0
    distinct_pairs = set()
    for source, hyp, ref in zip(sources, hyps, refs, strict=True):
        source = source.strip()
        hyp = hyp.strip()
        ref = ref.strip()
        if source and not hyp:
            num_empty += 1
        if hyp and hyp == source and hyp != ref:
            num_copied += 1
        if has_repetition(hyp) and not has_repetition(ref):
            num_repetitive += 1
        if hyp:
            distinct_pairs.add((source, hyp))
    times = Counter(hyp for _, hyp in distinct_pairs)
    return OutputCounts(
        num_sentences=len(hyps),
        num_empty=num_empty,
        num_copied=num_copied,
        num_repetitive=num_repetitive,
        num_same=max(times.values(), default=0),
    )


def has_repetition(text: str) -> bool:
    """Return whether a phrase stands several times in a row."""
    words = [word for word in words_and_punctuation(text) if word[0].isalnum()]
    for length in range(1, MAX_PHRASE_WORDS + 1):
        num_equal = 0  # words in a row that equal the word `length` before them
        for word, earlier in zip(words[length:], words, strict=False):
            num_equal = num_equal + 1 if word == earlier else 0
            if num_equal >= (MIN_REPEATS - 1) * length:
                return True
    return False


# Rules


def advise_on_same_outputs(counts: OutputCounts) -> Advice | None:
    """Return advice if many sources have the same translation, else None."""
    if not _is_frequent(counts.num_same, counts, MAX_SAME_FRACTION):
        return None
    observation = (
        f"{counts.num_same:,} of {counts.num_sentences:,} sources have the same translation: the "
        "model does not use the source yet."
    )
    remedy = "Check that the files are aligned (mt check). If they are, halve train.learning_rate."
    return Advice("Same outputs", observation, remedy, {"train.learning_rate": -1})


def advise_on_copied_outputs(counts: OutputCounts) -> Advice | None:
    """Return advice if translations are copies of their sources, else None."""
    if not _is_frequent(counts.num_copied, counts, MAX_COPIED_FRACTION):
        return None
    observation = (
        f"{counts.num_copied:,} of {counts.num_sentences:,} translations are copies of the source."
    )
    remedy = (
        "Remove pairs from data.train whose target is the source or is not translated; mt check "
        "counts them."
    )
    return Advice("Copies", observation, remedy)


def advise_on_faulty_outputs(counts: OutputCounts, *, limits: Mapping[str, float]) -> Advice | None:
    """Return advice if translations are empty or repeat a phrase again and again, else None.

    `limits` are those that end the run, by key of the config.
    """
    num_faulty = counts.num_empty + counts.num_repetitive
    if not _is_frequent(num_faulty, counts, MAX_FAULTY_FRACTION):
        return None
    observation = (
        f"Faults in {counts.num_sentences:,} translations: {counts.num_empty:,} empty, "
        f"{counts.num_repetitive:,} with a repeated phrase. The model is not trained enough, or "
        "its training text is of another kind."
    )
    remedy = f"Raise {' and '.join(limits)}, and add text of this kind to data.train."
    return Advice("Repetitions", observation, remedy, dict.fromkeys(limits, 1))


def advise_on_scores(bleu: Score, chrf: Score) -> Advice | None:
    """Return advice if BLEU is far below what is usual for a chrF, else None.

    This shows that words are counted in an unsuitable way.
    """
    if chrf.value < MIN_CHRF or bleu.value >= MIN_BLEU_OF_CHRF * chrf.value:
        return None
    observation = (
        f"BLEU {bleu.value:.1f} is low for chrF {chrf.value:.1f}: the characters are right more "
        f"often than the words. BLEU's settings are {bleu.signature}."
    )
    remedy = (
        "Compare a few translations with their references. If they differ in spaces, punctuation "
        "or case, give plain text as people write it, or set evaluation.tokenize. In a language "
        "with long words this ratio is usual: trust chrF there."
    )
    return Advice("BLEU and chrF", observation, remedy)


def _is_frequent(number: int, counts: OutputCounts, max_fraction: float) -> bool:
    """Return whether more than a fraction of enough sentences are of one kind."""
    return (
        counts.num_sentences >= MIN_SENTENCES_FOR_ADVICE
        and number > max_fraction * counts.num_sentences
    )
