"""RefT: properties of the reconstruction, episodes, protocols, use, and bad input."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

pytest.importorskip("pycocotools")
pytest.importorskip("transformers")

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.few_shot_coco import FewShotData
from repertory.papers.reft import CosineClassifier, LinearClassifier, MaskWeighting, QueryLinking, RefT, detections
from repertory.papers.reft.base import VARIANTS, build_network, network_arguments
from repertory.papers.reft.episodes import Crops, Episodes, Jitter, Scenes, Ways, placed, with_a_cell
from repertory.papers.reft.model import Output, mask_boxes, mask_overlap, mask_pooled, members_of, together
from repertory.papers.reft.sample import IDS, NOVEL
from repertory.papers.reft.settings import ARMS, RefTConfig
from repertory.papers.reft.study import RefTStudy
from repertory.papers.reft.supports import read_supports
from repertory.papers.reft.training import Objective, distillation, rate, trained_part
from repertory.papers.reft.weights import from_mask2former, start_from, with_references

SIDE = 48


def network(classes: int = 3, seed: int = 0, **options: Any) -> RefT:
    torch.manual_seed(seed)
    return RefT([f"class {k}" for k in range(classes)], ffn=64, **options).eval()


def disturbed(model: RefT) -> RefT:
    """A network whose references are no longer those of the start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for part in (model.weighting, model.linking):
            for parameter in part.parameters() if part is not None else ():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def support_set(labels: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    masks = torch.zeros(len(labels), 1, SIDE, SIDE)
    for k in range(len(labels)):
        masks[k, :, 4 * k : 4 * k + 14, 8:24] = 1
    return torch.rand(len(labels), 3, SIDE, SIDE, generator=rng), masks, torch.tensor(labels)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def study(tmp_path: Path, data: Path | None = None, **settings: Any) -> RefTStudy:
    config = RefTConfig.model_validate({**RefTStudy.scales["smoke"].model_dump(), **settings})
    return RefTStudy(config, Session(0, tmp_path / "session", data))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "data"
    study(tmp_path_factory.mktemp("scratch")).write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def data(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> FewShotData:
    return study(tmp_path_factory.mktemp("scratch"), shapes).data()


# -- the two references -------------------------------------------------------------------------


@torch.no_grad()
def test_new_references_leave_mask2former_as_it_is() -> None:
    model = network()
    plain = model.net(pixel_values=(images() - model.mean) / model.std, output_auxiliary_logits=True)
    output = model(images(), model.encode(*support_set([0, 2, 2])))
    assert torch.equal(output.logits[-1], plain.class_queries_logits)
    assert torch.equal(output.masks[-1], plain.masks_queries_logits)
    assert len(output.logits) == VARIANTS["tiny"]["decoder_layers"] == 1 + len(plain.auxiliary_logits)
    for logits, masks, layer in zip(output.logits, output.masks, plain.auxiliary_logits, strict=False):
        assert torch.equal(logits, layer["class_queries_logits"])
        assert torch.equal(masks, layer["masks_queries_logits"])


@torch.no_grad()
def test_trained_references_change_the_predictions() -> None:
    model = disturbed(network())
    supports = model.encode(*support_set([0, 2, 2]))
    plain = RefT.forward(model, images(), None)  # nothing is kept yet
    both = model(images(), supports)
    assert not torch.allclose(both.logits[-1], plain.logits[-1], atol=1e-3)
    assert not torch.allclose(both.masks[-1], plain.masks[-1], atol=1e-3)
    only_features = disturbed(network(loq=False))
    assert only_features.linking is None
    changed = only_features(images(), only_features.encode(*support_set([0, 2, 2])))
    assert not torch.allclose(changed.logits[0], plain.logits[0][:, :, :4] * 0 + changed.logits[1], atol=1e-3)


@torch.no_grad()
def test_the_order_of_classes_and_shots_does_not_matter() -> None:
    model = disturbed(network(4))
    labels = [0, 2, 2, 3, 0]
    given = support_set(labels)
    order = torch.tensor([3, 1, 4, 0, 2])
    mixed = [part[order] for part in given]
    one, other = model(images(), model.encode(*given)), model(images(), model.encode(mixed[0], mixed[1], mixed[2]))
    torch.testing.assert_close(one.logits[-1], other.logits[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.masks[-1], other.masks[-1], atol=1e-4, rtol=1e-4)


def test_shots_are_weighted_within_their_class_by_the_image() -> None:
    torch.manual_seed(0)
    module = MaskWeighting(8, 2)
    features, centres = torch.randn(2, 8, 3, 4), torch.randn(4, 8)
    weights = module.shot_weights(features, centres, members_of(torch.tensor([1, 5, 1, 7])))
    assert weights.shape == (2, 3, 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(weights[:, 1], torch.tensor([[0.0, 1, 0, 0]] * 2))  # one shot: its weight is 1
    g = module.image_projection(features.mean((2, 3)))
    match = (g[:, None] * module.shot_projection(centres[[0, 2]])).sum(-1) / 8**0.5
    torch.testing.assert_close(weights[:, 0, [0, 2]], match.softmax(-1))
    assert not torch.allclose(weights[0], weights[1])
    p = module.class_centres(features, centres, members_of(torch.tensor([1, 5, 1, 7])))
    torch.testing.assert_close(p[:, 1], centres[1].expand(2, -1))
    torch.testing.assert_close(p[:, -1], module.none.expand(2, -1))
    maps = module.attention_map(features, centres, members_of(torch.tensor([1, 5, 1, 7])))
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 3, 4))


def test_features_are_pooled_under_the_mask_however_small() -> None:
    features = torch.randn(2, 5, 3, 3)
    masks = torch.zeros(2, 1, 48, 48)
    masks[0, :, :16, :32] = 1  # two cells
    masks[1, :, 40, 7] = 1  # one pixel of a cell
    pooled = mask_pooled(features, masks)
    torch.testing.assert_close(pooled[0], features[0, :, 0, :2].mean(-1))
    torch.testing.assert_close(pooled[1], features[1, :, 2, 0])


def test_overlap_of_masks() -> None:
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[0, 0, :2] = 1
    logits[0, 1, :, :1] = 1
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4, :4] = 1
    torch.testing.assert_close(mask_overlap(logits, target), torch.tensor([[4 / 8, 2 / 6]]))


@torch.no_grad()
def test_the_queries_that_find_a_support_best_are_linked() -> None:
    model = network(top_k=2)
    given, masks, labels = support_set([0, 2])
    output = model(given)
    score = output.logits[-1].softmax(-1)[torch.arange(2), :, labels] * mask_overlap(output.masks[-1], masks)
    best = score.argsort(-1, descending=True)[:, :2]
    expected = output.states[torch.arange(2)[:, None], best]
    torch.testing.assert_close(model.encode(given, masks, labels).queries, expected)
    alone = mask_overlap(output.masks[-1], masks).argsort(-1, descending=True)[:, :2]
    unknown = model.encode(given, masks, labels, known=False).queries
    torch.testing.assert_close(unknown, output.states[torch.arange(2)[:, None], alone])


def test_linking_is_attention_to_states_with_the_rows_of_their_classes() -> None:
    torch.manual_seed(0)
    module = QueryLinking(8, 2, 16)
    states, queries, rows = torch.randn(2, 5, 8), torch.randn(3, 2, 8), torch.randn(3, 8)
    assert torch.equal(module(states, queries, rows), states)
    nn.init.normal_(module.attention.out_proj.weight)
    keys = torch.stack([queries[s, k] + module.identity(rows[s]) for s in range(3) for k in range(2)])
    expected = states + module.attention(module.norm1(states), *(keys.expand(2, -1, -1),) * 2)[0]
    torch.testing.assert_close(module(states, queries, rows), expected)


# -- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cosine", [False, True])
def test_new_classes_stand_in_front_of_no_object(cosine: bool) -> None:
    torch.manual_seed(0)
    classifier = (CosineClassifier if cosine else LinearClassifier)(8, 3)
    states = torch.randn(2, 5, 8)
    wider = classifier.added(2)
    wider.imprint(F.normalize(torch.randn(2, 8), dim=-1))
    before, after = classifier(states), wider(states)
    assert after.shape == (2, 5, 6)
    torch.testing.assert_close(after[..., :3], before[..., :3])
    torch.testing.assert_close(after[..., -1], before[..., -1])
    assert wider.rows.shape == (5, 8)
    if not cosine:
        torch.testing.assert_close(wider.rows[3:].norm(dim=1), classifier.rows.norm(dim=1).mean().expand(2))


def test_cosine_logits_are_bounded_by_tau() -> None:
    torch.manual_seed(0)
    linear = LinearClassifier(8, 3)
    cosine = CosineClassifier.from_linear(linear)
    states = 100 * torch.randn(50, 8)
    logits = cosine(states)
    assert logits[:, :3].abs().max() <= cosine.tau == 20
    torch.testing.assert_close(logits[:, :3] / 20, F.cosine_similarity(states[:, None], linear.rows, dim=-1))
    torch.testing.assert_close(logits[:, 3], linear(states)[:, 3])


@torch.no_grad()
def test_a_class_is_adopted_by_the_direction_of_its_states() -> None:
    model = network(2, cosine=True)
    given, masks, labels = support_set([2, 2, 3])
    output = model(given)
    best = mask_overlap(output.masks[-1], masks).argmax(1)
    states = F.normalize(output.states[torch.arange(3), best], dim=-1)
    base = model(images()).logits[-1]
    model.adopt(["new", "other"], given, masks, labels)
    assert model.classes == ("class 0", "class 1", "new", "other")
    torch.testing.assert_close(model.net.class_predictor.rows[2], F.normalize(states[:2].mean(0), dim=-1))
    torch.testing.assert_close(model.net.class_predictor.rows[3], states[2])
    torch.testing.assert_close(model(images()).logits[-1][..., [0, 1, 4]], base)
    assert model.net.criterion.num_labels == 4
    assert len(model.net.criterion.empty_weight) == 5
    with pytest.raises(Problem, match="'new' is there twice"):
        model.extend(["new"])


@torch.no_grad()
def test_kept_supports_are_those_of_the_moment_also_from_disk(tmp_path: Path) -> None:
    model = disturbed(network())
    given = support_set([0, 2, 2])
    model.extend(["fourth"])
    supports = model.encode_all(*given)
    expected = model(images(), supports)
    given_images, masks, labels = given
    for part in (slice(0, 1), slice(1, 3)):
        model.remember(model.encode_all(given_images[part], masks[part], labels[part]), torch.zeros(3, 4, 48, 48)[part])
    checkpoint.save(model, tmp_path / "model")
    loaded: RefT = checkpoint.load(tmp_path / "model")
    assert loaded.classes == (*(f"class {k}" for k in range(3)), "fourth")
    for found in (model(images()), loaded(images())):
        torch.testing.assert_close(found.logits[-1], expected.logits[-1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.masks[-1], expected.masks[-1], atol=1e-5, rtol=1e-5)
    loaded.forget()
    assert loaded.kept() is None
    joined = together(supports, supports)
    assert joined.members.sum(1).tolist() == [2, 4]


# -- training -----------------------------------------------------------------------------------


def test_images_without_objects_have_a_loss() -> None:
    model = network().train()
    masks = [torch.zeros(0, SIDE, SIDE), torch.ones(1, SIDE, SIDE)]
    labels = [torch.zeros(0, dtype=torch.long), torch.tensor([1])]
    supports = model.encode(*support_set([0, 1]))
    for m, y in ((masks, labels), ([masks[0]] * 2, [labels[0]] * 2)):
        losses = model.losses(model(images(), supports), m, y)
        assert losses["loss"].isfinite()
    model.losses(model(images(), supports), masks, labels)["loss"].backward()
    assert model.weighting is not None
    assert model.linking is not None
    for projection in (model.weighting.attention.out_proj, model.linking.attention.out_proj):
        assert projection.weight.grad is not None
        assert projection.weight.grad.abs().max() > 0


def test_batch_norms_keep_their_statistics() -> None:
    model = network().train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    model(images())
    assert before
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(before, norms, strict=True))  # pyright: ignore


def test_distillation_by_hand() -> None:
    def output(logits: list[list[float]], mask: float) -> Output:
        return Output((torch.tensor([logits]),), (torch.full((1, len(logits), 2, 2), mask),), torch.zeros(1))

    teacher = output([[4.0, 0, 0], [0, 0, 9]], 2.0)  # the second query is sure that there is nothing
    same = output([[4.0, 0, -50, 0], [9, 9, 9, 0]], 2.0)
    assert distillation(same, teacher).item() == pytest.approx(0, abs=1e-6)
    student = output([[1.0, 0, 7, 2], [0, 0, 0, 0]], -1.0)
    p, q = torch.tensor([2.0, 0, 0]).softmax(0), torch.tensor([0.5, 0, 1]).softmax(0)
    best = torch.tensor([4.0, 0, 0]).softmax(0)[0]
    expected = (1 + best) * (p * (p / q).log()).sum() + 0.5 * abs(1 / (1 + np.exp(-2)) - 1 / (1 + np.exp(1)))
    assert distillation(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)
    assert distillation(student, output([[0, 0, 9.0]] * 2, 0.0)) == 0


@pytest.mark.parametrize("tuned", ["all", "references", "rows"])
def test_increments_leave_base_weights_alone(tuned: Any, data: FewShotData) -> None:
    model = network(8, cosine=True)
    model.extend(["a", "b", "c", "d"])
    scenes = Scenes(data.shots, [*data.base, *data.novel], SIDE, SIDE).of_labels(range(8, 12))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with trained_part(model, tuned, 8):
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, 0.01, weight_decay=0)
        Objective(model).train()(Episodes(scenes, 2, Ways(4, 1), 0, 1)[0])["loss"].backward()
        optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    rows = model.net.class_predictor.weight.detach() != before["net.class_predictor.weight"]
    assert rows[8:].any()
    assert rows[:8].any() == (tuned == "all")
    rest = changed - {"net.class_predictor.weight"}
    if tuned == "rows":
        assert not rest
    if tuned == "references":
        assert all("input_projections" in name or name.startswith(("weighting.", "linking.")) for name in rest)
        assert any(name.startswith("linking.") for name in rest)
    assert all(p.requires_grad for p in model.parameters())


