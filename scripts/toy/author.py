"""Plans random sentences that make sense, are unambiguous, and are correct in English and German.

The order of the random choices decides what the corpus is: any change here changes all its
sentences.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

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
)
from scripts.toy.lexicon import (
    ADJECTIVES,
    BARE,
    BE,
    COLORS,
    DETERMINERS,
    DIRECTIONS,
    MODALS,
    MOTION_VERBS,
    NAMES,
    NEW_NAMES,
    NOUNS,
    PLACE_OR_DIRECTION_VERBS,
    PLACES,
    POSSESSIVES,
    SAYING_VERBS,
    STATIVE_VERBS,
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
ALL_PRONOUNS = "I he she we they"
CLEAR_PRONOUNS = "I we they"  # without he and she, which could mean a noun of another clause
COMMA_IN_BOTH = Phrase((COMMA,), (COMMA,))


class RandomChoices:
    """Random choices, made with `random.Random.random` alone.

    This is the one method that gives the same numbers in all versions of Python.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def below(self, limit: int) -> int:
        """Return an integer from 0 to limit - 1."""
        return int(self._random() * limit)

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def pick_weighted(self, weights: dict[Item, int]) -> Item:
        point = self.below(sum(weights.values()))
        for item, weight in weights.items():
            point -= weight
            if point < 0:
                return item
        raise AssertionError(f"weights must be positive: {weights}")

    def shuffle(self, items: list[Item]) -> None:
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


class Sentence(NamedTuple):
    phrase: Phrase
    end: str  # the punctuation mark
    clauses: tuple[Clause, ...]


def is_present_or_past(verb: Verb, subject: Nominal) -> bool:
    """Return whether the English form could be present or past: we read, they put on."""
    return verb.past == verb.english and subject.person != "3s"


def fits(noun: Noun, slot: Slot) -> bool:
    """Return whether the noun can be this object in a relative clause."""
    return noun.kind in slot.kinds and not slot.english


