"""ASCEND: the exact U-ViT and its samplers, the reconstructed encoder-decoder, the study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.cifar import write_cifar10
from repertory.papers.ascend import (
    SCHEDULES,
    VARIANTS,
    Diffuser,
    DiffusionViT,
    UViT,
    ascend,
    dpm_solver,
    euler,
    matched,
    noise_loss,
)
from repertory.papers.ascend.model import IMPROVEMENTS, PLAIN, Block, LocalMlp, count_parameters, skip_sources
from repertory.papers.ascend.reading import DIGITS, read, transform
from repertory.papers.ascend.settings import AscendConfig
from repertory.papers.ascend.study import NOTE, AscendStudy
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

LINEAR = SCHEDULES["linear"]


def study(tmp_path: Path, data: Path | None = None, **changes: Any) -> AscendStudy:
    config = AscendConfig.model_validate({**AscendStudy.scales["smoke"].model_dump(), **changes})
    return AscendStudy(config, Session(0, tmp_path / "session", data))


@pytest.mark.parametrize("case", cases("ascend"))
def test_outputs_are_those_of_the_authors_code(case: dict[str, Any]) -> None:
    model = fill_(UViT(**case["config"]).eval())
    given = case["input"]
    with torch.no_grad():
        if "x" in given:
            y = None if given["y"] is None else torch.tensor(given["y"])
            output = model(probe(*given["x"]), torch.tensor(given["timesteps"]), y)
        else:
            t = torch.tensor(case["t"])
            torch.testing.assert_close(LINEAR.alpha_bar(t), torch.tensor(case["cum_alpha"]))
            torch.testing.assert_close(LINEAR.beta(t), torch.tensor(case["squared_diffusion"]))
            # The reference subtracts in float32, which costs it half a per mille at t = 0.001.
            torch.testing.assert_close(LINEAR.snr(t), torch.tensor(case["snr"]), rtol=1e-3, atol=0)
            x = probe(*given["x_init"])
            *_, output = euler(
                lambda x, t: model(x, 999 * t.expand(len(x))), x, given["sample_steps"], LINEAR, ode=True
            )
    assert_agrees(output, case, model)


@pytest.mark.parametrize(("variant", "count"), list(zip(VARIANTS, (44_255_328, 44_292_228, 130_940_292), strict=True)))
def test_published_sizes(variant: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in UViT(**VARIANTS[variant]).parameters()) == count


# -- the network --------------------------------------------------------------------------------

TINY: dict[str, Any] = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 4, "num_heads": 2}
SPLIT: dict[str, Any] = {**TINY, "depth": 3, "decoder_depth": 2, "decoder_dim": 12}
SWITCHED: dict[str, Any] = {k: v for part in IMPROVEMENTS.values() for k, v in part.items()}
KINDS = {"uvit": TINY, "plain": {**TINY, **PLAIN}, "improved": {**TINY, **SWITCHED}, "split": {**SPLIT, **SWITCHED}}


def network(**options: Any) -> DiffusionViT:
    torch.manual_seed(0)
    model = DiffusionViT(**{**TINY, **options}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_state_names_are_those_of_the_authors() -> None:
    names = set(UViT(**TINY, mlp_time_embed=True, num_classes=3).state_dict())
    assert {
        "pos_embed", "patch_embed.proj.weight", "time_embed.0.weight", "time_embed.2.bias", "label_emb.weight",
        "in_blocks.1.attn.qkv.weight", "in_blocks.0.mlp.fc1.bias", "mid_block.norm1.weight",
        "out_blocks.1.skip_linear.weight", "out_blocks.0.attn.proj.bias", "norm.bias", "decoder_pred.weight",
        "final_layer.weight",
    } <= names  # fmt: skip
    assert not any("qkv.bias" in name for name in names)


def test_the_initialisation_is_that_of_the_authors() -> None:
    torch.manual_seed(0)
    model = UViT(img_size=16, patch_size=2, embed_dim=128, depth=2, num_heads=2)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
            assert module.bias is None or not module.bias.any()
    assert float(model.pos_embed.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert model.patch_embed.proj.weight.std() > 0.1  # torch's own


def test_an_adaptive_block_starts_as_the_identity() -> None:
    block = Block(16, 2, time_dim=16)
    for parameter in cast(nn.Sequential, block.modulation).parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 5, 16)
    assert torch.equal(block(x, None, torch.randn(2, 16)), x)
    fresh = DiffusionViT(**TINY, **SWITCHED)
    blocks = [module for module in fresh.modules() if isinstance(module, Block)]
    assert len(blocks) == 5
    assert not any(cast(Tensor, cast(nn.Sequential, block.modulation)[1].weight).any() for block in blocks)


@pytest.mark.parametrize("kind", KINDS)
def test_time_and_image_matter_and_shapes_hold(kind: str) -> None:
    model = network(**KINDS[kind])
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        early, late = model(x, torch.full((3,), 10.0)), model(x, torch.full((3,), 900.0))
        assert early.shape == x.shape
        assert not torch.allclose(early, late, atol=1e-3)
        torch.testing.assert_close(model(x[1:2], torch.tensor([10.0])), early[1:2], rtol=1e-4, atol=1e-5)
        assert model(x[:0], torch.zeros(0)).shape == (0, 1, 8, 8)


def test_each_switch_changes_the_network() -> None:
    sizes = {name: count_parameters({**TINY, **switches}) for name, switches in IMPROVEMENTS.items()}
    assert min(sizes.values()) > count_parameters(TINY) > count_parameters({**TINY, **PLAIN})
    assert len(set(sizes.values())) == len(sizes)


def test_patches_lie_where_they_belong() -> None:
    """A patch that changes alone the tokens: without blocks' mixing its output pixels alone change."""
    model = network(depth=1, conv=False)
    for block in (model.mid_block,):
        assert block is not None
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.attn.proj.bias)
    x = torch.zeros(1, 1, 8, 8)
    y = x.clone()
    y[0, 0, 2:4, 6:8] = 1
    with torch.no_grad():
        changed = (model(x, torch.zeros(1)) - model(y, torch.zeros(1))).abs()[0, 0] > 1e-6
    assert changed[2:4, 6:8].all()
    assert int(changed.sum()) == 4


