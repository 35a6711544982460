"""mt translate with an export for CTranslate2 gives what it gives with the run."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_run import SEVERAL_LANGUAGES, TEXTS, make_run, make_texts, make_tokenizers
from shell import Ended, mt

from mt.data.normalization import is_blank
from mt.data.source_stats import SourceStats
from mt.decoding.segment_search import SourceSegment
from mt.decoding.translation import Translation
from mt.decoding.translator import Translator
from mt.errors import RunDirError
from mt.export.ctranslate2 import export
from mt.storage.checkpoint import Checkpoint, CheckpointStore
from mt.storage.run_dir import RunDir

pytest.importorskip("ctranslate2")
from mt.export.ctranslate2_translator import CTranslate2Translator

LINES = [*make_texts(40, seed=5), "", " \t", *TEXTS, " ".join(make_texts(40, seed=6)), "\u200b"]
# Texts of several sentences, which are split by these statistics.
SENTENCES = [f"{first}. {second}!" for first, second in zip(LINES[:9], LINES[9:18], strict=True)]
STATS = SourceStats(usual_length=20, rare_length=40, several_sentences_share=0.0)


def make_ending_run(path: Path, tokenizers: list[Path], *overrides: str) -> Path:
    """Make a run with a random model that often writes eos, like a trained one.

    It almost never writes a token that a search forbids, so that it makes no difference whether
    these are excluded before or after probabilities are computed.
    """
    run_dir = make_run(path, tokenizers, [*overrides, "search.length_penalty=0.8"])
    translator = Translator.load(run_dir, device="cpu")
    model = translator.model
    with torch.no_grad():
        # One dimension of the last states is always 1, so its weights are biases of the tokens.
        model.decoder_norm.weight[0] = 0.0
        model.decoder_norm.bias[0] = 1.0
        biases = model.embedding_weight("output")[:, 0]
        biases[:] = 0.0
        biases[list(translator.tgt_tokenizer.forbidden_ids)] = -30.0
        biases[translator.tgt_tokenizer.eos_id] = 1.2
    CheckpointStore(RunDir(run_dir).checkpoints_dir, keep=1).save(
        Checkpoint(model.state_dict(), {}, {}), step=2, is_best=True
    )
    STATS.save(RunDir(run_dir).source_stats_path)
    return run_dir


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, tokenizers: list[Path]) -> Path:
    return make_ending_run(tmp_path_factory.mktemp("runs") / "run", tokenizers)


@pytest.fixture(scope="module")
def exported(run_dir: Path) -> Path:
    directory = run_dir.parent / "exported"
    export(run_dir, directory)
    return directory


def test_loading_keeps_the_threads_of_pytorch(exported: Path) -> None:
    """A second export, or a run beside it, then uses as many cores as the first export."""
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for _ in range(2):
            translator = CTranslate2Translator.load(exported, device="cpu")
            assert torch.get_num_threads() == 3
            assert translator.engine.num_translators == 3
    finally:
        torch.set_num_threads(num_threads)


def translate(directory: Path, *options: str, lines: list[str] = LINES) -> Ended:
    ended = mt("translate", directory, *options, stdin="\n".join(lines) + "\n")
    assert ended.code == 0, ended.err
    return ended


def test_greedy_translations_are_those_of_the_run(run_dir: Path, exported: Path) -> None:
    for lines in (LINES, SENTENCES):
        expected = translate(run_dir, "--beam-size", "1", lines=lines)
        found = translate(exported, "--beam-size", "1", lines=lines)
        assert found == expected
        assert len(set(found.out.split("\n"))) > len(lines) / 2, "the model ignores its input"
    assert "translate: split" in found.err


@pytest.mark.parametrize("num_translations", [1, 4])
@pytest.mark.parametrize("split_lines", [True, False])
def test_beam_search_is_that_of_the_run(
    split_lines: bool, num_translations: int, run_dir: Path, exported: Path
) -> None:
    """Lists with a translation of the longest length are left out.

    Our search ends such a translation with eos. CTranslate2 ends it without, which gives it another
    score and another place in the list.
    """
    lines = [*LINES, *SENTENCES]
    ours = Translator.load(run_dir, device="cpu", beam_size=4, split_lines=split_lines)
    theirs = CTranslate2Translator.load(
        exported, device="cpu", beam_size=4, split_lines=split_lines
    )
    (expected,) = ours.translate_chunks(lines, n_best=num_translations)
    (found,) = theirs.translate_chunks(lines, n_best=num_translations)
    num_complete = 0
    num_equal = 0
    for own_list, their_list in zip(expected.translations, found.translations, strict=True):
        if not all(is_complete(theirs, item) for item in [*own_list, *their_list]):
            continue
        num_complete += 1
        scores = [(item.score, item.log_prob) for item in own_list]
        their_scores = [(item.score, item.log_prob) for item in their_list]
        assert np.array(their_scores) == pytest.approx(np.array(scores), abs=1e-3)
        if [item.text for item in own_list] == [item.text for item in their_list]:
            num_equal += 1
            for own, their in zip(own_list, their_list, strict=True):
                assert their.segments == own.segments
                assert their.segment_starts == own.segment_starts
    assert num_complete >= 30
    assert num_equal >= num_complete - 1  # a near-tie may be decided differently
    parts_of_sentences = found.translations[len(LINES)][0].segments
    assert len(parts_of_sentences) == (2 if split_lines else 1)


def is_complete(translator: CTranslate2Translator, translation: Translation) -> bool:
    """Return whether all parts of a translation end before the longest length."""
    segments = translation.segments
    limits = translator.segment_search.length_limits(
        [SourceSegment(segment.src) for segment in segments]
    )
    return all(len(segment.tgt) < limit for segment, limit in zip(segments, limits, strict=True))


@pytest.mark.parametrize("format_option", [["--n-best", "1"], ["--jsonl"]])
def test_output_has_the_form_of_a_run(
    format_option: list[str], run_dir: Path, exported: Path
) -> None:
    options = [*format_option, "--beam-size", "4"]
    expected = translate(run_dir, *options, lines=TEXTS).out
    found = translate(exported, *options, lines=TEXTS).out
    number = re.compile(r"-?[0-9]+\.[0-9]+")
    words = re.compile(r"\|\|\| .*? \|\|\||\"text\": \".*?\"")
    forms = [words.sub("", number.sub("0", text)).split("\n") for text in (expected, found)]
    assert forms[0] == forms[1]


def test_exact_search_gives_the_same(exported: Path) -> None:
    assert translate(exported, "--exact").out == translate(exported).out


def test_longest_translations_end_where_they_do_with_the_run(
    tokenizers: list[Path], tmp_path: Path
) -> None:
    """A random model writes as many tokens as it may, which depends on the length of the source."""
    run_dir = make_run(tmp_path / "run", tokenizers, ["search.max_length_offset=3"])
    export(run_dir, tmp_path / "exported")
    expected = Translator.load(run_dir, device="cpu").n_best(LINES, num_translations=1)
    translator = CTranslate2Translator.load(tmp_path / "exported", device="cpu")
    (chunk,) = translator.translate_chunks(LINES)
    segments = [translations[0].segments for translations in chunk.translations]
    assert segments == [translations[0].segments for translations in expected]
    assert len({len(segment.tgt) for parts in segments for segment in parts}) > 5


def test_each_target_language_has_its_tag(tokenizers: list[Path], tmp_path: Path) -> None:
    run_dir = make_ending_run(tmp_path / "run", tokenizers, *SEVERAL_LANGUAGES)
    export(run_dir, tmp_path / "exported")
    outputs = set()
    for language in ("bb", "cc"):
        expected = translate(run_dir, "--to", language).out
        assert translate(tmp_path / "exported", "--to", language).out == expected
        outputs.add(expected)
    assert len(outputs) == 2
    assert mt("translate", tmp_path / "exported", "--to", "dd", "balo").code == 1


def test_separate_tokenizers(tokenizers: list[Path], tmp_path: Path) -> None:
    overrides = ["tokenizer.joint=false", "model.tie_embeddings=none"]
    run_dir = make_ending_run(tmp_path / "run", tokenizers, *overrides)
    export(run_dir, tmp_path / "exported")
    assert translate(tmp_path / "exported").out == translate(run_dir).out


def test_int8_translates_each_line(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "exported", quantization="int8")
    translator = CTranslate2Translator.load(tmp_path / "exported", device="cpu")
    assert "int8" in translator.engine.compute_type
    *lines, rest = translate(tmp_path / "exported").out.split("\n")
    assert rest == ""
    assert len(lines) == len(LINES)
    for source, line in zip(LINES, lines, strict=True):
        if is_blank(source):
            assert line == ""
    assert len(set(lines)) > len(lines) / 2


def test_resumed_command_writes_the_same(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    arguments = ["-i", str(tmp_path / "text"), "-o", str(tmp_path / "out"), "--resume"]
    assert mt("translate", exported, *arguments).code == 0
    assert (tmp_path / "out").read_text(encoding="utf-8") == translate(exported).out


@pytest.mark.parametrize(
    "options",
    [
        ["--sample"],
        ["--mbr", "4"],
        ["--with", "other"],
        ["--target-prefix", "other"],
        ["--alignments"],
        ["--checkpoint", "last"],
        ["--precision", "bf16"],
    ],
    ids=" ".join,
)
def test_what_the_engine_lacks_is_refused(options: list[str], exported: Path) -> None:
    ended = mt("translate", exported, *options, "balo")
    assert ended.code == 2
    assert ended.out == ""
    assert options[0] in ended.err
    assert "CTranslate2" in ended.err


def test_other_commands_say_what_the_directory_is(exported: Path) -> None:
    for command in (["score", exported, "--src", "x", "--tgt", "x"], ["evaluate", exported]):
        ended = mt(*command)
        assert ended.code == 1
        assert f"{exported}: an export for CTranslate2" in ended.err
        assert ended.err.count("\n") == 1
    ended = mt("train", exported)
    assert ended.code == 1
    assert "cannot be trained further" in ended.err


def test_other_files_in_a_run_make_no_export_of_it(tokenizers: list[Path], tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", tokenizers)
    (run_dir / "model.bin").touch()
    assert mt("translate", run_dir, "balo").code == 0


def test_copy_without_hidden_files_translates(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for path in exported.glob("[!.]*"):
        shutil.copy(path, tmp_path / "copy")
    assert translate(tmp_path / "copy").out == translate(exported).out


def test_exports_of_earlier_versions_are_refused(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "exported")
    (tmp_path / "exported/config.yaml").unlink()
    with pytest.raises(RunDirError, match="export the run again"):
        CTranslate2Translator.load(tmp_path / "exported", device="cpu")


def test_damaged_model_is_one_line(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "exported")
    (tmp_path / "exported/model.bin").write_bytes(b"x")
    with pytest.raises(RunDirError, match=f"^{tmp_path}/exported: CTranslate2 cannot load"):
        CTranslate2Translator.load(tmp_path / "exported", device="cpu")


def test_progress_is_told(exported: Path) -> None:
    events: list[Any] = []
    translator = CTranslate2Translator.load(exported, device="cpu")
    list(replace(translator, on_progress=events.append).translate_chunks(LINES))
    assert events[-1].is_complete
    assert events[-1].fraction == 1.0
