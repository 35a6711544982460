"""The grammar of the toy language: from a plan of a sentence to English, German and the links between their words.

A plan (Nominal, Clause) knows what is meant. Saying it yields a Phrase: English and German words, each with links. Two
words that share a link translate each other, wherever word order has moved them, so alignments need no arithmetic.
Cases are nom, acc, dat; genders m, f, n and p for all plurals; persons 1s, 3s and pl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from scripts.toy.lexicon import (
    AM,
    BE,
    CONTRACTIONS,
    DETERMINERS,
    HABEN,
    MODALS,
    PRONOUNS,
    SEIN,
    WAR,
    WAS,
    Adjective,
    Determiner,
    Noun,
    Verb,
    number_words,
)


class Link:
    """One piece of meaning; compared by identity."""


class Word(NamedTuple):
    text: str
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Phrase:
    """The same thing said in both languages."""

    english: tuple[Word, ...] = ()
    german: tuple[Word, ...] = ()

    def __add__(self, other: Phrase) -> Phrase:
        return Phrase(self.english + other.english, self.german + other.german)


COMMA = Word(",")
GERMAN_COMMA = Phrase(german=(COMMA,))


def words(text: str, *links: Link) -> tuple[Word, ...]:
    return tuple(Word(word, links) for word in text.split())


def pair(english: str, german: str) -> Phrase:
    """Translate part by part: `in the|evening` and `am|Abend` link in the-am and evening-Abend."""
    phrase = Phrase()
    for left, right in zip(english.split("|"), german.split("|"), strict=True):
        link = Link()
        phrase += Phrase(words(left, link), words(right, link))
    return phrase


# ------------------------------------------------------------------------------------------------ endings

STRONG = {
    "nom": {"m": "er", "f": "e", "n": "es", "p": "e"},
    "acc": {"m": "en", "f": "e", "n": "es", "p": "e"},
    "dat": {"m": "em", "f": "er", "n": "em", "p": "en"},
}
DER = {
    "nom": {"m": "er", "f": "ie", "n": "as", "p": "ie"},
    "acc": {"m": "en", "f": "ie", "n": "as", "p": "ie"},
    "dat": {"m": "em", "f": "er", "n": "em", "p": "en"},
}


def ein_ending(case: str, gender: str) -> str:
    return (
        "" if (case, gender) in {("nom", "m"), ("nom", "n"), ("acc", "n")} else STRONG[case][gender]
    )


def weak_ending(case: str, gender: str) -> str:
    return "e" if (case == "nom" and gender != "p") or (case == "acc" and gender in "fn") else "en"


def decline(determiner: Determiner, case: str, gender: str) -> str:
    endings = {
        "der": DER[case][gender],
        "strong": STRONG[case][gender],
        "ein": ein_ending(case, gender),
        "none": "",
    }
    return determiner.german + endings[determiner.ending]


def adjective_ending(determiner: Determiner, case: str, gender: str) -> str:
    """Strong where nothing before the adjective shows the case: ein alter Hund, der alte Hund, alte Hunde."""
    shown = determiner.adjective == "weak" or (
        determiner.adjective == "mixed" and ein_ending(case, gender)
    )
    return weak_ending(case, gender) if shown else STRONG[case][gender]


# ------------------------------------------------------------------------------------------------ nominals


@dataclass(frozen=True)
class Nominal:
    """What can be a subject or an object; `say(case, negation)` says kein for its article where there is a negation."""

    say: Callable[[str, Link | None], Phrase]
    person: str = "3s"
    definite: bool = (
        True  # stands before the time in German: sieht den Hund heute, sieht heute einen Hund
    )
    takes_kein: bool = False
    quantified: bool = (
        False  # no, every, many: not with nicht, which could deny the noun or the verb
    )
    fronted: bool = False  # begins with a question word or is a relative pronoun: comes first
    nouns: tuple[Noun, ...] = ()
    clauses: tuple[Clause, ...] = ()  # relative clauses inside


def noun_phrase(
    noun: Noun,
    determiner: Determiner,
    *,
    plural: bool = False,
    number: int | None = None,
    adjectives: tuple[Adjective, ...] = (),
    relative: Clause | None = None,
) -> Nominal:
    gender = "p" if plural else noun.gender

    def say(case: str, negation: Link | None) -> Phrase:
        article = DETERMINERS["no"] if negation else determiner
        phrase = pair(
            determiner.plural if plural else determiner.english, decline(article, case, gender)
        )
        if negation:
            phrase = Phrase(
                phrase.english,
                tuple(Word(text, (*links, negation)) for text, links in phrase.german),
            )
        if number is not None:
            phrase += pair(*number_words(number))
        for adjective in adjectives:
            phrase += pair(
                adjective.english, adjective.stem + adjective_ending(article, case, gender)
            )
        phrase += pair(
            noun.english_plural if plural else noun.english, noun.inflect(case, plural=plural)
        )
        if relative:
            phrase += GERMAN_COMMA + relative.say("final") + GERMAN_COMMA
        return phrase

    return Nominal(
        say,
        person="pl" if plural else "3s",
        definite=determiner.definite,
        takes_kein=determiner.english in ("a", "") and number is None,
        quantified=determiner.english in ("no", "every", "many"),
        fronted=determiner.english in ("which", "how|many"),
        nouns=(noun,),
        clauses=(relative,) if relative else (),
    )


def name(text: str) -> Nominal:
    return Nominal(lambda case, negation: pair(text, text))


def owner(name: str) -> Determiner:
    """Anna's, Annas."""
    return Determiner(f"{name}'s", f"{name}'s", f"{name}s", "none", "strong", definite=True)


