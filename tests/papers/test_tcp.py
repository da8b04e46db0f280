"""TCP: fidelity to the authors' code, attention, pooling, hosts, weights, use, and bad input."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models import resnet50

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import motions
from repertory.nn.macs import count_macs
from repertory.nn.second_order import UpperTriangle, covariance, newton_schulz_sqrt
from repertory.papers.tcp import TCA, TCP, TSA, TCPNet, TemporalAttention
from repertory.papers.tcp.hosts import MotionExcitation, TemporalConv, TemporalShift, make_host
from repertory.papers.tcp.pictures import look_inside
from repertory.papers.tcp.settings import TCPConfig
from repertory.papers.tcp.study import ARMS, TCPStudy, covariance_by_matrix
from repertory.papers.tcp.weights import BODY, load_pretrained, parameter_groups, released_network, with_our_names
from tests.data.test_videos import write_film
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import digest, fill_, probe

CASES: list[dict[str, Any]] = [param.values[0] for param in cases("tcp")]
WHOLE = next(case for case in CASES if case["name"].startswith("TSN-ResNet50"))
POOLING = [case for case in CASES if "iterations" in case["config"] and case["params"] is None]
MODULES = [case for case in CASES if case not in POOLING and case is not WHOLE]


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", **settings: Any) -> TCPStudy:
    config = TCPConfig.model_validate({**TCPStudy.scales[scale].model_dump(), **settings})
    return TCPStudy(config, Session(0, tmp_path / "session", data))


def mini(**changes: Any) -> TCPNet:
    options: dict[str, Any] = {"num_classes": 5, "frames": 4, "dim": 8, "dim_inner": 16, **changes}
    return TCPNet(options.pop("backbone", "mini"), **options)


def filled(module: nn.Module) -> Any:
    """In evaluation mode, with the values of the reference cases."""
    return fill_(module).eval()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("motions")
    motions.write_motions(folder, train=2, val=1)
    return folder


# -- fidelity -----------------------------------------------------------------------------------


def module_of(case: dict[str, Any]) -> nn.Module:
    c = case["config"]
    if case["name"].startswith("TSA"):
        return TSA(c["dim"], c["frames"])
    if case["name"].startswith("TCA"):
        return TCA(c["dim"], c["frames"])
    if case["name"].startswith("TCP_attention"):
        return TemporalAttention(c["dim"], c["frames"])
    return TCP(c["dim_in"], c["dim_out"], c["frames"], c["dim_inner"], iterations=c["iterations"])


@pytest.mark.parametrize("case", MODULES, ids=lambda case: case["name"])
def test_modules_agree_with_the_authors_code(case: dict[str, Any]) -> None:
    module = filled(module_of(case))
    with torch.no_grad():
        found = module(*(probe(*shape) for shape in case["input"]))
    # Theirs gives column vectors of shape (B, F, 1, 1).
    assert_agrees(found.view(case["output"]["shape"]), case, module)


@pytest.mark.parametrize("case", POOLING, ids=lambda case: case["name"])
def test_pooling_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    x = probe(*case["input"][0]).requires_grad_()
    root = newton_schulz_sqrt(covariance(x.flatten(2).mT), case["config"]["iterations"])
    vector = UpperTriangle(x.shape[1])(root)
    if case["name"].startswith("gradient"):
        vector.square().sum().backward()
        assert x.grad is not None
        assert_agrees(x.grad, case)
    else:
        assert_agrees(vector, case)


def test_the_whole_network_agrees_with_the_authors_code() -> None:
    """The traces are as small as 4e-4 here, and their centring matrix loses digits in float32: ours is exact to 1e-6.

    Their count leaves out the root, a function of its own like the covariance, and holds the pooling of TCA.
    """
    model, x = filled(TCPNet("resnet50", 10)), probe(*WHOLE["input"][0])
    with torch.no_grad():
        maps = model.forward_features(x)
        found = model.forward_head(maps)
        exact = model.double().forward_head(maps.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    expected = WHOLE["output"]
    assert digest(found)["values"] == pytest.approx(expected["values"], abs=3e-4 * max(map(abs, expected["values"])))
    assert sum(p.numel() for p in model.parameters()) == WHOLE["params"]
    root, mean = 6 * 128**3, 8 * 128 * 16
    assert count_macs(model.float(), x) == WHOLE["macs"] + root - mean


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in m.parameters()) for m in (TCP(2048), TCPNet("resnet50", 400))]
    assert sizes == [821_376, 27_632_208]
    assert TCP(2048).num_features == 8256


def test_without_dilation_the_body_is_torchvisions_with_stride_1() -> None:
    theirs = resnet50()
    theirs.layer4[0].conv2.stride = theirs.layer4[0].downsample[0].stride = (1, 1)  # pyright: ignore
    filled(theirs)
    x = probe(2, 3, 64, 64)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    y = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(y))))
    host = filled(make_host("resnet50", frames=2))
    torch.testing.assert_close(host(x[None]), y)


# -- attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["softmax", "dot_product"])
def test_spatial_attention_by_hand(kind: Any) -> None:
    """Frame by frame, with the first standing in for those before it."""
    frames, dim = 4, 6
    module = filled(TSA(dim, frames, kind))
    x = torch.randn(2 * frames, dim, 3, 2)
    expected: list[Tensor] = []
    for clip in x.split(frames):
        for t in range(frames):
            q = module.phi1(clip[max(0, t - 1)][None]).flatten(2)[0]  # (d, h w)
            k = module.phi2(clip[max(0, t - 2)][None]).flatten(2)[0]
            v = module.phi0(clip[t][None]).flatten(2)[0]
            a = q.T @ k
            a = (a / dim**0.5).softmax(1) if kind == "softmax" else a / a.shape[1]
            o = torch.stack([sum(a[i, j] * v[:, j] for j in range(6)) for i in range(6)], 1)  # pyright: ignore
            expected.append(clip[t] + module.norm(o.view(1, dim, 3, 2))[0])
    torch.testing.assert_close(module(x), torch.stack(expected), rtol=1e-4, atol=1e-5)
    _, _, v = module._embedded(x)
    o = (module.affinity(x) @ v.squeeze(1)).mT.view_as(x)
    torch.testing.assert_close(module(x), x + module.norm(o), rtol=1e-4, atol=1e-5)
    assert module.affinity(x).shape == (8, 6, 6)


def test_channel_attention_by_hand() -> None:
    frames, dim = 5, 4
    module = filled(TCA(dim, frames))
    x, attended = torch.randn(frames, dim, 3, 3), torch.randn(frames, dim, 3, 3)
    (w1, b1), (w2, b2) = ((conv.weight[..., 0, 0], conv.get_parameter("bias")) for conv in (module.fc1, module.fc2))
    p, weights = x.mean((2, 3)), list[Tensor]()
    for t in range(frames):
        changes = (p[t] - p[(t - 1) % frames], 0.5 * (p[t] - p[(t - 2) % frames]))
        g = [torch.sigmoid(b2 + w2 @ (b1 + w1 @ z).relu()) for z in changes]
        weights.append((g[0] + g[1]) / 2)
    expected = attended * torch.stack(weights)[..., None, None]
    torch.testing.assert_close(module(x, attended), expected)


def test_the_attention_starts_as_relu_and_parts_can_be_off() -> None:
    x = torch.randn(8, 4, 3, 3)
    torch.testing.assert_close(TemporalAttention(4, 8).eval()(x), x.relu())
    torch.testing.assert_close(TemporalAttention(4, 8, False, False, False)(x), x)
    only = TemporalAttention(4, 8, conv=False).eval()
    assert only.channel is not None
    torch.testing.assert_close(only(x), only.channel(x, x))  # no ReLU, no shortcut; TSA starts as the identity


@pytest.mark.parametrize("frames", [1, 2, 3, 6, 8, 16])
def test_the_convolution_keeps_the_number_of_frames_and_is_circular(frames: int) -> None:
    attention = filled(TemporalAttention(4, frames))
    x = torch.randn(2 * frames, 4, 2, 2)
    assert attention(x).shape == x.shape
    conv = filled(TemporalAttention(4, frames, False, False))
    rolled = x.unflatten(0, (2, frames)).roll(1, 1).flatten(0, 1)
    expected = conv(x).unflatten(0, (2, frames)).roll(1, 1).flatten(0, 1)
    torch.testing.assert_close(conv(rolled), expected)


def test_clips_of_a_batch_do_not_mix() -> None:
    pool = filled(TCP(6, 4, frames=4, dim_inner=5))
    x = torch.randn(12, 6, 3, 3)
    torch.testing.assert_close(pool(x), torch.cat([pool(clip) for clip in x.split(4)]))


# -- pooling ------------------------------------------------------------------------------------


def test_plain_covariance_is_blind_to_order_and_tcp_is_not() -> None:
    x = torch.rand(8, 6, 4, 4)
    plain = filled(TCP(6, 4, dim_inner=5, spatial=False, channel=False, conv=False))
    torch.testing.assert_close(plain(x), plain(x.flip(0)))
    whole = filled(TCP(6, 4, dim_inner=5))
    assert (whole(x) - whole(x.flip(0))).norm() > 0.01 * whole(x).norm()


def test_covariances_of_frames() -> None:
    pool = filled(TCP(6, 4, frames=4, dim_inner=5, level="frame", iterations=0))
    x = torch.randn(8, 6, 3, 3)
    attended = pool.attention(pool.reduce(x))
    expected = torch.stack([torch.cov(a.flatten(1), correction=0) for a in attended])
    torch.testing.assert_close(pool(x), pool.triangle(expected), rtol=1e-4, atol=1e-7)
    model = mini(level="frame").eval()
    clips = torch.randn(2, 4, 3, 64, 64)
    each = model.fc(model.forward_head(model.forward_features(clips), pre_logits=True)).view(2, 4, 5)
    torch.testing.assert_close(model(clips), each.mean(1))


def test_the_form_with_a_centring_matrix_is_the_same() -> None:
    x = torch.randn(2, 5, 30)
    torch.testing.assert_close(covariance_by_matrix(x), covariance(x.mT), rtol=1e-4, atol=1e-6)


def test_nothing_anywhere_gives_finite_gradients() -> None:
    x = torch.zeros(8, 6, 3, 3, requires_grad=True)
    TCP(6, 4, dim_inner=5)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    pool = filled(TCP(6, 4, dim_inner=5)).train()
    pool(torch.randn(16, 6, 4, 4)).square().sum().backward()
    # The bias in front of a softmax's keys, and that in front of a batch norm, cannot change anything.
    idle = {"attention.spatial.phi2.bias", "attention.spatial.phi0.bias"}
    without = {name for name, p in pool.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-7}
    assert without <= idle


def test_a_batch_that_is_no_multiple_of_the_frames() -> None:
    with pytest.raises(ValueError, match="9 maps are no multiple of the 8 frames"):
        TCP(6, 4, dim_inner=5)(torch.zeros(9, 6, 3, 3))
    with pytest.raises(Problem, match="5 frames, not 4"):
        mini()(torch.zeros(1, 5, 3, 64, 64))


def test_half_precision_pools_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = TCP(6, 4, dim_inner=5).covariance(torch.rand(8, 4, 3, 3).bfloat16())
    assert p.dtype == torch.float32


# -- hosts --------------------------------------------------------------------------------------


def test_shift_by_hand() -> None:
    x = torch.randn(2 * 5, 16, 2, 2)
    shifted = TemporalShift(5)(x).view(2, 5, 16, 2, 2)
    clips = x.view(2, 5, 16, 2, 2)
    assert torch.equal(shifted[:, :-1, :2], clips[:, 1:, :2])
    assert not shifted[:, -1, :2].any()
    assert torch.equal(shifted[:, 1:, 2:4], clips[:, :-1, 2:4])
    assert not shifted[:, 0, 2:4].any()
    assert torch.equal(shifted[:, :, 4:], clips[:, :, 4:])


def test_motion_excitation_by_hand() -> None:
    module = filled(MotionExcitation(32, 3))
    x = torch.rand(3, 32, 4, 4)
    reduced = module.squeeze(x)
    motion = [module.transform(reduced[t + 1][None])[0] - reduced[t] for t in range(2)]
    motion.append(torch.zeros_like(motion[0]))
    weights = module.expand(torch.stack(motion).mean((2, 3), keepdim=True)).sigmoid()
    torch.testing.assert_close(module(x), x + x * (weights - 0.5))
    y = torch.randn(6, 16, 2, 2)
    torch.testing.assert_close(TemporalConv(16, 3)(y), TemporalShift(3)(y))  # it starts as a shift


@pytest.mark.parametrize(
    ("name", "options", "segments", "side"),
    [
        ("mini", {}, 4, 4),
        ("mini", {"temporal": "shift"}, 4, 4),
        ("resnet18", {"temporal": "shift"}, 4, 4),
        ("convnext_atto", {"last_stride": 2}, 4, 2),
        ("r3d_18", {}, 1, 8),
        ("mc3_18", {"last_stride": 2}, 4, 4),
    ],
)
def test_hosts(name: str, options: dict[str, Any], segments: int, side: int) -> None:
    model = mini(backbone=name, **options)
    assert model.segments == segments
    x = torch.randn(1, 4, 3, 64, 64)
    maps = model.forward_features(x)
    assert maps.shape == (segments, model.backbone.num_features, side, side)
    model(x).square().sum().backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


@pytest.mark.parametrize("name", ["res2net50_26w_4s", "resnetv2_152", "r2plus1d_18"])
def test_large_hosts_have_the_maps_of_the_papers(name: str) -> None:
    """14 x 14 places, without computing them."""
    size = 112 if name == "r2plus1d_18" else 224
    with torch.device("meta"):
        model = TCPNet(name, 10, temporal="tea" if "res2net" in name else "none", input_bn="v2" in name).eval()
        maps = model.forward_features(torch.zeros(1, 8, 3, size, size))
    assert maps.shape == (model.segments, model.backbone.num_features, 14, 14)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"backbone": "resnet5O"}, "no backbone 'resnet5O': did you mean"),
        ({"backbone": "convnext_atto", "temporal": "shift", "last_stride": 2}, "no residual blocks"),
        ({"backbone": "resnet18", "temporal": "tea"}, "TEA is built on Res2Net"),
        ({"backbone": "r3d_18", "temporal": "shift"}, "3-D network"),
        ({"backbone": "vit_tiny_patch16_224"}, "cannot have stride 1"),
    ],
)
def test_hosts_that_lack_an_option(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(Problem, match=what):
        mini(**arguments)


def test_the_interface_of_timm() -> None:
    model = mini()
    assert model.get_classifier() is model.fc
    assert model(torch.zeros(0, 4, 3, 64, 64)).shape == (0, 5)
    assert torch.equal(model.eval()(x := torch.randn(2, 4, 3, 64, 64)), model(x.flatten(1, 2)))
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    model.reset_classifier(0)
    assert model(x).shape == (2, 36)
    model.set_grad_checkpointing()
    groups = model.group_matcher()
    assert "backbone" in str(groups["stem"])
    assert model.no_weight_decay() == set()
    with pytest.raises(Problem, match="no pooling"):
        model.reset_classifier(3, "avg")


def test_partial_batch_norm_keeps_all_statistics_but_the_first() -> None:
    norms = [m for m in mini(partial_bn=True).train().backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.training for norm in norms] == [True] + [False] * (len(norms) - 1)


def test_compiles_and_exports() -> None:
    model, x = mini().eval(), torch.randn(3, 4, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False).module()
    for clips in (x, x[:1]):
        torch.testing.assert_close(exported(clips), model(clips))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


# -- weights ------------------------------------------------------------------------------------


def authors(model: TCPNet) -> dict[str, Tensor]:
    """Our weights under the authors' names."""
    names = {
        BODY: "base_model.", "pool.reduce.0.": "base_model.TCP.layer_reduce1.",
        "pool.reduce.1.": "base_model.TCP.layer_reduce_bn1.", "pool.reduce.3.": "base_model.TCP.layer_reduce2.",
        "pool.reduce.4.": "base_model.TCP.layer_reduce_bn2.", "fc.": "new_fc.",
        "pool.attention.spatial.phi1.": "base_model.TCP.TCP_att.TSA.conv_phi_1.",
        "pool.attention.spatial.phi2.": "base_model.TCP.TCP_att.TSA.conv_phi_2.",
        "pool.attention.spatial.phi0.": "base_model.TCP.TCP_att.TSA.conv_phi0.",
        "pool.attention.spatial.norm.": "base_model.TCP.TCP_att.TSA.norm.",
        "pool.attention.channel.fc": "base_model.TCP.TCP_att.TCA.g",
        "pool.attention.conv.": "base_model.TCP.TCP_att.conv_1d.",
    }  # fmt: skip
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        ours = next(prefix for prefix in names if name.startswith(prefix))
        state["module." + names[ours] + name.removeprefix(ours).replace("conv1.1.", "conv1.net.")] = tensor
    return state


