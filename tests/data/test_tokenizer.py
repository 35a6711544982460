"""Tests of the tokenizer: lossless encoding, BPE-dropout, and the loading of model files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from mt.config.choices import MAX_TAGS
from mt.data.tokenizer import ESCAPE, Tokenizer
from mt.data.tokenizer_training import TokenizerKind, train_tokenizer
from mt.errors import TokenizerError

ROOT = Path(__file__).parents[2]
KINDS: tuple[TokenizerKind, ...] = ("bpe", "unigram")
VOCAB_SIZE = 310
SENTENCES = [
    f"{article} {adjective} {noun} {verb} {place}."
    for article in ("The", "A", "Ein")
    for adjective in ("old", "small", "kleiner", "übergroße")
    for noun in ("woman", "dog", "Hund", "Straßenbahn")
    for verb in ("sees", "schläft", "is running")
    for place in ("in the garden", "auf der Straße")
]
TRICKY_TEXTS = [
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
    "\u2581\u2581 a",
    ESCAPE,
    f"{ESCAPE}s{ESCAPE}e{ESCAPE}",
    f"{ESCAPE}\u2581e",
    "<s> </s><unk> <pad>",
    "<0x41><tag_0>",
    "😀👩‍👩‍👧 🏳️‍🌈",
    "é é Å ﬁ ½",
    "\ufeff",
    "\u2028\x85\x0b\x0c",
    "\u2585 ⁇ \ufffd",
    "\ue000\ud7ff\U0010ffff",
    "\u00a0\u3000a",
    "中文日本語한국어",
    "übergroße Straßenbahn",
    "x" * 5000,
]
texts_without_newline = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"))
    | st.sampled_from(TRICKY_TEXTS)
).map("".join)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train a model of each kind."""
    paths = {}
    for kind in KINDS:
        paths[kind] = tmp_path_factory.mktemp("models") / f"{kind}.model"
        train_tokenizer(SENTENCES, paths[kind], kind=kind, vocab_size=VOCAB_SIZE)
    return paths


@pytest.fixture(scope="module")
def tokenizers(models: dict[str, Path]) -> dict[str, Tokenizer]:
    """Load the model of each kind; the BPE model has BPE-dropout."""
    return {
        "bpe": Tokenizer.load(models["bpe"], bpe_dropout=0.3),
        "unigram": Tokenizer.load(models["unigram"]),
    }


def encode(tokenizer: Tokenizer, texts: list[str], *, seed: int | None) -> list[list[int]]:
    """Return the plain encodings, or with a seed, encodings that are sampled."""
    if seed is None:
        return tokenizer.encode(texts)
    return tokenizer.sample(texts, Random(seed).random)


# Encoding and decoding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_tricky_texts_survive_encode_and_decode(
    tokenizers: dict[str, Tokenizer], kind: str, seed: int | None
) -> None:
    rows = encode(tokenizers[kind], TRICKY_TEXTS, seed=seed)
    assert tokenizers[kind].decode(rows) == TRICKY_TEXTS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 0])
def test_any_text_survives_encode_and_decode(
    tokenizers: dict[str, Tokenizer], kind: str, seed: int | None
) -> None:
    tokenizer = tokenizers[kind]

    @given(st.lists(texts_without_newline, max_size=4))
    def check(texts: list[str]) -> None:
        assert tokenizer.decode(encode(tokenizer, texts, seed=seed)) == texts

    check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 0])
