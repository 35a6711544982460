"""The contract of `mt translate`: N lines in, N lines out, whatever is in them, and an output whole or not there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from shell import Ended, mt

from mt.config.load import load_config
from mt.data.tokenizer import Tokenizer, train_tokenizer
from mt.decoding.translator import Translation, Translator
from mt.model.transformer import Transformer
from mt.storage.checkpoint import Checkpoint, CheckpointStore
from mt.storage.run_dir import RunDir

WORDS = [
    "balo",
    "deru",
    "fimi",
    "gona",
    "hupe",
    "jasi",
    "kelo",
    "mavu",
    "nira",
    "potu",
    "ruke",
    "sifa",
]
CONFIG = {
    "data": {
        "src_lang": "aa",
        "tgt_lang": "bb",
        "train": [{"prefix": "t"}],
        "valid": {"name": "v", "prefix": "v"},
    },
    "train": {"max_steps": 1},
    "model": {
        "d_model": 8,
        "d_ff": 16,
        "num_heads": 1,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "tie_embeddings": "none",
    },
    "search": {"beam_size": 3, "max_length_factor": 0.0, "max_length_offset": 9},
}
LINE_ENDS = ("<0x0A>", "<0x0D>", "<0x0B>", "\r", "\u2028", "\x85")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random weights: what it writes is any bytes, the line ends of all systems above all."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    run.config.write_text(json.dumps(CONFIG), encoding="utf-8")  # JSON is YAML
    draw = random.Random(5)
    texts = [" ".join(draw.choices([*WORDS, "\r", "\u2028", "\x85"], k=6)) for _ in range(100)]
    path, _ = run.tokenizers(joint=True)
    train_tokenizer(texts, path, kind="bpe", vocab_size=330)
    torch.manual_seed(1)
    model = Transformer(
        load_config(run.config).model, src_vocab_size=330, tgt_vocab_size=330, pad_id=0
    )
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokenizer = Tokenizer.load(path)
    for token_id in range(330):
        if tokenizer.piece(token_id) in LINE_ENDS:
            weights["embeddings.output"][token_id] *= 4.0
    CheckpointStore(run.checkpoints, keep=1).save(Checkpoint(weights, {}, {}), step=1, is_best=True)
    return run.path


def lines_of(done: Ended) -> list[str]:
    """What a reader gets that splits at newlines alone, of a command that went well."""
    assert done.code == 0, done.err
    assert done.out.endswith("\n") or not done.out
    return done.out.split("\n")[:-1]


# N lines in, N lines out

STRANGE = {
    "blank": "",
    "spaces": "   ",
    "other spaces": "\t\u3000\u00a0\u2003",
    "emoji": "👩‍👩‍👧 🏳️‍🌈 😀" * 3,
    "right to left": "שלום עולם \u202eabc\u202c مرحبا بالعالم",
    "combining": "Z̷̡̢͙͎̈́̊a̵͝l̶g̸o̵",
    "control characters": "".join(chr(code) for code in range(1, 32) if code != 10) + "\x7f\x9b",
    "nul": "balo\0deru\0",
    "only nul": "\0",
    "carriage returns": "balo\rderu\r\rfimi",
    "vertical tab, form feed": "balo\x0bderu\x0cfimi\x1cgona\x1dhupe\x1ejasi",
    "unicode's line ends": "balo\u2028deru\u2029fimi\x85gona",
    "byte order mark": "\ufeffbalo\ufeff",
    "non-characters": "\ufffe\uffff\U0010ffff\ud7ff\ue000",
    "as tokenizers write": "<s> </s> <unk> <pad> <0x0A> ▁▁ \x10s <tag_1>",
    "as n-best lists write": "balo ||| deru ||| 0",
    "10,000 words": " ".join(WORDS[i % 12] for i in range(10_000)),
    "a long word": "balo" * 5000,
}


@pytest.mark.parametrize("line", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("options", [(), ("--jsonl",)], ids=" ".join)
def test_a_line_is_answered_by_a_line_whatever_is_in_it(
    run_dir: Path, line: str, options: tuple[str, ...]
) -> None:
    plain = lines_of(mt("translate", run_dir, *options, stdin="balo\nderu\nfimi\n"))
    answers = lines_of(mt("translate", run_dir, *options, stdin=f"balo\n{line}\nfimi\n"))
    assert len(answers) == 3
    if not options:
        assert (answers[0], answers[2]) == (plain[0], plain[2])
        assert bool(answers[1]) == bool(line.strip())
    else:
        assert json.loads(answers[1])["src"] == line


def test_all_of_them_together_are_answered_in_their_order(run_dir: Path) -> None:
    texts = [
        f"{line}\n" for line in STRANGE.values() if not line.startswith("\ufeff")
    ]  # which a file's start loses
    command = ("translate", run_dir, "--exact", "--beam-size", "1")
    alone = [lines_of(mt(*command, stdin=text))[0] for text in texts]
    assert lines_of(mt(*command, stdin="".join(texts))) == alone


@pytest.mark.parametrize(
    ("stdin", "same_as"),
    [
        (b"", b""),
        (b"\xef\xbb\xbf", b""),
        (b"balo", b"balo\n"),
        (b"balo\n\n", b"balo\n \n"),
        (b"balo\r\n\r\nderu\r\n", b"balo\n\nderu\n"),
        (b"balo\nderu\r\n", b"balo\nderu\n"),  # line ends of two systems in one file
        (b"\xef\xbb\xbfbalo\nderu", b"balo\nderu\n"),
        (b"\xef\xbb\xbf\nderu", b"\nderu\n"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True], ids=["stdin", "file"])
def test_habits_of_other_systems_change_nothing(
    run_dir: Path, tmp_path: Path, stdin: bytes, same_as: bytes, from_file: bool
) -> None:
    (tmp_path / "text").write_bytes(stdin)
    source = ("-i", tmp_path / "text") if from_file else ()
    answers = lines_of(mt("translate", run_dir, *source, stdin=stdin))
    assert answers == lines_of(mt("translate", run_dir, stdin=same_as))
    assert len(answers) == same_as.count(b"\n")


MEGABYTES = {
    "words": " ".join(WORDS[i * i % 11] for i in range(200_000)),
    "no space, nothing but bytes": "😀" * 250_000,
    "nearly blank": "balo" + " " * 1_000_000 + "deru",
}


@pytest.mark.parametrize("line", MEGABYTES.values(), ids=MEGABYTES)
def test_a_line_of_a_megabyte_is_answered_by_a_line(run_dir: Path, line: str) -> None:
    done = mt("translate", run_dir, "--beam-size", "1", stdin=f"balo\n{line}\nfimi\n")
    assert len(lines_of(done)) == 3
    assert lines_of(done)[::2] == lines_of(
        mt("translate", run_dir, "--beam-size", "1", stdin="balo\nfimi\n")
    )
    assert done.err.startswith("mt: line 2: over 256 tokens: translated in ")


def test_a_line_that_memory_could_not_hold_is_refused_before_it_is_read(run_dir: Path) -> None:
    done = mt("translate", run_dir, stdin=b"balo\n" + b"x" * 5_000_000)
    assert done == (
        1,
        "",
        "mt: stdin:2: wanted lines of at most 4,000,000 bytes, found a longer one\n",
    )


def test_long_lines_are_read_few_at_a_time(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by characters, not by lines alone."""
    calls: list[int] = []

    def answer_nothing(self: Translator, texts: list[str]) -> list[list[Translation]]:
        calls.append(len(texts))
        return [[Translation("", 0.0, 0.0)] for _ in texts]

    monkeypatch.setattr(Translator, "n_best", answer_nothing)
    assert (
        len(lines_of(mt("translate", run_dir, stdin=f"{'balo ' * 20_000}\n" * 7 + "fimi\n" * 700)))
        == 707
    )
    assert calls == [3, 3, 512, 189]


