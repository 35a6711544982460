"""YAML 1.2 is read into plain values with their places, overridden, and written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from mt.config.yaml_file import ConfigFile, parse_override, read_config_file, show, write_yaml
from mt.errors import ConfigError

TOO_DEEP = "wanted at most 20 sections and lists in each other, found more"
EXTRA_COLON = "found a ':' too many (does the line above lack one, or a text its quotes?)"


def read(tmp_path: Path, text: str) -> ConfigFile:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config_file(path)


def error_of(tmp_path: Path, content: bytes) -> str:
    """Return the one-line error of a file, with `x.yaml` for its path."""
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config_file(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "x.yaml")


def assert_same_value(actual: object, expected: object) -> None:
    """Check value and type, since 1 == 1.0 == True."""
    assert type(actual) is type(expected)
    assert actual == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("=", "="),
        ("true", True),
        ("False", False),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("-3", -3),
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        (".5", 0.5),
        ("1.", 1.0),
        ("null", None),
        ("~", None),
        ("", None),
        ('"4"', "4"),
        ("'null'", "null"),
        ('""', ""),
        ("-.inf", -math.inf),
        ("nan", "nan"),
        ("9" * 100, 10**100 - 1),
        ("9" * 101, 1e101),
        ("9" * 5000, math.inf),
        ("0x" + "f" * 5000, "0x" + "f" * 5000),
        ("[1, [no]]", (1, ("no",))),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_scalar_follows_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    assert_same_value(read(tmp_path, f"key: {text}\n").values["key"], value)


def test_keys_are_text(tmp_path: Path) -> None:
    assert read(tmp_path, "no: 1\n010: 2\n").values == {"no": 1, "010": 2}


def test_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert read_config_file(path).values == {"a": 1, "b": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.yaml: is empty (wanted sections such as data: and train:)"),
        (b"# only\n\n# comments\n", "x.yaml: is empty (wanted sections such as data: and train:)"),
        (b"hello\n", 'x.yaml:1: wanted sections such as data: and train:, found "hello"'),
        (b"- 1\n", "x.yaml:1: wanted sections such as data: and train:, found [1]"),
        (b"a: 1\nb: caf\xe9\n", "x.yaml:2: not UTF-8: found byte 0xe9"),
        (b"a: 1\nb: c: 2\n", f"x.yaml:2: not YAML: {EXTRA_COLON} (column 5)"),
        (b"a:\n  b 2\n  c: 3\n", f"x.yaml:3: not YAML: {EXTRA_COLON} (column 4)"),
        (b"a:\n  b: 1\nc\nd: 3\n", "x.yaml:3: not YAML: could not find expected ':' (column 1)"),
        (b"a:\n  b: 2\n   c: 3\n", f"x.yaml:3: not YAML: {EXTRA_COLON} (column 5)"),
        (b'a: "open\nb: 2\n', "x.yaml:1: not YAML: found unexpected end of stream (column 4)"),
        (b"a: [1, 2\nb: 2\n", "x.yaml:1: not YAML: expected ',' or ']', but got ':' (column 4)"),
        (
            b"a:\n\tb: 2\n",
            "x.yaml:2: not YAML: found character '\\t' that cannot start any token (column 1)",
        ),
        (b"a: 1\n---\nb: 2\n", "x.yaml:2: not YAML: found a second document (column 1)"),
        (b"a: 1\nb: \x07\n", "x.yaml:2: not YAML: found the control character U+0007"),
        (b"a: 1\nb: 2\na: 3\n", "x.yaml:3: a: given twice (first at x.yaml:1)"),
        (b"a:\n  - b: 2\n    b: 3\n", "x.yaml:3: a.0.b: given twice (first at x.yaml:2)"),
        (b"a: &x 1\nb: *x\n", "x.yaml:2: wanted plain values, found an alias (*) or a tag (!)"),
        (b"a: &x [*x]\n", "x.yaml:1: wanted plain values, found an alias (*) or a tag (!)"),
        (b"a: !!python/none x\n", "x.yaml:1: wanted plain values, found an alias (*) or a tag (!)"),
        (b"? [a]\n: 1\n", "x.yaml:1: wanted a word as key, found a list or a section"),
        (
            b"? &x a\n: 1\n? *x\n: 2\n",
            "x.yaml:3: wanted plain values, found an alias (*) or a tag (!)",
        ),
        (b"? !x a\n: 1\n", "x.yaml:1: wanted plain values, found an alias (*) or a tag (!)"),
        (b"a: " + b"[" * 50_000, f"x.yaml:1: {TOO_DEEP}"),
        (b"\n".join(b" " * depth + b"a:" for depth in range(99)), f"x.yaml:22: {TOO_DEEP}"),
        ("é".encode() * 250_001, "x.yaml: wanted a config of at most 500,000 bytes, found more"),
        (
            b'a: 1\nb: "\\ud800"\n',
            r"x.yaml:2: wanted text, found half a character (\uD800 to \uDFFF)",
        ),
        (b'a: 1\nb: "\\UFFFFFFFF"\n', "x.yaml:2: not YAML: found a number that is too large"),
        (
            b"%YAML " + b"9" * 5000 + b".1\n---\n",
            "x.yaml:1: not YAML: found a number that is too large",
        ),
        (b'"a\\nb": 1\n"a\\nb": 2\n', r"x.yaml:2: a\nb: given twice (first at x.yaml:1)"),
    ],
)
def test_unreadable_content_is_one_line_with_file_and_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    assert error_of(tmp_path, content) == message


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "no.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_config_file(path)
        assert str(caught.value) == f"{path}: cannot be read as a config: {reason}"


def test_place_is_line_of_key_or_of_section_around_it(tmp_path: Path) -> None:
    file = read(tmp_path, "a:\n  b:\n    - c: 1\n    -\n      c: 2\n")
    name = tmp_path / "x.yaml"
    assert file.locate(("a", "b", "0", "c")) == f"{name}:3: a.b.0.c"
    assert file.locate(("a", "b", "1", "c")) == f"{name}:5: a.b.1.c"
    assert file.locate(("a", "b", "1", "missing")) == f"{name}:5: a.b.1.missing"
    assert file.locate(("a", "missing", "deep")) == f"{name}:1: a.missing.deep"
    assert file.locate(("missing",)) == f"{name}: missing"
    assert file.locate(()) == str(name)


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("a.b=2", {"a": {"b": 2}, "l": ({"w": 1}, {"w": 2})}),
        ("a.c=x=y", {"a": {"b": 1, "c": "x=y"}, "l": ({"w": 1}, {"w": 2})}),
        ("a=", {"a": None, "l": ({"w": 1}, {"w": 2})}),
        ("l.1.w=1e-1", {"a": {"b": 1}, "l": ({"w": 1}, {"w": 0.1})}),
        ("l=[]", {"a": {"b": 1}, "l": ()}),
        (
            "new.deep.key=no",
            {"a": {"b": 1}, "l": ({"w": 1}, {"w": 2}), "new": {"deep": {"key": "no"}}},
        ),
    ],
)
def test_override_replaces_one_value_in_a_copy(
    tmp_path: Path, override: str, values: object
) -> None:
    file = read(tmp_path, "a: {b: 1}\nl: [{w: 1}, {w: 2}]\n")
    before = repr(file)
    assert file.override(parse_override(override)).values == values
    assert repr(file) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a.b", "--set a.b: wanted KEY=VALUE, such as train.learning_rate=3e-4"),
        ("=1", "--set =1: wanted KEY=VALUE, such as train.learning_rate=3e-4"),
        ("a..b=1", "--set a..b=1: wanted KEY=VALUE, such as train.learning_rate=3e-4"),
        ("l.1=x", "--set l.1=x: wanted the number of an item, below 1, found 1"),
        (
            "l." + "9" * 5000 + "=x",
            f"--set l.{'9' * 495}...: wanted the number of an item, below 1, found {'9' * 77}...",
        ),
        (
            "a." * 20 + "a=1",
            f"--set {'a.' * 20}a=1: wanted KEY=VALUE, such as train.learning_rate=3e-4",
        ),
        (
            "a.b\n=[1",
            r"--set a.b\n=[1: not YAML: expected ',' or ']', but got '<stream end>' (column 1)",
        ),
        ("l.w=x", "--set l.w=x: wanted the number of an item, below 1, found w"),
        ("a.b.c=1", "--set a.b.c=1: c: unknown key (it would stand inside the value 1)"),
        (
            "a.b=[1",
            "--set a.b=[1: not YAML: expected ',' or ']', but got '<stream end>' (column 1)",
        ),
    ],
)
def test_impossible_override_is_refused_in_one_line(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "a: {b: 1}\nl: [{w: 1}]\n").override(parse_override(override))
    assert str(caught.value) == message


def test_place_of_overridden_value_is_the_override(tmp_path: Path) -> None:
    file = read(tmp_path, "a:\n  b:\n    c: 1\n")
    file = file.override(parse_override("a.b={d: 2}"))
    file = file.override(parse_override("x.y=3"))
    assert file.locate(("a", "b")) == "--set a.b={d: 2}"
    assert file.locate(("a", "b", "c")) == "--set a.b={d: 2}: a.b.c"
    assert file.locate(("x",)) == "--set x.y=3: x"
    assert file.locate(("a", "z")) == f"{tmp_path / 'x.yaml'}:1: a.z"


@pytest.mark.parametrize(
    "value",
    [
        "no",
        "010",
        "1e-4",
        "1_0",
        "0o7",
        "null",
        "~",
        "",
        " x ",
        "a: b",
        "# c",
        "line\nline",
        "tab\t",
        "ü€😀\u2028",
        "\x07",
        "- x",
        "*x",
        "!x",
        "=",
        "<<",
        "x" * 500 + " " + "y" * 500,
        "9" * 5000,
        "1" * 101,
        "\x85\u2028",
        1e-9,
        1e22,
        0.1,
        3.0,
        0,
        -1,
        True,
        None,
        (),
        (1, "2"),
        ({"a": ()}, {"a": ("no",)}),
        {"no": {"b": None}},
    ],
)
def test_written_values_are_read_back(tmp_path: Path, value: Any) -> None:
    assert_same_value(read(tmp_path, write_yaml({"key": value})).values["key"], value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("4", '"4"'),
        (4, "4"),
        ("a\nb", r'"a\nb"'),
        (None, "null"),
        (True, "true"),
        ((1, "x"), '[1, "x"]'),
        ("\x85\u2028\x7f\ud800", r'"\x85\u2028\x7f\ud800"'),
    ],
)
def test_show_is_one_line_with_quoted_text(value: object, shown: str) -> None:
    assert show(value) == shown


def test_show_shortens_long_text() -> None:
    assert len(show("x" * 500)) == 80