def test_encodings_end_in_eos_and_have_no_other_control_id(
    tokenizers: dict[str, Tokenizer], kind: str, seed: int | None
) -> None:
    tokenizer = tokenizers[kind]
    special_ids = {
        tokenizer.pad_id,
        tokenizer.bos_id,
        tokenizer.unk_id,
        tokenizer.eos_id,
        *tokenizer.tag_ids,
    }
    for ids in encode(tokenizer, TRICKY_TEXTS, seed=seed):
        assert ids[-1] == tokenizer.eos_id
        assert not special_ids & set(ids[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_are_the_same_in_all_tokenizers(
    tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    tokenizer = tokenizers[kind]
    assert tokenizer.pad_id == 0
    assert tokenizer.unk_id == 1
    assert tokenizer.bos_id == 2
    assert tokenizer.eos_id == 3
    assert tokenizer.tag_ids == tuple(range(4, 4 + MAX_TAGS))
    assert tokenizer.vocab_size == VOCAB_SIZE


@pytest.mark.parametrize("kind", KINDS)
def test_decode_ignores_control_ids(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    (ids,) = tokenizer.encode(["The old dog"])
    with_control_ids = [
        tokenizer.bos_id,
        tokenizer.tag_ids[0],
        *ids,
        tokenizer.eos_id,
        tokenizer.pad_id,
    ]
    assert tokenizer.decode([with_control_ids, [], ids]) == ["The old dog", "", "The old dog"]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_that_search_may_generate_end_no_line(
    tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    """Not in other programs either, which end a line at more characters than mt."""
    tokenizer = tokenizers[kind]
    allowed_ids = set(range(tokenizer.vocab_size)) - set(tokenizer.forbidden_ids)
    texts = tokenizer.decode([[token_id] for token_id in sorted(allowed_ids)])
    assert all(len(f"a{text}b".splitlines()) == 1 for text in texts)
    newline_id = tokenizer.encode(["\n"])[0][-2]
    assert newline_id in tokenizer.forbidden_ids
    assert tokenizer.eos_id in allowed_ids


def test_pieces_show_spaces_as_u2581(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bpe"]
    (ids,) = tokenizer.encode(["The dog"])
    assert "".join(tokenizer.piece(token_id) for token_id in ids[:-1]) == "\u2581The\u2581dog"


# BPE-dropout


def test_sampled_encoding_is_a_function_of_texts_and_random_numbers(
    models: dict[str, Path],
) -> None:
    tokenizer = Tokenizer.load(models["bpe"], bpe_dropout=0.3)
    first = encode(tokenizer, SENTENCES, seed=1)
    second = encode(tokenizer, SENTENCES, seed=2)
    assert first != second
    assert first != tokenizer.encode(SENTENCES)
    assert encode(tokenizer, SENTENCES, seed=1) == first

    same_tokenizer = Tokenizer.load(models["bpe"], bpe_dropout=0.3)
    encode(same_tokenizer, SENTENCES[:3], seed=7)  # earlier calls have no influence
    assert encode(same_tokenizer, SENTENCES, seed=2) == second
    assert encode(same_tokenizer, SENTENCES, seed=1) == first


def test_sampled_encoding_is_the_same_in_another_process(
    tokenizers: dict[str, Tokenizer], models: dict[str, Path]
) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from random import Random\n"
        "from mt.data.tokenizer import Tokenizer\n"
        "tokenizer = Tokenizer.load(Path(sys.argv[1]), bpe_dropout=0.3)\n"
        "print(tokenizer.sample(sys.argv[2:], Random(5).random))\n"
    )
    command = [sys.executable, "-c", program, str(models["bpe"]), *SENTENCES[:40]]
    result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == str(encode(tokenizers["bpe"], SENTENCES[:40], seed=5))


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_samples_are_plain_encodings(models: dict[str, Path], kind: str) -> None:
    tokenizer = Tokenizer.load(models[kind])
    assert encode(tokenizer, SENTENCES, seed=3) == tokenizer.encode(SENTENCES)


def test_unigram_model_cannot_have_dropout(models: dict[str, Path]) -> None:
    with pytest.raises(TokenizerError, match="BPE-dropout needs a BPE model"):
        Tokenizer.load(models["unigram"], bpe_dropout=0.1)


# Loading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "not a SentencePiece model"),
        (b"garbage", "not a SentencePiece model"),
    ],
)
def test_file_that_is_no_model_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    path = tmp_path / "tokenizer.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerError, match=f"^{path}: .*{message}"):
        Tokenizer.load(path)
    assert capfd.readouterr() == ("", "")


def test_sentencepiece_prints_nothing_about_a_bad_model(
    models: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """SentencePiece warns about a piece that is a NUL character."""
    path = tmp_path / "nul.model"
    nul_piece = b"\n\x0a\n\x01\0\x15\0\0\0\0\x18\x01"
    path.write_bytes(nul_piece + models["bpe"].read_bytes())
    with pytest.raises(TokenizerError, match=f"^{path}: "):
        Tokenizer.load(path)
    assert capfd.readouterr() == ("", "")


COMPATIBLE_OPTIONS: dict[str, Any] = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": 2,
    "eos_id": 3,
    "byte_fallback": True,
    "vocab_size": 340,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "model_type": "bpe",
    "minloglevel": 2,
}


# Tables of one rule each: q becomes Q, and q becomes a newline.
RULES = {"q_to_capital": "71\t51\n", "q_to_newline": "71\tA\n"}


def train_with_sentencepiece(directory: Path, **changed_options: Any) -> Path:
    """Train a model with SentencePiece's own function; return its path."""
    options = {**COMPATIBLE_OPTIONS, **changed_options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(directory / "other"), **options
    )
    return directory / "other.model"


def test_compatible_model_of_another_program_is_accepted(tmp_path: Path) -> None:
    path = train_with_sentencepiece(tmp_path)
    assert Tokenizer.load(path).tag_ids == ()


@pytest.mark.parametrize(
    ("changed_options", "message"),
    [
        ({"pad_id": 3, "eos_id": 0}, "ids of pad, unk, bos and eos"),
        ({"byte_fallback": False, "vocab_size": 100}, "byte_fallback"),
        ({"remove_extra_whitespaces": True}, "changes the text"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes the text"),
        ({"split_by_whitespace": False}, "split_by_whitespace"),
    ],
)
def test_incompatible_model_of_another_program_is_refused(
    tmp_path: Path, changed_options: dict[str, Any], message: str
) -> None:
    path = train_with_sentencepiece(tmp_path, **changed_options)
    with pytest.raises(TokenizerError, match=f"^{path}: .*{message}"):
        Tokenizer.load(path)


@pytest.mark.parametrize("option", ["normalization_rule_tsv", "denormalization_rule_tsv"])
@pytest.mark.parametrize("rule", RULES)
def test_model_that_replaces_a_rare_character_is_refused(
    tmp_path: Path, option: str, rule: str
) -> None:
    rule_path = tmp_path / "rule.tsv"
    rule_path.write_text(RULES[rule], encoding="utf-8")
    path = train_with_sentencepiece(tmp_path, **{option: str(rule_path)})
    with pytest.raises(TokenizerError, match=f"^{path}: .*changes the text"):
        Tokenizer.load(path)


def test_pieces_with_a_newline_are_never_generated(tmp_path: Path) -> None:
    path = train_with_sentencepiece(tmp_path, user_defined_symbols=["\n", "x\ny"])
    tokenizer = Tokenizer.load(path)
    allowed_ids = set(range(tokenizer.vocab_size)) - set(tokenizer.forbidden_ids)
    texts = tokenizer.decode([[token_id] for token_id in sorted(allowed_ids)])
    assert len(texts) == tokenizer.vocab_size - len(tokenizer.forbidden_ids) > 300
    assert not [text for text in texts if "\n" in text]


def test_pipe_is_no_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(TokenizerError, match=f"^{path}: not a tokenizer: .* pipe"):
        Tokenizer.load(path)


def test_a_single_text_must_be_in_a_list(models: dict[str, Path]) -> None:
    with pytest.raises(TypeError, match="list of texts"):
        Tokenizer.load(models["bpe"]).encode("The dog")