@pytest.mark.parametrize(("frames", "temporal"), [(8, "none"), (16, "shift")])
def test_released_checkpoints_are_converted(frames: int, temporal: Any, tmp_path: Path) -> None:
    model = TCPNet("resnet50", 6, frames, temporal=temporal)
    torch.save({"epoch": 3, "arch": "tsn", "state_dict": authors(model)}, tmp_path / "K400.pth.tar")
    found = released_network(tmp_path / "K400.pth.tar")
    assert (found.frames, found.num_classes) == (frames, 6)
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_names_of_older_releases() -> None:
    old = [
        "module.base_model.layer4.iSQRT.att_module.sp_att.conv_theta.weight",
        "base_model.iSQRT.att_module.sp_att.conv_phi.bias",
        "base_model.iSQRT.att_module.sp_att.conv_g.bias",
        "base_model.iSQRT.att_module.sp_att.norm.weight",
        "base_model.iSQRT.att_module.conv_1.weight",
        "base_model.iSQRT.att_module.conv_1d.weight",
        "base_model.iSQRT.layer_reduce2.1.bias",
    ]
    assert list(with_our_names({name.removeprefix("module."): torch.zeros(1) for name in old})) == [
        "pool.attention.spatial.phi1.weight", "pool.attention.spatial.phi2.bias", "pool.attention.spatial.phi0.bias",
        "pool.attention.spatial.norm.weight", "pool.attention.channel.fc1.weight", "pool.attention.conv.weight",
        "pool.reduce.4.bias",
    ]  # fmt: skip


