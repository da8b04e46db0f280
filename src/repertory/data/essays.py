r"""Essays with their topics, in the files of MTA-LSTM (Essay, Zhihu) or in a table; and a sample in that format.

    train.txt, zhihu.txt or composition.txt      essay</d>topic topic topic, a line each; words separated by spaces
    dev.txt, test.txt                            the same; a test.txt of topics alone is for prediction
    topic_dict.txt                               a topic a line; its number is that of the line, from 0
    stopwords.txt                                a word a line
    frequency.txt                                word and count
    GNN/relations.json                           {"number of a topic": [numbers of extension words]}
    general.txt                                  texts without topics, for a language model

All but the first are optional. A table (.csv) has the columns text and topics.
"""

from __future__ import annotations

import json
import random
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repertory.core.files import write_text
from repertory.core.problem import Problem, suggest
from repertory.data.arrays import read_lines, read_text
from repertory.data.tables import read_table

LAYOUT = """\
train.txt, zhihu.txt or composition.txt of lines essay</d>topic topic topic, or a .csv with the columns text and topics;
optional beside it: dev.txt and test.txt of the same form, topic_dict.txt, stopwords.txt, frequency.txt,
GNN/relations.json, general.txt (texts without topics)"""
MARK = "</d>"
TRAIN = ("train.txt", "zhihu.txt", "composition.txt", "train.csv")
MOST_TOPICS = 5


@dataclass(frozen=True)
class Essays:
    """Essays of one file."""

    path: Path
    texts: tuple[str, ...]
    topics: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    """Line in the file, from 1."""

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, rows: Iterable[int]) -> Essays:
        """Some of the essays."""
        rows = list(rows)
        chosen = {name: tuple(getattr(self, name)[k] for k in rows) for name in ("texts", "topics", "lines")}
        return replace(self, **chosen)


@dataclass(frozen=True)
class EssayFolder:
    """What a folder holds.

    Attributes:
        train: essays.
        dev, test: None where there is no such file.
        topics: the dictionary.
        stopwords: empty where there is no such file.
        frequency: of words; None where there is no such file.
        relations: extension words of each topic, by number; None where there is no such file.
        general: texts without topics.
    """

    train: Essays
    dev: Essays | None
    test: Essays | None
    topics: tuple[str, ...]
    stopwords: frozenset[str]
    frequency: Counter[str] | None
    relations: tuple[tuple[int, ...], ...] | None
    general: tuple[str, ...]


def find_train(folder: Path) -> Path | None:
    """The file of training essays: `folder` itself, one of the usual names, or the only .csv."""
    if folder.is_file():
        return folder
    found = next((folder / name for name in TRAIN if (folder / name).is_file()), None)
    tables = sorted(path for path in folder.glob("*.csv") if path.name[0] != ".")
    return found or (tables[0] if len(tables) == 1 else None)


def read_folder(folder: Path, train: Path) -> EssayFolder:
    """Essays and what lies beside them.

    Args:
        folder: to look in; a file has nothing beside it.
        train: the file of training essays, see `find_train`.

    Raises:
        Problem: a line of the wrong form, an essay without any known topic, or damaged relations.
    """
    essays = read_essays(train)
    listed = _words(folder / "topic_dict.txt")
    counted = Counter(topic for topics in essays.topics for topic in topics)
    topics = listed or tuple(sorted(counted, key=lambda topic: (-counted[topic], topic)))
    parts: dict[str, Essays | None] = {"dev": None, "test": None}
    for name in parts:
        path = next((p for p in (folder / f"{name}.txt", folder / f"{name}.csv") if p.is_file() and p != train), None)
        if path is not None and path.suffix == ".txt" and MARK not in read_text(path):
            warnings.warn(f"{path} holds topics alone: it is for predict, and the test part is drawn", stacklevel=2)
        elif path is not None:
            parts[name] = with_known_topics(read_essays(path), topics)
    relations = folder / "GNN" / "relations.json"
    return EssayFolder(
        with_known_topics(essays, topics),
        parts["dev"],
        parts["test"],
        topics,
        frozenset(_words(folder / "stopwords.txt")),
        _frequency(folder / "frequency.txt"),
        read_relations(relations, len(topics)) if relations.is_file() else None,
        _words(folder / "general.txt"),
    )


def _words(path: Path) -> tuple[str, ...]:
    """Lines that are not blank; none where there is no such file."""
    if not path.is_file():
        return ()
    return tuple(line.strip() for line in read_lines(path) if line.strip())


