"""The words of the toy language, in tables, and their inflection.

Columns of a table are separated by two or more spaces, and `-` is an empty cell. An English word
always has the same German word. Cases are nom, acc and dat; genders m, f and n; persons 1s (I),
3s (he) and pl (we, they).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


def parse_table(table: str) -> list[list[str]]:
    """Return the cells of each row. Lines that begin with # are comments."""
    rows = []
    for line in table.strip().split("\n"):
        if not line.startswith("#"):
            cells = re.split(r"\s{2,}", line.strip())
            rows.append(["" if cell == "-" else cell for cell in cells])
    return rows


# Nouns

NOUN_TABLE = """
# kind    english   plural      german (* adds -(e)n: den Jungen)  plural
person    man       men         der Mann                           Männer
person    woman     women       die Frau                           Frauen
person    child     children    das Kind                           Kinder
person    boy       boys        der Junge*                         Jungen
person    girl      girls       das Mädchen                        Mädchen
person    king      kings       der König                          Könige
person    queen     queens      die Königin                        Königinnen
person    prince    princes     der Prinz*                         Prinzen
person    princess  princesses  die Prinzessin                     Prinzessinnen
person    knight    knights     der Ritter                         Ritter
person    witch     witches     die Hexe                           Hexen
person    giant     giants      der Riese*                         Riesen
person    dwarf     dwarfs      der Zwerg                          Zwerge
person    brother   brothers    der Bruder                         Brüder
person    sister    sisters     die Schwester                      Schwestern
person    son       sons        der Sohn                           Söhne
person    daughter  daughters   die Tochter                        Töchter
person    uncle     uncles      der Onkel                          Onkel
person    aunt      aunts       die Tante                          Tanten
person    guest     guests      der Gast                           Gäste
animal    dog       dogs        der Hund                           Hunde
animal    cat       cats        die Katze                          Katzen
animal    horse     horses      das Pferd                          Pferde
animal    cow       cows        die Kuh                            Kühe
animal    pig       pigs        das Schwein                        Schweine
animal    bird      birds       der Vogel                          Vögel
animal    mouse     mice        die Maus                           Mäuse
animal    lion      lions       der Löwe*                          Löwen
animal    bear      bears       der Bär*                           Bären
animal    goose     geese       die Gans                           Gänse
animal    fox       foxes       der Fuchs                          Füchse
food      apple     apples      der Apfel                          Äpfel
food      egg       eggs        das Ei                             Eier
food      potato    potatoes    die Kartoffel                      Kartoffeln
food      tomato    tomatoes    die Tomate                         Tomaten
food      pear      pears       die Birne                          Birnen
food      cake      cakes       der Kuchen                         Kuchen
drink     water     -           das Wasser                         -
drink     milk      -           die Milch                          -
drink     tea       -           der Tee                            -
drink     coffee    -           der Kaffee                         -
drink     beer      -           das Bier                           -
text      book      books       das Buch                           Bücher
text      letter    letters     der Brief                          Briefe
text      story     stories     die Geschichte                     Geschichten
text      poem      poems       das Gedicht                        Gedichte
clothing  hat       hats        der Hut                            Hüte
clothing  coat      coats       der Mantel                         Mäntel
clothing  shirt     shirts      das Hemd                           Hemden
clothing  dress     dresses     das Kleid                          Kleider
clothing  jacket    jackets     die Jacke                          Jacken
clothing  shoe      shoes       der Schuh                          Schuhe
device    lamp      lamps       die Lampe                          Lampen
device    computer  computers   der Computer                       Computer
device    radio     radios      das Radio                          Radios
device    machine   machines    die Maschine                       Maschinen
opening   door      doors       die Tür                            Türen
opening   window    windows     das Fenster                        Fenster
opening   cupboard  cupboards   der Schrank                        Schränke
opening   bag       bags        die Tasche                         Taschen
vehicle   car       cars        das Auto                           Autos
vehicle   ship      ships       das Schiff                         Schiffe
vehicle   train     trains      der Zug                            Züge
vehicle   bicycle   bicycles    das Fahrrad                        Fahrräder
item      key       keys        der Schlüssel                      Schlüssel
item      picture   pictures    das Bild                           Bilder
item      ball      balls       der Ball                           Bälle
item      crown     crowns      die Krone                          Kronen
item      ring      rings       der Ring                           Ringe
item      sword     swords      das Schwert                        Schwerter
item      flower    flowers     die Blume                          Blumen
item      bottle    bottles     die Flasche                        Flaschen
item      knife     knives      das Messer                         Messer
item      chair     chairs      der Stuhl                          Stühle
place     garden    gardens     der Garten                         Gärten
place     house     houses      das Haus                           Häuser
place     kitchen   kitchens    die Küche                          Küchen
place     forest    forests     der Wald                           Wälder
place     city      cities      die Stadt                          Städte
place     village   villages    das Dorf                           Dörfer
place     castle    castles     das Schloss                        Schlösser
place     school    schools     die Schule                         Schulen
place     church    churches    die Kirche                         Kirchen
place     tower     towers      der Turm                           Türme
place     museum    museums     das Museum                         Museen
place     bridge    bridges     die Brücke                         Brücken
place     mountain  mountains   der Berg                           Berge
place     tree      trees       der Baum                           Bäume
place     table     tables      der Tisch                          Tische
place     bed       beds        das Bett                           Betten
"""

