"""The pages in a run directory that a server shows beside its own: report and attention page."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from mt.report.template import PageLink
from mt.serve.models import ServedModel
from mt.storage.run_dir import ATTENTION_FILE, REPORT_FILE

LINK_TEXTS = {REPORT_FILE: "Report of the run", ATTENTION_FILE: "Attention page"}


def run_page_path(model: ServedModel, file_name: str) -> Path | None:
    """Return the path of a page of a run, or None if there is none that may be shown."""
    if model.run_dir is None or file_name not in LINK_TEXTS:
        return None
    path = model.run_dir / file_name
    return path if path.is_file() else None


def run_page_links(
    model: ServedModel, file_names: Sequence[str] = (REPORT_FILE, ATTENTION_FILE)
) -> list[PageLink]:
    """Return links to the pages of a run that may be shown, relative to the page of the server."""
    return [
        PageLink(LINK_TEXTS[name], f"runs/{quote(model.name, safe='')}/{name}")
        for name in file_names
        if run_page_path(model, name) is not None
    ]
