"""llm_drums: fidelity, text, structure, language models, generation, endpoint, sound, use, and bad input."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy.io import wavfile
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from repertory.core import checkpoint
from repertory.core.problem import Damaged, Problem
from repertory.core.study import Session
from repertory.data import drums, grooves
from repertory.data.drums import Drums, grid_text, read_midi, text_grid
from repertory.nn.encoders import build_encoder, load_encoder
from repertory.papers.llm_drums import language
from repertory.papers.llm_drums.endpoint import KEY, HTTPDrummer, write_jsonl
from repertory.papers.llm_drums.language import Windows, byte_tokenizer, docstrings, small_gpt2
from repertory.papers.llm_drums.model import (
    EMPTY,
    Drummer,
    Example,
    Grammar,
    RuleDrummer,
    Writer,
    completion_loss,
    is_well_formed,
    make_example,
    make_prompt,
    rows_of,
    separated,
    sounding,
)
from repertory.papers.llm_drums.race import levenshtein, race_grooves, stabilities_in_python
from repertory.papers.llm_drums.settings import DrumsConfig
from repertory.papers.llm_drums.sound import RATE, kit, render, write_wav
from repertory.papers.llm_drums.structure import clusters, measures_of, seen_share, stabilities, structure
from repertory.papers.llm_drums.study import DrumsStudy
from tests.fidelity.cases import cases
from tests.fidelity.fill import probe

TINY = small_gpt2(16, 1, 2, 512)
CASES = cases("llm_drums")


def random_grid(rows: int = 256, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((rows, 6)) < 0.3


def example(seed: int = 0, **options: Any) -> Example:
    found = make_example(f"1_{seed}", Drums(random_grid(seed=seed)), **options)
    assert found
    return found


def tiny(seed: int = 0, **options: Any) -> Drummer:
    torch.manual_seed(seed)
    return Drummer(TINY, byte_tokenizer(), **options).eval()


# -- fidelity ---------------------------------------------------------------------------------------


def check_structure(text: str, case: dict[str, Any]) -> None:
    values = stabilities([measures_of(text)])[0]
    assert values.tolist() == case["stabilities"]
    assert values.mean() == pytest.approx(case["mean"])
    assert clusters(values) == pytest.approx((case["centre_gap"], case["within_cluster"]))


@pytest.mark.parametrize("case", [case for case in CASES if "grid" in case.values[0]["config"]])
def test_structure_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    check_structure(grid_text((probe(256, 6) > 0).numpy()), case)


@pytest.mark.realdata
@pytest.mark.parametrize("case", [case for case in CASES if case.values[0]["name"].startswith("encode")])
def test_real_grooves_agree_with_the_released_texts(case: dict[str, Any], real_data: Callable[[str], Path]) -> None:
    found = read_midi(real_data("groove_midi") / "groove" / case["input"])
    text = grid_text(found.grid)
    assert (text.count("\n"), found.grid.sum()) == (case["lines"], case["hits"])
    assert sha256(text.encode()).hexdigest() == case["sha256_text"]
    assert text.splitlines()[:4] == case["row_0_to_3"]
    assert (len(sounding(text)) < 256) is case["stripped"]
    made = make_example("", found)
    assert made
    assert sha256(made.prompt.encode()).hexdigest() == case["sha256_prompt"]
    assert sha256(made.completion.encode()).hexdigest() == case["sha256_completion"]
    check_structure(text, case)


@pytest.mark.realdata
@pytest.mark.parametrize("case", [case for case in CASES if "files" in case.values[0]["config"]])
def test_structure_of_real_grooves_agrees(case: dict[str, Any], real_data: Callable[[str], Path]) -> None:
    folder = real_data("groove_midi") / "groove"
    texts = [grid_text(read_midi(folder / name).grid) for name in case["config"]["files"]]
    found = structure(stabilities([measures_of(text) for text in texts]))
    assert found
    assert (found.stability, found.centre_gap, found.within_cluster) == pytest.approx(
        (case["mean_stability"], case["mean_centre_gap"], case["mean_within_cluster"])
    )


# -- text -------------------------------------------------------------------------------------------


def test_a_groove_becomes_prompt_and_completion_and_is_found_again() -> None:
    made = example()
    lines = made.prompt.splitlines()
    assert [k for k, line in enumerate(lines) if line == "SEP"] == [16, 33]
    assert len(lines) == 34
    assert made.prompt.endswith("SEP\n")
    assert made.completion.endswith("\nEND")
    assert made.completion.count("SEP") == 13  # none after the last measure
    assert len(made.prompt + made.completion) == 16 * (16 * 7 + 4) - 4 + 3
    assert made.text == grid_text(made.drums.grid)


def test_silence_at_the_beginning_goes_measure_by_measure() -> None:
    grid = random_grid()
    grid[:38] = False
    made = make_example("", Drums(grid))
    assert made
    assert made.text == grid_text(grid[48:])  # the third measure has hits, but none in its first 4 rows
    grid[:33] = False
    grid[33, 3] = True
    made = make_example("", Drums(grid))
    assert made
    assert made.text == grid_text(grid[32:])


def test_half_of_the_rows_must_be_left() -> None:
    grid = random_grid()
    grid[: 7 * 16] = False
    assert make_example("", Drums(grid))
    grid[: 8 * 16] = False
    assert make_example("", Drums(grid)) is None


def test_beginnings_and_trimmed_grooves() -> None:
    short = example(measures=4)
    assert short.text == grid_text(short.drums.grid[:64])
    assert len(short.prompt + short.completion) == 463
    grid = random_grid()
    grid[70:] = False
    whole, trimmed = (make_example("", Drums(grid), trim_silence=trim) for trim in (False, True))
    assert whole
    assert trimmed
    assert (whole.text.count("\n"), trimmed.text.count("\n")) == (256, 80)


def test_prompts_of_short_grooves() -> None:
    rows = ["o-----", *[EMPTY] * 15, "-o----"]
    assert make_prompt(rows, 2, "x") == separated([*rows, *[EMPTY] * 15])
    with pytest.raises(Problem, match=r"1 measure\(s\) with notes, and 2 are continued"):
        make_prompt(rows[:16] + [EMPTY] * 40, 2, "x")


def test_malformed_texts_are_told_from_others() -> None:
    assert is_well_formed(example().text, 256)
    assert not is_well_formed(example().text, 240)
    for text in ("", "o--o--\n" * 15, "o--o--\n" * 15 + "o--o-\n", "o--o--\n" * 15 + "o--o-x\n"):
        assert not is_well_formed(text)


# -- structure --------------------------------------------------------------------------------------


def test_distances_are_those_of_the_definition() -> None:
    many = race_grooves()
    ours, plain = stabilities(many), stabilities_in_python(many)
    assert [values.tolist() for values in ours] == [values.tolist() for values in plain]
    assert levenshtein("", "abc") == 3


def test_measures_at_the_ends_have_one_neighbour() -> None:
    measures = ["aa", "ab", "bb", "xx"]
    assert stabilities([measures], first=2, last=True)[0].tolist() == [1, 2]
    assert stabilities([measures], first=1)[0].tolist() == [1, 1]
    assert stabilities([measures], first=0, last=True)[0].tolist() == [1, 1, 1, 2]
    assert [len(s) for s in stabilities([[], ["a"], ["a", "b"]], 1)] == [0, 0, 0]


def test_newlines_of_the_authors_code_can_be_left_out() -> None:
    text = "o-----\n" * 16 + "-o----\n" * 16
    assert len(measures_of(text)[0]) == 16 * 6 + 15 * 2 + 1
    assert len(measures_of(text, compat=False)[0]) == 16 * 7
    assert len(measures_of("o-----\n" * 320)) == 16
    assert measures_of("") == []


def test_summaries() -> None:
    found = structure([np.array([0.0, 0, 10]), np.array([]), np.array([2.0, 2, 2])])
    assert found
    assert (found.stability, found.centre_gap, found.within_cluster) == pytest.approx((16 / 6, 5, 0))
    assert found.repeats == pytest.approx(100 / 3)
    assert structure([np.array([])]) is None
    assert seen_share(["o\n", "x\n", "---\n\n"], {"x\n", "---\n\n"}) == 50
    assert seen_share(["--\n"], set()) is None


def test_the_references_of_the_paper() -> None:
    text = example().text
    rng = np.random.default_rng(0)
    human, repeat, coins = (RuleDrummer(rule).groove(text, rng) for rule in ("human", "repeat", "random"))
    assert human == text
    assert repeat.splitlines()[:32] == text.splitlines()[:32]
    assert set(measures_of(repeat)[1:]) == {measures_of(text)[1]}
    fair = structure(stabilities([measures_of(coins)]))
    assert fair
    assert 35 < fair.stability < 46  # 40.38 in the released figures
    assert is_well_formed(coins, 256)


# -- language models --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pieces() -> str:
    """JSON of a BPE tokenizer of a few hundred pieces, trained on grooves."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([example(seed).prompt + example(seed).completion for seed in range(4)], trainer)
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pieces: str) -> Path:
    """A language model of Hugging Face that knows nothing of drums."""
    path = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    vocabulary = Tokenizer.from_str(pieces).get_vocab_size()
    network = build_encoder({**TINY, "vocab_size": vocabulary}, "AutoModelForCausalLM")
    language.save_causal_lm(network, pieces, path)
    return path


