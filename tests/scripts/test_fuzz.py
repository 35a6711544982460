"""Whatever is put in, a command succeeds or says in one line why not; `scripts/stress/fuzz` is the long form of this."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.config.keys import walk_keys
from mt.config.load import dump_config, load_config
from mt.config.schema import Config
from mt.config.yaml_file import read_config_file
from mt.data.corpus import EncodedCorpus, ParallelFiles, encode_corpus
from mt.data.text import MAX_LINE_SIZE, read_lines, read_parallel
from mt.data.tokenizer import MAX_FILE_SIZE, Tokenizer, train_tokenizer
from mt.errors import ConfigError, DataError, MtError, TokenizerError
from scripts.stress.fuzz import __main__ as fuzz
from scripts.stress.fuzz import bad_models
from scripts.stress.fuzz.bad_input import (
    CANARY,
    Case,
    Good,
    as_yaml,
    copied,
    good_config,
    place_in,
    spoil_bytes,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    return fuzz.make_good(tmp_path_factory.mktemp("good"))


# ---- the generators' own cases, a few of each kind


@pytest.mark.parametrize("kind", fuzz.ATTENTION_KINDS)
def test_bad_input_ends_in_success_or_in_one_line_and_often_gets_past_the_parser(
    kind: str, good: Good
) -> None:
    outcomes = [
        outcome
        for _, outcome in fuzz.try_all(
            fuzz.make_cases(kind, good, seed=7, start=0, count=40), jobs=2
        )
    ]
    assert [outcome.failure for outcome in outcomes if outcome.failure] == []
    assert fuzz.share_read(outcomes) >= 1 / 3
    assert len({outcome.layer for outcome in outcomes}) >= 3


def test_the_same_seed_and_number_make_the_same_case(good: Good) -> None:
    for kind in fuzz.ATTENTION_KINDS:
        first, second = (
            list(fuzz.make_cases(kind, good, seed=1, start=start, count=5)) for start in (0, 3)
        )
        assert first[3:] == second[:2]
        assert first != list(fuzz.make_cases(kind, good, seed=2, start=0, count=5))


def test_protobuf_taken_apart_and_put_together_is_the_same(good: Good) -> None:
    assert bad_models.write_message(bad_models.read_message(good.tokenizer)) == good.tokenizer


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("elapsed_seconds", []),
        ("batch_index", "x"),
        ("step", "x"),
        ("epoch", 0.5),
        ("tokens_seen", -1),
        ("step", None),
    ],
)
def test_a_train_state_of_other_types_is_not_gone_on_with(
    good: Good, key: str, value: object
) -> None:
    (file,) = (name for name in good.run if name.endswith("meta.json") and "checkpoints" in name)
    meta = json.loads(good.run[file])
    meta["state"][key] = value
    assert refusal(good, file, json.dumps(meta).encode()).startswith(
        "this checkpoint is not one of this run ("
    )


def test_an_optimizer_without_a_tensor_is_not_gone_on_with(good: Good) -> None:
    (file,) = (name for name in good.run if name.endswith("optimizer.safetensors"))
    header, numbers = bad_models.read_tensors(good.run[file])
    header, numbers = bad_models.without(header, numbers, "3.exp_avg_sq")
    said = refusal(good, file, bad_models.write_tensors(header, numbers))
    assert said.startswith(
        "this checkpoint is not one of this run (the optimizer's 3.exp_avg_sq has the shape None"
    )


def refusal(good: Good, file: str, content: bytes) -> str:
    """What `mt train` says of a run of which one file of the checkpoint is another, with the right checksum."""
    files = {**good.files, file: content}
    bad_models.seal(files, file.rpartition("/")[0])
    case = Case("", files, ["train", "--config", "good.yaml", "--set", "train.max_steps=9"])
    ((_, outcome),) = fuzz.try_all([case])
    assert not outcome.failure
    assert outcome.ended.code == 1
    return outcome.line.partition("/checkpoints: ")[2]


# ---- the fuzzer sees what it is for


def raise_an_error() -> None:
    raise ValueError("a mistake of our own")


def say_two_lines() -> None:
    raise MtError("one\n  two")


def say_nothing() -> None:
    sys.exit(1)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def compute_for_ever() -> None:
    while True:
        pass


def ask_for_memory() -> None:
    try:
        bytearray(8 << 30)
    except MemoryError:
        raise MtError("cannot allocate so much memory") from None


def leave_half_a_file() -> None:
    Path("sub").mkdir()
    Path("sub/.x.partial").touch()
    raise MtError("no room")


def leave_an_output() -> None:
    Path("out.txt").touch()
    raise MtError("no room")


def execute() -> None:
    os.system(f"touch {CANARY}")


def warn() -> None:
    print("W0000 a word from below", file=sys.stderr)


def drop_a_line() -> None:
    pass


@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        (raise_an_error, "traceback"),
        (say_two_lines, "not one line"),
        (say_nothing, "not one line"),
        (be_killed, "killed by SIGSEGV"),
        (compute_for_ever, "hangs"),
        (ask_for_memory, "absurd memory"),
        (leave_half_a_file, "leaves sub/.x.partial"),
        (leave_an_output, "leaves out.txt"),
        (execute, "executed"),
        (warn, "success, and yet"),
        (drop_a_line, "2 lines in, 0 lines out"),
    ],
)
def test_a_misdeed_is_a_failure(
    misdeed: Callable[[], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt.cli.app.app", misdeed)
    case = Case(
        "", {}, ["translate"], output="out.txt", num_lines=2 if misdeed is drop_a_line else None
    )
    ((_, outcome),) = fuzz.try_all([case], limits=fuzz.Limits(cpu_seconds=1))
    assert words in outcome.failure


def test_what_a_file_name_may_hold_breaks_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def complain() -> None:
        raise MtError("a\nb\x1b[2J\u2028é: no such file")

    monkeypatch.setattr("mt.cli.app.app", complain)
    ((_, outcome),) = fuzz.try_all([Case("", {}, ["translate"])])
    assert (outcome.failure, outcome.line) == ("", r"mt: a\nb\x1b[2J\u2028é: no such file")


def test_a_pickle_would_have_been_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    monkeypatch.setattr("mt.cli.app.app", lambda: pickle.loads(bad_models.pickled_bomb()))
    ((_, outcome),) = fuzz.try_all([Case("", {}, ["translate"])])
    assert outcome.failure == "executed what it read"


# ---- any input at all


Result = TypeVar("Result")


def attempt(action: Callable[[], Result], refusal: type[MtError]) -> Result | None:
    """What an action gives; None where it is refused, which must be in one line."""
    try:
        return action()
    except refusal as error:
        message = str(error)
    assert not set(message) & set("\n\r\x1b\x00\x85\u2028\u2029"), message
    return None


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples, which replace each other's files."""
    return tmp_path_factory.mktemp("any")


