"""`mt split`: the files it writes, its counts, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import Ended, mt

from mt.cli.text_options import parse_columns

ROWS = [f"the house {number}\tdas Haus {number}\tCC-BY" for number in range(60)]
ROWS += ["the house 1\tdas Haus Nummer 1\tCC-BY", ROWS[2], " \tnichts\tCC-BY"]


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{row}\n" for row in ROWS), encoding="utf-8")
    return path


def split(*arguments: str | Path) -> Ended:
    return mt("split", *arguments, "--src-lang", "en", "--tgt-lang", "de")


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_sets_are_written_and_counted(tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = split(tsv, "-o", out, "--valid", "5", "--test", "7")
    assert ended.code == 0, ended.err
    sizes = {name: len(read(out / f"{name}.en")) for name in ("train", "valid", "test")}
    assert sizes == {"train": 49, "valid": 5, "test": 7}
    for name in sizes:
        src = read(out / f"{name}.en")
        tgt = read(out / f"{name}.de")
        assert all(f"{s}\t{t}\tCC-BY" in ROWS for s, t in zip(src, tgt, strict=True))
    assert not set(read(out / "train.en")) & set(read(out / "valid.en"))
    numbers = [int(line.split()[0]) for line in ended.out.splitlines()[2:8]]
    assert numbers == [63, 1, 1, 49, 5, 7]


def test_same_command_gives_the_same_files(tsv: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert split(tsv, "-o", tmp_path / name).code == 0
    assert split(tsv, "-o", tmp_path / "c", "--seed", "2").code == 0
    for name in ("train.en", "valid.de", "test.en"):
        assert read(tmp_path / "a" / name) == read(tmp_path / "b" / name)
    assert read(tmp_path / "a/valid.en") != read(tmp_path / "c/valid.en")


def test_two_files_and_a_prefix_are_split_alike(tmp_path: Path) -> None:
    for column, lang in enumerate(("en", "de")):
        lines = [row.split("\t")[column] for row in ROWS]
        path = tmp_path / f"corpus.{lang}"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    two_files = (tmp_path / "corpus.en", tmp_path / "corpus.de")
    assert split(*two_files, "-o", tmp_path / "a").code == 0
    assert split(tmp_path / "corpus", "-o", tmp_path / "b").code == 0
    assert read(tmp_path / "a/train.de") == read(tmp_path / "b/train.de")


def test_columns_are_chosen(tsv: Path, tmp_path: Path) -> None:
    assert split(tsv, "-o", tmp_path / "out", "--columns", "2,1").code == 0
    assert "das Haus 3" in "".join(read(tmp_path / "out/train.en"))


def test_units_without_one_of_the_languages_are_counted(tmp_path: Path) -> None:
    units = [f"<tu>{variant('en', f'a {n}')}{variant('de', f'b {n}')}</tu>" for n in range(30)]
    units += [f"<tu>{variant('en', 'alone')}</tu>"] * 3
    path = tmp_path / "memory.tmx"
    body = f"<body>{''.join(units)}</body>"
    path.write_text(f'<tmx version="1.4"><header/>{body}</tmx>', encoding="utf-8")
    ended = split(path, "-o", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "left out 3 of 33" in ended.err
    assert ended.out.splitlines()[2].split()[0] == "30"


def variant(language: str, text: str) -> str:
    """Return a variant of a translation unit, in XML."""
    return f'<tuv xml:lang="{language}"><seg>{text}</seg></tuv>'


def test_existing_directory_is_not_replaced(tsv: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train.en").write_text("mine\n", encoding="utf-8")
    ended = split(tsv, "-o", tmp_path / "out")
    assert ended.code == 1
    assert str(tmp_path / "out") in ended.err
    assert read(tmp_path / "out/train.en") == ["mine"]


def test_first_pair_is_shown(tsv: Path, tmp_path: Path) -> None:
    """So that a header that was read as a pair is noticed, and so are swapped languages."""
    src, tgt = read(tsv)[0].split("\t")[:2]
    ended = split(tsv, "-o", tmp_path / "out")
    assert ended.out.splitlines()[:2] == [
        f"first pair, en: {src}",
        f"first pair, de: {tgt}",
    ]


@pytest.mark.parametrize("endings", [("de", "en"), ("de.gz", "en.gz")])
def test_files_in_the_other_order_are_refused(endings: tuple[str, str], tmp_path: Path) -> None:
    files = [f"text.{ending}" for ending in endings]
    ended = mt("split", *files, "-o", tmp_path / "out", "--src-lang", "en", "--tgt-lang", "de")
    assert ended.code == 2
    assert f"FILES: the names of the files say that {files[0]} is de" in ended.err
    assert f"{files[1]} {files[0]}" in ended.err


def test_text_that_hangs_together_cannot_be_split(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"same\t{number}\n" for number in range(40)), encoding="utf-8")
    ended = split(path, "-o", tmp_path / "out")
    assert ended.code == 1
    assert "pairs.tsv" in ended.err
    assert "40" in ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("languages", "option", "found"),
    [
        (("en", "en"), "--tgt-lang", "en"),
        (("e/n", "de"), "--src-lang", "'e/n'"),
        (("", "de"), "--src-lang", "''"),
    ],
)
def test_languages_name_files(
    languages: tuple[str, str], option: str, found: str, tsv: Path, tmp_path: Path
) -> None:
    src_lang, tgt_lang = languages
    ended = mt("split", tsv, "-o", tmp_path / "x", "--src-lang", src_lang, "--tgt-lang", tgt_lang)
    assert ended.code == 2
    assert f"{option}: wanted " in ended.err
    assert f"found {found}" in ended.err
    assert list(tmp_path.iterdir()) == [tsv]


@pytest.mark.parametrize(
    ("text", "columns"), [(None, None), ("1,2", (1, 2)), ("3, 1", (3, 1)), ("en,de", ("en", "de"))]
)
def test_columns_are_numbers_or_names(
    text: str | None, columns: tuple[int | str, int | str] | None
) -> None:
    assert parse_columns(text) == columns


@pytest.mark.parametrize("text", ["1", "1,2,3", "1,en", "1,1", "en,en", "0,1", ",", ""])
def test_other_columns_are_refused(text: str, tsv: Path, tmp_path: Path) -> None:
    ended = split(tsv, "-o", tmp_path / "out", "--columns", text)
    assert ended.code == 2
    assert "--columns: " in ended.err
    assert f"found {text!r}" in ended.err
    assert list(tmp_path.iterdir()) == [tsv]