def test_tokens_are_bytes() -> None:
    model = tiny()
    text = "o--o--\nSEP\nEND é 鼓 \x00"
    ids = model.encode(text)
    assert len(ids) == len(text.encode())
    assert model.tokenizer.decode(ids) == text
    assert model.tokenizer.get_vocab_size() == 256
    assert sum(p.numel() for p in Drummer(small_gpt2(64, 2, 4, 512), byte_tokenizer()).parameters()) == 149_248


def test_a_saved_drummer_is_a_folder_of_hugging_face(tmp_path: Path) -> None:
    model = tiny(measures=4)
    checkpoint.save(model, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model")
    ids = torch.tensor([model.encode(example().prompt)])
    torch.testing.assert_close(again(ids), model(ids), rtol=0, atol=0)
    assert (again.measures, again.given) == (4, 2)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(theirs(input_ids=ids).logits, model(ids))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer(example().prompt)["input_ids"] == ids[0].tolist()
    about = json.loads((tmp_path / "model/drummer.json").read_text(encoding="utf-8"))
    assert about["text"]["columns"] == list(drums.COLUMNS)


def test_damaged_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    checkpoint.save(tiny(), tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(Damaged):
        checkpoint.load(tmp_path / "model")
    (tmp_path / "model/drummer.json").unlink()
    with pytest.raises(Damaged):
        checkpoint.load(tmp_path / "model")
    with pytest.raises(Problem, match="no causal language model of Hugging Face here"):
        load_encoder(tmp_path, "AutoModelForCausalLM")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    with pytest.raises(Problem, match="the causal language model cannot be loaded"):
        load_encoder(tmp_path, "AutoModelForCausalLM")
    with pytest.raises(Problem, match="transformers cannot build the causal language model"):
        Drummer({"model_type": "gpt77"}, byte_tokenizer())
    with pytest.raises(Problem, match="given=4 of measures=4"):
        Drummer(TINY, byte_tokenizer(), given=4, measures=4)


def test_lora_learns_few_weights_and_is_kept_as_an_adapter(tmp_path: Path, folder: Path) -> None:
    torch.manual_seed(0)
    model = Drummer.from_folder(folder, base=str(folder)).add_lora(language.LORA)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    assert {part for part in ("c_attn", "c_proj", "c_fc") if any(part in name for name in learning)} == {
        "c_attn", "c_proj", "c_fc",
    }  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    model.eval()
    checkpoint.save(model, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "drummer.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    ids = torch.tensor([model.encode(example().prompt)[:50]])
    expected = model(ids)
    torch.testing.assert_close(checkpoint.load(tmp_path / "model")(ids), expected, rtol=0, atol=0)
    torch.testing.assert_close(model.merge_lora()(ids), expected, rtol=1e-3, atol=1e-4)
    assert model.lora is None


def test_an_adapter_needs_its_base(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="an adapter without a base"):
        checkpoint.save(tiny().add_lora({"r": 2}), tmp_path / "model")


def test_the_loss_is_that_of_completions(pieces: str) -> None:
    torch.manual_seed(0)
    model = Drummer({**TINY, "vocab_size": 500, "n_positions": 2048}, pieces).eval()
    few = [example(0, measures=4), example(1, measures=3)]
    batch = model.collate(few)
    expected = []
    for one in few:
        prompt, completion = model.tokens(one)
        assert model.tokenizer.decode([*prompt, *completion]) == one.prompt + one.completion
        logs = model(torch.tensor([[*prompt, *completion]]))[0].log_softmax(-1)
        expected.append(-sum(logs[len(prompt) + k - 1, token] for k, token in enumerate(completion)))
    torch.testing.assert_close(
        model.nats(batch), torch.stack([torch.as_tensor(x) for x in expected]), rtol=1e-5, atol=0
    )
    total = sum(len(model.tokens(one)[1]) for one in few)
    torch.testing.assert_close(completion_loss(model, batch), model.nats(batch).sum() / total)
    weighted = model.collate(few, prompt_weight=0.01)
    assert weighted.weights.unique().tolist() == pytest.approx([0, 0.01, 1])
    assert completion_loss(model, weighted) != completion_loss(model, batch)


def test_examples_end_with_the_context() -> None:
    model = tiny()
    assert model.is_cut(example())
    assert not model.is_cut(example(measures=4))
    assert sum(map(len, model.tokens(example()))) == 512


def test_windows_meet_all_positions() -> None:
    torch.manual_seed(0)
    windows = Windows(torch.arange(100), length=10, count=300, context=16)
    found = [windows[k] for k in range(len(windows))]
    assert {tuple(ids.tolist()) for ids, _ in found} <= {tuple(range(k, k + 10)) for k in range(91)}
    assert set(torch.cat([positions for _, positions in found]).tolist()) == set(range(16))
    assert len(Windows(torch.arange(5), length=10, count=1, context=16)[0][0]) == 5


def test_docstrings_are_kept_and_a_longer_text_begins_like_a_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path))
    short = docstrings(5000)
    assert len(short) == 5000
    assert len(list(tmp_path.iterdir())) == 1
    assert docstrings(9000)[:5000] == short
    next(tmp_path.iterdir()).write_text("{broken", encoding="utf-8")
    assert docstrings(5000) == short


# -- generation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_constrained_completions_are_whole_measures(kind: str, pieces: str) -> None:
    torch.manual_seed(1)
    network = {**TINY, "n_positions": 2048, "vocab_size": 300 if kind == "bytes" else 500}
    model = Drummer(network, byte_tokenizer() if kind == "bytes" else pieces, measures=4).eval()
    prompts = [example(seed).prompt for seed in range(3)]
    found = model.complete(prompts, max_new_tokens=400, constrained=True)
    for prompt, text in zip(prompts, found, strict=True):
        assert is_well_formed(rows_of(prompt, text))
        assert text.count("\n") in (16, 16 + 17)


def test_the_cache_and_the_company_change_nothing(pieces: str) -> None:
    torch.manual_seed(0)
    model = Drummer({**TINY, "vocab_size": 400, "n_positions": 1024}, pieces).eval()
    prompts = [example(0).prompt, example(1, given=1).prompt]  # of different lengths
    together = model.complete(prompts, temperature=0, max_new_tokens=12)
    assert together == [model.complete([prompt], temperature=0, max_new_tokens=12)[0] for prompt in prompts]
    assert together == model.complete(prompts, temperature=0, max_new_tokens=12, use_cache=False)
    assert model.complete([]) == []


def test_completions_follow_the_seed_and_the_temperature() -> None:
    model = tiny()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.complete([example().prompt], max_new_tokens=20))
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(Problem, match="fill the context"):
        Drummer({**TINY, "n_positions": 64}, byte_tokenizer()).complete([example().prompt])