@settings(deadline=None)
@given(content=st.binary() | st.text().map(str.encode))
def test_any_file_is_a_config_or_an_error(directory: Path, content: bytes) -> None:
    path = directory / "any.yaml"
    path.write_bytes(content)
    assert attempt(lambda: load_config(path), ConfigError) is None  # chance finds no valid one


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(value=json_values, seed=st.integers(0, 10**6))
def test_any_value_of_any_key_is_taken_or_refused(
    directory: Path, value: object, seed: int
) -> None:
    config, path = copied(good_config()), directory / "value.yaml"
    section, key = place_in(Random(seed), config)
    section[key] = value
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    found = attempt(lambda: load_config(path), ConfigError)
    if found is not None:
        path.write_text(dump_config(found), encoding="utf-8")
        assert load_config(path) == found


keys = st.sampled_from([key.replace(".N.", ".0.") for key, _ in walk_keys(Config)])


@settings(deadline=None)
@given(override=st.text() | st.tuples(keys, st.text() | json_values.map(str)).map("=".join))
def test_any_override_is_taken_or_refused(directory: Path, override: str) -> None:
    path = directory / "good.yaml"
    path.write_text(as_yaml(good_config()), encoding="utf-8")
    attempt(lambda: load_config(path, [override]), ConfigError)


