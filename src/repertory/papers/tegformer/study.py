"""How the claims are tested.

repertory run tegformer                                  # essays of a small grammar, a GPT-2 trained on the spot
repertory run tegformer --scale paper --data zhihu/ --set gpt2=gpt2-chinese-cluecorpussmall/
                                                         # as published (no figure is known to us); essay: the other set
repertory train tegformer --data my_essays/ --set gpt2=FOLDER --out writer/
repertory train tegformer --data my_essays/ --set gpt2= --out writer/    # without weights: a GPT-2 of your texts
repertory predict writer/ "bread soup sugar"             # writes three essays; --set decoding=beam, samples=1, …
"""

from __future__ import annotations

import functools
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.files import write_text
from repertory.core.problem import Problem, require
from repertory.core.settings import real_data
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.timing import medians, race
from repertory.core.training import fit, loader
from repertory.data import essays
from repertory.data.arrays import read_lines
from repertory.data.essays import MARK, EssayFolder, Essays
from repertory.nn.encoders import EXTRA
from repertory.papers.tegformer import mining
from repertory.papers.tegformer.metrics import (
    Novelty,
    TopicJudge,
    Trigrams,
    bleu2,
    coverage,
    covered,
    distinct,
    units,
)
from repertory.papers.tegformer.mining import CHINESE, Knowledge, Rules
from repertory.papers.tegformer.pictures import pictures
from repertory.papers.tegformer.race import Recomputing, race_inputs
from repertory.papers.tegformer.settings import ARMS, TegFormerConfig, TegFormerDesign
from repertory.papers.tegformer.weights import UNUSED, arguments_of, to_ours
from repertory.papers.tegformer.writer import (
    Author,
    EssayRows,
    PromptedWriter,
    TopicWriter,
    cached_states,
    essay_loss,
    essay_losses,
)
from repertory.tasks.classification import relative_name
from repertory.tasks.language import (
    Decoding,
    LanguageModel,
    collate_rows,
    decode,
    load_tokenizer,
    packed,
    small_gpt2,
    special_ids,
    token_losses,
    tokenizer_from,
    train_language_model,
    word_tokenizer,
)
from repertory.tasks.settings import fitted

PER_CENT: dict[str, Any] = {"unit": "%", "better": "higher", "decimals": 1}
ADAM_EPS = 1e-9
PROMPT_ROOM = 32
"""Positions of a small GPT-2 beyond those of an essay, for the topics of a prompt."""
WRITTEN_TOGETHER = 64
RACE_TEXTS, RACE_TOKENS = 4, 150


@dataclass(frozen=True)
class EssayData:
    """Essays of one seed, and what belongs to them.

    Attributes:
        train, dev, test: essays; no dev where nothing needs it.
        topics: the dictionary.
        knowledge: extension words.
        general: texts without topics.
    """

    train: Essays
    dev: Essays | None
    test: Essays
    topics: tuple[str, ...]
    knowledge: Knowledge
    general: tuple[str, ...]