def test_starting_from_an_image_network_and_from_another_number_of_classes(tmp_path: Path) -> None:
    source, shifted = mini(), mini(temporal="shift")
    image = {k.removeprefix(BODY): v for k, v in source.state_dict().items() if k.startswith(BODY)}
    torch.save({**image, "fc.weight": torch.zeros(1000, 64)}, tmp_path / "image.pth")
    with pytest.warns(UserWarning, match="fc, pool newly initialised"):
        load_pretrained(shifted, tmp_path / "image.pth")
    inside = shifted.state_dict()[f"{BODY}layer1.0.conv1.1.weight"]
    assert torch.equal(inside, source.state_dict()[f"{BODY}layer1.0.conv1.weight"])
    torch.save(source.state_dict(), tmp_path / "video.pth")
    other = mini(num_classes=9)
    with pytest.warns(UserWarning, match=r"video.pth: fc newly initialised, 2 tensors"):
        load_pretrained(other, tmp_path / "video.pth")
    assert torch.equal(other.pool.state_dict()["reduce.0.weight"], source.pool.state_dict()["reduce.0.weight"])
    with pytest.raises(Problem, match="do not fit"):
        load_pretrained(mini(backbone="resnet18"), tmp_path / "video.pth")


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(Problem, match="not a TCP network on ResNet-50"):
        released_network(tmp_path / "net.pth")
    with pytest.raises(Problem, match="no variant"):
        study(tmp_path).convert(tmp_path / "net.pth", "r152")


