"""The page of a server: its HTML, and the policies of its own page and of the pages of runs.

A Content-Security-Policy tells the browser what a page may load, run and send.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mt.report.template import render
from mt.report.text_language import text_language
from mt.serve.models import ServedModels
from mt.serve.run_pages import run_page_links

TEMPLATE_DIR = Path(__file__).parent

NO_EMBEDDING = "base-uri 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Page:
    """The page, which is the same for all requests."""

    html: str
    policy: str  # the header Content-Security-Policy

    @classmethod
    def make(
        cls,
        models: ServedModels,
        *,
        needs_key: bool,
        max_chars: int,
        max_detail_chars: int,
    ) -> Self:
        """Return the page for the models of a server.

        The policy allows its own script and style, by their hashes, and requests to the server.
        """
        data = {
            "models": [
                model.facts
                | {
                    "hasDetails": model.has_details,
                    "links": [link._asdict() for link in run_page_links(model)],
                }
                for model in models
            ],
            # The HTML attributes of texts in each language.
            "languages": {code: text_language(code)._asdict() for code in models.languages},
            "maxChars": max_chars,
            "maxDetailChars": max_detail_chars,
        }
        html = render(
            "serve.html", {"data": data, "needs_key": needs_key}, template_dir=TEMPLATE_DIR
        )
        policy = (
            f"default-src 'none'; script-src {_hash_of(html, 'script')}; "
            f"style-src {_hash_of(html, 'style')}; connect-src 'self'; img-src data:; "
            f"form-action 'self'; {NO_EMBEDDING}"
        )
        return cls(html, policy)


def sandbox_policy() -> str:
    """Return the policy of reports and attention pages.

    They may run their own scripts and styles, and load and send nothing. `sandbox` gives them an
    origin of their own, so that they cannot reach other pages or the API of this server.
    """
    return (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        f"img-src data:; form-action 'none'; sandbox allow-scripts; {NO_EMBEDDING}"
    )


def _hash_of(html: str, element: str) -> str:
    """Return the source expression of the only inline script or style."""
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