def pronoun(english: str) -> Nominal:
    """A personal pronoun by its subject form, or `who` or `what`."""
    subject, other, nom, acc, dat, person = PRONOUNS[english]
    german = {"nom": nom, "acc": acc, "dat": dat}
    return Nominal(
        lambda case, negation: pair(subject if case == "nom" else other, german[case]),
        person=person,
        fronted=english in ("who", "what"),
    )


def relative_pronoun(noun: Noun, *, plural: bool = False) -> Nominal:
    """Agrees with the noun it stands for in gender and number, and takes its case from its own clause."""

    def say(case: str, negation: Link | None) -> Phrase:
        german = (
            "denen" if plural and case == "dat" else "d" + DER[case]["p" if plural else noun.gender]
        )
        return pair("who" if noun.kind == "person" and case == "nom" else "that", german)

    return Nominal(say, person="pl" if plural else "3s", fronted=True, nouns=(noun,))


def both(left: Nominal, right: Nominal) -> Nominal:
    return Nominal(
        lambda case, negation: left.say(case, None) + pair("and", "und") + right.say(case, None),
        person="pl",
        nouns=left.nouns + right.nouns,
    )


def prepositional(english: str, german: str, phrase: Phrase) -> Phrase:
    """Put a preposition before a noun phrase that is already in its case; in + dem is im, in + das is ins."""
    before, first = pair(english, german), phrase.german[0]
    merged = CONTRACTIONS.get((german, first.text))
    if merged is None:
        return before + phrase
    word = Word(merged, before.german[0].links + first.links)
    return Phrase(before.english + phrase.english, (word, *phrase.german[1:]))


# ------------------------------------------------------------------------------------------------ clauses


class VerbGroup(NamedTuple):
    """The verb cut into the parts that word order moves."""

    auxiliary: tuple[
        Word, ...
    ]  # English: what a question moves before the subject, and not follows
    verb: tuple[Word, ...]
    finite: tuple[Word, ...]  # German: second in a statement
    rest: tuple[Word, ...]  # prefix, participle or infinitive: last in a statement
    last: tuple[Word, ...]  # all of it, as it ends a subordinate clause


def verb_group(verb: Verb, person: str, tense: str, *, support: bool) -> VerbGroup:
    """`tense` is present, past (German: perfect) or a modal; `support` asks for do in English."""
    main, helper = Link(), Link()
    base, infinitive, participle = (
        words(text, main) for text in (verb.english, verb.infinitive, verb.participle)
    )
    if tense in MODALS:
        modal = MODALS[tense]
        finite = words(modal.german[person], helper)
        return VerbGroup(
            words(tense, helper),
            words(modal.rest, helper) + base,
            finite,
            infinitive,
            infinitive + finite,
        )
    if verb is BE:
        spoken, said = (AM, SEIN) if tense == "present" else (WAS, WAR)
        finite = words(said[person], main)
        return VerbGroup(words(spoken[person], main), (), finite, (), finite)
    if tense == "present":
        do = words("does" if person == "3s" else "do", main) if support else ()
        plain = base if support else words(verb.english_present(person), main)
        present, prefix = verb.german_present(person), verb.prefix
        return VerbGroup(
            do, plain, words(present, main), words(prefix, main), words(prefix + present, main)
        )
    perfect = {"hat": HABEN, "ist": SEIN}[verb.auxiliary][person]
    finite = words(perfect, helper if support else main)
    did, plain = (words("did", helper), base) if support else ((), words(verb.past, main))
    return VerbGroup(did, plain, finite, participle, participle + finite)


