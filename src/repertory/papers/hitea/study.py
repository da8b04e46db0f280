"""Tests of HiTeA's claims.

repertory run hitea                                            # five pre-trainings on moving shapes, minutes
repertory run hitea --scale paper --data webvid/ --arms hitea --devices 8 --precision bf16-mixed
                                                               # 224 px, 16 frames; published SSv2, MSR-VTT: the card
repertory convert hitea multi-modal_hitea_video-question-answering_base_en/ qa_model/
repertory predict qa_model/ clip.mp4 --set question="what is the man doing?"
repertory train hitea --data my_clips/ --set pretrained=qa_model/ --set pretrain_epochs=0 --out my_model/
repertory evaluate my_model/ --data my_clips/                  # retrieval, answers, and the shuffling test
repertory predict my_model/ my_clips/ --set search="a red square moves left then down"
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem, require
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.text import visible
from repertory.core.timing import medians, seconds_a_sample
from repertory.core.training import fit, loader
from repertory.data import captions, shapes
from repertory.data.arrays import read_lines
from repertory.data.captions import CaptionedSet, Clip, Question
from repertory.data.videos import GIF, SUFFIXES, find_videos, open_video
from repertory.nn.encoders import EXTRA
from repertory.papers.hitea import pictures
from repertory.papers.hitea.clips import Batch, Examples, as_pictures, collate, read_clip
from repertory.papers.hitea.model import SPECIAL, HiTeA
from repertory.papers.hitea.objectives import FineTuning, PreTraining, Texts
from repertory.papers.hitea.race import race_attention
from repertory.papers.hitea.retrieval import RANKS, ranks, recalls, reliance, shuffled, truth
from repertory.papers.hitea.settings import ARMS, HiTeAConfig, HiTeADesign
from repertory.papers.hitea.text import FusionEncoder, TextDecoder, TextEncoder, TextSizes
from repertory.papers.hitea.video import MViT
from repertory.papers.hitea.weights import load_bert, load_pretrained, released_network
from repertory.tasks.classification import readable, relative_name, with_problems
from repertory.tasks.language import load_tokenizer, word_tokenizer
from repertory.tasks.settings import fitted

PER_CENT: dict[str, Any] = {"unit": "%", "better": "higher", "decimals": 1}
KEPT = 1000
"""Captions of training that a model keeps, to rank them in `predict`."""
RACED = 10
"""Block of the published network whose attention is raced: the widest stage, 16 of 24 blocks."""
DRY_DIM = 12
"""Width of the first block in a dry run, which checks that a recipe builds: 96 where the published network is 768."""


@dataclass(frozen=True)
class CaptionedData:
    """Training and held-out clips."""

    train: CaptionedSet
    test: CaptionedSet


class HiTeAStudy(HiTeADesign, Study[HiTeAConfig, CaptionedData, HiTeA]):
    """Pre-train with and without the paper's objectives, fine-tune, test retrieval, answers, and reliance on time."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **{f"v2t_r{k}": Metric(f"caption retrieval R@{k}", f"视频检索描述 R@{k}", **PER_CENT) for k in RANKS},
        **{f"t2v_r{k}": Metric(f"video retrieval R@{k}", f"描述检索视频 R@{k}", **PER_CENT) for k in RANKS},
        "v2t_r1_shuffled": Metric("caption retrieval R@1, frames shuffled", "帧乱序时的描述检索 R@1", **PER_CENT),
        "reliance": Metric("temporal reliance", "时间依赖", unit="points", decimals=1),
        "reliance_relative": Metric("relative temporal reliance", "相对时间依赖", unit="%", decimals=1),
        "v2t_r1_in_{x}": Metric("caption retrieval R@1, {x}", "描述检索 R@1（{x}）", **PER_CENT),
        "v2t_r1_shuffled_in_{x}": Metric("caption retrieval R@1, {x}, shuffled", "乱序描述检索 R@1（{x}）", **PER_CENT),
        "reliance_in_{x}": Metric("temporal reliance, {x}", "时间依赖（{x}）", unit="points", decimals=1),
        "reliance_relative_in_{x}": Metric("relative reliance, {x}", "相对时间依赖（{x}）", unit="%", decimals=1),
        "answers": Metric("accuracy of answers", "问答准确率", **PER_CENT, needs="questions"),
        "answers_shuffled": Metric(
            "accuracy of answers, frames shuffled", "帧乱序时的问答准确率", **PER_CENT, needs="questions"
        ),
        "answers_in_{x}": Metric("accuracy of answers, {x}", "问答准确率（{x}）", **PER_CENT),
        "bleu4": Metric("BLEU-4 of captions", "描述的 BLEU-4", better="higher", decimals=1, needs="captions"),
        "parameters": Metric("parameters", "参数量", better="lower", decimals=0),
        "video_parameters": Metric("parameters of MViTv2-B, 224 px, 16 frames", "MViTv2-B 的参数量", decimals=0),
        "text_parameters": Metric("parameters of the text encoder", "文本编码器的参数量", decimals=0),
        "fusion_parameters": Metric("parameters of the fusion encoder", "融合编码器的参数量", decimals=0),
        "decoder_parameters": Metric("parameters of the decoder", "解码器的参数量", decimals=0),
        "attention_speed": Metric(
            "speed of pooled attention over the released form", "池化注意力相对发布代码形式的速度",
            unit="×", better="higher", decimals=2,
        ),
    }  # fmt: skip
    sample_name = "moving shapes"
    sample_fields = (
        "sample_ordered", "sample_static", "sample_test_ordered", "sample_test_static", "sample_size",
    )  # fmt: skip
    seeded_data = False
    layout = captions.LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write moving shapes with captions and questions in the layout of MSR-VTT."""
        c = self.config
        test = (c.sample_test_ordered, c.sample_test_static)
        shapes.write_shapes(folder, (c.sample_ordered, c.sample_static), test, c.sample_size)

    def read(self, folder: Path) -> CaptionedData:
        if not folder.is_dir():
            raise self.missing(folder)
        return CaptionedData(*captions.read_captioned(folder))

    # -- training -------------------------------------------------------------------------------

    def build(self, arm: str, data: CaptionedData) -> HiTeA:
        """The untrained network of an arm, with the tokenizer of `bert`, of `pretrained`, or of the training texts."""
        c = self.config
        video = {
            "img_size": c.img_size, "frames": c.frames, "embed_dim": c.video_dim, "depth": c.video_depth,
            "heads": c.video_heads, "widen_at": c.widen_at, "kv_stride": c.kv_stride, "drop_path_rate": c.drop_path,
            "init_std": c.init_std,
        }  # fmt: skip
        text = {
            "heads": c.text_heads, "intermediate": c.intermediate, "encoder_layers": c.encoder_layers,
            "built_layers": c.built_layers, "fusion_layers": c.fusion_layers, "stride_layer": c.stride_layer,
            "decoder_layers": c.decoder_layers, "drop_rate": c.drop_rate, "init_std": c.init_std,
        }  # fmt: skip
        if self.session.dry_run:
            video |= {"img_size": 4 * 2 ** len(c.widen_at), "frames": 4, "embed_dim": min(DRY_DIM, c.video_dim)}
            text |= {"intermediate": 64}
        return HiTeA(
            self._tokenizer(data.train), video, text, c.embed_dim, c.max_length, ARMS[arm].order_blind,
            data.train.captions[:KEPT],
        )  # fmt: skip

    def _tokenizer(self, train: CaptionedSet) -> str:
        if self.config.bert:
            return load_tokenizer(self.config.bert)
        asked = (text for clip in train.clips for q in clip.questions for text in (q.text, *q.answers))
        return word_tokenizer([*train.captions, *asked], self.config.vocabulary, SPECIAL)

    def train(self, arm: str, data: CaptionedData) -> HiTeA:
        """Pre-train one arm on the captions, then fine-tune it on captions and questions.

        Raises:
            Problem: fewer than two clips with captions to pre-train on; weights that do not fit.
        """
        c, chosen, train = self.config, ARMS[arm], data.train
        if c.train_clips and self.session.data_dir is None and not c.real:
            train = train.drawn(c.train_clips, self.session.rng("split"))
        self.session.reseed("weights")
        model = self._started(arm, data)
        model.set_grad_checkpointing(c.grad_checkpointing)
        told = [clip for clip in train.clips if clip.captions]
        if c.pretrain_epochs:
            if len(told) < 2:
                raise Problem(
                    f"{len(told)} clips with captions", train.where, "pre-training contrasts two or more captions"
                )
            recipe = c.model_copy(
                update={
                    "epochs": c.pretrain_epochs, "batch_size": c.pretrain_batch_size, "lr": c.pretrain_lr,
                    "weight_decay": c.pretrain_weight_decay,
                }
            )  # fmt: skip
            short = 2 if self.session.dry_run else c.short_frames
            whole = PreTraining(model, chosen.cme, chosen.mtre, short, c.queue)

            def pretraining(network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
                return network(batch.frames, Texts(*model.tokens(batch.captions)))

            fit(self.session, whole, self._examples(model, told), recipe, pretraining, collate=collate, part="pretrain")

        def finetuning(network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
            return network(batch.frames, batch.told(model), batch.asked(model))

        examples = self._examples(model, train.clips)
        fit(self.session, FineTuning(model), examples, c, finetuning, collate=collate, part="finetune")
        model.set_grad_checkpointing(False)
        return model.eval()

    def _started(self, arm: str, data: CaptionedData) -> HiTeA:
        """The network of an arm, with the weights that training starts from."""
        c = self.config
        source = Path(c.pretrained)
        if c.pretrained and (source / "repertory.json").exists():
            return checkpoint.load(source, self.session.package)
        if c.pretrained and not c.bert:
            return released_network(source)
        model = self.build(arm, data)
        if c.bert:
            load_bert(model, Path(c.bert))
        if c.pretrained:
            load_pretrained(model, source)
        return model

    def _examples(self, model: HiTeA, clips: Sequence[Clip]) -> Examples:
        return Examples(clips, model.frames, model.img_size, training=True)

    def scaled(self, data: CaptionedData, given: Collection[str]) -> HiTeAConfig:
        """The published recipe fitted to these clips."""
        world = self.session.fabric.world_size
        assert isinstance(self.own, HiTeAConfig)
        config = fitted(self.config, self.own, len(data.train), world, self.own_batch, given)
        return fitted(
            config, self.own, len(data.train), world, self.own_batch, {*given, "workers", "threads"}, "pretrain_"
        )

    def preview(self, arm: str, data: CaptionedData) -> list[str]:
        """Clips, captions, questions, network, both trainings."""
        c = self.config
        asked = sum(len(clip.questions) for clip in data.train.clips)
        stages = f"{c.pretrain_epochs} epochs of pre-training, {c.epochs} of fine-tuning"
        minutes = self._minutes(arm, data)
        return [
            f"{len(data.train)} clips for training, {len(data.test)} for test; {len(data.train.captions)} captions and "
            f"{asked} questions for training",
            f"video: MViT of {c.video_depth} blocks, {c.frames} frames of {c.img_size} x {c.img_size} pixels",
            f"text: {c.encoder_layers} layers, fusion {c.fusion_layers}, decoder {c.decoder_layers}; at most "
            f"{c.max_length} tokens",
            f"start: {c.pretrained or c.bert or 'random weights; --set pretrained=FOLDER starts from released ones'}",
            f"{stages}; batches of {c.pretrain_batch_size} and {c.batch_size}; about {minutes:.0f} minutes",
        ]

    def _minutes(self, arm: str, data: CaptionedData) -> float:
        """Time of both trainings, from three steps of pre-training with two clips."""
        c, chosen, fabric = self.config, ARMS[arm], self.session.fabric
        model = self.build(arm, data)
        whole = fabric.to_device(PreTraining(model, chosen.cme, chosen.mtre, c.short_frames))
        frames = fabric.to_device(torch.rand(2, c.frames, 3, c.img_size, c.img_size))
        told = Texts(*model.tokens((data.train.captions or ["one"])[:1] * 2))
        seconds = seconds_a_sample(lambda: whole(frames, told)["loss"], len(frames), fabric.device)
        return seconds * len(data.train) * (c.pretrain_epochs + c.epochs) / fabric.world_size / 60

    # -- evaluation -----------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, model: HiTeA, data: CaptionedData) -> dict[str, float]:
        """Retrieval, the shuffling test, accuracy of answers, BLEU of captions; all for each category as well."""
        test = data.test
        metrics = {"parameters": float(sum(p.numel() for p in model.parameters()))}
        told = [clip for clip in test.clips if clip.captions]
        if told:
            metrics |= self._retrieval(model, told) | self._captions(model, told)
        if any(clip.questions for clip in test.clips):
            metrics |= self._answers(model, test.clips)
        return metrics

    def _clips(self, model: HiTeA, clips: Sequence[Clip], label: str) -> Iterator[Tensor]:
        """Frames of clips, batch by batch."""
        examples = Examples(clips, model.frames, model.img_size)
        batches = loader(
            self.session, examples, self.config.eval_batch, collate=collate, workers=self.config.workers, label=label
        )
        return (batch.frames for batch in batches)

    def _retrieval(self, model: HiTeA, clips: Sequence[Clip]) -> dict[str, float]:
        """R@1, 5, 10 in both directions, and of clips whose frames come in random order."""
        in_order: list[Tensor] = []
        out_of_order: list[list[Tensor]] = [[] for _ in range(self.config.shuffles)]
        rng = self.session.rng("shuffle")
        for frames in self._clips(model, clips, "embed"):
            in_order.append(model.embed_video(model.encode_video(frames)))
            for parts in out_of_order:
                parts.append(model.embed_video(model.encode_video(shuffled(frames, rng))))
        videos, others = torch.cat(in_order), [torch.cat(parts) for parts in out_of_order]
        clips = clips[: len(videos)]  # a dry run ends early
        categories = sorted({clip.category for clip in clips} - {""})
        groups = {"": list(range(len(clips)))} | {
            name: [i for i, clip in enumerate(clips) if clip.category == name] for name in categories
        }
        metrics: dict[str, float] = {}
        bars: dict[str, tuple[float, float]] = {}
        for name, rows in groups.items():
            own = [clips[i].captions for i in rows]
            texts = list(dict.fromkeys(text for texts in own for text in texts))
            right = truth(own, texts).to(videos.device)
            embedded = self._embedded(model, texts)
            similarity = videos[rows] @ embedded.T
            found = ranks(similarity, right)
            scores = recalls(found, "v2t") | recalls(ranks(similarity.T, right.T), "t2v")
            again = [recalls(ranks(other[rows] @ embedded.T, right), "v2t")["v2t_r1"] for other in others]
            scores["v2t_r1_shuffled"] = float(np.mean(again))
            scores |= reliance(scores["v2t_r1"], scores["v2t_r1_shuffled"])
            bars[name or "all"] = scores["v2t_r1"], scores["v2t_r1_shuffled"]
            if name:
                kept = ("v2t_r1", "v2t_r1_shuffled", "reliance", "reliance_relative")
                metrics |= {f"{metric}_in_{_word(name)}": scores[metric] for metric in kept}
            else:
                metrics |= scores
                self.session.keep_outputs({"rank": found})
        self.session.figure("order", pictures.order_picture(bars, "caption retrieval R@1, %"))
        return metrics

    def _embedded(self, model: HiTeA, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts, (C, D)."""
        size = 4 * self.config.eval_batch
        return torch.cat(
            [
                model.embed_text(model.encode_text(*model.tokens(texts[k : k + size])))
                for k in range(0, len(texts), size)
            ]
        )

    def _answers(self, model: HiTeA, clips: Sequence[Clip]) -> dict[str, float]:
        """Share of the questions answered with the most frequent answer, in per cent."""
        rng = self.session.rng("shuffle answers")
        asked: list[tuple[Clip, Question]] = [(clip, question) for clip in clips for question in clip.questions]
        right: list[bool] = []
        right_shuffled: list[bool] = []
        for frames in self._clips(model, [clip for clip, _ in asked], "answer"):
            questions = [question for _, question in asked[len(right) : len(right) + len(frames)]]
            texts = [question.text for question in questions]
            expected = [model.words(model.tokenizer.encode(question.answer).ids) for question in questions]
            for some, kept in ((frames, right), (shuffled(frames, rng), right_shuffled)):
                said = model.answer(some, texts, self.config.answer_length)
                kept += [a == b for a, b in zip(said, expected, strict=True)]
        by_category: dict[str, list[bool]] = {}
        for (clip, _), hit in zip(asked, right, strict=False):
            if clip.category:
                by_category.setdefault(_word(clip.category), []).append(hit)
        self.session.keep_outputs({"answered": np.array(right)})
        return {
            "answers": 100 * float(np.mean(right)),
            "answers_shuffled": 100 * float(np.mean(right_shuffled)),
            **{f"answers_in_{name}": 100 * float(np.mean(hits)) for name, hits in sorted(by_category.items())},
        }

    def _captions(self, model: HiTeA, clips: Sequence[Clip]) -> dict[str, float]:
        """BLEU-4 of captions that the model writes, against all captions of each clip."""
        clips = clips[: self.config.captioned or len(clips)]
        written: list[str] = []
        for frames in self._clips(model, clips, "caption"):
            written += model.caption(frames, self.config.caption_length)
        own = [clip.captions for clip in clips[: len(written)]]
        most = max(map(len, own))
        references = [[texts[k] if k < len(texts) else None for texts in own] for k in range(most)]
        bleu = require("sacrebleu", EXTRA).corpus_bleu(written, references, lowercase=True)
        return {"bleu4": float(bleu.score)}

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> Mapping[str, Measured]:
        """Sizes of the published networks, and the race of the pooled attention."""
        with torch.device("meta"):
            networks = {
                "video": MViT(), "text": TextEncoder(TextSizes()), "fusion": FusionEncoder(TextSizes()),
                "decoder": TextDecoder(TextSizes()),
            }  # fmt: skip
        figures: dict[str, Measured] = {
            f"{name}_parameters": float(sum(p.numel() for p in network.parameters()))
            for name, network in networks.items()
        }
        if self.config.speed_rounds and not self.session.dry_run:
            rounds = self.session.progress(range(1 + self.config.speed_rounds), "race")
            times = race_attention(RACED, rounds, self.session.generator("speed"))
            figures["attention_speed"] = medians(times, "ours", "plain")
        return figures

    # -- use ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, model: HiTeA, source: Path) -> Prediction:
        """Caption a video or all below a folder and rank captions; answer `question`; rank clips by `search`.

        A video that cannot be read has a row with the reason. The first that can is drawn as a strip of frames with the
        similarity of its moments, and with its scores in and out of order.

        Raises:
            Problem: no videos, or none that can be read.
        """
        c = self.config
        paths = find_videos(source)
        if not paths:
            remedy = f"give a video ({', '.join(sorted(SUFFIXES | {GIF}))}), a folder of frames, or a folder of them"
            raise Problem("no videos here", source, remedy)
        read: dict[int, Tensor] = {}

        def take(i: int) -> None:
            video = open_video(paths[i])
            if video is None:
                raise Problem("not a video", paths[i], f"give one of {', '.join(sorted(SUFFIXES | {GIF}))}")
            read[i] = read_clip(video, model.frames, model.img_size)

        good, problems = readable(paths, take, source, "videos")
        candidates = self._candidates(model)
        texts = self._embedded(model, candidates) if candidates else None
        wanted = self._embedded(model, [c.search]) if c.search else None
        table: list[dict[str, Any]] = []
        for i in self.session.progress(good, "predict"):
            frames = self.session.fabric.to_device(read[i][None])
            states = model.encode_video(frames)
            embedded = model.embed_video(states)
            row: dict[str, Any] = {"file": relative_name(paths[i], source)}
            if wanted is not None:
                row["similarity"] = float(embedded @ wanted.T)
                row["match"] = _match(model, states, c.search)
            if c.question:
                row["answer"] = model.answer(frames, [c.question], c.answer_length)[0]
            row["caption"] = model.write(states, c.caption_length)[0]
            if texts is not None:
                best = (embedded @ texts.T)[0].topk(min(c.shown, len(candidates)))
                ranked = zip(best.values.tolist(), best.indices.tolist(), strict=True)
                row["best captions"] = "; ".join(f"{candidates[k]} ({score:.2f})" for score, k in ranked)
            table.append(row)
        figures = self._figures(model, read, table, good, candidates)
        table = with_problems(table, paths, problems, source)
        if wanted is not None:
            table.sort(key=lambda row: -(row["similarity"] if row["similarity"] is not None else -np.inf))
        return Prediction(table=table, figures=figures)

    def _candidates(self, model: HiTeA) -> list[str]:
        """Captions to rank: of the setting, else those of training."""
        given = self.config.candidates
        if given and len(given) < 4096 and Path(given).is_file():
            return [line.strip() for line in read_lines(Path(given)) if line.strip()]
        return [text.strip() for text in given.split(";") if text.strip()] if given else model.captions

    def _figures(
        self, model: HiTeA, read: Mapping[int, Tensor], table: Sequence[Mapping[str, Any]], good: Sequence[int],
        candidates: Sequence[str],
    ) -> dict[str, Figure]:  # fmt: skip
        """Strip and order of the first clip; frames of the first clips, or of the best for a search."""
        first, row = read[good[0]], table[0]
        frames = self.session.fabric.to_device(first[None])
        embedded = model.embed_video(model.encode_video(frames))
        texts: list[str] = [self.config.search or str(row["caption"]) or "(nothing)"]
        if candidates:
            order = (embedded @ self._embedded(model, candidates).T)[0].argsort(descending=True)
            texts += [candidates[int(k)] for k in order[: self.config.shown]]
        texts = list(dict.fromkeys(texts))
        words = self._embedded(model, texts)
        rng = self.session.rng("shuffle")
        mixed = torch.cat([shuffled(frames, rng) for _ in range(self.config.shuffles)])
        in_order = (embedded @ words.T)[0].tolist()
        out_of_order = (model.embed_video(model.encode_video(mixed)) @ words.T).mean(0).tolist()
        moments = self._moments(model, frames, words).cpu().numpy()
        said = "; ".join(str(row[name]) for name in ("answer", "caption") if row.get(name))
        figures = {
            "strip": pictures.strip_picture(as_pictures(first), moments, texts, f"{row['file']}: {said}"),
            "order": pictures.order_picture(
                {text: (a, b) for text, a, b in zip(texts, in_order, out_of_order, strict=True)}, "similarity"
            ),
        }
        if len(good) > 1:
            scores = [float(one.get("similarity", 0.0)) for one in table]
            best = sorted(range(len(good)), key=lambda k: -scores[k])[: pictures.MOST]
            titles = [_title(table[k]) for k in best]
            figures["clips"] = pictures.clips_picture([as_pictures(read[good[k]]) for k in best], titles)
        return figures

    def _moments(self, model: HiTeA, frames: Tensor, words: Tensor) -> Tensor:
        """Similarity of the short view around each frame to texts: frames (1, T, …), (C, D) -> (C, T)."""
        total = frames.shape[1]
        count = min(self.config.short_frames, max(2, total // 4 * 2))
        span = max(1, total // 4)
        views: list[Tensor] = []
        for t in range(total):
            start = min(max(0, t - span // 2), total - span)
            chosen = np.clip(start + (np.arange(count) + 0.5) / count * span, 0, total - 1).astype(int)
            views.append(frames[0, torch.from_numpy(chosen).to(frames.device)])
        return (model.embed_video(model.encode_video(torch.stack(views))) @ words.T).T

    def convert(self, source: Path, variant: str = "") -> HiTeA:
        """Build a model from a folder that the authors released.

        Args:
            source: the folder with pytorch_model.bin, config_bert.json and vocab.txt, or the file of weights in it.
            variant: none are needed: layers follow from the tensors and config_bert.json.

        Raises:
            Problem: weights of something else; files that are missing.
        """
        checkpoint.refuse_variant(variant)
        return released_network(source)


def _match(model: HiTeA, states: Tensor, text: str) -> float:
    """Probability that a text belongs to a clip."""
    ids, mask = model.tokens([text])
    return float(model.match(model.encode_text(ids, mask), mask, states).softmax(1)[0, 1])


def _title(row: Mapping[str, Any]) -> str:
    score = f" ({row['similarity']:.2f})" if "similarity" in row else ""
    return visible(f"{row['file']}{score}: {row.get('answer') or row['caption']}", lines=False)


def _word(name: str) -> str:
    """A category as part of a metric's name."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)
