"""The grammar of the toy language: it says a planned sentence in English and German.

A plan (Nominal, Clause) is the meaning of a sentence. Saying it gives a Phrase: English and German
words, each with links. Two words that share a link translate each other. Links stay with their
words wherever word order moves them, so an alignment needs no counting of positions.

Cases are nom, acc and dat; genders m, f, n, and p for all plurals; persons 1s, 3s and pl.
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
    """A piece of meaning that connects words of both languages. Links are compared by identity."""


class Word(NamedTuple):
    text: str
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Phrase:
    """The same words in both languages."""

    english: tuple[Word, ...] = ()
    german: tuple[Word, ...] = ()

    def __add__(self, other: Phrase) -> Phrase:
        return Phrase(self.english + other.english, self.german + other.german)


COMMA = Word(",")
GERMAN_COMMA = Phrase(german=(COMMA,))


def words(text: str, *links: Link) -> tuple[Word, ...]:
    """Return the words of a text, each with all of the links."""
    return tuple(Word(word, links) for word in text.split())


def pair(english: str, german: str) -> Phrase:
    """Return two texts whose parts translate each other: `in the|evening` and `am|Abend`."""
    phrase = Phrase()
    for english_part, german_part in zip(english.split("|"), german.split("|"), strict=True):
        link = Link()
        phrase += Phrase(words(english_part, link), words(german_part, link))
    return phrase


# Endings

STRONG_ENDINGS = {
    "nom": {"m": "er", "f": "e", "n": "es", "p": "e"},
    "acc": {"m": "en", "f": "e", "n": "es", "p": "e"},
    "dat": {"m": "em", "f": "er", "n": "em", "p": "en"},
}
DER_ENDINGS = {
    "nom": {"m": "er", "f": "ie", "n": "as", "p": "ie"},
    "acc": {"m": "en", "f": "ie", "n": "as", "p": "ie"},
    "dat": {"m": "em", "f": "er", "n": "em", "p": "en"},
}


def ein_ending(case: str, gender: str) -> str:
    """Return the ending of ein, kein, mein and so on."""
    if (case, gender) in {("nom", "m"), ("nom", "n"), ("acc", "n")}:
        return ""
    return STRONG_ENDINGS[case][gender]


def weak_ending(case: str, gender: str) -> str:
    if case == "nom" and gender != "p":
        return "e"
    if case == "acc" and gender in "fn":
        return "e"
    return "en"


def decline(determiner: Determiner, case: str, gender: str) -> str:
    """Return the German determiner with its ending."""
    endings = {
        "der": DER_ENDINGS[case][gender],
        "strong": STRONG_ENDINGS[case][gender],
        "ein": ein_ending(case, gender),
        "none": "",
    }
    return determiner.german + endings[determiner.ending]


def adjective_ending(determiner: Determiner, case: str, gender: str) -> str:
    """Return the ending of an adjective after a determiner.

    It is strong if the determiner does not show the case: ein alter Hund, der alte Hund.
    """
    if determiner.adjective == "weak":
        return weak_ending(case, gender)
    if determiner.adjective == "mixed" and ein_ending(case, gender):
        return weak_ending(case, gender)
    return STRONG_ENDINGS[case][gender]


# Nominals


@dataclass(frozen=True)
class Nominal:
    """A plan of what can be a subject or an object.

    `say(case, negation)` says it. If there is a negation, it has the article kein instead of its
    own.
    """

    say: Callable[[str, Link | None], Phrase]
    person: str = "3s"
    # In German, a definite object stands before the time, an indefinite one after it: sieht den
    # Hund heute, sieht heute einen Hund.
    definite: bool = True
    takes_kein: bool = False
    # No, every, many. Such a subject is not used with nicht, which could negate the noun or the
    # verb.
    quantified: bool = False
    # Begins with a question word, or is a relative pronoun: stands first in its clause.
    fronted: bool = False
    nouns: tuple[Noun, ...] = ()
    clauses: tuple[Clause, ...] = ()  # its relative clauses


def noun_phrase(
    noun: Noun,
    determiner: Determiner,
    *,
    plural: bool = False,
    number: int | None = None,
    adjectives: tuple[Adjective, ...] = (),
    relative: Clause | None = None,
) -> Nominal:
    """Plan a noun with its determiner, a number, adjectives and a relative clause."""

    def say(case: str, negation: Link | None) -> Phrase:
        gender = "p" if plural else noun.gender
        german_determiner = DETERMINERS["no"] if negation else determiner
        phrase = pair(
            determiner.plural if plural else determiner.english,
            decline(german_determiner, case, gender),
        )
        if negation:
            phrase = with_german_link(phrase, negation)
        if number is not None:
            phrase += pair(*number_words(number))
        for adjective in adjectives:
            ending = adjective_ending(german_determiner, case, gender)
            phrase += pair(adjective.english, adjective.stem + ending)
        phrase += pair(
            noun.english_plural if plural else noun.english,
            noun.inflect(case, plural=plural),
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


def with_german_link(phrase: Phrase, link: Link) -> Phrase:
    """Return the phrase with one more link on its German words."""
    german = tuple(Word(word.text, (*word.links, link)) for word in phrase.german)
    return Phrase(phrase.english, german)


def name(text: str) -> Nominal:
    return Nominal(lambda case, negation: pair(text, text))


def owner(name: str) -> Determiner:
    """Return a name as a determiner: Anna's, Annas."""
    return Determiner(f"{name}'s", f"{name}'s", f"{name}s", "none", "strong", definite=True)