def _frequency(path: Path) -> Counter[str] | None:
    if not path.is_file():
        return None
    found: Counter[str] = Counter()
    for number, line in enumerate(read_lines(path), start=1):
        word, _, count = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not word or not count.isdigit():
            raise Problem(f"not a word and its count: {line[:60]!r}", f"{path}:{number}", "write: word count")
        found[word.strip()] += int(count)
    return found


def read_essays(path: Path) -> Essays:
    """Essays and their topics; of more than five topics the first five are kept, with a warning.

    Raises:
        Problem: a line without </d>, without text or topics, or no line at all; names file and line.
    """
    if path.suffix == ".csv":
        table = read_table(path, ["text", "topics"], dtype=str)
        pairs = [(k, str(t), str(w)) for k, (t, w) in enumerate(zip(table["text"], table["topics"], strict=True), 2)]
        missing = table["text"].isna() | table["topics"].isna()
        rows = [(k, "" if gone else text, topics) for (k, text, topics), gone in zip(pairs, missing, strict=True)]
    else:
        rows = []
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            text, mark, topics = line.partition(MARK)
            if not mark:
                raise Problem(f"no {MARK} in this line: {line[:60]!r}", f"{path}:{number}", f"write: essay{MARK}topics")
            rows.append((number, text, topics))
    if not rows:
        raise Problem(f"{path.name} has no essays", path, f"give one a line: essay{MARK}topic topic")
    cut, essays = 0, []
    for number, text, words in rows:
        topics = tuple(dict.fromkeys(words.split()))
        if not text.strip() or not topics:
            raise Problem("an essay without text or topics", f"{path}:{number}", "fill it in, or remove the line")
        cut += len(topics) > MOST_TOPICS
        essays.append((text.strip(), topics[:MOST_TOPICS], number))
    if cut:
        warnings.warn(f"{path}: {cut} essays have more than {MOST_TOPICS} topics; the first are kept", stacklevel=2)
    texts, topics, lines = zip(*essays, strict=True)
    return Essays(path, texts, topics, lines)


def with_known_topics(essays: Essays, known: Sequence[str]) -> Essays:
    """The essays without topics that the dictionary lacks; warns of these, and names the closest ones.

    Raises:
        Problem: an essay has no known topic at all.
    """
    listed = frozenset(known)
    unknown = Counter(topic for topics in essays.topics for topic in topics if topic not in listed)
    if not unknown:
        return essays
    kept = tuple(tuple(topic for topic in topics if topic in listed) for topics in essays.topics)
    for topics, given, line in zip(kept, essays.topics, essays.lines, strict=True):
        if not topics:
            remedy = "add one to topic_dict.txt, or remove the line"
            what = f"none of the topics is known: {', '.join(given)}{suggest(given[0], known)}"
            raise Problem(what, f"{essays.path}:{line}", remedy)
    first = next(iter(unknown))
    warnings.warn(
        f"{essays.path}: {unknown.total()} topics are not in the dictionary and are left out, such as "
        f"{first!r}{suggest(first, known)}",
        stacklevel=3,
    )
    return replace(essays, topics=kept)


def read_relations(path: Path, topics: int) -> tuple[tuple[int, ...], ...]:
    """Extension words of each topic, at most 8, by number.

    Args:
        path: of relations.json.
        topics: in the dictionary.

    Raises:
        Problem: no such JSON, or a topic beyond the dictionary.
    """
    remedy = 'write {"number of a topic": [numbers of words]}'
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, Problem):
            raise
        raise Problem(f"{path.name} is damaged: {error}", path, remedy) from error
    if not isinstance(content, dict):
        raise Problem(f"{path.name} holds no JSON object", path, remedy)
    found: list[tuple[int, ...]] = [()] * topics
    for key, numbers in content.items():
        if not key.isdigit() or not isinstance(numbers, list) or not all(_is_number(n) for n in numbers):
            raise Problem(f"not the words of a topic: {key!r}: {str(numbers)[:60]}", path, remedy)
        if int(key) >= topics:
            raise Problem(f"topic {key}, and the dictionary has {topics}", path, "give the topic_dict.txt of this file")
        found[int(key)] = tuple(numbers[:8])
    return tuple(found)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# -- sample -------------------------------------------------------------------------------------