class TegFormerStudy(TegFormerDesign, Study[TegFormerConfig, EssayData, Author]):
    """Train writers of essays, let them write on the topics of the test essays, and measure what they write."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "nll": Metric("negative log-likelihood a token", "每词元负对数似然", unit="nat", better="lower", decimals=3),
        "coverage": Metric("given topics that occur in the essay", "文中出现的给定主题词占比", **PER_CENT),
        "consistency": Metric(
            "given topics among a classifier's best five", "分类器前五中的给定主题词占比", **PER_CENT
        ),
        "bleu": Metric("BLEU-2", "BLEU-2", **PER_CENT),
        "dist1": Metric("Dist-1", "Dist-1", **PER_CENT),
        "dist2": Metric("Dist-2", "Dist-2", **PER_CENT),
        "novelty": Metric("novelty against training essays", "相对训练文章的新颖度", **PER_CENT),
        "perplexity_trigram": Metric(
            "perplexity of essays under a trigram model", "三元模型下文章的困惑度", better="lower", decimals=2
        ),
        "perplexity_gpt2": Metric(
            "perplexity of essays under the frozen GPT-2", "冻结的 GPT-2 下文章的困惑度", better="lower", decimals=2,
            needs="a GPT-2",
        ),
        "tokens": Metric("words and signs an essay", "每篇文章的词与符号数", decimals=1),
        "extension_words": Metric("extension words", "扩展词数", decimals=0),
        "topics_extended": Metric("topics with extension words", "有扩展词的主题占比", unit="%", decimals=1),
        "cache_speed": Metric(
            "speed of decoding with cache over without", "带缓存解码相对无缓存的速度", unit="×", better="higher",
            decimals=1,
        ),
    }  # fmt: skip
    sample_name = "generated essays"
    sample_fields = ("sample_train", "sample_dev", "sample_test", "sample_general")
    layout = essays.LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Essays of a small grammar in the format of Zhihu, and texts without topics."""
        c = self.config
        essays.write_essays(folder, c.sample_train, c.sample_dev, c.sample_test, c.sample_general)

    def read(self, folder: Path) -> EssayData:
        """Essays, split for this seed where there are no files of parts; extension words are read or mined.

        Raises:
            Problem: no essays, a damaged line, or relations beyond the table.
        """
        train = essays.find_train(folder)
        if train is None:
            raise self.missing(folder)
        found = essays.read_folder(folder, train)
        train, dev, test = self._parts(found)
        return EssayData(train, dev, test, found.topics, self._knowledge(found, train, folder), found.general)

    def _parts(self, found: EssayFolder) -> tuple[Essays, Essays | None, Essays]:
        """Parts of this seed."""
        c, rng = self.config, self.session.rng("split", "essays")
        train, dev, test = found.train, found.dev, found.test
        if c.resplit and test is not None:
            whole = joined([part for part in (train, dev, test) if part is not None])
            order = rng.permutation(len(whole)).tolist()
            ends = [len(train), len(train) + (0 if dev is None else len(dev))]
            train, test = whole.subset(order[: ends[0]]), whole.subset(order[ends[1] :])
            dev = whole.subset(order[ends[0] : ends[1]]) if dev is not None else None
        if test is None:
            train, test = self._drawn(train, rng)
        if dev is None and c.keep_best:
            train, dev = self._drawn(train, rng)
        if c.train_essays and c.train_essays < len(train):
            train = train.subset(sorted(rng.permutation(len(train))[: c.train_essays].tolist()))
        return train, dev, test

    def _drawn(self, whole: Essays, rng: np.random.Generator) -> tuple[Essays, Essays]:
        """The others, and a share held out."""
        count = max(1, round(self.config.held_out * len(whole)))
        if count >= len(whole):
            raise Problem(f"{len(whole)} essays cannot be split", whole.path, "give more essays")
        order = rng.permutation(len(whole))
        return whole.subset(sorted(order[count:].tolist())), whole.subset(sorted(order[:count].tolist()))

    def _knowledge(self, found: EssayFolder, train: Essays, folder: Path) -> Knowledge:
        """Extension words from the folder, or mined from the training essays."""
        c = self.config
        if found.relations is not None:
            size = c.extension_words or 1 + max((number for row in found.relations for number in row), default=-1)
            remedy = "--set extension_words=0 makes the table as large as needed"
            check_relations(found.relations, size, folder / "GNN" / "relations.json", remedy)
            return Knowledge(tuple(f"word {k}" for k in range(size)), found.relations)
        mined = train.subset(range(min(c.mined_essays or len(train), len(train))))
        frequency = found.frequency or Counter(word for text in train.texts for word in mining.words_of(text))
        rules = Rules(topics=c.least_topics)
        chinese = any(CHINESE.search(text) for text in mined.texts[:100])
        keywords = mining.jieba_keywords(rules.keywords) if self._with_jieba(chinese) else None
        if chinese and keywords is None and not any(" " in text for text in mined.texts[:100]):
            warnings.warn(
                f"{train.path}: Chinese text without spaces between words has no words for our TextRank; install jieba "
                "(repertory[chinese]), or segment the text",
                stacklevel=2,
            )
        pairs = zip(mined.texts, mined.topics, strict=True)
        steps = self.session.progress(pairs, "mine extension words", total=len(mined))
        return mining.mine(steps, found.topics, found.stopwords, frequency, rules, keywords)

    def _with_jieba(self, chinese: bool) -> bool:
        if self.config.textrank == "auto":
            return chinese and mining.has_jieba()
        return self.config.textrank == "jieba"

    # -- the language model ---------------------------------------------------------------------

    def _gpt2(self, data: EssayData) -> LanguageModel | None:
        """The GPT-2 of this run: from a folder, or small and trained on texts; None: without."""
        c = self.config
        if c.gpt2 == "none":
            return None
        if c.gpt2 and not self.session.dry_run:
            return LanguageModel.from_folder(self._folder(c.gpt2), c.tokenizer and str(self._folder(c.tokenizer)))
        return self.session.shared("gpt2", lambda: self._small_gpt2(data))

    def _small_gpt2(self, data: EssayData) -> LanguageModel:
        c = self.config
        tokenizer = self._tokenizer(data)
        words = tokenizer_from(tokenizer)
        sizes = (c.gpt2_width, c.gpt2_layers, c.gpt2_heads, c.max_length + PROMPT_ROOM)
        model = LanguageModel(small_gpt2(words.get_vocab_size(), *sizes), tokenizer)
        _, start, stop = special_ids(words, ("[PAD]", "[CLS]", "[SEP]"))
        texts = list(data.general or data.train.texts)
        ids = [one.ids for one in words.encode_batch(texts, add_special_tokens=False)]
        rows = packed(ids, c.max_length, start, stop)
        recipe = c.model_copy(
            update={
                "epochs": max(1, round(c.gpt2_steps / max(1, len(rows) // c.gpt2_batch))), "lr": c.gpt2_lr,
                "batch_size": c.gpt2_batch, "optimizer": "adamw", "weight_decay": 0.01, "betas": None,
                "schedule": "onecycle", "patience": 0, "warmup_epochs": 0.0, "ema_decay": 0.0,
            }
        )  # fmt: skip
        return train_language_model(self.session, model, rows, recipe, part="gpt2")

    def _tokenizer(self, data: EssayData) -> str:
        """That of the folder, or one of the words of all texts."""
        if self.config.tokenizer and not self.session.dry_run:
            return load_tokenizer(self._folder(self.config.tokenizer))
        return word_tokenizer([*data.train.texts, *data.general, *data.topics], self.config.vocabulary)

    def _folder(self, name: str) -> Path:
        """A folder as it is named, or under $REPERTORY_DATA."""
        folder = Path(name)
        if folder.is_dir():
            return folder
        try:
            return real_data(name)
        except Problem as problem:
            raise Problem(
                f"no folder {name!r} here",
                folder,
                "--set gpt2=FOLDER with config.json, weights and a fast tokenizer, as save_pretrained writes them; "
                "--set gpt2= trains a small GPT-2 on your texts; --set gpt2=none goes with the arms without fusion",
            ) from problem

    # -- training -------------------------------------------------------------------------------

    def train(self, arm: str, data: EssayData) -> Author:
        """Train the arm's network on essays; GPT-2 is shared by all arms, and frozen.

        Raises:
            Problem: an arm that needs GPT-2 without one.
        """
        gpt2 = self._gpt2(data)
        self.session.reseed("weights")
        model: Author = self.build(arm, data, gpt2).to(self.session.fabric.device)
        rows = model.rows(data.train)
        path = self.session.out_dir / f"states-{self.session.fabric.global_rank}.npy"
        try:
            if isinstance(model, TopicWriter) and self._states_fit(model, rows):
                model.eval()
                array = open_memmap(
                    path, "w+", np.float16, (int(rows.starts[-1]), model.network.gpt2.config.hidden_size)
                )
                steps = functools.partial(self.session.progress, label="GPT-2's states")
                rows = cached_states(model, rows, array, steps)
            return self._fitted(arm, model, rows, data)
        finally:
            path.unlink(missing_ok=True)

    def _states_fit(self, model: TopicWriter, rows: EssayRows) -> bool:
        """Whether GPT-2's states are constant, needed, and small enough to be stored in 16 bits."""
        network = model.network
        if not network.reads_gpt2 or network.gpt2_dropout:
            return False
        return 2 * int(rows.starts[-1]) * network.gpt2.config.hidden_size <= self.config.states_mib * 2**20

    def _fitted(self, arm: str, model: Author, rows: EssayRows, data: EssayData) -> Author:
        c = self.config
        dev = data.dev if c.keep_best or c.patience else None

        def groups(module: nn.Module) -> list[dict[str, Any]]:
            trained = [p for p in module.parameters() if p.requires_grad]
            return [{"params": trained, "weight_decay": c.weight_decay, "eps": ADAM_EPS}]

        return fit(
            self.session,
            model,
            rows,
            c.model_copy(update={"lr": c.prompted_lr}) if ARMS[arm].prompted else c,
            functools.partial(essay_loss, padding=model.padding),
            evaluate=None if dev is None else lambda writer: {"nll": self._nll(writer, dev, "dev")[0]},
            monitor="" if dev is None else "nll",
            better="lower",
            collate=model.collate,
            groups=groups,
        )

    def build(self, arm: str, data: EssayData, gpt2: LanguageModel | None) -> Author:
        """The untrained network of an arm, with the run's GPT-2."""
        c, chosen = self.config, ARMS[arm]
        if gpt2 is None and (chosen.prompted or chosen.fusion != "domain"):
            able = [name for name, other in ARMS.items() if other.fusion == "domain" and not other.prompted]
            raise Problem(f"the arm {arm} needs a GPT-2", "--set gpt2=none", f"choose --arm from {', '.join(able)}")
        if gpt2 is not None and chosen.prompted:
            model = PromptedWriter(**gpt2.settings, topics=list(data.topics), max_length=c.max_length)
            for copy in (model.gpt2, model.model):
                copy.load_state_dict(gpt2.state_dict())
            return model
        sizes = {name: getattr(c, name) for name in ("d", "ff", "heads", "encoder_layers", "decoder_layers", "drop")}
        network = {
            **sizes,
            "gpt2": None if gpt2 is None else gpt2.settings["config"],
            "domain": c.domain,
            "extension": chosen.extension,
            "fusion": "sigmoid" if chosen.fusion == "gate" and c.gate == "sigmoid" else chosen.fusion,
            "positions": chosen.positions,
            "gpt2_dropout": c.gpt2_dropout,
        }
        tokenizer = self._tokenizer(data) if gpt2 is None else gpt2.settings["tokenizer"]
        model = TopicWriter(network, tokenizer, list(data.topics), list(data.knowledge.words), c.max_length)
        if gpt2 is not None:
            model.network.gpt2.load_state_dict(gpt2.network.state_dict())
        set_neighbours(model, data.knowledge.relations)
        return model

    def scaled(self, data: EssayData, given: Collection[str]) -> TegFormerConfig:
        """The published recipe fitted to these essays."""
        world = self.session.fabric.world_size
        assert isinstance(self.own, TegFormerConfig)
        return fitted(self.config, self.own, len(data.train), world, self.own_batch, given)

    def preview(self, arm: str, data: EssayData) -> list[str]:
        """Essays, topics, extension words, the network, GPT-2."""
        c, chosen, knowledge = self.config, ARMS[arm], data.knowledge
        texts = f"{'general.txt' if data.general else 'the essays'}: {c.gpt2_steps} steps of {c.gpt2_batch}"
        small = f"a small one, {c.gpt2_layers} layers, {c.gpt2_width} wide, trained on {texts}"
        extended = sum(bool(row) for row in knowledge.relations)
        lines = [
            f"{len(data.train)} essays for training, {len(data.test)} for test; at most {c.max_length} tokens",
            f"{len(data.topics)} topics, {extended} with extension words; {len(knowledge.words)} extension words",
            f"GPT-2: {c.gpt2 or small}",
        ]
        if chosen.prompted:
            return lines
        return [*lines, f"Transformer: {c.encoder_layers} + {c.decoder_layers} layers, {c.d} wide, {c.heads} heads"]

    # -- evaluation -----------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, model: Author, data: EssayData) -> dict[str, float]:
        """Likelihood of the test essays, and what the model writes on their topics; the essays are kept in essays.txt.

        Raises:
            Problem: a test essay has no topic that the model knows.
        """
        c = self.config
        test = essays.with_known_topics(data.test, model.topics)
        nll, losses = self._nll(model, test, "test")
        asked = test.subset(range(min(c.written or len(test), len(test))))
        written = self._write(model, asked.topics)
        asked = asked.subset(range(len(written)))  # a dry run ends early
        texts, references = [units(text) for text in written], [units(text) for text in asked.texts]
        train = [units(text) for text in data.train.texts]
        judge = TopicJudge(train[: c.judged], data.train.topics[: c.judged])
        novelty = Novelty(train, data.train.topics)
        on_topic = coverage(texts, asked.topics)
        consistent = judge.consistency(texts, asked.topics)
        metrics = {
            "nll": nll,
            "coverage": 100 * float(np.mean(on_topic)),
            "consistency": 100 * float(np.mean(consistent)),
            "bleu": 100 * float(np.mean([bleu2(*pair) for pair in zip(texts, references, strict=True)])),
            "dist1": 100 * distinct(texts, 1),
            "dist2": 100 * distinct(texts, 2),
            "novelty": 100 * float(np.mean([novelty(*pair) for pair in zip(texts, asked.topics, strict=True)])),
            "perplexity_trigram": Trigrams(train).perplexity(texts),
            "tokens": float(np.mean([len(text) for text in texts])),
            "extension_words": float(len(data.knowledge.words)),
            "topics_extended": 100 * float(np.mean([bool(row) for row in data.knowledge.relations])),
        }
        if model.judge is not None:
            metrics["perplexity_gpt2"] = self._judged(model, written)
        self.session.keep_outputs({"nll": losses, "coverage": np.array(on_topic), "consistency": np.array(consistent)})
        if self.session.fabric.is_global_zero:
            lines = (f"{text}{MARK}{' '.join(given)}\n" for text, given in zip(written, asked.topics, strict=True))
            write_text(self.session.out_dir / "essays.txt", "".join(lines))
            for name, figure in pictures(model, asked.topics[0], written[0]).items():
                self.session.figure(name, figure)
        return metrics

    def _nll(self, model: Author, part: Essays, label: str) -> tuple[float, np.ndarray]:
        """Mean negative log-likelihood of all tokens, and of the tokens of each essay."""
        batches = loader(self.session, model.rows(part), self.config.batch_size, collate=model.collate, label=label)
        losses, counts = np.array(list(essay_losses(model, batches))).T
        return float(losses.sum() / counts.sum()), losses / counts

    def _write(self, model: Author, topics: Sequence[Sequence[str]]) -> list[str]:
        """An essay for each list of topics."""
        written: list[str] = []
        for start in self.session.progress(range(0, len(topics), WRITTEN_TOGETHER), "write"):
            self.session.reseed("write", start)
            part = topics[start : start + WRITTEN_TOGETHER]
            written += model.write(part, self.decoding(), self.config.most)
        return written

    def decoding(self) -> Decoding:
        """How tokens are chosen."""
        c = self.config
        return Decoding(c.decoding, c.top_k, c.top_p, c.temperature, c.beams, c.length_penalty)

    def _judged(self, model: Author, texts: Sequence[str]) -> float:
        """Perplexity of texts under the frozen GPT-2."""
        rows = [model.ids_of(text) for text in texts]
        parts = (rows[k : k + WRITTEN_TOGETHER] for k in range(0, len(rows), WRITTEN_TOGETHER))
        batches: Iterator[tuple[Tensor, Tensor]] = (self.session.fabric.to_device(collate_rows(part)) for part in parts)
        found = token_losses(lambda ids, mask: model.judge(input_ids=ids, attention_mask=mask.long()).logits, batches)
        losses, counts = np.array(list(found)).T
        return float(np.exp(losses.sum() / counts.sum()))

    @torch.no_grad()
    def measure(self) -> Mapping[str, Measured]:
        """Race of greedy decoding, 4 texts of 150 tokens as published: with cache and without; one thread."""
        rounds = self.config.speed_rounds
        if not rounds:
            return {}
        model, topics, mask = race_inputs(RACE_TEXTS)
        first, greedy = torch.ones(RACE_TEXTS, dtype=torch.long), Decoding("greedy")
        never = model.padding  # it is never written, so no text ends
        times = race(
            {
                "cached": lambda: decode(model.begin(topics, mask), first, never, RACE_TOKENS, greedy),
                "recomputed": lambda: decode(Recomputing(model, topics, mask), first, never, RACE_TOKENS, greedy),
            },
            self.session.progress(range(1 + rounds), "race of decoding"),
        )
        return {"cache_speed": medians(times, "cached", "recomputed")}

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: Author, source: Path) -> Prediction:
        """Write essays: on the topics given as words, on each line of a file of topics, or on those of a data folder.

        Topics that occur in the essay stand in [brackets].

        Raises:
            Problem: no topics there, or none of them is known.
        """
        c = self.config
        requests = read_requests(source)
        known: dict[Request, list[str]] = {}
        problems: dict[Request, str] = {}
        for request in requests:
            try:
                known[request] = model.known(request.topics, request.where)
            except Problem as problem:
                if len(requests) == 1:
                    raise
                problems[request] = problem.what
        if not known:
            raise Problem("none of the lines has a known topic", source, f"topics: {', '.join(model.topics[:8])}, …")
        samples = c.samples if c.decoding in ("top_k", "nucleus") else 1  # the others write the same again
        repeated = [request for request in known for _ in range(samples)]
        written = self._write(model, [known[request] for request in repeated])
        essays_of: dict[Request, list[str]] = {request: [] for request in requests}
        for request, text in zip(repeated, written, strict=False):  # a dry run ends early
            essays_of[request].append(text)
        table: list[dict[str, Any]] = []
        for request in requests:
            row = {"line": request.line, "topics": " ".join(request.topics)}
            for text in essays_of[request]:
                missing = [topic for topic in known[request] if not covered(units(text), units(topic))]
                share = f"{len(known[request]) - len(missing)} of {len(known[request])}"
                answer = {"essay": marked(text, known[request]), "covered": share, "missing": " ".join(missing)}
                table.append({**row, **answer, **({"problem": ""} if problems else {})})
            if request in problems:
                table.append({**row, "essay": "", "covered": "", "missing": "", "problem": problems[request]})
        first = next(iter(known))
        text = f"{len(written)} essays on {len(known)} lists of topics; topics that occur stand in [brackets]"
        if len(known) == 1:
            text = "\n\n".join(row["essay"] for row in table if row["essay"])
        return Prediction(text=text, table=table, figures=pictures(model, known[first], essays_of[first][0]))

    def convert(self, source: Path, variant: str = "") -> TopicWriter:
        """The authors' state dict, with topic_dict.txt, GNN/relations.json and BERT's vocab.txt beside it.

        Args:
            source: pretrain.pkl; `--set tokenizer=FOLDER` names a tokenizer in place of vocab.txt.
            variant: none.

        Raises:
            Problem: a file is missing, or does not go with the weights.
        """
        checkpoint.refuse_variant(variant)
        read = checkpoint.read_weights(source)
        state = {to_ours(name): tensor for name, tensor in read.items() if not UNUSED.search(name)}
        arguments = arguments_of(state, source)
        count = arguments.pop("topics")
        topics = beside(source, "topic_dict.txt", "one topic a line")
        names = [line.strip() for line in read_lines(topics) if line.strip()]
        if len(names) < count:
            raise Problem(f"{len(names)} topics, the table has {count}", topics, "give the file of these weights")
        relations = beside(source, "GNN/relations.json", "extension words of the topics")
        words, vocab = arguments.pop("words"), arguments.pop("vocab")
        tokenizer = self._official_tokenizer(source)
        if tokenizer_from(tokenizer).get_vocab_size() != vocab:
            raise Problem(
                f"the tokenizer does not have the {vocab} tokens of the weights", source, "give its vocab.txt"
            )
        listed = essays.read_relations(relations, len(names))[:count]
        check_relations(listed, words, relations, "give the file of these weights")
        length = min(self.config.max_length, arguments["gpt2"]["n_positions"])
        model = TopicWriter(arguments, tokenizer, names[:count], [f"word {k}" for k in range(words)], length)
        set_neighbours(model, listed)
        checkpoint.fit_weights(model.network, {**state, "neighbours": model.network.neighbours}, source)
        return model.eval()

    def _official_tokenizer(self, source: Path) -> str:
        if self.config.tokenizer:
            return load_tokenizer(self._folder(self.config.tokenizer))
        path = beside(source, "vocab.txt", "BERT's vocabulary")
        words = [line for line in read_lines(path) if line]
        return bert_tokenizer(words)


def bert_tokenizer(words: Sequence[str]) -> str:
    """JSON of BERT's tokenizer with a vocabulary in the order of its numbers."""
    tokenizers = require("tokenizers", EXTRA)
    return tokenizers.BertWordPieceTokenizer({word: k for k, word in enumerate(words)}, lowercase=True).to_str()


def beside(weights: Path, name: str, what: str) -> Path:
    """A file that the weights need.

    Raises:
        Problem: it is not beside them.
    """
    path = weights.parent / name
    if not path.is_file():
        raise Problem(f"{name} is missing beside the weights", path, f"put it there: {what}")
    return path


def check_relations(relations: Sequence[Sequence[int]], size: int, where: Path, remedy: str) -> None:
    """Raise `Problem` for a number of an extension word beyond a table of `size` words."""
    largest = max((number for row in relations for number in row), default=-1)
    if largest >= size:
        raise Problem(f"extension word {largest}, and the table has {size} rows", where, remedy)


def set_neighbours(model: TopicWriter, relations: Sequence[Sequence[int]]) -> None:
    """Tell a model the extension words of each topic."""
    for topic, numbers in enumerate(relations):
        model.network.neighbours[topic, : len(numbers)] = torch.tensor(numbers, dtype=torch.long)


def joined(parts: Sequence[Essays]) -> Essays:
    """Essays of several files."""
    columns = ("texts", "topics", "lines")
    chained = {name: tuple(itertools.chain.from_iterable(getattr(part, name) for part in parts)) for name in columns}
    return replace(parts[0], **chained)


# -- requests -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """Topics to write on.

    Attributes:
        topics: as given.
        line: file and line, or empty.
        where: for messages.
    """

    topics: tuple[str, ...]
    line: str
    where: str


NO_REQUESTS = frozenset({"topic_dict.txt", "stopwords.txt", "frequency.txt", "general.txt", "vocab.txt"})


def read_requests(source: Path) -> list[Request]:
    """Lists of topics: words in place of a path, a file with a list a line, or such files in a folder.

    Topics are separated by spaces or commas; of a line essay</d>topics the topics are taken. Of a data folder the test
    part is asked about, where there is one.

    Raises:
        Problem: nothing there.
    """
    if not source.exists():
        return [Request(split_topics(str(source)), "", str(source))]
    paths = [source]
    if source.is_dir():
        found = sorted(p for p in source.glob("*.txt") if p.name[0] != "." and p.name not in NO_REQUESTS)
        tests = [path for path in found if path.name == "test.txt"]
        paths = tests or [path for path in found if path.name not in essays.TRAIN]
    requests = []
    for path in paths:
        for number, line in enumerate(read_lines(path), start=1):
            topics = split_topics(line.rpartition(MARK)[2])
            if topics:
                place = f"{relative_name(path, source)}:{number}"
                requests.append(Request(topics, place, f"{path}:{number}"))
    if not requests:
        raise Problem("no topics here", source, "give topics in quotes, or a .txt with topics of one essay a line")
    return requests


def split_topics(line: str) -> tuple[str, ...]:
    """Topics of a line.

    Example:
        >>> split_topics("bread, soup  salt")
        ('bread', 'soup', 'salt')
    """
    return tuple(word for word in re.split(r"[\s,，、;；]+", line) if word)


def marked(text: str, topics: Sequence[str]) -> str:
    """A text with the topics that occur in brackets.

    Example:
        >>> marked("salt and saltier soup", ["salt", "soup"])
        '[salt] and saltier [soup]'
    """
    words = [
        rf"\b{re.escape(topic)}\b" if not CHINESE.search(topic) else re.escape(topic)
        for topic in sorted(topics, key=len, reverse=True)
    ]
    return re.sub("|".join(words), lambda found: f"[{found[0]}]", text, flags=re.IGNORECASE)