def pronoun(english: str) -> Nominal:
    """Return a personal pronoun, given as I, he, she, we or they; or `who` or `what`."""
    subject, object_, nom, acc, dat, person = PRONOUNS[english]
    german = {"nom": nom, "acc": acc, "dat": dat}

    def say(case: str, negation: Link | None) -> Phrase:
        return pair(subject if case == "nom" else object_, german[case])

    return Nominal(say, person=person, fronted=english in ("who", "what"))


def relative_pronoun(noun: Noun, *, plural: bool = False) -> Nominal:
    """Return the relative pronoun for a noun.

    It agrees with the noun in gender and number, and has its case from its own clause.
    """

    def say(case: str, negation: Link | None) -> Phrase:
        english = "who" if noun.kind == "person" and case == "nom" else "that"
        if plural and case == "dat":
            return pair(english, "denen")
        gender = "p" if plural else noun.gender
        return pair(english, "d" + DER_ENDINGS[case][gender])

    return Nominal(say, person="pl" if plural else "3s", fronted=True, nouns=(noun,))


def both(left: Nominal, right: Nominal) -> Nominal:
    """Plan two nominals with and."""

    def say(case: str, negation: Link | None) -> Phrase:
        return left.say(case, None) + pair("and", "und") + right.say(case, None)

    return Nominal(say, person="pl", nouns=left.nouns + right.nouns)


def prepositional(english: str, german: str, phrase: Phrase) -> Phrase:
    """Put a preposition before a noun phrase that is already in its case.

    Contract in + dem to im, and in + das to ins.
    """
    preposition = pair(english, german)
    first = phrase.german[0]
    contraction = CONTRACTIONS.get((german, first.text))
    if contraction is None:
        return preposition + phrase
    word = Word(contraction, preposition.german[0].links + first.links)
    return Phrase(preposition.english + phrase.english, (word, *phrase.german[1:]))


# Clauses


class VerbGroup(NamedTuple):
    """The forms of a verb, divided into the parts that word order moves."""

    auxiliary: tuple[Word, ...]  # English: stands before the subject in a question, and before not
    verb: tuple[Word, ...]  # English: the rest
    finite: tuple[Word, ...]  # German: second in a statement
    rest: tuple[Word, ...]  # German: prefix, participle or infinitive, last in a statement
    final: tuple[Word, ...]  # German: all of it, as it ends a subordinate clause