# Names for several kinds of nouns.
KIND_GROUPS = {
    "living": "person animal",
    "small": "text clothing item",
    "goods": "text clothing device vehicle item food",
    "any": "person animal food text clothing device opening vehicle item",
    "all": "person animal food drink text clothing device opening vehicle item place",
}


def kinds_of(names: str) -> tuple[str, ...]:
    """Return the kinds of a list with groups: `living+food` is person, animal and food."""
    kinds: list[str] = []
    for name in names.split("+"):
        kinds += KIND_GROUPS.get(name, name).split()
    return tuple(kinds)


@dataclass(frozen=True)
class Noun:
    kind: str
    english: str
    english_plural: str  # empty for a noun without plural, like water
    german: str
    german_plural: str
    gender: str  # m, f, n
    weak: bool  # ends in -(e)n in every form but the nominative singular

    def inflect(self, case: str, *, plural: bool) -> str:
        """Return the German form."""
        if not plural:
            return self.german_plural if self.weak and case != "nom" else self.german
        if case == "dat" and self.german_plural[-1] not in "ns":
            return self.german_plural + "n"
        return self.german_plural


def read_noun(kind: str, english: str, plural: str, german: str, german_plural: str) -> Noun:
    """Return the noun of a row of NOUN_TABLE."""
    article, word = german.split()
    return Noun(
        kind=kind,
        english=english,
        english_plural=plural,
        german=word.rstrip("*"),
        german_plural=german_plural,
        gender={"der": "m", "die": "f", "das": "n"}[article],
        weak=word.endswith("*"),
    )


NOUNS = {row[1]: read_noun(*row) for row in parse_table(NOUN_TABLE)}


def nouns_of(kinds: Sequence[str]) -> list[Noun]:
    return [noun for noun in NOUNS.values() if noun.kind in kinds]


# Adjectives

ADJECTIVE_TABLE = """
# english  german      kinds of nouns
big        groß        any+place
red        rot         animal+clothing+vehicle+item+opening
small      klein       any+place
green      grün        clothing+vehicle+item+opening+device
old        alt         any+place
blue       blau        clothing+vehicle+item+opening+device
beautiful  schön       any+place
yellow     gelb        clothing+vehicle+item+opening+food
young      jung        living
white      weiß        animal+clothing+vehicle+item+opening
tired      müde        living
black      schwarz     animal+clothing+vehicle+item+opening
hungry     hungrig     living
new        neu         text+clothing+device+vehicle+item+place
strong     stark       living
expensive  teuer       goods+drink
weak       schwach     living
cheap      billig      goods+drink
clever     klug        living
heavy      schwer      device+opening+item
brave      mutig       living
clean      sauber      clothing+vehicle+opening+place
lazy       faul        living
dirty      schmutzig   animal+clothing+vehicle+opening+place
sick       krank       living
cold       kalt        drink+food
famous     berühmt     person+place+text
warm       warm        drink+food
friendly   freundlich  living
fresh      frisch      drink+food
rich       reich       person
long       lang        text
sad        traurig     person+text
boring     langweilig  text+place
happy      glücklich   person
dangerous  gefährlich  animal+place+vehicle
"""
COLORS = ("red", "green", "blue", "yellow", "white", "black")


