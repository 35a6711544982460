"""Tests of the training of a tokenizer."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import mt.data.tokenizer_training
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import TokenizerKind, sample_sentences, train_tokenizer
from mt.errors import DataError, TokenizerError

VOCAB_SIZE = 310
SENTENCES = [
    f"{article} {adjective} {noun} {verb}."
    for article in ("The", "A", "Ein")
    for adjective in ("old", "small", "kleiner", "übergroße")
    for noun in ("woman", "dog", "Hund", "Straßenbahn")
    for verb in ("sees", "schläft", "is running")
]

both_kinds = pytest.mark.parametrize("kind", ["bpe", "unigram"])


@both_kinds
def test_same_sentences_give_the_same_model(tmp_path: Path, kind: TokenizerKind) -> None:
    first = tmp_path / "first.model"
    second = tmp_path / "second.model"
    train_tokenizer(SENTENCES, first, kind=kind, vocab_size=VOCAB_SIZE)
    train_tokenizer(SENTENCES, second, kind=kind, vocab_size=VOCAB_SIZE)
    assert first.read_bytes() == second.read_bytes()
    assert Tokenizer.load(first).digest == hashlib.sha256(first.read_bytes()).hexdigest()


def test_sentences_are_normalized_if_wanted(tmp_path: Path) -> None:
    decomposed = [f" {line}  e\u0301" for line in SENTENCES]
    composed = [f"{line} \u00e9" for line in SENTENCES]
    normalized = tmp_path / "normalized.model"
    expected = tmp_path / "expected.model"
    train_tokenizer(decomposed, normalized, kind="bpe", vocab_size=VOCAB_SIZE, normalization="nfc")
    train_tokenizer(composed, expected, kind="bpe", vocab_size=VOCAB_SIZE)
    assert normalized.read_bytes() == expected.read_bytes()


@both_kinds
@pytest.mark.parametrize(
    ("wrong_size", "advice"),
    [(20_000, r"more than .* (\d+) at most"), (100, r"small .* (\d+) at least")],
)
def test_impossible_vocab_size_is_refused_with_one_that_works(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    kind: TokenizerKind,
    wrong_size: int,
    advice: str,
) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(TokenizerError) as caught:
        train_tokenizer(SENTENCES, path, kind=kind, vocab_size=wrong_size)
    message = str(caught.value)
    assert message.startswith(f"{path}: vocab_size {wrong_size} is ")
    assert list(tmp_path.iterdir()) == []

    match = re.search(advice, message)
    assert match, message
    possible_size = int(match[1])
    train_tokenizer(SENTENCES, path, kind=kind, vocab_size=possible_size)
    assert Tokenizer.load(path).vocab_size == possible_size
    assert capfd.readouterr() == ("", "")


@both_kinds
@pytest.mark.parametrize("sentences", [[], ["", "  "]])
def test_training_without_text_is_refused(
    tmp_path: Path, kind: TokenizerKind, sentences: list[str]
) -> None:
    with pytest.raises(TokenizerError):
        train_tokenizer(sentences, tmp_path / "tokenizer.model", kind=kind, vocab_size=300)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vocab_size", [500_001, 2**31, 10**12])
def test_vocab_size_has_a_maximum(tmp_path: Path, vocab_size: int) -> None:
    path = tmp_path / "tokenizer.model"
    message = f"^{path}: vocab_size {vocab_size} is too large: wanted at most 500000$"
    with pytest.raises(TokenizerError, match=message):
        train_tokenizer(SENTENCES, path, kind="bpe", vocab_size=vocab_size)


def test_exception_of_the_sentences_is_passed_on(tmp_path: Path) -> None:
    def sentences() -> Iterator[str]:
        yield "The old dog"
        raise DataError("train.de:2: not UTF-8")

    with pytest.raises(DataError, match=r"^train\.de:2: not UTF-8$"):
        train_tokenizer(sentences(), tmp_path / "tokenizer.model", kind="bpe", vocab_size=300)
    assert list(tmp_path.iterdir()) == []


def test_long_sentences_and_reserved_characters_are_used(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    sentences = [*SENTENCES, "Dampfschiff " * 1000, "Boxkämpfer \u2585 " * 1000]
    train_tokenizer(sentences, path, kind="bpe", vocab_size=360)
    encoded = Tokenizer.load(path).encode(["Dampfschiff", "Boxkämpfer"])
    assert [len(ids) for ids in encoded] == [2, 2]  # one piece for the word, and eos


@pytest.mark.parametrize("max_sentences", [None, 6, 7])
def test_small_text_is_used_as_it_is(max_sentences: int | None) -> None:
    texts = [["a", "b"], [], ["c", "d", "e", "f"]]
    assert list(sample_sentences(texts, max_sentences=max_sentences)) == list("abcdef")


def test_sample_depends_on_the_sentences_alone() -> None:
    numbers = [str(number) for number in range(1000)]
    sample = list(sample_sentences([numbers], max_sentences=50))
    assert list(sample_sentences([numbers[:300], numbers[300:]], max_sentences=50)) == sample
    assert len(set(sample)) == 50
    assert set(sample) <= set(numbers)


def test_each_sentence_is_in_the_sample_with_the_same_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts: Counter[int] = Counter()
    for seed in range(2000):
        monkeypatch.setattr(mt.data.tokenizer_training, "SAMPLE_SEED", seed)
        sentences = [str(number) for number in range(40)]
        for sentence in sample_sentences([sentences], max_sentences=10):
            counts[int(sentence) // 10] += 1
    # Each quarter of the sentences is expected 5,000 times, with a standard deviation of 52.
    assert [counts[quarter] for quarter in range(4)] == pytest.approx([5000] * 4, abs=250)


def test_whole_text_is_read() -> None:
    num_read = 0

    def sentences() -> Iterator[str]:
        nonlocal num_read
        for number in range(10**5):
            num_read += 1
            yield str(number)

    assert len(list(sample_sentences([sentences()], max_sentences=3))) == 3
    assert num_read == 10**5
