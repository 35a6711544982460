"""Write the toy corpus: English-German pairs from our own grammar, with gold alignments and marked unseen combinations.

    python -m scripts.toy.make_corpus            # writes data/toy, byte for byte the same everywhere
    python -m scripts.toy.make_corpus --help

The words are in lexicon.py, the grammar is in grammar.py; here dice decide what is said, and lines are dealt to
train, valid and test.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from scripts.toy.grammar import (
    COMMA,
    GERMAN_COMMA,
    Clause,
    Line,
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
    COLOURS,
    DETERMINERS,
    DIRECTIONS,
    HALF_MOTION,
    MODALS,
    MOTION,
    NAMES,
    NEW_NAMES,
    NOUNS,
    PLACES,
    POSSESSIVES,
    SAYING,
    STATIVE,
    TIMES,
    VERBS,
    Adjective,
    Determiner,
    Noun,
    Slot,
    Verb,
    kinds_of,
    nouns_of,
)

Item = TypeVar("Item")
THINGS = ("food", "text", "clothing", "device", "opening", "vehicle", "item", "place")
EXAMPLE = "The old woman sees a small dog."  # the README's sentence: in none of the sets
MAX_WORDS = 16  # of the German


class Dice:
    """Draws by `random.Random.random` alone, the one method that Python promises never to change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def below(self, count: int) -> int:
        return int(self._random() * count)

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def pick_weighted(self, items: dict[Item, int]) -> Item:
        point = self.below(sum(items.values()))
        for item, weight in items.items():
            point -= weight
            if point < 0:
                return item
        raise AssertionError(f"weights must be positive: {items}")

    def shuffle(self, items: list[Item]) -> None:
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


class Sentence(NamedTuple):
    phrase: Phrase
    end: str
    clauses: tuple[Clause, ...]


def two_tenses(verb: Verb, subject: Nominal) -> bool:
    """Whether the plain English form could be present or past: we read, they put on."""
    return verb.past == verb.english and subject.person != "3s"


def fits(noun: Noun, slot: Slot) -> bool:
    return noun.kind in slot.kinds and not slot.english