@dataclass(frozen=True)
class Adjective:
    english: str
    german: str
    kinds: tuple[str, ...]

    @property
    def stem(self) -> str:
        """The German form before an ending: müd(e), teu(e)r."""
        if self.german.endswith("euer"):
            return self.german.removesuffix("er") + "r"
        return self.german.removesuffix("e")


ADJECTIVES = {
    english: Adjective(english, german, kinds_of(kinds))
    for english, german, kinds in parse_table(ADJECTIVE_TABLE)
}

# Verbs

VERB_TABLE = """
# english    past          german          er/sie/es     perfect             subject         objects
sleep        slept         schlafen        schläft       hat geschlafen      living          -
laugh        laughed       lachen          lacht         hat gelacht         person          -
cry          cried         weinen          weint         hat geweint         person          -
dance        danced        tanzen          tanzt         hat getanzt         person          -
sing         sang          singen          singt         hat gesungen        person          -
work         worked        arbeiten        arbeitet      hat gearbeitet      person          -
swim         swam          schwimmen       schwimmt      ist geschwommen     living          -
disappear    disappeared   verschwinden    verschwindet  ist verschwunden    any             -
arrive       arrived       an|kommen       kommt         ist angekommen      person+vehicle  -
get up       got up        auf|stehen      steht         ist aufgestanden    person          -
wake up      woke up       auf|wachen      wacht         ist aufgewacht      living          -
fall asleep  fell asleep   ein|schlafen    schläft       ist eingeschlafen   living          -
go           went          gehen           geht          ist gegangen        person          -
run          ran           rennen          rennt         ist gerannt         living          -
jump         jumped        springen        springt       ist gesprungen      living          -
see          saw           sehen           sieht         hat gesehen         living          acc:any
find         found         finden          findet        hat gefunden        living          acc:any
look for     looked for    suchen          sucht         hat gesucht         living          acc:any
look at      looked at     an|sehen        sieht         hat angesehen       person          acc:any
draw         drew          zeichnen        zeichnet      hat gezeichnet      person          acc:any
forget       forgot        vergessen       vergisst      hat vergessen       person          acc:person+small
love         loved         lieben          liebt         hat geliebt         person          acc:living+text
know         knew          kennen          kennt         hat gekannt         person          acc:person+text
hear         heard         hören           hört          hat gehört          living          acc:living
visit        visited       besuchen        besucht       hat besucht         person          acc:person
greet        greeted       begrüßen        begrüßt       hat begrüßt         person          acc:person
invite       invited       ein|laden       lädt          hat eingeladen      person          acc:person
phone        phoned        an|rufen        ruft          hat angerufen       person          acc:person
feed         fed           füttern         füttert       hat gefüttert       person          acc:animal
catch        caught        fangen          fängt         hat gefangen        living          acc:animal
eat          ate           essen           isst          hat gegessen        person          acc:food
drink        drank         trinken         trinkt        hat getrunken       person          acc:drink
order        ordered       bestellen       bestellt      hat bestellt        person          acc:food+drink+small
read         read          lesen           liest         hat gelesen         person          acc:text
write        wrote         schreiben       schreibt      hat geschrieben     person          acc:text
buy          bought        kaufen          kauft         hat gekauft         person          acc:goods+animal+drink
sell         sold          verkaufen       verkauft      hat verkauft        person          acc:goods+animal+drink
need         needed        brauchen        braucht       hat gebraucht       person          acc:goods+drink
lose         lost          verlieren       verliert      hat verloren        person          acc:small
steal        stole         stehlen         stiehlt       hat gestohlen       person          acc:goods+animal
hide         hid           verstecken      versteckt     hat versteckt       person          acc:small+food
wash         washed        waschen         wäscht        hat gewaschen       person          acc:clothing+animal+food
repair       repaired      reparieren      repariert     hat repariert       person          acc:device+vehicle+opening
open         opened        auf|machen      macht         hat aufgemacht      person          acc:opening
close        closed        zu|machen       macht         hat zugemacht       person          acc:opening
switch on    switched on   ein|schalten    schaltet      hat eingeschaltet   person          acc:device
switch off   switched off  aus|schalten    schaltet      hat ausgeschaltet   person          acc:device
put on       put on        an|ziehen       zieht         hat angezogen       person          acc:clothing
take off     took off      aus|ziehen      zieht         hat ausgezogen      person          acc:clothing
throw away   threw away    weg|werfen      wirft         hat weggeworfen     person          acc:small+food
bring back   brought back  zurück|bringen  bringt        hat zurückgebracht  person          acc:small+device
help         helped        helfen          hilft         hat geholfen        person          dat:living
thank        thanked       danken          dankt         hat gedankt         person          dat:person
trust        trusted       vertrauen       vertraut      hat vertraut        person          dat:living
follow       followed      folgen          folgt         ist gefolgt         living          dat:living
answer       answered      antworten       antwortet     hat geantwortet     person          dat:person
listen to    listened to   zu|hören        hört          hat zugehört        person          dat:person
give         gave          geben           gibt          hat gegeben         person          dat:person acc:small+food
show         showed        zeigen          zeigt         hat gezeigt         person          dat:person acc:small+animal
send         sent          schicken        schickt       hat geschickt       person          dat:person acc:small
lend         lent          leihen          leiht         hat geliehen        person          dat:person acc:small
wait         waited        warten          wartet        hat gewartet        living          for=auf+acc:living+vehicle
think        thought       denken          denkt         hat gedacht         person          of=an+acc:living+text
play         played        spielen         spielt        hat gespielt        living          with=mit+dat:living
talk         talked        sprechen        spricht       hat gesprochen      person          to=mit+dat:person
"""

