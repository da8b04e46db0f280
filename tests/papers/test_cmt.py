"""CMT: fidelity to the authors' code, encodings, denoising, augmentation, use, and bad input."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.loops import cyclic
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.nuscenes import CAMERAS, Boxes, Tables, read_frames, scene_split
from repertory.papers.cmt import CMT, VARIANTS, CMTHead, decode
from repertory.papers.cmt.augmentation import modal_mask, move, random_motion, without_images, without_points
from repertory.papers.cmt.denoising import noised_queries
from repertory.papers.cmt.encoding import RayEmbedding, inverse_sigmoid, pos2embed
from repertory.papers.cmt.heads import inverted
from repertory.papers.cmt.items import FrameSet, collate
from repertory.papers.cmt.losses import box_code, from_code
from repertory.papers.cmt.model import check_projections, checked_points
from repertory.papers.cmt.pasting import Paster
from repertory.papers.cmt.study import CMTConfig, CMTStudy
from repertory.papers.cmt.training import RISE
from repertory.papers.cmt.trunks import CPFPN, SECOND, PillarTrunk, assign, lidar_trunk
from repertory.papers.cmt.weights import RENAME, with_our_names
from repertory.tasks.detection3d import nuscenes_scores
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import digest, fill_, probe

CASES: dict[str, Any] = {param.id or "": param.values[0] for param in cases("cmt")}
IMAGE = (64, 160)


def study(tmp_path: Path, data: Path | None = None, scale: str = "smoke", **settings: Any) -> CMTStudy:
    config = CMTConfig.model_validate({**CMTStudy.scales[scale].model_dump(), **settings})
    return CMTStudy(config, Session(0, tmp_path / "session", data))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town") / "data"
    study(tmp_path_factory.mktemp("scratch")).write_sample(folder)
    return folder


# -- fidelity -----------------------------------------------------------------------------------


def cameras(height: int = 64, width: int = 160) -> Tensor:
    """(6, 4, 4): the projections that the reference cases describe."""
    found = []
    for a in (2 * math.pi * i / 6 for i in range(6)):
        rows = torch.tensor([[math.sin(a), -math.cos(a), 0], [0, 0, -1], [math.cos(a), math.sin(a), 0]])
        extrinsic, intrinsic = torch.eye(4), torch.eye(4)
        extrinsic[:3, :3] = rows
        extrinsic[:3, 3] = -rows @ torch.tensor([0.5 * math.cos(a), 0.5 * math.sin(a), -0.3])
        intrinsic[0, 0] = intrinsic[1, 1] = 100
        intrinsic[0, 2], intrinsic[1, 2] = width / 2, height / 2
        found.append(intrinsic @ extrinsic)
    return torch.stack(found)


def filled_head(case: dict[str, Any], **options: Any) -> CMTHead:
    c = case["config"]
    head = CMTHead(
        c["in_channels"], c["num_classes"], tuple(c["pc_range"]), c["hidden_dim"], c["num_heads"], c["num_layers"],
        c["ffn"], c["depth_num"], c["num_query"], c["head_conv"], c["final_kernel"], **options,
    )  # fmt: skip
    fill_(head)
    head.reference_points.weight.data.copy_(0.5 + 0.45 * probe(c["num_query"], 3))
    return head


def inputs(case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """BEV map, image features (B, V, C, h, w), projections (B, V, 4, 4)."""
    bev, features = (probe(*shape) for shape in case["input"])
    return bev, features.unflatten(0, (len(bev), 6)), cameras().expand(len(bev), -1, -1, -1)


def joined(predictions: dict[str, Tensor]) -> Tensor:
    return torch.cat([predictions[name] for name in ("center", "height", "dim", "rot", "vel", "cls_logits")], -1)


@torch.no_grad()
def test_fusion_head_agrees_with_the_authors_code() -> None:
    case = CASES["fusion_head"]
    head = filled_head(case).eval()
    bev, features, projections = inputs(case)
    assert_agrees(joined(head(bev, features, projections, IMAGE)), case, head)
    double = filled_head(case).eval().double()
    assert_agrees(joined(double(bev.double(), features.double(), projections.double(), IMAGE)), case)


@torch.no_grad()
def test_camera_head_agrees_with_the_authors_code() -> None:
    case = CASES["camera_head"]
    head = filled_head(case, lidar=False).eval()
    features = probe(*case["input"][0])[None]
    assert_agrees(joined(head(None, features, cameras()[None], IMAGE)), case, head)


@torch.no_grad()
def test_decoding_agrees_with_the_authors_code() -> None:
    case = CASES["decode_fusion_head"]
    base = CASES["fusion_head"]
    predictions = filled_head(base).eval()(*inputs(base), IMAGE)
    boxes, scores, labels = decode(predictions, case["config"]["max_num"], case["config"]["post_center_range"])[0]
    boxes = boxes.clone()
    boxes[:, 2] -= boxes[:, 5] / 2
    rows = torch.cat([boxes, scores[:, None], labels[:, None]], 1)
    expected = case["output"]
    found = digest(rows)
    assert found["shape"] == expected["shape"]
    assert (found["mean"], found["std"]) == pytest.approx((expected["mean"], expected["std"]), rel=1e-4)
    for index, value in zip(torch.linspace(0, rows.numel() - 1, 16).long().tolist(), expected["values"], strict=True):
        row, column = divmod(index, rows.shape[1])
        tied = (scores - scores[row]).abs() < 1e-6  # rounding orders queries of equal score
        assert (rows[tied, column] - value).abs().min() < 1e-4 * max(1, abs(value))


@torch.no_grad()
def test_encodings_agree_with_the_authors_code() -> None:
    head = filled_head(CASES["fusion_head"]).eval()
    back = inverted(cameras())
    assert_agrees(head.image_encoding(back, (4, 10), IMAGE), CASES["image_position_encoding"])
    points = inverse_sigmoid(head.reference_points.weight).sigmoid()
    assert_agrees(pos2embed(points, 64), CASES["pos2embed"])
    found = head.camera_encoding(points[None], cameras()[None], back[None], IMAGE)
    assert_agrees(found, CASES["query_camera_embedding"])


def test_losses_agree_with_the_authors_code() -> None:
    case = CASES["losses_with_denoising_q24"]
    head = filled_head(CASES["fusion_head"], dropout=0.0).train()
    boxes, labels = [], []
    for sample in range(2):
        p = probe(3 + sample, 9) + 0.01 * sample
        size = torch.stack([2 + p[:, 3], 2 + p[:, 4], 1.5 + 0.5 * p[:, 5]], 1)
        z = -1 + 0.5 * p[:, 2:3] + size[:, 2:] / 2
        boxes.append(torch.cat([40 * p[:, :2], z, size, 3 * p[:, 6:7], p[:, 7:]], 1))
        labels.append(3 * torch.arange(3 + sample) % 10)
    noised = head.noised(boxes, labels, (probe(6 * 7, 3) + 1) / 2)
    losses = head.losses(head(*inputs(case), IMAGE, noised=noised), boxes, labels, noised)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(case["losses"], rel=1e-4)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "gt" in case])
def test_metric_agrees_with_the_devkit(name: str) -> None:
    case = CASES[name]
    ego = {row["sample_token"]: np.zeros(3) for row in [*case["gt"], *case["pred"]]}
    scores = nuscenes_scores(Boxes.of(case["gt"]), Boxes.of(case["pred"]), ego)
    expected = case["metrics"]
    assert scores.mean_ap == pytest.approx(expected["mean_ap"], abs=1e-9)
    assert scores.nds == pytest.approx(expected["nd_score"], abs=1e-9)
    assert scores.mean_errors == pytest.approx(expected["tp_errors"], abs=1e-9)
    by_class = dict(zip(scores.classes, scores.ap.mean(1).tolist(), strict=True))
    assert by_class == pytest.approx(expected["mean_dist_aps"], abs=1e-9)


# -- the method ---------------------------------------------------------------------------------


def test_ray_embedding_equals_its_literal_form() -> None:
    torch.manual_seed(0)
    ray = RayEmbedding(8, 5, (-20.0, -20.0, -3.0, 20.0, 20.0, 3.0))
    direction, origin = torch.randn(2, 3, 7, 3), torch.randn(2, 3, 1, 3)
    literal = ray(ray.positions(direction, origin))
    torch.testing.assert_close(ray.embed(direction, origin), literal, rtol=1e-4, atol=1e-5)
    seen = torch.rand(2, 3, 7) > 0.5
    total = torch.where(seen[..., None], literal, 0.0).sum(1)
    torch.testing.assert_close(ray.embed_sum(direction, origin, seen), total, rtol=1e-4, atol=1e-5)


def test_denoising_groups_do_not_see_each_other() -> None:
    boxes = [torch.tensor([[0.0, 0, 0, 2, 2, 2, 0, 0, 0]]).repeat(n, 1) for n in (1, 3, 0)]
    labels = [torch.zeros(len(one), dtype=torch.long) for one in boxes]
    bounds = (-10.0, -10.0, -3.0, 10.0, 10.0, 3.0)
    noised = noised_queries(boxes, labels, bounds, 9, 2)
    assert noised is not None
    assert noised.length == 9  # 3 groups of 3 places
    assert not noised.allowed[9:, :9].any()
    assert noised.allowed[:, 9:].all()
    assert torch.equal(noised.allowed[:9, :9], torch.block_diag(*[torch.ones(3, 3)] * 3).bool())
    assert (noised.points[2] == 0).all()
    half = noised_queries(boxes, labels, bounds, 9, 2, uniform=torch.full((12, 3), 0.5))
    assert half is not None
    assert set(half.labels.tolist()) == {0}
    far = noised_queries(boxes, labels, bounds, 9, 2, uniform=torch.full((12, 3), 0.99))
    assert far is not None
    assert set(far.labels.tolist()) == {2}
    assert noised_queries([torch.zeros(0, 9)], [torch.zeros(0, dtype=torch.long)], bounds, 9, 2) is None
    with pytest.raises(Problem, match="a sample has 3 boxes and there are 2 queries"):
        noised_queries(boxes, labels, bounds, 2, 2)


def test_box_codes_invert() -> None:
    boxes = torch.tensor([[1.0, 2, 3, 4, 2, 1.5, 0.7, -1, 2]])
    torch.testing.assert_close(from_code(box_code(boxes)), boxes)


def test_trunks_have_the_published_sizes() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(CPFPN((1024, 2048), 256)) == 1_377_024
    assert count(CPFPN((768, 1024), 256)) == 1_049_344
    second = SECOND(256)
    assert count(second.blocks) == 4_280_832
    assert count(second.deblocks) == 295_936


def test_pillars_are_where_points_are() -> None:
    bounds = (-8.0, -8.0, -3.0, 8.0, 8.0, 3.0)
    points = [
        torch.tensor([[0.5, 0.5, 0, 1, 0], [0.6, 0.4, 0, 1, 0], [7.5, -7.5, 0, 1, 0], [9.0, 0, 0, 1, 0]]),
        torch.zeros(0, 5),
    ]
    pillars = assign(points, bounds, 16)
    assert pillars.counts.tolist() == [3, 0]
    assert pillars.cell.tolist() == [8 * 16 + 8, 8 * 16 + 8, 15]
    torch.testing.assert_close(pillars.features[0, 5:8], torch.tensor([-0.05, 0.05, 0.0]))
    torch.testing.assert_close(pillars.features[0, 8:], torch.tensor([0.0, 0.0]))
    trunk = PillarTrunk(bounds, 16, 2, 8, (8, 8), 1).eval()
    canvas = trunk.pillars(pillars)
    assert canvas.shape == (2, 8, 16, 16)
    assert (canvas[0].abs().sum(0) > 0).nonzero().tolist() == [[0, 15], [8, 8]]
    assert trunk(points).shape == (2, 16, 8, 8)
    assert len(trunk.train()([torch.zeros(1, 5)])) == 1  # a dead LiDAR: a single pillar


def test_cyclic_schedule_has_its_ends() -> None:
    values = [cyclic(step, 100, 1.0, 6.0, 1e-4, RISE) for step in range(101)]
    assert max(values) == values[40] == 6.0
    assert (values[0], values[-1]) == pytest.approx((1.0, 1e-4))


# -- data ---------------------------------------------------------------------------------------


def frame_set(town: Path, **changes: Any) -> FrameSet:
    tables = Tables(town)
    frames = read_frames(tables, scene_split(tables)["train"], 2)
    bounds = (-12.8, -12.8, -3.0, 12.8, 12.8, 3.0)
    return FrameSet(frames, ["car", "pedestrian"], CAMERAS, (32, 64), bounds, 2, **changes)


def test_moving_a_scene_keeps_its_pixels(town: Path) -> None:
    data = frame_set(town)
    scene = data.scene(data.frames[0])
    motion = random_motion(np.random.default_rng(3), flip=0.5)
    moved = move(scene, motion)
    places = np.column_stack([scene.boxes[:, :3], np.ones(len(scene.boxes))])
    after = np.column_stack([moved.boxes[:, :3], np.ones(len(scene.boxes))])
    for before, now in zip(scene.from_lidar, moved.from_lidar, strict=True):
        np.testing.assert_allclose(places @ before.T, after @ now.T, atol=1e-9)
    scale = np.linalg.norm(motion[:3, 2])
    np.testing.assert_allclose(moved.boxes[:, 3:6], scene.boxes[:, 3:6] * scale)


def test_dead_sensors_are_zeros(town: Path) -> None:
    data = frame_set(town)
    scene = data.scene(data.frames[0])
    assert not without_points(scene).points.any()
    assert len(without_points(scene).points) == len(scene.points)
    assert not any(image.any() for image in without_images(scene).images)
    rng = np.random.default_rng(0)
    masked = [modal_mask(scene, rng) for _ in range(400)]
    blind = sum(not one.images[0].any() for one in masked)
    deaf = sum(not one.points.any() for one in masked)
    assert 70 < blind < 130
    assert 70 < deaf < 130
    assert not any(not one.images[0].any() and not one.points.any() for one in masked)
    images = data.with_changes(sensor=without_images)[0].images
    assert float(images.std(dim=(-1, -2)).max()) < 1e-6  # black, then normalised


def test_pasted_objects_come_with_points_and_pixels(town: Path) -> None:
    data = frame_set(town)
    scene = data.scene(data.frames[0])
    pasted = Paster(data, {"car": 6, "pedestrian": 6})(scene, np.random.default_rng(0))
    assert len(pasted.boxes) == len(pasted.labels) >= len(scene.boxes)
    np.testing.assert_array_equal(pasted.boxes[: len(scene.boxes)], scene.boxes)


# -- use ----------------------------------------------------------------------------------------


def test_detecting_again_with_the_same_calibration_reuses_encodings() -> None:
    torch.manual_seed(0)
    model = CMT(["car"], **VARIANTS["tiny"]).eval()
    projections = cameras(32, 64)[None]
    images, points = torch.rand(1, 6, 3, 32, 64), [torch.rand(40, 5)]
    first = model.detect(images, projections, points)[0]
    assert model._kept is not None
    kept = model._kept[2]
    again = model.detect(images, projections, points)[0]
    assert model._kept[2] is kept
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    moved = projections.clone()
    moved[:, :, 0, 3] += 1
    model.detect(images, moved, points)
    assert model._kept[2] is not kept
    assert len(model.detect(None, projections, None)) == 1


def test_own_data_train_save_load_predict(tmp_path: Path, town: Path) -> None:
    own = study(tmp_path, town, paste=True)
    data = own.read(town)
    model = own.train("fusion", data)
    checkpoint.save(model, tmp_path / "model", paper="cmt")
    loaded = checkpoint.load(tmp_path / "model")
    with torch.no_grad():
        metrics = own.evaluate(model, data)
        assert own.evaluate(loaded, data) == metrics
    assert {"mAP", "NDS", "mAP_without_lidar", "mAP_without_cameras", "agnostic_AP"} <= set(metrics)
    token = data.test[0].token
    one = study(tmp_path / "one", town, frame=token, without="lidar", least_score=0.0).predict(loaded, town)
    results = json.loads(one.files["results.json"].read_text(encoding="utf-8"))
    assert results["meta"]["use_lidar"] is False
    assert list(results["results"]) == [token]
    row = results["results"][token][0]
    assert set(row) == {
        "sample_token", "translation", "size", "rotation", "velocity", "detection_name", "detection_score",
        "attribute_name",
    }  # fmt: skip
    assert len(one.table) == len(results["results"][token])
    assert set(one.figures) == {"frame-1"}
    assert [axes.get_title() for axes in one.figures["frame-1"].axes][:2] == ["CAM_FRONT_LEFT", "CAM_FRONT"]
    with pytest.raises(Problem, match="no key frame 'nothing'"):
        study(tmp_path / "two", town, frame="nothing").predict(loaded, town)
    with pytest.raises(Problem, match="no data for cmt here"):
        own.predict(loaded, tmp_path)


def test_a_broken_frame_among_good_ones_has_a_row_with_the_reason(tmp_path: Path, town: Path) -> None:
    folder = shutil.copytree(town, tmp_path / "town")
    own = study(tmp_path / "own", folder, least_score=0.0)
    data = own.read(folder)
    model = CMT(data.classes, **VARIANTS["tiny"]).eval()
    broken, *good = data.test
    broken.cameras[0].path.write_bytes(b"no image")
    prediction = own.predict(model, folder)
    (row,) = [row for row in prediction.table if row["problem"]]
    assert row["frame"] == broken.token
    assert "not an image" in row["problem"]
    assert {row["frame"] for row in prediction.table} == {broken.token, *(frame.token for frame in good)}
    assert set(json.loads(prediction.files["results.json"].read_text())["results"]) == {frame.token for frame in good}


def test_head_compiles_and_exports() -> None:
    torch.manual_seed(0)
    sizes = {"bounds": (-12.8, -12.8, -3.0, 12.8, 12.8, 3.0), "dim": 16, "heads": 2, "layers": 2, "ffn": 32}
    head = CMTHead(8, 2, depths=4, queries=5, head_channels=8, **sizes).eval()

    def inputs(batch: int) -> tuple[Tensor, ...]:
        return torch.rand(batch, 8, 4, 4), torch.rand(batch, 6, 16, 2, 3), cameras(32, 64).expand(batch, 6, 4, 4)

    few, more, image = inputs(2), inputs(3), (32, 64)
    with torch.no_grad():
        compiled = torch.compile(head, backend="eager", fullgraph=True)(*few, image)
        dynamic = {0: torch.export.Dim("batch", min=2)}
        shapes = {"bev": dynamic, "features": dynamic, "lidar2img": dynamic, "image": (None, None)}
        exported = torch.export.export(head, (*few, image), dynamic_shapes=shapes).module()(*more, image)
        for found, expected in ((compiled, head(*few, image)), (exported, head(*more, image))):
            for name, values in expected.items():
                torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)


def test_names_of_the_authors_checkpoints() -> None:
    ours = CMT(["car"], **{**VARIANTS["tiny"], "layers": 1}).head.state_dict()
    attention = "pts_bbox_head.transformer.decoder.layers.0.attentions.1.attn.in_proj_weight"
    theirs = [
        attention, "pts_bbox_head.transformer.decoder.post_norm.weight", "pts_bbox_head.reference_points.weight",
        "pts_bbox_head.task_heads.0.center.3.bias", "pts_bbox_head.rv_embedding.2.bias",
        "pts_bbox_head.shared_conv.bn.running_var", "pts_bbox_head.transformer.decoder.layers.0.ffns.0.layers.0.0.bias",
    ]  # fmt: skip
    found = with_our_names(dict.fromkeys(theirs, torch.zeros(1)))
    assert {name.removeprefix("head.") for name in found} <= set(ours)
    assert RENAME


# -- bad input ----------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    with pytest.raises(Problem, match=r"shape \(3, 4\)"):
        checked_points(torch.zeros(3, 4))
    with pytest.warns(UserWarning, match="1 of 3 points"):
        assert len(checked_points(torch.tensor([[0.0] * 5, [math.nan] * 5, [1.0] * 5]))) == 2
    projections = cameras(32, 64)[None]
    check_projections(projections, (32, 64))
    with pytest.raises(Problem, match="the principal point") as raised:
        check_projections(cameras(900, 1600)[None], (32, 64))
    assert "CAM_FRONT" in raised.value.where
    with pytest.raises(Problem, match="singular"):
        check_projections(torch.zeros(1, 1, 4, 4), (32, 64))
    with pytest.raises(Problem, match="lidar2img of shape"):
        check_projections(torch.eye(3)[None, None], (32, 64))
    with pytest.raises(Problem, match="sensors='radar'"):
        CMT(["car"], "radar")
    with pytest.raises(Problem, match="needs spconv"):
        lidar_trunk("voxel", (-8.0, -8.0, -3.0, 8.0, 8.0, 3.0), 64)
    with pytest.raises(Problem, match="no network"):
        CMT(["car"], image_arch="resnet5000")


def test_more_boxes_than_scores_and_no_boxes() -> None:
    torch.manual_seed(0)
    options = {**VARIANTS["tiny"], "sensors": "lidar"}
    model = CMT(["car"], **options)
    losses = model(None, None, [torch.rand(9, 5)] * 2, [torch.zeros(0, 9)] * 2, [torch.zeros(0, dtype=torch.long)] * 2)
    assert losses["loss"].isfinite()
    assert not any(name.startswith("dn_") for name in losses)
    boxes, _, _ = model.eval().detect(points=[torch.rand(9, 5)], most=10_000)[0]
    assert len(boxes) <= 40


def test_arms_differ_as_told(tmp_path: Path, town: Path) -> None:
    own = study(tmp_path, town)
    data = own.read(town)
    assert data.classes == ("car", "pedestrian")
    lidar = CMT(**own.options("lidar", data))
    assert lidar.head.task_heads["vel"][0].kernel_size == (3,)  # pyright: ignore[reportIndexIssue]
    camera = CMT(**own.options("camera", data))
    assert not hasattr(camera, "lidar_trunk")
    batch = collate([own.frames(data.train, lidar)[0]])
    assert lidar.eval()(None, None, batch.points)["center"].shape == (2, 1, 20, 2)