def test_the_depthwise_convolution_sees_neighbours_only() -> None:
    mlp = LocalMlp(4, 8, grid=3)
    x = torch.randn(1, 2 + 9, 4)
    y = x.clone()
    y[0, 2] += 1  # the first patch, a corner
    changed = (mlp(x) - mlp(y)).abs().amax(2)[0] > 1e-7
    assert changed.tolist() == [False, False, True, True, False, True, True, False, False, False, False]


def test_skips_go_from_the_deepest_to_the_first_block() -> None:
    assert skip_sources(3, 3) == [2, 1, 0]
    assert skip_sources(6, 2) == [5, 0]
    assert skip_sources(2, 5) == [1, 1, 0, 0, 0]
    assert skip_sources(1, 3) == [0, 0, 0]


def test_the_text_leaves_before_the_decoder_unless_asked() -> None:
    options = {**SPLIT, "text_dim": 6, "text_tokens": 5}
    x, t, text = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.randn(2, 5, 6)
    for kept, tokens in ((False, 17), (True, 22)):
        model = network(**options, decoder_text=kept)
        seen: list[int] = []

        def note(_module: nn.Module, _inputs: Any, output: Tensor, seen: list[int] = seen) -> None:
            seen.append(output.shape[1])

        model.out_blocks[0].register_forward_hook(note)
        first, second = model(x, t, context=text), model(x, t, context=text + 1)
        assert seen == [tokens, tokens]
        assert not torch.allclose(first, second, atol=1e-4)


