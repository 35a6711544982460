"""The check of the session in README.md. (tests/test_readme.py tests the table of config keys.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.docs.check_session import find_difference, main, normalize

LOG = """\
Installing mt into .venv ...

$ .venv/bin/mt train --config configs/toy.yaml
runs/toy: 1,182,208 parameters (cpu, fp32)
step 50/2,300 | loss 7.042 | 900 tok/s | lr 5.00e-04 | 1:03:21 left
step 100/2,300 | loss 6.1 | 901 tok/s | lr 1.00e-03 | 59:02 left
valid 2,300 | loss 0.1 | BLEU 9.1 | best

$ echo "A dog." | .venv/bin/mt translate runs/toy
Ein Hund.

$ .venv/bin/mt evaluate runs/toy
test    BLEU    9.10
unseen  BLEU   10.10
"""

SESSION = """\
$ mt train --config configs/toy.yaml
runs/toy: 1,182,208 parameters (cpu, bf16)
step 50/2,300 | loss 7.181 | 16,595 tok/s | lr 5.00e-04 | 3:21 left
...
valid 2,300 | loss 0.089 | BLEU 97.39 | best
$ echo "A dog." | mt translate runs/toy
Ein Hund.
$ mt evaluate runs/toy
test    BLEU   96.59
...
"""


def test_session_may_differ_in_numbers_and_leave_lines_out() -> None:
    assert find_difference(SESSION, LOG) is None


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("Ein Hund.", "Ein Hunt.", "Ein Hunt."),
        ("| best", "| worst", "worst"),
        ("...\nvalid", "valid", "valid #"),  # without the gap, the lines must follow each other
        ("test    BLEU", "test    chrF", "test chrF"),
        ("evaluate", "score", "$ mt score"),
        ("Ein Hund.\n", "Ein Hund.\nEine Katze.\n", "Eine Katze."),
    ],
)
def test_session_line_missing_from_log_is_reported(old: str, new: str, missing: str) -> None:
    assert old in SESSION
    difference = find_difference(SESSION.replace(old, new), LOG)
    assert difference is not None
    assert missing in difference


def test_session_lines_in_another_order_are_reported() -> None:
    evaluated_first = "$ mt evaluate runs/toy\n...\n$ mt train --config configs/toy.yaml\n"
    assert find_difference(evaluated_first, LOG) is not None


def test_earliest_match_does_not_hide_a_later_one() -> None:
    """The first line of a block may stand in the log once more before the whole block does."""
    assert find_difference("a\nb\n", "a\nc\na\nb\n") is None
    assert find_difference("a\n...\na\nb\n", "a\nc\na\nb\n") is None
    assert find_difference("a\n...\na\nb\n", "c\na\nb\n") is not None


def test_empty_session_is_reported() -> None:
    assert find_difference("...\n", LOG) is not None


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("lr 5.00e-04", "lr 0.001"),
        ("1:03:21 left", "3:21 left"),
        ("(cpu, bf16)", "(cpu, fp32)"),
        ("TER     2.10  tok:13a", "TER    12.10  tok:13a"),
        ("$ .venv/bin/mt --help", "$ mt --help"),
    ],
)
def test_normalize_removes_what_depends_on_the_machine(left: str, right: str) -> None:
    assert normalize(left) == normalize(right)


def test_normalize_keeps_words() -> None:
    assert normalize("step 5 of 10") != normalize("step 5 to 10")
    assert normalize("13a") != normalize("13b")


def test_command_line_compares_readme_with_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, log = tmp_path / "README.md", tmp_path / "quickstart.log"
    log.write_text(LOG, encoding="utf-8")
    arguments = [str(log), "--readme", str(readme)]

    readme.write_text(f"# mt\n<!-- session -->\n```\n{SESSION}```\n<!-- /session -->\n")
    assert main(arguments) == 0

    readme.write_text("# mt\n<!-- session -->\n```\n$ mt fly\n```\n<!-- /session -->\n")
    assert main(arguments) == 1
    assert "$ mt fly" in capsys.readouterr().err

    readme.write_text("# mt\n")
    assert main(arguments) == 1
    assert "found 0" in capsys.readouterr().err