def test_no_reader_sees_another_number_of_lines(run_dir: Path, tmp_path: Path) -> None:
    """Neither one for whom a carriage return ends a line, nor one who takes it off the end of a line."""
    draw = random.Random(2)
    lines = "".join(f"{' '.join(draw.choices(WORDS, k=5))}\n" for _ in range(300))
    assert mt("translate", run_dir, "-o", tmp_path / "out", "--n-best", "3", stdin=lines).code == 0
    content = (tmp_path / "out").read_bytes()
    assert content.count(b"\n") == 900
    assert b"\r" not in content
    assert all(mark.encode() in content for mark in ("\x0b", "\u2028", "\x85")), (
        "the model writes what it likes"
    )


# Not UTF-8

MANGLED = b"balo\n" * 3 + b"d\xe9ru \xff\n" + b"fimi\n"


def test_undecodable_bytes_end_it_with_the_number_of_the_line(
    run_dir: Path, tmp_path: Path
) -> None:
    done = mt("translate", run_dir, stdin=MANGLED)
    assert (done.code, done.out) == (1, "")
    assert (
        done.err
        == "mt: stdin:4: not UTF-8: byte 0xE9 at column 2 (convert the file, e.g. with iconv)\n"
    )
    (tmp_path / "text").write_bytes(MANGLED)
    assert f"{tmp_path}/text:4: not UTF-8" in mt("translate", run_dir, "-i", tmp_path / "text").err


