"""MGTAB: bot and stance detection on a graph of accounts with seven relations; readers, methods, one protocol."""

from repertory.papers.mgtab.accounts import AccountClassifier
from repertory.papers.mgtab.classifiers import CLASSIFIERS, FittedClassifier
from repertory.papers.mgtab.layers import RelationalConv, RGTLayer, SemanticAttention, SimpleHGNLayer
from repertory.papers.mgtab.model import GAT, GCN, HGT, NETWORKS, RGCN, RGT, SAGE, SHGN, BotRGCN, mgtab_branches
from repertory.papers.mgtab.relations import Relations

__all__ = [
    "CLASSIFIERS",
    "GAT",
    "GCN",
    "HGT",
    "NETWORKS",
    "RGCN",
    "RGT",
    "SAGE",
    "SHGN",
    "AccountClassifier",
    "BotRGCN",
    "FittedClassifier",
    "RGTLayer",
    "RelationalConv",
    "Relations",
    "SemanticAttention",
    "SimpleHGNLayer",
    "mgtab_branches",
]
