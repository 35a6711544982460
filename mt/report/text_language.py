"""The HTML attributes of a text in the language of a config: `lang`, `dir` and `translate`.

With them a screen reader chooses the right voice, and a browser the right font and direction.
"""

import re
from typing import NamedTuple

from markupsafe import Markup

from mt.evaluation.languages import script_of_language

# A language, and optionally a script, a region and variants (BCP 47).
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-[a-z]{4})?(-([a-z]{2}|\d{3}))?(-[a-z\d]{5,8})*", re.I)

# Browsers choose the font of Chinese characters by the language, and know the short codes best.
SHORT_CODES = {"cn": "zh", "chi": "zh", "zho": "zh", "jp": "ja", "jpn": "ja", "kor": "ko"}

RIGHT_TO_LEFT_SCRIPTS = {
    *("adlm", "arab", "aran", "hebr", "mand", "mend", "nkoo", "rohg", "samr", "syrc", "thaa"),
}
RIGHT_TO_LEFT_LANGUAGES = {
    *("ar", "ara", "arb", "arz", "ary", "apc", "ajp", "acm", "acq", "aeb", "ars"),  # Arabic
    *("he", "heb", "iw", "yi", "yid", "ydd", "lad", "arc", "syr", "aii", "sam"),
    *("fa", "fas", "per", "pes", "prs", "ur", "urd", "ps", "pus", "pbt", "sd", "snd"),
    *("ug", "uig", "ckb", "azb", "pnb", "skr", "bal", "glk", "mzn", "lrc"),
    *("dv", "div", "nqo", "rhg"),
}


class TextLanguage(NamedTuple):
    """The language of a text, as attributes of an HTML element have it."""

    lang: str  # a language tag (BCP 47); "" for an unknown language
    dir: str  # "rtl", or "auto" where the browser looks at the text


def text_language(code: str) -> TextLanguage:
    """Return the attributes of a text in a language, by its code in a config.

    Codes of other forms than BCP 47, such as `zho_Hans` or `pt_BR.UTF-8`, are changed into it. A
    name that cannot be a language code stands for an unknown language.
    """
    tag = code.split(".")[0].replace("_", "-")
    if not LANGUAGE_CODE.fullmatch(tag):
        return TextLanguage("", "auto")
    language, *subtags = tag.split("-")
    language = language.lower()
    script = script_of_language(code)
    is_right_to_left = script in RIGHT_TO_LEFT_SCRIPTS
    if script == "":
        is_right_to_left = language in RIGHT_TO_LEFT_LANGUAGES
    tag = "-".join([SHORT_CODES.get(language, language), *subtags])
    return TextLanguage(tag, "rtl" if is_right_to_left else "auto")


def text_attributes(code: str) -> Markup:
    """Return the attributes of an element that holds a text in a language, as HTML.

    `translate="no"` keeps a browser that translates the page from changing the text.
    """
    lang, direction = text_language(code)
    return Markup('lang="{}" dir="{}" translate="no"').format(lang, direction)