def verb_group(verb: Verb, person: str, tense: str, *, needs_do: bool) -> VerbGroup:
    """Return the forms of a verb.

    Args:
        tense: present, past (which is the perfect in German), or a modal verb.
        needs_do: in English, use do, does or did.
    """
    if tense in MODALS:
        return modal_group(verb, person, tense)
    if verb is BE:
        return be_group(person, tense)
    if tense == "present":
        return present_group(verb, person, needs_do=needs_do)
    return past_group(verb, person, needs_do=needs_do)


def modal_group(verb: Verb, person: str, modal_verb: str) -> VerbGroup:
    main = Link()
    helper = Link()
    modal = MODALS[modal_verb]
    infinitive = words(verb.infinitive, main)
    finite = words(modal.german[person], helper)
    return VerbGroup(
        auxiliary=words(modal_verb, helper),
        verb=words(modal.rest, helper) + words(verb.english, main),
        finite=finite,
        rest=infinitive,
        final=infinitive + finite,
    )


def be_group(person: str, tense: str) -> VerbGroup:
    main = Link()
    if tense == "present":
        english = AM[person]
        german = SEIN[person]
    else:
        english = WAS[person]
        german = WAR[person]
    finite = words(german, main)
    return VerbGroup(auxiliary=words(english, main), verb=(), finite=finite, rest=(), final=finite)


def present_group(verb: Verb, person: str, *, needs_do: bool) -> VerbGroup:
    main = Link()
    if needs_do:
        auxiliary = words("does" if person == "3s" else "do", main)
        english = words(verb.english, main)
    else:
        auxiliary = ()
        english = words(verb.english_present(person), main)
    german = verb.german_present(person)
    return VerbGroup(
        auxiliary=auxiliary,
        verb=english,
        finite=words(german, main),
        rest=words(verb.prefix, main),
        final=words(verb.prefix + german, main),
    )


def past_group(verb: Verb, person: str, *, needs_do: bool) -> VerbGroup:
    main = Link()
    helper = Link()
    participle = words(verb.participle, main)
    perfect_auxiliary = {"hat": HABEN, "ist": SEIN}[verb.auxiliary][person]
    if needs_do:  # did links to the German auxiliary
        auxiliary = words("did", helper)
        english = words(verb.english, main)
        finite = words(perfect_auxiliary, helper)
    else:
        auxiliary = ()
        english = words(verb.past, main)
        finite = words(perfect_auxiliary, main)
    return VerbGroup(
        auxiliary=auxiliary,
        verb=english,
        finite=finite,
        rest=participle,
        final=participle + finite,
    )


@dataclass(frozen=True)
class Clause:
    """A plan of who does what to whom, when and where. Place, time and first are already said."""

    subject: Nominal
    verb: Verb
    objects: tuple[Nominal, ...] = ()
    tense: str = "present"
    negated: bool = False
    place: Phrase = Phrase()  # also a predicate: tired, as big as the dog
    time: Phrase = Phrase()
    first: Phrase = Phrase()  # stands first: a time, a question word, a subordinate clause

    def combinations(self) -> Iterator[tuple[str, str, str]]:
        """Yield every (verb, role, noun) of this clause and of its relative clauses."""
        roles = ["subject", *(slot.case for slot in self.verb.slots)]
        for role, nominal in zip(roles, (self.subject, *self.objects), strict=True):
            for noun in nominal.nouns:
                yield self.verb.english, role, noun.english
            for clause in nominal.clauses:
                yield from clause.combinations()

    def say(self, order: str) -> Phrase:
        """Say the clause in an order: statement, question, or final (with the German verb last)."""
        negation = Link() if self.negated else None
        is_inverted = order == "question" and not self.subject.fronted
        subject = self.subject.say("nom", None)
        needs_do = is_inverted or self.negated
        group = verb_group(self.verb, self.subject.person, self.tense, needs_do=needs_do)
        objects = self.say_objects(negation)
        first = self.first
        if objects.fronted is not None:
            first = objects.fronted
        end = objects.with_preposition + self.place

        english = english_order(subject.english, group, negation, is_inverted=is_inverted)
        english_rest = objects.definite + objects.indefinite + end + self.time

        has_kein = any(nominal.takes_kein for nominal in self.objects)
        nicht = () if negation is None or has_kein else words("nicht", negation)
        middle = (
            objects.definite.german
            + self.time.german
            + objects.indefinite.german
            + nicht
            + end.german
        )
        german = german_order(
            order, first.german, subject.german, group, middle, is_inverted=is_inverted
        )
        return Phrase(first.english + english + english_rest.english, german)

    def say_objects(self, negation: Link | None) -> SaidObjects:
        fronted = None
        definite = Phrase()
        indefinite = Phrase()
        with_preposition = Phrase()
        for nominal, slot in zip(self.objects, self.verb.slots, strict=True):
            phrase = nominal.say(slot.case, negation if nominal.takes_kein else None)
            if nominal.fronted:
                fronted = phrase
            elif slot.english:
                with_preposition = prepositional(slot.english, slot.german, phrase)
            elif nominal.definite:
                definite += phrase
            else:
                indefinite += phrase
        return SaidObjects(fronted, definite, indefinite, with_preposition)