def test_recomputed_blocks_give_the_same_gradients() -> None:
    model = network(**SPLIT, **SWITCHED).train()
    x, gradients = torch.randn(2, 1, 8, 8), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x, torch.tensor([1.0, 500.0])).square().mean().backward()
        gradients.append([cast(Tensor, p.grad).clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["improved", "split"])
def test_the_network_exports_with_any_batch(kind: str) -> None:
    model = network(**KINDS[kind])
    batch = torch.export.Dim("batch", min=2)
    given = (torch.randn(3, 1, 8, 8), torch.rand(3) * 999)
    program = torch.export.export(model, given, dynamic_shapes=({0: batch}, {0: batch}))
    x, t = torch.randn(5, 1, 8, 8), torch.rand(5) * 999
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x, t), model(x, t), rtol=1e-4, atol=1e-5)


def test_the_network_compiles_without_a_break() -> None:
    model = network(**SPLIT, **SWITCHED)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2) * 999
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, t), model(x, t))


@pytest.mark.parametrize("options", [TINY, {**TINY, **SWITCHED}, {**SPLIT, "decoder_dim": 16}])
def test_sizes_are_matched_by_the_widths(options: dict[str, Any]) -> None:
    found = matched(options, 60_000)
    assert count_parameters(found) == pytest.approx(60_000, rel=0.02)
    assert {k for k in found if found[k] != options.get(k)} <= {"embed_dim", "decoder_dim", "mlp_ratio"}


def test_arms_have_one_size_at_every_scale(tmp_path: Path) -> None:
    for scale in ("smoke", "laptop"):
        figures = study(tmp_path, **AscendStudy.scales[scale].model_dump()).measure()
        assert cast(float, figures["largest_size_difference"]) < 2


