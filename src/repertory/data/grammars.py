"""Treebanks of languages that do not exist: one abstract grammar, eight settings of its switches, own lexicons.

Written in the layout of Universal Dependencies, with the switches as features of WALS beside them. Lexicons share
punctuation, numerals and a few stems, equally many for every pair of languages, so that lexical overlap says nothing
about syntax.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from repertory.data.conllu import RELATIONS, UPOS, Sentence, annotated, plain_sentence, write_conllu
from repertory.data.wals import write_wals

SWITCHES = {
    "82A Order of Subject and Verb": ("SV", "VS"),
    "83A Order of Object and Verb": ("OV", "VO"),
    "85A Order of Adposition and Noun Phrase": ("Postpositions", "Prepositions"),
    "86A Order of Genitive and Noun": ("Genitive-Noun", "Noun-Genitive"),
    "87A Order of Adjective and Noun": ("Adjective-Noun", "Noun-Adjective"),
    "90A Order of Relative Clause and Noun": ("Noun-Relative clause", "Relative clause-Noun"),
    "37A Definite Articles": ("Definite word distinct from demonstrative", "No definite or indefinite article"),
    "51A Position of Case Affixes": ("Case suffixes", "No case affixes"),
    "102A Verbal Person Marking": ("No person marking", "Only the A argument"),
}
"""Feature of WALS -> the two values that the grammar knows."""
GRAMMARS = {
    "syn1": "SV VO prep NG AN NR article - -",
    "syn2": "SV VO prep NG NA NR article - agreement",
    "syn3": "SV OV post GN AN RN - case agreement",
    "syn4": "SV OV post GN AN RN - case -",
    "syn5": "VS VO prep NG NA NR article - agreement",
    "syn6": "SV VO prep GN AN NR - case agreement",
    "syn7": "SV OV prep NG NA NR - case agreement",
    "syn8": "VS OV post GN NA RN - case -",
}
"""syn1 and syn2, syn3 and syn4 are close, syn8 is far from syn1, the others are mixed."""
STEMS = {"NOUN": 60, "VERB": 40, "ADJ": 25, "ADV": 10, "ADP": 6, "DET": 2, "AUX": 3, "CCONJ": 2, "SCONJ": 2}
SHARED = 0.08
"""Share of the stems of nouns, verbs, adjectives and adverbs that all languages have in common."""
NUMERALS = tuple("23456789")
SHORTEST, LONGEST = 3, 14


@dataclass
class Node:
    """A word with its dependents, in their order."""

    form: str
    upos: str
    relation: str
    before: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)

    def walk(self, head: Node | None = None) -> Iterator[tuple[Node, Node | None]]:
        """Words with their heads, from left to right."""
        for child in self.before:
            yield from child.walk(self)
        yield self, head
        for child in self.after:
            yield from child.walk(self)


@dataclass(frozen=True)
class Language:
    """Switches, words and endings."""

    code: str
    switches: frozenset[str]
    stems: dict[str, list[str]]
    endings: dict[str, str]

    def features(self) -> dict[str, str]:
        """Its values in `SWITCHES`."""
        first = ("SV", "OV", "post", "GN", "AN", "NR", "article", "case")
        chosen = [
            names[0 if switch in self.switches else 1] for switch, names in zip(first, SWITCHES.values(), strict=False)
        ]
        person = list(SWITCHES.values())[-1]["agreement" in self.switches]
        return dict(zip(SWITCHES, [*chosen, person], strict=True))


def write_languages(folder: Path, languages: int = 8, train: int = 1200, dev: int = 150, test: int = 150) -> None:
    """Write treebanks `UD_Syn<k>-Gen` and the three files of WALS.

    Args:
        folder: exists.
        languages: how many of the eight.
        train, dev, test: sentences of each.
    """
    codes = list(GRAMMARS)[:languages]
    lexicons = _lexicons(list(GRAMMARS), random.Random(0))
    spoken = {}
    for k, code in enumerate(codes, start=1):
        stems, endings = lexicons[code]
        language = Language(code, frozenset(GRAMMARS[code].split()), stems, endings)
        rng = random.Random(k)
        sentences = [_sentence(language, rng, number) for number in range(train + dev + test)]
        place = folder / f"UD_Syn{k}-Gen"
        parts = (sentences[:train], sentences[train : train + dev], sentences[train + dev :])
        for part, chosen in zip(("train", "dev", "test"), parts, strict=True):
            write_conllu(place / f"{code}_gen-ud-{part}.conllu", chosen)
        spoken[code] = language.features()
    write_wals(folder, spoken, SWITCHES)


# -- words --------------------------------------------------------------------------------------


def _lexicons(codes: list[str], rng: random.Random) -> dict[str, tuple[dict[str, list[str]], dict[str, str]]]:
    used: set[str] = set()
    open_classes = [upos for upos, count in STEMS.items() if count >= 10]
    common = {upos: _words(round(SHARED * STEMS[upos]), "bdfgklmnprstvz", "aeiou", used, rng) for upos in open_classes}
    found = {}
    for code in codes:
        consonants = "".join(rng.sample("bcdfghjklmnpqrstvwxz", 9))
        vowels = "".join(rng.sample("aeiouy", 4))
        stems = {
            upos: common.get(upos, []) + _words(count - len(common.get(upos, [])), consonants, vowels, used, rng)
            for upos, count in STEMS.items()
        }
        endings = dict(
            zip(("plural", "object", "oblique", "agreement"), _endings(consonants, vowels, rng), strict=True)
        )
        found[code] = stems, endings
    return found


def _words(count: int, consonants: str, vowels: str, used: set[str], rng: random.Random) -> list[str]:
    words: list[str] = []
    while len(words) < count:
        syllables = rng.choice((1, 2, 2))
        word = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables)) + rng.choice(consonants)
        if word not in used:
            used.add(word)
            words.append(word)
    return words


def _endings(consonants: str, vowels: str, rng: random.Random) -> list[str]:
    every = [vowel + consonant for vowel in vowels for consonant in consonants]
    return rng.sample(every, 4)


# -- sentences ----------------------------------------------------------------------------------


def _sentence(language: Language, rng: random.Random, number: int) -> Sentence:
    while True:
        root = _clause(language, rng, "root")
        root.after.append(Node(rng.choice((".", ".", ".", "!", "?")), "PUNCT", "punct"))
        words = list(root.walk())
        if SHORTEST <= len(words) <= LONGEST:
            break
    place = {id(node): k for k, (node, _) in enumerate(words, start=1)}
    plain = plain_sentence([node.form for node, _ in words], f"{language.code}-{number + 1}")
    return annotated(
        plain,
        [0 if head is None else place[id(head)] for _, head in words],
        [RELATIONS.index(node.relation) for node, _ in words],
        [UPOS.index(node.upos) for node, _ in words],
    )


def _clause(language: Language, rng: random.Random, relation: str) -> Node:
    """A verb with its dependents. In a relative clause the subject is the noun outside."""
    on = language.switches
    verb = Node(rng.choice(language.stems["VERB"]), "VERB", relation)
    subject: list[Node] = []
    plural = False
    if relation == "root":
        plural = rng.random() < 0.3
        subject = [_noun(language, rng, "nsubj", "", plural)]
    objects = [_noun(language, rng, "obj", "object", rng.random() < 0.3)] if rng.random() < 0.6 else []
    obliques = [_noun(language, rng, "obl", "oblique", rng.random() < 0.3)] if rng.random() < 0.35 else []
    adverbs = [Node(rng.choice(language.stems["ADV"]), "ADV", "advmod")] if rng.random() < 0.25 else []
    auxiliaries = [Node(rng.choice(language.stems["AUX"]), "AUX", "aux")] if rng.random() < 0.2 else []
    if "agreement" in on and plural:
        verb.form += language.endings["agreement"]
    if "OV" in on:
        verb.before, verb.after = [*obliques, *objects, *adverbs], auxiliaries
    else:
        verb.before, verb.after = [*adverbs, *auxiliaries], [*objects, *obliques]
    if "SV" in on:
        verb.before = subject + verb.before
    else:
        verb.after = subject + verb.after if "VO" in on else verb.after + subject
    return verb


def _noun(language: Language, rng: random.Random, relation: str, role: str, plural: bool, depth: int = 0) -> Node:
    """A noun phrase; obliques and genitives have an adposition."""
    on = language.switches
    noun = Node(rng.choice(language.stems["NOUN"]), "NOUN", relation)
    numeral = rng.random() < 0.1
    if plural or numeral:
        noun.form += language.endings["plural"]
    if "case" in on and role:
        noun.form += language.endings[role]
    near_before: list[Node] = []
    near_after: list[Node] = []
    if rng.random() < 0.3:
        side = near_before if "AN" in on else near_after
        side.append(Node(rng.choice(language.stems["ADJ"]), "ADJ", "amod"))
    if depth == 0 and rng.random() < 0.15:
        genitive = _noun(language, rng, "nmod", "oblique", rng.random() < 0.3, depth=1)
        near_before[:0] = [genitive] if "GN" in on else []
        near_after += [] if "GN" in on else [genitive]
    if numeral:
        near_before.insert(0, Node(rng.choice(NUMERALS), "NUM", "nummod"))
    if "article" in on and rng.random() < 0.6:
        near_before.insert(0, Node(rng.choice(language.stems["DET"]), "DET", "det"))
    if depth == 0 and rng.random() < 0.08:
        clause = _clause(language, rng, "acl")
        mark = Node(rng.choice(language.stems["SCONJ"]), "SCONJ", "mark")
        if "NR" in on:
            clause.before.insert(0, mark)
            near_after.append(clause)
        else:
            clause.after.append(mark)
            near_before.insert(0, clause)
    if depth == 0 and rng.random() < 0.1:
        other = _noun(language, rng, "conj", role, rng.random() < 0.3, depth=1)
        other.before = [child for child in other.before if child.relation != "case"]
        other.after = [child for child in other.after if child.relation != "case"]
        other.before.insert(0, Node(rng.choice(language.stems["CCONJ"]), "CCONJ", "cc"))
        near_after.append(other)
    if role == "oblique":
        adposition = Node(rng.choice(language.stems["ADP"]), "ADP", "case")
        near_before[:0] = [adposition] if "prep" in on else []
        near_after += [] if "prep" in on else [adposition]
    noun.before, noun.after = near_before, near_after
    return noun
