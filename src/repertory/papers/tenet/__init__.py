"""TENET: motion forecasting with trajectory tokens, a Temporal Flow Header and a K-means ensemble."""

from repertory.papers.tenet.baselines import Velocities, usual_velocities
from repertory.papers.tenet.ensemble import Ensemble, kmeans_fuse, top_fuse
from repertory.papers.tenet.metrics import scores
from repertory.papers.tenet.model import TENET, Forecast, TemporalFlowHeader
from repertory.papers.tenet.scenes import Scene, SceneSet, Sizes, agent_features, collate, lane_features, make_scene
from repertory.papers.tenet.settings import TenetConfig
from repertory.papers.tenet.training import Learner

__all__ = [
    "TENET",
    "Ensemble",
    "Forecast",
    "Learner",
    "Scene",
    "SceneSet",
    "Sizes",
    "TemporalFlowHeader",
    "TenetConfig",
    "Velocities",
    "agent_features",
    "collate",
    "kmeans_fuse",
    "lane_features",
    "make_scene",
    "scores",
    "top_fuse",
    "usual_velocities",
]
