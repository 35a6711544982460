"""With bad input, a command succeeds or says in one line why not: a short scripts/stress/fuzz."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.config.keys import walk_keys
from mt.config.load import dump_config, load_config
from mt.config.schema import Config
from mt.config.yaml_file import read_config_file
from mt.data.corpus import EncodedCorpus, TrainingCorpus, encode_corpus
from mt.data.parallel_text import TwoFiles
from mt.data.text import MAX_LINE_SIZE, read_lines, read_parallel
from mt.data.tokenizer import MAX_FILE_SIZE, Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.errors import ConfigError, DataError, MtError, TokenizerError
from scripts.stress.fuzz import bad_models
from scripts.stress.fuzz.__main__ import CASE_MAKERS, make_cases
from scripts.stress.fuzz.bad_input import (
    CANARY,
    Case,
    GoodInput,
    as_yaml,
    choose_key,
    copy_config,
    damage_bytes,
    good_config,
)
from scripts.stress.fuzz.outcome import Outcome, fraction_past_parser
from scripts.stress.fuzz.runner import DEFAULT_LIMITS, Limits, make_good_input, run_all


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> GoodInput:
    return make_good_input(tmp_path_factory.mktemp("good"))


def run_case(case: Case, limits: Limits = DEFAULT_LIMITS) -> Outcome:
    ((_, outcome),) = run_all([case], limits=limits)
    return outcome


# Some cases of each kind


@pytest.mark.parametrize("kind", CASE_MAKERS)
def test_bad_input_ends_in_success_or_one_line(kind: str, good: GoodInput) -> None:
    cases = make_cases(kind, good, seed=7, start=0, count=40)
    outcomes = [outcome for _, outcome in run_all(cases, jobs=2)]
    assert [outcome.failure for outcome in outcomes if outcome.failure] == []
    assert fraction_past_parser(outcomes) >= 1 / 3
    assert len({outcome.layer for outcome in outcomes}) >= 3


@pytest.mark.parametrize("kind", CASE_MAKERS)
def test_case_depends_on_kind_seed_and_number_only(kind: str, good: GoodInput) -> None:
    from_0 = list(make_cases(kind, good, seed=1, start=0, count=5))
    from_3 = list(make_cases(kind, good, seed=1, start=3, count=5))
    other_seed = list(make_cases(kind, good, seed=2, start=0, count=5))
    assert from_0[3:] == from_3[:2]
    assert from_0 != other_seed


def test_write_message_is_the_inverse_of_read_message(good: GoodInput) -> None:
    message = bad_models.read_message(good.tokenizer)
    assert bad_models.write_message(message) == good.tokenizer


# Damaged checkpoints with correct checksums


def resume_error(good: GoodInput, file: str, content: bytes) -> str:
    """Return what `mt train` says when a file of the checkpoint, and its checksum, are replaced."""
    files = {**good.files, file: content}
    step_dir = file.rpartition("/")[0]
    bad_models.write_checksums(files, step_dir)
    arguments = ["train", "--config", "good.yaml", "--set", "train.max_steps=9"]
    outcome = run_case(Case("changed checkpoint", files, arguments))
    assert not outcome.failure
    assert outcome.ended.code == 1
    return outcome.line


def checkpoint_file(good: GoodInput, name: str) -> str:
    (path,) = [path for path in good.run if "/checkpoints/" in path and path.endswith(name)]
    return path


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
def test_resume_refuses_a_state_of_wrong_types(good: GoodInput, key: str, value: object) -> None:
    file = checkpoint_file(good, "meta.json")
    meta = json.loads(good.run[file])
    meta["state"][key] = value
    error = resume_error(good, file, json.dumps(meta).encode())
    assert "run/checkpoints: the checkpoint does not fit this run (" in error


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, []])
def test_resume_refuses_an_impossible_size_of_updates(good: GoodInput, value: object) -> None:
    file = checkpoint_file(good, "meta.json")
    meta = json.loads(good.run[file])
    meta["batches_per_update"] = value
    error = resume_error(good, file, json.dumps(meta).encode())
    assert "run/checkpoints: the checkpoint does not fit this run (" in error


def test_resume_refuses_an_optimizer_without_a_tensor(good: GoodInput) -> None:
    file = checkpoint_file(good, "optimizer.safetensors")
    header, numbers = bad_models.read_tensors(good.run[file])
    name = "encoder_layers.0.attention.query.weight/exp_avg_sq"
    assert name in header
    header, numbers = bad_models.without_tensor(header, numbers, name)
    error = resume_error(good, file, bad_models.write_tensors(header, numbers))
    assert "run/checkpoints: the checkpoint does not fit this run (" in error
    assert f"{name} has the shape None" in error


# The fuzzer recognizes every failure that it exists for. Each of these functions stands for `mt`.


def raise_an_error() -> None:
    raise ValueError("a mistake of our own")


def print_two_lines() -> None:
    raise MtError("one\n  two")


def print_nothing() -> None:
    sys.exit(1)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def compute_forever() -> None:
    while True:
        pass


def ask_for_memory() -> None:
    try:
        bytearray(8 << 30)
    except MemoryError:
        raise MtError("cannot allocate so much memory") from None


def leave_a_partial_file() -> None:
    Path("sub").mkdir()
    Path("sub/.x.partial").touch()
    raise MtError("no room")


def leave_an_output() -> None:
    Path("out.txt").touch()
    raise MtError("no room")


def execute_input() -> None:
    os.system(f"touch {CANARY}")


def print_a_warning() -> None:
    print("W0000 a message of a library", file=sys.stderr)


def drop_lines() -> None:
    pass


@pytest.mark.parametrize(
    ("misbehave", "failure"),
    [
        (raise_an_error, "traceback"),
        (print_two_lines, "not one line"),
        (print_nothing, "not one line"),
        (be_killed, "killed by SIGSEGV"),
        (compute_forever, "hangs"),
        (ask_for_memory, "absurd memory"),
        (leave_a_partial_file, "leaves sub/.x.partial"),
        (leave_an_output, "leaves out.txt"),
        (execute_input, "executed"),
        (print_a_warning, "success, but it prints"),
        (drop_lines, "2 lines in, 0 lines out"),
    ],
)
def test_fuzzer_recognizes_failure(
    misbehave: Callable[[], None], failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt.cli.app.app", misbehave)
    num_lines = 2 if misbehave is drop_lines else None
    case = Case("", {}, ["translate"], output="out.txt", num_lines=num_lines)
    assert failure in run_case(case, Limits(cpu_seconds=1)).failure


def test_fuzzer_recognizes_a_loaded_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt.cli.app.app", lambda: pickle.loads(bad_models.pickled_bomb()))
    assert run_case(Case("", {}, ["translate"])).failure == "executed what it read"


def test_special_characters_of_a_file_name_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    def complain() -> None:
        raise MtError("a\nb\x1b[2J\u2028é: no such file")

    monkeypatch.setattr("mt.cli.app.app", complain)
    outcome = run_case(Case("", {}, ["translate"]))
    assert outcome.failure == ""
    assert outcome.line == r"mt: a\nb\x1b[2J\u2028é: no such file"


# Arbitrary input, by Hypothesis

Result = TypeVar("Result")
LINE_BREAKS_AND_CONTROLS = set("\n\r\x1b\x00\x85\u2028\u2029")


def attempt(action: Callable[[], Result], expected_error: type[MtError]) -> Result | None:
    """Return what an action returns; None if it raises the expected error with one line."""
    try:
        return action()
    except expected_error as error:
        message = str(error)
    assert not set(message) & LINE_BREAKS_AND_CONTROLS, message
    return None


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all examples, which overwrite each other's files."""
    return tmp_path_factory.mktemp("any")


