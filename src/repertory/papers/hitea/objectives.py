"""The pre-training objectives: VTC, VTM, MLM, PrefixLM, and the paper's CME and MTRE. All are a reconstruction.

Captions (B, L) are compared as tensors: a caption that occurs twice in a batch is a match of both videos.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.papers.hitea.model import HiTeA
from repertory.papers.hitea.text import LMHead

MASK_RATE, MASKED_AS, RANDOM_AS = 0.15, 0.8, 0.1
"""Tokens that are predicted; of them so many become [MASK], and so many another token."""
TEMPERATURES = (0.001, 0.5)
"""Range of the learnt temperature."""
MOMENT = (0.25, 0.5)
"""Length of a short view, as a share of the clip."""


@dataclass(frozen=True)
class Texts:
    """Captions or questions of a batch: ids (B, L), mask (B, L)."""

    ids: Tensor
    mask: Tensor

    @property
    def same(self) -> Tensor:
        """Which are equal, (B, B)."""
        return (self.ids[:, None] == self.ids[None]).all(-1)


# -- contrast -----------------------------------------------------------------------------------


def contrast(x: Tensor, y: Tensor, temperature: Tensor, positives: Tensor) -> Tensor:
    """Symmetric InfoNCE; a row's probability mass is due to all its positives alike.

        L = -1/2 mean_i [log p(positives of x_i | x_i) + log p(positives of y_i | y_i)]

    Args:
        x: (B, D), of unit length.
        y: likewise.
        temperature: divides the similarities.
        positives: (B, B), True for pairs that belong together.
    """
    logits = x @ y.T / temperature
    targets = positives.to(logits.dtype)
    return (_soft_loss(logits, targets) + _soft_loss(logits.T, targets.T)) / 2


def _soft_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets / targets.sum(1, keepdim=True))


class Momentum(nn.Module):
    """Slow copies of both encoders, and queues of what they gave: further negatives for VTC (ALBEF).

    Args:
        model: that is followed.
        queue: embeddings that are kept of each side.
        decay: of the moving average.
    """

    def __init__(self, model: HiTeA, queue: int = 65_536, decay: float = 0.995) -> None:
        super().__init__()
        self.decay, self.size = decay, queue
        parts = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
        self.copies = nn.ModuleDict({name: copy.deepcopy(model.get_submodule(name)) for name in parts})
        self.requires_grad_(False)
        dim = model.vision_proj.out_features
        self.videos: Tensor
        self.texts: Tensor
        self.filled: Tensor
        self.register_buffer("videos", torch.zeros(queue, dim))
        self.register_buffer("texts", torch.zeros(queue, dim))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, model: HiTeA) -> None:
        """Follow the model by one step."""
        for name, slow in self.copies.items():
            for mean, weight in zip(slow.parameters(), model.get_submodule(name).parameters(), strict=True):
                mean.lerp_(weight, 1 - self.decay)

    @torch.no_grad()
    def embed(self, frames: Tensor, texts: Texts) -> tuple[Tensor, Tensor]:
        """What the copies make of a batch, (B, D) each."""
        states = self.copies["visual_encoder"](frames)[:, 0]
        words = self.copies["text_encoder"](texts.ids, texts.mask)[:, 0]
        video, text = self.copies["vision_proj"](states), self.copies["text_proj"](words)
        return F.normalize(video, dim=-1), F.normalize(text, dim=-1)

    def loss(self, video: Tensor, text: Tensor, slow: tuple[Tensor, Tensor], positives: Tensor, tau: Tensor) -> Tensor:
        """VTC of a batch against what the copies make of it, and against the queues."""
        count = min(int(self.filled), self.size)
        targets = F.pad(positives.to(video.dtype), (0, count))
        to_text = video @ torch.cat([slow[1], self.texts[:count]]).T / tau
        to_video = text @ torch.cat([slow[0], self.videos[:count]]).T / tau
        return (_soft_loss(to_text, targets) + _soft_loss(to_video, targets)) / 2

    @torch.no_grad()
    def keep(self, video: Tensor, text: Tensor) -> None:
        """Put a batch of all processes into the queues, in place of the oldest."""
        video, text = _gathered(video)[-self.size :], _gathered(text)[-self.size :]
        places = (int(self.filled) + torch.arange(len(video), device=video.device)) % self.size
        self.videos[places], self.texts[places] = video, text
        self.filled += len(video)


def _gathered(x: Tensor) -> Tensor:
    """Rows of all processes."""
    if not torch.distributed.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)


# -- match --------------------------------------------------------------------------------------


def hard_negatives(similarity: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """For each row another column, drawn in proportion to the softmax of similarity; none that is `same`.

    Args:
        similarity: (B, B), divided by the temperature.
        same: (B, B), pairs that match.

    Returns:
        Rows that have a negative, (R,), and their columns, (R,).
    """
    rows = (~same).any(1).nonzero()[:, 0]
    weights = similarity.detach().float().masked_fill(same, -torch.inf)[rows].softmax(1)
    return rows, torch.multinomial(weights, 1)[:, 0] if len(rows) else rows


def matching_loss(model: HiTeA, video: Tensor, text: Tensor, texts: Texts, similarity: Tensor) -> tuple[Tensor, Tensor]:
    """VTM: pairs against a hard negative text for each video and a hard negative video for each text.

    Returns:
        The loss, and the fused text states of the true pairs (B, L, d).
    """
    same = texts.same
    videos, wrong_texts = hard_negatives(similarity, same)
    rows, wrong_videos = hard_negatives(similarity.T, same)
    fused = model.fuse(
        torch.cat([text, text[wrong_texts], text[rows]]),
        torch.cat([texts.mask, texts.mask[wrong_texts], texts.mask[rows]]),
        torch.cat([video, video[videos], video[wrong_videos]]),
    )[1]
    labels = torch.zeros(len(fused), dtype=torch.long, device=fused.device)
    labels[: len(text)] = 1
    return F.cross_entropy(model.match_head(fused[:, 0]), labels), fused[: len(text)]


# -- words --------------------------------------------------------------------------------------


def real_words(texts: Texts, model: HiTeA) -> Tensor:
    """Where there are words: neither padding nor [CLS] nor [SEP], (B, L)."""
    return texts.mask & (texts.ids != model.start) & (texts.ids != model.stop)


def hide_words(texts: Texts, model: HiTeA) -> tuple[Tensor, Tensor]:
    """BERT's masking: ids with 15 % of the words hidden, at least one a text, and which they are, (B, L) both."""
    words = real_words(texts, model)
    draw = torch.rand(texts.ids.shape, device=texts.ids.device).masked_fill(~words, 2.0)
    chosen = words & ((draw < MASK_RATE) | (draw == draw.amin(1, keepdim=True)))
    fate = torch.rand_like(draw)
    other = torch.randint(model.sizes.vocab, texts.ids.shape, device=texts.ids.device)
    ids = torch.where(chosen & (fate < MASKED_AS), model.mask, texts.ids)
    return torch.where(chosen & (fate >= 1 - RANDOM_AS), other, ids), chosen


