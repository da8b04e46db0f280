"""CeCo: fidelity to the authors' code, the branch, hosts, collapse metrics, use, and bad input."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import ade20k
from repertory.papers.ceco import points
from repertory.papers.ceco.collapse import COLLAPSE_METRICS, Features, collapse_metrics, frame_metrics
from repertory.papers.ceco.hosts import DEEPLABS, UPerHead, make_host
from repertory.papers.ceco.model import VARIANTS, CeCoLoss, Classifier, pixel_loss, simplex_etf
from repertory.papers.ceco.network import CeCoNet, WithCentres, parameter_groups
from repertory.papers.ceco.points import CeCoPoints, Points
from repertory.papers.ceco.sample import CLASSES, STUFF, write_ade_tiny
from repertory.papers.ceco.settings import SWIN, CeCoConfig
from repertory.papers.ceco.study import ARMS, CeCoStudy
from repertory.papers.ceco.weights import load_pretrained, released_network, with_our_names
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

CLASSIFIERS: dict[str, Classifier] = {"UPerHead_ceco": "etf", "UPerHead_cecol": "random"}


# -- fidelity -----------------------------------------------------------------------------------


def labels_of(images: int, size: int, classes: int) -> Tensor:
    """The labels of the reference cases."""
    v = probe(images, size, size)
    labels = (((v + 1) / 2 * classes).trunc().clamp(0, classes - 1) * v.abs()).trunc().long()
    labels[:, :4] = 255
    return labels


@pytest.mark.parametrize("case", cases("ceco"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    c = case["config"]
    head = UPerHead(c["in_channels"], c["num_classes"], c["channels"], c["pool_scales"], drop_rate=0.0)
    branch = CeCoLoss(
        c["num_classes"], c["channels"], c["frequency"], CLASSIFIERS[c["head"]], weight=c["img_cls_weight"],
        scale=c["scale"], smooth=c["smooth"], drop_rate=0.0,
    )  # fmt: skip
    model = fill_(nn.ModuleDict({"head": head, "branch": branch}))
    branch.prior.copy_(torch.tensor(c["frequency"]))
    levels = [probe(*shape) for shape in case["input"]]
    labels = labels_of(case["input"][0][0], 64, c["num_classes"])
    with torch.no_grad():
        assert_agrees(head.eval()(levels), case)
        model.train()
        features = head.forward_features(levels)
        centres, count = branch.centres(features, labels)
        present = count.nonzero()[:, 0]
        logits = branch.logits(centres)
        losses = pixel_loss(head.classifier(features), labels), branch.loss(logits, count)
    assert present.tolist() == case["present_classes"]
    assert_agrees(logits[present], {"output": case["center_logits"]})
    assert [float(x) for x in losses] == pytest.approx(list(case["losses"].values()), rel=1e-4)
    # Their prior is a parameter, ours a buffer.
    assert sum(p.numel() for p in model.parameters()) + c["num_classes"] == case["params"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == case["params_trainable"]


# -- the branch ---------------------------------------------------------------------------------


def literal(branch: CeCoLoss, features: Tensor, labels: Tensor) -> tuple[Tensor, nn.BatchNorm2d]:
    """Loss of the centres as the authors compute it: reduce the map, upsample it, average it over each class."""
    assert branch.reduce is not None
    norm = nn.BatchNorm2d(128)
    x = norm(branch.reduce(features))
    x = F.interpolate(x, labels.shape[-2:], mode="bilinear", align_corners=True).movedim(1, -1)
    present = [k for k in labels.unique().tolist() if k != 255]
    f = branch.gain(torch.stack([x[labels == k].mean(0) for k in present]))
    logits = branch.classifier(F.normalize(f, dim=1) if branch.normalise else f) * branch.scale
    target = torch.full_like(logits, (1 - branch.smooth) / (branch.num_classes - 1))
    target[range(len(present)), present] = branch.smooth
    log_p = (logits + (branch.prior / branch.prior.sum() + 1e-12).log()).log_softmax(1)
    return -branch.weight * (target * log_p).sum() / target.sum(), norm


@pytest.mark.parametrize("size", [(9, 14), (6, 7), (24, 28), (4, 3)])
@pytest.mark.parametrize("variant", ["ceco", "rr"])
def test_loss_and_gradient_are_those_of_the_upsampled_map(size: tuple[int, int], variant: str) -> None:
    torch.manual_seed(0)
    branch = CeCoLoss(5, 12, prior=[90, 40, 9, 5, 1], drop_rate=0.0, **VARIANTS[variant])
    features = torch.randn(3, 12, 6, 7, requires_grad=True)
    labels = torch.randint(4, (3, *size))  # class 4 is absent
    labels[0, :2] = 255
    expected, norm = literal(branch, features, labels)
    (gradient,) = torch.autograd.grad(expected, features)
    found = branch(features, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, features)[0], gradient, rtol=1e-3, atol=1e-6)
    assert branch.norm is not None
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(branch.norm.get_buffer(name), buffer, rtol=1e-4, atol=1e-6)


def test_in_evaluation_the_branch_uses_its_statistics_and_writes_nothing() -> None:
    branch = CeCoLoss(5, 12)
    fill_(branch).eval()
    before = {name: tensor.clone() for name, tensor in branch.state_dict().items()}
    features, labels = torch.randn(2, 12, 6, 6), torch.randint(5, (2, 6, 6))
    assert branch.reduce is not None
    assert branch.norm is not None
    reduced = branch.norm(branch.reduce(features)).movedim(1, -1)
    expected = torch.stack([reduced[labels == k].mean(0) for k in range(5)])
    torch.testing.assert_close(branch.centres(features, labels)[0], expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in branch.state_dict().items())


def test_points_are_a_map_of_one_row() -> None:
    torch.manual_seed(0)
    branch = CeCoLoss(4, 8, drop_rate=0.0, ignore=-1)
    features, labels = torch.randn(50, 8), torch.randint(-1, 4, (50,))
    torch.testing.assert_close(branch(features, labels), branch(features.T[None, :, None], labels[None, None]))


@pytest.mark.parametrize("project", ["frozen", "learned", "none"])
def test_without_a_labelled_pixel_the_loss_is_0_and_finite(project: Any) -> None:
    branch = CeCoLoss(4, 8, project=project)
    features = torch.randn(2, 8, 3, 3, requires_grad=True)
    for labels in (torch.full((2, 6, 6), 255), torch.full((2, 6, 6), 4), torch.full((2, 3, 3), -1)):
        loss: Tensor = branch(features, labels)
        assert loss == 0
        (gradient,) = torch.autograd.grad(loss, features)
        assert (gradient == 0).all()


def test_the_gradient_pulls_features_to_the_rows_of_the_frame() -> None:
    torch.manual_seed(0)
    branch = CeCoLoss(6, 16, project="none", drop_rate=0.0)
    features = nn.Parameter(torch.randn(60, 16))
    labels = torch.arange(60) % 6
    optimizer = torch.optim.Adam([features], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        branch(features, labels).backward()
        optimizer.step()
    means = torch.stack([features[labels == k].mean(0) for k in range(6)]).detach()
    aligned = F.normalize(means, dim=1) @ branch.classifier.weight.T
    assert aligned.diagonal().min() > 0.9
    assert frame_metrics(means.double().numpy())["maximal_angle"] < 0.1


def test_the_frame() -> None:
    for classes, dim in ((2, 2), (5, 5), (150, 512)):
        frame = simplex_etf(classes, dim, torch.Generator().manual_seed(1)).double()
        expected = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1)
        torch.testing.assert_close(frame @ frame.T, expected, rtol=0, atol=1e-6)
    assert not torch.equal(simplex_etf(3, 4), simplex_etf(3, 4))


def test_what_is_frozen_and_what_is_stored() -> None:
    trained = {
        name: {p.partition(".")[0] for p, value in branch.named_parameters() if value.requires_grad}
        for name, branch in (
            ("ceco", CeCoLoss(4, 8)),
            ("rr", CeCoLoss(4, 8, **VARIANTS["rr"])),
            ("projection", CeCoLoss(4, 8, project="learned")),
            ("classifier", CeCoLoss(4, 8, classifier="learned")),
        )
    }
    assert trained == {
        "ceco": set(), "rr": set(), "projection": {"reduce", "norm", "gain"}, "classifier": {"classifier"},
    }  # fmt: skip
    one, other = CeCoLoss(4, 8, [4, 3, 2, 1], drop_rate=0.0), CeCoLoss(4, 8, drop_rate=0.0)
    other.load_state_dict(one.state_dict())
    features, labels = torch.randn(2, 8, 4, 4), torch.randint(4, (2, 8, 8))
    assert torch.equal(one(features, labels), other(features, labels))


def test_the_prior_asks_for_more_where_a_class_is_rare() -> None:
    torch.manual_seed(0)
    plain, adjusted = CeCoLoss(2, 8, drop_rate=0.0), CeCoLoss(2, 8, [999, 1], drop_rate=0.0)
    adjusted.load_state_dict({**plain.state_dict(), "prior": adjusted.prior})
    features = torch.randn(1, 8, 4, 4)
    rare, frequent = (torch.full((1, 4, 4), k) for k in (1, 0))
    assert adjusted(features, rare) > plain(features, rare) + 1
    assert adjusted(features, frequent) < plain(features, frequent)


def test_half_precision_features_give_a_full_precision_loss() -> None:
    torch.manual_seed(0)
    branch = CeCoLoss(4, 8, drop_rate=0.0)
    features, labels = torch.randn(2, 8, 4, 4), torch.randint(4, (2, 8, 8))
    expected = branch(features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = branch(features.bfloat16(), labels)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(expected), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 513}, "513 classes do not fit into 512 channels"),
        ({"num_classes": 9, "project": "none"}, "9 classes do not fit into 8 channels"),
        ({"num_classes": 1}, "a simplex needs 2"),
        ({"prior": [1, 2, 3]}, "a prior of 3 counts for 4 classes"),
        ({"prior": [1, 2, 3, -1]}, "negative"),
        ({"prior": [0, 0, 0, 0]}, "all 0"),
        ({"classifier": "ETF"}, "no classifier 'ETF'"),
        ({"project": "off"}, "no project 'off'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        CeCoLoss(**{"num_classes": 4, "feat_dim": 8, **options})
    if "fit" in message:
        assert f"at least {options['num_classes']} channels" in caught.value.remedy


def test_the_pixels_loss_divides_by_all_pixels_or_by_labelled_ones() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    labels[0] = 255
    valid = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(pixel_loss(logits, labels), valid / 2)
    torch.testing.assert_close(pixel_loss(logits, labels, avg_valid=True), valid)
    assert pixel_loss(logits, torch.full_like(labels, 255), avg_valid=True) == 0


# -- networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "channels"), [("mini", 48), ("resnet18", 32), ("swin_tiny_patch4_window7_224", 32), (DEEPLABS[0], 256)]
)
def test_networks_give_logits_losses_and_features(arch: str, channels: int) -> None:
    network = CeCoNet(arch, 4, branch={}, channels=32)
    assert network.host.num_features == channels
    images, labels = torch.rand(2, 3, 64, 96), torch.randint(4, (2, 64, 96))
    losses = network(images, labels)
    assert set(losses) == {"loss", "pixel", "centre"} | ({"aux"} if arch != "mini" else set())
    losses["loss"].backward()
    unused = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    with torch.no_grad():
        assert network.eval()(images[:, :, :50, :70]).shape == (2, 4, 50, 70)
        classes, features = network.answer(images[0, :, :, :50], (0.75, 1.0), flip=True)
    assert classes.shape == (64, 50)
    assert features.shape[0] == channels
    assert network.classifier_rows().shape == (4, channels)


def test_the_branch_changes_nothing_in_inference() -> None:
    torch.manual_seed(0)
    plain = CeCoNet("mini", 4).eval()
    torch.manual_seed(0)
    branched = CeCoNet("mini", 4, branch={}).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain(images), branched(images))
    assert branched(images[:0]).shape == (0, 4, 32, 32)


def test_it_compiles_and_exports() -> None:
    network = CeCoNet("mini", 4, branch={"prior": [4, 3, 2, 1]})
    images, labels = torch.rand(2, 3, 32, 32), torch.randint(4, (2, 32, 32))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert set(compiled(images, labels)) == {"loss", "pixel", "centre"}
    network.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(exported.module()(images[:1]), network(images[:1]))


def test_any_network_can_train_with_the_branch() -> None:
    network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    trained = WithCentres(network, "classifier.4", CeCoLoss(4, 256))
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(4, (2, 64, 64))
    output, loss = trained(images, labels)
    assert output["out"].shape == (2, 4, 64, 64)
    loss.backward()
    assert network.classifier[1].weight.grad is not None  # pyright: ignore[reportIndexIssue]
    assert set(trained(images)) == {"out"}
    with pytest.raises(Problem, match=r"no layer 'classifier.9'"):
        WithCentres(network, "classifier.9", CeCoLoss(4, 256))
    network.add_module("spare", nn.Conv2d(1, 1, 1))
    with pytest.raises(Problem, match="did not use its layer"):
        WithCentres(network, "spare", CeCoLoss(4, 256))(images, labels)


def test_unknown_networks_are_named() -> None:
    with pytest.raises(Problem, match="no network 'resnet19'; did you mean"):
        make_host("resnet19", 4)
    with pytest.raises(Problem, match="gives maps of the strides"):
        make_host("vit_tiny_patch16_224", 4)


def test_weight_decay_spares_norms_and_tables_of_positions() -> None:
    network = CeCoNet("swin_tiny_patch4_window7_224", 4, branch={}, channels=8)
    rates = {id(p): group["weight_decay"] for group in parameter_groups(network, 0.01) for p in group["params"]}
    named = {name: rates.get(id(p)) for name, p in network.named_parameters()}
    block = "host.encoder.layers_0.blocks.0."
    assert named[f"{block}attn.relative_position_bias_table"] == named[f"{block}norm1.weight"] == 0
    assert named["host.head.fuse.1.bias"] == named["host.norms.3.weight"] == 0
    assert named[f"{block}attn.qkv.bias"] == named["host.head.classifier.1.weight"] == 0.01
    assert named["branch.gain.0.weight"] is None


def test_point_clouds_have_features_of_their_voxels() -> None:
    torch.manual_seed(0)
    rooms = [(torch.rand(n, 3) * 0.8, torch.rand(n, 3), torch.randint(-1, 4, (n,))) for n in (40, 25)]
    cloud, labels = points.collate(rooms)
    network = CeCoPoints(4, branch={}, grid=(8, 8, 8))
    losses = network(cloud, labels)
    losses["loss"].backward()
    network.eval()
    single = Points(*rooms[1][:2], torch.zeros(25, dtype=torch.long))
    torch.testing.assert_close(network(cloud)[40:], network(single), rtol=1e-4, atol=1e-5)
    far = single._replace(places=single.places * 100)
    assert network.cells(far).max() < 8**3
    with pytest.raises(Problem, match="a grid of"):
        CeCoPoints(4, grid=(8, 6, 8))


# -- neural collapse ----------------------------------------------------------------------------


def test_collapsed_features_have_metrics_of_0() -> None:
    frame = simplex_etf(5, 8).double()
    features = Features(5)
    features.add(frame.repeat_interleave(3, 0) * 2 + 7, torch.arange(15) // 3)
    metrics = collapse_metrics(features, frame)
    assert set(metrics) == set(COLLAPSE_METRICS)
    assert max(metrics.values()) < 1e-5


def test_collapse_metrics_by_hand() -> None:
    rng = np.random.default_rng(0)
    means, w = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    noise = rng.normal(size=(4, 6, 3))
    noise -= noise.mean(1, keepdims=True)
    features = Features(5)  # one class is not seen
    values = torch.from_numpy((means[:, None] + noise).reshape(24, 3))
    features.add(values, torch.arange(24) // 6)
    metrics = collapse_metrics(features, torch.from_numpy(np.concatenate([w, np.ones((1, 3))])))
    m = means - means.mean(0)
    within = np.mean([n.T @ n / 6 for n in noise], 0)
    between = sum(np.outer(v, v) for v in m) / 4
    assert metrics["nc1"] == pytest.approx(np.trace(within @ np.linalg.inv(between)) / 4, rel=1e-4)
    cos = [m[i] @ m[j] / np.linalg.norm(m[i]) / np.linalg.norm(m[j]) for i in range(4) for j in range(4) if i != j]
    assert metrics["equiangularity"] == pytest.approx(np.std(cos), rel=1e-4)
    assert metrics["maximal_angle"] == pytest.approx(np.mean(np.abs(np.array(cos) + 1 / 3)), rel=1e-4)
    norms = np.linalg.norm(m, axis=1)
    assert metrics["equinorm"] == pytest.approx(norms.std() / norms.mean(), rel=1e-4)
    rows = w - w.mean(0)
    difference = rows / np.linalg.norm(rows) - m / np.linalg.norm(m)
    assert metrics["nc3"] == pytest.approx((difference**2).sum(), rel=1e-4)
    assert collapse_metrics(Features(5), torch.zeros(5, 3)) == {}


def test_features_are_taken_at_the_centres_of_their_places() -> None:
    features = Features(2)
    labels = torch.zeros(4, 6, dtype=torch.long)
    labels[1, 1] = labels[3, 5] = 1
    features.add(torch.arange(6.0).view(1, 2, 3), labels)
    assert [torch.cat(found).flatten().tolist() for found in features.of_class] == [[1, 2, 3, 4], [0, 5]]
    features.add(torch.zeros(1, 20, 20), torch.zeros(20, 20, dtype=torch.long))
    assert len(features.of_class[0][1]) == 50


# -- sample -------------------------------------------------------------------------------------


def test_the_sample_has_a_long_tail_and_all_classes_held_out(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        write_ade_tiny(tmp_path / name, 120, 40, seed)
    train, val = (ade20k.read_split(tmp_path / "a", part, None) for part in ("train", "val"))
    assert train.classes == CLASSES
    counts = np.array(ade20k.class_frequency(train, tmp_path / "a")["image"][len(STUFF) :])
    assert counts[:3].mean() > 3 * counts[-3:].mean()
    held_out = np.array(ade20k.class_frequency(val, tmp_path / "a")["image"])
    assert held_out.min() >= 3  # of 4 objects, one may be hidden
    other = ade20k.read_split(tmp_path / "b", "train", None)
    assert not torch.equal(train[0][0], other[0][0])
    assert (train[0][1] != 255).any()


# -- weights ------------------------------------------------------------------------------------


def mmseg_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names of UPerNet with Swin in mmsegmentation's."""
    table = {
        r"^host\.head\.pooling\.pools\.(\d)\.1\.": r"decode_head.psp_modules.\1.1.",
        r"^host\.head\.laterals\.": "decode_head.lateral_convs.",
        r"^host\.head\.smooth\.": "decode_head.fpn_convs.",
        r"^host\.head\.fuse\.": "decode_head.fpn_bottleneck.",
        r"^host\.head\.bottleneck\.": "decode_head.bottleneck.",
        r"^host\.head\.classifier\.1\.": "decode_head.conv_seg.",
        r"^host\.auxiliary\.0\.": "auxiliary_head.convs.0.",
        r"^host\.auxiliary\.1\.1\.": "auxiliary_head.conv_seg.",
        r"^((?:decode|auxiliary)_head\.(?!conv_seg).*)\.0\.weight$": r"\1.conv.weight",
        r"^((?:decode|auxiliary)_head\.(?!conv_seg).*)\.1\.(weight|bias|running_\w+|num_batches_tracked)$": r"\1.bn.\2",
        r"^branch\.prior$": "decode_head.weight",
        r"^branch\.reduce\.": "decode_head.reduce.0.",
        r"^branch\.norm\.": "decode_head.reduce.1.",
        r"^branch\.gain\.": "decode_head.gain.",
        r"^branch\.classifier\.": "decode_head.img_cls.1.",
        r"^host\.norms\.(\d)\.": r"backbone.norm\1.",
        r"^host\.encoder\.layers_(\d)\.downsample\.": lambda m: f"backbone.layers.{int(m[1]) - 1}.downsample.",
        r"^host\.encoder\.layers_": "backbone.layers.",
        r"^host\.encoder\.": "backbone.",
    }
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in table.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor[None] if name == "decode_head.weight" else tensor
    return renamed