class Author:
    """Makes up sentences that are sensible, unambiguous and right in both languages."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        # A few names are common and many are rare, so that copying is learnt and not a list of names.
        self.names = {
            text: 10_000 // (rank + 3) for rank, text in enumerate(NAMES)
        } | dict.fromkeys(NEW_NAMES, 20)

    # -------------------------------------------------------------------------------------------- nominals

    def name(self) -> str:
        return self.dice.pick_weighted(self.names)

    def determiner(self, noun: Noun, *, plural: bool, definite: bool) -> Determiner:
        """Drawn among those that noun and number allow; `definite` leaves a choice of definite ones."""
        if definite or self.dice.chance(0.55):
            article = self.dice.pick_weighted({"the": 10, "this": 2, "possessive": 3, "owner": 1})
            if article == "owner":
                owned = self.name()
                return owner(owned) if owned[-1] not in "sxz" else DETERMINERS["the"]
            return DETERMINERS[self.dice.pick(POSSESSIVES) if article == "possessive" else article]
        if not noun.english_plural:
            return BARE
        if plural:
            return self.dice.pick([BARE, BARE, DETERMINERS["many"]])
        return DETERMINERS[self.dice.pick_weighted({"a": 10, "every": 1})]

    def adjectives(self, noun: Noun, chance: float = 0.4) -> tuple[Adjective, ...]:
        fitting = [a for a in ADJECTIVES.values() if noun.kind in a.kinds]
        if not fitting or not self.dice.chance(chance):
            return ()
        first = self.dice.pick(fitting)
        colours = [a for a in fitting if a.english in COLOURS and a is not first]
        if colours and first.english in ("big", "small", "old", "new") and self.dice.chance(0.3):
            return first, self.dice.pick(colours)
        return (first,)

    def noun_phrase(
        self,
        kinds: Sequence[str],
        *,
        definite: bool = False,
        nouns: Sequence[Noun] = (),
        relative: float = 0.0,
    ) -> Nominal:
        """A noun with what belongs to it; `relative` is the chance of a relative clause."""
        noun = self.dice.pick(nouns or nouns_of(kinds))
        plural = bool(noun.english_plural) and self.dice.chance(0.3)
        determiner = self.determiner(noun, plural=plural, definite=definite)
        number = self.number() if plural and not definite and self.dice.chance(0.35) else None
        if number and not determiner.definite:
            determiner = BARE
        clause = None
        if (
            noun.kind != "place"
            and determiner.english in ("the", "a", "this")
            and self.dice.chance(relative)
        ):
            clause = self.relative_clause(noun, plural=plural)
        adjectives = self.adjectives(noun, 0.15 if clause else 0.4)
        return noun_phrase(
            noun, determiner, plural=plural, number=number, adjectives=adjectives, relative=clause
        )

    def number(self) -> int:
        return 2 + self.dice.below(11 if self.dice.chance(0.5) else 98)

    def nominal(
        self, kinds: Sequence[str], *, definite: bool = False, relative: float = 0.0
    ) -> Nominal:
        """A name or a noun phrase."""
        if "person" in kinds and self.dice.chance(0.2):
            return name(self.name())
        return self.noun_phrase(kinds, definite=definite, relative=relative)

    def subject(
        self, kinds: Sequence[str], *, relative: float = 0.0, pronouns: str = "I he she we they"
    ) -> Nominal:
        form = self.dice.pick_weighted({"pronoun": 25, "both": 5, "no": 3, "other": 67})
        if form == "pronoun" and "person" in kinds:
            return pronoun(self.dice.pick(pronouns.split()))
        if form == "both":
            left, right = self.nominal(kinds, definite=True), self.nominal(kinds, definite=True)
            return both(left, right) if left.nouns != right.nouns else left
        if form == "no":
            noun = self.dice.pick(nouns_of(kinds))
            return noun_phrase(noun, DETERMINERS["no"], adjectives=self.adjectives(noun))
        return self.nominal(kinds, relative=relative)

    def relative_clause(self, noun: Noun, *, plural: bool) -> Clause:
        """The man who sees the dog, the man that the dog sees."""
        gap = relative_pronoun(noun, plural=plural)
        roles = [(verb, "subject") for verb in VERBS.values() if noun.kind in verb.subjects]
        roles += [
            (verb, "object")
            for verb in VERBS.values()
            if len(verb.slots) == 1 and fits(noun, verb.slots[0])
        ]
        verb, role = self.dice.pick(roles)
        if role == "subject":
            return Clause(gap, verb, tuple(self.objects(verb, gap)), self.tense(verb, gap))
        subject = self.subject(verb.subjects, pronouns="I we they")
        return Clause(subject, verb, (gap,), self.tense(verb, subject))

    # -------------------------------------------------------------------------------------------- clauses

    def tense(self, verb: Verb, subject: Nominal) -> str:
        modal = self.dice.pick(list(MODALS))
        if two_tenses(verb, subject):
            return modal
        return self.dice.pick_weighted(
            {"present": 50, "past": 22, modal: 0 if verb.english in STATIVE else 28}
        )

    def objects(
        self, verb: Verb, subject: Nominal, *, definite: bool = False, relative: bool = False
    ) -> list[Nominal]:
        """Every object of a verb; `relative` gives the last one a relative clause where it can take one."""
        last = len(verb.slots) - 1
        return [
            self.object(verb, slot, subject, definite=definite, relative=relative and index == last)
            for index, slot in enumerate(verb.slots)
        ]

    def object(
        self, verb: Verb, slot: Slot, subject: Nominal, *, definite: bool, relative: bool
    ) -> Nominal:
        first_of_two = len(verb.slots) == 2 and slot.case == "dat"
        if "person" in slot.kinds and not relative and self.dice.chance(0.15):
            forms = ["he", "they", *(["I", "we"] if subject.nouns else [])]  # not: I see me
            if not first_of_two:
                forms.append("she")  # "gives her flowers" could mean her flowers
            return pronoun(self.dice.pick(forms))
        return self.nominal(
            slot.kinds,
            definite=definite or first_of_two or bool(slot.english),
            relative=float(relative),
        )

    def place(self, verb: Verb) -> Phrase:
        english, german, case, where = self.dice.pick(
            DIRECTIONS if verb.english in MOTION else PLACES
        )
        nouns = [NOUNS[word] for word in where.split()]
        nominal = self.noun_phrase((), nouns=nouns, definite=self.dice.chance(0.7))
        return prepositional(english, german, nominal.say(case, None))

    def time(self, tense: str, *, negated: bool = False) -> Phrase:
        said_of = "modal" if tense in MODALS else tense
        fitting = [row for row in TIMES if said_of in row[2] and (row[3] or not negated)]
        english, german, *_ = self.dice.pick(fitting)
        hour = str(1 + self.dice.below(12))
        return pair(english.replace("HOUR", hour), german.replace("HOUR", hour))

    def clause(self, *, relative: float = 0.0, plain: bool = False) -> Clause:
        """Someone does something; `plain`: no time, place, negation or pronoun that could mean another noun."""
        verb = self.dice.pick(list(VERBS.values()))
        pronouns = "I we they" if plain else "I he she we they"
        subject = self.subject(verb.subjects, relative=relative, pronouns=pronouns)
        tense = self.tense(verb, subject)
        negated = not (plain or subject.quantified or tense == "must") and self.dice.chance(0.25)
        # A relative clause ends the sentence, so nothing else may follow its noun.
        trailing = (
            tense == "present"
            and not negated
            and not verb.prefix
            and self.dice.chance(2 * relative)
        )
        objects = self.objects(
            verb, subject, definite=negated and self.dice.chance(0.4), relative=trailing
        )
        negated = negated and all(nominal.takes_kein or nominal.definite for nominal in objects)
        roomy = not plain and not trailing and len(verb.slots) < 2
        placed = (
            roomy
            and verb.english not in STATIVE + HALF_MOTION
            and not any(slot.english for slot in verb.slots)
        )
        place = self.place(verb) if placed and self.dice.chance(0.3) else Phrase()
        time = self.time(tense, negated=negated) if roomy and self.dice.chance(0.25) else Phrase()
        return Clause(subject, verb, tuple(objects), tense, negated, place, time)

    def description(self, *, plain: bool = False) -> Clause:
        """Someone or something is tired, very old, as big as the dog."""
        kinds = self.dice.pick(
            [("person",), ("person",), ("animal",), *((kind,) for kind in THINGS)]
        )
        pronouns = "I we they" if plain else "I he she we they"
        subject = self.subject(kinds, relative=0.0 if plain else 0.25, pronouns=pronouns)
        said = [word.text for word in subject.say("nom", None).english]
        fitting = [a for a in ADJECTIVES.values() if kinds[0] in a.kinds and a.english not in said]
        adjective = self.dice.pick(fitting)
        predicate = pair(adjective.english, adjective.german)
        form = self.dice.pick_weighted({"plain": 6, "very": 2, "as": 2})
        if form == "very":
            predicate = pair("very", "sehr") + predicate
        elif form == "as":
            standard = self.nominal(kinds, definite=True).say("nom", None)
            predicate = pair("as", "so") + predicate + pair("as", "wie") + standard
        tense = self.dice.pick_weighted({"present": 6, "past": 3, "will": 1})
        negated = not plain and not subject.quantified and form != "very" and self.dice.chance(0.2)
        return Clause(subject, BE, (), tense, negated, place=predicate)

    # -------------------------------------------------------------------------------------------- sentences

    def statement(self) -> Sentence:
        clause = self.clause(relative=0.12)
        if clause.time.english and self.dice.chance(0.6):
            clause = replace(clause, first=clause.time, time=Phrase())
        return Sentence(clause.say("statement"), ".", (clause,))

    def describing(self) -> Sentence:
        clause = self.description()
        return Sentence(clause.say("statement"), ".", (clause,))

    def existence(self) -> Sentence:
        """There is a dog in the garden; are there dogs there?"""
        noun = self.dice.pick(nouns_of(kinds_of("animal+goods+opening")))
        plural = self.dice.chance(0.5)
        number = self.number() if plural and self.dice.chance(0.6) else None
        determiner = BARE if number else DETERMINERS["many" if plural else "a"]
        thing = noun_phrase(
            noun, determiner, plural=plural, number=number, adjectives=self.adjectives(noun)
        )
        there, are = pair("there", "es"), pair("are" if plural else "is", "gibt")
        asked = self.dice.chance(0.3)
        phrase = (are + there if asked else there + are) + thing.say("acc", None) + self.place(BE)
        return Sentence(phrase, "?" if asked else ".", ())

    def yes_no_question(self) -> Sentence:
        clause = self.description(plain=True) if self.dice.chance(0.2) else self.clause()
        clause = replace(clause, negated=False)
        return Sentence(clause.say("question"), "?", (clause,))

    def adverb_question(self) -> Sentence:
        """Where, when or why."""
        word, german = self.dice.pick([("where", "wo"), ("when", "wann"), ("why", "warum")])
        clause = replace(self.clause(), negated=False, first=pair(word, german))
        if word == "where":
            if clause.verb.english in MOTION + HALF_MOTION + STATIVE:
                return self.adverb_question()
            clause = replace(clause, place=Phrase())
        if word == "when":
            clause = replace(clause, time=Phrase())
        return Sentence(clause.say("question"), "?", (clause,))

    def noun_question(self) -> Sentence:
        """Who, what, which or how many: about the subject or about the last object."""
        clause = replace(self.clause(), negated=False)
        slots = clause.verb.slots
        if slots and not slots[-1].english and self.dice.chance(0.7):
            asker = self.asker(slots[-1].kinds)
            clause = replace(clause, objects=(*clause.objects[:-1], asker))
        else:
            clause = replace(clause, subject=self.asker(clause.verb.subjects))
            tense = self.tense(clause.verb, clause.subject)
            clause = replace(clause, tense=tense, time=Phrase())
        return Sentence(clause.say("question"), "?", (clause,))

    def asker(self, kinds: Sequence[str]) -> Nominal:
        if self.dice.chance(0.5):
            return pronoun("who" if "person" in kinds else "what")
        noun = self.dice.pick(nouns_of(kinds))
        plural = bool(noun.english_plural) and self.dice.chance(0.5)
        determiner = DETERMINERS["how|many" if plural and self.dice.chance(0.6) else "which"]
        return noun_phrase(noun, determiner, plural=plural, adjectives=self.adjectives(noun, 0.2))

    def that_sentence(self) -> Sentence:
        verb = self.dice.pick(list(SAYING.values()))
        subject = self.subject(verb.subjects)
        tense = self.dice.pick_weighted({"present": 6, "past": 3})
        negated = not subject.quantified and self.dice.chance(0.2)
        main, inner = Clause(subject, verb, (), tense, negated), self.inner_clause()
        phrase = main.say("statement") + GERMAN_COMMA + pair("that", "dass") + inner.say("final")
        return Sentence(phrase, ".", (main, inner))

    def inner_clause(self) -> Clause:
        return self.description(plain=True) if self.dice.chance(0.2) else self.clause(plain=True)

    def subordinate_sentence(self) -> Sentence:
        """Because, although and when, behind the main clause or before it."""
        english, german = self.dice.pick(
            [("because", "weil"), ("although", "obwohl"), ("when", "wenn")]
        )
        main, inner = self.clause(plain=True), self.inner_clause()
        if english == "when":
            main, inner = self.timeless(main), self.timeless(inner)
        side = pair(english, german) + inner.say("final")
        if self.dice.chance(0.4):
            comma = Phrase((COMMA,), (COMMA,))
            phrase = replace(main, first=side + comma).say("statement")
        else:
            phrase = main.say("statement") + GERMAN_COMMA + side
        return Sentence(phrase, ".", (main, inner))

    @staticmethod
    def timeless(clause: Clause) -> Clause:
        """Without past (als, not wenn) and without will, should and would (not after when)."""
        if clause.tense in ("present", "can", "must"):
            return clause
        return replace(
            clause, tense="can" if two_tenses(clause.verb, clause.subject) else "present"
        )

    def contrast(self) -> Sentence:
        left, right = self.clause(plain=True), self.inner_clause()
        comma = Phrase((COMMA,), (COMMA,))
        phrase = left.say("statement") + comma + pair("but", "aber") + right.say("statement")
        return Sentence(phrase, ".", (left, right))

    def sentence(self) -> Sentence:
        forms: dict[Callable[[], Sentence], int] = {
            self.statement: 38,
            self.describing: 10,
            self.existence: 4,
            self.yes_no_question: 9,
            self.adverb_question: 6,
            self.noun_question: 9,
            self.that_sentence: 8,
            self.subordinate_sentence: 12,
            self.contrast: 4,
        }
        return self.dice.pick_weighted(forms)()


# ------------------------------------------------------------------------------------------------ the sets


class Corpus(NamedTuple):
    train: list[Line]
    valid: list[Line]
    test: list[Line]
    unseen: list[
        Line
    ]  # the lines of test with a combination that train and valid lack, in test's order


def hold_out(dice: Dice, share: float = 0.1) -> set[tuple[str, str, str]]:
    """Combinations of a verb and its subject or object that train and valid never show."""
    held_out = set()
    for verb in VERBS.values():
        for role, allowed in [
            ("subject", verb.subjects),
            *((slot.case, slot.kinds) for slot in verb.slots),
        ]:
            nouns = [noun.english for noun in nouns_of(allowed)]
            held_out |= {(verb.english, role, noun) for noun in nouns if dice.chance(share)}
    return held_out


def bare_words(text: str) -> list[str]:
    """Words without case, punctuation and the s of an owner's name."""
    known = {name.lower() for name in (*NAMES, *NEW_NAMES)}
    words = [word.strip(".,?").lower() for word in text.split()]
    stems = [word.removesuffix("s").removesuffix("'") for word in words]
    return [stem if stem in known else word for word, stem in zip(words, stems, strict=True)]


