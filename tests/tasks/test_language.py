"""Language models: folders, tokenizers, training, decoding."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.core.settings import Recipe
from repertory.core.study import Session
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

TEXTS = ["The cat sleeps.", "the dog barks.", "你好 world"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(TEXTS)
    return LanguageModel(small_gpt2(tokenizer_from(tokenizer).get_vocab_size(), 16, 2, 2, 24), tokenizer).eval()


def test_words_and_chinese_characters_are_tokens() -> None:
    tokenizer = tokenizer_from(word_tokenizer(TEXTS))
    assert tokenizer.encode("THE cat 你好!").tokens == ["the", "cat", "你", "好", "[UNK]"]
    assert special_ids(tokenizer, ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]) == [0, 1, 2, 3]
    with pytest.raises(Problem, match=r"no \[MASK\], <s>"):
        special_ids(tokenizer, ["[PAD]", "[MASK]", "<s>"])
    assert tokenizer_from(word_tokenizer(TEXTS, most=6)).get_vocab_size() == 6


def test_a_folder_is_written_and_read(model: LanguageModel, tmp_path: Path) -> None:
    model.save_folder(tmp_path / "lm")
    again = LanguageModel.from_folder(tmp_path / "lm").eval()
    ids = torch.tensor([[2, 5, 6]])
    torch.testing.assert_close(again(ids), model(ids))
    assert tokenizer_from(load_tokenizer(tmp_path / "lm")).get_vocab() == model.tokenizer.get_vocab()


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no causal language model"):
        LanguageModel.from_folder(tmp_path)
    with pytest.raises(Problem, match="tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)
    with pytest.raises(Problem, match="no tokenizer"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(Problem, match="not a tokenizer"):
        tokenizer_from("{}")
    with pytest.raises(Problem, match="the model's vocabulary 5"):
        LanguageModel(small_gpt2(5, 16, 1, 2, 8), word_tokenizer(TEXTS))


def test_training_learns_a_text(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(TEXTS)
    model = LanguageModel(small_gpt2(tokenizer_from(tokenizer).get_vocab_size(), 32, 1, 2, 8), tokenizer)
    row = [2, *model.tokenizer.encode(TEXTS[0]).ids, 3]
    trained = train_language_model(Session(0, tmp_path), model, [row] * 8, Recipe(epochs=40, batch_size=8, lr=1e-2))
    losses = list(token_losses(trained, [collate_rows([row, row[:3]])]))
    assert [count for _, count in losses] == [len(row) - 1, 2]
    assert losses[0][0] / losses[0][1] < 0.5
    assert trained.continuations([row[:1], row[:3]], stop=3, most=9, do_sample=False) == [row[1:-1], row[3:-1]]
    with pytest.raises(Problem, match="has 9 tokens, the language model reads 8"):
        train_language_model(Session(0, tmp_path / "b"), model, [[1] * 9], Recipe())


def test_long_texts_are_cut_and_none_is_lost() -> None:
    assert packed([[9] * 9, [5], [6, 7], [8]], 6, 2, 3) == [[2, 9, 9, 9, 9, 3], [2, 5, 6, 7, 8, 3]]
    assert packed([], 6, 2, 3) == []


class Markov:
    """The next token depends on the last one alone; beams are told apart by what they have read."""

    def __init__(self, log_probabilities: Tensor, rows: int) -> None:
        self.table, self.read = log_probabilities, torch.empty(rows, 0, dtype=torch.long)

    def step(self, ids: Tensor) -> Tensor:
        self.read = torch.cat([self.read, ids[:, None]], 1)
        return self.table[ids]

    def reorder(self, rows: Tensor) -> None:
        self.read = self.read[rows]


def test_wide_beams_find_the_best_text() -> None:
    table = torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).mul(2).log_softmax(-1)
    best: dict[int, tuple[float, list[int]]] = {}
    for first in (0, 1):
        for length in range(5):
            for middle in itertools.product(range(3), repeat=length):
                path = [first, *middle, *([3] if length < 4 else [])]
                score = sum(table[a, b].item() for a, b in itertools.pairwise(path)) / (len(path) - 1)
                best[first] = max(best.get(first, (-99.0, [])), (score, list(middle)))
    found = decode(Markov(table, 2 * 64), torch.tensor([0, 1]), 3, 4, Decoding("beam", beams=64))
    assert found == [best[0][1], best[1][1]]


def test_an_offset_softens_the_length_penalty() -> None:
    """Two texts: of one token with log-probability log 0.4, of two with log 0.6 + log 0.5; the stop token is free."""
    table = torch.full((4, 4), -1e4)
    table[0, 1], table[0, 2] = math.log(0.4), math.log(0.6)
    table[2, 1], table[2, 0] = math.log(0.5), math.log(0.5)
    table[1, 3] = 0.0
    for decoding, expected in (
        (Decoding("beam", beams=4, length_penalty=0.0), [[1]]),
        (Decoding("beam", beams=4, length_penalty=1.0), [[2, 1]]),
        (Decoding("beam", beams=4, length_penalty=1.0, length_offset=5), [[1]]),
    ):
        assert decode(Markov(table, 4), torch.tensor([0]), 3, 4, decoding) == expected


def test_one_beam_is_greedy() -> None:
    table = torch.randn(9, 9, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    first = torch.arange(8)
    greedy = decode(Markov(table, 8), first, 8, 12, Decoding("greedy"))
    assert decode(Markov(table, 8), first, 8, 12, Decoding("beam", beams=1)) == greedy
    assert decode(Markov(table, 8), first, 8, 12, Decoding("top_k", top_k=1)) == greedy
    assert decode(Markov(table, 8), first, 8, 12, Decoding("nucleus", top_p=1e-6)) == greedy


def test_beams_read_what_they_wrote() -> None:
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    markov = Markov(table, 3)
    decode(markov, torch.tensor([0]), 5, 6, Decoding("beam", beams=3))
    assert (markov.read[:, 0] == 0).all()
    assert len({tuple(row) for row in markov.read.tolist()}) == 3  # no beam was lost or doubled


def test_sampling_keeps_to_the_likeliest() -> None:
    table = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4, 4)
    torch.manual_seed(0)
    first = torch.zeros(400, dtype=torch.long)
    drawn = {row[0] for row in decode(Markov(table, 400), first, 9, 1, Decoding("top_k", top_k=2))}
    assert drawn == {0, 1}
    drawn = {row[0] for row in decode(Markov(table, 400), first, 9, 1, Decoding("nucleus", top_p=0.85))}
    assert drawn == {0, 1, 2}


def test_decoding_is_checked() -> None:
    with pytest.raises(Problem, match="did you mean beam"):
        Decoding("beams")  # pyright: ignore[reportArgumentType]
    with pytest.raises(Problem, match="top_k=0"):
        Decoding(top_k=0)