def cut_texts(texts: Texts, model: HiTeA) -> tuple[Texts, Texts]:
    """Cut each text before a random word: prefix and rest, both as [CLS] … [SEP]; a prefix may be empty.

    Example: [CLS] a b c [SEP] cut before c -> [CLS] a b [SEP] and [CLS] c [SEP].
    """
    ids, mask = texts.ids, texts.mask
    length = mask.sum(1, keepdim=True)
    words = length - 2
    k = (torch.rand_like(words, dtype=torch.float) * words).long()  # words of the prefix, at most all but one
    place = torch.arange(ids.shape[1], device=ids.device)[None]
    prefix = torch.where(place == k + 1, model.stop, torch.where(place <= k, ids, model.pad))
    later = ids.gather(1, (place + k).clamp(max=ids.shape[1] - 1))
    rest_mask = place < length - k
    rest = torch.where(place == 0, model.start, torch.where(rest_mask, later, model.pad))
    return Texts(prefix, place <= k + 1), Texts(rest, rest_mask)


def next_token_losses(logits: Tensor, texts: Texts) -> Tensor:
    """Cross entropy of each token but the first, 0 for padding: (B, L, V) -> (B, L - 1), in nats."""
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), texts.ids[:, 1:], reduction="none")
    return losses * texts.mask[:, 1:]


def caption_loss(logits: Tensor, texts: Texts) -> Tensor:
    """Mean over all tokens, as the released code trains captions."""
    return next_token_losses(logits, texts).sum() / texts.mask[:, 1:].sum()


def answer_loss(logits: Tensor, texts: Texts) -> Tensor:
    """Sum over the tokens of an answer, mean over answers, as the released code trains question answering."""
    return next_token_losses(logits, texts).sum(1).mean()


# -- time ---------------------------------------------------------------------------------------


def short_views(frames: Tensor, count: int) -> Tensor:
    """A random contiguous part of each clip, a quarter to half of it, sampled at `count` frames.

    (B, T, …) -> (B, count, …).
    """
    total, device = frames.shape[1], frames.device
    share = torch.empty(len(frames), 1, device=device).uniform_(*MOMENT)
    span = (share * total).round().clamp(min=1)
    first = (torch.rand(len(frames), 1, device=device) * (total - span + 1)).floor()
    steps = (torch.arange(count, device=device)[None] + 0.5) / count
    chosen = (first + steps * span).floor().clamp(max=total - 1).long()  # (B, count)
    return frames[torch.arange(len(frames), device=device)[:, None], chosen]


