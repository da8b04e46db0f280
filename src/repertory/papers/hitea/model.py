"""HiTeA: a video encoder, a text encoder, a fusion encoder and a text decoder.

frames (B, T, 3, H, W) -> video states (B, M, d)         text ids (B, L) -> text states (B, L, d)
fuse(text, video)      -> video (B, M, d), text (B, L, d); the text's [CLS] says whether both match
decode(ids, states)    -> the next tokens of an answer (states: fused video and text) or a caption (states: video)
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_whole
from repertory.papers.hitea.text import FusionEncoder, TextDecoder, TextEncoder, TextSizes
from repertory.papers.hitea.video import FrameMean, MViT
from repertory.tasks.language import Decoding, check_vocabulary, decode, special_ids, tokenizer_from

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEMPERATURE = 0.07
BEAMS = Decoding("beam", beams=5, length_penalty=0.6, length_offset=5)
"""Of the released code: log-probability / ((5 + length) / 6)^0.6."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's preprocessing, for values from 0 to 1."""


class HiTeA(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """Video and text encoders with projections, fusion encoder with a matching head, text decoder.

    Args:
        tokenizer: JSON of the library tokenizers, with the tokens of `SPECIAL`.
        video: arguments of `MViT`.
        text: arguments of `TextSizes`; `vocab` and `hidden` follow from the tokenizer and the video encoder.
        embed_dim: of the space in which videos and texts are compared.
        max_length: tokens of a text, [CLS] and [SEP] included; longer ones are cut.
        order_blind: encode frames one by one and average them (a control).
        captions: texts that `predict` ranks, where the user gives none.

    Shape:
        frames (B, T, 3, H, W), ids (B, L), mask (B, L) -> embeddings (B, D) of videos and of texts, of unit length,
        and logits (B, 2) of mismatch and match of each pair.

    Raises:
        Problem: sizes that do not fit together; a tokenizer without special tokens, or larger than `text["vocab"]`.

    Example:
        >>> from repertory.tasks.language import word_tokenizer
        >>> words = word_tokenizer(["a red square moves left then down"], special=SPECIAL)
        >>> video = dict(img_size=16, frames=4, embed_dim=8, depth=2, widen_at=(1,), kv_stride=2)
        >>> text = dict(heads=2, intermediate=32, encoder_layers=1, built_layers=1, fusion_layers=1, decoder_layers=1)
        >>> model = HiTeA(words, video, text, embed_dim=8).eval()
        >>> [tuple(out.shape) for out in model(torch.rand(2, 4, 3, 16, 16), *model.tokens(["a square", "a disc"]))]
        [(2, 8), (2, 8), (2, 2)]
    """

    def __init__(
        self,
        tokenizer: str,
        video: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        embed_dim: int = 256,
        max_length: int = 25,
        order_blind: bool = False,
        captions: list[str] | None = None,
    ) -> None:
        super().__init__()
        check_whole("HiTeA", embed_dim=embed_dim)
        check_whole("HiTeA", 3, max_length=max_length)
        self.tokenizer = tokenizer_from(tokenizer)
        self.pad, self.unknown, self.start, self.stop, self.mask = special_ids(self.tokenizer, SPECIAL)
        self.max_length, self.captions = max_length, list(captions or [])
        network = MViT(**{**(video or {}), **({"frames": 2} if order_blind else {})})
        self.frames: int = (video or {}).get("frames", 16)
        self.img_size = network.img_size
        vocabulary = self.tokenizer.get_vocab_size()
        self.sizes = TextSizes(**{"vocab": vocabulary, **(text or {}), "hidden": network.num_features})
        check_vocabulary(self.tokenizer, self.sizes.vocab)

        self.visual_encoder = FrameMean(network) if order_blind else network
        self.text_encoder = TextEncoder(self.sizes)
        self.fusion_encoder = FusionEncoder(self.sizes)
        self.text_decoder = TextDecoder(self.sizes)
        self.vision_proj = nn.Linear(self.sizes.hidden, embed_dim)
        self.text_proj = nn.Linear(self.sizes.hidden, embed_dim)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.match_head = nn.Linear(self.sizes.hidden, 2)

    # -- encoders -------------------------------------------------------------------------------

    def encode_video(self, frames: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, M, d), the class token first."""
        return self.visual_encoder(frames)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L) -> (B, L, d), [CLS] first."""
        return self.text_encoder(ids, mask)

    def embed_video(self, states: Tensor) -> Tensor:
        """(B, M, d) -> (B, D), of unit length."""
        return F.normalize(self.vision_proj(states[:, 0]), dim=-1)

    def embed_text(self, states: Tensor) -> Tensor:
        """(B, L, d) -> (B, D), of unit length."""
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)

    def fuse(self, text: Tensor, mask: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Text (B, L, d), its mask, video (B, M, d) -> video (B, M, d), text (B, L, d)."""
        return self.fusion_encoder(text, mask, video)

    def match(self, text: Tensor, mask: Tensor, video: Tensor) -> Tensor:
        """States of both -> logits (B, 2): mismatch, match."""
        return self.match_head(self.fuse(text, mask, video)[1][:, 0])

    def forward(self, frames: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        video, text = self.encode_video(frames), self.encode_text(ids, mask)
        return self.embed_video(video), self.embed_text(text), self.match(text, mask, video)

    # -- text -----------------------------------------------------------------------------------

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """[CLS] text [SEP] of each, padded: ids (B, L), mask (B, L). A warning tells how many are cut."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        room = self.max_length - 2
        if cut := sum(len(row) > room for row in rows):
            warnings.warn(f"{cut} of {len(rows)} texts have more than {room} tokens and are cut", stacklevel=2)
        padded = [torch.tensor([self.start, *row[:room], self.stop]) for row in rows]
        ids = nn.utils.rnn.pad_sequence(padded, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in padded])
        device = self.temperature.device
        return ids.to(device), (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)

    def words(self, ids: Sequence[int]) -> str:
        """Tokens as text, special ones left out; word pieces are joined."""
        special = (self.pad, self.start, self.stop, self.mask)
        pieces = [self.tokenizer.id_to_token(number) or "" for number in ids if number not in special]
        return " ".join(pieces).replace(" ##", "")

    # -- answers and captions -------------------------------------------------------------------

    def question_states(self, frames: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """What the decoder reads to answer questions: fused video and text (B, M + L, d)."""
        return torch.cat(self.fuse(self.encode_text(ids, mask), mask, self.encode_video(frames)), 1)

    @torch.no_grad()
    def write(self, states: Tensor, most: int, decoding: Decoding = BEAMS) -> list[str]:
        """Texts of at most so many tokens that the decoder writes after reading states (B, M, d)."""
        first = torch.full((len(states),), self.start, device=states.device)
        stepper = _Stepper(self.text_decoder, states.repeat_interleave(decoding.rows, 0))
        return [self.words(row) for row in decode(stepper, first, self.stop, most, decoding)]

    def answer(self, frames: Tensor, questions: Sequence[str], most: int = 10) -> list[str]:
        """Answers to a question about each clip, by the released code's beam search."""
        return self.write(self.question_states(frames, *self.tokens(questions)), most)

    def caption(self, frames: Tensor, most: int = 25) -> list[str]:
        """A caption of each clip."""
        return self.write(self.encode_video(frames), most)

    # -- training -------------------------------------------------------------------------------

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in the video encoder."""
        video = self.visual_encoder
        (video.inside if isinstance(video, FrameMean) else video).set_grad_checkpointing(enable)


class _Stepper:
    """Reads what has been written anew for each token: texts are short."""

    def __init__(self, decoder: TextDecoder, states: Tensor) -> None:
        self.decoder, self.states = decoder, states
        self.ids = torch.empty(len(states), 0, dtype=torch.long, device=states.device)

    def step(self, ids: Tensor) -> Tensor:
        self.ids = torch.cat([self.ids, ids[:, None]], 1)
        return self.decoder(self.ids, torch.ones_like(self.ids), self.states)[:, -1]

    def reorder(self, rows: Tensor) -> None:
        self.ids, self.states = self.ids[rows], self.states[rows]