def test_undecodable_bytes_may_be_replaced(run_dir: Path) -> None:
    done = mt("translate", run_dir, "--errors", "replace", stdin=MANGLED)
    replaced = "balo\n" * 3 + "d\ufffdru \ufffd\n" + "fimi\n"
    assert lines_of(done) == lines_of(mt("translate", run_dir, stdin=replaced))


def test_before_a_late_error_whole_chunks_are_printed_but_no_file_appears(
    run_dir: Path, tmp_path: Path
) -> None:
    text = b"balo\n" * 699 + b"\xff\n"
    done = mt("translate", run_dir, "--beam-size", "1", stdin=text)
    assert (done.code, done.out.count("\n")) == (1, 512)
    assert "stdin:700: not UTF-8" in done.err
    (tmp_path / "out").write_bytes(b"old")
    assert (
        mt("translate", run_dir, "--beam-size", "1", "-o", tmp_path / "out", stdin=text).code == 1
    )
    assert (tmp_path / "out").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


# Where the output goes


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("/dev/full", "/dev/full: cannot write: No space left on device"),
        ("/proc/none/out", "/proc/none/out: cannot write: No such file or directory"),
        ("/proc", "/proc: cannot write: Is a directory"),
    ],
)
def test_an_output_that_cannot_be_is_named(run_dir: Path, output: str, said: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux's devices")
    assert mt("translate", run_dir, "-o", output, stdin="balo\n") == (1, "", f"mt: {said}\n")


@pytest.mark.parametrize("name", ["text", "link", "twin"])
def test_the_input_is_not_replaced_by_its_translation(
    run_dir: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "text").write_text("balo\n")
    (tmp_path / "link").symlink_to("text")
    (tmp_path / "twin").hardlink_to(tmp_path / "text")
    done = mt("translate", run_dir, "-i", tmp_path / "text", "-o", tmp_path / name)
    said = f"mt: {tmp_path / name}: is the input too, and would be replaced by its translation\n"
    assert done == (1, "", said)
    assert (tmp_path / "text").read_text() == "balo\n"


# Signals and streams


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_and_no_part_of_a_file_is_left(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    (tmp_path / "FILE").write_bytes(b"old")
    search, before = Translator.n_best, signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # as it is where tests run in the background
    seen: list[list[str]] = []

    def interrupted(self: Translator, texts: list[str]) -> list[list[Translation]]:
        if len(texts) < 512:  # the second chunk
            seen.append(os.listdir(tmp_path))
            signal.raise_signal(number)
        return search(self, texts)

    monkeypatch.setattr(Translator, "n_best", interrupted)
    done = mt(
        "translate", run_dir, "--beam-size", "1", "-o", tmp_path / "FILE", stdin="balo\n" * 600
    )
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, ignored)
    assert done == (128 + number, "", "")
    assert len(seen[0]) == 2, "one with the first chunk, one that was there"
    assert os.listdir(tmp_path) == ["FILE"]
    assert (tmp_path / "FILE").read_bytes() == b"old"


def test_a_killed_process_leaves_no_file_that_looks_complete(run_dir: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mt",
        "translate",
        run_dir,
        "--beam-size",
        "1",
        "-o",
        tmp_path / "FILE",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"balo\n" * 2000)
        process.stdin.flush()
        end = time.monotonic() + 120
        while not any(path.stat().st_size for path in tmp_path.glob(".FILE.*.partial")):
            assert time.monotonic() < end
            time.sleep(0.01)
        process.kill()
    assert not (tmp_path / "FILE").exists()
    assert mt("translate", run_dir, "-o", tmp_path / "FILE", stdin="balo\n").code == 0
    assert (tmp_path / "FILE").read_bytes().count(b"\n") == 1


def shell(line: str, run_dir: Path) -> tuple[int, str, str]:
    """What bash, told to fail as any command of a pipe does, makes of a line in which `mt` is ours."""
    script = f"mt() {{ {sys.executable} -m mt \"$@\"; }}; set -o pipefail; cd '{run_dir}'; {line}"
    # PYTHONUNBUFFERED would have the last bytes written before the end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout, done.stderr


ENCODE = "mt tokenizer encode -m tokenizer.model"  # as all commands, but needs no torch


@pytest.mark.parametrize(
    "line",
    [
        "yes balo | head -n 3000 | mt translate . --beam-size 1 | head -n 1 | wc -l",  # while it writes
        f"yes balo | head -n 300000 | {ENCODE} | head -n 1 | wc -l",
        f"{{ sleep 0.1; echo balo; }} | {ENCODE} | true; echo ${{PIPESTATUS[1]}} | grep -c 141; ! true",  # when it ends
    ],
)
def test_a_reader_who_has_seen_enough_ends_it_quietly(run_dir: Path, line: str) -> None:
    code, out, err = shell(line, run_dir)
    assert (code in (1, 141), out.strip(), err) == (True, "1", "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{ENCODE} <&-", "mt: stdin: it is closed (--input names a file to read)\n"),
        (f"echo balo | {ENCODE} >&-", "mt: stdout: cannot write: it is closed\n"),
        ("echo balo | mt translate . >&-", "mt: stdout: cannot write: it is closed\n"),
        (f"echo balo | {ENCODE} >/dev/full", "mt: stdout: cannot write: No space left on device\n"),
        (
            f"yes balo | head -n 9999 | {ENCODE} >/dev/full",
            "mt: stdout: cannot write: No space left on device\n",
        ),
        (f"echo balo | {ENCODE} -i none 2>&-", ""),
    ],
)
def test_a_stream_that_is_closed_or_full_is_named(run_dir: Path, line: str, said: str) -> None:
    code, out, err = shell(line, run_dir)
    assert (code, out, err) == (1, "", said)


def test_without_stderr_its_messages_do_not_turn_up_among_the_translations(run_dir: Path) -> None:
    long = "balo " * 400
    code, out, err = shell(f"printf '%s\\n' '{long}' fimi | mt translate . 2>&-", run_dir)
    assert (code, out.count("\n"), err) == (0, 2, "")
    assert "mt: line 1" not in out
