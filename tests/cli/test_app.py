"""Tests of the command line: a copy task from training to evaluation, help, and error messages."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from invented_words import INVENTED_WORDS
from shell import Ended, in_process, mt
from terminal import mt_process, screen_lines, terminal

from mt.cli.process import SETTINGS
from mt.config.load import dump_config, load_config
from mt.data.tokenizer import Tokenizer

CONFIG = """\
data:
  src_lang: aa
  tgt_lang: bb
  train:
    - prefix: {0}/train
  valid:
    name: valid
    prefix: {0}/valid
  test:
    - name: test
      prefix: {0}/test
  max_length: 24
tokenizer:
  vocab_size: 350
model:
  d_model: 64
  d_ff: 128
  num_heads: 4
  num_encoder_layers: 1
  num_decoder_layers: 1
  dropout: 0.0
train:
  precision: fp32
  batch_tokens: 512
  learning_rate: 5e-3
  schedule: cosine
  warmup_steps: 40
  max_steps: 240
  validate_every: 80
  validation_lines: null
  validation_beam_size: null
  validation_length_limit: search
  keep_checkpoints: 9
search:
  max_length_offset: 5
"""
WORDS = [*INVENTED_WORDS, "tolu", "vemi"]


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[str]:
    return split_lines(path.read_text(encoding="utf-8"))


def split_lines(text: str) -> list[str]:
    """Split at newlines only; `splitlines` would also split at other line ends of Unicode."""
    return text.removesuffix("\n").split("\n")


def assert_silent_success(ended: Ended) -> None:
    """Check that a command succeeded and wrote nothing to stderr."""
    assert ended.code == 0, ended.err
    assert ended.err == ""


# The copy task: the translation of a sentence is the sentence itself


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a config and three sets of different sentences."""
    directory = tmp_path_factory.mktemp("task")
    generator = random.Random(1)
    sentences = []
    for _ in range(4000):
        num_words = generator.randint(2, 5)
        sentences.append(" ".join(generator.choices(WORDS, k=num_words)))
    sentences = list(dict.fromkeys(sentences))  # without duplicates
    sets = {
        "valid": sentences[:60],
        "test": sentences[60:120],
        "train": sentences[120:],
    }
    for name, lines in sets.items():
        write_lines(directory / f"{name}.aa", lines)
        write_lines(directory / f"{name}.bb", lines)
    (directory / "copy.yaml").write_text(CONFIG.format(directory), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def run_dir(task: Path) -> Path:
    """A run of the copy task, trained by the command in a process of its own."""
    run_dir = task / "run"
    command = ("mt", "train", "--config", task / "copy.yaml", "--run-dir", run_dir)
    ended = in_process(*command, "--device", "cpu")
    assert ended.stdout == ""
    return run_dir


@pytest.fixture(scope="module")
def validations(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that record a validation."""
    records = [json.loads(line) for line in read_lines(run_dir / "metrics.jsonl")]
    return [record for record in records if record["kind"] == "valid"]


def test_copy_task_is_learned(task: Path, run_dir: Path) -> None:
    src_path = task / "test.aa"
    ended = mt("translate", run_dir, "-i", src_path)
    assert_silent_success(ended)
    hypotheses = split_lines(ended.out)
    references = read_lines(src_path)
    pairs = list(zip(hypotheses, references, strict=True))
    num_correct = sum(hypothesis == reference for hypothesis, reference in pairs)
    assert num_correct >= 0.9 * len(pairs)


def test_evaluate_scores_the_test_sets_of_the_config(run_dir: Path) -> None:
    ended = mt("evaluate", run_dir)
    assert_silent_success(ended)
    rows = [line.split() for line in ended.out.splitlines()]
    assert [row[:2] for row in rows] == [["test", "BLEU"], ["test", "chrF"], ["test", "TER"]]
    bleu = float(rows[0][2])
    assert bleu > 90
    test_scores = json.loads(mt("evaluate", run_dir, "--json").out)["test"]
    assert test_scores["num_lines"] == 60
    for _, metric, value, signature in rows:
        assert "version:" in signature
        assert f"{test_scores[metric]['score']:.2f}" == value


def test_evaluate_compares_runs_and_files_with_the_first(run_dir: Path, tmp_path: Path) -> None:
    hyp = tmp_path / "hyp"
    lines = mt("translate", run_dir, "-i", run_dir.parent / "test.aa").out.splitlines()
    hyp.write_text("".join(f"{line[:-3]}\n" for line in lines), encoding="utf-8")
    ended = mt("evaluate", run_dir, run_dir, "--hyp", hyp, "--json")
    assert_silent_success(ended)
    compared = json.loads(ended.out)["test"]
    baseline, same, worse = compared["systems"]
    assert [baseline["system"], worse["system"]] == [str(run_dir), str(hyp)]
    single = json.loads(mt("evaluate", run_dir, "--json").out)["test"]
    for name in ("BLEU", "chrF", "TER"):
        assert baseline[name]["score"] == same[name]["score"] == single[name]["score"]
        assert same[name]["p_bootstrap"] == same[name]["p_randomization"] == 1.0
        assert worse[name]["p_randomization"] < 0.05


def test_evaluate_shows_its_set_on_a_terminal(run_dir: Path) -> None:
    with (
        terminal(columns=60) as screen,
        mt_process(
            "evaluate",
            run_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=screen.descriptor,
        ) as process,
    ):
        screen.wait_for("60 lines | test |")
        screen.wait_for("scoring | test |")
        assert process.stdout is not None
        assert process.stdout.read().decode() == mt("evaluate", run_dir).out
        screen.type("end\n")
        screen.wait_for("end\r\n")
    assert screen_lines(screen.received)[0] == "end", "the bar is removed"


def test_evaluate_without_test_sets_scores_the_validation_set(
    run_dir: Path, validations: list[dict[str, Any]], tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    config_path = copy / "config.yaml"
    without_test_sets = load_config(config_path, ["data.test=[]"])
    config_path.write_text(dump_config(without_test_sets), encoding="utf-8")
    scores = json.loads(mt("evaluate", copy, "--json").out)
    assert list(scores) == ["valid"]
    best_bleu = max(validation["BLEU"] for validation in validations)
    assert scores["valid"]["BLEU"]["score"] == best_bleu
    final = json.loads(read_lines(run_dir / "metrics.jsonl")[-1])
    assert final["kind"] == "final"
    for name in ("BLEU", "chrF"):
        assert final[name] == scores["valid"][name]["score"]
        assert final["signatures"][name] == scores["valid"][name]["signature"]


def test_validation_evaluate_and_sacrebleu_agree_to_the_last_digit(
    task: Path, run_dir: Path, validations: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The checkpoint makes errors, because every method agrees on the score of a perfect output."""
    validation = validations[0]
    assert 1.0 < validation["BLEU"] < 99.0
    options = ("--checkpoint", f"step_{validation['step']:08}", "--device", "cpu")
    src = task / "valid.aa"
    ref = task / "valid.bb"
    hyp = tmp_path / "hyp"

    evaluated = mt("evaluate", run_dir, "--src", src, "--ref", ref, "--json", *options)
    scores = json.loads(evaluated.out)["valid.aa"]
    assert mt("translate", run_dir, "-i", src, "-o", hyp, *options).code == 0
    sacrebleu = in_process("sacrebleu", ref, "-i", hyp, "-m", "bleu", "chrf", "ter", "-w", "14")

    our_names = {"BLEU": "BLEU", "chrF2": "chrF", "TER": "TER"}
    for result in json.loads(sacrebleu.stdout):
        score = scores[our_names[result["name"]]]
        assert f"{score['score']:.14f}" == f"{result['score']:.14f}"
        assert score["signature"] == result["signature"]
    for name in ("BLEU", "chrF"):
        assert validation[name] == scores[name]["score"]
        assert validation["signatures"][name] == scores[name]["signature"]
    scores_of_file = json.loads(mt("evaluate", "--hyp", hyp, "--ref", ref, "--json").out)
    assert scores_of_file["hyp"]["BLEU"]["score"] == validation["BLEU"]


def test_training_a_finished_run_again_says_so(task: Path, run_dir: Path) -> None:
    ended = mt("train", "-c", task / "copy.yaml", "--run-dir", run_dir, "--device", "cpu")
    assert ended.code == 0
    assert ended.out == ""
    assert "max_steps 240 reached" in ended.err


# mt translate

STRANGE_LINES = [
    "balo deru",
    "",
    "  ",
    "fimi\u2028gona",
    "hupe\u0085jasi\x0b\x0ckelo",
    "\u3000",
    "mavu",
    "",
]


@pytest.mark.parametrize(
    ("stdin", "num_lines"),
    [
        (b"", 0),
        (b"balo", 1),
        (b"balo\n", 1),
        (b"\n", 1),
        (b"\n\nbalo\n\n", 4),
        (b"balo\r\nderu\r\n", 2),
        (b"\xef\xbb\xbfbalo\nderu", 2),
        # Without a newline at the end, there is no last blank line.
        ("\n".join(STRANGE_LINES).encode(), len(STRANGE_LINES) - 1),
        ("\n".join(STRANGE_LINES).encode() + b"\n", len(STRANGE_LINES)),
    ],
)
def test_translate_prints_as_many_lines_as_it_reads(
    run_dir: Path, stdin: bytes, num_lines: int
) -> None:
    ended = mt("translate", run_dir, stdin=stdin)
    assert ended.code == 0, ended.err
    for message in ended.err.splitlines():
        assert "unseen characters" in message or "translate: split" in message
    assert ended.out.count("\n") == num_lines
    assert ended.out.endswith("\n") or num_lines == 0
    assert "\r" not in ended.out


def test_translations_are_in_order_and_blank_lines_stay_blank(run_dir: Path) -> None:
    ended = mt("translate", run_dir, stdin="\n".join(STRANGE_LINES) + "\n")
    translations = split_lines(ended.out)
    assert translations[0] == "balo deru"
    assert translations[6] == mt("translate", run_dir, stdin="mavu").out.strip()
    for line, translation in zip(STRANGE_LINES, translations, strict=True):
        if not line.strip():
            assert translation == ""


def test_line_ends_and_byte_order_mark_change_no_translation(run_dir: Path) -> None:
    plain = mt("translate", run_dir, stdin="balo deru\nfimi gona\n").out
    variants = [
        b"balo deru\r\nfimi gona\r\n",
        b"balo deru\nfimi gona",
        b"\xef\xbb\xbfbalo deru\nfimi gona\n",
    ]
    for stdin in variants:
        assert mt("translate", run_dir, stdin=stdin).out == plain


def test_translate_files_equals_translate_pipes(task: Path, run_dir: Path, tmp_path: Path) -> None:
    source = task / "test.aa"
    output = tmp_path / "deep" / "hyp"
    piped = mt("translate", run_dir, stdin=source.read_bytes())
    ended = mt("translate", run_dir, "-i", source, "-o", output)
    assert_silent_success(ended)
    assert ended.out == ""
    assert output.read_text(encoding="utf-8") == piped.out


def test_long_line_is_translated_in_parts_with_a_message(run_dir: Path) -> None:
    long_line = " ".join(WORDS * 4)
    ended = mt("translate", run_dir, stdin=f"balo deru\n{long_line}\n")
    assert ended.out.count("\n") == 2
    assert "1 of 2 lines" in ended.err
    assert "parts" in ended.err
    assert ended.err.count("\n") == 1


def test_n_best_lists_have_the_format_of_moses(run_dir: Path) -> None:
    ended = mt("translate", run_dir, "--n-best", "3", stdin="balo deru\n\nfimi gona hupe\n")
    rows = [line.split(" ||| ") for line in ended.out.splitlines()]
    assert [row[0] for row in rows] == ["0", "0", "0", "1", "2", "2", "2"]
    for _, text, log_prob, _ in rows:
        assert log_prob.startswith("log_prob=-") or text == ""
    for number in ("0", "2"):
        scores = [float(row[3]) for row in rows if row[0] == number]
        assert scores == sorted(scores, reverse=True)


def test_jsonl_counts_lines_as_n_best_lists_do(run_dir: Path) -> None:
    text = "balo deru\n\nfimi gona hupe\n"
    objects = split_lines(mt("translate", run_dir, "--jsonl", stdin=text).out)
    moses = split_lines(mt("translate", run_dir, "--n-best", "1", stdin=text).out)
    assert [json.loads(line)["index"] for line in objects] == [0, 1, 2]
    assert [int(line.split(" ||| ")[0]) for line in moses] == [0, 1, 2]


def test_jsonl_has_sources_and_scores(run_dir: Path) -> None:
    ended = mt("translate", run_dir, "--jsonl", "--n-best", "2", stdin='balo "deru"\nÜ\u2028\n')
    first, second = [json.loads(line) for line in split_lines(ended.out)]
    assert first["src"] == 'balo "deru"'
    assert second["src"] == "Ü\u2028"
    best, other = first["translations"]
    assert best["score"] >= other["score"]
    assert best.keys() == {"text", "score", "log_prob", "num_parts"}


@pytest.mark.parametrize("n_best", ["1", "2"])
def test_n_best_does_not_make_the_beam_smaller(run_dir: Path, n_best: str) -> None:
    """--n-best says how many translations to print, and --beam-size how to search.

    An early checkpoint is used, because the scores of its hypotheses are close to each other.
    """
    command = ("translate", run_dir, "--jsonl", "--checkpoint", "step_00000080")

    def best_translations(*options: str) -> list[dict[str, Any]]:
        ended = mt(*command, *options, stdin="balo deru xyz fimi\ngona 17 hupe\nabc def\n")
        return [json.loads(line)["translations"][0] for line in split_lines(ended.out)]

    default = best_translations()
    of_n_best = best_translations("--n-best", n_best)
    for expected, found in zip(default, of_n_best, strict=True):
        assert found["text"] == expected["text"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_n_best_over_beam_size_is_refused(run_dir: Path) -> None:
    ended = mt("translate", run_dir, "--n-best", "5", "--beam-size", "4")
    assert ended.code == 2
    assert ended.out == ""
    assert "--n-best" in ended.err
    assert "5 translations need --beam-size 5" in ended.err


@pytest.mark.parametrize("num_lines", [3, 3000])
def test_closed_pipe_ends_translate_quietly(run_dir: Path, num_lines: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mt", "translate", run_dir, "--beam-size", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    process.stdout.close()  # as `head` does, before mt writes or while it writes
    _, err = process.communicate(b"balo deru\n" * num_lines, timeout=60)
    assert err == b""
    assert process.returncode == 141


# The process of the command (mt/cli/process.py)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["translate", "nowhere"], 1), (["--what"], 2)]
)
def test_process_ends_after_exit_handlers_without_teardown(arguments: list[str], code: int) -> None:
    program = f"""
import atexit
import sys
from mt.cli import app, process

class PrintsWhenDeleted:
    def __del__(self):
        print("deleted")

prints_when_deleted = PrintsWhenDeleted()
real_main = app.main

def main():
    atexit.register(print, "exit handler")
    real_main()

app.main = main
sys.argv = ["mt", *{arguments}]
process.run()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stdout.endswith("exit handler\n")
    assert "deleted" not in ended.stdout
    assert "Traceback" not in ended.stderr


# Prints the settings, arguments and UTF-8 mode that `main` gets. Then prints whether two large
# blocks of memory, and a small one between them, become one block when they are freed.
PRINT_SETTINGS = """
import ctypes
import json
import os
import platform
import sys
from mt.cli import app, process

def freed_neighbors_merge():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    for _ in range(1000):
        libc.malloc(1000)  # uses up blocks that are free elsewhere
    first = libc.malloc(50_000)
    small = libc.malloc(1000)
    second = libc.malloc(50_000)
    libc.malloc(1000)
    assert first < small < second, "they are not in a row"
    for block in (first, second, small):
        libc.free(block)
    return libc.malloc(100_000) == first

def main():
    settings = {name: os.environ[name] for name in process.SETTINGS}
    print(json.dumps([settings, sys.argv[1:], sys.flags.utf8_mode]))
    print(freed_neighbors_merge() if platform.libc_ver()[0] == "glibc" else "not glibc")

app.main = main
process.run()
"""
WITHOUT_SETTINGS = {name: value for name, value in os.environ.items() if name not in SETTINGS}


@pytest.mark.parametrize(
    "user_settings",
    [{}, {"GOMP_SPINCOUNT": "7"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}],
    ids=str,
)
def test_process_adds_settings_that_the_user_has_not_set(user_settings: dict[str, str]) -> None:
    arguments = ["--beam", "two words", ""]
    ended = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", PRINT_SETTINGS, *arguments],
        env={**WITHOUT_SETTINGS, **user_settings},
        check=True,
        capture_output=True,
        text=True,
    )
    seen, merges = ended.stdout.splitlines()
    settings, seen_arguments, utf8_mode = json.loads(seen)
    assert settings == {**SETTINGS, **user_settings}
    assert seen_arguments == arguments
    assert utf8_mode == 1, "options of Python itself are kept"
    if merges != "not glibc":
        expected = "GLIBC_TUNABLES" not in user_settings
        assert merges == str(expected), "a small freed block must not separate large ones"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, where the process restarts")
@pytest.mark.parametrize("setting_survives", [True, False])
@pytest.mark.parametrize("as_module", [True, False])
def test_process_restarts_exactly_once(
    tmp_path: Path, as_module: bool, setting_survives: bool
) -> None:
    program = "import os, sys\nprint('started', file=sys.stderr)\n"
    if not setting_survives:  # as where the system removes it from processes with privileges
        program += "os.environ.pop('GLIBC_TUNABLES', None)\n"
    (tmp_path / "sitecustomize.py").write_text(program, encoding="utf-8")
    command = [str(Path(sys.executable).with_name("mt"))]
    if as_module:
        command = [sys.executable, "-m", "mt"]
    ended = subprocess.run(
        [*command, "--help"],
        env={**WITHOUT_SETTINGS, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ended.stderr == "started\n" * 2
    assert "translator" in ended.stdout


def test_process_continues_where_it_cannot_restart() -> None:
    program = """
import sys
sys.executable = ""
sys.argv = ["mt", "--help"]
from mt.cli.process import run
run()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=WITHOUT_SETTINGS,
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert "translator" in ended.stdout


# Help and wrong usage


def test_help_is_fast_and_does_not_import_torch() -> None:
    program = """
import sys
from mt.cli.app import main
sys.argv = ["mt", "--help"]
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu_seconds < 0.5
    for command in ("train", "translate", "evaluate", "tokenizer"):
        assert command in ended.stdout


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("train",),
        ("translate",),
        ("evaluate",),
        ("tokenizer",),
        ("tokenizer", "train"),
        ("tokenizer", "encode"),
        ("tokenizer", "decode"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(command: tuple[str, ...], option: str) -> None:
    ended = mt(*command, option)
    assert_silent_success(ended)
    assert "Usage: " in ended.out
    assert "[[" not in ended.out


def test_help_explains_defaults_that_are_not_values() -> None:
    assert "[default: stdin]" in " ".join(mt("translate", "--help").out.split())
    assert "[default: the config's]" in " ".join(mt("train", "--help").out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("tranlate",),
        ("train",),
        ("train", "x.yaml", "--config", "y.yaml"),
        ("check",),
        ("check", "x.yaml", "-c", "y.yaml"),
        ("train", "--config"),
        ("train", "--config", "x.yaml", "--devise", "cpu"),
        ("train", "--config", "x.yaml", "--device", "tpu"),
        ("translate",),
        ("translate", "run", "--beam-size", "0"),
        ("translate", "run", "--n-best", "some"),
        ("evaluate",),
        ("evaluate", "run", "--src", "a"),
        ("evaluate", "run", "--ref", "a"),
        ("evaluate", "--hyp", "a"),
        ("evaluate", "--hyp", "a", "--src", "c"),
        ("evaluate", "--hyp", "a", "--ref", "b", "--by-length"),
        ("evaluate", "--hyp", "a", "--ref", "b", "--metric", "meteor"),
        ("evaluate", "run", "--hyp", "a", "--ref", "b"),
        ("evaluate", "run", "--lang", "de"),
        ("tokenizer", "train", "--model", "m"),
    ],
    ids=" ".join,
)
def test_wrong_usage_has_exit_code_2(arguments: tuple[str, ...]) -> None:
    ended = mt(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert "Error: " in ended.err
    assert "Traceback" not in ended.err


def test_wrong_command_gets_the_nearest_one() -> None:
    assert "Did you mean 'train'?" in mt("trian").err
    assert "'translate'" in mt("tranlate", "run").err


@pytest.mark.parametrize("command", ["train", "check"])
def test_missing_and_second_config_are_named(command: str) -> None:
    assert "wanted a config file or a run directory" in mt(command).err
    both = mt(command, "first.yaml", "--config", "second.yaml").err
    assert_contains(" ".join(both.split()), "wanted one config", "first.yaml", "second.yaml")


# mt tokenizer


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_tokenizer_decode_inverts_encode(task: Path, tmp_path: Path, kind: str) -> None:
    model = tmp_path / "tokenizer.model"
    texts = (task / "valid.aa", task / "test.aa")
    options = ("-m", model, "--vocab-size", "300", "--kind", kind)
    ended = mt("tokenizer", "train", *texts, *options)
    assert_silent_success(ended)
    assert ended.out == ""

    text = "balo deru\n\n  fimi \u2028 x\tÜ😀 <s> \u2581\n"
    ids = mt("tokenizer", "encode", "-m", model, stdin=text).out
    assert ids.count("\n") == text.count("\n")
    assert mt("tokenizer", "decode", "-m", model, stdin=ids).out == text
    ids_file = write_lines(tmp_path / "ids", split_lines(ids))
    assert mt("tokenizer", "decode", "-m", model, "-i", ids_file).out == text

    pieces = mt("tokenizer", "encode", "-m", model, "--pieces", stdin="balo deru\n").out
    assert pieces.replace(" ", "").replace("\u2581", " ").strip() == "balo deru"


# Mistakes of a user


def error_of(*arguments: str | Path, stdin: str | bytes = b"") -> str:
    """Run a command that fails, and return its error message without the prefix "mt: ".

    It must be a single line, with exit code 1 and nothing on stdout. Training may log before it.
    """
    ended = mt(*arguments, stdin=stdin)
    assert ended.code == 1
    assert ended.out == ""
    lines = ended.err.splitlines()
    errors = [line for line in lines if not line.startswith(("tokenizer: ", "train: "))]
    assert len(errors) == 1, ended.err
    assert errors[0].startswith("mt: ")
    return errors[0].removeprefix("mt: ")


def assert_contains(message: str, *contents: str) -> None:
    for content in contents:
        assert content in message


@pytest.fixture
def small_task(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config and small files that a test may damage."""
    for path in task.glob("*.??"):
        write_lines(tmp_path / path.name, read_lines(path)[:60])
    (tmp_path / "copy.yaml").write_text(CONFIG.format("."), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def replace_in_config(old: str, new: str) -> int:
    """Change the config in the working directory, and return the number of the changed line."""
    path = Path("copy.yaml")
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


TRAIN = ("train", "-c", "copy.yaml", "--device", "cpu")


def test_missing_config_is_named(small_task: Path) -> None:
    message = error_of("train", "-c", "cpoy.yaml")
    assert_contains(message, "cpoy.yaml:", "No such file or directory")


@pytest.mark.parametrize("command", ["train", "check"])
def test_config_is_an_argument_or_an_option(small_task: Path, command: str) -> None:
    replace_in_config("dropout: 0.0", "droput: 0.0")
    as_argument = mt(command, "copy.yaml")
    assert as_argument.code == 1
    assert "did you mean dropout?" in as_argument.out + as_argument.err
    for option in ("--config", "-c"):
        assert mt(command, option, "copy.yaml") == as_argument


def test_changed_config_is_refused_until_fresh_is_given(small_task: Path, run_dir: Path) -> None:
    shutil.copytree(run_dir, "runs/copy")
    changes = ("train.max_steps=2", "train.warmup_steps=1", "tokenizer.vocab_size=320")
    options = [word for change in changes for word in ("--set", change)]
    assert "--fresh" in mt(*TRAIN, *options).err
    ended = mt(*TRAIN, *options, "--fresh")
    assert ended.code == 0, ended.err
    assert "runs/copy.1" in ended.err
    assert Path("runs/copy.1/checkpoints/step_00000240").is_dir()
    assert [path.name for path in Path("runs/copy/checkpoints").glob("step_*")] == ["step_00000002"]


def test_yaml_error_has_line_and_column(small_task: Path) -> None:
    line = replace_in_config("dropout: 0.0", "dropout 0.0")
    assert_contains(error_of(*TRAIN), f"copy.yaml:{line}:", "YAML", "expected ':'", "column 3")


@pytest.mark.parametrize(
    ("old", "new", "contents"),
    [
        ("num_heads: 4", "n_heads: 4", ["model.n_heads: unknown key", "num_heads?"]),
        (
            "  max_length: 24\n",
            "  max_lenght: 24\n",
            ["data.max_lenght: unknown key", "max_length?"],
        ),
        ("d_model: 64", "d_model: big", ["model.d_model:", "integer", 'found "big"']),
        ("d_model: 64", 'd_model: "64"', ["model.d_model:", "integer", 'found "64"']),
        ("dropout: 0.0", "dropout: 1.5", ["model.dropout:", "less than 1", "found 1.5"]),
        (
            "num_heads: 4",
            "num_heads: 3",
            ["model.num_heads:", "divisor of model.d_model (64)", "found 3"],
        ),
        (
            "precision: fp32",
            "precision: fp8",
            ["train.precision:", "'auto', 'fp32', 'bf16' or 'fp16'", 'found "fp8"'],
        ),
    ],
)
def test_config_error_has_line_key_and_value(
    small_task: Path, old: str, new: str, contents: list[str]
) -> None:
    line = replace_in_config(old, new)
    message = error_of(*TRAIN)
    assert message.startswith(f"copy.yaml:{line}: ")
    assert_contains(message, *contents)


def test_error_in_set_option_repeats_the_option(small_task: Path) -> None:
    unknown_key = error_of(*TRAIN, "--set", "model.n_heads=4")
    assert unknown_key.startswith("--set model.n_heads=4: ")
    assert_contains(unknown_key, "unknown key", "num_heads?")
    no_value = error_of(*TRAIN, "--set", "epochs")
    assert no_value.startswith("--set epochs: ")
    assert_contains(no_value, "KEY=VALUE")


@pytest.mark.parametrize("name", ["train.aa", "train.bb", "valid.aa", "valid.bb"])
def test_missing_text_file_is_named(small_task: Path, name: str) -> None:
    path = small_task / name
    path.unlink()
    assert_contains(error_of(*TRAIN), f"{path}: no such file", ".gz")


def test_different_numbers_of_training_lines_are_named(small_task: Path) -> None:
    src = small_task / "train.aa"
    tgt = small_task / "train.bb"
    write_lines(tgt, read_lines(tgt)[:59])
    assert_contains(error_of(*TRAIN), f"{src} has 60 lines", f"{tgt} has 59")


def test_different_numbers_of_validation_lines_are_named(small_task: Path) -> None:
    src = write_lines(small_task / "valid.aa", ["balo"])
    tgt = small_task / "valid.bb"
    assert_contains(error_of(*TRAIN), f"{tgt}: 60 lines", f"{src} has 1")


@pytest.mark.parametrize("name", ["train.bb", "valid.aa"])
def test_latin_1_file_is_named_with_line_and_column(small_task: Path, name: str) -> None:
    path = small_task / name
    lines = read_lines(path)
    lines[2] = "balo größer"
    path.write_bytes("\n".join(lines).encode("latin-1"))
    message = error_of(*TRAIN)
    assert message.startswith(f"{path}:3: ")
    assert_contains(message, "not UTF-8", "0xF6", "column 8", "iconv")


@pytest.mark.parametrize("name", ["train.aa", "valid.aa"])
def test_empty_file_is_named(small_task: Path, name: str) -> None:
    path = small_task / name
    path.write_bytes(b"")
    assert_contains(error_of(*TRAIN), f"{path}:", "empty")


def test_corpus_of_blank_lines_is_refused(small_task: Path) -> None:
    write_lines(small_task / "train.bb", [""] * 60)
    message = error_of(*TRAIN, "--set", "tokenizer.vocab_size=300")
    assert_contains(message, "no training pair", "0 of 60", "60 blank")


def test_too_large_vocabulary_names_the_largest_possible(small_task: Path) -> None:
    message = error_of(*TRAIN, "--set", "tokenizer.vocab_size=9000")
    assert_contains(message, "vocab_size 9000", "it can be ")


@pytest.mark.parametrize(
    "command",
    [("train", "-c", "copy.yaml"), ("translate", "run"), ("evaluate", "run")],
    ids=" ".join,
)
def test_missing_cuda_device_is_named(
    small_task: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (small_task / "run").symlink_to(run_dir)
    message = error_of(*command, "--device", "cuda")
    assert_contains(message, "device cuda:", "no CUDA device", "--device cpu")


@pytest.mark.parametrize("command", ["translate", "evaluate"])
def test_missing_run_directory_is_named(small_task: Path, command: str) -> None:
    assert_contains(error_of(command, "runs/copy"), "runs/copy: no such run directory")


@pytest.mark.parametrize("command", ["translate", "evaluate"])
def test_directory_that_is_not_a_run_is_named(small_task: Path, command: str) -> None:
    message = error_of(command, ".")
    assert message.startswith(".: ")
    assert_contains(message, "not a run directory", "config.yaml")


def test_run_without_checkpoint_is_named(small_task: Path, run_dir: Path) -> None:
    shutil.copytree(run_dir, "young", ignore=shutil.ignore_patterns("checkpoints"))
    assert_contains(error_of("translate", "young"), "young/checkpoints:", "no best checkpoint")


def test_run_without_tokenizer_is_named(small_task: Path, run_dir: Path) -> None:
    shutil.copytree(run_dir, "incomplete", ignore=shutil.ignore_patterns("tokenizer.model"))
    message = error_of("translate", "incomplete")
    assert_contains(message, "incomplete/tokenizer.model:", "No such file or directory")


def test_missing_or_undecodable_input_is_named(small_task: Path, run_dir: Path) -> None:
    missing = error_of("translate", run_dir, "-i", "text.aa")
    assert_contains(missing, "text.aa:", "No such file or directory")
    undecodable = error_of("translate", run_dir, stdin=b"d\xe9ru\nbalo\n")
    assert undecodable.startswith("stdin:1: ")
    assert_contains(undecodable, "not UTF-8", "0xE9", "column 2", "iconv")


def test_references_of_another_length_are_named(small_task: Path, run_dir: Path) -> None:
    write_lines(small_task / "short", ["balo"])
    message = error_of("evaluate", run_dir, "--src", "test.aa", "--ref", "short")
    assert_contains(message, "short: 1 line, ", "test.aa has 60")


@pytest.mark.parametrize("word", ["x", "-1", "350", "1" * 5000, "٣"])
def test_word_that_is_not_an_id_is_named(run_dir: Path, word: str) -> None:
    model = run_dir / "tokenizer.model"
    message = error_of("tokenizer", "decode", "-m", model, stdin=f"5 {word} 6\n")
    assert_contains(message, "line 1:", "0 to 349", f"found {word!r}")


def test_ids_of_a_newline_are_refused(run_dir: Path) -> None:
    """They would make two lines of one."""
    model = run_dir / "tokenizer.model"
    newline_id, _ = Tokenizer.load(model).encode(["\n"])[0][-2:]
    ended = mt("tokenizer", "decode", "-m", model, stdin=f"300\n300 {newline_id} 301\n")
    assert ended.code == 1
    assert ended.out.count("\n") == 1
    assert ended.err.startswith("mt: line 2: ")
    assert "newline" in ended.err


def test_same_command_trains_after_mistakes_are_corrected(small_task: Path) -> None:
    """A run that has not started keeps neither its config nor a tokenizer of damaged text."""
    changes = ("train.max_steps=2", "train.warmup_steps=1", "tokenizer.vocab_size=320")
    options = [word for change in changes for word in ("--set", change)]
    tgt = small_task / "train.bb"
    correct_lines = read_lines(tgt)

    replace_in_config("prefix: ./train", "prefix: ./trian")
    assert_contains(error_of(*TRAIN, *options), "trian.aa: no such file")
    replace_in_config("prefix: ./trian", "prefix: ./train")

    write_lines(tgt, [*(line.upper() for line in correct_lines), "one line too many"])
    assert_contains(error_of(*TRAIN, *options), "60 lines", "61")
    write_lines(tgt, correct_lines)

    assert mt(*TRAIN, *options).code == 0
    assert mt(*TRAIN, *options, "--run-dir", "clean").code == 0
    tokenizer = small_task / "runs/copy/tokenizer.model"
    clean_tokenizer = small_task / "clean/tokenizer.model"
    assert tokenizer.read_bytes() == clean_tokenizer.read_bytes()


def test_deleted_current_directory_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = f"import os; os.rmdir({str(gone)!r}); from mt.cli.app import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "--version"], cwd=gone, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr == "mt: the current directory was deleted; change to another one\n"