def test_schedules() -> None:
    assert [rate(k, 100, "step") for k in (0, 89)] == [1, 1]
    assert [rate(k, 100, "step") for k in (90, 95)] == pytest.approx([0.1, 0.01])
    assert max(rate(k, 100, "onecycle") for k in range(100)) == 1


# -- images and episodes ------------------------------------------------------------------------


def test_an_image_is_placed_on_the_square() -> None:
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    image[:, :10, :20] = 255
    masks = (image[:1] > 0).byte()
    fitted = placed(image, masks, 20)
    assert fitted.shown == (10, 20)
    assert fitted.masks[0, :5, :10].all()
    assert fitted.masks.sum() == 50
    torch.testing.assert_close(fitted.image[:, 15, 5], torch.tensor([0.485, 0.456, 0.406]))  # the network's 0
    flipped = placed(image, masks, 20, flip=True)
    assert flipped.masks[0, :5, 10:].all()
    wide = placed(image, masks, 20, factor=2.0, corner=(0.0, 1.0))  # the right half
    assert wide.shown == (20, 20)
    assert not wide.masks.any()
    assert placed(image, masks, 20, factor=2.0).masks.sum() == 200


def test_a_small_mask_keeps_a_cell() -> None:
    whole = torch.zeros(100, 50, dtype=torch.uint8)
    whole[90:92, 10:12] = 1
    kept = with_a_cell(torch.zeros(10, 10), whole)
    assert kept.nonzero().tolist() == [[9, 1]]
    assert torch.equal(with_a_cell(kept, whole), kept)


