"""`mt init`: the config and the sets it writes, which `mt train` takes as they are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from invented_words import INVENTED_WORDS
from shell import Ended, mt

from mt.config.load import load_config
from mt.project import machine


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current directory. It has a table of pairs; the machine is measured quickly."""
    monkeypatch.setattr(machine, "MIN_SECONDS", 0.01)
    monkeypatch.setattr(machine, "NUM_WARM_UP_UPDATES", 0)
    monkeypatch.setattr(machine, "MIN_TIMED_UPDATES", 1)
    monkeypatch.chdir(tmp_path)
    generator = random.Random(1)
    sentences = {" ".join(generator.choices(INVENTED_WORDS, k=4)) for _ in range(300)}
    rows = [f"{sentence}\t{sentence.upper()}" for sentence in sorted(sentences)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return tmp_path


def init(*arguments: str | Path) -> Ended:
    return mt("init", "pairs.tsv", "--src-lang", "aa", "--tgt-lang", "bb", *arguments)


def test_config_loads_and_names_the_sets(project: Path) -> None:
    ended = init("--minutes", "10")
    assert ended.code == 0, ended.err
    config = load_config("aa-bb.yaml")
    assert (config.data.src_lang, config.data.tgt_lang) == ("aa", "bb")
    assert config.train.max_minutes == 10
    assert config.tokenizer.vocab_size <= 1000
    assert config.train.warmup_steps >= 1
    num_lines = {path.name: len(path.read_text().splitlines()) for path in project.glob("*/*")}
    assert num_lines["valid.aa"] == num_lines["test.bb"] == 30
    assert num_lines["train.aa"] > 200


def test_output_describes_text_and_choices(project: Path) -> None:
    ended = init("--minutes", "10")
    lines = {line.split()[0]: line for line in ended.out.splitlines() if line.strip()}
    assert "Latin 100%" in lines["aa"]
    assert "tiny" in lines["model"]
    assert "in 10 minutes" in lines["training"]
    num_pairs = len((project / "pairs.tsv").read_text(encoding="utf-8").splitlines())
    assert f"{num_pairs} pairs in pairs.tsv" in ended.out


def test_missing_file_is_one_line(project: Path) -> None:
    ended = mt("init", "absent.tsv", "--src-lang", "aa", "--tgt-lang", "bb")
    assert ended.code == 1
    assert "absent.tsv" in ended.err.splitlines()[-1]
    assert {path.name for path in project.iterdir()} == {"pairs.tsv"}


def test_output_names_the_next_commands(project: Path) -> None:
    ended = init("-o", "my own.yaml")
    assert "mt train 'my own.yaml'" in ended.out
    assert "mt translate 'runs/my own'" in ended.out
    assert (project / "my own-data/train.aa").exists()
    assert load_config("my own.yaml").data.valid[0].name == "valid"


def test_config_trains_and_translates(project: Path) -> None:
    assert init("--minutes", "10", "--device", "cpu").code == 0
    small = ["model.d_model=16", "model.d_ff=16", "train.max_steps=4", "train.validate_every=4"]
    options = [option for key in small for option in ("--set", key)]
    ended = mt("train", "--config", "aa-bb.yaml", *options)
    assert ended.code == 0, ended.err
    assert mt("translate", "runs/aa-bb", stdin="tolu\n").code == 0
    assert mt("evaluate", "runs/aa-bb").code == 0


def test_every_choice_has_a_reason(project: Path) -> None:
    assert init().code == 0
    text = (project / "aa-bb.yaml").read_text(encoding="utf-8")
    for key in ("vocab_size", "dropout", "learning_rate", "warmup_steps", "max_minutes"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {key}:")]
        assert "  # " in line
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "mt init pairs.tsv" in text


@pytest.mark.parametrize("existing", ["aa-bb.yaml", "aa-bb-data"])
def test_nothing_is_replaced(existing: str, project: Path) -> None:
    (project / existing).mkdir()
    ended = init()
    assert ended.code == 1
    assert existing in ended.err
    assert {path.name for path in project.iterdir()} == {"pairs.tsv", existing}


def test_no_test_set_if_none_is_wanted(project: Path) -> None:
    assert init("--test", "0").code == 0
    assert load_config("aa-bb.yaml").data.test == ()


def test_config_that_cannot_be_written_leaves_nothing(project: Path) -> None:
    (project / "file").write_text("", encoding="utf-8")
    ended = init("-o", "file/x.yaml")
    assert ended.code == 1
    assert {path.name for path in project.iterdir()} == {"pairs.tsv", "file"}


def test_too_little_text_is_refused(project: Path) -> None:
    (project / "pairs.tsv").write_text("one\teins\ntwo\tzwei\n", encoding="utf-8")
    ended = init()
    assert ended.code == 1
    assert "pairs.tsv" in ended.err
    assert {path.name for path in project.iterdir()} == {"pairs.tsv"}


def write_pairs(path: Path, num_pairs: int) -> None:
    for language in ("aa", "bb"):
        path.with_name(f"{path.name}.{language}").write_text("tolu\n" * num_pairs)


def test_held_out_text_that_exists_is_used(project: Path) -> None:
    write_pairs(project / "val", 3)
    (project / "news.tsv").write_text("tolu\tTOLU\n")
    ended = init("--valid-text", "val", "--test-text", "news.tsv")
    assert ended.code == 0, ended.err
    data = load_config("aa-bb.yaml").data
    assert [(valid.name, valid.prefix) for valid in data.valid] == [("val", str(project / "val"))]
    news = project / "news.tsv"
    assert [(test.name, test.tsv) for test in data.test] == [("news.tsv", str(news))]
    files = {path.name for path in (project / "aa-bb-data").iterdir()}
    assert files == {"train.aa", "train.bb"}
    assert "Validation text: val" in ended.out
    assert "Test text: news.tsv" in ended.out


def test_sentences_of_held_out_text_that_exists_are_not_in_the_training_text(
    project: Path,
) -> None:
    first, second, *rest = (project / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    source, _ = first.split("\t")
    _, target = second.split("\t")
    (project / "val.tsv").write_text(f"{source}\tX\n", encoding="utf-8")
    (project / "news.tsv").write_text(f"X\t{target.lower()}\n", encoding="utf-8")
    ended = init("--valid-text", "val.tsv", "--test-text", "news.tsv")
    assert ended.code == 0, ended.err
    sources = (project / "aa-bb-data/train.aa").read_text(encoding="utf-8").splitlines()
    assert sources == [row.split("\t")[0] for row in rest]
    assert "        2 with a source or target of the held-out text, left out" in ended.out
    assert " in train too" not in mt("check", "aa-bb.yaml").out


def test_test_text_is_made_beside_existing_validation_text(project: Path) -> None:
    write_pairs(project / "val", 3)
    assert init("--valid-text", "val").code == 0
    files = {path.name for path in (project / "aa-bb-data").iterdir()}
    assert files == {"train.aa", "train.bb", "test.aa", "test.bb"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--valid-text", "absent"), "absent"),
        (("--valid-text", "absent.tsv"), "absent.tsv"),
        (("--valid-text", "empty"), "the file is empty"),
        (("--valid-text", "blank"), "blank lines only"),
        (("--valid-text", "one_column.tsv"), "wanted 2 columns"),
        (("--valid-text", "one_side.tmx"), "one_side.tmx"),
        (("--valid-text", "test"), "both called test"),
        (("--valid-text", "val", "--test-text", "val"), "both called val"),
    ],
)
def test_bad_held_out_text_is_one_line(
    options: tuple[str, ...], message: str, project: Path
) -> None:
    for name, num_pairs in (("val", 3), ("test", 3), ("empty", 0)):
        write_pairs(project / name, num_pairs)
    for language in ("aa", "bb"):
        (project / f"blank.{language}").write_text("\n \n")
    (project / "one_column.tsv").write_text("tolu\n")
    unit = '<tu><tuv xml:lang="aa"><seg>tolu</seg></tuv></tu>'
    (project / "one_side.tmx").write_text(f"<tmx><body>{unit}</body></tmx>")
    ended = init(*options)
    assert ended.code == 1
    assert message in ended.err.splitlines()[-1]
    assert not (project / "aa-bb.yaml").exists()
    assert not (project / "aa-bb-data").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--valid-text", "val", "--valid", "5"), "--valid-text: the set exists already"),
        (("--test-text", "val", "--test", "0"), "--test-text: the set exists already"),
    ],
)
def test_size_of_an_existing_set_is_refused(
    options: tuple[str, ...], message: str, project: Path
) -> None:
    write_pairs(project / "val", 3)
    ended = init(*options)
    assert ended.code == 2
    assert message in ended.err
    assert f"{options[2]} cannot be used" in ended.err
    assert not (project / "aa-bb.yaml").exists()
    assert not (project / "aa-bb-data").exists()
