"""How the claims are tested.

repertory run mbert_syntax                                      # eight languages that do not exist, a small BERT
REPERTORY_DATA=… repertory run mbert_syntax --scale desk --arms random,shuffled,pretrained
                                                                # 18 real treebanks, a real multilingual encoder
repertory run mbert_syntax --scale paper --data ud-treebanks-v2.8/ --set encoder=bert-base-multilingual-cased/
                                                                # as published: 24 languages (no figure is known to us)
repertory train mbert_syntax --data UD_English-EWT/ --set encoder=xlm-roberta-base/ --arm finetuned --out parser/
repertory predict parser/ text.txt                              # then: the trees in CoNLL-U
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from repertory.core.files import write_text
from repertory.core.loops import Loop
from repertory.core.problem import Problem, suggest
from repertory.core.settings import real_data
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.timing import medians, race
from repertory.core.training import fit, loader
from repertory.data import conllu, grammars, wals
from repertory.data.arrays import read_lines
from repertory.data.conllu import Sentence, Treebank
from repertory.data.wals import Differences
from repertory.nn.encoders import build_encoder
from repertory.papers.mbert_syntax import pictures
from repertory.papers.mbert_syntax.encoder import (
    Encoded,
    Encoder,
    MaskedLanguageModel,
    Parser,
    train_tokenizer,
)
from repertory.papers.mbert_syntax.model import Parse, attachment_scores
from repertory.papers.mbert_syntax.probes import Arcs, Probe, arcs_of, best_probe, encode_all
from repertory.papers.mbert_syntax.race import distance_matrix_by_pairs, race_clouds, spanning_tree_by_networkx
from repertory.papers.mbert_syntax.settings import ARMS, SyntaxConfig, SyntaxDesign
from repertory.papers.mbert_syntax.transport import Cloud, distance_matrix, make_cloud
from repertory.papers.mbert_syntax.trees import spanning_tree
from repertory.papers.mbert_syntax.typology import Agreement, mantel, regress, spearman, word_order
from repertory.tasks.classification import readable, relative_name, with_problems

PER_CENT: dict[str, Any] = {"unit": "%", "better": "higher", "decimals": 1}
THREE = "three languages or more"
WORDS = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
"""Words and punctuation of raw text."""


@dataclass(frozen=True)
class SyntaxData:
    """Treebanks, and how their languages differ according to linguists or to counts."""

    treebanks: list[Treebank]
    differences: Differences

    @property
    def codes(self) -> list[str]:
        return [treebank.code for treebank in self.treebanks]


@dataclass(frozen=True)
class Geometry:
    """What one encoder gives for the languages.

    Attributes:
        codes: of the languages.
        dev, test: (L, layers), accuracy of the probes, layer 1 first.
        layer: the best on dev.
        clouds: vectors at that layer.
        distances, last: OTDD at that layer and at the last one, (L, L).
        transfer: (L, L), accuracy on language j of the probe of language i.
    """

    codes: list[str]
    dev: NDArray[np.float64]
    test: NDArray[np.float64]
    layer: int
    clouds: list[Cloud]
    distances: NDArray[np.float64]
    last: NDArray[np.float64]
    transfer: NDArray[np.float64]


class SyntaxStudy(SyntaxDesign, Study[SyntaxConfig, SyntaxData, Parser]):
    """Analyse an encoder: probes, distances between languages, transfer; train a parser on it."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "rho_formal": Metric(
            "ρ of OTDD and formal distance", "OTDD 与形式距离的 ρ", better="higher", decimals=3, needs=THREE
        ),
        "r_formal": Metric(
            "Pearson's r of OTDD and formal distance", "OTDD 与形式距离的 Pearson r", better="higher", decimals=3,
            needs=THREE,
        ),
        "p_formal": Metric(
            "Mantel's p of ρ with formal distance", "与形式距离的 ρ 的 Mantel p", decimals=3, needs=THREE
        ),
        "rho_transfer": Metric(
            "ρ of OTDD and zero-shot labelling", "OTDD 与零样本标注的 ρ", better="lower", decimals=3, needs=THREE
        ),
        "r_transfer": Metric(
            "Pearson's r of OTDD and zero-shot labelling", "OTDD 与零样本标注的 Pearson r", better="lower", decimals=3,
            needs=THREE,
        ),
        "p_transfer": Metric(
            "Mantel's p of ρ with zero-shot labelling", "与零样本标注的 ρ 的 Mantel p", decimals=3, needs=THREE
        ),
        "rho_formal_last": Metric(
            "ρ of OTDD and formal distance, last layer", "末层 OTDD 与形式距离的 ρ", better="higher", decimals=3,
            needs=THREE,
        ),
        "rho_las": Metric(
            "ρ of OTDD and zero-shot LAS", "OTDD 与零样本 LAS 的 ρ", better="lower", decimals=3, needs=THREE
        ),
        "r2": Metric(
            "R² of distances predicted from differences", "由差异预测距离的 R²", better="higher", decimals=3,
            needs="five languages or more",
        ),
        "distance": Metric("mean OTDD", "平均 OTDD"),
        "layer": Metric("layer of the best probe on dev", "开发集上探针最佳的层", decimals=0),
        "probe": Metric("accuracy of probes, best layer", "最佳层的探针准确率", **PER_CENT),
        "probe_layer_{x}": Metric("accuracy of probes, layer {x}", "第 {x} 层的探针准确率", **PER_CENT),
        "zero_shot_probe": Metric("accuracy of probes on other languages", "探针在其他语言上的准确率", **PER_CENT),
        "las": Metric("LAS on the parser's language", "解析器自身语言的 LAS", **PER_CENT),
        "uas": Metric("UAS on the parser's language", "解析器自身语言的 UAS", **PER_CENT),
        "las_zero_shot": Metric(
            "LAS on the other languages", "其他语言的 LAS", **PER_CENT, needs="two languages or more"
        ),
        "uas_zero_shot": Metric(
            "UAS on the other languages", "其他语言的 UAS", **PER_CENT, needs="two languages or more"
        ),
        "features": Metric("typological features", "类型学特征数", decimals=0),
        "distance_speed": Metric(
            "speed of the distance matrix over pair by pair", "距离矩阵相对逐对计算的速度", unit="×", better="higher",
            decimals=1,
        ),
        "tree_speed": Metric(
            "speed of spanning trees over networkx", "生成树相对 networkx 的速度", unit="×", better="higher", decimals=1
        ),
    }  # fmt: skip
    sample_name = "generated treebanks"
    sample_fields = ("sample_languages", "sample_train", "sample_dev", "sample_test")
    layout = conllu.LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Treebanks of languages that do not exist, and their switches as features of WALS."""
        c = self.config
        grammars.write_languages(folder, c.sample_languages, c.sample_train, c.sample_dev, c.sample_test)

    def read(self, folder: Path) -> SyntaxData:
        """Read treebanks, draw this seed's training sentences, and find out how the languages differ.

        Raises:
            Problem: no treebanks, a damaged one, an unknown language, or no formal features that all have.
        """
        treebanks = conllu.read_treebanks(folder) if folder.is_dir() else []
        if not treebanks:
            raise self.missing(folder)
        known = [treebank.code for treebank in treebanks]
        wanted = [code for word in self.config.languages.split(",") if (code := word.strip())] or known
        for code in wanted:
            if code not in known:
                raise Problem(
                    f"no treebank of {code!r}{suggest(code, known)}", folder, f"there are: {', '.join(known)}"
                )
        treebanks = [treebank for treebank in treebanks if treebank.code in wanted]
        place = Path(self.config.wals) if self.config.wals else wals.find_wals(folder)
        codes = [treebank.code for treebank in treebanks]
        differences = wals.read_wals(place, codes) if place else word_order(treebanks)
        return SyntaxData([self._drawn(treebank) for treebank in treebanks], differences)

    def _drawn(self, treebank: Treebank) -> Treebank:
        count = self.config.sentences
        if not count or count >= len(treebank.train):
            return treebank
        rows = np.sort(self.session.rng("split", treebank.code).permutation(len(treebank.train))[:count])
        return replace(treebank, train=tuple(treebank.train[row] for row in rows))

    # -- the encoder ----------------------------------------------------------------------------

    def _encoder(self, kind: str, data: SyntaxData) -> Encoder:
        """An encoder that is given, with its weights or with random ones; or a small BERT trained on the sentences."""
        c = self.config
        if c.encoder and not self.session.dry_run:
            trained = Encoder.from_folder(self._folder(), max_length=c.max_length, shuffled=kind == "shuffled")
            if kind == "random":
                trained.backbone.load_state_dict(build_encoder(trained.settings["encoder"]).state_dict())
            return trained
        forms = (form for treebank in data.treebanks for sentence in treebank.train for form in sentence.forms)
        tokenizer = train_tokenizer(forms, c.vocabulary)
        sizes = {
            "model_type": "bert",
            "hidden_size": c.hidden,
            "num_hidden_layers": c.layers,
            "num_attention_heads": c.heads,
            "intermediate_size": 2 * c.hidden,
            "max_position_embeddings": c.max_length,
            "vocab_size": c.vocabulary,
        }
        encoder = Encoder(sizes, tokenizer, c.max_length)
        if kind == "random":
            return encoder
        text = Text(
            encoder, [sentence for treebank in data.treebanks for sentence in treebank.train], kind == "shuffled"
        )
        steps = max(1, len(text) // c.mlm_batch)
        recipe = c.model_copy(
            update={
                "epochs": max(1, round(c.mlm_steps / steps)), "batch_size": c.mlm_batch, "lr": c.mlm_lr, "betas": None,
                "schedule": "onecycle", "weight_decay": 0.01,
            }
        )  # fmt: skip
        model = MaskedLanguageModel(encoder)
        fit(self.session, model, text, recipe, masked_loss, collate=text.collate, part=f"mlm-{kind}")
        return encoder

    def _folder(self) -> Path:
        """The encoder's folder: as it is named, or under $REPERTORY_DATA."""
        folder = Path(self.config.encoder)
        if folder.is_dir():
            return folder
        try:
            return real_data(self.config.encoder)
        except Problem as problem:
            raise Problem(
                f"no encoder {self.config.encoder!r} here",
                folder,
                "--set encoder=FOLDER with config.json, weights and a fast tokenizer, as save_pretrained writes them; "
                "or --set encoder= trains a small BERT on the sentences",
            ) from problem

    # -- the parser -----------------------------------------------------------------------------

    def train(self, arm: str, data: SyntaxData) -> Parser:
        """Train or load the arm's encoder, then a parser on it: its head alone, or all of it in the arm `finetuned`."""
        chosen = ARMS[arm]
        encoder = self.session.shared(f"encoder-{chosen.encoder}", lambda: self._encoder(chosen.encoder, data))
        source = self._source(data)
        codes = data.codes if not self.config.sources else data.codes[: self.config.sources]
        others = [code for code in codes if code != source.code]
        if self.config.sources:
            others = others[: self.config.sources - 1]
        by_code = {treebank.code: treebank for treebank in data.treebanks}
        loop = Loop(self.session, len(others), part="sources", unit="step")
        rows = loop.extra.setdefault("las", [])
        for k in loop:
            model = self._parser(arm, encoder, by_code[others[k]])
            rows.append([score["las"] for score in self._attachment(model, data).values()])
        model = self._parser(arm, encoder, source, others[: len(rows)], data.codes if rows else [])
        for row, values in enumerate(rows):
            model.transfer[row, : len(values)] = torch.tensor(values)
        return model.eval()

    def _source(self, data: SyntaxData) -> Treebank:
        """The language that the returned parser learns."""
        codes = data.codes
        wanted = self.config.source or ("en" if "en" in codes else codes[0])
        if wanted not in codes:
            raise Problem(
                f"no treebank of {wanted!r}{suggest(wanted, codes)}", "source", f"there are: {', '.join(codes)}"
            )
        return data.treebanks[codes.index(wanted)]

    def _parser(
        self, arm: str, encoder: Encoder, source: Treebank, sources: Sequence[str] = (), targets: Sequence[str] = ()
    ) -> Parser:
        c = self.config
        self.session.reseed("parser", source.code)
        head = {"arc_dim": c.arc_dim, "tag_dim": c.tag_dim, "pos_dim": c.pos_dim, "root_fix": c.root_fix}
        model = Parser(encoder.settings, head, source.code, not ARMS[arm].finetuned, list(sources), list(targets))
        model.encoder.load_state_dict(encoder.state_dict())
        train = self._encoded(model.encoder, source.train, f"{source.code} train")
        return fit(
            self.session,
            model,
            Listed(train),
            c,
            parser_loss,
            evaluate=lambda parser: self._scores(parser, source.dev, f"{source.code} dev"),
            monitor="las",
            collate=model.encoder.collate,
            part=f"parser-{source.code}",
        )

    def _encoded(self, encoder: Encoder, sentences: Sequence[Sentence], what: str) -> list[Encoded]:
        usable, dropped = encode_all(encoder, sentences)
        if dropped:
            warnings.warn(
                f"{what}: {dropped} of {len(sentences)} sentences are longer than {encoder.max_length} subwords and "
                "lose a head: left out",
                stacklevel=2,
            )
        return usable

    def _trees(self, model: Parser, encoded: Sequence[Encoded], label: str) -> list[Parse]:
        batches = loader(self.session, Listed(encoded), 32, collate=model.encoder.collate, label=label)
        return [tree for batch in batches for tree in model.parse(batch)]

    def _scores(self, model: Parser, sentences: Sequence[Sentence], what: str) -> dict[str, float]:
        encoded = self._encoded(model.encoder, sentences, what)
        found = self._trees(model, encoded, f"parse {what}")
        return attachment_scores(found, [e.sentence for e in encoded[: len(found)]])  # a dry run ends early

    def _attachment(self, model: Parser, data: SyntaxData) -> dict[str, dict[str, float]]:
        """UAS and LAS on the test part of every language."""
        return {
            treebank.code: self._scores(model, treebank.test, f"{treebank.code} test")
            for treebank in self.session.progress(data.treebanks, "zero-shot")
        }

    def preview(self, arm: str, data: SyntaxData) -> list[str]:
        """The encoder, the language that the parser learns, and what learns."""
        c, source = self.config, self._source(data)
        width = f"{c.layers} layers, {c.hidden} wide, trained on the sentences: {c.mlm_steps} steps of {c.mlm_batch}"
        learns = "encoder and parser learn" if ARMS[arm].finetuned else "the parser's head learns, the encoder stays"
        return [
            f"encoder: {c.encoder or f'a small BERT, {width}'}; at most {c.max_length} subwords",
            f"{len(data.treebanks)} language(s): {', '.join(data.codes)}",
            f"parser of {source.code}: {len(source.train)}, {len(source.dev)}, {len(source.test)} sentences for "
            f"training, dev, test; {learns}",
        ]

    # -- the analysis ---------------------------------------------------------------------------

    def evaluate(self, model: Parser, data: SyntaxData) -> dict[str, float]:
        """Probes, distances and transfer of the model's encoder; attachment scores of the parser.

        Matrices are written as matrices/*.csv of the trial, pictures as figures.
        """
        geometry = self.geometry(model.encoder, data)
        places = [data.codes.index(code) for code in geometry.codes]
        rng = self.session.rng("mantel")
        formal = data.differences.distance[np.ix_(places, places)]
        labelling = (geometry.transfer + geometry.transfer.T) / 2
        agreements = {
            "formal": mantel(geometry.distances, formal, self.config.permutations, rng),
            "transfer": mantel(geometry.distances, labelling, self.config.permutations, rng),
        }
        at_last = mantel(geometry.last, formal, self.config.permutations, rng)
        differences = replace(data.differences, values=data.differences.values[np.ix_(places, places)])
        regression = regress(differences, geometry.distances, self.config.repeats)
        attachment = self._attachment(model, data)

        upper, diagonal = np.triu_indices(len(places), 1), np.eye(len(places), dtype=bool)
        metrics = {
            "layer": float(geometry.layer),
            "probe": float(np.nanmean(geometry.test[:, geometry.layer - 1])),
            "distance": float(geometry.distances[upper].mean()),
            "zero_shot_probe": float(np.nanmean(geometry.transfer[~diagonal])),
            "features": float(len(data.differences.names)),
            **{f"probe_layer_{k}": float(np.nanmean(row)) for k, row in enumerate(geometry.test.T, start=1)},
        }
        for name, agreement in agreements.items():
            if agreement:
                metrics |= {
                    f"rho_{name}": agreement.rho, f"r_{name}": agreement.r, f"p_{name}": agreement.p,
                }  # fmt: skip
        if at_last:
            metrics["rho_formal_last"] = at_last.rho
        if regression:
            metrics["r2"] = regression.r2
        metrics |= self._parser_metrics(model, geometry, attachment)

        matrices = {
            "otdd": geometry.distances,
            "otdd-last": geometry.last,
            "formal": formal,
            "labelling": geometry.transfer,
        }
        self.session.keep_outputs(matrices)
        if self.session.fabric.is_global_zero:
            for name, matrix in matrices.items():
                write_matrix(self.session.out_dir / "matrices" / f"{name}.csv", matrix, geometry.codes)
            scores = np.array([[row["uas"], row["las"]] for row in attachment.values()])
            write_matrix(self.session.out_dir / "matrices" / "parser.csv", scores, list(attachment), ["uas", "las"])
            shown = {
                f"formal distance ({differences.source})": (formal, agreements["formal"]),
                "zero-shot labelling, %": (labelling, agreements["transfer"]),
            }
            for name, figure in self._pictures(geometry, shown).items():
                self.session.figure(name, figure)
            if regression:
                self.session.figure("importance", pictures.importance_picture(regression))
        return metrics

    def geometry(self, encoder: Encoder, data: SyntaxData) -> Geometry:
        """Probes of every layer, and distances between languages at the layer that dev chooses."""
        c, codes, arcs = self.config, [], []
        for treebank in self.session.progress(data.treebanks, "vectors"):
            codes.append(treebank.code)
            arcs.append(
                [
                    self._arcs(encoder, treebank.train, treebank.code, "train", max(c.probe_vectors, c.vectors)),
                    self._arcs(encoder, treebank.dev, treebank.code, "dev", c.probe_vectors // 2),
                    self._arcs(encoder, treebank.test, treebank.code, "test", c.probe_vectors // 2),
                ]
            )
        dev, test = np.zeros((2, len(codes), encoder.depth))
        probes: list[list[Probe]] = []
        for k, (train, held, tested) in enumerate(self.session.progress(arcs, "probes")):
            first = Arcs(train.vectors[:, : c.probe_vectors], train.relations[: c.probe_vectors])
            found = [best_probe(first, held, layer, c.alphas) for layer in range(1, encoder.depth + 1)]
            probes.append([probe for probe, _ in found])
            dev[k] = [score for _, score in found]
            test[k] = [
                probe.accuracy(tested.vectors[layer], tested.relations)
                for layer, (probe, _) in enumerate(found, start=1)
            ]
        layer = int(dev.mean(0).argmax()) + 1
        transfer = np.array(
            [
                [row[layer - 1].accuracy(tested.vectors[layer], tested.relations) for _, _, tested in arcs]
                for row in probes
            ]
        )
        clouds = self._clouds([train for train, _, _ in arcs], layer)
        distances = self._distances(clouds)
        last = distances
        if layer < encoder.depth:
            at_last = self._clouds([train for train, _, _ in arcs], encoder.depth)
            last = self._distances(at_last)
        return Geometry(codes, dev, test, layer, clouds, distances, last, transfer)

    def _arcs(self, encoder: Encoder, sentences: Sequence[Sentence], code: str, part: str, most: int) -> Arcs:
        encoded = self._encoded(encoder, sentences, f"{code} {part}")
        rng = self.session.rng("split", "arcs", code, part)
        return arcs_of(encoder, encoded, most, rng, self.session.fabric.to_device)

    def _clouds(self, arcs: Sequence[Arcs], layer: int) -> list[Cloud]:
        """As many vectors of each language; with `normalise`, of mean norm 1 over all of them."""
        c = self.config
        size = min([c.vectors, *(len(a) for a in arcs)])
        vectors = [a.vectors[layer, :size] for a in arcs]
        scale = torch.cat(vectors).norm(dim=1).mean() if c.normalise else 1.0
        return [
            make_cloud(v / scale, a.relations[:size], c.outer, self.session.generator("split", "outer", k))
            for k, (v, a) in enumerate(zip(vectors, arcs, strict=True))
        ]

    def _distances(self, clouds: Sequence[Cloud]) -> np.ndarray:
        moved = [cloud.to(self.session.fabric.device) for cloud in clouds]
        return distance_matrix(moved, self.config.eps, self.session.progress).double().cpu().numpy()

    def _parser_metrics(
        self, model: Parser, geometry: Geometry, attachment: Mapping[str, Mapping[str, float]]
    ) -> dict[str, float]:
        """Scores on the parser's language and the others; ρ of LAS with OTDD over all (source, target) measured."""
        found: dict[str, float] = {}
        if model.source in attachment:
            found |= {"las": attachment[model.source]["las"], "uas": attachment[model.source]["uas"]}
        others = [scores for code, scores in attachment.items() if code != model.source]
        if others:
            found["las_zero_shot"] = float(np.mean([scores["las"] for scores in others]))
            found["uas_zero_shot"] = float(np.mean([scores["uas"] for scores in others]))
        las = {(model.source, code): scores["las"] for code, scores in attachment.items()}
        for row, source in zip(model.transfer.tolist(), model.sources, strict=True):
            las |= {(source, target): value for target, value in zip(model.targets, row, strict=True)}
        place = {code: k for k, code in enumerate(geometry.codes)}
        pairs = [
            (geometry.distances[place[one], place[other]], value)
            for (one, other), value in las.items()
            if one != other and one in place and other in place and np.isfinite(value)
        ]
        if len(pairs) > 2:
            x, y = np.array(pairs).T
            if np.ptp(x) and np.ptp(y):
                found["rho_las"] = spearman(x, y)
        return found

    def _pictures(
        self, geometry: Geometry, shown: Mapping[str, tuple[NDArray[np.float64], Agreement | None]]
    ) -> dict[str, Figure]:
        figures = {
            "layers": pictures.layers_picture(geometry.dev, geometry.codes, geometry.layer),
            "relations": pictures.relations_picture(geometry.clouds, geometry.codes),
        }
        if len(geometry.codes) > 1:
            figures["distances"] = pictures.distances_picture(geometry.distances, geometry.codes)
            figures["scatter"] = pictures.scatter_picture(geometry.distances, shown, geometry.codes)
        return figures

    def measure(self) -> Mapping[str, Measured]:
        """Races of the distance matrix of 8 languages and of spanning trees of 30 words; one thread."""
        rounds = self.config.speed_rounds
        if not rounds:
            return {}
        clouds = [make_cloud(*language) for language in race_clouds()]
        scores = np.random.default_rng(0).random((20, 31, 31))
        distances = race(
            {"ours": lambda: distance_matrix(clouds), "peer": lambda: distance_matrix_by_pairs(clouds)},
            self.session.progress(range(1 + max(5, rounds // 3)), "race of distances"),
        )
        trees = race(
            {
                "ours": lambda: [spanning_tree(s) for s in scores],
                "peer": lambda: [spanning_tree_by_networkx(s) for s in scores],
            },
            self.session.progress(range(1 + rounds), "race of trees"),
        )
        return {
            "distance_speed": medians(distances, "ours", "peer"),
            "tree_speed": medians(trees, "ours", "peer"),
        }

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: Parser, source: Path) -> Prediction:
        """Parse .conllu or .txt (a sentence a line), or those in a folder; the trees are given as CoNLL-U.

        Of treebanks in a folder the test parts are parsed. Words of raw text are split at spaces and punctuation;
        languages without spaces need CoNLL-U. Heads and relations in a file are replaced, and the parser is scored by
        them; other columns stay.

        Raises:
            Problem: no such file, or none that can be read.
        """
        paths = [source] if source.is_file() else text_files(source)
        if not paths:
            raise Problem("no text here", source, "give .conllu, or .txt of one sentence a line")
        good, problems = readable(paths, lambda k: read_sentences(paths[k]), source, "files")
        table: list[dict[str, Any]] = []
        files: dict[str, Path] = {}
        drawn: list[Sentence] = []
        texts: list[str] = []
        for path in (paths[k] for k in good):
            sentences = read_sentences(path)
            encoded = [model.encoder.encode(sentence) for sentence in sentences]
            fitting = [k for k, e in enumerate(encoded) if e.whole]
            trees = dict(
                zip(
                    fitting,
                    self._trees(model, [encoded[k] for k in fitting], relative_name(path, source)),
                    strict=False,
                )
            )
            parsed = [
                conllu.annotated(sentence, trees[k].heads, trees[k].relations, trees[k].pos) if k in trees else sentence
                for k, sentence in enumerate(sentences)
            ]
            scores = self._scores_of(trees, sentences)
            table.append(
                {"file": relative_name(path, source), "sentences": len(sentences), "parsed": len(trees), **scores}
            )
            name = relative_name(path, source).replace("/", "_").rsplit(".", 1)[0] + "-parsed.conllu"
            files[name] = self.session.out_dir / name
            conllu.write_conllu(files[name], parsed)
            texts.append(conllu.conllu_text(parsed))
            drawn += [parsed[k] for k in sorted(trees)][:2]
            if len(trees) < len(sentences):
                left = len(sentences) - len(trees)
                limit = f"{left} of {len(sentences)} sentences have more than {model.encoder.max_length} subwords"
                warnings.warn(f"{relative_name(path, source)}: {limit}: left as they were", stacklevel=2)
        text = texts[0] if source.is_file() else f"{sum(row['parsed'] for row in table)} sentences parsed"
        table = with_problems(table, paths, problems, source)
        return Prediction(text=text, table=table, figures={"trees": pictures.trees_picture(drawn)}, files=files)

    def _scores_of(self, trees: Mapping[int, Parse], sentences: Sequence[Sentence]) -> dict[str, Any]:
        """UAS and LAS where the sentences are annotated."""
        known = [k for k in trees if sentences[k].annotated]
        if not known:
            return {"uas": "", "las": ""}
        scores = attachment_scores([trees[k] for k in known], [sentences[k] for k in known])
        return {name: round(value, 1) for name, value in scores.items()}


# -- data sets ----------------------------------------------------------------------------------


class Listed(Dataset[Encoded]):
    """Encoded sentences as a data set."""

    draws = False

    def __init__(self, encoded: Sequence[Encoded]) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Encoded:
        return self.encoded[index]


class Text(Dataset[list[int]]):
    """Subwords of sentences for masked-language training; `shuffled`: their words in a new order each time."""

    def __init__(self, encoder: Encoder, sentences: Sequence[Sentence], shuffled: bool) -> None:
        self.encoded = [encoder.encode(sentence) for sentence in sentences]
        self.shuffled, self.padding = shuffled, encoder.padding

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def draws(self) -> bool:
        """Whether samples are random."""
        return self.shuffled

    def __getitem__(self, index: int) -> list[int]:
        e = self.encoded[index]
        if not self.shuffled:
            return list(e.ids)
        ends = [*e.places[2:], len(e.ids) - 1]
        parts = [e.ids[a:b] for a, b in zip(e.places[1:], ends, strict=True)]
        order = torch.randperm(len(parts)).tolist()
        return [e.ids[0], *(number for k in order for number in parts[k]), e.ids[-1]]

    def collate(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """ids and mask (B, T)."""
        ids = nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=self.padding
        )
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def masked_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of the masked subwords."""
    return model(*batch)


def parser_loss(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """Losses of the parser."""
    return model(batch)


def write_matrix(
    path: Path, matrix: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str] | None = None
) -> None:
    """A matrix as .csv with names of rows and columns."""
    path.parent.mkdir(exist_ok=True)
    lines = [",".join(["", *(columns or rows)])]
    lines += [",".join([name, *(f"{value:.9g}" for value in row)]) for name, row in zip(rows, matrix, strict=True)]
    write_text(path, "\n".join(lines) + "\n")


# -- raw text -----------------------------------------------------------------------------------


def read_sentences(path: Path) -> tuple[Sentence, ...]:
    """The sentences of a .conllu, or of a .txt with one a line.

    Raises:
        Problem: damaged, or without any.
    """
    if path.suffix == ".conllu":
        return conllu.read_conllu(path)
    lines = [line for line in read_lines(path) if line.strip()]
    if not lines:
        raise Problem(f"{path.name} is empty", path, "give one sentence a line")
    return tuple(conllu.plain_sentence(WORDS.findall(line), str(k)) for k, line in enumerate(lines, start=1))


def text_files(folder: Path) -> list[Path]:
    """Files to parse in or below a folder; of treebanks the test parts."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".conllu", ".txt") and path.name[0] != ".")
    return [path for path in found if not path.stem.endswith(("-ud-train", "-ud-dev"))]