def test_episodes_depend_on_the_step_alone(data: FewShotData) -> None:
    scenes = Scenes(data.train, data.base, SIDE, SIDE, Jitter((0.5, 1.5), 0.5))
    steps = Episodes(scenes, 4, Ways(6, 2), 3, 10)
    one, again = steps[7], Episodes(scenes, 4, Ways(6, 2), 3, 10)[7]
    assert one.supports is not None
    assert again.supports is not None
    assert torch.equal(one.images, again.images)
    assert all(torch.equal(a, b) for a, b in zip(one.supports, again.supports, strict=True))
    assert not torch.equal(one.images, steps[8].images)
    present = {*torch.cat(one.labels).tolist()}
    counts = torch.bincount(one.supports.labels, minlength=8)
    assert present <= {*one.supports.labels.tolist()}
    assert int((counts > 0).sum()) == 6
    assert counts.max() <= 2
    ranks = [Episodes(scenes, 4, None, 3, 10, rank, 2)[0].images for rank in (0, 1)]
    assert not torch.equal(*ranks)


def test_supports_are_of_other_images_where_there_are_any(data: FewShotData) -> None:
    scenes = Scenes(data.train, data.base, SIDE, SIDE)
    for step in range(4):
        batch = Episodes(scenes, 4, Ways(8, 3), 0, 10)[step]
        assert batch.supports is not None
        apart = (batch.supports.images[:, None] - batch.images).abs().amax((2, 3, 4))
        assert apart.min() > 0.05


