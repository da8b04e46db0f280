"""How the claims of TENET are tested.

repertory run tenet                                        # generated traffic in the format of Argoverse 2, minutes
repertory run tenet --scale paper --data av2/ --arms tenet_kmeans      # the data set; published brier-minFDE6 1.90
repertory train tenet --data av2/ --out model/             # then: repertory predict model/ av2/test/ --out answers/
repertory predict model/ tracks.csv                        # your own tracks, without a map
repertory predict model/ av2/test/ --set ensemble=model2,model3        # K-means over the futures of three models
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.timing import medians, race, seconds_a_sample
from repertory.core.training import fit, loader
from repertory.data import argoverse
from repertory.data.argoverse import Scenario, StreetMap
from repertory.papers.tenet import pictures
from repertory.papers.tenet.baselines import Velocities, usual_velocities
from repertory.papers.tenet.ensemble import Ensemble, kmeans_fuse
from repertory.papers.tenet.metrics import scores
from repertory.papers.tenet.model import TENET, TemporalFlowHeader
from repertory.papers.tenet.sample import write_sample
from repertory.papers.tenet.scenes import Cropped, SceneSet, Sizes, collate, make_scene
from repertory.papers.tenet.settings import ARMS, TenetConfig, TenetDesign
from repertory.papers.tenet.training import Learner
from repertory.tasks.settings import fitted

Forecaster = TENET | Ensemble | Velocities
Floats = NDArray[np.float64]

RACE_BATCH = 4
"""Scenarios of a step in the race of input sizes."""


@dataclass(frozen=True)
class Data:
    """Scenes of training and validation."""

    train: SceneSet
    val: SceneSet
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Assessment:
    """What a model says of scenes whose future is known.

    Attributes:
        trajectories: (S, N, F, 2); of an ensemble the candidates of all members.
        probabilities: (S, N).
        truth: (S, F, 2).
    """

    trajectories: Floats
    probabilities: Floats
    truth: Floats


def _error(en: str, zh: str) -> Metric:
    return Metric(en, zh, unit="m", better="lower", decimals=3)


class TenetStudy(TenetDesign, Study[TenetConfig, Data, nn.Module]):
    """Train on scenarios with reduced input, forecast others with enlarged input."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "min_ade": _error("minADE6", "minADE6"),
        "min_fde": _error("minFDE6", "minFDE6"),
        "miss_rate": Metric("MR6, final error above 2 m", "MR6（终点误差大于 2 米）", better="lower", decimals=3),
        "brier_min_fde": _error("brier-minFDE6", "brier-minFDE6"),
        "min_ade_1": _error("minADE1", "minADE1"),
        "min_fde_1": _error("minFDE1", "minFDE1"),
        "miss_rate_1": Metric("MR1", "MR1", better="lower", decimals=3),
        "brier_min_fde_small": _error("brier-minFDE6, input of the training size", "brier-minFDE6（训练时的输入规模）"),
        "min_fde_small": _error("minFDE6, input of the training size", "minFDE6（训练时的输入规模）"),
        "members_brier_min_fde": _error("brier-minFDE6, mean of the members", "brier-minFDE6（成员均值）"),
        "members_min_fde": _error("minFDE6, mean of the members", "minFDE6（成员均值）"),
        "fde_to_constant_velocity": Metric(
            "minFDE6 relative to constant velocity", "minFDE6 与匀速外推之比", unit="%", better="lower", decimals=1
        ),
        "largest_mode": Metric("scenarios won by one mode", "单一模态获胜的场景比例", unit="%", decimals=1),
        "parameters": Metric("parameters at test time", "测试时参数量", decimals=0),
        "parameters_published_size": Metric(
            "parameters at test time, our full size", "测试时参数量（我们的完整规模）", decimals=0
        ),
        "parameters_flow_header": Metric(
            "parameters of the Temporal Flow Header, training alone", "时间流头参数量（仅训练时）", decimals=0
        ),
        "training_speed": Metric(
            "speed of a training step, reduced to enlarged input", "训练步速度（缩减输入与扩大输入之比）",
            better="higher", decimals=2,
        ),
    }  # fmt: skip
    sample_name = "generated traffic"
    sample_fields = ("sample_train", "sample_val", "sample_test")
    layout = argoverse.LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Generated traffic; test scenarios have no future."""
        c = self.config
        write_sample(folder, {"train": c.sample_train, "val": c.sample_val, "test": c.sample_test})

    def read(self, folder: Path) -> Data:
        """List the scenarios of train and val; files are read when they are needed.

        Of the sample, each seed draws its own scenarios.
        """
        parts = {part: argoverse.find_scenarios(folder / part) for part in ("train", "val")}
        if not all(parts.values()):
            raise self.missing(folder)
        notes = [f"{len(paths)} scenarios in {part}/" for part, paths in parts.items()]
        if self.data_source() is None:
            parts = {part: self._drawn(part, paths) for part, paths in parts.items()}
        items: list[tuple[Path, int | None]] = [(path, None) for path in parts["train"]]
        if self.config.all_scored:
            items = list(self._scored(parts["train"]))
            notes.append(f"{len(items)} focal and scored tracks to train on")
        cached, val = self.config.cache, [(path, None) for path in parts["val"]]
        return Data(*(SceneSet(part, self._sizes, cached=cached) for part in (items, val)), notes=tuple(notes))

    def _drawn(self, part: str, paths: list[Path]) -> list[Path]:
        count = max(1, round(self.config.sample_share * len(paths)))
        chosen = self.session.rng("split", part).permutation(len(paths))[:count]
        return [paths[k] for k in sorted(chosen)]

    def _scored(self, paths: list[Path]) -> Iterator[tuple[Path, int | None]]:
        for path in self.session.progress(paths, "find scored tracks"):
            scenario = argoverse.read_scenario(path, self.config.history, self.config.future)
            yield from ((path, track) for track in scenario.to_predict)

    @property
    def _sizes(self) -> Sizes:
        c = self.config
        most = max(c.train_agents, c.test_agents), max(c.train_lanes, c.test_lanes)
        return Sizes(*most, c.lane_points, c.history, c.future)

    # -- the experiment -------------------------------------------------------------------------

    def train(self, arm: str, data: Data) -> nn.Module:
        """Train one arm. Networks that several arms have in common are trained once for each seed."""
        c, chosen = self.config, ARMS[arm]
        match chosen.kind:
            case "constant velocity":
                return Velocities(future=c.future)
            case "six velocities":
                scenes = list(self.session.progress((data.train[k] for k in range(len(data.train))), "read"))
                return usual_velocities(scenes, c.modes, c.future, self.session.seed)
            case "network" if not chosen.flow:
                return self._trained(data, 0, flow=False)
            case "network":
                return self._member(data, 0)
            case "ensemble":
                members = [self._member(data, k) for k in range(c.members)]
                model = Ensemble([self._arguments] * c.members, chosen.fusion, c.ensemble_features, c.nms_radius)
                for own, member in zip(model.members, members, strict=True):
                    own.load_state_dict(member.state_dict())
                return model

    def _member(self, data: Data, number: int) -> TENET:
        return self.session.shared(f"tenet-{number}", lambda: self._trained(data, number, flow=True))

    def _trained(self, data: Data, number: int, *, flow: bool) -> TENET:
        """Member `number`: initial weights of its own, the same batches."""
        c, session = self.config, self.session
        session.reseed("weights", number)
        net = TENET(**self._arguments)
        header = TemporalFlowHeader(c.dim, c.history) if flow else None
        learner = Learner(
            net,
            header,
            c.score_weight,
            c.flow_weight,
            soft=c.score_target == "soft",
            all_modes=c.flow_modes == "mean",
        )
        watched = c.keep_best or c.patience > 0
        trained = fit(
            session,
            learner,
            Cropped(data.train, c.train_agents, c.train_lanes, c.mirror, c.history_dropout),
            c,
            lambda module, batch: module(batch),
            evaluate=(lambda module: self._watch(module, data.val)) if watched else None,
            monitor="brier_min_fde" if watched else "",
            better="lower",
            collate=collate,
            part=f"member-{number}",
        )
        return trained.net

    @property
    def _arguments(self) -> dict[str, Any]:
        c = self.config
        return {
            "dim": c.dim, "heads": c.heads, "encoder_layers": c.encoder_layers, "decoder_layers": c.decoder_layers,
            "modes": c.modes, "history": c.history, "future": c.future, "step_points": c.step_points,
            "patch": c.patch, "dropout": c.dropout,
        }  # fmt: skip

    def _watch(self, learner: Learner, scenes: SceneSet) -> dict[str, float]:
        found = self._assess(learner.net, scenes, small=False)
        return means(scores(found.trajectories, found.probabilities, found.truth))

    def evaluate(self, model: nn.Module, data: Data) -> dict[str, float]:
        """Errors on the validation scenarios, with the input of test time and, of a network, that of training.

        Raises:
            Problem: no scenario has a known future.
        """
        assert isinstance(model, Forecaster)
        found = self._assess(model, data.val, small=False)
        fused = found
        if isinstance(model, Ensemble):
            fused = Assessment(*model.fuse(found.trajectories, found.probabilities), found.truth)
        one = scores(fused.trajectories, fused.probabilities, fused.truth)
        wins = np.bincount(one["best"].astype(int), minlength=fused.probabilities.shape[1]) / len(one["best"])
        metrics = means(one) | {
            "largest_mode": 100 * float(wins.max()),
            "parameters": float(sum(p.numel() for p in model.parameters())),
        }
        still = self._assess(Velocities(future=self.config.future), data.val, small=False)
        reference = scores(still.trajectories, still.probabilities, still.truth)
        metrics["fde_to_constant_velocity"] = 100 * float(one["min_fde"].mean() / reference["min_fde"].mean())
        if isinstance(model, TENET):
            small = self._assess(model, data.val, small=True)
            by_small = means(scores(small.trajectories, small.probabilities, small.truth))
            metrics |= {f"{name}_small": by_small[name] for name in ("brier_min_fde", "min_fde")}
        if isinstance(model, Ensemble):
            members = [
                means(scores(x, p, found.truth))
                for x, p in zip(
                    np.split(found.trajectories, len(model.members), 1),
                    np.split(found.probabilities, len(model.members), 1),
                    strict=True,
                )
            ]
            for name in ("brier_min_fde", "min_fde"):
                metrics[f"members_{name}"] = float(np.mean([member[name] for member in members]))
        self.session.keep_outputs({name: one[name] for name in ("min_ade", "min_fde", "brier_min_fde", "best")})
        self.session.figure("modes", pictures.modes_picture(wins))
        errors = {"this model": one["min_fde"], "constant velocity": reference["min_fde"]}
        self.session.figure("errors", pictures.errors_picture(errors))
        for number, (path, _) in enumerate(data.val.items[: self.config.pictures], 1):
            self.session.figure(f"scenario-{number}", self._forecast(path, [model]).picture())
        return metrics

    @torch.no_grad()
    def _assess(self, model: Forecaster, scenes: SceneSet, *, small: bool) -> Assessment:
        """Forecasts of the scenes whose whole future is known; tells how many are left out."""
        c = self.config
        sizes = (c.train_agents, c.train_lanes) if small else (c.test_agents, c.test_lanes)
        candidates = model.candidates if isinstance(model, Ensemble) else model.forecast
        model.to(self.session.fabric.device).eval()
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        left = 0
        batches = loader(
            self.session, Cropped(scenes, *sizes), c.batch_size, collate=collate, workers=c.workers, label="forecast"
        )
        for batch in batches:
            whole = batch["known"].all(1)
            left += int((~whole).sum())
            trajectories, probabilities = candidates(batch)
            rows.append((trajectories[whole], probabilities[whole], batch["future"][whole]))
        if left:
            warnings.warn(f"{left} scenarios without a whole future are left out of the metrics", stacklevel=2)
        parts = [torch.cat(part).double().cpu().numpy() for part in zip(*rows, strict=True)]
        if not len(parts[0]):
            where = scenes.items[0][0].parent.parent
            raise Problem("no scenario has a known future", where, "evaluate on val/: the test split has none")
        return Assessment(*parts)

    # -- figures that need no training ----------------------------------------------------------

    def measure(self) -> dict[str, Measured]:
        """Sizes of the full network, and the race of training steps with reduced and enlarged input."""
        full = TenetConfig()
        figures: dict[str, Measured] = {
            "parameters_published_size": float(sum(p.numel() for p in TENET().parameters())),
            "parameters_flow_header": float(sum(p.numel() for p in TemporalFlowHeader(full.dim).parameters())),
        }
        c = self.config
        if c.speed_rounds:
            small, large = (c.train_agents, c.train_lanes), (c.test_agents, c.test_lanes)
            contestants = {"small": partial(self._step, *small), "large": partial(self._step, *large)}
            times = race(contestants, self.session.progress(range(1 + c.speed_rounds), "race"))
            figures["training_speed"] = medians(times, "small", "large")
        return figures

    def _step(self, agents: int, lanes: int) -> None:
        """Forward and backward pass of a training step on invented scenes."""
        c, draw = self.config, self.session.generator("race")
        self.session.reseed("race")
        learner = Learner(TENET(**self._arguments), TemporalFlowHeader(c.dim, c.history))
        batch = {
            "history": torch.randn(RACE_BATCH, agents, c.history, 5, generator=draw),
            "seen": torch.ones(RACE_BATCH, agents, c.history, dtype=torch.bool),
            "types": torch.zeros(RACE_BATCH, agents, dtype=torch.long),
            "lanes": torch.randn(RACE_BATCH, lanes, c.lane_points, 2, generator=draw),
            "kinds": torch.ones(RACE_BATCH, lanes, 5),
            "mapped": torch.ones(RACE_BATCH, lanes, dtype=torch.bool),
            "future": torch.randn(RACE_BATCH, c.future, 2, generator=draw),
            "known": torch.ones(RACE_BATCH, c.future, dtype=torch.bool),
        }
        with torch.enable_grad():
            learner(batch)["loss"].backward()

    # -- use ------------------------------------------------------------------------------------

    def scaled(self, data: Data, given: Collection[str]) -> TenetConfig:
        """Our recipe for the whole data set, fitted to the number of scenarios."""
        assert isinstance(self.own, TenetConfig)
        world = self.session.fabric.world_size
        return fitted(self.config, self.own, len(data.train), world, self.own_batch, given)

    def preview(self, arm: str, data: Data) -> list[str]:
        """The network, its input, and the minutes of the training by the time of one batch."""
        c, lines = self.config, list(data.notes)
        if ARMS[arm].kind not in ("network", "ensemble"):
            return lines
        net = TENET(**self._arguments)
        learner = Learner(net, TemporalFlowHeader(c.dim, c.history)).to(self.session.fabric.device)
        few = [data.train[k] for k in range(min(len(data.train), 4))]
        scenes = [Cropped(data.train, c.train_agents, c.train_lanes)[k] for k in range(len(few))]
        batch = self.session.fabric.to_device(collate(scenes))
        seconds = seconds_a_sample(lambda: learner(batch)["loss"], len(scenes), self.session.fabric.device)
        networks = c.members if ARMS[arm].kind == "ensemble" else 1
        minutes = seconds * len(data.train) * c.epochs * networks / 60
        return [
            *lines,
            f"{networks} x TENET, {sum(p.numel() for p in net.parameters()):,} parameters (layer counts are ours)",
            f"input: {c.train_agents} agents, {c.train_lanes} map polylines in training; "
            f"{c.test_agents} and {c.test_lanes} at test time",
            f"{c.epochs} epochs, batches of {c.batch_size}, learning rate {c.lr:.2g}",
            f"about {minutes:.2g} min on this machine",
        ]

    def predict(self, model: nn.Module, source: Path) -> Prediction:
        """Forecast the focal tracks of scenarios, or of a CSV file of tracks.

        Args:
            model: a trained one; with the setting `ensemble` the futures of other model directories are pooled with
                its own by K-means.
            source: a scenario's folder or Parquet file, a folder with many of them below it, or a CSV file with the
                columns track_id, timestep, x, y, heading, vx, vy, object_type (and focal_track_id); a map may lie
                beside it as log_map_archive_<name of the file>.json.

        Raises:
            Problem: no scenario, or the only one cannot be read.
        """
        assert isinstance(model, Forecaster)
        paths = [source] if source.is_file() else argoverse.find_scenarios(source)
        if not paths:
            raise self.missing(source)
        models = [model, *self._others()]
        table: list[dict[str, Any]] = []
        answers: list[Answer] = []
        figures: dict[str, Figure] = {}
        for path in self.session.progress(paths, "predict"):
            try:
                answer = self._forecast(path, models)
            except Problem as problem:
                if len(paths) == 1:
                    raise
                table.append(_row(path.stem.removeprefix("scenario_"), problem=f"{problem.what} ({problem.remedy})"))
                continue
            answers.append(answer)
            table.append(answer.row())
            if len(figures) < self.config.pictures:
                figures[f"scenario-{len(answers)}"] = answer.picture()
        bad = len(table) - len(answers)
        text = f"{len(answers)} scenarios" + (f", {bad} cannot be read; their rows say why" if bad else "")
        known = [answer.row()["min_fde"] for answer in answers if answer.row()["min_fde"] is not None]
        if known:
            text += f"\nminFDE over {len(known)} with a known future: {np.mean(known):.3f} m"
        files = {"submission.parquet": self._submission(answers)} if answers else {}
        return Prediction(text=text, table=table, figures=figures, files=files)

    def _others(self) -> list[Forecaster]:
        """The models of the setting `ensemble`.

        Raises:
            Problem: a directory of another kind of model, or of another number of steps.
        """
        models = []
        for name in self.config.ensemble:
            other = checkpoint.load(Path(name), self.session.package)
            if not isinstance(other, Forecaster):
                raise Problem("not a model of tenet", name, "give model directories that `repertory train tenet` wrote")
            models.append(self.session.fabric.to_device(other))
        return models

    def _submission(self, answers: list[Answer]) -> Path:
        return argoverse.write_submission(
            self.session.out_dir / "submission.parquet",
            [answer.scenario.name for answer in answers],
            [answer.scenario.tracks[answer.scenario.focal] for answer in answers],
            np.stack([answer.trajectories for answer in answers]),
            np.stack([answer.probabilities for answer in answers]),
        )

    @torch.no_grad()
    def _forecast(self, path: Path, models: list[Forecaster]) -> Answer:
        """The futures of one scenario's focal track, in city coordinates."""
        c = self.config
        if path.suffix.lower() == ".csv":
            scenario = argoverse.read_tracks(path, c.history, c.future, c.focal)
            streets = argoverse.read_map(m) if (m := argoverse.map_of(path)).exists() else StreetMap()
        else:
            scenario = argoverse.read_scenario(path, c.history, c.future)
            streets = argoverse.read_map_of(path)
        scene = make_scene(scenario, streets, c.test_agents, c.test_lanes, c.lane_points)
        batch = self.session.fabric.to_device(collate([scene]))
        found = [model.forecast(batch) for model in models]
        x, p = (torch.cat(part, 1).double().cpu().numpy() for part in zip(*found, strict=True))
        if len(models) > 1:
            x, p = kmeans_fuse(x, p, c.modes, c.ensemble_features)
        order = (-p[0]).argsort(kind="stable")
        return Answer(scenario, streets, scene.to_city(x[0][order]), p[0][order] / p[0].sum())