def test_learning_rates_are_the_authors() -> None:
    model = mini()
    groups = parameter_groups(model, 1e-4, 5.0)
    rates = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert len(rates) == len(named)
    assert named["backbone.body.layer1.0.conv1.weight"] == (1.0, 1e-4)
    assert named["backbone.body.layer1.0.bn1.weight"] == (1.0, 0.0)
    assert named["pool.attention.conv.weight"] == (5.0, 1e-4)
    assert named["pool.attention.conv.bias"] == (5.0, 0.0)
    assert named["pool.reduce.1.bias"] == (5.0, 1e-4)
    assert named["fc.weight"] == (5.0, 1e-4)
    assert named["fc.bias"] == (10.0, 0.0)


def test_training_keeps_to_the_learning_rates(tmp_path: Path, sample: Path) -> None:
    slow = study(tmp_path, sample, head_lr=1e-9)
    data = slow.read(sample)
    trained = slow.train("gcp", data).state_dict()
    slow.session.reseed("weights")
    start = slow.build("gcp", data.train.classes).state_dict()
    moved = {name: float((trained[name] - start[name]).abs().max()) for name in ("fc.weight", "pool.reduce.0.weight")}
    assert max(moved.values()) < 1e-6
    conv = f"{BODY}layer4.0.conv1.weight"
    assert (trained[conv] - start[conv]).abs().max() > 1e-5