def test_crops_show_the_object(data: FewShotData) -> None:
    scenes = Scenes(data.train, data.base, SIDE, SIDE)
    crops, labels = Crops(scenes, 6, 32, 0, 5)[2]
    assert crops.shape == (6, 3, 32, 32)
    assert crops.std((1, 2, 3)).min() > 0.02
    assert {*labels.tolist()} <= {*range(8)}


# -- detections ---------------------------------------------------------------------------------


def test_instances_in_pixels_of_the_image() -> None:
    logits = torch.tensor([[4.0, 0, 0], [0, 3, 0], [0, 0, 9.0]])
    masks = torch.full((3, 12, 12), -9.0)
    masks[0, 2:6, 4:8] = 9
    masks[1, 6:11] = 9
    found = detections(logits, masks, (48, 48), (48, 24), (96, 48), 2)
    assert found.labels.tolist() == [0, 1]
    assert found.masks.shape == (2, 96, 48)
    torch.testing.assert_close(found.boxes[0], torch.tensor([32.0, 16, 48, 48]), atol=2, rtol=0)
    assert found.boxes[1].tolist()[::2] == [0, 48]
    assert found.scores[0].item() == pytest.approx(logits[0].softmax(0)[0].item(), rel=0.05)
    assert not len(detections(logits, torch.full((3, 12, 12), -1.0), (48, 48), (48, 48), (48, 48), 9).boxes)