class Author:
    """Plans random sentences."""

    def __init__(self, choices: RandomChoices) -> None:
        self.choices = choices
        # A few names are frequent and many are rare, so that a translator learns to copy names, not
        # a list of them.
        self.names = {text: 10_000 // (rank + 3) for rank, text in enumerate(NAMES)}
        self.names |= dict.fromkeys(NEW_NAMES, 20)

    # Nominals

    def name(self) -> str:
        return self.choices.pick_weighted(self.names)

    def determiner(self, noun: Noun, *, plural: bool, definite: bool) -> Determiner:
        """Choose a determiner that noun and number allow; with `definite`, a definite one."""
        if definite or self.choices.chance(0.55):
            return self.definite_determiner()
        if not noun.english_plural:
            return BARE
        if plural:
            return self.choices.pick([BARE, BARE, DETERMINERS["many"]])
        return DETERMINERS[self.choices.pick_weighted({"a": 10, "every": 1})]

    def definite_determiner(self) -> Determiner:
        weights = {"the": 10, "this": 2, "possessive": 3, "owner": 1}
        article = self.choices.pick_weighted(weights)
        if article == "owner":
            owner_name = self.name()
            if owner_name[-1] in "sxz":  # German would write Max' and Felix'
                return DETERMINERS["the"]
            return owner(owner_name)
        if article == "possessive":
            return DETERMINERS[self.choices.pick(POSSESSIVES)]
        return DETERMINERS[article]

    def adjectives(self, noun: Noun, chance: float = 0.4) -> tuple[Adjective, ...]:
        """Choose no adjective, one, or two of which the second is a color."""
        fitting = [adjective for adjective in ADJECTIVES.values() if noun.kind in adjective.kinds]
        if not fitting or not self.choices.chance(chance):
            return ()
        first = self.choices.pick(fitting)
        colors = [a for a in fitting if a.english in COLORS and a is not first]
        can_precede_color = first.english in ("big", "small", "old", "new")
        if colors and can_precede_color and self.choices.chance(0.3):
            return first, self.choices.pick(colors)
        return (first,)

    def noun_phrase(
        self,
        kinds: Sequence[str],
        *,
        definite: bool = False,
        nouns: Sequence[Noun] = (),
        relative: float = 0.0,
    ) -> Nominal:
        """Plan a noun with what belongs to it.

        Args:
            kinds: of noun to choose from, unless `nouns` are given.
            relative: the chance of a relative clause.
        """
        noun = self.choices.pick(nouns or nouns_of(kinds))
        plural = bool(noun.english_plural) and self.choices.chance(0.3)
        determiner = self.determiner(noun, plural=plural, definite=definite)
        number = None
        if plural and not definite and self.choices.chance(0.35):
            number = self.number()
            if not determiner.definite:
                determiner = BARE
        can_have_clause = noun.kind != "place" and determiner.english in ("the", "a", "this")
        clause = None
        if can_have_clause and self.choices.chance(relative):
            clause = self.relative_clause(noun, plural=plural)
        adjectives = self.adjectives(noun, 0.15 if clause else 0.4)
        return noun_phrase(
            noun, determiner, plural=plural, number=number, adjectives=adjectives, relative=clause
        )

    def number(self) -> int:
        """Choose a number from 2 to 99; small ones are more frequent."""
        limit = 11 if self.choices.chance(0.5) else 98
        return 2 + self.choices.below(limit)

    def nominal(
        self, kinds: Sequence[str], *, definite: bool = False, relative: float = 0.0
    ) -> Nominal:
        """Plan a name or a noun phrase."""
        if "person" in kinds and self.choices.chance(0.2):
            return name(self.name())
        return self.noun_phrase(kinds, definite=definite, relative=relative)

    def subject(
        self, kinds: Sequence[str], *, relative: float = 0.0, pronouns: str = ALL_PRONOUNS
    ) -> Nominal:
        """Plan a subject of one of these kinds; `relative` is the chance of a relative clause."""
        form = self.choices.pick_weighted({"pronoun": 25, "both": 5, "no": 3, "other": 67})
        if form == "pronoun" and "person" in kinds:
            return pronoun(self.choices.pick(pronouns.split()))
        if form == "both":
            left = self.nominal(kinds, definite=True)
            right = self.nominal(kinds, definite=True)
            return left if left.nouns == right.nouns else both(left, right)
        if form == "no":
            noun = self.choices.pick(nouns_of(kinds))
            return noun_phrase(noun, DETERMINERS["no"], adjectives=self.adjectives(noun))
        return self.nominal(kinds, relative=relative)

    def relative_clause(self, noun: Noun, *, plural: bool) -> Clause:
        """Plan a clause about a noun: the man who sees the dog, the man that the dog sees."""
        gap = relative_pronoun(noun, plural=plural)
        verbs = VERBS.values()
        roles = [(verb, "subject") for verb in verbs if noun.kind in verb.subjects]
        transitive_verbs = [verb for verb in verbs if len(verb.slots) == 1]
        roles += [(verb, "object") for verb in transitive_verbs if fits(noun, verb.slots[0])]
        verb, role = self.choices.pick(roles)
        if role == "subject":
            objects = self.objects(verb, gap)
            return Clause(gap, verb, tuple(objects), self.tense(verb, gap))
        subject = self.subject(verb.subjects, pronouns=CLEAR_PRONOUNS)
        return Clause(subject, verb, (gap,), self.tense(verb, subject))

    # Clauses

    def tense(self, verb: Verb, subject: Nominal) -> str:
        """Choose present, past or a modal verb."""
        modal = self.choices.pick(list(MODALS))
        if is_present_or_past(verb, subject):
            return modal
        modal_weight = 0 if verb.english in STATIVE_VERBS else 28
        return self.choices.pick_weighted({"present": 50, "past": 22, modal: modal_weight})

    def objects(
        self, verb: Verb, subject: Nominal, *, definite: bool = False, relative: bool = False
    ) -> list[Nominal]:
        """Plan all objects of a verb.

        With `relative`, the last one has a relative clause if it can have one.
        """
        last = len(verb.slots) - 1
        objects = []
        for index, slot in enumerate(verb.slots):
            has_clause = relative and index == last
            objects.append(self.object(verb, slot, subject, definite=definite, relative=has_clause))
        return objects

    def object(
        self, verb: Verb, slot: Slot, subject: Nominal, *, definite: bool, relative: bool
    ) -> Nominal:
        is_first_of_two = len(verb.slots) == 2 and slot.case == "dat"
        if "person" in slot.kinds and not relative and self.choices.chance(0.15):
            forms = ["he", "they"]
            if subject.nouns:  # otherwise: I see me
                forms += ["I", "we"]
            if not is_first_of_two:  # otherwise: "gives her flowers" could mean her own flowers
                forms.append("she")
            return pronoun(self.choices.pick(forms))
        return self.nominal(
            slot.kinds,
            definite=definite or is_first_of_two or bool(slot.english),
            relative=float(relative),
        )

    def place(self, verb: Verb) -> Phrase:
        """Choose a place, or a direction for a verb of motion."""
        rows = DIRECTIONS if verb.english in MOTION_VERBS else PLACES
        english, german, case, where = self.choices.pick(rows)
        nouns = [NOUNS[word] for word in where.split()]
        nominal = self.noun_phrase((), nouns=nouns, definite=self.choices.chance(0.7))
        return prepositional(english, german, nominal.say(case, None))

    def time(self, tense: str, *, negated: bool = False) -> Phrase:
        """Choose a time that fits the tense, and a negation."""
        tense_name = "modal" if tense in MODALS else tense
        fitting = [row for row in TIMES if tense_name in row[2] and (row[3] or not negated)]
        english, german, *_ = self.choices.pick(fitting)
        hour = str(1 + self.choices.below(12))
        return pair(english.replace("HOUR", hour), german.replace("HOUR", hour))

    def clause(self, *, relative: float = 0.0, plain: bool = False) -> Clause:
        """Plan a clause in which someone does something.

        Args:
            relative: the chance of a relative clause for the subject, and half of it for the
            object. plain: without time, place, negation, and pronouns that could mean another noun.
        """
        verb = self.choices.pick(list(VERBS.values()))
        pronouns = CLEAR_PRONOUNS if plain else ALL_PRONOUNS
        subject = self.subject(verb.subjects, relative=relative, pronouns=pronouns)
        tense = self.tense(verb, subject)
        can_be_negated = not (plain or subject.quantified or tense == "must")
        negated = can_be_negated and self.choices.chance(0.25)
        # A relative clause of the last object ends the sentence, so nothing else may follow its
        # noun.
        can_end_with_clause = tense == "present" and not negated and not verb.prefix
        ends_with_clause = can_end_with_clause and self.choices.chance(2 * relative)
        definite = negated and self.choices.chance(0.4)
        objects = self.objects(verb, subject, definite=definite, relative=ends_with_clause)
        negated = negated and all(nominal.takes_kein or nominal.definite for nominal in objects)

        can_have_more = not plain and not ends_with_clause and len(verb.slots) < 2
        has_preposition = any(slot.english for slot in verb.slots)
        has_fixed_place = verb.english in STATIVE_VERBS + PLACE_OR_DIRECTION_VERBS
        can_have_place = can_have_more and not has_fixed_place and not has_preposition
        place = Phrase()
        if can_have_place and self.choices.chance(0.3):
            place = self.place(verb)
        time = Phrase()
        if can_have_more and self.choices.chance(0.25):
            time = self.time(tense, negated=negated)
        return Clause(subject, verb, tuple(objects), tense, negated, place, time)

    def description(self, *, plain: bool = False) -> Clause:
        """Plan a clause in which someone or something is tired, very old, as big as the dog."""
        living = [("person",), ("person",), ("animal",)]
        kinds = self.choices.pick([*living, *((kind,) for kind in THINGS)])
        pronouns = CLEAR_PRONOUNS if plain else ALL_PRONOUNS
        subject = self.subject(kinds, relative=0.0 if plain else 0.25, pronouns=pronouns)
        predicate, form = self.predicate(kinds, subject)
        tense = self.choices.pick_weighted({"present": 6, "past": 3, "will": 1})
        can_be_negated = not plain and not subject.quantified and form != "very"
        negated = can_be_negated and self.choices.chance(0.2)
        return Clause(subject, BE, (), tense, negated, place=predicate)

    def predicate(self, kinds: Sequence[str], subject: Nominal) -> tuple[Phrase, str]:
        """Choose an adjective that the subject does not have already.

        Return what is said with it, and the form of that: plain, very or as.
        """
        words_of_subject = [word.text for word in subject.say("nom", None).english]
        fitting = [a for a in ADJECTIVES.values() if kinds[0] in a.kinds]
        fitting = [a for a in fitting if a.english not in words_of_subject]
        adjective = self.choices.pick(fitting)
        phrase = pair(adjective.english, adjective.german)
        form = self.choices.pick_weighted({"plain": 6, "very": 2, "as": 2})
        if form == "very":
            phrase = pair("very", "sehr") + phrase
        elif form == "as":
            standard = self.nominal(kinds, definite=True).say("nom", None)
            phrase = pair("as", "so") + phrase + pair("as", "wie") + standard
        return phrase, form

    # Sentences

    def statement(self) -> Sentence:
        clause = self.clause(relative=0.12)
        if clause.time.english and self.choices.chance(0.6):
            clause = replace(clause, first=clause.time, time=Phrase())
        return Sentence(clause.say("statement"), ".", (clause,))

    def describing_statement(self) -> Sentence:
        clause = self.description()
        return Sentence(clause.say("statement"), ".", (clause,))

    def existence(self) -> Sentence:
        """Plan a sentence such as: There is a dog in the garden. Are there dogs in the garden?"""
        noun = self.choices.pick(nouns_of(kinds_of("animal+goods+opening")))
        plural = self.choices.chance(0.5)
        number = None
        determiner = DETERMINERS["many" if plural else "a"]
        if plural and self.choices.chance(0.6):
            number = self.number()
            determiner = BARE
        adjectives = self.adjectives(noun)
        thing = noun_phrase(noun, determiner, plural=plural, number=number, adjectives=adjectives)
        there = pair("there", "es")
        are = pair("are" if plural else "is", "gibt")
        is_question = self.choices.chance(0.3)
        beginning = are + there if is_question else there + are
        phrase = beginning + thing.say("acc", None) + self.place(BE)
        return Sentence(phrase, "?" if is_question else ".", ())

    def yes_no_question(self) -> Sentence:
        is_description = self.choices.chance(0.2)
        clause = self.description(plain=True) if is_description else self.clause()
        clause = replace(clause, negated=False)
        return Sentence(clause.say("question"), "?", (clause,))

    def adverb_question(self) -> Sentence:
        """Plan a question that begins with where, when or why."""
        english, german = self.choices.pick([("where", "wo"), ("when", "wann"), ("why", "warum")])
        clause = replace(self.clause(), negated=False, first=pair(english, german))
        if english == "where":
            if clause.verb.english in MOTION_VERBS + PLACE_OR_DIRECTION_VERBS + STATIVE_VERBS:
                return self.adverb_question()
            clause = replace(clause, place=Phrase())
        if english == "when":
            clause = replace(clause, time=Phrase())
        return Sentence(clause.say("question"), "?", (clause,))

    def noun_question(self) -> Sentence:
        """Plan a question with who, what, which or how many."""
        clause = replace(self.clause(), negated=False)
        # It asks for the last object or for the subject.
        slots = clause.verb.slots
        if slots and not slots[-1].english and self.choices.chance(0.7):
            asked = self.question_nominal(slots[-1].kinds)
            clause = replace(clause, objects=(*clause.objects[:-1], asked))
        else:
            clause = replace(clause, subject=self.question_nominal(clause.verb.subjects))
            tense = self.tense(clause.verb, clause.subject)
            clause = replace(clause, tense=tense, time=Phrase())
        return Sentence(clause.say("question"), "?", (clause,))

    def question_nominal(self, kinds: Sequence[str]) -> Nominal:
        """Plan who, what, which old men, how many men."""
        if self.choices.chance(0.5):
            return pronoun("who" if "person" in kinds else "what")
        noun = self.choices.pick(nouns_of(kinds))
        plural = bool(noun.english_plural) and self.choices.chance(0.5)
        asks_number = plural and self.choices.chance(0.6)
        determiner = DETERMINERS["how|many" if asks_number else "which"]
        return noun_phrase(noun, determiner, plural=plural, adjectives=self.adjectives(noun, 0.2))

    def that_sentence(self) -> Sentence:
        """Plan a sentence such as: He says that the dog sleeps."""
        verb = self.choices.pick(list(SAYING_VERBS.values()))
        subject = self.subject(verb.subjects)
        tense = self.choices.pick_weighted({"present": 6, "past": 3})
        negated = not subject.quantified and self.choices.chance(0.2)
        main = Clause(subject, verb, (), tense, negated)
        inner = self.inner_clause()
        phrase = main.say("statement") + GERMAN_COMMA + pair("that", "dass") + inner.say("final")
        return Sentence(phrase, ".", (main, inner))

    def inner_clause(self) -> Clause:
        if self.choices.chance(0.2):
            return self.description(plain=True)
        return self.clause(plain=True)

    def subordinate_sentence(self) -> Sentence:
        """Plan a sentence with because, although or when, after the main clause or before it."""
        english, german = self.choices.pick(
            [("because", "weil"), ("although", "obwohl"), ("when", "wenn")]
        )
        main = self.clause(plain=True)
        inner = self.inner_clause()
        if english == "when":
            main = self.in_general_present(main)
            inner = self.in_general_present(inner)
        subordinate = pair(english, german) + inner.say("final")
        if self.choices.chance(0.4):
            phrase = replace(main, first=subordinate + COMMA_IN_BOTH).say("statement")
        else:
            phrase = main.say("statement") + GERMAN_COMMA + subordinate
        return Sentence(phrase, ".", (main, inner))

    @staticmethod
    def in_general_present(clause: Clause) -> Clause:
        """Return the clause in the present or with can or must, for a sentence with when.

        In the past, German has als and not wenn; English does not use will, should and would.
        """
        if clause.tense in ("present", "can", "must"):
            return clause
        tense = "can" if is_present_or_past(clause.verb, clause.subject) else "present"
        return replace(clause, tense=tense)

    def contrast(self) -> Sentence:
        """Plan two clauses with but."""
        left = self.clause(plain=True)
        right = self.inner_clause()
        but = COMMA_IN_BOTH + pair("but", "aber")
        phrase = left.say("statement") + but + right.say("statement")
        return Sentence(phrase, ".", (left, right))

    def sentence(self) -> Sentence:
        weights: dict[Callable[[], Sentence], int] = {
            self.statement: 38,
            self.describing_statement: 10,
            self.existence: 4,
            self.yes_no_question: 9,
            self.adverb_question: 6,
            self.noun_question: 9,
            self.that_sentence: 8,
            self.subordinate_sentence: 12,
            self.contrast: 4,
        }
        plan_sentence = self.choices.pick_weighted(weights)
        return plan_sentence()