def test_a_text_ends_at_end() -> None:
    grammar = Grammar(tiny().tokenizer, 14)
    writer = Writer(grammar, 2, constrained=False)
    numbers = {piece: k for k, piece in enumerate(grammar.pieces)}
    stops = [
        writer.stop(torch.tensor([[0, numbers[a]], [0, numbers[b]]]), None).tolist()
        for a, b in zip("xENDx", "ENEND", strict=True)
    ]
    assert stops == [[False, False]] * 3 + [[True, False], [True, True]]


def test_the_grammar_is_that_of_completions() -> None:
    grammar = Grammar(tiny().tokenizer, 14)
    made = example()
    end = grammar.walk(Grammar.START, made.completion)
    assert end is not None
    assert end == (13, Grammar.DONE)
    assert grammar.allowed(end).all()
    assert grammar.walk(Grammar.START, made.completion.removesuffix("END") + "SEP\n") is None  # a fifteenth measure
    for text in ("x", "o-\n", "o--o--o", "o--o--\nSEP\n"):
        assert grammar.walk(Grammar.START, text) is None

    def letters(text: str) -> set[str]:
        state = grammar.walk(Grammar.START, text)
        assert state
        return {grammar.pieces[k] for k in grammar.allowed(state).nonzero().flatten().tolist()}

    assert letters("") == letters("o--o-") == {"o", "-"}
    assert letters("o--o--") == {"\n"}
    assert letters("o--o--\n" * 16) == {"S", "E"}
    assert letters("o--o--\n" * 16 + "E") == {"N"}
    assert letters(("o--o--\n" * 16 + "SEP\n") * 13 + "o--o--\n" * 16) == {"E"}