SAYING_TABLE = """
know     knew      wissen   weiß    hat gewusst   person  -
say      said      sagen    sagt    hat gesagt    person  -
believe  believed  glauben  glaubt  hat geglaubt  person  -
hope     hoped     hoffen   hofft   hat gehofft   person  -
"""
# Verbs that are used without a modal verb and without a place.
STATIVE_VERBS = ("know", "love", "need", "trust")
# Verbs that are used with a direction: into the garden.
MOTION_VERBS = ("go", "run", "jump")
# With these verbs, "where" could be "wo" or "wohin", and a place could be a direction.
PLACE_OR_DIRECTION_VERBS = (
    "swim",
    "disappear",
    "bring back",
    "throw away",
    "follow",
    "invite",
    "look at",
    "send",
)


@dataclass(frozen=True)
class Slot:
    """An object that a verb takes."""

    english: str  # a preposition, or empty
    german: str  # a preposition, or empty
    case: str
    kinds: tuple[str, ...]  # of nouns that make sense


@dataclass(frozen=True)
class Verb:
    english: str
    past: str
    german: str  # the infinitive without its separable prefix
    prefix: str
    third: str  # the third person singular without the prefix
    auxiliary: str  # of the perfect: hat or ist
    participle: str
    subjects: tuple[str, ...]  # kinds of nouns
    slots: tuple[Slot, ...]

    @property
    def infinitive(self) -> str:
        return self.prefix + self.german

    def english_present(self, person: str) -> str:
        if person != "3s":
            return self.english
        head, *rest = self.english.split()
        if re.search(r"[^aeiou]y$", head):
            head = head[:-1] + "ies"
        elif re.search(r"(s|sh|ch|x|o)$", head):
            head += "es"
        else:
            head += "s"
        return " ".join([head, *rest])

    def german_present(self, person: str) -> str:
        """Return the German form, without the prefix."""
        if person == "3s":
            return self.third
        if person == "pl":
            return self.german
        if self.german == "wissen":
            return "weiß"
        if self.german.endswith("en"):
            return self.german[:-1]  # sehe
        return self.german[:-1] + "e"  # füttere


