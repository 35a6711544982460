"""Tests of `mt align` and `mt translate --alignments`: links in the format of Pharaoh."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from invented_words import INVENTED_WORDS
from shell import assert_fails, mt, output_lines

from mt.config.load import load_run_config
from mt.data.normalization import is_blank
from mt.data.tokenizer_training import train_tokenizer
from mt.data.words import split_words
from mt.decoding.alignment import align_translations
from mt.decoding.translator import Translator
from mt.model.transformer import Transformer
from mt.storage.checkpoint import Checkpoint, CheckpointStore
from mt.storage.run_dir import RunDir

MAX_LENGTH = 24
VOCAB_SIZE = 320
CONFIG = {
    "data": {
        "src_lang": "aa",
        "tgt_lang": "bb",
        "train": [{"prefix": "t"}],
        "valid": {"name": "v", "prefix": "v"},
        "max_length": MAX_LENGTH,
    },
    "train": {"max_steps": 1},
    "model": {
        "d_model": 16,
        "d_ff": 16,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
    },
    "search": {"beam_size": 2, "max_length_factor": 1.0, "max_length_offset": 4},
}
PHARAOH = re.compile(r"(\d+-\d+( \d+-\d+)*)?")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    run.config_path.write_text(json.dumps(CONFIG), encoding="utf-8")  # JSON is YAML
    generator = random.Random(5)
    texts = [" ".join(generator.choices(INVENTED_WORDS, k=6)) for _ in range(100)]
    tokenizer_path, _ = run.tokenizer_paths(joint=True)
    train_tokenizer(texts, tokenizer_path, kind="bpe", vocab_size=VOCAB_SIZE)
    torch.manual_seed(2)
    model = Transformer(
        load_run_config(run.config_path).model,
        src_vocab_size=VOCAB_SIZE,
        tgt_vocab_size=VOCAB_SIZE,
        pad_id=0,
    )
    weights = {name: 2.0 * tensor for name, tensor in model.state_dict().items()}
    CheckpointStore(run.checkpoints_dir, keep=1).save(
        Checkpoint(weights, {}, {}), step=1, is_best=True
    )
    return run.path


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def parse_links(line: str) -> list[tuple[int, int]]:
    assert PHARAOH.fullmatch(line)
    links = []
    for link in line.split():
        src_word, tgt_word = link.split("-")
        links.append((int(src_word), int(tgt_word)))
    return links


# mt align

TOO_LONG_PAIRS = [
    ("balo deru " * 20, "fimi"),
    ("balo", "fimi " * 40),
]
PAIRS = [
    ("balo deru", "fimi gona hupe"),
    ("", "fimi"),
    ("balo", " "),
    ("", ""),
    ("\u00a0", "balo"),
    ("jasi", "kelo"),
    *TOO_LONG_PAIRS,
    ("a\rb \u2028 c", "\x85 d"),
    ("😀  balo ", " nira\tpotu"),
    ("0-0 1-1", "||| ||| x"),
    ("<s>", "</s>"),
]


@pytest.mark.parametrize("to_file", [False, True], ids=["stdout", "file"])
def test_any_pair_gives_one_line_of_links(run_dir: Path, tmp_path: Path, to_file: bool) -> None:
    pairs = PAIRS * 50  # more than one chunk
    src_file = write(tmp_path / "src", [src for src, _ in pairs])
    tgt_file = write(tmp_path / "tgt", [tgt for _, tgt in pairs])
    output = tmp_path / "out"
    options = ("-o", output) if to_file else ()
    ended = mt("align", run_dir, "--src", src_file, "--tgt", tgt_file, *options)
    lines = output_lines(ended)
    if to_file:
        assert lines == []
        lines = output.read_text().split("\n")[:-1]
    assert len(lines) == len(pairs)

    for number, ((src, tgt), line) in enumerate(zip(pairs, lines, strict=True), start=1):
        links = parse_links(line)
        num_src_words = len(src.encode().split())
        num_tgt_words = len(tgt.encode().split())
        assert all(i < num_src_words and j < num_tgt_words for i, j in links)
        is_too_long = (src, tgt) in TOO_LONG_PAIRS
        assert (f"warning: line {number}: " in ended.err) == is_too_long
        if is_too_long or is_blank(src) or is_blank(tgt):
            assert links == []
        elif "\t" not in tgt:  # a token may contain a tab, and so two words
            assert len(links) == num_tgt_words
        first_copy = lines[(number - 1) % len(PAIRS)]
        assert line == first_copy, "links do not depend on the place in the file"
    assert ended.err.count("\n") == len(TOO_LONG_PAIRS) * 50


def test_too_long_pair_gets_a_warning_and_no_links(run_dir: Path, tmp_path: Path) -> None:
    src_file = write(tmp_path / "src", ["balo", "balo"])
    tgt_file = write(tmp_path / "tgt", ["fimi", "😀" * 6])
    ended = mt("align", run_dir, "--src", src_file, "--tgt", tgt_file)
    assert output_lines(ended) == ["0-0", ""]
    assert ended.err.startswith("warning: line 2: 26 tokens")
    assert f"over {MAX_LENGTH}" in ended.err
    assert ended.err.count("\n") == 1


def test_characters_of_a_script_without_spaces_are_words(run_dir: Path, tmp_path: Path) -> None:
    src_file = write(tmp_path / "src", ["我们。", "balo deru"])
    tgt_file = write(tmp_path / "tgt", ["fimi gona", "ไป hupe"])
    ended = mt("align", run_dir, "--src", src_file, "--tgt", tgt_file)
    first, second = (parse_links(line) for line in output_lines(ended))
    assert [j for _, j in first] == [0, 1]
    assert {i for i, _ in first} <= {0, 1, 2}
    assert {j for _, j in second} == {0, 1, 2}

    ended = mt("translate", run_dir, "--alignments", stdin="我们喜欢\n")
    text, links = output_lines(ended)[0].rsplit(" ||| ", 1)
    assert {j for _, j in parse_links(links)} == set(range(len(split_words(text))))
    assert all(i < 4 for i, _ in parse_links(links))


def test_layer_and_step_options(run_dir: Path, tmp_path: Path) -> None:
    generator = random.Random(1)
    texts = [" ".join(generator.choices(INVENTED_WORDS, k=5)) for _ in range(40)]
    src_file = write(tmp_path / "src", texts[:20])
    tgt_file = write(tmp_path / "tgt", texts[20:])
    command = ("align", run_dir, "--src", src_file, "--tgt", tgt_file)
    default = mt(*command)
    assert mt(*command, "--layer", "2", "--step", "output") == default
    outputs = {
        default.out,
        mt(*command, "--layer", "1").out,
        mt(*command, "--step", "input").out,
        mt(*command, "--layer", "1", "--step", "input").out,
    }
    assert len(outputs) == 4
    refused = mt(*command, "--layer", "3")
    assert refused.code == 2
    assert refused.out == ""
    assert f"--layer: 3: the decoder of {run_dir} has 2 layers" in refused.err


def test_files_of_different_lengths_are_refused(run_dir: Path, tmp_path: Path) -> None:
    src_file = write(tmp_path / "src", ["balo", "balo"])
    tgt_file = write(tmp_path / "tgt", ["fimi"])
    output = tmp_path / "out"
    ended = mt("align", run_dir, "--src", src_file, "--tgt", tgt_file, "-o", output)
    assert_fails(ended, f"{src_file} has 2 lines", f"{tgt_file} has 1")
    assert not output.exists()


@pytest.mark.parametrize("name", ["src", "tgt"])
def test_inputs_are_not_overwritten_by_alignments(run_dir: Path, tmp_path: Path, name: str) -> None:
    src_file = write(tmp_path / "src", ["balo"])
    tgt_file = write(tmp_path / "tgt", ["fimi"])
    output = tmp_path / name
    ended = mt("align", run_dir, "--src", src_file, "--tgt", tgt_file, "-o", output)
    assert_fails(ended, f"{output}:", "input", "alignments")
    assert src_file.read_text() == "balo\n"
    assert tgt_file.read_text() == "fimi\n"


# mt translate --alignments

LINES = ["balo deru fimi", "", "balo " * 20, "😀 xyz", "a\rb"]
STDIN = "".join(f"{line}\n" for line in LINES)


def assert_links_fit(links: list[tuple[int, int]], src: str, translation: str) -> None:
    """Check that links stay within the words of both texts, and exist unless the text is blank."""
    num_src_words = len(src.split())
    num_tgt_words = len(split_words(translation))
    assert all(i < num_src_words and j < num_tgt_words for i, j in links)
    assert bool(links) == bool(translation.strip())


def test_alignment_is_a_field_after_the_translation(run_dir: Path) -> None:
    plain_lines = output_lines(mt("translate", run_dir, stdin=STDIN))
    lines = output_lines(mt("translate", run_dir, "--alignments", stdin=STDIN))
    assert len(lines) == len(LINES)
    for src, plain_line, line in zip(LINES, plain_lines, lines, strict=True):
        text, links = line.rsplit(" ||| ", 1)
        assert text == plain_line
        assert_links_fit(parse_links(links), src, text)


def test_alignment_is_the_last_field_of_an_n_best_line(run_dir: Path) -> None:
    command = ("translate", run_dir, "--n-best", "2")
    plain_lines = output_lines(mt(*command, stdin=STDIN))
    lines = output_lines(mt(*command, "--alignments", stdin=STDIN))
    for plain_line, line in zip(plain_lines, lines, strict=True):
        other_fields, links = line.rsplit(" ||| ", 1)
        assert other_fields == plain_line
        line_number, text, *_ = other_fields.split(" ||| ")
        assert_links_fit(parse_links(links), LINES[int(line_number)], text)


def test_alignment_in_json_is_a_list_of_pairs(run_dir: Path) -> None:
    def translate(*options: str) -> list[dict[str, Any]]:
        lines = output_lines(mt("translate", run_dir, "--jsonl", *options, stdin=STDIN))
        return [json.loads(line) for line in lines]

    translator = Translator.load(run_dir, device="cpu")
    best = [translations[:1] for translations in translator.n_best(LINES)]
    aligned = align_translations(translator, LINES, best)
    plain = translate()
    with_alignments = translate("--alignments")
    for before, after, (expected,) in zip(plain, with_alignments, aligned, strict=True):
        (translation,) = after["translations"]
        links = [tuple(link) for link in translation.pop("alignment")]
        assert links == expected.alignment
        assert after == before, "without the option there is no alignment"
