"""Round trips are exact, sampled encodings repeatable, and a vocabulary that cannot be is refused in words."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from mt.data.tokenizer import ESCAPE, NUM_TAGS, Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.errors import DataError, TokenizerError

ROOT = Path(__file__).parents[2]
ATTENTION_KINDS = ("bpe", "unigram")
VOCAB_SIZE = 310
SENTENCES = [
    f"{article} {adjective} {noun} {verb} {place}."
    for article in ("The", "A", "Ein")
    for adjective in ("old", "small", "kleiner", "übergroße")
    for noun in ("woman", "dog", "Hund", "Straßenbahn")
    for verb in ("sees", "schläft", "is running")
    for place in ("in the garden", "auf der Straße")
]
TRICKY = (
    *(
        "",
        " ",
        "  ",
        "   ",
        "a",
        " a",
        "a ",
        "  a  b  ",
        "\t",
        "\ta\t",
        "a\rb\r",
        "\x00",
        "a\x00b",
        "\u2581",
        "a\u2581b",
    ),
    *(
        "\u2581\u2581 a",
        ESCAPE,
        f"{ESCAPE}s{ESCAPE}e{ESCAPE}",
        f"{ESCAPE}\u2581e",
        "<s> </s><unk> <pad>",
        "<0x41><tag_0>",
    ),
    *(
        "😀👩‍👩‍👧 🏳️‍🌈",
        "é é Å ﬁ ½",
        "\ufeff",
        "\u2028\x85\x0b\x0c",
        "\u2585 ⁇ \ufffd",
        "\ue000\ud7ff\U0010ffff",
        "\u00a0\u3000a",
    ),
    *("中文日本語한국어", "übergroße Straßenbahn", "x" * 5000),
)
any_text = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"))
    | st.sampled_from(TRICKY)
).map("".join)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {kind: tmp_path_factory.mktemp("models") / f"{kind}.model" for kind in ATTENTION_KINDS}
    for kind, path in paths.items():
        train_tokenizer(SENTENCES, path, kind=kind, vocab_size=VOCAB_SIZE)
    return paths


@pytest.fixture(scope="module")
def tokenizers(models: dict[str, Path]) -> dict[str, Tokenizer]:
    samplings = {"bpe": 0.3, "unigram": 0.0}  # dropout is for BPE alone
    return {
        kind: Tokenizer.load(path, bpe_dropout=samplings[kind], seed=1)
        for kind, path in models.items()
    }


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("epoch", [None, 0, 1])
def test_decoding_gives_back_every_tricky_text(
    tokenizers: dict[str, Tokenizer], kind: str, epoch: int | None
) -> None:
    assert tuple(tokenizers[kind].decode(tokenizers[kind].encode(TRICKY, epoch=epoch))) == TRICKY


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("epoch", [None, 0])
def test_decoding_gives_back_any_text(
    tokenizers: dict[str, Tokenizer], kind: str, epoch: int | None
) -> None:
    @given(st.lists(any_text, max_size=4))
    def check(texts: list[str]) -> None:
        assert tokenizers[kind].decode(tokenizers[kind].encode(texts, epoch=epoch)) == texts

    check()


@pytest.mark.parametrize("epoch", [None, 0])
def test_every_encoding_ends_in_eos_and_holds_no_other_control_id(
    tokenizers: dict[str, Tokenizer], epoch: int | None
) -> None:
    for tokenizer in tokenizers.values():
        special = {
            tokenizer.pad_id,
            tokenizer.bos_id,
            tokenizer.unk_id,
            tokenizer.eos_id,
            *tokenizer.tag_ids,
        }
        for ids in tokenizer.encode(TRICKY, epoch=epoch):
            assert ids[-1] == tokenizer.eos_id
            assert not special & set(ids[:-1])


def test_the_special_ids_are_the_same_in_every_tokenizer(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (
            0,
            1,
            2,
            3,
        )
        assert tokenizer.tag_ids == tuple(range(4, 4 + NUM_TAGS))
        assert tokenizer.vocab_size == VOCAB_SIZE


def test_decoding_passes_over_control_ids(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        ids = tokenizer.encode(["The old dog"])[0]
        noisy = [tokenizer.bos_id, tokenizer.tag_ids[0], *ids, tokenizer.eos_id, tokenizer.pad_id]
        assert tokenizer.decode([noisy, [], ids]) == ["The old dog", "", "The old dog"]


def test_no_id_that_search_may_generate_can_break_a_line(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        allowed = sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.forbidden_ids))
        assert "\n" not in "".join(tokenizer.decode([[token_id] for token_id in allowed]))
        assert tokenizer.encode(["\n"])[0][-2] in tokenizer.forbidden_ids
        assert tokenizer.eos_id in allowed


def test_pieces_can_be_shown(tokenizers: dict[str, Tokenizer]) -> None:
    ids = tokenizers["bpe"].encode(["The dog"])[0]
    assert "".join(map(tokenizers["bpe"].piece, ids[:-1])) == "\u2581The\u2581dog"


def test_a_unigram_model_has_no_dropout(models: dict[str, Path]) -> None:
    with pytest.raises(TokenizerError, match="needs a BPE model"):
        Tokenizer.load(models["unigram"], bpe_dropout=0.1)


def test_a_sampled_encoding_is_a_function_of_seed_epoch_and_texts(
    tokenizers: dict[str, Tokenizer], models: dict[str, Path]
) -> None:
    tokenizer = tokenizers["bpe"]
    first, second = (tokenizer.encode(SENTENCES, epoch=epoch) for epoch in (1, 2))
    assert first != second
    assert first != tokenizer.encode(SENTENCES)
    tokenizer.encode(SENTENCES[:3], epoch=7)
    again = Tokenizer.load(models["bpe"], bpe_dropout=0.3, seed=1)
    assert [again.encode(SENTENCES, epoch=epoch) for epoch in (2, 1, 2)] == [second, first, second]
    assert (
        Tokenizer.load(models["bpe"], bpe_dropout=0.3, seed=2).encode(SENTENCES, epoch=1) != first
    )


def test_a_sampled_encoding_is_the_same_in_another_process(
    tokenizers: dict[str, Tokenizer], models: dict[str, Path]
) -> None:
    program = (
        "import sys; from pathlib import Path; from mt.data.tokenizer import Tokenizer; "
        "print(Tokenizer.load(Path(sys.argv[1]), bpe_dropout=0.3, seed=1).encode(sys.argv[2:], epoch=5))"
    )
    command = [sys.executable, "-c", program, str(models["bpe"]), *SENTENCES[:40]]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert output.strip() == str(tokenizers["bpe"].encode(SENTENCES[:40], epoch=5))


def test_without_sampling_the_epoch_changes_nothing(models: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(models["bpe"])
    assert tokenizer.encode(SENTENCES, epoch=3) == tokenizer.encode(SENTENCES)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_the_same_sentences_give_the_same_model(
    models: dict[str, Path], tmp_path: Path, kind: Any
) -> None:
    train_tokenizer(SENTENCES, tmp_path / "again.model", kind=kind, vocab_size=VOCAB_SIZE)
    content = (tmp_path / "again.model").read_bytes()
    assert content == models[kind].read_bytes()
    assert Tokenizer.load(models[kind]).digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize(
    ("wrong", "pattern"),
    [(20_000, r"more than .* (\d+) at most"), (100, r"small .* (\d+) at least")],
)
def test_an_impossible_vocab_size_is_answered_with_one_that_works(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: Any, wrong: int, pattern: str
) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(TokenizerError) as caught:
        train_tokenizer(SENTENCES, path, kind=kind, vocab_size=wrong)
    assert str(caught.value).startswith(f"{path}: vocab_size {wrong} is ")
    assert list(tmp_path.iterdir()) == []
    advice = re.search(pattern, str(caught.value))
    assert advice, caught.value
    train_tokenizer(SENTENCES, path, kind=kind, vocab_size=int(advice[1]))
    assert Tokenizer.load(path).vocab_size == int(advice[1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("sentences", [[], ["", "  "]])
def test_a_tokenizer_needs_text(tmp_path: Path, kind: Any, sentences: list[str]) -> None:
    with pytest.raises(TokenizerError):
        train_tokenizer(sentences, tmp_path / "tokenizer.model", kind=kind, vocab_size=300)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vocab_size", [500_001, 2**31, 10**12])
def test_an_absurd_vocab_size_is_refused(tmp_path: Path, vocab_size: int) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(
        TokenizerError,
        match=f"^{path}: vocab_size {vocab_size} is too large: wanted at most 500000$",
    ):
        train_tokenizer(SENTENCES, path, kind="bpe", vocab_size=vocab_size)


def test_a_model_that_would_make_sentencepiece_speak_is_refused_in_silence(
    models: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nul.model"
    path.write_bytes(
        b"\n\x0a\n\x01\0\x15\0\0\0\0\x18\x01" + models["bpe"].read_bytes()
    )  # its first piece is NUL
    with pytest.raises(TokenizerError, match=f"^{path}: "):
        Tokenizer.load(path)
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_sentences_arrives_as_it_is(tmp_path: Path) -> None:
    def sentences() -> Iterator[str]:
        yield "The old dog"
        raise DataError("train.de:2: not UTF-8")

    with pytest.raises(DataError, match=r"^train\.de:2: not UTF-8$"):
        train_tokenizer(sentences(), tmp_path / "tokenizer.model", kind="bpe", vocab_size=300)
    assert list(tmp_path.iterdir()) == []


def test_long_sentences_and_reserved_characters_are_trained_on_too(tmp_path: Path) -> None:
    texts = [*SENTENCES, "Dampfschiff " * 1000, "Boxkämpfer \u2585 " * 1000]
    train_tokenizer(texts, tmp_path / "tokenizer.model", kind="bpe", vocab_size=360)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.model")
    assert [len(ids) for ids in tokenizer.encode(["Dampfschiff", "Boxkämpfer"])] == [2, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "not a SentencePiece model"),
        (b"garbage", "not a SentencePiece"),
    ],
)
def test_what_is_no_model_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    path = tmp_path / "tokenizer.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerError, match=f"^{path}: .*{message}"):
        Tokenizer.load(path)
    assert capfd.readouterr() == ("", "")


OURS: dict[str, Any] = {
    **{
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": 2,
        "eos_id": 3,
        "byte_fallback": True,
        "vocab_size": 340,
    },
    **{
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "model_type": "bpe",
        "minloglevel": 2,
    },
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"pad_id": 3, "eos_id": 0}, "ids of pad, unk, bos and eos"),
        ({"byte_fallback": False, "vocab_size": 100}, "byte_fallback"),
        ({"remove_extra_whitespaces": True}, "changes the text"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes the text"),
        ({"split_by_whitespace": False}, "contain a space"),
    ],
)
def test_a_foreign_model_serves_only_if_it_keeps_our_rules(
    tmp_path: Path, change: dict[str, Any], message: str | None
) -> None:
    options = {
        **OURS,
        **change,
        "model_prefix": str(tmp_path / "foreign"),
        "sentence_iterator": iter(SENTENCES),
    }
    sentencepiece.SentencePieceTrainer.train(**options)
    if message is None:
        assert Tokenizer.load(tmp_path / "foreign.model").tag_ids == ()
    else:
        with pytest.raises(TokenizerError, match=message):
            Tokenizer.load(tmp_path / "foreign.model")