THEMES = {
    "sea": (
        "sailing fishing salt tide coral",
        "boat sailor harbour wave net island gull anchor captain shore pilot lighthouse",
        "cross follow guard watch reach carry",
        "blue deep stormy distant salty",
    ),
    "farm": (
        "harvest wheat milk honey soil",
        "farmer field barn cow tractor fence orchard bee shepherd meadow plough hen",
        "feed plant gather water mow shelter",
        "green fertile muddy ripe sunny",
    ),
    "school": (
        "homework mathematics reading friendship patience",
        "teacher pupil classroom book lesson desk library question answer playground parent exam",
        "explain study remember praise correct write",
        "clever curious quiet young difficult",
    ),
    "city": (
        "traffic noise shopping rent tourism",
        "street tower bus driver market neighbour bridge shop crowd square visitor tram",
        "cross visit fill repair leave pass",
        "busy crowded bright modern expensive",
    ),
    "music": (
        "rhythm jazz harmony silence applause",
        "singer violin concert drum song audience piano stage melody dancer band choir",
        "play hear repeat record perform tune",
        "loud gentle slow famous sweet",
    ),
    "mountain": (
        "snow hiking altitude fog solitude",
        "climber peak valley path rope cabin glacier guide goat cliff tent ridge",
        "climb reach cross descend follow endure",
        "steep cold high rocky lonely",
    ),
    "kitchen": (
        "bread soup sugar hunger spice",
        "cook oven table knife guest recipe bowl kitchen plate baker spoon dinner",
        "taste prepare serve share burn stir",
        "warm fresh hungry bitter delicious",
    ),
    "health": (
        "sleep medicine exercise stress vaccination",
        "doctor patient hospital nurse runner clinic disease habit treatment heart body family",
        "treat heal examine prevent help strengthen",
        "healthy tired strong careful weak",
    ),
}
"""Theme -> topics (always singular), nouns, verbs, adjectives."""
BORROWED = 3
"""Nouns that a theme takes from the next one."""
DETERMINERS = {False: ("a", "this", "every", "the"), True: ("these", "many", "some", "the")}
OPENINGS = ("in the morning", "every year", "in those days", "for a long time", "at night", "on some days")
LINKS = (", and", ", but", ", because", ". then", ". later", ". however ,", ". so", ". as a result ,")
PREPOSITIONS = ("near", "without", "beside", "with", "before")
GENERAL = ("people", "nobody knows why", "it is often said that", "as everybody knows ,", "once upon a time")
STOPWORDS = """
a the this every these many some in on at for of and but because then later however so as result morning year those
days long time night near without beside with before people nobody knows why it is often said that everybody once upon
whenever where is are
""".split()  # noqa: SIM905  a line of words
SHORTEST, LONGEST = 30, 60
MENTION = 0.6
SECOND_THEME = 0.25
RARER = 0.7
"""Weight of a word relative to the one before it in a topic's own order."""


