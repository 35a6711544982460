"""The toy corpus is correct German, reproducible, and separates its sets as promised."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from scripts.toy.author import Author, RandomChoices, Sentence
from scripts.toy.grammar import (
    COMMA,
    GERMAN_COMMA,
    Clause,
    Nominal,
    Phrase,
    both,
    name,
    noun_phrase,
    owner,
    pair,
    prepositional,
    pronoun,
    relative_pronoun,
    write_line,
)
from scripts.toy.lexicon import (
    ADJECTIVES,
    BARE,
    BE,
    DETERMINERS,
    NAMES,
    NEW_NAMES,
    NOUNS,
    PRONOUNS,
    SAYING_VERBS,
    VERBS,
    number_words,
)
from scripts.toy.make_corpus import (
    EXAMPLE,
    Combination,
    Corpus,
    bare_words,
    choose_held_out,
    format_links,
    make_corpus,
    write_corpus,
)

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data" / "toy"
SETS = ("train", "valid", "test", "test_unseen")
NUMBERS = {number_words(number)[0]: number for number in range(2, 100)}
PLURALS = {noun.english_plural: noun for noun in NOUNS.values() if noun.english_plural}


# A short way to write plans of sentences


def nominal(text: str, relative_clause: Clause | None = None) -> Nominal:
    """Return the plan of an English nominal, such as `the two old women`."""
    if text in PRONOUNS:
        return pronoun(text)
    if text in NAMES:
        return name(text)
    *words, last = text.replace("how many", "how|many").split()
    determiner = BARE
    number = None
    adjectives = []
    for word in words:
        if word.endswith("'s"):
            determiner = owner(word.removesuffix("'s"))
        elif word in NUMBERS:
            number = NUMBERS[word]
        elif word in ADJECTIVES:
            adjectives.append(ADJECTIVES[word])
        else:
            singular = {"an": "a", "these": "this"}.get(word, word)
            determiner = DETERMINERS[singular]
    plural = last in PLURALS
    return noun_phrase(
        PLURALS[last] if plural else NOUNS[last],
        determiner,
        plural=plural,
        number=number,
        adjectives=tuple(adjectives),
        relative=relative_clause,
    )


def clause(subject: str | Nominal, verb: str, *objects: str | Nominal, **features: Any) -> Clause:
    """Return a plan of a clause; `features` are other fields of Clause."""
    subject_plan = as_nominal(subject)
    object_plans = tuple(as_nominal(each) for each in objects)
    plan = Clause(subject_plan, BE if verb == "be" else VERBS[verb], object_plans)
    return replace(plan, **features)


def as_nominal(text_or_plan: str | Nominal) -> Nominal:
    return nominal(text_or_plan) if isinstance(text_or_plan, str) else text_or_plan


def place(preposition: str, german: str, case: str, text: str) -> Phrase:
    return prepositional(preposition, german, nominal(text).say(case, None))


def statement(
    subject: str | Nominal, verb: str, *objects: str | Nominal, **features: Any
) -> Phrase:
    return clause(subject, verb, *objects, **features).say("statement")


def question(subject: str | Nominal, verb: str, *objects: str | Nominal, **features: Any) -> Phrase:
    return clause(subject, verb, *objects, **features).say("question")


def that_sentence(subject: str, verb: str, inner: Clause, **features: Any) -> Phrase:
    main = replace(Clause(nominal(subject), SAYING_VERBS[verb]), **features)
    return main.say("statement") + GERMAN_COMMA + pair("that", "dass") + inner.say("final")


def subordinate(english: str, german: str, inner: Clause) -> Phrase:
    return pair(english, german) + inner.say("final")


def relative(noun: str, *, plural: bool = False) -> Nominal:
    return relative_pronoun(NOUNS[noun], plural=plural)


BOTH_COMMAS = Phrase((COMMA,), (COMMA,))
TODAY = pair("today", "heute")
EVENING = pair("in the|evening", "am|Abend")
TIRED = pair("tired", "müde")

# A plan of a statement, and how it must be said in English and German.
STATEMENTS = [
    # Gender, case, and strong, mixed and weak adjectives
    (
        statement("the old woman", "see", "a small dog"),
        "The old woman sees a small dog.",
        "Die alte Frau sieht einen kleinen Hund.",
    ),
    (
        statement("a small dog", "see", "the old woman"),
        "A small dog sees the old woman.",
        "Ein kleiner Hund sieht die alte Frau.",
    ),
    (
        statement("an old horse", "hear", "this young child"),
        "An old horse hears this young child.",
        "Ein altes Pferd hört dieses junge Kind.",
    ),
    (
        statement("my tired brother", "drink", "cold beer"),
        "My tired brother drinks cold beer.",
        "Mein müder Bruder trinkt kaltes Bier.",
    ),
    (
        statement("every clever boy", "buy", "an expensive hat"),
        "Every clever boy buys an expensive hat.",
        "Jeder kluge Junge kauft einen teuren Hut.",
    ),
    (
        statement("their mouse", "hear", "our big lion"),
        "Their mouse hears our big lion.",
        "Ihre Maus hört unseren großen Löwen.",
    ),
    (
        statement("no king", "sell", "a big black horse"),
        "No king sells a big black horse.",
        "Kein König verkauft ein großes schwarzes Pferd.",
    ),
    # Plurals, numbers, owners, names
    (
        statement("young witches", "see", "the tired giants"),
        "Young witches see the tired giants.",
        "Junge Hexen sehen die müden Riesen.",
    ),
    (
        statement("many rich kings", "help", "two weak geese"),
        "Many rich kings help two weak geese.",
        "Viele reiche Könige helfen zwei schwachen Gänsen.",
    ),
    (
        statement("the twenty-one children", "eat", "seventy-six eggs"),
        "The twenty-one children eat seventy-six eggs.",
        "Die einundzwanzig Kinder essen sechsundsiebzig Eier.",
    ),
    (
        statement("Anna's old dog", "follow", "Paul's old dog"),
        "Anna's old dog follows Paul's old dog.",
        "Annas alter Hund folgt Pauls altem Hund.",
    ),
    (
        statement(both(nominal("the king"), nominal("Felix")), "sleep"),
        "The king and Felix sleep.",
        "Der König und Felix schlafen.",
    ),
    # Verbs with a dative, with two objects, with a preposition; pronouns
    (statement("she", "thank", "he"), "She thanks him.", "Sie dankt ihm."),
    (statement("we", "invite", "they"), "We invite them.", "Wir laden sie ein."),
    (
        statement("I", "give", "the weak prince", "a flower"),
        "I give the weak prince a flower.",
        "Ich gebe dem schwachen Prinzen eine Blume.",
    ),
    (
        statement("the cat", "wait", "the bird"),
        "The cat waits for the bird.",
        "Die Katze wartet auf den Vogel.",
    ),
    (
        statement("they", "talk", "my sister"),
        "They talk to my sister.",
        "Sie sprechen mit meiner Schwester.",
    ),
    # Separable verbs, the perfect, modal verbs
    (
        statement("Emma", "close", "the window"),
        "Emma closes the window.",
        "Emma macht das Fenster zu.",
    ),
    (
        statement("the guest", "get up", tense="past"),
        "The guest got up.",
        "Der Gast ist aufgestanden.",
    ),
    (
        statement("the aunt", "read", "a letter", tense="past"),
        "The aunt read a letter.",
        "Die Tante hat einen Brief gelesen.",
    ),
    (
        statement("the son", "throw away", "the old shoes", tense="must"),
        "The son must throw away the old shoes.",
        "Der Sohn muss die alten Schuhe wegwerfen.",
    ),
    (
        statement("I", "repair", "the bicycle", tense="would"),
        "I would like to repair the bicycle.",
        "Ich möchte das Fahrrad reparieren.",
    ),
    # Negation: kein for ein and for no article, else nicht
    (
        statement("the queen", "buy", "a ring", negated=True),
        "The queen does not buy a ring.",
        "Die Königin kauft keinen Ring.",
    ),
    (
        statement("I", "drink", "milk", negated=True),
        "I do not drink milk.",
        "Ich trinke keine Milch.",
    ),
    (
        statement("he", "buy", "the ring", negated=True),
        "He does not buy the ring.",
        "Er kauft den Ring nicht.",
    ),
    (
        statement("the fox", "catch", "a goose", negated=True, tense="can"),
        "The fox cannot catch a goose.",
        "Der Fuchs kann keine Gans fangen.",
    ),
    (
        statement("we", "think", "the story", negated=True),
        "We do not think of the story.",
        "Wir denken nicht an die Geschichte.",
    ),
    # Places and directions; a time before what is new, after what is known, or first
    (
        statement("a bear", "sleep", place=place("in", "in", "dat", "the garden")),
        "A bear sleeps in the garden.",
        "Ein Bär schläft im Garten.",
    ),
    (
        statement("a bear", "run", place=place("into", "in", "acc", "the garden")),
        "A bear runs into the garden.",
        "Ein Bär rennt in den Garten.",
    ),
    (
        statement("Lena", "go", place=place("into", "in", "acc", "the old house")),
        "Lena goes into the old house.",
        "Lena geht ins alte Haus.",
    ),
    (
        statement("the knight", "need", "a sword", time=TODAY),
        "The knight needs a sword today.",
        "Der Ritter braucht heute ein Schwert.",
    ),
    (
        statement("the knight", "need", "the sword", time=TODAY),
        "The knight needs the sword today.",
        "Der Ritter braucht das Schwert heute.",
    ),
    (
        statement("the knight", "phone", "Mia", first=EVENING),
        "In the evening the knight phones Mia.",
        "Am Abend ruft der Ritter Mia an.",
    ),
    # The verb be
    (statement("we", "be", place=TIRED, negated=True), "We are not tired.", "Wir sind nicht müde."),
    (
        statement(
            "the mouse",
            "be",
            place=pair("as|brave|as", "so|mutig|wie") + nominal("a lion").say("nom", None),
        ),
        "The mouse is as brave as a lion.",
        "Die Maus ist so mutig wie ein Löwe.",
    ),
    # Relative clauses
    (
        statement(nominal("the girl", clause(relative("girl"), "love", "the cats")), "sing"),
        "The girl who loves the cats sings.",
        "Das Mädchen, das die Katzen liebt, singt.",
    ),
    (
        statement("I", "know", nominal("the man", clause("the queen", "trust", relative("man")))),
        "I know the man that the queen trusts.",
        "Ich kenne den Mann, dem die Königin vertraut.",
    ),
    (
        statement(
            nominal(
                "the women", clause("we", "help", relative("woman", plural=True), tense="past")
            ),
            "laugh",
        ),
        "The women that we helped laugh.",
        "Die Frauen, denen wir geholfen haben, lachen.",
    ),
    # Subordinate clauses, where the German verb is last
    (
        that_sentence("the dwarf", "know", clause("the witch", "switch off", "the lamp")),
        "The dwarf knows that the witch switches off the lamp.",
        "Der Zwerg weiß, dass die Hexe die Lampe ausschaltet.",
    ),
    (
        that_sentence(
            "I",
            "say",
            clause("the lamp", "be", place=pair("old", "alt"), tense="past"),
            tense="past",
        ),
        "I said that the lamp was old.",
        "Ich habe gesagt, dass die Lampe alt war.",
    ),
    (
        statement("Tim", "cry")
        + GERMAN_COMMA
        + subordinate("because", "weil", clause("we", "eat", "the cake", tense="past")),
        "Tim cries because we ate the cake.",
        "Tim weint, weil wir den Kuchen gegessen haben.",
    ),
    (
        statement(
            "we",
            "dance",
            first=subordinate("when", "wenn", clause("the guests", "arrive")) + BOTH_COMMAS,
        ),
        "When the guests arrive, we dance.",
        "Wenn die Gäste ankommen, tanzen wir.",
    ),
]

QUESTIONS = [
    (question("the cow", "see", "a fox"), "Does the cow see a fox?", "Sieht die Kuh einen Fuchs?"),
    (question("Anna", "wake up", tense="past"), "Did Anna wake up?", "Ist Anna aufgewacht?"),
    (question("the boys", "be", place=TIRED), "Are the boys tired?", "Sind die Jungen müde?"),
    (
        question("she", "open", "the door", tense="would"),
        "Would she like to open the door?",
        "Möchte sie die Tür aufmachen?",
    ),
    (question("who", "feed", "the pigs"), "Who feeds the pigs?", "Wer füttert die Schweine?"),
    (question("the aunt", "visit", "who"), "Whom does the aunt visit?", "Wen besucht die Tante?"),
    (
        question("they", "help", "who", tense="past"),
        "Whom did they help?",
        "Wem haben sie geholfen?",
    ),
    (question("we", "drink", "what"), "What do we drink?", "Was trinken wir?"),
    (
        question("Max", "sleep", first=pair("where", "wo")),
        "Where does Max sleep?",
        "Wo schläft Max?",
    ),
    (question("which old man", "sing"), "Which old man sings?", "Welcher alte Mann singt?"),
    (
        question("the child", "read", "which book"),
        "Which book does the child read?",
        "Welches Buch liest das Kind?",
    ),
    (
        question("he", "trust", "how many children", tense="can"),
        "How many children can he trust?",
        "Wie vielen Kindern kann er vertrauen?",
    ),
]


@pytest.mark.parametrize(
    ("phrase", "end", "english", "german"),
    [(phrase, ".", *texts) for phrase, *texts in STATEMENTS]
    + [(phrase, "?", *texts) for phrase, *texts in QUESTIONS],
)
def test_grammar_says_sentences_as_written_by_hand(
    phrase: Phrase, end: str, english: str, german: str
) -> None:
    line = write_line(phrase, end)
    assert line.src == english
    assert line.tgt == german


@pytest.mark.parametrize(
    ("phrase", "end", "links"),
    [
        (statement("Emma", "close", "the window"), ".", "0-0 1-1 1-4 2-2 3-3"),
        (question("Anna", "wake up", tense="past"), "?", "0-0 1-1 2-2 3-2"),
        (
            statement("the queen", "buy", "a ring", negated=True),
            ".",
            "0-0 1-1 2-2 3-3 4-2 5-3 6-4",
        ),
        (
            statement("a bear", "sleep", place=place("in", "in", "dat", "the garden")),
            ".",
            "0-0 1-1 2-2 3-3 4-3 5-4",
        ),
        (
            statement("I", "see", "a fox", tense="past", first=EVENING),
            ".",
            "0-0 1-0 2-1 3-3 4-2 4-6 5-4 6-5",
        ),
    ],
)
def test_links_follow_the_words_that_move(phrase: Phrase, end: str, links: str) -> None:
    assert format_links(write_line(phrase, end)) == links


@pytest.mark.parametrize(
    ("number", "english", "german"),
    [
        (2, "two", "zwei"),
        (12, "twelve", "zwölf"),
        (17, "seventeen", "siebzehn"),
        (30, "thirty", "dreißig"),
        (21, "twenty-one", "einundzwanzig"),
        (67, "sixty-seven", "siebenundsechzig"),
        (99, "ninety-nine", "neunundneunzig"),
    ],
)
def test_numbers_are_spelled(number: int, english: str, german: str) -> None:
    assert number_words(number) == (english, german)


# The corpus


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus(seed=1)


def read(file: str) -> list[str]:
    return (DATA / file).read_bytes().decode().removesuffix("\n").split("\n")


def lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def test_corpus_is_made_again_byte_for_byte(corpus: Corpus, tmp_path: Path) -> None:
    write_corpus(corpus, tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted(path.name for path in DATA.iterdir() if path.suffix != ".md")
    for file in files:
        assert (tmp_path / file).read_bytes() == (DATA / file).read_bytes(), file


def test_another_seed_makes_another_corpus() -> None:
    first = make_corpus(1, train=2000, valid=5, test=50)
    second = make_corpus(2, train=2000, valid=5, test=50)
    first_sources = {line.src for line in first.test}
    second_sources = {line.src for line in second.test}
    assert not first_sources & second_sources


def test_sets_have_their_sizes_and_no_common_source(corpus: Corpus) -> None:
    assert [len(lines) for lines in corpus] == [20_000, 500, 500, 150]
    sources = []
    for lines in (corpus.train, corpus.valid, corpus.test):
        sources += [line.src for line in lines]
    assert len(set(sources)) == len(sources)
    assert EXAMPLE not in sources


def test_unseen_lines_are_lines_of_test_in_the_same_order(corpus: Corpus) -> None:
    unseen = set(corpus.unseen)
    assert [line for line in corpus.test if line in unseen] == corpus.unseen


def test_files_are_small_and_lines_are_short() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 3_000_000
    lengths = [len(line.split()) for line in read("train.en")]
    assert 6 <= sum(lengths) / len(lengths) <= 12


def test_held_out_combinations_are_only_in_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = choose_held_out(RandomChoices(1))
    combinations_of: dict[str, set[Combination]] = {}  # by source
    original = Author.sentence

    def remember_combinations(author: Author) -> Sentence:
        sentence = original(author)
        source = write_line(sentence.phrase, sentence.end).src
        combinations: set[Combination] = set()
        for each in sentence.clauses:
            combinations.update(each.combinations())
        combinations_of[source] = combinations
        return sentence

    monkeypatch.setattr(Author, "sentence", remember_combinations)
    corpus = make_corpus(1, train=3000, valid=100, test=200)
    unseen = {line.src for line in corpus.unseen}
    for line in [*corpus.train, *corpus.valid, *corpus.test]:
        has_held_out = bool(combinations_of[line.src] & held_out)
        assert has_held_out == (line.src in unseen), line.src


def test_every_word_has_a_link(corpus: Corpus) -> None:
    for line in [*corpus.train, *corpus.valid, *corpus.test]:
        src_positions = {i for i, _ in line.links}
        tgt_positions = {j for _, j in line.links}
        assert src_positions == set(range(len(line.src.split()))), line
        assert tgt_positions == set(range(len(line.tgt.split()))), line


def test_names_are_linked_to_themselves(corpus: Corpus) -> None:
    for line in corpus.test:
        src_words = [word.strip(".,?") for word in line.src.split()]
        tgt_words = [word.strip(".,?") for word in line.tgt.split()]
        for i, j in line.links:
            if src_words[i] in (*NAMES, *NEW_NAMES):
                assert src_words[i] == tgt_words[j]


@pytest.mark.parametrize("language", ["en", "de"])
def test_words_of_valid_and_test_are_frequent_in_train(language: str) -> None:
    counts: Counter[str] = Counter()
    for line in read(f"train.{language}"):
        counts.update(bare_words(line))
    new_names = lower(NEW_NAMES)
    for set_name in ("valid", "test"):
        for line in read(f"{set_name}.{language}"):
            for word in bare_words(line):
                assert counts[word] >= 5 or word in new_names, word


def test_new_names_are_only_in_test_and_often_enough_to_count() -> None:
    new_names = lower(NEW_NAMES)
    num_lines = {}
    for set_name in SETS:
        lines = read(f"{set_name}.en")
        num_lines[set_name] = sum(bool(new_names & set(bare_words(line))) for line in lines)
    assert num_lines == {"train": 0, "valid": 0, "test": 10, "test_unseen": 0}


def test_german_nouns_have_a_capital_letter(corpus: Corpus) -> None:
    forms: set[str] = set()
    for noun in NOUNS.values():
        forms |= {noun.german.lower(), noun.german_plural.lower()}
    forms -= {"", "junge", "jungen"}  # also forms of the adjective jung
    for line in corpus.train[:5000]:
        words = {word.strip(".,?") for word in line.tgt.split()[1:]}
        assert not forms & words, line.tgt


def test_german_subordinate_clauses_begin_with_a_comma(corpus: Corpus) -> None:
    for line in corpus.train[:5000]:
        for before, word in pairwise(line.tgt.split()):
            if word in ("dass", "weil", "obwohl", "wenn", "aber"):
                assert before.endswith(","), line.tgt


# check_quality.py


def scores_with(**bleu: float) -> str:
    """Return what `mt evaluate --json` prints for sets with these BLEU scores."""
    signature = "nrefs:1|case:mixed"
    sets = {
        name: {"num_lines": 500, "BLEU": {"score": score, "signature": signature}}
        for name, score in bleu.items()
    }
    return json.dumps(sets)


def run_check_quality(scores: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.toy.check_quality"]
    return subprocess.run(command, input=scores, cwd=ROOT, capture_output=True, text=True)


def test_check_quality_accepts_the_minimum() -> None:
    ended = run_check_quality(scores_with(test=93.0, unseen=90.0))
    assert ended.returncode == 0, ended.stderr
    assert "93.00" in ended.stdout


@pytest.mark.parametrize(
    ("scores", "content"),
    [
        (scores_with(test=92.99, unseen=95.0), ["test", "92.99", "93.00"]),
        (scores_with(test=95.0, unseen=12.5), ["unseen", "12.50", "90.00"]),
        (scores_with(test=95.0), ["unseen", "90.00"]),
    ],
    ids=["test too low", "unseen too low", "unseen missing"],
)
def test_check_quality_fails_below_the_minimum(scores: str, content: list[str]) -> None:
    ended = run_check_quality(scores)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    for part in content:
        assert part in ended.stderr
