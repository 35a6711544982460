"""`mt serve` as a process: it ends cleanly on a signal, and a mistake gives one line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from runs import one_thread
from shell import mt

RUN_DIR = Path(__file__).resolve().parent.parent / "data" / "old_runs" / "dot_pre_joint"
TEXT = "A man walks along the street. " * 150
NUM_CLIENTS = 4


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a server on a free port; yield the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mt", "serve", str(RUN_DIR), "--checkpoint", "last", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=one_thread(),
    )
    assert process.stderr is not None
    try:
        match = re.match("(http://.*?): ", process.stderr.readline())
        assert match, process.stderr.read()
        yield process, match[1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def post(url: str, **parameters: str) -> dict[str, object]:
    body = json.dumps({"source": "en", "target": "de", **parameters}).encode()
    request = Request(f"{url}translate", body, {"Content-Type": "application/json"})
    with urlopen(request) as response:
        answer: dict[str, object] = json.load(response)
    return answer


def waiting_characters(url: str) -> int:
    with urlopen(f"{url}health") as response:
        return int(json.load(response)["waitingCharacters"])


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_accepted_requests_are_answered_after_a_signal(signal_number: signal.Signals) -> None:
    answers: list[dict[str, object]] = []
    with serving() as (process, url):
        threads = [
            threading.Thread(target=lambda: answers.append(post(url, q=TEXT)))
            for _ in range(NUM_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        while waiting_characters(url) < NUM_CLIENTS * len(TEXT):
            assert not answers, "wanted a longer text"
            time.sleep(0.01)
        assert not answers
        assert process.stderr is not None
        process.send_signal(signal_number)
        for thread in threads:
            thread.join()
        messages = process.stderr.read()
        process.wait()
    assert len(answers) == NUM_CLIENTS
    assert all(answer == answers[0] for answer in answers)
    assert process.returncode == 0
    assert messages.count("POST /translate 200") == NUM_CLIENTS
    assert "Traceback" not in messages


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT_API_KEY", "secret")
    with serving() as (process, url):
        with pytest.raises(HTTPError) as refused:
            post(url, q="A man.")
        assert refused.value.code == 403
        refused.value.close()
        assert post(url, q="A man.", api_key="secret")
        process.terminate()
        assert process.wait() == 0


def test_a_port_that_is_taken_gives_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = mt("serve", RUN_DIR, "--port", port)
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert port in ended.err


def test_wrong_keys_give_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    keys.write_text("good\nschl\u00fcssel\n", encoding="utf-8")
    empty = tmp_path / "empty"
    empty.write_text("\n \n", encoding="utf-8")
    for path in (keys, empty, tmp_path / "missing"):
        ended = mt("serve", RUN_DIR, "--port", "0", "--api-key-file", path)
        assert ended.code == 1
        assert ended.err.count("\n") == 1
        assert str(path) in ended.err
    monkeypatch.setenv("MT_API_KEY", "a\tb")
    ended = mt("serve", RUN_DIR, "--port", "0")
    assert "MT_API_KEY" in ended.err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ended = mt("serve", RUN_DIR, "--port", "0")
    assert ended.code == 1
    assert "uvicorn" in ended.err
    assert "[serve]" in ended.err
    assert ended.err.count("\n") == 1


def test_a_directory_that_is_no_run_gives_one_line(tmp_path: Path) -> None:
    ended = mt("serve", tmp_path, "--port", "0")
    assert ended.code == 1
    assert str(tmp_path) in ended.err
    assert os.listdir(tmp_path) == []