class Writer:
    """Writes essays by a grammar in which words depend on topics, and their endings on number."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        names = list(THEMES)
        self.theme_of: dict[str, str] = {}
        self.words: dict[str, tuple[list[str], list[str], list[str]]] = {}
        """Topic -> nouns, verbs, adjectives of its theme, in an order of its own: the first are the likeliest."""
        for k, name in enumerate(names):
            topics, nouns, verbs, adjectives = (column.split() for column in THEMES[name])
            nouns += THEMES[names[(k + 1) % len(names)]][1].split()[:BORROWED]
            for topic in topics:
                self.theme_of[topic] = name
                own = [list(column) for column in (nouns, verbs, adjectives)]
                for column in own:
                    rng.shuffle(column)
                self.words[topic] = (own[0], own[1], own[2])
        self.topics = list(self.theme_of)

    def choose(self, column: Sequence[str]) -> str:
        """A word, the first ones more often."""
        return self.rng.choices(column, [RARER**k for k in range(len(column))])[0]

    def draw_topics(self) -> list[str]:
        """Two to four, mostly of one theme; in each theme some are rare."""
        theme = self.rng.choice(list(THEMES))
        chosen: list[str] = []
        wanted = self.rng.randint(2, 4)
        while len(chosen) < wanted:
            name = self.rng.choice(list(THEMES)) if chosen and self.rng.random() < SECOND_THEME else theme
            topic = self.choose(THEMES[name][0].split())
            if topic not in chosen:
                chosen.append(topic)
        return chosen

    def phrase(self, topic: str, plural: bool) -> list[str]:
        """Determiner, adjective, noun."""
        nouns, _, adjectives = self.words[topic]
        noun = self.choose(nouns)
        adjective = [self.choose(adjectives)] if self.rng.random() < 0.3 else []
        return [self.rng.choice(DETERMINERS[plural]), *adjective, plural_of(noun) if plural else noun]

    def clause(self, topic: str, mention: bool) -> list[str]:
        """Subject, verb that agrees with it, object, and perhaps a third noun phrase."""
        plural, verb = self.rng.random() < 0.5, self.choose(self.words[topic][1])
        if mention and self.rng.random() < 0.5:
            subject, plural = [topic], False
        else:
            subject = self.phrase(topic, plural)
        item = self.phrase(topic, self.rng.random() < 0.5)
        end = []
        if mention and subject != [topic]:
            end = [self.rng.choice(PREPOSITIONS), topic]
        elif self.rng.random() < 0.15:
            end = [self.rng.choice(PREPOSITIONS), *self.phrase(topic, self.rng.random() < 0.5)]
        return [*subject, verb if plural else third_person(verb), *item, *end]

    def essay(self, topics: Sequence[str]) -> str:
        """Four to six clauses, each on one of the topics; 30 to 60 words and signs."""
        words: list[str] = []
        while not SHORTEST <= len(words) <= LONGEST:
            words = self._clauses(topics)
        return " ".join(words)

    def _clauses(self, topics: Sequence[str]) -> list[str]:
        clauses = []
        for _ in range(self.rng.randint(4, 6)):
            opening = self.rng.choice(OPENINGS).split() if self.rng.random() < 0.3 else []
            clauses.append([*opening, *self.clause(self.rng.choice(topics), self.rng.random() < MENTION)])
        words = list(clauses[0])
        for clause in clauses[1:]:
            words += [*self.rng.choice(LINKS).split(), *clause]
        return [*words, "."]

    def sentence(self) -> str:
        """A sentence of a text without topics."""
        topic = self.rng.choice(self.topics)
        start = self.rng.choice(GENERAL).split() if self.rng.random() < 0.4 else []
        if start == ["people"]:
            verb = self.choose(self.words[topic][1])
            return " ".join([*start, verb, *self.phrase(topic, self.rng.random() < 0.5), "."])
        words = [*start, *self.clause(topic, self.rng.random() < 0.2)]
        if self.rng.random() < 0.4:
            words += [*self.rng.choice(LINKS).split(), *self.clause(topic, self.rng.random() < 0.2)]
        return " ".join([*words, "."])


def plural_of(noun: str) -> str:
    """Regular English plural.

    Example:
        >>> [plural_of(noun) for noun in ("boat", "bus", "family", "valley", "knife")]
        ['boats', 'buses', 'families', 'valleys', 'knives']
    """
    if noun.endswith("fe"):
        return f"{noun[:-2]}ves"
    return third_person(noun)


def third_person(verb: str) -> str:
    """Regular English verb with he or she.

    Example:
        >>> [third_person(verb) for verb in ("play", "carry", "reach", "cross")]
        ['plays', 'carries', 'reaches', 'crosses']
    """
    if verb.endswith("y") and verb[-2] not in "aeou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "x", "ch", "sh")) else f"{verb}s"


def write_essays(
    folder: Path, train: int = 2400, dev: int = 200, test: int = 200, general: int = 6000, seed: int = 0
) -> None:
    """Essays of a small grammar: 40 topics in 8 themes, and texts without topics.

    Args:
        folder: to write to.
        train, dev, test: essays.
        general: sentences without topics.
        seed: of the generator.
    """
    writer = Writer(random.Random(seed))
    for name, count in (("train", train), ("dev", dev), ("test", test)):
        drawn = [writer.draw_topics() for _ in range(count)]
        lines = [f"{writer.essay(topics)}{MARK}{' '.join(topics)}\n" for topics in drawn]
        write_text(folder / f"{name}.txt", "".join(lines))
    write_text(folder / "topic_dict.txt", "".join(f"{topic}\n" for topic in writer.topics))
    write_text(folder / "stopwords.txt", "".join(f"{word}\n" for word in dict.fromkeys(STOPWORDS)))
    write_text(folder / "general.txt", "".join(f"{writer.sentence()}\n" for _ in range(general)))
