"""Tests of p-values: they are those of sacreBLEU's own command."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mt.evaluation import significance
from mt.evaluation.metrics import Scoring
from mt.evaluation.significance import PairedScore, compare_with_baseline

WORDS = ["der", "die", "alte", "rote", "Hund", "Katze", "Haus", "sieht", "kauft", "und", ",", "."]
NUM_LINES = 40
NUM_TRIALS = 200
METRICS = ("bleu", "chrf++", "ter")
# sacreBLEU's command. In sacreBLEU 2.6 its JSON output fails at a number of type float32.
SACREBLEU = """\
import json
from sacrebleu.sacrebleu import main
json.JSONEncoder.default = lambda encoder, number: float(number)
main()
"""


def make_systems() -> tuple[list[list[str]], list[str]]:
    """Return translations of three systems, the second clearly worse than the others, and their
    references.
    """
    draw = random.Random(1)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(4, 15))) for _ in range(NUM_LINES)]
    systems = []
    for error_rate in (0.2, 0.5, 0.21):
        lines = []
        for reference in references:
            words = [
                draw.choice(WORDS) if draw.random() < error_rate else word
                for word in reference.split()
            ]
            lines.append(" ".join(words) + "  ")
        systems.append(lines)
    return systems, references


def results_of_sacrebleu_command(folder: Path, *options: str) -> list[dict[str, Any]]:
    """Return what sacreBLEU's own command finds out about the systems, the baseline first."""
    systems, references = make_systems()
    paths = []
    for number, lines in enumerate([references, *systems]):
        path = folder / f"{number}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        paths.append(str(path))
    command = [sys.executable, "-c", SACREBLEU, paths[0], "-i", *paths[1:], "-f", "json", "-w", "9"]
    command += ["-m", "bleu", "chrf", "ter", "--chrf-word-order", "2", *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return list(json.loads(done.stdout))


@pytest.fixture
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "NUM_RESAMPLES", NUM_TRIALS)
    monkeypatch.setattr(significance, "NUM_TRIALS", NUM_TRIALS)


def test_intervals_and_p_values_equal_those_of_sacrebleu(tmp_path: Path, few_trials: None) -> None:
    systems, references = make_systems()
    compared = compare_with_baseline(systems, [references], metrics=METRICS, scoring=Scoring())
    number = str(NUM_TRIALS)
    bootstrap = results_of_sacrebleu_command(tmp_path, "--paired-bs", "--paired-bs-n", number)
    randomization = results_of_sacrebleu_command(tmp_path, "--paired-ar", "--paired-ar-n", number)
    keys = {"BLEU": "BLEU", "chrF++": "chrF2++", "TER": "TER"}
    assert [scores.metric for scores in compared] == list(keys)
    for scores in compared:
        key = keys[scores.metric]
        for system, by_bs, by_ar in zip(scores.systems, bootstrap, randomization, strict=True):
            assert system.score.value == pytest.approx(by_bs[key]["score"], abs=1e-8)
            assert system.score.mean == pytest.approx(by_bs[key]["mean"], abs=1e-8)
            assert system.score.half_width == pytest.approx(by_bs[key]["ci"], abs=1e-8)
            assert p_value(system.bootstrap_p) == pytest.approx(p_value(by_bs[key]["p_value"]))
            assert p_value(system.randomization_p) == pytest.approx(p_value(by_ar[key]["p_value"]))


def p_value(value: float | None) -> float:
    """Return a p-value, or -1 where there is none."""
    return -1.0 if value is None else value


def test_signatures_name_the_test_and_the_seed(few_trials: None) -> None:
    systems, references = make_systems()
    (scores,) = compare_with_baseline(systems, [references], metrics=["chrf++"], scoring=Scoring())
    assert f"|bs:{NUM_TRIALS}|seed:12345|" in scores.bootstrap_signature
    assert f"|ar:{NUM_TRIALS}|seed:12345|" in scores.randomization_signature
    assert "|nw:2|" in scores.bootstrap_signature


def test_baseline_has_no_p_value_and_a_worse_system_a_small_one(few_trials: None) -> None:
    systems, references = make_systems()
    (scores,) = compare_with_baseline(systems, [references], metrics=["bleu"], scoring=Scoring())
    baseline, worse, similar = scores.systems
    assert (baseline.bootstrap_p, baseline.randomization_p) == (None, None)
    for found in (worse.bootstrap_p, worse.randomization_p):
        assert found is not None
        assert found < 0.02
    for found in (similar.bootstrap_p, similar.randomization_p):
        assert found is not None
        assert found > 0.1


def test_equal_translations_do_not_differ(few_trials: None) -> None:
    systems, references = make_systems()
    equal = [systems[0], [line.rstrip() for line in systems[0]]]
    (scores,) = compare_with_baseline(equal, [references], metrics=["bleu"], scoring=Scoring())
    assert scores.systems[1].score == scores.systems[0].score
    assert (scores.systems[1].bootstrap_p, scores.systems[1].randomization_p) == (1.0, 1.0)


def test_other_translations_with_the_same_score_do_not_differ(few_trials: None) -> None:
    """TER ignores case, and sacreBLEU's strict comparison would give the smallest p."""
    systems, references = make_systems()
    systems = [systems[0], [line.title() for line in systems[0]]]
    scores = compare_with_baseline(
        systems, [references], metrics=["bleu", "ter"], scoring=Scoring()
    )
    bleu, ter = (score.systems[1] for score in scores)
    assert ter.score.value == scores[1].systems[0].score.value
    assert (ter.bootstrap_p, ter.randomization_p) == (1.0, 1.0)
    assert bleu.bootstrap_p is not None
    assert bleu.bootstrap_p < 0.02


def test_almost_equal_scores_keep_their_p_value(few_trials: None) -> None:
    systems, references = make_systems()
    one_word_less = [*systems[0][:-1], systems[0][-1].rsplit(maxsplit=1)[0]]
    (scores,) = compare_with_baseline(
        [systems[0], one_word_less], [references], metrics=["chrf"], scoring=Scoring()
    )
    baseline, system = scores.systems
    assert system.score.value == pytest.approx(baseline.score.value, abs=0.5)
    assert system.score.value != baseline.score.value
    assert system.randomization_p is not None
    assert system.randomization_p < 1.0


def test_few_sentences_get_neither_interval_nor_p_value(few_trials: None) -> None:
    systems, references = make_systems()
    few = [lines[:9] for lines in systems]
    (scores,) = compare_with_baseline(few, [references[:9]], metrics=["chrf"], scoring=Scoring())
    for score, bootstrap_p, randomization_p in scores.systems:
        assert math.isnan(score.half_width)
        assert (bootstrap_p, randomization_p) == (None, None)
        assert score.value > 0


def test_language_without_words_has_no_ter(few_trials: None) -> None:
    scoring = Scoring.for_language("th")
    systems, references = make_systems()
    compared = compare_with_baseline(systems, [references], metrics=["ter"], scoring=scoring)
    assert compared == []


def test_large_set_gets_fewer_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "NUM_RESAMPLES", 10)
    monkeypatch.setattr(significance, "MIN_TRIALS", 20)
    monkeypatch.setattr(significance, "MAX_SHUFFLED_SENTENCES", 50 * NUM_LINES)
    systems, references = make_systems()
    (scores,) = compare_with_baseline(systems, [references], metrics=["bleu"], scoring=Scoring())
    assert "|ar:50|" in scores.randomization_signature
    assert all(isinstance(system, PairedScore) for system in scores.systems)
