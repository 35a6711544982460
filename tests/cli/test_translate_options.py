"""Tests of how `mt translate` searches: ensembles, sampling, target prefixes, precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import train_two_seeds
from shell import mt, output_lines

from mt.config.load import load_run_config
from mt.decoding.minimum_bayes_risk import MinimumBayesRisk
from mt.decoding.sampling import SamplingOptions
from mt.decoding.translator import Translator
from mt.evaluation.utility import utility_of_run
from mt.storage.run_dir import RunDir

TEXTS = ["balo deru", "", "gona fimi", "balo", "balo deru"]
STDIN = "".join(f"{text}\n" for text in TEXTS)


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with different seeds."""
    return train_two_seeds(tmp_path_factory)


@pytest.fixture(scope="module")
def run_dir(run_dirs: list[Path]) -> Path:
    return run_dirs[0]


# Ensembles


def test_ensemble_translates_as_in_python(run_dirs: list[Path]) -> None:
    first, second = run_dirs
    ended = mt("translate", first, "--with", second, "--with", first, "--n-best", "2", stdin=STDIN)
    translator = Translator.load(first, ensemble_with=[second, first], device="cpu")
    expected = [found.text for n_best in translator.n_best(TEXTS) for found in n_best]
    assert [line.split(" ||| ")[1] for line in output_lines(ended)] == expected


def test_beam_has_room_for_the_n_best_list(run_dir: Path) -> None:
    ended = mt("translate", run_dir, "--n-best", "6", stdin=STDIN)  # the config's beam has 5
    translator = Translator.load(run_dir, device="cpu", beam_size=6)
    lists = translator.n_best(TEXTS, num_translations=6)
    num_translations = [len(translations) for translations in lists]
    assert num_translations == [6 if text.strip() else 1 for text in TEXTS]
    expected = [found.text for translations in lists for found in translations]
    assert [line.split(" ||| ")[1] for line in output_lines(ended)] == expected


def test_ensemble_of_a_run_with_itself_prints_the_same(run_dir: Path) -> None:
    options = ("--jsonl", "--n-best", "2")
    alone = mt("translate", run_dir, *options, stdin=STDIN)
    ensemble = mt("translate", run_dir, "--with", run_dir, *options, stdin=STDIN)
    assert output_lines(ensemble) == output_lines(alone)


def test_ensemble_scores_what_it_translates(run_dirs: list[Path], tmp_path: Path) -> None:
    """`mt evaluate` scores the ensemble's output, and `mt score` has its log-probabilities."""
    first, second = run_dirs
    src = tmp_path / "src"
    src.write_text(STDIN.replace("\n\n", "\n"), encoding="utf-8")
    output = tmp_path / "out"
    join = ("--with", second)
    assert mt("translate", first, *join, "-i", src, "-o", output).code == 0
    by_run = mt("evaluate", first, *join, "--src", src, "--ref", src, "--json")
    by_file = mt("evaluate", "--hyp", output, "--ref", src, "--json")
    assert by_run.code == by_file.code == 0
    assert json.loads(by_run.out)["src"] == json.loads(by_file.out)["out"]

    scored = mt("score", first, *join, "--src", src, "--tgt", src)
    lines = src.read_text(encoding="utf-8").splitlines()
    translator = Translator.load(first, ensemble_with=[second], device="cpu")
    expected = [score.log_prob for score in translator.score(lines, lines)]
    assert [float(line) for line in output_lines(scored)] == pytest.approx(expected, abs=1e-4)


def test_ensemble_needs_a_run(run_dir: Path) -> None:
    ended = mt("evaluate", "--hyp", "a", "--ref", "b", "--with", run_dir)
    assert ended.code == 2
    assert "--with" in ended.err


# Sampling


def test_samples_depend_on_the_seed_and_the_line_alone(run_dir: Path) -> None:
    command = ("translate", run_dir, "--sample", "--temperature", "0.8", "--top-k", "50")
    lines = output_lines(mt(*command, stdin=STDIN))
    assert lines == output_lines(mt(*command, "--seed", "1", stdin=STDIN))
    assert lines != output_lines(mt(*command, "--seed", "2", stdin=STDIN))
    assert lines[0] == lines[4]
    assert lines[1] == ""
    assert [output_lines(mt(*command, stdin=f"{text}\n"))[0] for text in TEXTS] == lines
    options = SamplingOptions(seed=1, temperature=0.8, top_k=50)
    assert lines == Translator.load(run_dir, device="cpu").translate(TEXTS, sampling=options)