@dataclass(frozen=True)
class Clause:
    """Who does what to whom, when and where. `place`, `time` and `first` are phrases with nothing left to decide."""

    subject: Nominal
    verb: Verb
    objects: tuple[Nominal, ...] = ()
    tense: str = "present"
    negated: bool = False
    place: Phrase = Phrase()  # also a predicate: tired, as big as the dog
    time: Phrase = Phrase()
    first: Phrase = Phrase()  # what comes first: a time, a question word, a subordinate clause

    def combinations(self) -> Iterator[tuple[str, str, str]]:
        """Every (verb, role, noun) said here or in a relative clause."""
        roles = ["subject", *(slot.case for slot in self.verb.slots)]
        for role, nominal in zip(roles, (self.subject, *self.objects), strict=True):
            yield from ((self.verb.english, role, noun.english) for noun in nominal.nouns)
            for clause in nominal.clauses:
                yield from clause.combinations()

    def say(self, order: str) -> Phrase:
        """`order` is statement, question or final (German verb last)."""
        negation = Link() if self.negated else None
        asked = order == "question" and not self.subject.fronted
        subject = self.subject.say("nom", None)
        group = verb_group(
            self.verb, self.subject.person, self.tense, support=asked or self.negated
        )
        first, early, late, complement = self.first, Phrase(), Phrase(), Phrase()
        for nominal, slot in zip(self.objects, self.verb.slots, strict=True):
            phrase = nominal.say(slot.case, negation if nominal.takes_kein else None)
            if nominal.fronted:
                first = phrase
            elif slot.english:
                complement = prepositional(slot.english, slot.german, phrase)
            elif nominal.definite:
                early += phrase
            else:
                late += phrase
        kein = any(nominal.takes_kein for nominal in self.objects)
        nicht = words("nicht", negation) if negation and not kein else ()
        behind = complement + self.place
        english = (early + late + behind + self.time).english
        german = early.german + self.time.german + late.german + nicht + behind.german
        return Phrase(
            first.english + english_core(subject.english, group, negation, asked=asked) + english,
            german_order(order, first.german, subject.german, group, german, asked=asked),
        )


def english_core(
    subject: tuple[Word, ...], group: VerbGroup, negation: Link | None, *, asked: bool
) -> tuple[Word, ...]:
    if asked:
        return group.auxiliary + subject + group.verb
    if negation is None:
        return subject + group.auxiliary + group.verb
    if group.auxiliary[0].text == "can":
        return (*subject, Word("cannot", (*group.auxiliary[0].links, negation)), *group.verb)
    return subject + group.auxiliary + words("not", negation) + group.verb


def german_order(
    order: str,
    first: tuple[Word, ...],
    subject: tuple[Word, ...],
    group: VerbGroup,
    middle: tuple[Word, ...],
    *,
    asked: bool,
) -> tuple[Word, ...]:
    """The verb last in a subordinate clause, first in a yes/no question, else second."""
    if order == "final":
        return first + subject + middle + group.last
    if first or asked:
        return first + group.finite + subject + middle + group.rest
    return subject + group.finite + middle + group.rest


# ------------------------------------------------------------------------------------------------ text


class Line(NamedTuple):
    src: str
    tgt: str
    links: tuple[tuple[int, int], ...]  # (source, target) positions of tokens parted by spaces


def spell(sequence: tuple[Word, ...], end: str) -> list[Word]:
    """Attach punctuation, choose a or an, begin with a capital."""
    spelt: list[Word] = []
    for word in reversed((*sequence, Word(end))):
        mark, after = word.text in ",.?", spelt[-1].text if spelt else ""
        if mark and after in (",", ".", "?"):
            continue  # a comma that meets another mark
        if after in (",", ".", "?"):
            spelt[-1] = Word(word.text + after, word.links)
        elif word.text == "a" and after[0] in "aeiou":
            spelt.append(Word("an", word.links))
        else:
            spelt.append(word)
    spelt.reverse()
    spelt[0] = Word(spelt[0].text[0].upper() + spelt[0].text[1:], spelt[0].links)
    return spelt


def write_line(phrase: Phrase, end: str) -> Line:
    src, tgt = spell(phrase.english, end), spell(phrase.german, end)
    links = tuple(
        (i, j) for i, s in enumerate(src) for j, t in enumerate(tgt) if set(s.links) & set(t.links)
    )
    return Line(" ".join(word.text for word in src), " ".join(word.text for word in tgt), links)