class SaidObjects(NamedTuple):
    """The objects of a clause, said, by their place in it."""

    fronted: Phrase | None  # a question word or a relative pronoun
    definite: Phrase
    indefinite: Phrase
    with_preposition: Phrase


def english_order(
    subject: tuple[Word, ...], group: VerbGroup, negation: Link | None, *, is_inverted: bool
) -> tuple[Word, ...]:
    """Return subject and verb in English."""
    if is_inverted:
        return group.auxiliary + subject + group.verb
    if negation is None:
        return subject + group.auxiliary + group.verb
    if group.auxiliary[0].text == "can":
        cannot = Word("cannot", (*group.auxiliary[0].links, negation))
        return (*subject, cannot, *group.verb)
    return subject + group.auxiliary + words("not", negation) + group.verb


def german_order(
    order: str,
    first: tuple[Word, ...],
    subject: tuple[Word, ...],
    group: VerbGroup,
    middle: tuple[Word, ...],
    *,
    is_inverted: bool,
) -> tuple[Word, ...]:
    """Return a German clause in order.

    The verb is last in a subordinate clause, first in a yes-no question, and else second.
    """
    if order == "final":
        return first + subject + middle + group.final
    if first or is_inverted:
        return first + group.finite + subject + middle + group.rest
    return subject + group.finite + middle + group.rest


# Text

PUNCTUATION = (",", ".", "?")


class Line(NamedTuple):
    src: str
    tgt: str
    links: tuple[tuple[int, int], ...]  # (source, target) positions of the words between spaces


def spell(sequence: tuple[Word, ...], end: str) -> list[Word]:
    """Attach punctuation to words, choose a or an, and begin with a capital letter."""
    spelled: list[Word] = []  # from the last word to the first
    for word in reversed((*sequence, Word(end))):
        next_text = spelled[-1].text if spelled else ""
        if next_text in PUNCTUATION:
            if word.text in PUNCTUATION:
                continue  # a comma before another mark is left out
            spelled[-1] = Word(word.text + next_text, word.links)
        elif word.text == "a" and next_text[0] in "aeiou":
            spelled.append(Word("an", word.links))
        else:
            spelled.append(word)
    spelled.reverse()
    first = spelled[0]
    spelled[0] = Word(first.text[0].upper() + first.text[1:], first.links)
    return spelled


def write_line(phrase: Phrase, end: str) -> Line:
    """Write a phrase as a line of text in both languages, with its alignment."""
    src = spell(phrase.english, end)
    tgt = spell(phrase.german, end)
    links = []
    for i, src_word in enumerate(src):
        for j, tgt_word in enumerate(tgt):
            if set(src_word.links) & set(tgt_word.links):
                links.append((i, j))
    src_text = " ".join(word.text for word in src)
    tgt_text = " ".join(word.text for word in tgt)
    return Line(src_text, tgt_text, tuple(links))
