"""Tests of `mt translate`: one line out for each line in, and output files complete or absent."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from invented_words import INVENTED_WORDS
from shell import Ended, assert_fails, mt, output_lines
from terminal import longest_line, mt_process, read_line, screen_lines, terminal

from mt.cli.line_progress import TranslateProgress, format_line_progress
from mt.config.load import load_run_config
from mt.data.normalization import is_blank
from mt.data.source_stats import SourceStats
from mt.data.tokenizer import Tokenizer
from mt.data.tokenizer_training import train_tokenizer
from mt.decoding.text_translator import TextTranslator
from mt.decoding.translation import Translation, TranslationProgress
from mt.decoding.translator import Translator
from mt.model.transformer import Transformer
from mt.progress_bar import ProgressBar, ProgressText
from mt.storage.checkpoint import Checkpoint, CheckpointStore
from mt.storage.run_dir import RunDir

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
VOCAB_SIZE = 330
LINE_END_PIECES = ("<0x0A>", "<0x0D>", "<0x0B>", "\r", "\u2028", "\x85")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights, which generates any bytes, and line ends of all systems often."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    run.config_path.write_text(json.dumps(CONFIG), encoding="utf-8")  # JSON is YAML
    generator = random.Random(5)
    words = [*INVENTED_WORDS, "\r", "\u2028", "\x85"]
    texts = [" ".join(generator.choices(words, k=6)) for _ in range(100)]
    tokenizer_path, _ = run.tokenizer_paths(joint=True)
    train_tokenizer(texts, tokenizer_path, kind="bpe", vocab_size=VOCAB_SIZE)
    torch.manual_seed(1)
    model = Transformer(
        load_run_config(run.config_path).model,
        src_vocab_size=VOCAB_SIZE,
        tgt_vocab_size=VOCAB_SIZE,
        pad_id=0,
    )
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokenizer = Tokenizer.load(tokenizer_path)
    for token_id in range(VOCAB_SIZE):
        if tokenizer.piece(token_id) in LINE_END_PIECES:
            weights["embeddings.output"][token_id] *= 4.0
    CheckpointStore(run.checkpoints_dir, keep=1).save(
        Checkpoint(weights, {}, {}), step=1, is_best=True
    )
    return run.path


# One line out for each line in

STRANGE_LINES = {
    "blank": "",
    "spaces": "   ",
    "other spaces": "\t\u3000\u00a0\u2003",
    "emoji": "👩‍👩‍👧 🏳️‍🌈 😀" * 3,
    "right to left": "שלום עולם \u202eabc\u202c مرحبا بالعالم",
    "combining": "Z̷̡̢͙͎̈́̊a̵͝l̶g̸o̵",
    "control characters": "".join(chr(code) for code in range(1, 32) if code != 10) + "\x7f\x9b",
    "nul": "balo\0deru\0",
    "only nul": "\0",
    "zero-width space": "\u200b",
    "only a byte order mark": "\ufeff",
    "carriage returns": "balo\rderu\r\rfimi",
    "vertical tab, form feed": "balo\x0bderu\x0cfimi\x1cgona\x1dhupe\x1ejasi",
    "unicode line ends": "balo\u2028deru\u2029fimi\x85gona",
    "byte order mark": "\ufeffbalo\ufeff",
    "non-characters": "\ufffe\uffff\U0010ffff\ud7ff\ue000",
    "tokenizer pieces": "<s> </s> <unk> <pad> <0x0A> ▁▁ \x10s <tag_1>",
    "n-best separators": "balo ||| deru ||| 0",
    "10,000 words": " ".join(INVENTED_WORDS[i % 12] for i in range(10_000)),
    "a long word": "balo" * 5000,
}


@pytest.mark.parametrize("line", STRANGE_LINES.values(), ids=STRANGE_LINES)
@pytest.mark.parametrize("options", [(), ("--jsonl",)], ids=" ".join)
def test_any_line_gives_one_line(run_dir: Path, line: str, options: tuple[str, ...]) -> None:
    lines = output_lines(mt("translate", run_dir, *options, stdin=f"balo\n{line}\nfimi\n"))
    assert len(lines) == 3
    if options:
        assert json.loads(lines[1])["src"] == line
        return
    plain_lines = output_lines(mt("translate", run_dir, stdin="balo\nderu\nfimi\n"))
    assert lines[0] == plain_lines[0]
    assert lines[2] == plain_lines[2]
    assert bool(lines[1]) is not is_blank(line)


def test_strange_lines_together_equal_each_alone(run_dir: Path) -> None:
    # A byte order mark at the start of the input would be removed.
    lines = [line for line in STRANGE_LINES.values() if not line.startswith("\ufeff")]
    command = ("translate", run_dir, "--exact", "--beam-size", "1")
    alone = [output_lines(mt(*command, stdin=f"{line}\n"))[0] for line in lines]
    together = output_lines(mt(*command, stdin="".join(f"{line}\n" for line in lines)))
    assert together == alone


@pytest.mark.parametrize(
    ("stdin", "equivalent"),
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
def test_line_ends_and_byte_order_mark_change_nothing(
    run_dir: Path, tmp_path: Path, stdin: bytes, equivalent: bytes, from_file: bool
) -> None:
    (tmp_path / "text").write_bytes(stdin)
    options = ("-i", tmp_path / "text") if from_file else ()
    lines = output_lines(mt("translate", run_dir, *options, stdin=stdin))
    assert lines == output_lines(mt("translate", run_dir, stdin=equivalent))
    assert len(lines) == equivalent.count(b"\n")


LONG_LINES = {
    "words": " ".join(INVENTED_WORDS[i * i % 11] for i in range(50_000)),
    "no space, only byte tokens": "😀" * 62_500,
    "nearly blank": "balo" + " " * 1_000_000 + "deru",
}


@pytest.mark.parametrize("line", LONG_LINES.values(), ids=LONG_LINES)
def test_very_long_line_gives_one_line_and_one_message(run_dir: Path, line: str) -> None:
    command = ("translate", run_dir, "--beam-size", "1")
    ended = mt(*command, stdin=f"balo\n{line}\nfimi\n")
    lines = output_lines(ended)
    assert len(lines) == 3
    assert [lines[0], lines[2]] == output_lines(mt(*command, stdin="balo\nfimi\n"))
    assert "1 of 3 lines" in ended.err
    assert "parts" in ended.err
    num_unseen = 1 if "😀" in line else 0
    assert ended.err.count("\n") == 1 + num_unseen
    assert ended.err.count("unseen characters, which have no token, in 1 of 3 lines") == num_unseen


@pytest.fixture
def run_of_single_sentences(run_dir: Path, tmp_path: Path) -> Path:
    """A copy of the run, as if each of its training lines had been a single sentence."""
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    SourceStats(200, 200, 0.0).save(RunDir(copy).source_stats_path)
    return copy


def messages_about_splitting(ended: Ended) -> list[str]:
    """Return the lines of stderr, without that about capitals and "!", unseen in training."""
    return [line for line in ended.err.splitlines() if "unseen characters" not in line]


def test_several_sentences_are_translated_one_by_one(run_of_single_sentences: Path) -> None:
    command = ("translate", run_of_single_sentences)
    first, second = output_lines(mt(*command, stdin="Balo deru.\nFimi!\n"))
    ended = mt(*command, stdin="Balo deru. Fimi!\ngona\n")
    both, _ = output_lines(ended)
    assert both == f"{first} {second}"
    (message,) = messages_about_splitting(ended)
    assert "1 of 2 lines" in message
    assert "2 parts" in message
    assert messages_about_splitting(mt(*command, "--quiet", stdin="Balo deru. Fimi!\n")) == []


def test_no_split_translates_several_sentences_at_once(
    run_dir: Path, run_of_single_sentences: Path
) -> None:
    stdin = "Balo deru. Fimi!\n"
    ended = mt("translate", run_of_single_sentences, "--no-split", stdin=stdin)
    assert output_lines(ended) == output_lines(mt("translate", run_dir, stdin=stdin))
    assert messages_about_splitting(ended) == []
    assert ended.out != mt("translate", run_of_single_sentences, stdin=stdin).out


def test_line_over_the_size_limit_is_refused(run_dir: Path) -> None:
    ended = mt("translate", run_dir, stdin=b"x" * 5_000_000)
    assert_fails(ended, "stdin:1:", "4,000,000 bytes")


def test_chunks_of_long_lines_are_small(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the number of characters, not only by the number of lines."""
    chunk_sizes: list[int] = []

    def translate_to_nothing(
        self: TextTranslator, texts: list[str], num_translations: int, **options: Any
    ) -> list[list[Translation]]:
        chunk_sizes.append(len(texts))
        return [[Translation("", 0.0, 0.0)] for _ in texts]

    monkeypatch.setattr(TextTranslator, "n_best_lists", translate_to_nothing)
    long_line = "balo " * 20_000 + "\n"
    ended = mt("translate", run_dir, stdin=long_line * 7 + "fimi\n" * 700)
    assert len(output_lines(ended)) == 707
    assert chunk_sizes == [3, 3, 512, 189]