def read_slot(text: str) -> Slot:
    """Return the object described by text such as `acc:food` or `for=auf+acc:living`."""
    left, names = text.split(":")
    prepositions, _, case = left.rpartition("+")
    english, _, german = prepositions.partition("=")
    return Slot(english, german, case, kinds_of(names))


def read_verb(
    english: str, past: str, german: str, third: str, perfect: str, subjects: str, objects: str
) -> Verb:
    """Return the verb of a row of VERB_TABLE."""
    prefix, _, infinitive = german.rpartition("|")
    auxiliary, participle = perfect.split()
    return Verb(
        english=english,
        past=past,
        german=infinitive,
        prefix=prefix,
        third=third,
        auxiliary=auxiliary,
        participle=participle,
        subjects=kinds_of(subjects),
        slots=tuple(read_slot(text) for text in objects.split()),
    )


VERBS = {row[0]: read_verb(*row) for row in parse_table(VERB_TABLE)}
SAYING_VERBS = {row[0]: read_verb(*row) for row in parse_table(SAYING_TABLE)}  # with a that-clause
BE = read_verb("be", "", "sein", "ist", "ist gewesen", "all", "")

# Forms of the auxiliary verbs by person.

HABEN = {"1s": "habe", "3s": "hat", "pl": "haben"}
SEIN = {"1s": "bin", "3s": "ist", "pl": "sind"}
WAR = {"1s": "war", "3s": "war", "pl": "waren"}
AM = {"1s": "am", "3s": "is", "pl": "are"}
WAS = {"1s": "was", "3s": "was", "pl": "were"}


@dataclass(frozen=True)
class Modal:
    rest: str  # the words after the modal verb in English: like to
    german: dict[str, str]  # by person


MODALS = {
    row[0]: Modal(row[1], dict(zip(("1s", "3s", "pl"), row[2:], strict=True)))
    for row in parse_table(
        """
# english   rest      ich       er        wir
can         -         kann      kann      können
must        -         muss      muss      müssen
should      -         sollte    sollte    sollten
will        -         werde     wird      werden
would       like to   möchte    möchte    möchten
"""
    )
}

# Small words


@dataclass(frozen=True)
class Determiner:
    english: str
    plural: str
    german: str  # without ending
    ending: str  # declension of the determiner: der, strong, ein or none
    adjective: str  # declension of an adjective after it: weak, mixed or strong
    definite: bool


DETERMINERS = {
    english: Determiner(english, plural, german, ending, adjective, definite == "definite")
    for english, plural, german, ending, adjective, definite in parse_table(
        """
# english   plural     german   ending   adjective   definite?
the         the        d        der      weak        definite
this        these      dies     strong   weak        definite
my          my         mein     ein      mixed       definite
our         our        unser    ein      mixed       definite
his         his        sein     ein      mixed       definite
her         her        ihr      ein      mixed       definite
their       their      ihr      ein      mixed       definite
a           -          ein      ein      mixed       -
no          no         kein     ein      mixed       -
every       -          jed      strong   weak        -
many        many       viel     strong   strong      -
which       which      welch    strong   weak        -
how|many    how|many   wie|viel  strong  strong      -
"""
    )
}
BARE = Determiner("", "", "", "none", "strong", definite=False)  # no article
POSSESSIVES = ("my", "our", "his", "her", "their")

PRONOUNS = {
    row[0]: row
    for row in parse_table(
        """
# subject   object   nom   acc    dat     person
I           me       ich   mich   mir     1s
he          him      er    ihn    ihm     3s
she         her      sie   sie    ihr     3s
we          us       wir   uns    uns     pl
they        them     sie   sie    ihnen   pl
who         whom     wer   wen    wem     3s
what        what     was   was    -       3s
"""
    )
}