# -- use ----------------------------------------------------------------------------------------


def test_own_data_train_save_load_predict(tmp_path: Path, sample: Path) -> None:
    own = study(tmp_path, sample)
    data = own.read(sample)
    model = own.train("tcp", data)
    checkpoint.save(model, tmp_path / "model", paper="tcp")
    loaded = checkpoint.load(tmp_path / "model")
    metrics = own.evaluate(model, data)
    assert own.evaluate(loaded, data) == metrics
    assert {"top1", "top5", "top1_class_zoom_in", "parameters"} <= set(metrics)
    folder = tmp_path / "mine"
    shutil.copytree(sample / "frames" / "zoom_in" / "val_000", folder / "a")
    (folder / "b.mp4").write_bytes(b"no video")
    prediction = own.predict(loaded, folder)
    good, bad = prediction.table[0], prediction.table[-1]
    assert (good["file"], good["problem"]) == ("a", "")
    assert good["class"] in data.train.classes
    assert 0 < good["probability"] < 1
    assert good["top5"].count(";") == 4
    assert bad["file"] == "b.mp4"
    assert "cannot be read" in bad["problem"]
    assert set(prediction.figures) == {"attention", "covariance"}
    with pytest.raises(Problem, match="cannot be read"):
        own.predict(loaded, folder / "b.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="no videos"):
        own.predict(loaded, tmp_path / "empty")


def test_a_video_file_is_predicted_with_its_attention(tmp_path: Path, real_data: Any) -> None:
    own = study(tmp_path, place_row=1.0, place_column=0.0)
    torch.manual_seed(0)
    model = own.build("tcp", ("a", "b")).eval()
    prediction = own.predict(model, real_data("video_clip") / "h265_video.mp4")
    assert [row["file"] for row in prediction.table] == ["h265_video.mp4"]
    titles = [axes.get_title() for axes in prediction.figures["attention"].axes]
    assert [title for title in titles if title] == ["frame 1", "frame 3", "frame 6", "frame 8"]


def test_training_on_video_files(tmp_path: Path) -> None:
    for kind in ("light", "dark"):
        for k in range(3):
            (tmp_path / "films" / kind).mkdir(parents=True, exist_ok=True)
            write_film(tmp_path / "films" / kind / f"{k}.mp4")
    own = study(tmp_path, tmp_path / "films")
    with pytest.warns(UserWarning, match="2 of 6 videos are held out"):
        data = own.read(tmp_path / "films")
    model = own.train("tcp", data)
    assert own.predict(model, tmp_path / "films" / "dark" / "0.mp4").table[0]["class"] in ("light", "dark")


def test_the_architecture_follows_the_data(tmp_path: Path, sample: Path) -> None:
    sizes = [(c.arch, c.image_size, c.dim) for c in (study(tmp_path, data, "laptop").config for data in (None, sample))]
    assert sizes == [("mini", 64, 32), ("resnet50", 224, 128)]
    assert study(tmp_path, sample, "laptop", arch="resnet18", dim=64).config.dim == 64


def test_many_views_and_their_fusion(tmp_path: Path, sample: Path) -> None:
    few = study(tmp_path, sample, clips=10, crops=3)
    data = few.read(sample)
    torch.manual_seed(0)
    model = few.build("gcp", data.train.classes).eval()
    metrics = few.evaluate(model, data)
    assert {"top1_views", "top5_views"} <= set(metrics)
    views = torch.randn(30, 4, 3, 32, 32)
    scores = model(views).softmax(1)
    torch.testing.assert_close(few._fused(model, views)[0], scores.amax(0), rtol=1e-4, atol=1e-6)
    mean = study(tmp_path, sample, fusion="mean")
    torch.testing.assert_close(mean._fused(model, views)[0], scores.mean(0), rtol=1e-4, atol=1e-6)


def test_arms_differ_as_they_should(tmp_path: Path) -> None:
    assert set(ARMS) == set(TCPStudy.arms)
    nets = {arm: study(tmp_path).build(arm, ("a", "b")) for arm in ARMS}
    pools = {arm: net.pool for arm, net in nets.items()}
    parts = {
        arm: (*(getattr(p.attention, part) is not None for part in ("spatial", "channel", "conv")), p.iterations)
        for arm, p in pools.items()
        if isinstance(p, TCP)
    }
    assert parts == {
        "covariance": (False, False, False, 0),
        "gcp": (False, False, False, 3),
        "no_tsa": (False, True, True, 3),
        "no_tca": (True, False, True, 3),
        "no_conv": (True, True, False, 3),
        "tcp": (True, True, True, 3),
        "tsm_tcp": (True, True, True, 3),
    }
    shifts = {arm for arm, net in nets.items() if any(isinstance(m, TemporalShift) for m in net.modules())}
    assert shifts == {"tsm_gap", "tsm_tcp"}


def test_weights_that_do_not_name_their_classes(tmp_path: Path, sample: Path) -> None:
    own = study(tmp_path, sample)
    data = own.read(sample)
    model = mini(num_classes=9, pretrained_cfg={"input_size": [3, 32, 32]}).eval()
    assert "top1" in own.evaluate(model, data)
    assert own.predict(model, data.test.videos[0].path).table[0]["class"] in list("012345678")
    with pytest.raises(Problem, match="8 classes, and the model has 5"):
        own.evaluate(mini().eval(), data)


def test_what_is_seen_inside() -> None:
    clip = torch.randn(4, 3, 64, 64)
    inside = look_inside(mini().eval(), clip, 1.0, 0.0)
    assert inside is not None
    assert inside.affinity is not None
    assert inside.channels is not None
    assert (inside.affinity.shape, inside.channels.shape, inside.place) == ((4, 4, 4), (4, 8), (3, 0))
    assert inside.affinity.sum((1, 2)) == pytest.approx([1] * 4)
    assert look_inside(mini(pool="gap").eval(), clip, 0.5, 0.5) is None


def test_what_is_measured(tmp_path: Path) -> None:
    figures = study(tmp_path).measure()
    assert figures["head_parameters"] == 821_376
    assert figures["cross_frame_difference"] < 1e-12  # pyright: ignore[reportOperatorIssue]
    assert figures["order_change_gcp"] < 1e-12 < 1e-3 < figures["order_change_tcp"]  # pyright: ignore[reportOperatorIssue]


def test_the_published_recipes() -> None:
    paper, hmdb = (
        TCPConfig.model_validate(TCPStudy.scales[name].model_dump()).completed(False) for name in ("paper", "hmdb51")
    )
    assert (paper.lr, paper.milestones, paper.epochs, paper.weight_decay) == (0.015, (20, 40), 50, 1e-4)
    assert (paper.clip_norm, paper.drop_rate, paper.head_lr) == (20, 0.5, 5)
    assert (paper.dim, paper.clips, paper.crops) == (128, 10, 3)
    assert (hmdb.drop_rate, hmdb.partial_bn, hmdb.weight_decay, hmdb.lr) == (0.8, True, 5e-4, 0.001)


@pytest.mark.parametrize(
    ("field", "value"), [("image_pattern", "img.jpg"), ("image_pattern", "{}{}"), ("frames", 0), ("clips", 3)]
)
def test_bad_settings_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        TCPConfig.model_validate({field: value})
