"""get_data.py: it writes only files with the right checksum, and each failure is one line."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.recipes import get_data
from scripts.recipes.get_data import DATA_SETS, DataSet

TOP = Path(__file__).resolve().parents[2]
SHARED = TOP.parent / "shared/data"


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Two small files instead of the six of Multi30k."""
    texts = {"train.en": b"A dog.\n", "train.de": "Ein schöner Hund.\n".encode()}
    checksums = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    data_set = DataSet(checksums, "For non-commercial research and education.", is_packed=True)
    monkeypatch.setitem(DATA_SETS, "multi30k", data_set)
    return texts


@pytest.fixture
def packed(texts: dict[str, bytes], tmp_path: Path) -> Path:
    """A folder with the files, compressed."""
    folder = tmp_path / "served here"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(text))
    return folder


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a local server with the compressed files."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(QuietHandler, directory=str(packed))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def set_origins(monkeypatch: pytest.MonkeyPatch, *origins: str) -> None:
    """Give Multi30k other origins."""
    data_set = replace(DATA_SETS["multi30k"], origins=origins)
    monkeypatch.setitem(DATA_SETS, "multi30k", data_set)


def run(out: Path, *, origin: str | Path) -> int:
    return get_data.main(["multi30k", "--from", str(origin), "--out", str(out)])


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of a folder's files by name; none if there is no such folder."""
    if not folder.exists():
        return {}
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_are_downloaded_and_unpacked(
    texts: dict[str, bytes], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", origin=url) == 0
    assert contents(tmp_path / "out") == texts
    assert "non-commercial research and education" in capsys.readouterr().out


def test_files_are_copied_from_a_folder_compressed_or_not(
    texts: dict[str, bytes], packed: Path, tmp_path: Path
) -> None:
    assert run(tmp_path / "out", origin=packed) == 0
    assert run(tmp_path / "out again", origin=tmp_path / "out") == 0
    assert contents(tmp_path / "out") == texts
    assert contents(tmp_path / "out again") == texts


def test_only_wrong_files_are_fetched_again(
    texts: dict[str, bytes], url: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(out, origin=url)
    (out / "train.de").write_bytes(b"half a fi")
    time_before = (out / "train.en").stat().st_mtime_ns
    assert run(out, origin=url) == 0
    assert (out / "train.en").stat().st_mtime_ns == time_before
    assert contents(out) == texts


def test_complete_files_need_no_network(
    texts: dict[str, bytes], packed: Path, tmp_path: Path
) -> None:
    run(tmp_path / "out", origin=packed)
    assert run(tmp_path / "out", origin="http://127.0.0.1:1") == 0


def test_file_with_a_wrong_checksum_is_not_written(
    texts: dict[str, bytes],
    packed: Path,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (packed / "train.de.gz").write_bytes(gzip.compress(texts["train.de"] + b"!"))
    assert run(tmp_path / "out", origin=url) == 1
    assert set(contents(tmp_path / "out")) == {"train.en"}
    message = capsys.readouterr().err
    assert message.startswith(f"get_data: {url}: train.de")
    assert "SHA-256" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (None, "HTTP Error 404: File not found"),
        (
            lambda data: data[:-9],
            "Compressed file ended before the end-of-stream marker was reached",
        ),
        (lambda _: b"<html>", "Not a gzipped file (b'<h')"),
    ],
    ids=["missing", "cut short", "a web page"],
)
def test_damaged_download_is_one_line(
    damage: Callable[[bytes], bytes] | None,
    reason: str,
    packed: Path,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = packed / "train.en.gz"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    assert run(tmp_path / "out", origin=url) == 1
    assert capsys.readouterr().err == f"get_data: {url}/train.en.gz: {reason}\n"
    assert contents(tmp_path / "out") == {}


def test_missing_network_is_one_line_that_names_the_alternative(
    texts: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    origins = ("http://127.0.0.1:1/pinned", "http://127.0.0.1:1/other")
    set_origins(monkeypatch, *origins)
    assert get_data.main(["multi30k", "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("get_data: http://127.0.0.1:1/pinned/train.en.gz: ")
    assert "Connection refused" in message
    assert "--from" in message
    assert message.count("\n") == 1


def test_second_origin_is_used_when_the_first_fails(
    texts: dict[str, bytes], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_origins(monkeypatch, f"{url}/a3d2e0d", url)
    assert get_data.main(["multi30k", "--out", str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out") == texts


def test_folder_without_the_files_is_one_line(
    texts: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", origin=tmp_path / "nowhere") == 1
    message = capsys.readouterr().err
    assert message.startswith(f"get_data: {tmp_path}/nowhere/train.en: no such file")
    assert message.count("\n") == 1


def test_text_that_is_not_compressed_at_its_origin_is_downloaded(
    texts: dict[str, bytes], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set = replace(DATA_SETS["multi30k"], is_packed=False)
    monkeypatch.setitem(DATA_SETS, "multi30k", data_set)
    plain = tmp_path / "served here"
    for name, text in texts.items():
        (plain / name).write_bytes(text)
    assert run(tmp_path / "out", origin=url) == 0
    assert contents(tmp_path / "out") == texts


@pytest.fixture
def growing_text(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a text without an address that a program can download from."""
    checksums = {"swe.txt": hashlib.sha256(b"Go.\tG\xc3\xa5.\n").hexdigest()}
    data_set = DataSet(checksums, "CC BY 2.0", page="https://site/swe-eng.zip")
    monkeypatch.setitem(DATA_SETS, "tatoeba-swe", data_set)
    return "tatoeba-swe"


def test_text_that_a_person_must_download_is_one_line(
    growing_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_data.main([growing_text, "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "https://site/swe-eng.zip" in message
    assert "--from" in message
    assert message.count("\n") == 1


def test_later_version_of_a_growing_text_is_used_with_a_warning(
    growing_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [growing_text, "--from", str(tmp_path), "--out", str(tmp_path / "out")]
    (tmp_path / "swe.txt").write_bytes(b"Go.\tG\xc3\xa5.\n")
    assert get_data.main(arguments) == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "out/swe.txt").unlink()
    (tmp_path / "swe.txt").write_bytes(b"Go.\tG\xc3\xa5.\nRun!\tSpring!\n")
    assert get_data.main(arguments) == 0
    assert "another version" in capsys.readouterr().err
    assert contents(tmp_path / "out")["swe.txt"].endswith(b"Spring!\n")
    assert get_data.main(arguments) == 0, "it is there now"


@pytest.mark.skipif(not SHARED.exists(), reason="needs Multi30k beside the repository")
@pytest.mark.parametrize(
    ("name", "folder"), [("multi30k", "multi30k/raw"), ("multi30k-tok", "multi30k/tok")]
)
def test_checksums_are_those_of_multi30k(name: str, folder: str, tmp_path: Path) -> None:
    assert get_data.main([name, "--from", str(SHARED / folder), "--out", str(tmp_path)]) == 0
    middle = ".lc.norm.tok" if name == "multi30k-tok" else ""
    num_lines = {name: text.count(b"\n") for name, text in contents(tmp_path).items()}
    sizes = {"train": 29_000, "val": 1_014, "test_2016_flickr": 1_000}
    expected = {
        f"{part}{middle}.{lang}": size for part, size in sizes.items() for lang in ("en", "de")
    }
    assert num_lines == expected