@settings(deadline=None)
@given(content=st.binary() | st.text().map(str.encode))
def test_arbitrary_config_is_refused(directory: Path, content: bytes) -> None:
    path = directory / "any.yaml"
    path.write_bytes(content)
    config = attempt(lambda: load_config(path), ConfigError)
    assert config is None, "a valid config is not found by chance"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
config_keys = st.sampled_from([key.replace(".N.", ".0.") for key, _ in walk_keys(Config)])


@settings(deadline=None)
@given(value=json_values, seed=st.integers(0, 10**6))
def test_arbitrary_value_is_accepted_or_refused(directory: Path, value: object, seed: int) -> None:
    config = copy_config(good_config())
    section, key = choose_key(Random(seed), config)
    section[key] = value
    path = directory / "value.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    loaded = attempt(lambda: load_config(path), ConfigError)
    if loaded is not None:
        path.write_text(dump_config(loaded), encoding="utf-8")
        assert load_config(path) == loaded


@settings(deadline=None)
@given(override=st.text() | st.tuples(config_keys, st.text() | json_values.map(str)).map("=".join))
def test_arbitrary_override_is_accepted_or_refused(directory: Path, override: str) -> None:
    path = directory / "good.yaml"
    path.write_text(as_yaml(good_config()), encoding="utf-8")
    attempt(lambda: load_config(path, [override]), ConfigError)