def test_a_tokenizer_that_cannot_write_rows_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "drum": 1}, unk_token="[UNK]"))
    with pytest.raises(Problem, match="no token of this tokenizer continues a row"):
        Grammar(words, 3).allowed(Grammar.START)


# -- endpoint ---------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """A stub on this machine: its address, what it was asked, and what it answers."""
    asked: list[dict[str, Any]] = []
    answer: dict[str, Any] = {"status": 200, "body": {"choices": [{"text": "o--o--\nENDrest"}]}}

    class Stub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            content = json.dumps(answer["body"]).encode()
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Stub) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked, answer
        running.shutdown()


def test_a_server_continues_grooves(
    server: tuple[str, list[dict[str, Any]], dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, asked, answer = server
    monkeypatch.setenv(KEY, "secret")
    checkpoint.save(HTTPDrummer(url, "drums"), tmp_path / "model")
    assert not any(b"secret" in path.read_bytes() for path in (tmp_path / "model").iterdir())
    model = checkpoint.load(tmp_path / "model")
    assert model.complete(["a\n", "b\n"], temperature=0.5, max_new_tokens=7) == ["o--o--\n"] * 2
    assert asked[1] == {
        "path": "/v1/completions", "key": "Bearer secret", "model": "drums", "prompt": "b\n", "temperature": 0.5,
        "max_tokens": 7, "stop": ["END"],
    }  # fmt: skip
    answer["body"] = {"error": "no such model"}
    with pytest.raises(Problem, match="an answer without choices"):
        model.complete(["a"])
    answer["status"] = 404
    with pytest.raises(Problem, match=r"the server refuses \(404\).*no such model"):
        model.complete(["a"])
    with pytest.raises(Problem, match="cannot be constrained"):
        model.complete(["a"], constrained=True)


def test_addresses_without_a_server_are_refused() -> None:
    with pytest.raises(Problem, match="no answer"):
        HTTPDrummer("http://127.0.0.1:9", "drums").complete(["a"])
    with pytest.raises(Problem, match="no address of a server"):
        HTTPDrummer("drums.local", "drums")
    assert HTTPDrummer("http://localhost/v1/", "x").url == "http://localhost/v1/completions"


def test_files_for_fine_tuning(tmp_path: Path) -> None:
    written = write_jsonl(tmp_path, "train", [example(0), example(1)])
    pairs, chats = ([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in written)
    assert pairs[1] == {"prompt": example(1).prompt, "completion": example(1).completion, "name": "1_1"}
    assert [turn["role"] for turn in chats[0]["messages"]] == ["user", "assistant"]
    assert chats[1]["messages"][1]["content"] == example(1).completion


# -- sound ------------------------------------------------------------------------------------------


def test_hits_can_be_heard_where_they_are(tmp_path: Path) -> None:
    grid = np.zeros((64, 6), dtype=bool)
    grid[16, 3] = True
    sound = render(grid, 480_000)  # 0.12 s a row
    start = round(16 * 0.12 * RATE)
    assert not sound[:start].any()
    assert np.abs(sound[start : start + 500]).max() > 0.3
    assert len(sound) >= 64 * 0.12 * RATE
    assert len({len(one) for one in kit()}) > 3
    write_wav(tmp_path / "a.wav", np.ones((32, 6), dtype=bool))
    rate, samples = wavfile.read(tmp_path / "a.wav")
    assert (rate, samples.dtype, samples.ndim) == (RATE, np.int16, 1)
    assert 10_000 < np.abs(samples.astype(int)).max() <= 32_000


# -- study ------------------------------------------------------------------------------------------


def study(tmp_path: Path, data: Path | None = None, **changes: Any) -> DrumsStudy:
    config = DrumsConfig.model_validate({**DrumsStudy.scales["smoke"].model_dump(), **changes})
    return DrumsStudy(config, Session(0, tmp_path / "trial", data))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample")
    grooves.write_grooves(path, 12)
    return path


def test_a_drawn_split_follows_the_seed(tmp_path: Path, sample: Path) -> None:
    config = study(tmp_path, train_grooves=5).config
    drawn = [DrumsStudy(config, Session(seed, tmp_path / str(seed))).data() for seed in (0, 0, 1)]
    names = [[e.name for e in data.test] for data in drawn]
    assert names[0] == names[1] != names[2]
    assert [(len(d.train), len(d.validation), len(d.test)) for d in drawn] == [(5, 2, 2)] * 3
    everything = [e.name for part in (drawn[2].train, drawn[2].validation, drawn[2].test) for e in part]
    assert len(set(everything)) == len(everything)
    with pytest.warns(UserWarning, match="files left out: 1 .evaluation sessions"):
        published = study(tmp_path, sample, split="published").data()
    assert len(published.train) == 8


def test_a_given_model_learns_by_lora_and_continues(tmp_path: Path, sample: Path, folder: Path) -> None:
    s = study(tmp_path, model=str(folder), lora=True, epochs=1, endpoint_files=True)
    data = s.data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a context of 512 tokens, of untrained pieces
        model = s.train("pretrained", data)
    assert isinstance(model, Drummer)
    assert model.lora
    assert Path(model.base) == folder
    metrics = s.evaluate(model, data)
    assert metrics["nll"] > 0
    assert len((tmp_path / "trial/annotation.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(data.test)
    lines = (tmp_path / "trial/endpoint/train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(data.train)
    for arm, kind, width in (("scratch", "small", 16), ("scratch", "same", 16), ("shuffled", "same", 16)):
        other = study(tmp_path / arm / kind, model=str(folder), scratch=kind, epochs=1, pretrain_steps=1, lora=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fresh = other.train(arm, data)
        assert isinstance(fresh, Drummer)
        assert fresh.lora is None
        assert fresh.network["n_embd"] == width
        assert fresh.json == model.json


def test_lora_on_a_model_of_the_spot_is_merged(tmp_path: Path) -> None:
    s = study(tmp_path, lora=True, epochs=1, pretrain_steps=1)
    model = s.train("pretrained", s.data())
    assert model.lora is None
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    s = study(tmp_path, model="no-such-model")
    with pytest.raises(Problem, match="no language model 'no-such-model' here"):
        s.train("pretrained", s.data())


def test_a_groove_is_continued_as_midi_text_sound_and_picture(tmp_path: Path) -> None:
    source = tmp_path / "groove.mid"
    drums.write_midi(source, random_grid(), 400_000)
    s = study(tmp_path, wav=True, max_new_tokens=300)
    found = s.predict(tiny(measures=4), source)
    folder = found.files["continued"]
    assert {path.name for path in folder.iterdir()} == {f"groove-continued.{e}" for e in ("mid", "txt", "wav")}
    text = (folder / "groove-continued.txt").read_text(encoding="utf-8")
    assert text == found.text
    assert text.splitlines()[:32] == grid_text(random_grid()).splitlines()[:32]
    written = read_midi(folder / "groove-continued.mid")
    assert written.tempo == 400_000
    assert (written.grid[: text.count("\n")] == text_grid(text)).all()
    assert found.table[0]["bpm"] == 150
    assert found.table[0]["well_formed"]
    assert set(found.figures) == {"groove-continued", "stability"}
    figure = found.figures["groove-continued"]
    assert [axes.get_title(loc="left").split(":")[0] for axes in figure.axes] == ["continued", "source"]


def test_text_is_continued_and_a_folder_with_broken_files(tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "groove.txt").write_text("o--o--\n" * 32, encoding="utf-8")
    s = study(tmp_path)
    one = s.predict(RuleDrummer("repeat"), inputs / "groove.txt")
    assert one.text == "o--o--\n" * 256
    drums.write_midi(inputs / "a.mid", random_grid())
    drums.write_midi(inputs / "short.mid", random_grid(16))
    (inputs / "broken.mid").write_bytes(b"no")
    many = s.predict(RuleDrummer("human"), inputs)
    assert [row["file"] for row in many.table] == ["a.mid", "broken.mid", "short.mid"]
    assert [bool(row["problem"]) for row in many.table] == [False, True, True]
    assert "1 measure(s)" in many.table[2]["problem"]
    with pytest.raises(Problem, match="not a MIDI file"):
        s.predict(RuleDrummer("human"), inputs / "broken.mid")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no grooves here"):
        s.predict(RuleDrummer("human"), tmp_path / "empty")


def test_folders_without_grooves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no data for llm_drums here"):
        study(tmp_path, tmp_path).data()
    with pytest.raises(ValueError, match="leave a measure"):
        DrumsConfig(given=4, measures=4)
    with pytest.raises(ValueError, match="no multiple of heads"):
        DrumsConfig(width=50, heads=4)


def test_the_preview_names_the_model_and_what_was_left_out(tmp_path: Path, sample: Path) -> None:
    s = study(tmp_path, sample)
    with pytest.warns(UserWarning, match="left out"):
        lines = s.preview("pretrained", s.data())
    assert lines[0].startswith("model: a GPT-2 on bytes, 1 layers")
    assert lines[1].startswith("grooves: 8, 2, 2")
    assert "fills" in lines[2]


@pytest.mark.realdata
def test_real_grooves_are_learned(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    short = {"real": "groove_midi", "train_grooves": 16, "epochs": 2, "split": "published"}
    s = study(tmp_path, real_data("groove_midi"), **short)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = s.data()
    assert len(data.test) == 20
    metrics = s.evaluate(RuleDrummer("human"), data)
    assert metrics["human_gap"] == 0
    model = s.train("scratch", data)
    first, last = (s.evaluate(m, data)["nll"] for m in (tiny(measures=4), model))
    assert last < first
