"""Log-odds of two languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from parallel_text import survey_lines, toy_lines

from mt.preflight.languages import hash_trigrams, learn_log_odds, score_lines


def test_two_texts_in_one_language_are_not_told_apart(tmp_path: Path) -> None:
    train = survey_lines(tmp_path, toy_lines("train.en", 500), "train")
    test = survey_lines(tmp_path, toy_lines("test.en"), "test")
    assert learn_log_odds(train.trigram_counts, test.trigram_counts) is None


def test_score_of_a_line_is_the_sum_of_its_trigrams() -> None:
    log_odds = np.random.default_rng(1).standard_normal(2**16).astype(np.float32)
    lines = [b"ab", b"", b"cde"]
    hashes = hash_trigrams(lines)
    assert len(hashes) == 3 + 1 + 4  # one trigram for each byte and each line's end
    expected = [log_odds[hashes[:3]].sum(), log_odds[hashes[3]], log_odds[hashes[4:]].sum()]
    np.testing.assert_allclose(score_lines(lines, log_odds), expected, rtol=1e-6)


def test_lines_are_scored_by_their_language(tmp_path: Path) -> None:
    src = survey_lines(tmp_path, toy_lines("valid.en"), "src")
    tgt = survey_lines(tmp_path, toy_lines("valid.de"), "tgt")
    log_odds = learn_log_odds(src.trigram_counts, tgt.trigram_counts)
    assert log_odds is not None
    english = [line.encode() for line in toy_lines("test.en", 50)]
    german = [line.encode() for line in toy_lines("test.de", 50)]
    assert np.mean(score_lines(english, log_odds) > 0) > 0.9
    assert np.mean(score_lines(german, log_odds) < 0) > 0.9
