"""Tags: control tokens in front of a source that say how it is to be translated.

A model of several target languages reads the tag of the wanted one in front of each source (Johnson
et al. 2017, "Google's Multilingual Neural Machine Translation System"). The tag of a corpus tells
the model where a training pair comes from, such as from back-translation (Caswell et al. 2019,
"Tagged Back-Translation").

`data.tags` names the tags of a run. The i-th name belongs to the i-th control token that the source
tokenizer reserves for tags. A text cannot express a control token, so a "<2de>" in a text stays
text.
"""

from collections.abc import Mapping, Sequence

from mt.config.choices import MAX_TAGS
from mt.config.schema import LANGUAGE_TAG_MARK, CorpusConfig, DataConfig, LanguagePair
from mt.data.tokenizer import Tokenizer
from mt.errors import ConfigError, TokenizerError

Prefix = tuple[int, ...]  # ids of tags in front of a source


def language_tag(language: str) -> str:
    """Return the name of the tag of a target language."""
    return f"{LANGUAGE_TAG_MARK}{language}"


def choose_tags(data: DataConfig, parent_tags: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the tags of a run: `data.tags`, or those that its corpora need.

    `parent_tags` are those of the run that training starts from. They come first, because the
    embeddings of the control tokens have learned their meaning. Target languages have tags if there
    are several of them, or if they had tags in that run. Raises ConfigError for too many tags.
    """
    if data.tags is not None:
        return data.tags
    tags = (*parent_tags, *data.missing_tags(parent_tags))
    if len(tags) > MAX_TAGS:
        raise ConfigError(
            f"data.train: wanted at most {MAX_TAGS} target languages and tags of corpora, "
            f"found {len(tags)}: {', '.join(tags)}"
        )
    return tags


def translatable_languages(data: DataConfig) -> tuple[str, ...]:
    """Return the languages that a run can translate into: those with tags, or its only one."""
    tags = choose_tags(data)
    languages = [tag.removeprefix(LANGUAGE_TAG_MARK) for tag in tags if is_language_tag(tag)]
    return tuple(languages) or (data.tgt_lang,)


def describe_default_language(tgt_lang: str, languages: Sequence[str]) -> str | None:
    """Return a warning that no target language was named, for a model of several; else None."""
    others = [language for language in languages if language != tgt_lang]
    if not others:
        return None
    return (
        f"no target language is named (--to), so the translations are taken for {tgt_lang}; "
        f"the model also writes {', '.join(others)}"
    )


def translatable_pairs(data: DataConfig) -> tuple[LanguagePair, ...]:
    """Return the language pairs that a run can translate, that of its defaults first.

    These are the pairs of its training corpora. A target language that has a tag, but no corpus,
    was learned by the run that training started from: it is paired with `data.src_lang`.
    """
    pairs = list(data.language_pairs)
    pairs += [
        LanguagePair(data.src_lang, language)
        for language in translatable_languages(data)
        if language not in data.trained_tgt_languages
    ]
    default = LanguagePair(data.src_lang, data.tgt_lang)
    if default in pairs:
        pairs.insert(0, default)
    return tuple(dict.fromkeys(pairs))


def is_language_tag(tag: str) -> bool:
    """Return whether a tag stands for a target language, and not for a corpus."""
    return tag.startswith(LANGUAGE_TAG_MARK)


def tag_ids(tags: Sequence[str], tokenizer: Tokenizer) -> dict[str, int]:
    """Return the control token of each tag. Raises TokenizerError if there are too few of them."""
    if len(tags) > len(tokenizer.tag_ids):
        raise TokenizerError(
            f"the source tokenizer has {len(tokenizer.tag_ids)} control tokens for tags, but "
            f"data.tags has {len(tags)} names"
        )
    return dict(zip(tags, tokenizer.tag_ids, strict=False))


def language_ids(ids_by_tag: Mapping[str, int]) -> dict[str, int]:
    """Return the control token of each target language, without the tags of corpora."""
    return {
        tag.removeprefix(LANGUAGE_TAG_MARK): token_id
        for tag, token_id in ids_by_tag.items()
        if is_language_tag(tag)
    }


def corpus_prefix(corpus: CorpusConfig, data: DataConfig, ids_by_tag: Mapping[str, int]) -> Prefix:
    """Return the tags in front of the sources of a corpus: its target language, then its own."""
    names = [language_tag(data.languages(corpus).tgt)]
    if corpus.tag is not None:
        names.append(corpus.tag)
    return tuple(ids_by_tag[name] for name in names if name in ids_by_tag)