@dataclass(frozen=True)
class Answer:
    """Futures of a scenario's focal track, most probable first: (K, F, 2) in city coordinates, and (K,)."""

    scenario: Scenario
    streets: StreetMap
    trajectories: Floats
    probabilities: Floats

    def row(self) -> dict[str, Any]:
        """A row of the table; errors only where the whole future is known."""
        s = self.scenario
        truth = s.states[s.focal, s.history :, :2]
        known = s.valid[s.focal, s.history :].all()
        error = scores(self.trajectories[None], self.probabilities[None], truth[None]) if known else None
        x, y = self.trajectories[0, -1]
        return _row(
            s.name,
            s.tracks[s.focal],
            round(float(self.probabilities[0]), 4),
            round(float(x), 2),
            round(float(y), 2),
            None if error is None else round(float(error["min_fde"][0]), 3),
        )

    def picture(self) -> Figure:
        """See `pictures.scenario_picture`."""
        return pictures.scenario_picture(self.scenario, self.streets, self.trajectories, self.probabilities)


def _row(
    scenario: str,
    track: str = "",
    probability: float | None = None,
    x: float | None = None,
    y: float | None = None,
    min_fde: float | None = None,
    problem: str = "",
) -> dict[str, Any]:
    return {
        "scenario": scenario, "track": track, "probability": probability, "end_x": x, "end_y": y, "min_fde": min_fde,
        "problem": problem,
    }  # fmt: skip


def means(one: dict[str, NDArray[Any]]) -> dict[str, float]:
    """The metrics over scenarios of `metrics.scores`."""
    names = {
        "min_ade": "min_ade", "min_fde": "min_fde", "miss_rate": "miss", "brier_min_fde": "brier_min_fde",
        "min_ade_1": "min_ade_1", "min_fde_1": "min_fde_1", "miss_rate_1": "miss_1",
    }  # fmt: skip
    return {name: float(one[source].mean()) for name, source in names.items()}