def moment_text(moment: Tensor, words: Tensor, real: Tensor) -> Tensor:
    """The half of a text's words that is most similar to a short view, averaged; no gradient through the choice.

        P = the K = max(1, ceil(n / 2)) words of highest <s, w_k>,  m = normalised mean of w_k over P

    Args:
        moment: s, (B, D).
        words: w, (B, L, D).
        real: (B, L), where there are words.
    """
    scores = torch.einsum("bd,bld->bl", moment, words).detach().masked_fill(~real, -torch.inf)
    most = ((real.sum(1, keepdim=True) + 1) // 2).clamp(min=1)
    rank = scores.argsort(1, descending=True).argsort(1)
    chosen = ((rank < most) & real).to(words.dtype)
    return F.normalize((words * chosen[..., None]).sum(1), dim=-1)


class RelationHead(nn.Module):
    """MTRE: a pair of clip and text looks alike at two resolutions of time.

        L = -1/2 [cos(pred(proj f_S), sg(proj f_L)) + cos(pred(proj f_L), sg(proj f_S))]

    Shape:
        f_L (B, d), f_S (B, d) -> a scalar.
    """

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.pred = nn.Sequential(nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, long: Tensor, short: Tensor) -> Tensor:
        a, b = self.proj(long), self.proj(short)
        return (
            -(F.cosine_similarity(self.pred(b), a.detach()) + F.cosine_similarity(self.pred(a), b.detach())).mean() / 2
        )


# -- all together -------------------------------------------------------------------------------


class PreTraining(nn.Module):
    """The losses of pre-training, each of weight 1.

    Args:
        model: trained in place.
        cme: add cross-modal moment exploration.
        mtre: add multi-modal temporal relation exploration.
        short_frames: of a short view, even.
        queue: of the momentum encoders; 0: negatives of the batch alone.

    Shape:
        frames (B, T, 3, H, W), captions -> losses by name, with their sum as "loss".
    """

    def __init__(self, model: HiTeA, cme: bool, mtre: bool, short_frames: int, queue: int = 0) -> None:
        super().__init__()
        self.model, self.cme, self.short_frames = model, cme, short_frames
        self.mlm_head = LMHead(model.sizes)
        self.relation = RelationHead(model.sizes.hidden, model.vision_proj.out_features) if mtre else None
        self.momentum = Momentum(model, queue) if queue else None

    def forward(self, frames: Tensor, texts: Texts) -> dict[str, Tensor]:
        model = self.model
        tau = model.temperature.clamp(*TEMPERATURES)
        video, text = model.encode_video(frames), model.encode_text(texts.ids, texts.mask)
        v, t = model.embed_video(video), model.embed_text(text)
        losses: dict[str, Tensor] = {"vtc": self._contrast(frames, texts, v, t, tau)}
        losses["vtm"], fused = matching_loss(model, video, text, texts, v @ t.T / tau)

        ids, hidden = hide_words(texts, model)
        seen = model.fuse(model.encode_text(ids, texts.mask), texts.mask, video)[1]
        losses["mlm"] = F.cross_entropy(self.mlm_head(seen[hidden]), texts.ids[hidden])

        prefix, rest = cut_texts(texts, model)
        read = torch.cat(model.fuse(model.encode_text(prefix.ids, prefix.mask), prefix.mask, video), 1)
        losses["prefix"] = caption_loss(model.text_decoder(rest.ids, rest.mask, read), rest)

        if self.cme or self.relation is not None:
            moment = model.encode_video(short_views(frames, self.short_frames))
            if self.cme:
                words = F.normalize(model.text_proj(text), dim=-1)
                s = model.embed_video(moment)
                losses["cme"] = contrast(s, moment_text(s, words, real_words(texts, model)), tau, texts.same)
            if self.relation is not None:
                short = model.fuse(text, texts.mask, moment)[1]
                losses["mtre"] = self.relation(fused[:, 0], short[:, 0])
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _contrast(self, frames: Tensor, texts: Texts, v: Tensor, t: Tensor, tau: Tensor) -> Tensor:
        if self.momentum is None:
            return contrast(v, t, tau, texts.same)
        self.momentum.update(self.model)
        slow = self.momentum.embed(frames, texts)
        loss = self.momentum.loss(v, t, slow, texts.same, tau)
        self.momentum.keep(*slow)
        return loss


class FineTuning(nn.Module):
    """The losses of fine-tuning, as far as the batch has what they need: retrieval, captions, answers.

    Shape:
        frames (B, T, 3, H, W), rows that have captions and these, rows that have questions, these and their answers
        -> losses by name, with their sum.
    """

    def __init__(self, model: HiTeA) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, frames: Tensor, told: tuple[Tensor, Texts] | None, asked: tuple[Tensor, Texts, Texts] | None
    ) -> dict[str, Tensor]:
        model, losses = self.model, dict[str, Tensor]()
        whole = model.encode_video(frames)
        if told is not None:
            rows, texts = told
            video = whole[rows]
            tau = model.temperature.clamp(*TEMPERATURES)
            text = model.encode_text(texts.ids, texts.mask)
            v, t = model.embed_video(video), model.embed_text(text)
            losses["vtc"] = contrast(v, t, tau, texts.same)
            losses["vtm"], _ = matching_loss(model, video, text, texts, v @ t.T / tau)
            losses["caption"] = caption_loss(model.text_decoder(texts.ids, texts.mask, video), texts)
        if asked is not None:
            rows, questions, answers = asked
            read = model.fuse(model.encode_text(questions.ids, questions.mask), questions.mask, whole[rows])
            losses["answer"] = answer_loss(model.text_decoder(answers.ids, answers.mask, torch.cat(read, 1)), answers)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}