def test_n_best_prints_that_many_samples(run_dir: Path) -> None:
    ended = mt("translate", run_dir, "--sample", "--n-best", "7", stdin="balo\n")
    assert len(output_lines(ended)) == 7


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--seed", "3"), "--seed"),
        (("--temperature", "0.5"), "--temperature"),
        (("--top-k", "5"), "--top-k"),
        (("--top-p", "0.5"), "--top-p"),
        (("--epsilon", "0.5"), "--epsilon"),
        (("--utility", "bleu"), "--utility"),
        (("--sample", "--top-p", "1.5"), "top_p"),
        (("--sample", "--temperature", "nan"), "temperature"),
        (("--sample", "--beam-size", "3"), "--beam-size"),
        (("--sample", "--mbr", "8"), "--mbr"),
        (("--mbr", "8", "--n-best", "9"), "--n-best"),
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit_together_are_refused(
    run_dir: Path, options: tuple[str, ...], named: str
) -> None:
    ended = mt("translate", run_dir, *options, stdin="balo\n")
    assert ended.code == 2
    assert ended.out == ""
    assert named in ended.err


# Minimum Bayes risk


@pytest.mark.parametrize("utility", ["chrf", "bleu"])
def test_minimum_bayes_risk_is_reproducible(run_dir: Path, utility: str) -> None:
    command = ("translate", run_dir, "--mbr", "6", "--utility", utility)
    command = (*command, "--epsilon", "0", "--temperature", "1")
    lines = output_lines(mt(*command, stdin=STDIN))
    assert [output_lines(mt(*command, stdin=f"{text}\n"))[0] for text in TEXTS] == lines
    assert lines != output_lines(mt(*command, "--seed", "2", stdin=STDIN))
    config = load_run_config(RunDir(run_dir).config_path)
    translator = Translator.load(
        run_dir,
        device="cpu",
        sampling=SamplingOptions(seed=1),
        mbr=MinimumBayesRisk(6, utility_of_run(utility, config)),  # type: ignore[arg-type]
    )
    assert lines == translator.translate(TEXTS)


def test_minimum_bayes_risk_draws_probable_samples(run_dir: Path) -> None:
    """By default, the temperature is 0.5, and the probability of a token is 0.02 at least."""
    command = ("translate", run_dir, "--mbr", "4", "--jsonl")
    lines = output_lines(mt(*command, stdin=STDIN))
    same = ("--epsilon", "0.02", "--temperature", "0.5")
    assert lines == output_lines(mt(*command, *same, stdin=STDIN))
    assert lines != output_lines(mt(*command, "--epsilon", "0", stdin=STDIN))
    assert lines != output_lines(mt(*command, "--temperature", "1", stdin=STDIN))


# Target prefixes


def test_each_line_begins_with_its_target_prefix(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt.decoding.text_translator.CHUNK_CHARS", 12)  # so that there are chunks
    prefixes = ["deru", "", "hupe", "", "fimi balo"]
    path = tmp_path / "prefixes"
    path.write_text("".join(f"{prefix}\n" for prefix in prefixes), encoding="utf-8")
    lines = output_lines(mt("translate", run_dir, "--target-prefix", path, stdin=STDIN))
    plain = output_lines(mt("translate", run_dir, stdin=STDIN))
    for prefix, line, plain_line in zip(prefixes, lines, plain, strict=True):
        assert line.startswith(prefix)
        if not prefix:
            assert line == plain_line


@pytest.mark.parametrize(("num_prefixes", "named"), [(4, "line 5"), (6, "5 lines")])
def test_wrong_number_of_target_prefixes_is_an_error(
    run_dir: Path, tmp_path: Path, num_prefixes: int, named: str
) -> None:
    path = tmp_path / "prefixes"
    path.write_text("deru\n" * num_prefixes, encoding="utf-8")
    output = tmp_path / "out"
    ended = mt("translate", run_dir, "--target-prefix", path, "-o", output, stdin=STDIN)
    assert ended.code == 1
    assert named in ended.err
    assert not output.exists()


# Precision


def test_precision_is_passed_on(run_dir: Path) -> None:
    command = ("translate", run_dir, "--jsonl", "--device", "cpu")
    plain = mt(*command, stdin=STDIN)
    assert mt(*command, "--precision", "fp32", stdin=STDIN).out == plain.out
    bf16 = [
        json.loads(line) for line in output_lines(mt(*command, "--precision", "bf16", stdin=STDIN))
    ]
    translator = Translator.load(run_dir, device="cpu", precision="bf16")
    expected = [translations[0].log_prob for translations in translator.n_best(TEXTS)]
    assert [line["translations"][0]["log_prob"] for line in bf16] == expected
    fp16 = mt(*command, "--precision", "fp16", stdin=STDIN)
    assert fp16.code == 1
    assert "fp16" in fp16.err