@settings(deadline=None)
@given(content_or_seed=st.binary() | st.integers(0, 10**6))
def test_arbitrary_tokenizer_round_trips_or_is_refused(
    directory: Path, good: GoodInput, content_or_seed: bytes | int
) -> None:
    if isinstance(content_or_seed, bytes):
        content = content_or_seed
    else:
        content = damage_bytes(Random(content_or_seed), good.tokenizer)
    path = directory / "any.model"
    path.write_bytes(content)
    tokenizer = attempt(lambda: Tokenizer.load(path), TokenizerError)
    if tokenizer is not None:
        texts = ["The old dog", "\0\u2581 中"]
        assert tokenizer.decode(tokenizer.encode(texts)) == texts


@settings(deadline=None)
@given(src=st.binary(), tgt=st.binary(), suffix=st.sampled_from(["", ".gz"]))
def test_arbitrary_files_are_line_pairs_or_are_refused(
    directory: Path, src: bytes, tgt: bytes, suffix: str
) -> None:
    src_path = directory / f"any.a{suffix}"
    tgt_path = directory / f"any.b{suffix}"
    src_path.write_bytes(src)
    tgt_path.write_bytes(tgt)
    pairs = attempt(lambda: list(read_parallel(src_path, tgt_path)), DataError)
    if pairs is not None and not suffix:
        num_lines = src.removeprefix(b"\xef\xbb\xbf").count(b"\n")
        if not src.endswith(b"\n"):
            num_lines += 1
        assert len(pairs) == num_lines


def test_damaged_cache_gives_the_corpus_or_is_refused(directory: Path, good: GoodInput) -> None:
    for name, content in good.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    tokenizer = Tokenizer.load(directory / "run/tokenizer.model")
    files = [TrainingCorpus(TwoFiles(directory / "train.a", directory / "train.b"))]
    cache_dir = directory / "run/cache"

    def encode() -> EncodedCorpus:
        return encode_corpus(
            files,
            tokenizer,
            tokenizer,
            max_length=24,
            max_length_ratio=9.0,
            cache_dir=cache_dir,
            normalization="nfc",
        )

    corpus = encode()
    paths = sorted(cache_dir.glob("*/*"))
    assert len(paths) == 5, "a second cache was written"
    contents = {path: path.read_bytes() for path in paths}

    @settings(deadline=None)
    @given(seed=st.integers(0, 10**6))
    def check(seed: int) -> None:
        rng = Random(seed)
        path = rng.choice(paths)
        path.write_bytes(damage_bytes(rng, contents[path]))
        encoded = attempt(encode, DataError)
        path.write_bytes(contents[path])
        if encoded is None:
            return
        assert len(encoded) == len(encoded.tgt) == len(encoded.weights) == len(corpus)
        for side in (encoded.src, encoded.tgt):
            assert min(side.ids) >= 0
            assert max(side.ids) < tokenizer.vocab_size
            assert all(len(side[index]) for index in range(len(side)))

    check()


# Limits on size


@pytest.mark.parametrize(
    ("read", "limit"),
    [(read_config_file, 500_000), (lambda path: list(read_lines(path)), MAX_LINE_SIZE)],
    ids=["config", "text"],
)
def test_endless_file_is_refused(read: Callable[[Path], Any], limit: int) -> None:
    with pytest.raises(MtError, match=f"at most {limit:,} bytes"):
        read(Path("/dev/zero"))


def test_too_large_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.model"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_SIZE + 1)  # takes no space on the disk
    with pytest.raises(TokenizerError, match=f"at most {MAX_FILE_SIZE:,} bytes"):
        Tokenizer.load(path)
    with pytest.raises(TokenizerError, match="wanted a file"):
        Tokenizer.load(Path("/dev/zero"))


def test_tokenizer_with_too_many_pieces_is_refused(
    tmp_path: Path, good: GoodInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt.data.tokenizer.MAX_VOCAB_SIZE", 339)
    monkeypatch.setattr("mt.data.tokenizer_training.MAX_VOCAB_SIZE", 339)
    path = tmp_path / "big.model"
    path.write_bytes(good.tokenizer)  # has 340 pieces
    with pytest.raises(TokenizerError, match=r"(?=.*\b339 pieces)(?=.*\b340\b)"):
        Tokenizer.load(path)
    with pytest.raises(TokenizerError, match=r"(?=.*vocab_size 340)(?=.*\b339\b)"):
        train_tokenizer([], tmp_path / "new.model", kind="bpe", vocab_size=340)
