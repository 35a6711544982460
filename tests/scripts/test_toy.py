"""The toy corpus is right German, made again byte for byte, and keeps its promises about what is unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from scripts.toy import make_corpus as toy
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
    SAYING,
    VERBS,
    number_words,
)

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data" / "toy"
STEMS = ("train", "valid", "test", "test_unseen")
NUMBERS = {number_words(number)[0]: number for number in range(2, 100)}
PLURALS = {noun.english_plural: noun for noun in NOUNS.values() if noun.english_plural}


def nominal(text: str, relative: Clause | None = None) -> Nominal:
    """Read `the two old women` into the plan that says it."""
    if text in PRONOUNS:
        return pronoun(text)
    if text in NAMES:
        return name(text)
    *before, last = text.replace("how many", "how|many").split()
    determiner, number, adjectives = BARE, None, []
    for word in before:
        if word.endswith("'s"):
            determiner = owner(word.removesuffix("'s"))
        elif word in NUMBERS:
            number = NUMBERS[word]
        elif word in ADJECTIVES:
            adjectives.append(ADJECTIVES[word])
        else:
            determiner = DETERMINERS[{"an": "a", "these": "this"}.get(word, word)]
    plural = last in PLURALS
    noun = PLURALS[last] if plural else NOUNS[last]
    return noun_phrase(
        noun,
        determiner,
        plural=plural,
        number=number,
        adjectives=tuple(adjectives),
        relative=relative,
    )


def clause(subject: str | Nominal, verb: str, *objects: str | Nominal, **features: Any) -> Clause:
    nominals = [nominal(said) if isinstance(said, str) else said for said in (subject, *objects)]
    chosen = BE if verb == "be" else VERBS[verb]
    return replace(Clause(nominals[0], chosen, tuple(nominals[1:])), **features)


def at(preposition: str, german: str, case: str, text: str) -> Phrase:
    return prepositional(preposition, german, nominal(text).say(case, None))


def say(subject: str | Nominal, verb: str, *objects: str | Nominal, **features: Any) -> Phrase:
    return clause(subject, verb, *objects, **features).say("statement")


def ask(subject: str | Nominal, verb: str, *objects: str | Nominal, **features: Any) -> Phrase:
    return clause(subject, verb, *objects, **features).say("question")


def that(subject: str, verb: str, inner: Clause, **features: Any) -> Phrase:
    main = replace(Clause(nominal(subject), SAYING[verb]), **features)
    return main.say("statement") + GERMAN_COMMA + pair("that", "dass") + inner.say("final")


def side(english: str, german: str, inner: Clause) -> Phrase:
    return pair(english, german) + inner.say("final")


def who(noun: str, *, plural: bool = False) -> Nominal:
    return relative_pronoun(NOUNS[noun], plural=plural)


BOTH_COMMAS = Phrase((COMMA,), (COMMA,))
TODAY, NOW, EVENING = (
    pair("today", "heute"),
    pair("now", "jetzt"),
    pair("in the|evening", "am|Abend"),
)
TIRED = pair("tired", "müde")

# Written by hand, then said by the grammar: what is meant, English, German.
PAIRS = [
    # gender, case, and strong, mixed and weak adjectives
    (
        say("the old woman", "see", "a small dog"),
        "The old woman sees a small dog.",
        "Die alte Frau sieht einen kleinen Hund.",
    ),
    (
        say("a small dog", "see", "the old woman"),
        "A small dog sees the old woman.",
        "Ein kleiner Hund sieht die alte Frau.",
    ),
    (
        say("an old horse", "hear", "this young child"),
        "An old horse hears this young child.",
        "Ein altes Pferd hört dieses junge Kind.",
    ),
    (
        say("my tired brother", "drink", "cold beer"),
        "My tired brother drinks cold beer.",
        "Mein müder Bruder trinkt kaltes Bier.",
    ),
    (
        say("every clever boy", "buy", "an expensive hat"),
        "Every clever boy buys an expensive hat.",
        "Jeder kluge Junge kauft einen teuren Hut.",
    ),
    (
        say("their mouse", "hear", "our big lion"),
        "Their mouse hears our big lion.",
        "Ihre Maus hört unseren großen Löwen.",
    ),
    (
        say("no king", "sell", "a big black horse"),
        "No king sells a big black horse.",
        "Kein König verkauft ein großes schwarzes Pferd.",
    ),
    # plurals, numbers, owners, names
    (
        say("young witches", "see", "the tired giants"),
        "Young witches see the tired giants.",
        "Junge Hexen sehen die müden Riesen.",
    ),
    (
        say("many rich kings", "help", "two weak geese"),
        "Many rich kings help two weak geese.",
        "Viele reiche Könige helfen zwei schwachen Gänsen.",
    ),
    (
        say("the twenty-one children", "eat", "seventy-six eggs"),
        "The twenty-one children eat seventy-six eggs.",
        "Die einundzwanzig Kinder essen sechsundsiebzig Eier.",
    ),
    (
        say("Anna's old dog", "follow", "Paul's old dog"),
        "Anna's old dog follows Paul's old dog.",
        "Annas alter Hund folgt Pauls altem Hund.",
    ),
    (
        say(both(nominal("the king"), nominal("Felix")), "sleep"),
        "The king and Felix sleep.",
        "Der König und Felix schlafen.",
    ),
    # verbs with a dative, with two objects, with a preposition; pronouns
    (say("she", "thank", "he"), "She thanks him.", "Sie dankt ihm."),
    (say("we", "invite", "they"), "We invite them.", "Wir laden sie ein."),
    (
        say("I", "give", "the weak prince", "a flower"),
        "I give the weak prince a flower.",
        "Ich gebe dem schwachen Prinzen eine Blume.",
    ),
    (
        say("the cat", "wait", "the bird"),
        "The cat waits for the bird.",
        "Die Katze wartet auf den Vogel.",
    ),
    (
        say("they", "talk", "my sister"),
        "They talk to my sister.",
        "Sie sprechen mit meiner Schwester.",
    ),
    # separable verbs, the perfect, modals
    (say("Emma", "close", "the window"), "Emma closes the window.", "Emma macht das Fenster zu."),
    (say("the guest", "get up", tense="past"), "The guest got up.", "Der Gast ist aufgestanden."),
    (
        say("the aunt", "read", "a letter", tense="past"),
        "The aunt read a letter.",
        "Die Tante hat einen Brief gelesen.",
    ),
    (
        say("the son", "throw away", "the old shoes", tense="must"),
        "The son must throw away the old shoes.",
        "Der Sohn muss die alten Schuhe wegwerfen.",
    ),
    (
        say("I", "repair", "the bicycle", tense="would"),
        "I would like to repair the bicycle.",
        "Ich möchte das Fahrrad reparieren.",
    ),
    # negation: kein for ein or no article, else nicht
    (
        say("the queen", "buy", "a ring", negated=True),
        "The queen does not buy a ring.",
        "Die Königin kauft keinen Ring.",
    ),
    (say("I", "drink", "milk", negated=True), "I do not drink milk.", "Ich trinke keine Milch."),
    (
        say("he", "buy", "the ring", negated=True),
        "He does not buy the ring.",
        "Er kauft den Ring nicht.",
    ),
    (
        say("the fox", "catch", "a goose", negated=True, tense="can"),
        "The fox cannot catch a goose.",
        "Der Fuchs kann keine Gans fangen.",
    ),
    (
        say("we", "think", "the story", negated=True),
        "We do not think of the story.",
        "Wir denken nicht an die Geschichte.",
    ),
    # places and directions; time before what is new and after what is known, or first
    (
        say("a bear", "sleep", place=at("in", "in", "dat", "the garden")),
        "A bear sleeps in the garden.",
        "Ein Bär schläft im Garten.",
    ),
    (
        say("a bear", "run", place=at("into", "in", "acc", "the garden")),
        "A bear runs into the garden.",
        "Ein Bär rennt in den Garten.",
    ),
    (
        say("Lena", "go", place=at("into", "in", "acc", "the old house")),
        "Lena goes into the old house.",
        "Lena geht ins alte Haus.",
    ),
    (
        say("the knight", "need", "a sword", time=TODAY),
        "The knight needs a sword today.",
        "Der Ritter braucht heute ein Schwert.",
    ),
    (
        say("the knight", "need", "the sword", time=TODAY),
        "The knight needs the sword today.",
        "Der Ritter braucht das Schwert heute.",
    ),
    (
        say("the knight", "phone", "Mia", first=EVENING),
        "In the evening the knight phones Mia.",
        "Am Abend ruft der Ritter Mia an.",
    ),
    # being, and being there
    (say("we", "be", place=TIRED, negated=True), "We are not tired.", "Wir sind nicht müde."),
    (
        say(
            "the mouse",
            "be",
            place=pair("as|brave|as", "so|mutig|wie") + nominal("a lion").say("nom", None),
        ),
        "The mouse is as brave as a lion.",
        "Die Maus ist so mutig wie ein Löwe.",
    ),
    # relative clauses
    (
        say(nominal("the girl", clause(who("girl"), "love", "the cats")), "sing"),
        "The girl who loves the cats sings.",
        "Das Mädchen, das die Katzen liebt, singt.",
    ),
    (
        say("I", "know", nominal("the man", clause("the queen", "trust", who("man")))),
        "I know the man that the queen trusts.",
        "Ich kenne den Mann, dem die Königin vertraut.",
    ),
    (
        say(
            nominal("the women", clause("we", "help", who("woman", plural=True), tense="past")),
            "laugh",
        ),
        "The women that we helped laugh.",
        "Die Frauen, denen wir geholfen haben, lachen.",
    ),
    # verb last
    (
        that("the dwarf", "know", clause("the witch", "switch off", "the lamp")),
        "The dwarf knows that the witch switches off the lamp.",
        "Der Zwerg weiß, dass die Hexe die Lampe ausschaltet.",
    ),
    (
        that(
            "I",
            "say",
            clause("the lamp", "be", place=pair("old", "alt"), tense="past"),
            tense="past",
        ),
        "I said that the lamp was old.",
        "Ich habe gesagt, dass die Lampe alt war.",
    ),
    (
        say("Tim", "cry")
        + GERMAN_COMMA
        + side("because", "weil", clause("we", "eat", "the cake", tense="past")),
        "Tim cries because we ate the cake.",
        "Tim weint, weil wir den Kuchen gegessen haben.",
    ),
    (
        say(
            "we", "dance", first=side("when", "wenn", clause("the guests", "arrive")) + BOTH_COMMAS
        ),
        "When the guests arrive, we dance.",
        "Wenn die Gäste ankommen, tanzen wir.",
    ),
]

QUESTIONS = [
    (ask("the cow", "see", "a fox"), "Does the cow see a fox?", "Sieht die Kuh einen Fuchs?"),
    (ask("Anna", "wake up", tense="past"), "Did Anna wake up?", "Ist Anna aufgewacht?"),
    (ask("the boys", "be", place=TIRED), "Are the boys tired?", "Sind die Jungen müde?"),
    (
        ask("she", "open", "the door", tense="would"),
        "Would she like to open the door?",
        "Möchte sie die Tür aufmachen?",
    ),
    (ask("who", "feed", "the pigs"), "Who feeds the pigs?", "Wer füttert die Schweine?"),
    (ask("the aunt", "visit", "who"), "Whom does the aunt visit?", "Wen besucht die Tante?"),
    (ask("they", "help", "who", tense="past"), "Whom did they help?", "Wem haben sie geholfen?"),
    (ask("we", "drink", "what"), "What do we drink?", "Was trinken wir?"),
    (ask("Max", "sleep", first=pair("where", "wo")), "Where does Max sleep?", "Wo schläft Max?"),
    (ask("which old man", "sing"), "Which old man sings?", "Welcher alte Mann singt?"),
    (
        ask("the child", "read", "which book"),
        "Which book does the child read?",
        "Welches Buch liest das Kind?",
    ),
    (
        ask("he", "trust", "how many children", tense="can"),
        "How many children can he trust?",
        "Wie vielen Kindern kann er vertrauen?",
    ),
]


@pytest.mark.parametrize(
    ("phrase", "end", "english", "german"),
    [(phrase, ".", *texts) for phrase, *texts in PAIRS]
    + [(phrase, "?", *texts) for phrase, *texts in QUESTIONS],
)
def test_the_grammar_says_what_was_written_by_hand(
    phrase: Phrase, end: str, english: str, german: str
) -> None:
    line = write_line(phrase, end)
    assert (line.src, line.tgt) == (english, german)


@pytest.mark.parametrize(
    ("phrase", "end", "links"),
    [
        (say("Emma", "close", "the window"), ".", "0-0 1-1 1-4 2-2 3-3"),
        (ask("Anna", "wake up", tense="past"), "?", "0-0 1-1 2-2 3-2"),
        (say("the queen", "buy", "a ring", negated=True), ".", "0-0 1-1 2-2 3-3 4-2 5-3 6-4"),
        (
            say("a bear", "sleep", place=at("in", "in", "dat", "the garden")),
            ".",
            "0-0 1-1 2-2 3-3 4-3 5-4",
        ),
        (
            say("I", "see", "a fox", tense="past", first=pair("in the|evening", "am|Abend")),
            ".",
            "0-0 1-0 2-1 3-3 4-2 4-6 5-4 6-5",
        ),
    ],
)
def test_links_follow_words_to_where_word_order_moves_them(
    phrase: Phrase, end: str, links: str
) -> None:
    assert format_alignment(write_line(phrase, end).links) == links


def format_alignment(links: tuple[tuple[int, int], ...]) -> str:
    return " ".join(f"{i}-{j}" for i, j in links)


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
def test_numbers_are_spelt(number: int, english: str, german: str) -> None:
    assert number_words(number) == (english, german)


# ------------------------------------------------------------------------------------------------ the sets


@pytest.fixture(scope="module")
def made() -> toy.Corpus:
    return toy.make_corpus(seed=1)


def read(file: str) -> list[str]:
    return (DATA / file).read_bytes().decode().removesuffix("\n").split("\n")


def test_the_corpus_is_made_again_byte_for_byte(made: toy.Corpus, tmp_path: Path) -> None:
    toy.write_corpus(made, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in DATA.iterdir() if path.suffix != ".md")
    for file in names:
        assert (tmp_path / file).read_bytes() == (DATA / file).read_bytes(), file


def test_another_seed_makes_another_corpus() -> None:
    one, two = (toy.make_corpus(seed, train=2000, valid=5, test=50) for seed in (1, 2))
    assert not {line.src for line in one.test} & {line.src for line in two.test}


def test_the_sets_have_their_sizes_and_no_source_occurs_twice(made: toy.Corpus) -> None:
    assert [len(lines) for lines in made] == [20_000, 500, 500, 150]
    sources = [line.src for lines in (made.train, made.valid, made.test) for line in lines]
    assert len(set(sources)) == len(sources)
    assert toy.EXAMPLE not in sources


def test_the_unseen_lines_are_lines_of_test_in_the_same_order(made: toy.Corpus) -> None:
    test = iter(made.test)
    assert all(line in test for line in made.unseen)


def test_the_files_are_small_and_their_lines_short() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 3_000_000
    lengths = [len(line.split()) for line in read("train.en")]
    assert 6 <= sum(lengths) / len(lengths) <= 12


def test_held_out_combinations_are_in_test_unseen_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = toy.hold_out(toy.Dice(1))
    said: dict[str, set[tuple[str, str, str]]] = {}
    sentence = toy.Author.sentence

    def remember(author: toy.Author) -> toy.Sentence:
        drawn = sentence(author)
        source = write_line(drawn.phrase, drawn.end).src
        said[source] = {made for clause in drawn.clauses for made in clause.combinations()}
        return drawn

    monkeypatch.setattr(toy.Author, "sentence", remember)
    made = toy.make_corpus(1, train=3000, valid=100, test=200)
    unseen = {line.src for line in made.unseen}
    for line in [*made.train, *made.valid, *made.test]:
        assert bool(said[line.src] & held_out) == (line.src in unseen), line.src


def test_every_word_is_linked_and_every_link_is_inside(made: toy.Corpus) -> None:
    for lines in made[:3]:
        for line in lines:
            src, tgt = line.src.split(), line.tgt.split()
            assert {i for i, _ in line.links} == set(range(len(src))), line
            assert {j for _, j in line.links} == set(range(len(tgt))), line


def test_names_are_linked_to_themselves(made: toy.Corpus) -> None:
    for line in made.test:
        src, tgt = line.src.split(), line.tgt.split()
        for i, j in line.links:
            if src[i].strip(".,?") in (*NAMES, *NEW_NAMES):
                assert src[i].strip(".,?") == tgt[j].strip(".,?")


@pytest.mark.parametrize("language", ["en", "de"])
def test_words_of_valid_and_test_are_known_from_train_but_for_a_few_new_names(
    language: str,
) -> None:
    known = Counter(word for line in read(f"train.{language}") for word in toy.bare_words(line))
    new_names = {new_name.lower() for new_name in NEW_NAMES}
    for stem in ("valid", "test"):
        for word in {word for line in read(f"{stem}.{language}") for word in toy.bare_words(line)}:
            assert known[word] >= 5 or word in new_names, word


def test_new_names_are_in_test_alone_and_there_often_enough_to_count() -> None:
    new_names = {new_name.lower() for new_name in NEW_NAMES}
    lines = {
        stem: [line for line in read(f"{stem}.en") if new_names & set(toy.bare_words(line))]
        for stem in STEMS
    }
    assert {stem: len(found) for stem, found in lines.items()} == {
        "train": 0,
        "valid": 0,
        "test": 10,
        "test_unseen": 0,
    }


def test_german_nouns_begin_with_a_capital_and_subordinate_clauses_with_a_comma(
    made: toy.Corpus,
) -> None:
    nouns = {form for noun in NOUNS.values() for form in (noun.german, noun.german_plural) if form}
    cast_for_autocast = {form.lower() for form in nouns}
    for line in made.train[:5000]:
        words = line.tgt.split()
        assert not cast_for_autocast & {word.strip(".,?") for word in words[1:]} - {
            "junge",
            "jungen",
        }, line.tgt
        for before, word in pairwise(words):
            assert word not in ("dass", "weil", "obwohl", "wenn", "aber") or before.endswith(","), (
                line.tgt
            )


# ------------------------------------------------------------------------------------------------ check_quality


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