@settings(deadline=None)
@given(content=st.binary() | st.integers(0, 10**6))
def test_any_file_is_a_tokenizer_or_an_error(
    directory: Path, good: Good, content: bytes | int
) -> None:
    path, texts = directory / "any.model", ["The old dog", "\0\u2581 中"]
    path.write_bytes(
        content if isinstance(content, bytes) else spoil_bytes(Random(content), good.tokenizer)
    )
    tokenizer = attempt(lambda: Tokenizer.load(path), TokenizerError)
    if tokenizer is not None:
        assert tokenizer.decode(tokenizer.encode(texts)) == texts


@settings(deadline=None)
@given(src=st.binary(), tgt=st.binary(), end=st.sampled_from(["", ".gz"]))
def test_any_two_files_are_pairs_or_an_error(
    directory: Path, src: bytes, tgt: bytes, end: str
) -> None:
    paths = [directory / f"any.{side}{end}" for side in "ab"]
    for path, content in zip(paths, (src, tgt), strict=True):
        path.write_bytes(content)
    pairs = attempt(lambda: list(read_parallel(*paths)), DataError)
    if pairs is not None and not end:
        assert len(pairs) == src.removeprefix(b"\xef\xbb\xbf").count(b"\n") + (
            not src.endswith(b"\n")
        )


def test_any_cache_is_the_corpus_or_an_error(directory: Path, good: Good) -> None:
    for name, content in good.files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    tokenizer = Tokenizer.load(directory / "run/tokenizer.model")
    files = [ParallelFiles(directory / "train.a", directory / "train.b")]

    def encode() -> EncodedCorpus:
        cache_dir = directory / "run/cache"
        return encode_corpus(
            files, tokenizer, tokenizer, max_length=24, max_length_ratio=9.0, cache_dir=cache_dir
        )

    corpus = encode()
    paths = sorted((directory / "run/cache").glob("*/*"))
    assert len(paths) == 5, "a cache was made anew"
    contents = {path: path.read_bytes() for path in paths}

    @settings(deadline=None)
    @given(seed=st.integers(0, 10**6))
    def check(seed: int) -> None:
        draw = Random(seed)
        path = draw.choice(paths)
        path.write_bytes(spoil_bytes(draw, contents[path]))
        found = attempt(encode, DataError)
        path.write_bytes(contents[path])
        if found is not None:
            assert len(found) == len(found.tgt) == len(found.weights) == len(corpus)
            for side in (found.src, found.tgt):
                assert 0 <= min(side.ids) <= max(side.ids) < tokenizer.vocab_size
                assert all(len(side[index]) for index in range(len(side)))

    check()


# ---- sizes


def test_nothing_without_an_end_is_read_to_its_end(tmp_path: Path) -> None:
    endless = Path("/dev/zero")
    for read, words in (
        (read_config_file, "at most 500,000 bytes"),
        (Tokenizer.load, f"at most {MAX_FILE_SIZE:,} bytes"),
        (lambda path: list(read_lines(path)), f"at most {MAX_LINE_SIZE:,} bytes"),
    ):
        with pytest.raises(MtError, match=words):
            read(endless)


def test_a_tokenizer_of_too_many_pieces_is_refused(
    tmp_path: Path, good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt.data.tokenizer.MAX_VOCAB_SIZE", 339)  # it has one more
    (tmp_path / "big.model").write_bytes(good.tokenizer)
    with pytest.raises(TokenizerError, match="wanted at most 339 pieces, found 340"):
        Tokenizer.load(tmp_path / "big.model")
    with pytest.raises(TokenizerError, match="vocab_size 340 is too large: wanted at most 339"):
        train_tokenizer([], tmp_path / "new.model", kind="bpe", vocab_size=340)