@pytest.mark.parametrize(
    ("options", "message", "remedy"),
    [
        ({"img_size": 9}, "9 pixels do not divide into patches of 2", "img_size 8 or 10"),
        ({"embed_dim": 15, "num_heads": 3}, "embed_dim=15 is odd", "12 or 18"),
        ({"num_heads": 3}, "does not divide into 3 heads", "12 or 18"),
        ({"num_classes": 3, "text_dim": 4}, "labels and text at once", "num_classes or text_dim"),
        ({"decoder_dim": 8}, "without decoder_depth", "give decoder_depth"),
        ({"depth": 0}, "depth=0", "at least 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str, remedy: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        DiffusionViT(**{**TINY, **options})
    assert remedy in caught.value.remedy


def test_ascend_wants_the_stronger_encoder() -> None:
    with pytest.raises(Problem, match="not weaker"):
        ascend(2, 16, 4, 16, img_size=8, in_chans=1, num_heads=2)


def test_bad_inputs_are_named() -> None:
    with pytest.raises(Problem, match=r"\(1, 3, 8, 8\)"):
        network()(torch.zeros(1, 3, 8, 8), torch.zeros(1))
    with pytest.raises(Problem, match="without labels"):
        network(num_classes=3)(torch.zeros(1, 1, 8, 8), torch.zeros(1))


# -- the diffusion ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_beta_is_the_slope_of_log_alpha_bar(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.linspace(0.0123, 0.9, 7, dtype=torch.float64)
    slope = (schedule.log_alpha_bar(t + 1e-5) - schedule.log_alpha_bar(t - 1e-5)).double() / 2e-5
    tolerance = 2e-2 if name == "latent" else 1e-6  # its table is float32
    torch.testing.assert_close(schedule.beta(t).double(), -slope, rtol=tolerance, atol=1e-6)
    assert (schedule.alpha_bar(t) + schedule.noise_variance(t)).tolist() == pytest.approx([1] * 7)


def test_the_latent_schedule_is_that_of_the_discrete_betas() -> None:
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000).square()
    n = torch.tensor([1, 10, 500, 1000])
    torch.testing.assert_close(
        SCHEDULES["latent"].alpha_bar(n / 1000), (1 - betas).cumprod(0)[n - 1], rtol=1e-4, atol=1e-6
    )


def gaussian_noise(mean: float, std: float) -> Any:
    """The exact noise of data that are normal numbers."""

    def noise(x: Tensor, t: Tensor) -> Tensor:
        a, v = LINEAR.alpha_bar(t), LINEAR.noise_variance(t)
        return v.sqrt() * (x - a.sqrt() * mean) / (a * std**2 + v)

    return noise


@pytest.mark.parametrize(("sampler", "steps"), [("ode", 400), ("sde", 400), ("dpm", 30)])
def test_samplers_draw_from_the_distribution(sampler: str, steps: int) -> None:
    x = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    noise = gaussian_noise(mean=0.5, std=0.3)
    if sampler == "dpm":
        *_, x = dpm_solver(noise, x, steps, LINEAR)
    else:
        generator = torch.Generator().manual_seed(1)
        *_, x = euler(noise, x, steps, LINEAR, ode=sampler == "ode", generator=generator)
    assert (float(x.mean()), float(x.std())) == pytest.approx((0.5, 0.3), abs=0.03)


def test_the_solver_of_second_order_is_more_exact_than_euler() -> None:
    x = torch.randn(500, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    noise = gaussian_noise(0.5, 0.3)
    exact = 0.5 + 0.3 * x
    *_, of_euler = euler(noise, x, 20, LINEAR, ode=True)
    *_, of_solver = dpm_solver(noise, x, 20, LINEAR)
    assert float((of_solver - exact).abs().mean()) < 0.5 * float((of_euler - exact).abs().mean())


def diffuser(**options: Any) -> Diffuser:
    torch.manual_seed(0)
    model = Diffuser(dict(TINY), **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def test_an_image_prediction_gives_the_noise() -> None:
    model = diffuser(predicts="image")
    x, noise, t = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    noisy = model.schedule.noised(x, t, noise)
    torch.testing.assert_close(model.predicted_noise(x, noisy, t), noise, rtol=1e-3, atol=1e-3)


def test_the_network_sees_999_t() -> None:
    model = diffuser()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.25, 0.75])
    torch.testing.assert_close(model(x, t), model.network(x, 999 * t))


def test_guidance_extrapolates_from_the_empty_condition() -> None:
    model = diffuser(classes=["a", "b"])
    labels = cast(Tensor, model.conditions("b", 2))
    assert labels.tolist() == [1, 1]
    generator = torch.Generator().manual_seed(3)
    noise, first, *_ = model.trajectory(2, steps=2, condition=labels, guidance=1.5, generator=generator)
    t = torch.ones(2)
    with torch.no_grad():
        given, without = model(noise, t, labels), model(noise, t, torch.tensor([2, 2]))
        guided = given + 1.5 * (given - without)
    *_, expected = euler(lambda x, t: guided, noise, 2, LINEAR, ode=True)
    step = next(iter(euler(lambda x, t: guided, noise, 2, LINEAR, ode=True)))
    torch.testing.assert_close(first, step)
    assert not torch.equal(expected, step)


def test_dropped_conditions_are_the_empty_one() -> None:
    torch.manual_seed(0)
    model = diffuser(classes=["a", "b"])
    dropped = model.dropped(torch.zeros(2000, dtype=torch.long), 0.1)
    assert set(dropped.tolist()) == {0, 2}
    assert float((dropped == 2).float().mean()) == pytest.approx(0.1, abs=0.03)
    words = diffuser(words=["a", "seven"], text_dim=4)
    prompt = cast(Tensor, words.conditions("A seven!", 2000))
    assert prompt.shape == (2000, 77)
    assert prompt[0, :3].tolist() == [1, 2, 0]
    emptied = (words.dropped(prompt, 0.5) == 0).all(1).float().mean()
    assert float(emptied) == pytest.approx(0.5, abs=0.05)


def test_the_loss_is_that_of_the_formula() -> None:
    model, x = diffuser(), torch.randn(4, 1, 8, 8)
    torch.manual_seed(5)
    loss = noise_loss(model, model, x, None)
    torch.manual_seed(5)
    t, noise = torch.rand(4), torch.randn_like(x)
    a = torch.exp(-(0.1 * t + 19.9 * t**2 / 2)).view(4, 1, 1, 1)
    output = model.network(a.sqrt() * x + (1 - a).sqrt() * noise, 999 * t)
    torch.testing.assert_close(loss, (noise - output).square().mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "steps=1"),
        ({"guidance": 1.0}, "unconditional"),
        ({"sampler": "heun"}, "sampler='heun'"),
        ({"count": -1}, "count=-1"),
    ],
)
def test_bad_sampling_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        diffuser().sample(**{"count": 1, **options})
    with pytest.raises(Problem, match="a condition for every image"):
        diffuser(classes=["a", "b"]).sample(2)
    model = diffuser(classes=["a", "b"], guided=False)
    with pytest.raises(Problem, match="without empty conditions"):
        model.sample(1, condition=torch.tensor([0]), guidance=1.0)