def test_output_ends_lines_only_where_translations_end(run_dir: Path, tmp_path: Path) -> None:
    """Other programs end a line at a carriage return and at some characters of Unicode too."""
    generator = random.Random(2)
    text = "".join(f"{' '.join(generator.choices(INVENTED_WORDS, k=5))}\n" for _ in range(300))
    output = tmp_path / "out"
    assert mt("translate", run_dir, "-o", output, "--n-best", "3", stdin=text).code == 0
    content = output.read_bytes().decode("utf-8")
    translator = Translator.load(run_dir)
    translations = list(
        itertools.chain.from_iterable(translator.n_best(text.splitlines(), num_translations=3))
    )
    assert len(content.splitlines()) == len(translations)
    ids = [segment.tgt for item in translations for segment in item.segments]
    generated = "".join(translator.tgt_tokenizer.decode(ids))
    for line_end in "\r\u2028\x85":
        assert line_end in generated, "the model generates line ends of other systems"


# Input that is not UTF-8

NOT_UTF8 = b"balo\n" * 3 + b"d\xe9ru \xff\n" + b"fimi\n"


def test_undecodable_input_is_an_error_with_line_and_column(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(NOT_UTF8)
    from_stdin = mt("translate", run_dir, stdin=NOT_UTF8)
    from_file = mt("translate", run_dir, "-i", path)
    for ended, name in ((from_stdin, "stdin"), (from_file, path)):
        assert ended.code == 1
        assert ended.err.startswith(f"mt: {name}:4: not UTF-8: byte 0xE9 at column 2")
        assert ended.err.count("\n") == 1
        assert ended.out == mt("translate", run_dir, stdin="balo\n" * 3).out


def test_undecodable_input_can_be_replaced(run_dir: Path) -> None:
    ended = mt("translate", run_dir, "--errors", "replace", stdin=NOT_UTF8)
    replaced = "balo\n" * 3 + "d\ufffdru \ufffd\n" + "fimi\n"
    assert output_lines(ended) == output_lines(mt("translate", run_dir, stdin=replaced))


def test_late_error_keeps_the_lines_before_it_on_stdout_but_no_file(
    run_dir: Path, tmp_path: Path
) -> None:
    text = b"balo\n" * 699 + b"\xff\n"
    command = ("translate", run_dir, "--beam-size", "1")
    printed = mt(*command, stdin=text)
    assert printed.code == 1
    assert printed.out.count("\n") == 699
    assert "stdin:700: not UTF-8" in printed.err

    output = tmp_path / "out"
    output.write_bytes(b"old")
    assert mt(*command, "-o", output, stdin=text).code == 1
    assert output.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


# Where the output goes


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("/dev/full", "No space left on device"),
        ("/proc/none/out", "No such file or directory"),
        ("/proc", "Is a directory"),
    ],
)
def test_unwritable_output_is_named(run_dir: Path, output: str, reason: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux's devices")
    ended = mt("translate", run_dir, "-o", output, stdin="balo\n")
    assert_fails(ended, f"{output}:", "cannot write", reason)


@pytest.mark.parametrize("name", ["text", "link", "twin"])
def test_input_is_not_overwritten_by_its_translation(
    run_dir: Path, tmp_path: Path, name: str
) -> None:
    text = tmp_path / "text"
    text.write_text("balo\n")
    (tmp_path / "link").symlink_to("text")
    (tmp_path / "twin").hardlink_to(text)
    ended = mt("translate", run_dir, "-i", text, "-o", tmp_path / name)
    assert_fails(ended, f"{tmp_path / name}:", "input", "translation")
    assert text.read_text() == "balo\n"


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_the_old_output_and_no_partial_file(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    output = tmp_path / "FILE"
    output.write_bytes(b"old")
    n_best_lists = TextTranslator.n_best_lists
    sigterm_handler = signal.getsignal(signal.SIGTERM)
    # Tests that run in the background inherit an ignored SIGINT.
    sigint_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    files_at_signal: list[str] = []

    def signal_in_the_second_chunk(
        self: TextTranslator, texts: list[str], num_translations: int, **options: Any
    ) -> list[list[Translation]]:
        if len(texts) < 512:
            files_at_signal.extend(os.listdir(tmp_path))
            signal.raise_signal(number)
        return n_best_lists(self, texts, num_translations, **options)

    monkeypatch.setattr(TextTranslator, "n_best_lists", signal_in_the_second_chunk)
    ended = mt("translate", run_dir, "--beam-size", "1", "-o", output, stdin="balo\n" * 600)
    signal.signal(signal.SIGTERM, sigterm_handler)
    signal.signal(signal.SIGINT, sigint_handler)
    assert ended == (128 + number, "", "")
    assert len(files_at_signal) == 2, "the old file, and a partial one with the first chunk"
    assert os.listdir(tmp_path) == ["FILE"]
    assert output.read_bytes() == b"old"


def test_killed_process_leaves_no_output_file(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "FILE"
    command = [sys.executable, "-m", "mt", "translate", run_dir, "--beam-size", "1", "-o", output]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        process.stdin.write(b"balo\n" * 2000)
        process.stdin.flush()
        deadline = time.monotonic() + 120
        while not any(path.stat().st_size for path in tmp_path.glob(".FILE.*.partial")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not output.exists()
    assert mt("translate", run_dir, "-o", output, stdin="balo\n").code == 0
    assert output.read_bytes().count(b"\n") == 1


# Pipes and closed streams


def run_in_bash(line: str, run_dir: Path) -> tuple[int, str, str]:
    """Run a line of bash in which `mt` is this package; return exit code, stdout and stderr.

    The line fails if any command of a pipe fails.
    """
    script = f"mt() {{ {sys.executable} -m mt \"$@\"; }}; set -o pipefail; cd '{run_dir}'; {line}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # With PYTHONUNBUFFERED, the last bytes would be written before the command ends.
    environment.pop("PYTHONUNBUFFERED", None)
    ended = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=300, env=environment
    )
    return ended.returncode, ended.stdout, ended.stderr


ENCODE = "mt tokenizer encode -m tokenizer.model"  # a command that does not wait for torch


@pytest.mark.parametrize(
    "line",
    [
        # The reader leaves while mt writes.
        "yes balo | head -n 3000 | mt translate . --beam-size 1 | head -n 1 | wc -l",
        f"yes balo | head -n 300000 | {ENCODE} | head -n 1 | wc -l",
        # The reader has left when mt flushes its output at the end.
        f"{{ sleep 0.1; echo balo; }} | {ENCODE} | true; "
        "echo ${PIPESTATUS[1]} | grep -c 141; ! true",
    ],
)
def test_closed_pipe_ends_the_command_quietly(run_dir: Path, line: str) -> None:
    code, out, err = run_in_bash(line, run_dir)
    assert code in (1, 141)
    assert out.strip() == "1"
    assert err == ""


@pytest.mark.parametrize(
    ("line", "contents"),
    [
        (f"{ENCODE} <&-", ["stdin:", "closed", "--input"]),
        (f"echo balo | {ENCODE} >&-", ["stdout:", "cannot write", "closed"]),
        ("echo balo | mt translate . >&-", ["stdout:", "cannot write", "closed"]),
        (
            f"echo balo | {ENCODE} >/dev/full",
            ["stdout:", "cannot write", "No space left on device"],
        ),
        (
            f"yes balo | head -n 9999 | {ENCODE} >/dev/full",
            ["stdout:", "cannot write", "No space left on device"],
        ),
    ],
)
def test_closed_or_full_stream_is_named(run_dir: Path, line: str, contents: list[str]) -> None:
    assert_fails(Ended(*run_in_bash(line, run_dir)), *contents)


def test_error_without_stderr_is_silent(run_dir: Path) -> None:
    assert run_in_bash(f"echo balo | {ENCODE} -i none 2>&-", run_dir) == (1, "", "")


def test_warnings_without_stderr_do_not_go_to_stdout(run_dir: Path) -> None:
    long_line = "balo " * 400
    line = f"printf '%s\\n' '{long_line}' fimi | mt translate . 2>&-"
    code, out, err = run_in_bash(line, run_dir)
    assert code == 0
    assert out.count("\n") == 2
    assert err == ""
    assert "parts" not in out


# Terminals, arguments, and pipes with a slow writer

EXACT = ("--exact", "--beam-size", "1")


def test_texts_on_the_command_line_are_translated(run_dir: Path) -> None:
    ended = mt("translate", run_dir, "balo deru", "", "fimi\ngona", *EXACT, stdin="not read\n")
    expected = mt("translate", run_dir, *EXACT, stdin="balo deru\n\nfimi\ngona\n")
    assert output_lines(ended) == output_lines(expected)
    assert ended.err == ""


def test_texts_on_the_command_line_can_go_to_a_file(run_dir: Path, tmp_path: Path) -> None:
    assert mt("translate", run_dir, "balo", "-o", tmp_path / "out", *EXACT).code == 0
    expected = mt("translate", run_dir, *EXACT, stdin="balo\n").out
    assert (tmp_path / "out").read_text(encoding="utf-8") == expected


def test_name_of_a_file_on_the_command_line_is_text(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "balo").write_text("deru fimi\n")
    monkeypatch.chdir(tmp_path)
    ended = mt("translate", run_dir, "balo", *EXACT)
    assert output_lines(ended) == output_lines(mt("translate", run_dir, *EXACT, stdin="balo\n"))
    assert ended.err.startswith("warning: balo: ")
    assert "--input" in ended.err


def test_texts_and_an_input_file_are_refused(run_dir: Path, tmp_path: Path) -> None:
    ended = mt("translate", run_dir, "balo", "--input", tmp_path / "text")
    assert ended.code == 2
    assert "--input" in ended.err


def test_terminal_is_greeted_and_each_line_is_answered_at_once(run_dir: Path) -> None:
    answers = output_lines(mt("translate", run_dir, *EXACT, stdin="balo deru\nfimi\n"))
    with (
        terminal() as screen,
        mt_process(
            "translate",
            run_dir,
            *EXACT,
            stdin=screen.descriptor,
            stdout=subprocess.PIPE,
            stderr=screen.descriptor,
        ) as process,
    ):
        assert process.stdout is not None
        screen.wait_for("aa -> bb, type a sentence, Ctrl-D ends\r\n")
        screen.type("balo deru\n")
        assert read_line(process) == f"{answers[0]}\n"
        screen.type("fimi\n")
        assert read_line(process) == f"{answers[1]}\n"
        screen.type("\x04")  # Ctrl-D
        assert process.stdout.read() == b""
        assert screen.wait_for_end(process) == 0


@pytest.mark.parametrize("command", ["translate", "tokenizer"])
def test_slow_writer_of_a_pipe_gets_each_answer_at_once(run_dir: Path, command: str) -> None:
    """The next line is written when the answer to the one before has come."""
    arguments = ["translate", run_dir, *EXACT]
    if command == "tokenizer":
        arguments = ["tokenizer", "encode", "-m", run_dir / "tokenizer.model"]
    lines = ["balo deru", "", "fimi", "gona"]
    answers = output_lines(mt(*arguments, stdin="".join(f"{line}\n" for line in lines)))
    with mt_process(
        *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(lines[0].encode())
        for answer, next_line in zip(answers, [*lines[1:], ""], strict=True):
            # The beginning of the next line must not delay the answer.
            process.stdin.write(f"\n{next_line[:2]}".encode())
            process.stdin.flush()
            assert read_line(process) == f"{answer}\n"
            process.stdin.write(next_line[2:].encode())


def test_file_has_a_bar_with_its_total_and_the_time_left(run_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("balo deru\n" * 1200)
    with (
        terminal(columns=60) as screen,
        text.open("rb") as stdin,
        (tmp_path / "out").open("wb") as out,
        mt_process(
            "translate",
            run_dir,
            "--beam-size",
            "1",
            stdin=stdin.fileno(),
            stdout=out.fileno(),
            stderr=screen.descriptor,
        ) as process,
    ):
        screen.wait_for("0/1,200 lines")
        screen.wait_for(" left | ")
        assert screen.wait_for_end(process) == 0
        screen.type("end\n")
        screen.wait_for("end\r\n")
    assert longest_line(screen.received) < 60
    assert screen_lines(screen.received)[0] == "end", "the bar is removed"
    assert (tmp_path / "out").read_bytes().count(b"\n") == 1200


def test_translate_progress_shows_the_time_left_first() -> None:
    text = format_line_progress(300, 1200, fraction=0.2, seconds=60.0)
    assert text == ProgressText(("4:00 left", "300/1,200 lines"), 0.2, ("5.0 lines/s",))
    text = format_line_progress(0, 1200, fraction=0.0, seconds=0.0)
    assert text == ProgressText(("0/1,200 lines",), 0.0)


def test_translate_progress_of_a_pipe_has_no_total() -> None:
    text = format_line_progress(300, None, fraction=0.0, seconds=60.0)
    assert text == ProgressText(("300 lines", "5.0 lines/s", "1:00"))


class FakeBar(ProgressBar):
    """Keeps what it is asked to show."""

    def __init__(self) -> None:
        self.shown: list[ProgressText] = []

    def show(self, text: ProgressText, *, at_once: bool = False) -> None:
        self.shown.append(text)


def test_translate_progress_counts_the_lines_of_a_chunk() -> None:
    bar = FakeBar()
    progress = TranslateProgress(bar, total=10)
    lines = progress.count_reading(str(number) for number in range(10))
    for _ in range(6):
        next(lines)
    # A line of several sentences has several segments.
    progress.on_progress(TranslationProgress(4, 8, 0.75))
    progress.finish_chunk()
    counts = [field for text in bar.shown for field in text.first if "lines" in field]
    assert counts == ["0/10 lines", "3/10 lines", "6/10 lines"]
    assert [text.fraction for text in bar.shown] == pytest.approx([0.0, 0.45, 0.6])
