"""Report and attention page of a run are linked and shown, where their owner wants it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shell
from browser import Browser
from serving import RunningServer, make_models, running_server
from starlette.types import ASGIApp

import mt.serve.app
from mt.data.tokenizer import Tokenizer
from mt.serve.models import ServedModels
from mt.storage.run_dir import RunDir

OLD_RUN = Path(__file__).resolve().parent.parent / "data" / "old_runs" / "dot_pre_joint"
SECRET = "text of the run"
NAME = "a run & ü%2F"


def served_run(tokenizer: Tokenizer, run_dir: Path | None) -> ServedModels:
    """Return a model with pages to show, if it has a run directory, and another one."""
    shown, other = make_models(tokenizer, (NAME, "en", "sv"), ("other", "en", "sv")).models
    return ServedModels((replace(shown, run_dir=run_dir), other))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    report = f"<title>Report</title>{SECRET}"
    RunDir(tmp_path).report_path.write_text(report, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(SECRET, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run_server(tokenizer: Tokenizer, run_dir: Path) -> Iterator[RunningServer]:
    with running_server(served_run(tokenizer, run_dir)) as running:
        yield running


def test_the_page_links_to_the_report_of_the_chosen_model(
    browser: Browser, run_server: RunningServer
) -> None:
    page = browser.open(run_server.url, width=390)
    links = "[...document.querySelectorAll('#links a')].map((link) => link.textContent)"
    assert page.evaluate(links) == ["Report of the run"], "there is no attention page"
    assert page.evaluate("document.querySelector('#model-name').textContent") == NAME
    page.evaluate("document.querySelector('#links a').target = '_self'")
    page.click("#links a")
    page.wait_until("document.title === 'Report'")
    assert page.console_messages == []
    page.close()


def test_the_links_are_those_of_the_chosen_model(
    browser: Browser, run_server: RunningServer
) -> None:
    page = browser.open(run_server.url)
    page.evaluate("document.querySelector('#model').focus()")
    page.press("ArrowDown")
    page.wait_until("document.querySelector('#model-name').textContent === 'other'")
    assert page.evaluate("document.querySelector('#links').textContent") == ""
    page.close()


def test_a_report_may_do_nothing_but_draw(run_server: RunningServer) -> None:
    answer = run_server.get("runs/a%20run%20%26%20%C3%BC%252F/report.html")
    assert (answer.status, answer.text) == (200, f"<title>Report</title>{SECRET}")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox allow-scripts" in policy


def test_no_other_file_is_shown(run_server: RunningServer) -> None:
    name = "a%20run%20%26%20%C3%BC%252F"
    for path in (
        f"runs/{name}/config.yaml",
        f"runs/{name}/attention.html",
        f"runs/{name}/..%2Freport.html",
        f"runs/{name}/.%2Freport.html",
        f"runs/{name}/",
        "runs/other/report.html",
        "runs/../report.html",
        "runs//report.html",
    ):
        answer = run_server.get(path)
        assert answer.status == 404
        assert SECRET not in answer.text


def test_nothing_is_shown_that_the_owner_does_not_show(tokenizer: Tokenizer) -> None:
    with running_server(served_run(tokenizer, None)) as running:
        assert "report.html" not in running.get("/").text
        assert running.get("runs/a%20run%20%26%20%C3%BC%252F/report.html").status == 404


def test_the_attention_page_leads_to_the_report_and_back(run_server: RunningServer) -> None:
    parameters = {"q": "balo", "source": "en", "target": "sv"}
    page = run_server.post("attention", **parameters, model=NAME).text
    assert '<a href="./">Translate</a>' in page
    assert '<a href="runs/a%20run%20%26%20%C3%BC%252F/report.html">Report of the run</a>' in page
    page = run_server.post("attention", **parameters, model="other").text
    assert '<a href="./">Translate</a>' in page
    assert "report.html" not in page


@pytest.mark.parametrize(
    ("options", "is_shown"),
    [
        ((), True),
        (("--host", "0.0.0.0"), False),
        (("--api-key-file", "keys"), False),
        (("--allow-origin", "https://example.org"), False),
        (("--no-reports",), False),
        (("--host", "0.0.0.0", "--reports"), True),
    ],
)
def test_reports_are_for_the_owner_of_the_machine(
    options: tuple[str, ...], is_shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mt.serve.server.run_server", lambda app, listener: None)
    run_dirs: list[Path | None] = []
    make_app = mt.serve.app.make_app

    def keep_run_dirs(models: ServedModels, *arguments: Any, **options: Any) -> ASGIApp:
        run_dirs.extend(model.run_dir for model in models.models)
        return make_app(models, *arguments, **options)

    monkeypatch.setattr("mt.serve.app.make_app", keep_run_dirs)
    (tmp_path / "keys").write_text("secret\n", encoding="utf-8")
    ended = shell.mt("serve", OLD_RUN, "--checkpoint", "last", "--port", "0", *options)
    assert ended.code == 0
    assert ("reports of the runs are shown" in ended.err) is is_shown
    assert run_dirs == [OLD_RUN if is_shown else None]