def distinct_lines(dice: Dice, held_out: set[tuple[str, str, str]]) -> Iterator[tuple[str, Line]]:
    """Sentences without end, no source twice: plain, unseen (with a held-out combination) or new_name."""
    author, targets = Author(dice), {EXAMPLE: ""}
    new_names = {name.lower() for name in NEW_NAMES}
    while True:
        sentence = author.sentence()
        line = write_line(sentence.phrase, sentence.end)
        if len(line.tgt.split()) > MAX_WORDS or line.src == EXAMPLE:
            continue
        if line.src in targets:
            assert targets[line.src] == line.tgt, f"two translations: {line}, {targets[line.src]!r}"
            continue
        targets[line.src] = line.tgt
        unseen = any(
            made in held_out for clause in sentence.clauses for made in clause.combinations()
        )
        new_name = not new_names.isdisjoint(bare_words(line.src))
        if not (unseen and new_name):
            yield "unseen" if unseen else "new_name" if new_name else "plain", line


def make_corpus(seed: int, *, train: int = 20_000, valid: int = 500, test: int = 500) -> Corpus:
    """30 % of test has a held-out combination, 2 % a new name; all other words of valid and test are well known."""
    dice = Dice(seed)
    lines = distinct_lines(dice, hold_out(dice))
    training = list(islice((line for kind, line in lines if kind == "plain"), train))
    counts = Counter(
        word for line in training for word in bare_words(line.src) + bare_words(line.tgt)
    )
    well_known = {word for word, count in counts.items() if count >= 5} | {
        name.lower() for name in NEW_NAMES
    }
    wanted = {"unseen": test * 3 // 10, "new_name": test // 50}
    wanted["plain"] = valid + test - sum(wanted.values())
    drawn: dict[str, list[Line]] = {kind: [] for kind in wanted}
    while any(len(drawn[kind]) < wanted[kind] for kind in wanted):
        kind, line = next(lines)
        if len(drawn[kind]) < wanted[kind] and well_known.issuperset(
            bare_words(line.src) + bare_words(line.tgt)
        ):
            drawn[kind].append(line)
    testing = drawn["plain"][valid:] + drawn["unseen"] + drawn["new_name"]
    dice.shuffle(testing)
    unseen = [line for line in testing if line in drawn["unseen"]]
    return Corpus(training, drawn["plain"][:valid], testing, unseen)


def write_corpus(corpus: Corpus, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, lines in (
        ("train", corpus.train),
        ("valid", corpus.valid),
        ("test", corpus.test),
        ("test_unseen", corpus.unseen),
    ):
        write_lines(folder / f"{stem}.en", [line.src for line in lines])
        write_lines(folder / f"{stem}.de", [line.tgt for line in lines])
        if stem in ("valid", "test"):
            write_lines(
                folder / f"{stem}.align",
                [" ".join(f"{i}-{j}" for i, j in line.links) for line in lines],
            )


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes(("\n".join(lines) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the toy corpus.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parents[2] / "data" / "toy"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write_corpus(make_corpus(options.seed), options.out)


if __name__ == "__main__":
    main()