# -- the study ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "sample"
    folder.mkdir()
    study(folder.parent).write_sample(folder)
    return folder


def test_the_sample_has_images_and_captions(sample: Path) -> None:
    data = read(sample, text=False, seed=0)
    assert data is not None
    assert (len(data.train), len(data.test), data.train.classes) == (80, 80, tuple("0123456789"))
    captioned = read(sample, text=True, seed=0)
    assert captioned is not None
    assert (len(captioned.train), len(captioned.test)) == (80, 80)
    for path, (text,) in captioned.captions.items():
        assert text.endswith(DIGITS[int(path.parent.name)])
    assert {text.split()[1] for (text,) in captioned.captions.values()} > {"thin", "thick"}
    x = transform(8, 1, None)(data.train.image(0))
    assert x.shape == (1, 8, 8)
    grey = np.asarray(data.train.image(0))[..., 0]
    torch.testing.assert_close(x[0], torch.tensor(grey / 127.5 - 1, dtype=torch.float32))


def test_each_seed_draws_its_own_images(tmp_path: Path, sample: Path) -> None:
    config = AscendConfig.model_validate({**AscendStudy.scales["smoke"].model_dump(), "train_share": 0.5})
    drawn = [
        AscendStudy(config, Session(seed, tmp_path / f"{k}", sample)).data().train.paths
        for k, seed in enumerate((0, 0, 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 40


@pytest.mark.parametrize("condition", ["class", "text"])
def test_train_save_load_and_predict(tmp_path: Path, sample: Path, condition: str) -> None:
    this = study(
        tmp_path, sample, condition=condition, eval_guidance=0.5, guidance=0.5, epochs=1, text_dim=8, text_tokens=4
    )
    data = this.data()
    model = this.train("ascend", data)
    metrics = this.evaluate(model, data)
    assert set(metrics) <= set(AscendStudy.metrics)
    assert ("obeyed" in metrics) == (condition == "class")
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    wanted = "7" if condition == "class" else "a seven"
    given = model.conditions(wanted, 2)
    with torch.no_grad():
        assert torch.equal(loaded(x, t, given), model(x, t, given))

    prediction = this.predict(loaded, Path(wanted))
    assert [row["request"] for row in prediction.table] == [wanted] * 4
    files = sorted(path.name for path in prediction.files["images"].iterdir())
    assert files == [row["file"] for row in prediction.table]
    with Image.open(prediction.files["images"] / files[0]) as image:
        assert (image.size, image.mode) == ((8, 8), "L")
    assert set(prediction.figures) == {"samples", "denoising"}
    assert "guidance 0.5" in prediction.text
    again = this.predict(loaded, Path(wanted))
    assert again.table == prediction.table

    requests = tmp_path / "requests.txt"
    requests.write_text(f"{wanted}\nelephant\n", encoding="utf-8")
    table = this.predict(loaded, requests).table
    assert [bool(row["problem"]) for row in table] == [False] * 4 + [True]
    with pytest.raises(Problem, match="elephant"):
        this.predict(loaded, Path("elephant"))


def test_an_unconditional_model_makes_a_number_of_images(tmp_path: Path, sample: Path) -> None:
    this = study(tmp_path, sample, epochs=1)
    model = this.train("uvit", this.data())
    assert len(this.predict(model, Path("3")).table) == 3
    for words in ("seven", "0", "1" * 9):
        with pytest.raises(Problem, match="unconditional"):
            this.predict(model, Path(words))
    guided = study(tmp_path, sample, condition="class", guidance=2.0)
    with pytest.raises(Problem, match="unconditional"):
        guided.predict(model, Path("3"))


def test_given_images_are_measured_a_broken_one_is_named(tmp_path: Path, sample: Path) -> None:
    this = study(tmp_path, sample, epochs=1)
    model = this.train("vit", this.data())
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(sample / "val" / "3" / "0000.png", folder / "good.png")
    Image.new("RGB", (20, 14), "red").save(folder / "large.png")
    (folder / "broken.png").write_bytes(b"no image")
    prediction = this.predict(model, folder)
    assert [row["file"] for row in prediction.table] == ["broken.png", "good.png", "large.png"]
    assert [bool(row["problem"]) for row in prediction.table] == [True, False, False]
    assert set(prediction.figures) == {"denoised", "error-over-time"}
    alone = this.predict(model, folder / "good.png").table[0]
    assert alone["error"] == pytest.approx(prediction.table[1]["error"], rel=1e-3)


def test_the_held_out_error_uses_the_same_noises_for_every_arm(tmp_path: Path) -> None:
    this = study(tmp_path)
    x = torch.randn(5, 1, 8, 8)

    class Zero(Diffuser):
        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            return torch.zeros_like(x)

    errors = this._errors(Zero(dict(TINY)), x, None)
    expected = [
        torch.randn(x.shape, generator=torch.Generator().manual_seed(k)).square().mean((1, 2, 3)) for k in range(2)
    ]
    torch.testing.assert_close(errors, torch.stack(expected))


def test_other_layouts_are_read(tmp_path: Path) -> None:
    def write(path: Path, size: tuple[int, int] = (10, 8)) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "green").save(path)

    for k in range(6):
        write(tmp_path / "flat" / f"{k}.png")
        write(tmp_path / "celeba" / "img_align_celeba" / f"{k:06d}.jpg", (178, 218))
        write(tmp_path / "cub" / "images" / f"{k % 2}.bird" / f"{k}.jpg")
    flat = read(tmp_path / "flat", text=False, seed=0)
    assert flat is not None
    assert (len(flat.train), len(flat.test)) == (5, 1)

    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("".join(f"{k:06d}.jpg {k % 3}\n" for k in range(6)))
    celeba = read(tmp_path / "celeba", text=False, seed=0)
    assert celeba is not None
    assert ([p.stem[-1] for p in celeba.train.paths], [p.stem[-1] for p in celeba.test.paths]) == (
        ["0", "3"],
        ["2", "5"],
    )
    assert celeba.crop == (89, 121, 128)

    (tmp_path / "cub" / "images.txt").write_text("".join(f"{k + 1} {k % 2}.bird/{k}.jpg\n" for k in range(6)))
    split = tmp_path / "cub" / "train_test_split.txt"
    split.write_text("".join(f"{k + 1} {int(k < 4)}\n" for k in range(6)))
    cub = read(tmp_path / "cub", text=False, seed=0)
    assert cub is not None
    assert (cub.train.labels, cub.test.labels, cub.train.classes) == ((0, 1, 0, 1), (0, 1), ("0.bird", "1.bird"))
    split.write_text("1 2\n")
    with pytest.raises(Problem, match="row 1: 1 2"):
        read(tmp_path / "cub", text=False, seed=0)


def test_cifar_10_is_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (15, 32, 32, 3), dtype=np.uint8)
    write_cifar10(tmp_path, (pixels[:10], [0, 1] * 5), (pixels[10:], [0] * 5), ["cat", "dog"])
    data = read(tmp_path, text=False, seed=0)
    assert data is not None
    assert (len(data.train), len(data.test), data.train.classes) == (10, 5, ("cat", "dog"))
    x = transform(32, 3, None)(data.train.image(0))
    torch.testing.assert_close(x, torch.tensor(pixels[0] / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"].pop(), "has no caption"),
        (lambda c: c["annotations"].append({"image_id": 777, "caption": "a dog"}), "a caption of image 777"),
        (lambda c: c["images"].append({"id": 99, "file_name": "none.png"}), "image 99 is not there"),
        (lambda c: c["images"].append({"id": 98, "file_name": "../../x.png"}), "image 98 is not there"),
        (lambda c: c.pop("images"), "not in COCO's format"),
        (lambda c: c["images"].append(c["images"][0]), "the same id"),
    ],
)
def test_bad_captions_are_named(tmp_path: Path, sample: Path, change: Any, message: str) -> None:
    shutil.copytree(sample, tmp_path / "data")
    file = tmp_path / "data" / "annotations" / "captions_val.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(Problem, match=message):
        read(tmp_path / "data", text=True, seed=0)


def test_bad_data_and_settings_are_refused(tmp_path: Path, sample: Path) -> None:
    this = study(tmp_path, sample, batch_size=81)
    with pytest.raises(Problem, match="80 training images, fewer than the batch of 81"):
        this.train("vit", this.data())
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no data for ascend"):
        this.read(tmp_path / "empty")
    with pytest.raises(Problem, match="files of captions"):
        study(tmp_path, condition="text").read(tmp_path / "empty")
    with pytest.raises(ValidationError, match="guidance needs condition"):
        study(tmp_path, guidance=1.0)
    for setting in ({"steps": 1}, {"channels": 2}, {"arch": "uvit_h"}, {"noise_schedule": "sqrt"}):
        with pytest.raises(ValidationError):
            AscendConfig.model_validate(setting)


def test_grey_and_colour_are_converted_with_a_word(tmp_path: Path, sample: Path) -> None:
    this = study(tmp_path, sample, channels=3, epochs=1)
    with pytest.warns(UserWarning, match="grey images, converted to RGB"):
        model = this.train("vit", this.data())
    assert model.shape == (3, 8, 8)


def test_convert_reads_the_authors_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"a": {**TINY, "num_classes": 3}, "b": dict(SPLIT)}
    monkeypatch.setattr("repertory.papers.ascend.study.VARIANTS", small)
    network = fill_(UViT(**small["a"]).eval())
    torch.save(network.state_dict(), tmp_path / "nnet_ema.pth")
    this = study(tmp_path)
    for variant in ("", "a"):
        model = this.convert(tmp_path / "nnet_ema.pth", variant)
        x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.9])
        with torch.no_grad():
            assert torch.equal(model(x, t, torch.tensor([0, 2])), network(x, 999 * t, torch.tensor([0, 2])))
    with pytest.raises(Problem, match="not the weights of b") as caught:
        this.convert(tmp_path / "nnet_ema.pth", "b")
    assert "a fits" in caught.value.remedy
    with pytest.raises(Problem, match="no variant 'c'"):
        this.convert(tmp_path / "nnet_ema.pth", "c")


