"""From text to score through the command line, and what it says to a newcomer's mistakes."""

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
from shell import in_process, mt

from mt.cli.process import SETTINGS
from mt.config.load import dump_config, load_config

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
  keep_checkpoints: 9
search:
  max_length_offset: 5
"""
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
    "tolu",
    "vemi",
]


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


# The copy task: what is to be translated is to be repeated


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with three sets of sentences, none in two of them, and a config."""
    directory = tmp_path_factory.mktemp("task")
    draw = random.Random(1)
    sentences = {" ".join(draw.choices(WORDS, k=draw.randint(2, 5))): None for _ in range(4000)}
    lines = list(sentences)
    for name, part in (("valid", lines[:60]), ("test", lines[60:120]), ("train", lines[120:])):
        for lang in ("aa", "bb"):
            write_lines(directory / f"{name}.{lang}", part)
    (directory / "copy.yaml").write_text(CONFIG.format(directory), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def run_dir(task: Path) -> Path:
    """The task, learned by the command in a process of its own."""
    done = in_process(
        "mt", "train", "--config", task / "copy.yaml", "--run-dir", task / "run", "--device", "cpu"
    )
    assert done.stdout == ""
    return task / "run"


@pytest.fixture(scope="module")
def validations(run_dir: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, read_lines(run_dir / "metrics.jsonl"))
    return [line for line in lines if line["kind"] == "valid"]


def test_copying_is_learned(task: Path, run_dir: Path) -> None:
    src = task / "test.aa"
    done = mt("translate", run_dir, "-i", src)
    assert (done.code, done.err) == (0, "")
    pairs = list(zip(done.out.removesuffix("\n").split("\n"), read_lines(src), strict=True))
    assert sum(hyp == ref for hyp, ref in pairs) >= 0.9 * len(pairs)


def test_copying_scores_high_on_the_sets_of_the_config(run_dir: Path) -> None:
    done = mt("evaluate", run_dir)
    assert (done.code, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines()]
    assert [row[:2] for row in rows] == [["test", "BLEU"], ["test", "chrF"], ["test", "TER"]]
    assert float(rows[0][2]) > 90
    assert all("version:" in row[3] for row in rows)
    as_json = json.loads(mt("evaluate", run_dir, "--json").out)
    assert as_json["test"]["num_lines"] == 60
    assert [f"{as_json['test'][row[1]]['score']:.2f}" for row in rows] == [row[2] for row in rows]


def test_a_config_without_test_sets_has_its_validation_set_scored(
    run_dir: Path, validations: list[dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(dump_config(load_config(config, ["data.test=[]"])), encoding="utf-8")
    scores = json.loads(mt("evaluate", tmp_path / "run", "--json").out)
    assert list(scores) == ["valid"]
    assert scores["valid"]["BLEU"]["score"] == max(line["BLEU"] for line in validations)


def test_three_processes_agree_on_bleu_to_the_last_digit(
    task: Path, run_dir: Path, validations: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Of a checkpoint that errs, for all ways to count agree on the score of perfection."""
    chosen = validations[0]
    assert 1.0 < chosen["BLEU"] < 99.0
    checkpoint = ("--checkpoint", f"step_{chosen['step']:08}", "--device", "cpu")
    src, ref, hyp = task / "valid.aa", task / "valid.bb", tmp_path / "hyp"

    evaluated = in_process(
        "mt", "evaluate", run_dir, "--src", src, "--ref", ref, "--json", *checkpoint
    )
    scores = json.loads(evaluated.stdout)["valid.aa"]
    in_process("mt", "translate", run_dir, "-i", src, "-o", hyp, *checkpoint)
    counted = in_process("sacrebleu", ref, "-i", hyp, "-m", "bleu", "chrf", "ter", "-w", "14")

    for found in json.loads(counted.stdout):
        name = {"chrF2": "chrF"}.get(found["name"], found["name"])
        assert f"{scores[name]['score']:.14f}" == f"{found['score']:.14f}"
        assert scores[name]["signature"] == found["signature"]
    for name in ("BLEU", "chrF"):
        assert chosen[name] == scores[name]["score"]
        assert chosen["signatures"][name] == scores[name]["signature"]
    assert mt("evaluate", "--hyp", hyp, "--ref", ref, "--json").out.count(str(chosen["BLEU"])) == 1


def test_the_command_that_trained_a_run_says_that_it_is_finished(task: Path, run_dir: Path) -> None:
    done = mt("train", "-c", task / "copy.yaml", "--run-dir", run_dir, "--device", "cpu")
    assert (done.code, done.out) == (0, "")
    assert "max_steps 240 reached" in done.err


# Lines in, lines out

STRANGE = [
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
        ("\n".join(STRANGE).encode(), len(STRANGE) - 1),
        ("\n".join(STRANGE).encode() + b"\n", len(STRANGE)),
    ],
)
def test_as_many_lines_come_out_as_go_in(run_dir: Path, stdin: bytes, num_lines: int) -> None:
    done = mt("translate", run_dir, stdin=stdin)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == num_lines
    assert done.out.endswith("\n") or not num_lines
    assert "\r" not in done.out


def test_line_i_answers_line_i_and_blank_lines_stay_blank(run_dir: Path) -> None:
    answers = mt("translate", run_dir, stdin="\n".join(STRANGE) + "\n").out.split("\n")
    assert (answers[0], answers[6]) == (
        "balo deru",
        mt("translate", run_dir, stdin="mavu").out.strip(),
    )
    assert [answers[i] for i, line in enumerate(STRANGE) if not line.strip()] == ["", "", "", ""]


def test_line_ends_of_other_systems_and_a_missing_last_one_change_nothing(run_dir: Path) -> None:
    plain = mt("translate", run_dir, stdin="balo deru\nfimi gona\n").out
    for stdin in (
        b"balo deru\r\nfimi gona\r\n",
        b"balo deru\nfimi gona",
        b"\xef\xbb\xbfbalo deru\nfimi gona\n",
    ):
        assert mt("translate", run_dir, stdin=stdin).out == plain


def test_files_serve_as_well_as_pipes(task: Path, run_dir: Path, tmp_path: Path) -> None:
    piped = mt("translate", run_dir, stdin=(task / "test.aa").read_bytes())
    done = mt("translate", run_dir, "-i", task / "test.aa", "-o", tmp_path / "deep" / "hyp")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "deep" / "hyp").read_text(encoding="utf-8") == piped.out


def test_an_over_long_line_is_translated_in_parts_and_the_user_is_told(run_dir: Path) -> None:
    done = mt("translate", run_dir, stdin="balo deru\n" + " ".join(WORDS * 4) + "\n")
    assert done.out.count("\n") == 2
    assert done.err.startswith("warning: line 2: over 24 tokens: translated in ")


def test_n_best_lists_have_the_form_of_moses(run_dir: Path) -> None:
    done = mt("translate", run_dir, "--n-best", "3", stdin="balo deru\n\nfimi gona hupe\n")
    rows = [line.split(" ||| ") for line in done.out.splitlines()]
    assert [row[0] for row in rows] == ["0"] * 3 + ["1"] + ["2"] * 3
    assert all(len(row) == 4 and row[2].startswith("log_prob=-") for row in rows if row[1])
    for number in ("0", "2"):
        scores = [float(row[3]) for row in rows if row[0] == number]
        assert scores == sorted(scores, reverse=True)


def test_jsonl_tells_the_source_and_all_scores(run_dir: Path) -> None:
    done = mt("translate", run_dir, "--jsonl", "--n-best", "2", stdin='balo "deru"\nÜ\u2028\n')
    first, second = (json.loads(line) for line in done.out.removesuffix("\n").split("\n"))
    assert (first["line"], first["src"], len(first["translations"])) == (1, 'balo "deru"', 2)
    assert (second["line"], second["src"]) == (2, "Ü\u2028")
    best, other = first["translations"]
    assert best["score"] >= other["score"]
    assert best.keys() == {"text", "score", "log_prob", "num_parts"}


@pytest.mark.parametrize("n_best", ["1", "2"])
def test_asking_for_fewer_translations_does_not_search_with_less_care(
    run_dir: Path, n_best: str
) -> None:
    """--n-best says what to print, --beam-size how to search: an undecided model tells the difference."""
    options = ("translate", run_dir, "--jsonl", "--checkpoint", "step_00000080")
    stdin = "balo deru xyz fimi\ngona 17 hupe\nabc def\n"
    plain, listed = (
        [
            json.loads(line)["translations"][0]
            for line in mt(*options, *more, stdin=stdin).out.splitlines()
        ]
        for more in ((), ("--n-best", n_best))
    )
    assert [each["text"] for each in listed] == [each["text"] for each in plain]
    assert [each["score"] for each in listed] == pytest.approx(
        [each["score"] for each in plain], abs=1e-5
    )


def test_more_translations_than_the_beam_holds_are_refused(run_dir: Path) -> None:
    done = mt("translate", run_dir, "--n-best", "5", "--beam-size", "4")
    assert done.code == 2
    assert "5 translations need --beam-size 5 at least" in done.err


@pytest.mark.parametrize("num_lines", [3, 3000])
def test_a_reader_who_has_seen_enough_ends_it_quietly(run_dir: Path, num_lines: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mt", "translate", run_dir, "--beam-size", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    process.stdout.close()  # as `head` does, before or while mt writes
    _, err = process.communicate(b"balo deru\n" * num_lines, timeout=60)
    assert err == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["translate", "nowhere"], 1), (["--what"], 2)]
)
def test_a_process_ends_at_once_after_what_others_want_done_at_its_end(
    arguments: list[str], code: int
) -> None:
    program = f"""
import atexit, sys
from mt.cli import app as cli
from mt.cli import process
class Slow:
    def __del__(self):
        print("taken down")
slow = Slow()
def main(main=cli.main):
    atexit.register(print, "the last wish")
    main()
cli.main = main
sys.argv = ["mt", *{arguments}]
process.run()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.endswith("the last wish\n")
    assert "taken down" not in done.stdout
    assert "Traceback" not in done.stderr


# What a process is started with

# It prints what `main` would see, and whether two large blocks of memory and a small one between them, freed, are one.
SETTINGS_SEEN = """
import ctypes, json, os, platform, sys
from mt.cli import app as cli
from mt.cli import process

def neighbours_merge():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    held = [libc.malloc(1000) for _ in range(1000)]  # what lies free elsewhere is used up
    first, small, second, _ = (libc.malloc(size) for size in (50_000, 1000, 50_000, 1000))
    assert first < small < second, "they do not lie in a row"
    for block in (first, second, small):
        libc.free(block)
    return libc.malloc(100_000) == first

def main():
    print(json.dumps([{name: os.environ[name] for name in process.SETTINGS}, sys.argv[1:], sys.flags.utf8_mode]))
    print(neighbours_merge() if platform.libc_ver()[0] == "glibc" else "not glibc")

cli.main = main
process.run()
"""
WITHOUT_SETTINGS = {name: value for name, value in os.environ.items() if name not in SETTINGS}


@pytest.mark.parametrize(
    "own", [{}, {"GOMP_SPINCOUNT": "7"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}], ids=str
)
def test_a_process_has_our_settings_where_the_user_has_none(own: dict[str, str]) -> None:
    command = [sys.executable, "-X", "utf8", "-c", SETTINGS_SEEN, "--beam", "two words", ""]
    done = subprocess.run(
        command, env={**WITHOUT_SETTINGS, **own}, check=True, capture_output=True, text=True
    )
    seen, merges = done.stdout.splitlines()
    assert json.loads(seen) == [{**SETTINGS, **own}, ["--beam", "two words", ""], 1], (
        "it starts anew as it was started"
    )
    wanted = str("GLIBC_TUNABLES" not in own)
    assert merges in (wanted, "not glibc"), "a small freed block is no wall between two large ones"


@pytest.mark.skipif(sys.platform != "linux", reason="a process starts anew for glibc's sake")
@pytest.mark.parametrize("survives", [True, False])
@pytest.mark.parametrize("as_module", [True, False])
def test_the_command_starts_anew_once_and_once_only(
    tmp_path: Path, as_module: bool, survives: bool
) -> None:
    program = "import os, sys\nprint('started', file=sys.stderr)\n"
    if not survives:  # as where the system takes it from processes with rights of their own
        program += "os.environ.pop('GLIBC_TUNABLES', None)\n"
    (tmp_path / "sitecustomize.py").write_text(program, encoding="utf-8")
    command = (
        [sys.executable, "-m", "mt"] if as_module else [str(Path(sys.executable).with_name("mt"))]
    )
    environment = {**WITHOUT_SETTINGS, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "--help"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stderr == "started\n" * 2
    assert "translator" in done.stdout


def test_where_it_cannot_start_anew_it_goes_on_without() -> None:
    program = "import sys; sys.executable = ''; sys.argv = ['mt', '--help']; from mt.cli.process import run; run()"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=WITHOUT_SETTINGS, check=True, capture_output=True, text=True, timeout=20
    )
    assert "translator" in done.stdout


# Help


def test_help_answers_at_once_and_without_torch() -> None:
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
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5, (
        "seconds of CPU time"
    )
    assert all(
        command in done.stdout for command in ("train", "translate", "evaluate", "tokenizer")
    )


@pytest.mark.parametrize(
    "command", [(), ("train",), ("translate",), ("evaluate",), ("tokenizer",)]
    + [("tokenizer", name) for name in ("train", "encode", "decode")],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_explains_itself(command: tuple[str, ...], option: str) -> None:
    done = mt(*command, option)
    assert (done.code, done.err) == (0, "")
    assert "Usage: " in done.out
    assert "[[" not in done.out


def test_a_default_that_is_not_a_value_is_explained_too() -> None:
    assert "[default: stdin]" in " ".join(mt("translate", "--help").out.split())
    assert "[default: the config's]" in " ".join(mt("train", "--help").out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("tranlate",),
        ("train",),
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
        ("evaluate", "--hyp", "a", "--ref", "b", "--src", "c"),
        ("evaluate", "run", "--hyp", "a", "--ref", "b"),
        ("tokenizer", "train", "--model", "m"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = mt(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Error: " in done.err
    assert "Traceback" not in done.err


# The tokenizer alone


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_tokenizer_takes_text_apart_and_puts_it_together(
    task: Path, tmp_path: Path, kind: str
) -> None:
    model = tmp_path / "tokenizer.model"
    done = mt(
        "tokenizer",
        "train",
        task / "valid.aa",
        task / "test.aa",
        "-m",
        model,
        "--vocab-size",
        "300",
        "--kind",
        kind,
    )
    assert (done.code, done.out, done.err) == (0, "", "")
    text = "balo deru\n\n  fimi \u2028 x\tÜ😀 <s> \u2581\n"
    ids = mt("tokenizer", "encode", "-m", model, stdin=text)
    assert ids.out.count("\n") == text.count("\n")
    assert mt("tokenizer", "decode", "-m", model, stdin=ids.out).out == text
    write_lines(tmp_path / "ids", ids.out.removesuffix("\n").split("\n"))
    assert mt("tokenizer", "decode", "-m", model, "-i", tmp_path / "ids").out == text
    pieces = mt("tokenizer", "encode", "-m", model, "--pieces", stdin="balo deru\n").out
    assert pieces.replace(" ", "").replace("\u2581", " ").strip() == "balo deru"


# A newcomer's mistakes


def mistake(*arguments: str | Path, stdin: str | bytes = b"") -> str:
    """What the command says of a mistake: one line and no traceback, exit code 1, nothing on stdout."""
    done = mt(*arguments, stdin=stdin)
    assert (done.code, done.out) == (1, "")
    complaint = [
        line for line in done.err.splitlines() if not line.startswith(("tokenizer: ", "train: "))
    ]
    assert len(complaint) == 1, done.err
    assert complaint[0].startswith("mt: ")
    return complaint[0].removeprefix("mt: ")


@pytest.fixture
def beginner(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which a config and its files can be spoilt; commands run there."""
    for path in task.glob("*.??"):
        write_lines(tmp_path / path.name, read_lines(path)[:60])
    (tmp_path / "copy.yaml").write_text(CONFIG.format("."), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def replace_in_config(old: str, new: str) -> int:
    """Change the config in the working directory; the number of the changed line."""
    text = Path("copy.yaml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    Path("copy.yaml").write_text(text.replace(old, new), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


TRAIN = ("train", "-c", "copy.yaml", "--device", "cpu")


def test_a_missing_config_is_named(beginner: Path) -> None:
    assert (
        mistake("train", "-c", "cpoy.yaml")
        == "cpoy.yaml: cannot be read as a config: No such file or directory"
    )


def test_a_slip_in_yaml_is_named_with_its_line(beginner: Path) -> None:
    line = replace_in_config("dropout: 0.0", "dropout 0.0")
    assert mistake(*TRAIN) == f"copy.yaml:{line}: not YAML: could not find expected ':' (column 3)"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("num_heads: 4", "n_heads: 4", "model.n_heads: unknown key (did you mean num_heads?)"),
        (
            "  max_length: 24\n",
            "  max_lenght: 24\n",
            "data.max_lenght: unknown key (did you mean max_length?)",
        ),
        ("d_model: 64", "d_model: big", 'model.d_model: wanted a valid integer, found "big"'),
        ("d_model: 64", 'd_model: "64"', 'model.d_model: wanted a valid integer, found "64"'),
        ("dropout: 0.0", "dropout: 1.5", "model.dropout: wanted less than 1, found 1.5"),
        (
            "num_heads: 4",
            "num_heads: 3",
            "model.num_heads: wanted a divisor of model.d_model (64), found 3",
        ),
        (
            "precision: fp32",
            "precision: fp8",
            "train.precision: wanted 'auto', 'fp32', 'bf16' or 'fp16', found \"fp8\"",
        ),
    ],
)
def test_a_mistake_in_the_config_is_named_with_line_and_key(
    beginner: Path, old: str, new: str, said: str
) -> None:
    line = replace_in_config(old, new)
    assert mistake(*TRAIN) == f"copy.yaml:{line}: {said}"


def test_a_mistake_on_the_command_line_is_named_as_it_was_typed(beginner: Path) -> None:
    assert (
        mistake(*TRAIN, "--set", "model.n_heads=4")
        == "--set model.n_heads=4: unknown key (did you mean num_heads?)"
    )
    assert (
        mistake(*TRAIN, "--set", "epochs")
        == "--set epochs: wanted KEY=VALUE, such as train.learning_rate=3e-4"
    )


@pytest.mark.parametrize("name", ["train.aa", "train.bb", "valid.aa", "valid.bb"])
def test_a_missing_file_of_text_is_named(beginner: Path, name: str) -> None:
    (beginner / name).unlink()
    assert mistake(*TRAIN) == f"{beginner / name}: no such file (nor {beginner / name}.gz)"


def test_differing_numbers_of_lines_are_named(beginner: Path) -> None:
    write_lines(beginner / "train.bb", read_lines(beginner / "train.bb")[:59])
    said = mistake(*TRAIN)
    assert said == (
        f"{beginner}/train.aa has 60 lines, but {beginner}/train.bb has 59: they must match line by line"
    )  # fmt: skip


def test_differing_numbers_of_validation_lines_are_named(beginner: Path) -> None:
    write_lines(beginner / "valid.aa", ["balo"])
    assert (
        mistake(*TRAIN)
        == f"{beginner}/valid.bb: 60 lines, but {beginner}/valid.aa has 1; line i must be the translation of line i"
    )


@pytest.mark.parametrize("name", ["train.bb", "valid.aa"])
def test_a_file_in_latin_1_is_named_with_the_place(beginner: Path, name: str) -> None:
    lines = read_lines(beginner / name)
    lines[2] = "balo größer"
    (beginner / name).write_bytes("\n".join(lines).encode("latin-1"))
    said = mistake(*TRAIN)
    assert (
        said
        == f"{beginner / name}:3: not UTF-8: byte 0xF6 at column 8 (convert the file, e.g. with iconv)"
    )


@pytest.mark.parametrize("name", ["train.aa", "valid.aa"])
def test_an_empty_file_is_named(beginner: Path, name: str) -> None:
    (beginner / name).write_bytes(b"")
    assert mistake(*TRAIN) == f"{beginner / name}: the file is empty"


def test_a_corpus_of_blank_lines_is_named(beginner: Path) -> None:
    write_lines(beginner / "train.bb", [""] * 60)
    assert "no training pair is left: 0 of 60 pairs kept (left out: 60 blank)" in mistake(
        *TRAIN, "--set", "tokenizer.vocab_size=300"
    )


def test_a_vocabulary_that_the_text_cannot_fill_is_named_with_the_largest_that_it_can(
    beginner: Path,
) -> None:
    said = mistake(*TRAIN, "--set", "tokenizer.vocab_size=9000")
    assert "vocab_size 9000 is more than this text can fill; it can be " in said


@pytest.mark.parametrize(
    "command",
    [("train", "-c", "copy.yaml"), ("translate", "run"), ("evaluate", "run")],
    ids=" ".join,
)
def test_a_cuda_device_that_is_not_there_is_named(
    beginner: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (beginner / "run").symlink_to(run_dir)
    said = mistake(*command, "--device", "cuda")
    assert (
        said
        == "device cuda: this machine has no CUDA device that PyTorch can use; try --device cpu"
    )


@pytest.mark.parametrize("command", ["translate", "evaluate"])
def test_a_run_that_is_not_there_is_named(beginner: Path, command: str) -> None:
    assert mistake(command, "runs/copy") == "runs/copy: no such run directory (mt train makes one)"


@pytest.mark.parametrize("command", ["translate", "evaluate"])
def test_a_directory_that_is_not_a_run_is_named(beginner: Path, command: str) -> None:
    assert (
        mistake(command, ".")
        == ".: not a run directory: it has no config.yaml (mt train makes one)"
    )


def test_a_run_without_a_checkpoint_is_named(beginner: Path, run_dir: Path) -> None:
    shutil.copytree(run_dir, "young", ignore=shutil.ignore_patterns("checkpoints"))
    assert (
        mistake("translate", "young")
        == "young/checkpoints: no best checkpoint yet (mt train makes one)"
    )


def test_a_run_without_a_tokenizer_is_named(beginner: Path, run_dir: Path) -> None:
    shutil.copytree(run_dir, "torn", ignore=shutil.ignore_patterns("tokenizer.model"))
    said = mistake("translate", "torn")
    assert said == "torn/tokenizer.model: cannot read the tokenizer: No such file or directory"


def test_a_missing_or_undecodable_input_is_named(beginner: Path, run_dir: Path) -> None:
    assert (
        mistake("translate", run_dir, "-i", "text.aa")
        == "text.aa: cannot read: No such file or directory"
    )
    said = mistake("translate", run_dir, stdin=b"balo\nd\xe9ru\n")
    assert said == "stdin:2: not UTF-8: byte 0xE9 at column 2 (convert the file, e.g. with iconv)"


def test_references_that_do_not_match_are_named(beginner: Path, run_dir: Path) -> None:
    write_lines(beginner / "short", ["balo"])
    said = mistake("evaluate", run_dir, "--src", "test.aa", "--ref", "short")
    assert said == "short: 1 lines, but test.aa has 60; line i must be the translation of line i"


def test_what_is_no_id_is_named(beginner: Path, run_dir: Path) -> None:
    model = run_dir / "tokenizer.model"
    for word in ("x", "-1", "350", "1" * 5000, "٣"):
        said = mistake("tokenizer", "decode", "-m", model, stdin=f"5 {word} 6\n")
        assert said == f"line 1: wanted ids from 0 to 349, found {word!r}"


def test_when_a_mistake_is_put_right_the_same_command_trains(beginner: Path) -> None:
    """A run that never began holds nobody to its config, nor to the tokenizer of spoilt text."""
    short = (
        "--set",
        "train.max_steps=2",
        "--set",
        "train.warmup_steps=1",
        "--set",
        "tokenizer.vocab_size=320",
    )
    replace_in_config("prefix: ./train", "prefix: ./trian")
    assert "trian.aa: no such file" in mistake(*TRAIN, *short)
    replace_in_config("prefix: ./trian", "prefix: ./train")
    good = read_lines(beginner / "train.bb")
    write_lines(beginner / "train.bb", [*(line.upper() for line in good), "one line too many"])
    assert "they must match line by line" in mistake(*TRAIN, *short)
    write_lines(beginner / "train.bb", good)
    assert mt(*TRAIN, *short).code == 0
    clean = mt(*TRAIN, *short, "--run-dir", "clean")
    assert clean.code == 0
    assert (beginner / "runs/copy/tokenizer.model").read_bytes() == (
        beginner / "clean/tokenizer.model"
    ).read_bytes()