TIMES = parse_table(
    """
# english (| separates aligned parts) german        tenses                can be with not
today                                 heute         present past modal    yes
now                                   jetzt         present modal         yes
yesterday                             gestern       past                  yes
tomorrow                              morgen        modal                 yes
on|Monday                             am|Montag     present past modal    yes
on|Friday                             am|Freitag    present past modal    yes
on|Sunday                             am|Sonntag    present past modal    yes
in the|evening                        am|Abend      present past modal    yes
in the|morning                        am|Morgen     present past modal    yes
in|summer                             im|Sommer     present past modal    yes
in|winter                             im|Winter     present past modal    yes
sometimes                             manchmal      present past          -
every|day                             jeden|Tag     present past          -
at|HOUR|o'clock                       um|HOUR|Uhr   present past modal    -
"""
)

PLACES = parse_table(
    """
# english      german  case  where
in             in      dat   garden house kitchen forest city village castle school church tower museum bed
on             auf     dat   table bed bridge mountain chair ship
under          unter   dat   table bed bridge tree chair
behind         hinter  dat   house castle school church tower museum tree door
in front of    vor     dat   house castle school church tower museum door window
next to        neben   dat   house castle school church tower museum tree table bed
"""
)
DIRECTIONS = parse_table(
    """
into           in      acc   garden house kitchen forest city village castle school church tower museum
onto           auf     acc   bridge mountain table bed chair ship
"""
)
CONTRACTIONS = {("in", "dem"): "im", ("in", "das"): "ins"}


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = words(
    """
Anna Paul Emma Felix Lena Max Mia Jonas Clara Tim Laura Jan Nora Oskar Julia David Ida Simon Eva
Martin Lisa Daniel Hanna Robert Maria Peter Sarah Leo Greta Anton Marta Otto Rosa Karl Ella Tom
Frida Erik Sofia Viktor Vera Hugo Helena Bruno Olga Adam Irma Kurt Tilda Ralf Wanda Gustav Edith
Norman Amelie Konrad Zoe Hector Pia Roland Judith Valentin Carla Benno Ronja Gregor Dora Fabian
Selma Jakob Lydia Quentin Yara Wilma Rufus Thea Magnus Corinna Basil Philippa Alma Boris Celia
Dario Elsa Ferdinand Gerda Henrik Inga Jasper Klara Lorenz Mona Nils Ophelia Pavel Ramona Stella
Theo Ulla Veit Wendelin Xenia Yvonne Zacharias Astrid Bela Cosima Detlef Elvira Flora Gitta
Holger Ilona Joachim Kira Lothar Malte Natalie Omar Paula Rita Sven Tamara Udo Verena Walter
Adele Bodo Cleo Dirk Enno Fanny Gero Heidi Igor Jette Kuno Luisa Mirko Nele Oda Piet Renate
Silke Till Ute Vito Winfried Zita Armin Britta Caspar Dana Egon Franka
"""
)
NEW_NAMES = words("Nina Tobias Linda Marek Salome Arno Katja Emil")  # only in the test set

ENGLISH_NUMBERS = words(
    """
two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen
"""
)
GERMAN_NUMBERS = words(
    """
zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn
siebzehn achtzehn neunzehn
"""
)
ENGLISH_TENS = words("twenty thirty forty fifty sixty seventy eighty ninety")
GERMAN_TENS = words("zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")


def number_words(number: int) -> tuple[str, str]:
    """Return a number from 2 to 99 in English and German: twenty-one, einundzwanzig."""
    if number < 20:
        return ENGLISH_NUMBERS[number - 2], GERMAN_NUMBERS[number - 2]
    tens, ones = divmod(number, 10)
    english_tens = ENGLISH_TENS[tens - 2]
    german_tens = GERMAN_TENS[tens - 2]
    if ones == 0:
        return english_tens, german_tens
    if ones == 1:
        return f"{english_tens}-one", f"einund{german_tens}"
    english_ones, german_ones = number_words(ones)
    return f"{english_tens}-{english_ones}", f"{german_ones}und{german_tens}"
