"""Unlearnable Clusters: fidelity to the authors' code, clusters, generators, surrogates, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from repertory.core.problem import Problem
from repertory.nn.macs import count_macs
from repertory.papers.unlearnable_clusters import (
    Generator,
    Surrogate,
    add_noise,
    bounded,
    centre_loss,
    clip_resnet,
    cluster,
    nearest,
    perturbation,
    targets,
)
from repertory.papers.unlearnable_clusters.model import rounded
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

# -- fidelity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("unlearnable_clusters"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    config = dict(case["config"])
    with torch.no_grad():
        if "features" in config:
            loss = centre_loss(probe(4, 1024), 0.5 * probe(4, 1024).flip(1))
            return assert_agrees(loss[None], case)
        if "layers" in config:
            tower = fill_(clip_resnet(**config)).eval()
            return assert_agrees(tower(probe(*case["input"][0])), case, tower)
        training = config.pop("mode").startswith("train")
        model = fill_(Generator(**config)).train(training)
        x = probe(*case["input"][0])
        assert_agrees(model(x), case, model)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.forward = lambda input: input  # the reference counts convolutions alone
        assert count_macs(model, x) == case["macs"]
    return None


def test_clip_is_timms_network() -> None:
    import timm

    with torch.device("meta"):
        ours, theirs = clip_resnet().state_dict(), timm.create_model("resnet50_clip", num_classes=1024).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}
    with pytest.raises(Problem, match="8 heads for a width of 64"):
        clip_resnet(heads=8)


# -- the method ---------------------------------------------------------------------------------


def test_the_loss_is_the_formula() -> None:
    features, target = torch.randn(5, 7), torch.randn(7)
    q, p = target.softmax(0), features.softmax(1)
    expected = (q * (q.log() - p.log())).sum(1).mean()
    torch.testing.assert_close(centre_loss(features, target), expected)
    assert float(centre_loss(target.expand(3, -1), target)) == pytest.approx(0, abs=1e-6)


def test_clusters_are_those_of_the_features() -> None:
    blobs = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    features = blobs.repeat_interleave(8, 0) + 0.1 * torch.randn(24, 2)
    centres, assigned = cluster(features, 3)
    assert len({tuple(assigned[8 * k : 8 * k + 8].tolist()) for k in range(3)}) == 3
    torch.testing.assert_close(centres[assigned[0]], features[:8].mean(0))
    assert torch.equal(nearest(features, centres), assigned)
    assert torch.equal(targets(centres), centres[[1, 2, 0]])
    assert torch.equal(targets(centres, 0), centres)


def test_bad_clusters_are_named() -> None:
    with pytest.raises(Problem, match="1 cluster: its images would be moved towards their own centre"):
        cluster(torch.randn(9, 2), 1)
    with pytest.raises(Problem, match="3 images for 10 clusters") as caught:
        cluster(torch.randn(3, 2), 10)
    assert "clusters=3" in caught.value.remedy


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_generator_gives_a_perturbation_of_any_size(norm: Any) -> None:
    generator = Generator(4, norm, n_blocks=1)
    convolutions = [m for m in generator.modules() if isinstance(m, torch.nn.Conv2d)][:-1]
    assert all((m.bias is not None) == (norm == "instance") for m in convolutions)
    delta = perturbation(generator, torch.rand(1, 3, 30, 22), eps=0.125)
    assert delta.shape == (1, 3, 30, 22)
    assert delta.detach().abs().max() <= 0.125
    perturbation(generator, torch.rand(1, 3, 32, 32), eps=1.0).sum().backward()
    assert all(p.grad is not None for p in generator.parameters())
    with pytest.raises(Problem, match="no norm 'layer'"):
        Generator(4, "layer")  # pyright: ignore[reportArgumentType]


def test_the_names_of_the_tensors_are_the_authors() -> None:
    keys = {key.rpartition(".")[0] for key in Generator(4).state_dict()}
    blocks = {f"model.{10 + k}.conv_block.{j}" for k in range(6) for j in (1, 2, 5, 6)}
    assert keys == blocks | {f"model.{k}" for k in (1, 2, 4, 5, 7, 8, 16, 17, 19, 20, 23)}


def test_both_norms_bound_the_perturbation() -> None:
    raw = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(bounded(raw, 0.5), raw.clamp(-0.5, 0.5))
    scaled = bounded(raw, 0.5, "l2")
    torch.testing.assert_close(scaled.flatten(1).norm(dim=1), torch.full((2,), 0.5))
    torch.testing.assert_close(F.normalize(scaled.flatten(1)), F.normalize(raw.flatten(1)))


def test_a_surrogate_stays_frozen() -> None:
    surrogate = Surrogate("small").train()
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    before = {key: value.clone() for key, value in surrogate.state_dict().items()}
    surrogate(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not surrogate.network.training
    assert all(p.grad is None for p in surrogate.parameters())
    assert all(torch.equal(value, before[key]) for key, value in surrogate.state_dict().items())


# -- pixels -------------------------------------------------------------------------------------


def test_noise_is_added_exactly_and_never_beyond_eps() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    delta = bounded(torch.randn(3, 40, 30), 16 / 255)
    protected = add_noise(pixels, rounded(delta))
    assert np.abs(protected.astype(int) - pixels).max() == 16
    value = torch.from_numpy(pixels).double() / 255 + delta.permute(1, 2, 0).double()
    expected = (value.clamp(0, 1) * 255 + 0.5).floor()  # the authors' way of writing a file
    assert (np.abs(protected - expected.numpy()) <= 1).all()
    assert (protected == expected.numpy()).mean() > 0.999


def test_noise_of_another_size_is_stretched_by_nearest_neighbours() -> None:
    noise = np.random.default_rng(0).integers(-16, 17, (8, 8, 3)).astype(np.int16)
    stretched = add_noise(np.full((20, 12, 3), 128, np.uint8), noise).astype(int) - 128
    expected = F.interpolate(torch.from_numpy(noise).permute(2, 0, 1)[None].float(), size=(20, 12), mode="nearest")
    assert np.array_equal(stretched, expected[0].permute(1, 2, 0).numpy())


def test_a_grey_image_gets_the_luminance() -> None:
    noise = np.array([[[16, -16, 0]]], np.int16)
    assert add_noise(np.full((3, 3), 100, np.uint8), noise)[0, 0] == 100 + round(16 * 0.299 - 16 * 0.587)
