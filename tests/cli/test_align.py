"""`mt align` and `mt translate --alignments`: a line for each line, and links that a reader of Pharaoh's form takes."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch
from shell import Ended, mt

from mt.config.load import load_run_config
from mt.data.tokenizer_training import train_tokenizer
from mt.decoding.alignment import align_translations
from mt.decoding.translator import Translator
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
MAX_LENGTH = 24
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
    """A run of random weights."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    run.config.write_text(json.dumps(CONFIG), encoding="utf-8")  # JSON is YAML
    draw = random.Random(5)
    path, _ = run.tokenizers(joint=True)
    train_tokenizer(
        [" ".join(draw.choices(WORDS, k=6)) for _ in range(100)], path, kind="bpe", vocab_size=320
    )
    torch.manual_seed(2)
    model = Transformer(
        load_run_config(run.config).model, src_vocab_size=320, tgt_vocab_size=320, pad_id=0
    )
    weights = {name: 2.0 * tensor for name, tensor in model.state_dict().items()}
    CheckpointStore(run.checkpoints, keep=1).save(Checkpoint(weights, {}, {}), step=1, is_best=True)
    return run.path


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def lines_of(done: Ended) -> list[str]:
    assert done.code == 0, done.err
    return done.out.split("\n")[:-1]


def links_of(line: str) -> list[tuple[int, int]]:
    assert PHARAOH.fullmatch(line)
    return [(int(i), int(j)) for i, j in (link.split("-") for link in line.split())]


PAIRS = [
    *[
        ("balo deru", "fimi gona hupe"),
        ("", "fimi"),
        ("balo", " "),
        ("", ""),
        ("\u00a0", "balo"),
        ("jasi", "kelo"),
    ],
    *[
        ("balo deru " * 20, "fimi"),
        ("balo", "fimi " * 40),
        ("a\rb \u2028 c", "\x85 d"),
        ("😀  balo ", " nira\tpotu"),
    ],
    *[("0-0 1-1", "||| ||| x"), ("<s>", "</s>")],
]


@pytest.mark.parametrize("to_file", [False, True], ids=["stdout", "file"])
def test_a_pair_is_answered_by_a_line_whatever_is_in_it(
    run_dir: Path, tmp_path: Path, to_file: bool
) -> None:
    pairs = PAIRS * 50  # more than one chunk
    files = [
        write(tmp_path / name, list(side))
        for name, side in zip("st", zip(*pairs, strict=True), strict=True)
    ]
    output = ("-o", tmp_path / "out") if to_file else ()
    done = mt("align", run_dir, "--src", files[0], "--tgt", files[1], *output)
    found = (tmp_path / "out").read_text().split("\n")[:-1] if to_file else lines_of(done)
    assert (done.code, len(found)) == (0, len(pairs)), done.err
    too_long = 0
    for number, ((src, tgt), line) in enumerate(zip(pairs, found, strict=True), 1):
        links = links_of(line)
        warned = f"mt: line {number}: " in done.err
        too_long += warned
        num_words = [len(side.encode().split()) for side in (src, tgt)]
        assert all(i < num_words[0] and j < num_words[1] for i, j in links)
        has_links = all(num_words) and not warned
        assert len(links) == (
            num_words[1] if has_links and "\t" not in tgt else len(links) if has_links else 0
        )
        assert links == links_of(found[(number - 1) % len(PAIRS)]), (
            "its links do not depend on where it stands"
        )
    assert too_long == 2 * 50


def test_a_pair_that_is_too_long_is_named(run_dir: Path, tmp_path: Path) -> None:
    src, tgt = write(tmp_path / "s", ["balo", "balo"]), write(tmp_path / "t", ["fimi", "😀" * 6])
    done = mt("align", run_dir, "--src", src, "--tgt", tgt)
    assert done == (0, "0-0\n\n", "mt: line 2: 26 tokens, over 24: not aligned\n")


def test_layers_and_steps_can_be_chosen(run_dir: Path, tmp_path: Path) -> None:
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, k=5)) for _ in range(40)]
    files = "--src", write(tmp_path / "s", lines[:20]), "--tgt", write(tmp_path / "t", lines[20:])
    plain = mt("align", run_dir, *files)
    assert mt("align", run_dir, *files, "--layer", "2", "--step", "output") == plain
    others = [("--layer", "1"), ("--step", "input"), ("--layer", "1", "--step", "input")]
    assert len({plain.out, *(mt("align", run_dir, *files, *other).out for other in others)}) == 4
    said = f"mt: --layer 3: the decoder of {run_dir} has 2 layers\n"
    assert mt("align", run_dir, *files, "--layer", "3") == (1, "", said)


def test_files_of_different_lengths_are_refused_and_no_output_appears(
    run_dir: Path, tmp_path: Path
) -> None:
    src, tgt = write(tmp_path / "s", ["balo", "balo"]), write(tmp_path / "t", ["fimi"])
    done = mt("align", run_dir, "--src", src, "--tgt", tgt, "-o", tmp_path / "out")
    assert done == (
        1,
        "",
        f"mt: {src} has 2 lines, but {tgt} has 1: they must match line by line\n",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["s", "t"])
def test_neither_input_is_replaced_by_its_alignments(
    run_dir: Path, tmp_path: Path, name: str
) -> None:
    src, tgt = write(tmp_path / "s", ["balo"]), write(tmp_path / "t", ["fimi"])
    done = mt("align", run_dir, "--src", src, "--tgt", tgt, "-o", tmp_path / name)
    assert done == (
        1,
        "",
        f"mt: {tmp_path / name}: is the input too, and would be replaced by alignments\n",
    )
    assert (src.read_text(), tgt.read_text()) == ("balo\n", "fimi\n")


# mt translate --alignments

LINES = ["balo deru fimi", "", "balo " * 20, "😀 xyz", "a\rb"]
STDIN = "".join(f"{line}\n" for line in LINES)


@pytest.mark.parametrize("options", [(), ("--n-best", "2")], ids=" ".join)
def test_the_alignment_is_one_more_field_of_the_same_lines(
    run_dir: Path, options: tuple[str, ...]
) -> None:
    plain = lines_of(mt("translate", run_dir, *options, stdin=STDIN))
    found = lines_of(mt("translate", run_dir, *options, "--alignments", stdin=STDIN))
    fields = [line.rsplit(" ||| ", 1) for line in found]
    assert [first for first, _ in fields] == plain
    for first, last in fields:
        text = first.split(" ||| ")[1] if options else first
        src = LINES[int(first.split(" ||| ")[0])] if options else LINES[plain.index(first)]
        links = links_of(last)
        assert all(i < len(src.split()) for i, _ in links)
        assert {j for _, j in links} <= set(range(len(text.encode().split())))
        assert bool(links) == bool(text.strip())


def test_as_json_it_is_a_list_of_pairs_and_only_if_asked_for(run_dir: Path) -> None:
    plain, found = (
        [
            json.loads(line)
            for line in lines_of(mt("translate", run_dir, "--jsonl", *options, stdin=STDIN))
        ]
        for options in ((), ("--alignments",))
    )
    translator = Translator.load(run_dir, device="cpu")
    aligned = align_translations(translator, LINES, [each[:1] for each in translator.n_best(LINES)])
    for before, after, (expected,) in zip(plain, found, aligned, strict=True):
        (translation,) = after["translations"]
        assert [tuple(link) for link in translation.pop("alignment")] == expected.alignment
        assert after == before