def test_the_published_recipe(tmp_path: Path) -> None:
    paper = AscendStudy.scales["paper"]
    assert isinstance(paper, AscendConfig)
    steps = paper.epochs * (50_000 // paper.batch_size)
    assert steps == pytest.approx(500_000, rel=0.01)
    assert paper.warmup_epochs * 390 == pytest.approx(2500, rel=0.01)
    this = AscendStudy(paper, Session(0, tmp_path))
    assert count_parameters(this.network("uvit")) == 44_255_328
    ours = this.network("ascend")
    assert count_parameters(ours) == pytest.approx(44_255_328, rel=0.02)
    assert ours["depth"] > ours["decoder_depth"]


def test_own_data_get_a_recipe_of_their_size(tmp_path: Path, sample: Path) -> None:
    own = cast(AscendConfig, AscendStudy.own)
    this = AscendStudy(own, Session(0, tmp_path / "session", sample))
    data = this.data()
    config = this.scaled(data, {"image_size"})
    assert config.batch_size <= 80
    assert config.eval_samples == 80
    assert 1 / (1 - config.ema_decay) <= config.epochs * (80 // config.batch_size) / 9
    small = study(tmp_path, sample)
    lines = small.preview("ascend", data)
    assert any("parameters" in line for line in lines)
    assert lines[-1] == NOTE