def test_a_checkpoint_of_mmsegmentation_becomes_the_same_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = CeCoNet("swin_tiny_patch4_window7_224", 6, branch={"prior": [6, 5, 4, 3, 2, 1]}, channels=16).eval()
    state = mmseg_names(source.state_dict())
    assert {name.partition(".")[0] for name in state} == {"decode_head", "auxiliary_head", "backbone"}
    torch.save({"state_dict": {**state, "backbone.layers.0.blocks.0.attn.relative_position_index": torch.zeros(4)}},
               tmp_path / "iter_160000.pth")  # fmt: skip
    found = released_network(tmp_path / "iter_160000.pth")
    for name, tensor in source.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    other = CeCoNet("swin_tiny_patch4_window7_224", 4, branch={}, channels=16)
    with pytest.warns(UserWarning, match="newly initialised"):
        load_pretrained(other, str(tmp_path / "iter_160000.pth"))
    fuse = "host.head.fuse.0.weight"
    assert torch.equal(other.state_dict()[fuse], source.state_dict()[fuse])
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(Problem, match="not such a network"):
        released_network(tmp_path / "other.pth")
    with pytest.raises(Problem, match="no pretrained weights"):
        load_pretrained(CeCoNet("mini", 4), "imagenet")


def test_patch_merging_of_mmsegmentation_is_reordered() -> None:
    """Its unfolded neighbours come channel by channel, row by row; those of Swin's authors column by column."""
    x = torch.randn(1, 3, 4, 6)
    weight = torch.randn(5, 12)
    theirs = F.unfold(x, 2, stride=2).mT @ weight.T  # (1, 6, 5)
    ours = with_our_names({"backbone.stages.0.downsample.reduction.weight": weight})
    (moved,) = ours.values()
    places = [x[..., row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    neighbours = torch.cat(places, 1).flatten(2).mT
    torch.testing.assert_close(neighbours @ moved.T, theirs)


# -- use ----------------------------------------------------------------------------------------


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", **settings: Any) -> CeCoStudy:
    config = CeCoConfig.model_validate({**CeCoStudy.scales[scale].model_dump(), **settings})
    return CeCoStudy(config, Session(0, tmp_path / "session", data))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ade_tiny")
    write_ade_tiny(folder, 16, 4, 0)
    return folder


@pytest.mark.filterwarnings("ignore:.*in no training image")
def test_own_data_train_save_load_predict(tmp_path: Path, sample: Path) -> None:
    own = study(tmp_path, sample)
    data = own.read(sample)
    model = own.train("ceco", data)
    assert isinstance(model, CeCoNet)
    figures = {path.name for path in (tmp_path / "session" / "figures").iterdir()}
    assert {"cosines-of-centres.png", "collapse.png"} <= figures
    checkpoint.save(model, tmp_path / "model", paper="ceco")
    loaded = checkpoint.load(tmp_path / "model")
    with torch.no_grad():
        assert own.evaluate(loaded, data) == own.evaluate(model, data)
    weights = "branch.classifier.weight"
    assert torch.equal(loaded.state_dict()[weights], model.state_dict()[weights])

    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (70, 40), (90, 120, 200)).save(folder / "deep" / "a.png")
    Image.new("L", (33, 50)).save(folder / "b.jpg")
    (folder / "c.jpg").write_bytes(b"no image")
    prediction = own.predict(loaded, folder)
    (broken,) = (row for row in prediction.table if row["problem"])
    assert broken["file"] == "c.jpg"
    assert "not an image" in broken["problem"]
    for file, size in (("b.jpg", (33, 50)), (str(Path("deep", "a.png")), (70, 40))):
        rows = [row for row in prediction.table if row["file"] == file]
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        with Image.open(
            prediction.files["class-maps"] / f"{Path(file).with_suffix('')!s}.png".replace("/", "_")
        ) as ids:
            assert ids.size == size
            found = {data.train.classes[k] for k in np.unique(np.array(ids))}
        assert found == {row["class"] for row in rows}
    assert set(prediction.figures) == {"overlay-1", "overlay-2", "cosines"}
    legend = [text.get_text() for text in prediction.figures["overlay-1"].legends[0].get_texts()]
    assert all("%" in line for line in legend)
    with pytest.raises(Problem, match="not an image"):
        own.predict(loaded, folder / "c.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no images here"):
        own.predict(loaded, tmp_path / "empty")


def test_annotated_images_are_scored(tmp_path: Path, sample: Path) -> None:
    own = study(tmp_path, sample)
    data = own.read(sample)
    torch.manual_seed(0)
    model = own.build("ceco", data).eval()
    prediction = own.predict(model, sample)
    with torch.no_grad():
        expected = own.evaluate(model, data)["mIoU"]
    assert prediction.text.startswith(f"4 annotated: mean IoU {expected:.1f} %")
    assert {"iou-by-class", "cosines"} <= set(prediction.figures)


def test_held_out_images_without_labels_are_no_error(tmp_path: Path, sample: Path) -> None:
    shutil.copytree(sample, tmp_path / "data")
    for path in (tmp_path / "data" / "annotations" / "validation").iterdir():
        Image.new("L", (48, 48)).save(path)
    own = study(tmp_path, tmp_path / "data")
    data = own.read(tmp_path / "data")
    torch.manual_seed(0)
    model = own.build("ceco", data).eval()
    assert own._centres(model, data.test) == {}
    prediction = own.predict(model, tmp_path / "data")
    assert prediction.text.startswith("4 annotated: mean IoU nan")


def test_point_clouds_train_and_predict(tmp_path: Path) -> None:
    rooms = study(
        tmp_path, scale="points", epochs=1, sample_train=2, sample_val=2, sample_points=200, grid=(8, 8, 8), voxel=0.5
    )
    data = rooms.data()
    assert rooms.config.arch == "voxels"
    assert data.counts["image"][:2] == [2, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = rooms.train("ceco", data)
    with torch.no_grad():
        assert "mIoU" in rooms.evaluate(model, data)
    prediction = rooms.predict(model, rooms.data_folder())
    assert prediction.text.startswith("2 annotated")
    scan = next((rooms.data_folder() / "scans").rglob("*.ply"))
    assert len({row["file"] for row in rooms.predict(model, scan).table}) == 1
    (tmp_path / "broken.ply").write_bytes(b"no")
    with pytest.raises(Problem, match="not a PLY file"):
        rooms.predict(model, tmp_path / "broken.ply")
    (tmp_path / "none").mkdir()
    with pytest.raises(Problem, match="no scans here"):
        rooms.predict(model, tmp_path / "none")


def test_the_recipe_follows_the_data(tmp_path: Path, sample: Path) -> None:
    own = study(tmp_path, sample, "laptop").config
    assert (own.arch, own.lr, own.schedule, own.crop, own.epochs) == (SWIN, 6e-5, "poly", 512, 127)
    assert study(tmp_path, sample, "laptop", lr=1e-4).config.lr == 1e-4
    assert study(tmp_path, sample, "laptop", arch="resnet50").config.lr == 3e-3
    assert study(tmp_path, None, "laptop").config.arch == "mini"


def test_arms_have_their_branches(tmp_path: Path) -> None:
    assert set(ARMS) == set(CeCoStudy.arms)
    counts = {"image": [3, 2, 1], "pixel": [30, 20, 10]}
    small = study(tmp_path)
    assert small.branch("ce", counts) is None
    assert small.branch("ceco", counts) == {**VARIANTS["ceco"], "prior": [3, 2, 1]}
    assert (small.branch("no_prior", counts) or {})["prior"] is None
    changed = study(tmp_path, prior="pixel", project="none", centre_weight=0.4).branch("rr", counts)
    assert changed == {**VARIANTS["rr"], "prior": [30, 20, 10], "project": "none", "weight": 0.4}


def test_bad_data_and_settings_are_refused(tmp_path: Path, sample: Path) -> None:
    own = study(tmp_path, sample)
    data = own.read(sample)
    with pytest.raises(Problem, match="no data for ceco here"):
        own.read(tmp_path)
    with pytest.raises(Problem, match="a batch of one image"):
        study(tmp_path, sample, batch_size=1).train("ce", data)
    with pytest.raises(Problem, match=r"20 classes \(sky, …\), the model has 3"):
        own.evaluate(CeCoNet("mini", 3), data)
    with pytest.raises(Problem, match="no variant"):
        own.convert(tmp_path, "b")
    with pytest.raises(ValidationError):
        CeCoConfig.model_validate({"view_scales": ()})


def test_what_is_measured(tmp_path: Path) -> None:
    figures = study(tmp_path).measure()
    assert figures["frame_deviation"] < 1e-6
    assert figures["added_macs"] == figures["added_trained_parameters"] == 0
    assert figures["added_frozen_parameters"] == 208_940
