"""xDeepInt: a polynomial interaction network for click-through rates, with a sparse combined optimiser."""

from repertory.papers.xdeepint.baselines import CIN, DCN, DNN, FM, DeepFM, LogisticRegression, XDeepFM
from repertory.papers.xdeepint.ftrl import FTRL, GroupFTRL
from repertory.papers.xdeepint.model import PIN, ClickModel, Head, MultiHeadPIN, Output, Tables, XDeepInt
from repertory.papers.xdeepint.settings import XDeepIntConfig

__all__ = [
    "CIN",
    "DCN",
    "DNN",
    "FM",
    "FTRL",
    "PIN",
    "ClickModel",
    "DeepFM",
    "GroupFTRL",
    "Head",
    "LogisticRegression",
    "MultiHeadPIN",
    "Output",
    "Tables",
    "XDeepFM",
    "XDeepInt",
    "XDeepIntConfig",
]