def test_boxes_hold_their_masks() -> None:
    masks = torch.rand(6, 9, 7, generator=torch.Generator().manual_seed(0)) > 0.9
    masks = masks[masks.flatten(1).any(1)]
    expected = masks_to_boxes(masks) + torch.tensor([0.0, 0, 1, 1])
    assert torch.equal(mask_boxes(masks), expected)
    assert mask_boxes(masks[:0]).shape == (0, 4)


# -- ecosystem ----------------------------------------------------------------------------------


@torch.no_grad()
def test_the_references_compile_without_a_break() -> None:
    model = disturbed(network())
    supports = model.encode(*support_set([0, 2, 2]))
    features, states = torch.randn(2, 64, 3, 4), torch.randn(2, 5, 64)
    given = {
        model.weighting: (features, supports.centres[0], supports.members),
        model.linking: (states, supports.queries, model.net.class_predictor.rows[supports.labels]),
    }
    for module, inputs in given.items():
        assert module is not None
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*inputs), module(*inputs))


@pytest.mark.slow
@torch.no_grad()
def test_the_network_compiles_without_a_break_and_exports_any_batch(tmp_path: Path) -> None:
    model = disturbed(network())
    supports = model.encode(*support_set([0, 2, 2]))
    model.remember(supports, torch.zeros(3, 4, 48, 48))
    expected = model(images(3)).logits[-1]
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images(3), supports).logits[-1], expected)
    torch.testing.assert_close(compiled(images(3)).logits[-1], expected)  # by the supports that it keeps
    exported = torch.export.export(model, (images(2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(images(3)).logits[-1], expected, atol=1e-5, rtol=1e-5)
    runtime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(exported, dynamo=True, opset_version=20)
    assert program is not None
    program.save(tmp_path / "reft.onnx")
    outputs = runtime.InferenceSession(tmp_path / "reft.onnx").run(None, {"images": images(3).numpy()})
    layers = VARIANTS["tiny"]["decoder_layers"]
    torch.testing.assert_close(torch.from_numpy(outputs[layers - 1]), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_folder_of_hugging_face_becomes_the_shared_part(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = build_network("tiny", None, 3).eval()
    theirs.config.id2label = {0: "cat", 1: "dog", 2: "tv"}
    theirs.save_pretrained(tmp_path / "theirs")
    model = from_mask2former(tmp_path / "theirs", ffn=64)
    assert model.classes == ("cat", "dog", "tv")
    expected = theirs(pixel_values=(images() - model.mean) / model.std).class_queries_logits
    torch.testing.assert_close(model(images(), model.encode(*support_set([0, 1]))).logits[-1], expected)
    checkpoint.save(model, tmp_path / "ours")
    torch.testing.assert_close(checkpoint.load(tmp_path / "ours")(images()).logits[-1], expected)
    assert network_arguments(theirs)["num_queries"] == VARIANTS["tiny"]["num_queries"]

    other = network(5, seed=3)
    start_from(other, tmp_path / "theirs")
    layer = "pixel_level_module.encoder.embedder.embedder.convolution.weight"
    assert torch.equal(other.net.model.get_parameter(layer), theirs.model.get_parameter(layer))
    theirs.model.pixel_level_module.encoder.save_pretrained(tmp_path / "backbone")
    third = network(5, seed=4)
    start_from(third, tmp_path / "backbone")
    assert torch.equal(third.net.model.get_parameter(layer), theirs.model.get_parameter(layer))
    cosine = with_references(other, network(5, seed=5, cosine=True))
    assert torch.equal(cosine.net.class_predictor.rows, other.net.class_predictor.rows)


def test_bad_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no Mask2Former of Hugging Face"):
        from_mask2former(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(Problem, match="cannot be loaded"):
        start_from(network(), tmp_path)
    with pytest.raises(Problem, match="no folder of Hugging Face"):
        start_from(network(), tmp_path / "absent")
    with pytest.raises(Problem, match="no variant 'r50'"):
        study(tmp_path).convert(tmp_path, "r50")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"classes": []}, "one class or more"),
        ({"classes": ["a", "a"]}, "'a' is there twice"),
        ({"classes": "ab"}, "one class or more"),
        ({"classes": ["a"], "top_k": 9}, "top_k=9 of 8 queries"),
        ({"classes": ["a"], "gamma": 0}, "gamma=0"),
        ({"classes": ["a"], "variant": "r51"}, "r50"),
        ({"classes": ["a"], "network": {"feature_size": 63}}, "cannot build Mask2Former"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Problem, match=complaint):
        RefT(**arguments)


def test_bad_inputs() -> None:
    model = network()
    with pytest.raises(Problem, match="empty batch"):
        model(images()[:0])
    given, masks, labels = support_set([0, 1])
    with pytest.raises(Problem, match="empty mask"):
        model.encode(given, masks * torch.tensor([1.0, 0]).view(2, 1, 1, 1), labels)
    with pytest.raises(Problem, match="no supports to attend to"):
        model.attention_maps(images())


# -- the study ----------------------------------------------------------------------------------


def test_arms_differ_in_what_they_say() -> None:
    assert list(ARMS) == list(RefTStudy.arms)
    assert ARMS["reft"] == ARMS["ft_full"]._replace(mdw=True, loq=True)
    assert ARMS["reft_ifsis"] == ARMS["ifsis_no_distillation"]._replace(distilled=True)


def test_data_of_other_classes_are_refused(tmp_path: Path, data: FewShotData) -> None:
    with pytest.raises(Problem, match="the model knows class 0"):
        study(tmp_path).evaluate(network(), data)


def test_perfect_instances_have_full_precision(
    tmp_path: Path, data: FewShotData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way from detections to metrics: the annotations themselves score 100."""

    model, this = RefT([*data.base, *data.novel], ffn=64), study(tmp_path)
    scenes = this.scenes(data.test, model.classes, training=False)
    order = iter(range(len(scenes)))

    def truth(self: RefTStudy, model: RefT, images: Sequence[Tensor], side: int) -> list[Any]:
        return [_as_found(scenes.raw(next(order))) for _ in images]

    monkeypatch.setattr(RefTStudy, "_detected", truth)
    metrics = this.evaluate(model, data)
    assert metrics["nAP"] > 99
    assert metrics["bAP"] > 99
    assert metrics["box_AP"] > 90
    assert metrics["AR"] == pytest.approx(100)


def _as_found(raw: Any) -> Any:
    from repertory.papers.reft import Detections

    masks = raw.masks.bool()
    return Detections(mask_boxes(masks), raw.labels, torch.ones(len(masks)), masks)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: FewShotData) -> RefT:
    """A network that knows the sample's classes and keeps the novel ones' supports."""
    torch.manual_seed(0)
    model = RefT(list(data.base), ffn=64)
    scenes = Scenes(data.shots, [*data.base, *data.novel], SIDE, SIDE)
    given = scenes.supports(range(8, 12))
    model.adopt(data.novel, *given)
    model.remember(model.encode_all(*given), given.pictures())
    return model


def photograph(path: Path, width: int = 80, height: int = 60) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


def test_predict_takes_a_photograph_and_draws_masks(tmp_path: Path, trained: RefT) -> None:
    photograph(tmp_path / "a.png")
    one = study(tmp_path, least_score=0.0, most=5, attention=True).predict(trained, tmp_path / "a.png")
    assert 0 < len(one.table) <= 5
    assert {row["class"] for row in one.table} <= {*IDS}
    assert list(one.figures) == ["image-1", "image-1-attention"]
    results = json.loads(one.files["results.json"].read_text())
    from pycocotools import mask as coder

    for row, result in zip(one.table, results, strict=True):
        assert coder.decode(result["segmentation"]).shape == (60, 80)
        assert coder.decode(result["segmentation"]).sum() == row["area"]
        assert result["bbox"] == [row[name] for name in ("x", "y", "width", "height")]


def test_predict_names_a_broken_image_among_good_ones(tmp_path: Path, trained: RefT) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    photograph(folder / "a.png")
    photograph(folder / "b.png", 33, 70)
    (folder / "c.png").write_bytes(b"no image")
    prediction = study(tmp_path, least_score=1.0).predict(trained, folder)
    assert [(row["image"], bool(row["problem"])) for row in prediction.table] == [
        ("a.png", False), ("b.png", False), ("c.png", True),
    ]  # fmt: skip
    assert "2 images, 0 instances" in prediction.text
    with pytest.raises(Problem, match="not an image"):
        study(tmp_path).predict(trained, folder / "c.png")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(Problem, match="no images here"):
        study(tmp_path).predict(trained, tmp_path / "nothing")


def test_predict_looks_at_the_held_out_images_of_a_data_folder(tmp_path: Path, shapes: Path, trained: RefT) -> None:
    prediction = study(tmp_path, least_score=0.0, most=1).predict(trained, shapes)
    assert len({row["image"] for row in prediction.table}) == 8
    results = json.loads(prediction.files["results.json"].read_text())
    assert {IDS[row["category_name"]] for row in results} == {row["category_id"] for row in results}


def add_class(folder: Path, name: str, count: int = 2) -> None:
    (folder / name).mkdir(parents=True)
    for k in range(count):
        photograph(folder / name / f"{k}.png", 40, 40)
        mask = np.zeros((40, 40), np.uint8)
        mask[5:20, 10:30] = 255
        Image.fromarray(mask).save(folder / name / f"{k}_mask.png")


def test_a_folder_of_supports_adds_classes(tmp_path: Path, trained: RefT) -> None:
    add_class(tmp_path / "supports", "cog")
    add_class(tmp_path / "supports", "axle", 1)
    photograph(tmp_path / "a.png")
    names, given = read_supports(tmp_path / "supports", SIDE, 12)
    assert (names, given.labels.tolist()) == (["axle", "cog"], [12, 13, 13])
    assert given.masks.sum((1, 2, 3)).tolist() == pytest.approx([15 * 20 * 1.44] * 3, rel=0.1)
    prediction = study(tmp_path, support=str(tmp_path / "supports"), least_score=0.0).predict(
        trained, tmp_path / "a.png"
    )
    assert {"axle", "cog"} & {row["class"] for row in prediction.table}
    assert len(trained.classes) == 12  # the model itself is as it was


def test_bad_supports_are_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no supports here"):
        read_supports(tmp_path / "absent", SIDE, 0)
    add_class(tmp_path / "a", "cog", 1)
    Image.new("L", (40, 40)).save(tmp_path / "a" / "cog" / "0_mask.png")
    with pytest.raises(Problem, match=r"mask of a support is empty\nwhere: .*0_mask.png"):
        read_supports(tmp_path / "a", SIDE, 0)
    Image.new("L", (41, 40), 255).save(tmp_path / "a" / "cog" / "0_mask.png")
    with pytest.raises(Problem, match=r"the mask has \(40, 41\) pixels"):
        read_supports(tmp_path / "a", SIDE, 0)
    (tmp_path / "a" / "cog" / "0_mask.png").unlink()
    with pytest.raises(Problem, match=r"a support without a mask\nwhere: .*0.png"):
        read_supports(tmp_path / "a", SIDE, 0)
    (tmp_path / "a" / "dog").mkdir()
    (tmp_path / "a" / "cog" / "0.png").unlink()
    with pytest.raises(Problem, match="no image of the class 'cog'"):
        read_supports(tmp_path / "a", SIDE, 0)


def test_train_tells_what_it_will_do(tmp_path: Path, data: FewShotData) -> None:
    lines = study(tmp_path).preview("reft", data)
    text = "\n".join(lines)
    for part in ("tiny", "48 x 48", "60 to train with, 8 held out", "8 base, 4 novel", "1 a class", "minutes"):
        assert part in text
    scaled = study(tmp_path, batch_size=2).scaled(data, {"shots"})
    assert scaled.shots == 1
    assert scaled.batch_size * 8 <= len(data.train)


def test_the_sample_has_what_its_format_has(shapes: Path) -> None:
    content = json.loads((shapes / "annotations" / "instances_val.json").read_text())
    assert {c["id"]: c["name"] for c in content["categories"]} == {k: name for name, k in IDS.items()}
    assert sum(row["iscrowd"] for row in content["annotations"]) == 1
    train = json.loads((shapes / "annotations" / "instances_train.json").read_text())["annotations"]
    kinds = {type(row["segmentation"]).__name__ for row in train}
    assert kinds == {"list", "dict"}
    assert {type(row["segmentation"]["counts"]) for row in train if isinstance(row["segmentation"], dict)} == {
        str,
        list,
    }
    assert (shapes / "novel_classes.txt").read_text().split() == list(NOVEL)


def test_warnings_of_transformers_stay_out(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network()
    assert "not a supported model" not in capfd.readouterr().err
