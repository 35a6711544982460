"""Tests of reading pairs from translation memories, hostile ones among them."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mt.data.tmx
from mt.data.tmx import find_language, read_tmx
from mt.errors import DataError

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<tmx version="1.4"><header/><body>\n'
TAIL = "</body></tmx>\n"


def unit(**segments: str) -> str:
    """Return a unit with a variant for each language; `_` in a language stands for `-`."""
    variants = "".join(
        f'<tuv xml:lang="{lang.replace("_", "-")}"><seg>{segment}</seg></tuv>'
        for lang, segment in segments.items()
    )
    return f"<tu>{variants}</tu>\n"


def read(path: Path, content: str | bytes) -> list[tuple[str, str] | None]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_tmx(path, src_lang="en", tgt_lang="sv"))


def test_units_are_read_in_order(tmp_path: Path) -> None:
    units = unit(en="dog", sv="hund") + unit(sv="katt", en="cat &amp; &lt;mouse&gt; &#228;")
    pairs = read(tmp_path / "a.tmx", HEAD + units + TAIL)
    assert pairs == [("dog", "hund"), ("cat & <mouse> ä", "katt")]


def test_unit_without_one_of_the_languages_is_none(tmp_path: Path) -> None:
    units = unit(en="dog", de="Hund") + unit(en="dog", sv="hund") + "<tu></tu>"
    assert read(tmp_path / "a.tmx", HEAD + units + TAIL) == [None, ("dog", "hund"), None]


@pytest.mark.parametrize(
    ("codes", "lang", "expected"),
    [
        (["en"], "en", "en"),
        (["de", "en-US"], "en", "en-US"),
        (["EN_us"], "en", "EN_us"),
        (["en-GB", "EN"], "en", "EN"),
        (["en-GB", "en-US"], "en", "en-GB"),
        (["en-GB", "en-US"], "en_us", "en-US"),
        (["eng", "e", ""], "en", None),
        (["en"], "en-US", None),
    ],
)
def test_language_matches_its_variants(codes: list[str], lang: str, expected: str | None) -> None:
    assert find_language(codes, lang) == expected


@pytest.mark.parametrize("languages", [("pt", "pt-BR"), ("pt-BR", "pt")])
def test_language_and_its_variant_are_two_languages(
    tmp_path: Path, languages: tuple[str, str]
) -> None:
    path = tmp_path / "a.tmx"
    tuv = '<tuv xml:lang="{}"><seg>{}</seg></tuv>'
    unit = f"<tu>{tuv.format('pt-BR', 'ônibus')}{tuv.format('pt-PT', 'autocarro')}</tu>"
    path.write_text(f"<tmx>{unit}</tmx>", encoding="utf-8")
    src_lang, tgt_lang = languages
    expected = ("autocarro", "ônibus") if src_lang == "pt" else ("ônibus", "autocarro")
    assert list(read_tmx(path, src_lang=src_lang, tgt_lang=tgt_lang)) == [expected]


def test_code_of_the_document_is_left_out(tmp_path: Path) -> None:
    segment = (
        'Click <bpt i="1">&lt;a href="<sub>x</sub>"&gt;</bpt><hi>here</hi>'
        '<ept i="1">&lt;/a&gt;</ept><ph>{0}</ph>!<it pos="end">z</it><ut>u</ut>'
    )
    pairs = read(tmp_path / "a.tmx", HEAD + unit(en=segment, sv="Klicka här!") + TAIL)
    assert pairs == [("Click here!", "Klicka här!")]


def test_segment_on_several_lines_becomes_one_line(tmp_path: Path) -> None:
    text = HEAD + unit(en="\n    A dog\r\n\tbarks.\n", sv="<![CDATA[En <hund>]]> skäller.") + TAIL
    assert read(tmp_path / "a.tmx", text) == [("A dog barks.", "En <hund> skäller.")]


def test_notes_and_properties_are_not_text(tmp_path: Path) -> None:
    text = f'{HEAD}<tu><note>n</note><prop type="p">q</prop>{unit(en="a", sv="b")[4:]}{TAIL}'
    assert read(tmp_path / "a.tmx", text) == [("a", "b")]


def test_first_of_two_variants_in_one_language_is_read(tmp_path: Path) -> None:
    variants = unit(en="a", sv="b")[4:-6] + '<tuv lang="en"><seg>c</seg></tuv>'
    assert read(tmp_path / "a.tmx", f"{HEAD}<tu>{variants}</tu>{TAIL}") == [("a", "b")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encoding_of_the_file_is_obeyed(tmp_path: Path, encoding: str) -> None:
    text = HEAD.replace("UTF-8", encoding.removesuffix("-sig")) + unit(en="a", sv="å") + TAIL
    assert read(tmp_path / "a.tmx", text.encode(encoding)) == [("a", "å")]


def test_document_type_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "tmx14.dtd").write_text('<!ENTITY x "y">')
    text = HEAD.replace("<tmx", '<!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx')
    assert read(tmp_path / "a.tmx", text + unit(en="a", sv="b") + TAIL) == [("a", "b")]
    with pytest.raises(DataError, match="uses the entity 'x'"):
        read(tmp_path / "a.tmx", text + unit(en="&x;", sv="b") + TAIL)


def test_compressed_file_is_read(tmp_path: Path) -> None:
    content = gzip.compress((HEAD + unit(en="a", sv="b") + TAIL).encode())
    assert read(tmp_path / "a.tmx.gz", content) == [("a", "b")]


BILLION_LAUGHS = (
    '<!DOCTYPE tmx [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    + "]>"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD.replace("<tmx", BILLION_LAUGHS + "<tmx") + unit(en="&a9;") + TAIL, ":2: declares"),
        (
            HEAD.replace("<tmx", '<!DOCTYPE tmx [<!ENTITY x SYSTEM "/etc/passwd">]><tmx')
            + unit(en="&x;", sv="b")
            + TAIL,
            ":2: declares the entity 'x'",
        ),
        (
            HEAD.replace("<tmx", '<!DOCTYPE tmx [<!ENTITY % x SYSTEM "/etc/passwd"> %x;]><tmx')
            + TAIL,
            ":2: declares the entity 'x'",
        ),
        (HEAD + unit(en="&x;", sv="b") + TAIL, ":3: not TMX: undefined entity"),
        (HEAD + unit(en="a", sv="b"), ":4: not TMX: the file ends too early"),
        (HEAD + "<tu><tuv", ":3: not TMX: the file ends too early"),
        (HEAD + "<tu></seg>" + TAIL, ":3: not TMX: mismatched tag"),
        (HEAD.encode() + b"<tu>\xff</tu>", ":3: not TMX: not well-formed"),
        (HEAD.replace("UTF-8", "shift_jis"), ":1: the encoding cannot be read: multi-byte"),
        (HEAD.replace("UTF-8", "x" * 9999), ":1: the encoding cannot be read: unknown encoding"),
        (HEAD.replace("UTF-8", "idna"), ":1: the encoding cannot be read"),
        ("dog\tHund\n", ":1: not TMX: syntax error"),
        (b"", ":1: not TMX: the file ends too early"),
        ("<html><body/></html>", ":1: wanted a TMX file, found XML with the root element 'html'"),
        (HEAD + TAIL, ": there is no translation unit"),
        (HEAD + unit(en="a", de="b") * 3 + TAIL, "of its 3 units are en (3), de (3)"),
        (HEAD + "<a>" * 1000, ":3: wanted elements in at most 100 others"),
    ],
)
def test_unusable_file_is_refused_with_one_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "a.tmx"
    with pytest.raises(DataError) as caught:
        read(path, content)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("<seg>", "wanted units of at most 1,000,000 characters"),
        ("<!--", "wanted tags of at most 1,000,000 bytes"),
        ("<note ", "wanted tags of at most 1,000,000 bytes"),
        ("<note>", "the file ends too early"),  # text that is not kept
    ],
)
def test_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, message: str
) -> None:
    """A compressed file of 30 kB holds 30 MB of one segment, comment, or tag."""
    monkeypatch.setattr(mt.data.tmx, "MAX_LINE_SIZE", 1_000_000)
    content = gzip.compress(f"{HEAD}<tu><tuv>{part}".encode() + b"a" * 30_000_000, mtime=0)
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.tmx.gz", content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000


@given(st.integers(0, 300), st.integers(0, 20), st.binary(max_size=20))
def test_changed_bytes_give_pairs_or_one_line(position: int, num_lost: int, added: bytes) -> None:
    content = (HEAD + unit(en="a &amp; <ph>x</ph>", sv="<![CDATA[b]]>") + TAIL).encode()
    changed = content[:position] + added + content[position + num_lost :]
    with TemporaryDirectory() as directory:
        try:
            units = read(Path(directory) / "a.tmx", changed)
        except DataError as error:
            message = str(error)
            units = []
        else:
            message = ""
        assert "\n" not in message
        assert all("\n" not in text for pair in units if pair is not None for text in pair)


def test_units_are_yielded_before_the_whole_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tmx"
    path.write_text(HEAD + unit(en="a", sv="b") * 5000 + "<broken")
    units = read_tmx(path, src_lang="en", tgt_lang="sv")
    assert next(units) == ("a", "b")
