"""RefT, "Reference Twice": few-shot instance segmentation by two references to a support set (arXiv 2301.01156).

A reconstruction: the authors released no code, and the method's section could not be read. What is published is that
query and support images pass through one Mask2Former with shared weights, that class centres pooled under the supports'
masks re-weight the query's features for all classes at once, and that the best object queries of the supports are
linked to those of the query image by cross-attention in front of the prediction heads. Every equation below is ours.

Shapes: B images, S supports of C_e classes, Q object queries, D channels, L = 3 levels, k linked queries of a support,
C classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

from repertory.core.arguments import check_positive, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import check_images
from repertory.papers.reft.base import build_network

LEVELS = 3
TAU = 20.0
"""τ at the start, of the cosine classifier."""
CHUNK = 16
"""Supports that are encoded at a time where no gradients are needed."""
PICTURE = 48
"""Height and width in pixels of the pictures that a network keeps of its supports."""


class Supports(NamedTuple):
    """What the two references need of a support set: encoded once, used for any number of images."""

    centres: Tensor
    """f, (L, S, D): features pooled under each support's mask, at each level"""
    queries: Tensor
    """(S, k, D): states of the object queries that found the support's object best; k = 0 without linking"""
    labels: Tensor
    """(S,): class of each support"""
    members: Tensor
    """(C_e, S) bool: a row for each class that has supports"""


class Output(NamedTuple):
    """Predictions of the initial queries and after each layer of the decoder; the last are final."""

    logits: tuple[Tensor, ...]
    """(B, Q, C + 1) each; "no object" is last"""
    masks: tuple[Tensor, ...]
    """logits (B, Q, h, w) each, at a quarter of the input's size"""
    states: Tensor
    """(B, Q, D): what the final predictions are made of"""


class Detections(NamedTuple):
    """Instances of one image, best first."""

    boxes: Tensor
    """(n, 4): x1, y1, x2, y2 of the masks, in pixels"""
    labels: Tensor
    """(n,)"""
    scores: Tensor
    """(n,) from 0 to 1"""
    masks: Tensor
    """(n, H, W) bool"""


# -- first reference: features ------------------------------------------------------------------


def mask_pooled(features: Tensor, masks: Tensor) -> Tensor:
    """Mean feature under each mask, (S, D): f = Σ m F / Σ m, with m resized by area, so that small objects remain.

    Args:
        features: F, (S, D, h, w).
        masks: (S, 1, H, W) from 0 to 1, none of them empty.

    Example:
        >>> features = torch.arange(4.0).view(1, 1, 2, 2)
        >>> mask = torch.zeros(1, 1, 8, 8)
        >>> mask[..., 7, 7] = 1
        >>> mask_pooled(features, mask)
        tensor([[3.]])
    """
    m = F.interpolate(masks, features.shape[-2:], mode="area")
    return (m * features).sum((-2, -1)) / m.sum((-2, -1))


class MaskWeighting(nn.Module):
    """Mask-based dynamic weighting (MDW): class centres that depend on the image re-weight its features.

        a_{c,k} = softmax_k(W_q g · W_k f_{c,k} / √D),  g = mean of F over the image
        p_c     = Σ_k a_{c,k} f_{c,k}
        F'      = F + γ MHA(LN(F), P, P),  P = [p_1, ..., p_{C_e}, "none"]

    All classes are referred to in one pass; their order, and that of the shots, does not matter. The output projection
    starts at zero, so that a new network equals Mask2Former.

    Args:
        dim: D.
        heads: of the attention.
        gamma: γ.
    """

    def __init__(self, dim: int, heads: int, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.image_projection = nn.Linear(dim, dim, bias=False)
        self.shot_projection = nn.Linear(dim, dim, bias=False)
        self.none = nn.Parameter(torch.empty(dim))
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values: the module changes nothing."""
        nn.init.normal_(self.none, std=0.02)
        nn.init.zeros_(self.attention.out_proj.weight)

    def shot_weights(self, features: Tensor, centres: Tensor, members: Tensor) -> Tensor:
        """a, (B, C_e, S): of each class's shots, for each image; 0 for the shots of other classes."""
        g = self.image_projection(features.mean((-2, -1)))  # (B, D)
        match = g @ self.shot_projection(centres).T / math.sqrt(g.shape[-1])  # (B, S)
        return match[:, None].masked_fill(~members, -math.inf).softmax(-1)

    def class_centres(self, features: Tensor, centres: Tensor, members: Tensor) -> Tensor:
        """P, (B, C_e + 1, D)."""
        p = self.shot_weights(features, centres, members) @ centres
        return torch.cat([p, self.none.expand(p.shape[0], 1, -1)], 1)

    def forward(self, features: Tensor, centres: Tensor, members: Tensor) -> Tensor:
        """F' of F (B, D, h, w), by the supports' centres (S, D) and members (C_e, S)."""
        tokens = features.flatten(2).mT  # (B, hw, D)
        p = self.class_centres(features, centres, members)
        change = self.attention(self.norm(tokens), p, p, need_weights=False)[0]
        return features + self.gamma * change.mT.unflatten(2, features.shape[-2:])

    def attention_map(self, features: Tensor, centres: Tensor, members: Tensor) -> Tensor:
        """Attention of each cell to each class centre, (B, C_e + 1, h, w), mean over the heads; "none" is last."""
        p = self.class_centres(features, centres, members)
        weights = self.attention(self.norm(features.flatten(2).mT), p, p)[1]  # (B, hw, C_e + 1)
        return weights.mT.unflatten(2, features.shape[-2:])


# -- second reference: object queries -----------------------------------------------------------


def mask_overlap(masks: Tensor, target: Tensor) -> Tensor:
    """IoU of each query's mask with the support's, (S, Q).

    Args:
        masks: logits (S, Q, h, w).
        target: (S, 1, H, W) from 0 to 1; resized by area.
    """
    found, m = (masks > 0).to(target), F.interpolate(target, masks.shape[-2:], mode="area")
    return torch.minimum(found, m).sum((-2, -1)) / torch.maximum(found, m).sum((-2, -1))


class QueryLinking(nn.Module):
    """Linking object queries (LOQ): states of the image's queries attend to the best queries of the supports.

        S   = [s_1 + U w_{c(1)}, ...],  w_c the row of class c in the classifier
        Q'  = Q + MHA(LN(Q), S, S)
        Q'' = Q' + FFN(LN(Q'))

    Both last projections start at zero, so that a new network equals Mask2Former. Normalising in front of the
    attention, not behind, makes this exact: the states are normalised already, by learned factors.

    Args:
        dim: D.
        heads: of the attention.
        width: of the feed-forward network.
    """

    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.identity = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values: the module changes nothing."""
        last = self.ffn[-1]
        for tensor in (self.attention.out_proj.weight, last.weight, last.bias):
            nn.init.zeros_(tensor)  # pyright: ignore[reportArgumentType]

    def forward(self, states: Tensor, queries: Tensor, rows: Tensor) -> Tensor:
        """Linked states of (B, Q, D), by the supports' queries (S, k, D) and the rows (S, D) of their classes."""
        s = (queries + self.identity(rows)[:, None]).flatten(0, 1)  # (S k, D)
        s = s.expand(states.shape[0], -1, -1)  # `len` would fix the batch in exports
        linked = states + self.attention(self.norm1(states), s, s, need_weights=False)[0]
        return linked + self.ffn(self.norm2(linked))


# -- classifiers --------------------------------------------------------------------------------


class LinearClassifier(nn.Linear):
    """Mask2Former's classifier: a row for each class, and "no object" last."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(dim, classes + 1)

    @property
    def rows(self) -> Tensor:
        """(C, D)"""
        return self.weight[:-1]

    def added(self, count: int) -> LinearClassifier:
        """A classifier with rows of zeros added in front of "no object"; their bias is the mean of the others."""
        wider = LinearClassifier(self.in_features, len(self.rows) + count).to(self.weight)
        with torch.no_grad():
            wider.weight.copy_(torch.cat([self.rows, self.rows.new_zeros(count, self.in_features), self.weight[-1:]]))
            wider.bias.copy_(torch.cat([self.bias[:-1], self.bias[:-1].mean().expand(count), self.bias[-1:]]))
        return wider

    @torch.no_grad()
    def imprint(self, directions: Tensor) -> None:
        """Set the last rows: unit vectors (n, D), by the mean length of the rows in front of them."""
        old, new = self.rows.split([len(self.rows) - len(directions), len(directions)])
        new.copy_(old.norm(dim=1).mean() * directions)


class CosineClassifier(nn.Module):
    """The classifier of "RefT w/ Cos": logit = τ cos(q, w_c), with a linear "no object" last.

    Args:
        dim: D.
        classes: C.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim))
        self.no_object = nn.Linear(dim, 1)
        self.tau = nn.Parameter(torch.tensor(TAU))

    @property
    def rows(self) -> Tensor:
        """(C, D)"""
        return self.weight

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., C + 1)"""
        cosine = F.normalize(states, dim=-1) @ F.normalize(self.weight, dim=-1).T
        return torch.cat([self.tau * cosine, self.no_object(states)], -1)

    def added(self, count: int) -> CosineClassifier:
        """A classifier with rows of zeros added."""
        wider = CosineClassifier(self.weight.shape[1], len(self.weight) + count).to(self.weight)
        wider.no_object, wider.tau = self.no_object, self.tau
        with torch.no_grad():
            wider.weight.copy_(torch.cat([self.weight, self.weight.new_zeros(count, self.weight.shape[1])]))
        return wider

    @torch.no_grad()
    def imprint(self, directions: Tensor) -> None:
        """Set the last rows, (n, D)."""
        self.weight[-len(directions) :] = directions

    @classmethod
    def from_linear(cls, linear: LinearClassifier) -> CosineClassifier:
        """A cosine classifier that starts from the rows of a linear one."""
        cosine = cls(linear.in_features, len(linear.rows)).to(linear.weight)
        with torch.no_grad():
            cosine.weight.copy_(linear.rows)
            cosine.no_object.weight.copy_(linear.weight[-1:])
            cosine.no_object.bias.copy_(linear.bias[-1:])
        return cosine


# -- the network --------------------------------------------------------------------------------


class RefT(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """Mask2Former with two references to a support set, which the network keeps once it is fine-tuned.

    Batch norms of the image network keep the statistics of its pre-training, also in training.

    Args:
        classes: names, in the order of the labels.
        variant: size of the base detector, one of `VARIANTS`.
        network: arguments of `transformers.Mask2FormerConfig` that replace the variant's.
        mdw: the first reference, `MaskWeighting`.
        loq: the second reference, `QueryLinking`.
        cosine: `CosineClassifier` in place of the linear one.
        top_k: k.
        ffn: width of the feed-forward network of `QueryLinking`.
        gamma: γ of `MaskWeighting`.
        shots: S, supports that the network keeps.

    Example:
        >>> model = RefT(["disc", "star"]).eval()
        >>> images, masks = torch.rand(2, 3, 48, 48), torch.zeros(2, 1, 48, 48)
        >>> masks[..., 8:24, 8:24] = 1
        >>> supports = model.encode(images, masks, torch.tensor([0, 1]))
        >>> model(torch.rand(1, 3, 48, 48), supports).logits[-1].shape
        torch.Size([1, 8, 3])
    """

    def __init__(
        self,
        classes: Sequence[str],
        variant: str = "tiny",
        network: dict[str, Any] | None = None,
        mdw: bool = True,
        loq: bool = True,
        cosine: bool = False,
        top_k: int = 3,
        ffn: int = 1024,
        gamma: float = 1.0,
        shots: int = 0,
    ) -> None:
        super().__init__()
        _check(classes, top_k, ffn, gamma, shots)
        self.classes, self.top_k, self.cosine = tuple(classes), top_k, cosine
        self.net = build_network(variant, network, len(classes))
        config = self.net.config
        dim, heads = config.hidden_dim, config.num_attention_heads
        self.net.class_predictor = (CosineClassifier if cosine else LinearClassifier)(dim, len(classes))
        self.weighting = MaskWeighting(config.feature_size, heads, gamma) if mdw else None
        self.linking = QueryLinking(dim, heads, ffn) if loq else None
        if top_k > config.num_queries:
            what = f"top_k={top_k} of {config.num_queries} queries"
            raise Problem(what, "RefT", "link fewer queries of a support")

        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self._keep(
            torch.zeros(LEVELS, shots, config.feature_size),
            torch.zeros(shots, top_k if loq else 0, dim),
            torch.zeros(shots, dtype=torch.long),
            torch.zeros(shots, 4, PICTURE, PICTURE, dtype=torch.uint8),
        )
        self.register_load_state_dict_post_hook(RefT._group)

    def _group(self, _: object = None) -> None:
        """Group the supports that have been loaded by their classes; not in `forward`, which is to compile."""
        self.support_members = members_of(self.support_labels)

    def _keep(self, centres: Tensor, queries: Tensor, labels: Tensor, pictures: Tensor) -> None:
        grouped = labels.new_ones(0, 0, dtype=torch.bool) if labels.is_meta else members_of(labels)
        kept = {"centres": centres, "queries": queries, "labels": labels, "pictures": pictures}
        for name, tensor in kept.items():
            self.register_buffer(f"support_{name}", tensor)
        self.register_buffer("support_members", grouped, persistent=False)

    support_members: Tensor
    support_centres: Tensor
    support_queries: Tensor
    support_labels: Tensor
    support_pictures: Tensor
    """(S, 4, h, w) of 8 bits: image and mask of each support, for people"""
    mean: Tensor
    std: Tensor

    def train(self, mode: bool = True) -> RefT:
        """Training or evaluation; batch norms keep their statistics in both."""
        super().train(mode)
        for module in self.net.model.pixel_level_module.encoder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @property
    def refers(self) -> bool:
        """Whether supports change its predictions."""
        return self.weighting is not None or self.linking is not None

    # -- supports ---------------------------------------------------------------------------------

    def encode(self, images: Tensor, masks: Tensor, labels: Tensor, known: bool = True) -> Supports:
        """Encode a support set; the branch shares all weights with that of the query images.

        Args:
            images: (S, 3, H, W) from 0 to 1.
            masks: (S, 1, H, W) from 0 to 1: the object of each support.
            labels: (S,).
            known: the classifier knows the classes: a query's score is its probability of the class times the overlap
                of masks, p_j(c) IoU(mask_j, m). False: the overlap alone.

        Raises:
            Problem: other images than three channels, or an empty mask.
        """
        check_images(images, 3, "RefT")
        if not len(images) or not masks.flatten(1).any(1).all():
            raise Problem("an empty mask, or no support at all", "supports", "give an image and its mask for each")
        levels, mask_features = self._pixels(images)
        centres = torch.stack([mask_pooled(level, masks) for level in levels])  # (L, S, D)
        queries = centres.new_zeros(len(images), 0, self.net.config.hidden_dim)
        if self.linking is not None:
            states, predicted = self._decoded(levels, mask_features)
            with torch.no_grad():
                score = mask_overlap(predicted[-1], masks)  # (S, Q)
                if known:
                    probability = self.net.class_predictor(states[-1]).softmax(-1)
                    score = score * probability.gather(2, labels[:, None, None].expand(-1, score.shape[1], 1))[..., 0]
                best = score.topk(self.top_k).indices
            queries = states[-1].gather(1, best[..., None].expand(-1, -1, states[-1].shape[-1]))
        return Supports(centres, queries, labels, members_of(labels))

    @torch.no_grad()
    def encode_all(self, images: Tensor, masks: Tensor, labels: Tensor, known: bool = True) -> Supports:
        """`encode` of any number of supports, some at a time, without gradients."""
        starts = range(0, len(images), CHUNK)
        parts = [self.encode(*(x[k : k + CHUNK] for x in (images, masks, labels)), known=known) for k in starts]
        return functools.reduce(together, parts)

    def remember(self, supports: Supports, pictures: Tensor) -> None:
        """Keep supports, in addition to those that are kept already; they go with the weights.

        Args:
            supports: encoded.
            pictures: (S, 4, h, w) of 8 bits, see `support_pictures`.
        """
        self._keep(
            torch.cat([self.support_centres, supports.centres.detach()], 1),
            torch.cat([self.support_queries, supports.queries.detach()]),
            torch.cat([self.support_labels, supports.labels]),
            torch.cat([self.support_pictures, pictures.to(self.support_pictures)]),
        )
        self._record(shots=len(self.support_labels))

    def forget(self) -> None:
        """Drop the supports that are kept."""
        self._keep(
            self.support_centres[:, :0], self.support_queries[:0], self.support_labels[:0], self.support_pictures[:0]
        )
        self._record(shots=0)

    def kept(self) -> Supports | None:
        """The supports that are kept; None: none."""
        if not len(self.support_labels):
            return None
        return Supports(self.support_centres, self.support_queries, self.support_labels, self.support_members)

    # -- classes ----------------------------------------------------------------------------------

    def extend(self, names: Sequence[str]) -> None:
        """Add classes in front of "no object", with rows of zeros.

        Raises:
            Problem: a class that is there already.
        """
        _check_names((*self.classes, *names))
        self.classes = (*self.classes, *names)
        self.net.class_predictor = self.net.class_predictor.added(len(names))
        criterion, count = self.net.criterion, len(self.classes)
        criterion.num_labels = count
        weight = criterion.empty_weight
        criterion.register_buffer("empty_weight", torch.cat([weight.new_ones(count), weight[-1:]]))
        self._record(classes=list(self.classes))

    @torch.no_grad()
    def adopt(self, names: Sequence[str], images: Tensor, masks: Tensor, labels: Tensor) -> None:
        """Add classes by their supports alone: a row is the mean direction of the states that find their objects.

        Args:
            names: of the new classes; their labels follow those that are there.
            images: (S, 3, H, W).
            masks: (S, 1, H, W).
            labels: (S,); each new class has one or more supports, no other class has any.

        Raises:
            Problem: a class that is there already, or an empty mask.
        """
        self.eval()
        self.extend(names)
        supports = self.encode_all(images, masks, labels, known=False)
        if (kept := self.kept()) is not None:
            supports = together(kept, supports)
        found = []
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            output = self(images[part], supports)
            best = mask_overlap(output.masks[-1], masks[part]).argmax(1)
            found.append(output.states[torch.arange(len(best), device=best.device), best])
        states = F.normalize(torch.cat(found), dim=-1)
        rows = torch.stack([states[labels == label].mean(0) for label in labels.unique()])
        self.net.class_predictor.imprint(F.normalize(rows, dim=-1))

    def _record(self, **arguments: Any) -> None:
        """Change what `save_pretrained` writes of the constructor's arguments."""
        getattr(self, "_hub_mixin_config", {}).update(arguments)

    # -- Mask2Former with two references ------------------------------------------------------------

    def _pixels(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Features (B, D, h, w) at 1/32, 1/16 and 1/8, and mask features at 1/4."""
        found = self.net.model.pixel_level_module((images - self.mean) / self.std)
        return found.decoder_hidden_states, found.decoder_last_hidden_state

    def _decoded(
        self, levels: Sequence[Tensor], mask_features: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """States (B, Q, D) and mask logits (B, Q, h, w) of the initial queries and after each layer."""
        found = self.net.model.transformer_module(levels, mask_features, output_hidden_states=True)
        return tuple(state.transpose(0, 1) for state in found.intermediate_hidden_states), found.masks_queries_logits

    def forward(self, images: Tensor, supports: Supports | None = None) -> Output:
        """Predictions for images (B, 3, H, W) from 0 to 1.

        Args:
            images: height and width of at least 32 pixels.
            supports: a support set; None: the one that is kept, if any. Without supports this is Mask2Former.

        Raises:
            Problem: other images.
        """
        check_images(images, 3, "RefT", 32)
        if images.shape[0] == 0:
            raise Problem("an empty batch", "RefT", "give one image or more: Mask2Former takes no fewer")
        supports = self.kept() if supports is None else supports
        levels, mask_features = self._pixels(images)
        if supports is not None and self.weighting is not None:
            references = zip(levels, supports.centres, strict=True)
            levels = tuple(self.weighting(level, f, supports.members) for level, f in references)
        states, masks = self._decoded(levels, mask_features)
        final, final_masks = states[-1], masks[-1]
        if supports is not None and self.linking is not None:
            final = self.linking(final, supports.queries, self.net.class_predictor.rows[supports.labels])
            embedding = self.net.model.transformer_module.decoder.mask_predictor.mask_embedder(final)
            final_masks = torch.einsum("bqd,bdhw->bqhw", embedding, mask_features)
        logits = tuple(self.net.class_predictor(state) for state in (*states[:-1], final))
        return Output(logits, (*masks[:-1], final_masks), final)

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> Tensor:
        """Attention of cells at 1/8 to the class centres that are kept, (B, C_e + 1, h, w); "none" is last.

        Raises:
            Problem: no supports are kept, or the network has no `MaskWeighting`.
        """
        supports = self.kept()
        if supports is None or self.weighting is None:
            raise Problem("no supports to attend to", "RefT", "remember some first, in a network with mdw")
        return self.weighting.attention_map(self._pixels(images)[0][-1], supports.centres[-1], supports.members)

    def losses(self, output: Output, masks: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mask2Former's losses: Hungarian matching, cross-entropy, and binary cross-entropy and dice at points.

        Args:
            output: of `forward`.
            masks: (n, H, W) float of each image; n may be 0.
            labels: (n,) of each image.

        Returns:
            "loss", the weighted sum over all layers, and the parts of the final layer.
        """
        layers = zip(output.logits[:-1], output.masks[:-1], strict=True)
        parts = self.net.get_loss_dict(
            masks_queries_logits=output.masks[-1],
            class_queries_logits=output.logits[-1],
            mask_labels=list(masks),
            class_labels=list(labels),
            auxiliary_predictions=[{"class_queries_logits": c, "masks_queries_logits": m} for c, m in layers],
        )
        final = {name: parts[name] for name in ("loss_cross_entropy", "loss_mask", "loss_dice")}
        return {"loss": torch.stack(list(parts.values())).sum(), **final}


def together(one: Supports, other: Supports) -> Supports:
    """Both support sets."""
    labels = torch.cat([one.labels, other.labels])
    return Supports(
        torch.cat([one.centres, other.centres], 1), torch.cat([one.queries, other.queries]), labels, members_of(labels)
    )


def members_of(labels: Tensor) -> Tensor:
    """Which supports belong to each class that has any, (C_e, S) bool, classes in ascending order.

    Example:
        >>> members_of(torch.tensor([7, 2, 7])).int()
        tensor([[0, 1, 0],
                [1, 0, 1]], dtype=torch.int32)
    """
    return labels.unique()[:, None] == labels


def detections(
    logits: Tensor, masks: Tensor, canvas: tuple[int, int], shown: tuple[int, int], size: tuple[int, int], most: int
) -> Detections:
    """Instances of one image: the best (query, class) pairs; scores are class times mean mask probability.

    Args:
        logits: (Q, C + 1).
        masks: logits (Q, h, w).
        canvas: height and width of the network's input.
        shown: height and width of the part at its upper left that the image fills.
        size: height and width of the image.
        most: instances; those with an empty mask are left out.
    """
    probability = logits.softmax(-1)[:, :-1]
    scores, best = probability.flatten().topk(min(most, probability.numel()))
    query, labels = best // probability.shape[1], best % probability.shape[1]
    whole = F.interpolate(masks[None].float(), canvas, mode="bilinear", align_corners=False)
    whole = F.interpolate(whole[..., : shown[0], : shown[1]], size, mode="bilinear", align_corners=False)[0]
    found = whole > 0  # (Q, H, W)
    area = found.sum((-2, -1))
    quality = (whole.sigmoid() * found).sum((-2, -1)) / area.clamp(min=1)
    scores = scores * quality[query]
    order = scores.argsort(descending=True, stable=True)
    order = order[area[query[order]] > 0]
    kept = found[query[order]]
    return Detections(mask_boxes(kept), labels[order], scores[order], kept)


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes (n, 4) around masks (n, H, W) bool, none of them empty: x1, y1, x2, y2, with whole pixels inside.

    Example:
        >>> mask = torch.zeros(1, 6, 6, dtype=torch.bool)
        >>> mask[0, 2:4, 1:5] = True
        >>> mask_boxes(mask)
        tensor([[1., 2., 5., 4.]])
    """
    boxes = masks_to_boxes(masks)  # its last corner is a pixel inside
    return boxes + boxes.new_tensor([0, 0, 1, 1])


def _check(classes: Sequence[str], top_k: int, ffn: int, gamma: float, shots: int) -> None:
    check_whole("RefT", top_k=top_k, ffn=ffn)
    check_whole("RefT", 0, shots=shots)
    check_positive("RefT", gamma=gamma)
    _check_names(classes)


def _check_names(classes: Sequence[str]) -> None:
    if isinstance(classes, str) or not classes or not all(isinstance(name, str) and name for name in classes):
        raise Problem(f"classes={classes!r}", "RefT", "give the names of one class or more")
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise Problem(f"class {twice[0]!r} is there twice", "RefT", "give each class a name of its own")
