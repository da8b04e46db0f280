"""EMO: light backbones made of inverted residual mobile blocks (Zhang et al., ICCV 2023); registers them in timm."""

from repertory.papers.emo.model import EMO, VARIANTS, emo_1m, emo_2m, emo_5m, emo_6m, group, iRMB, ungroup

__all__ = ["EMO", "VARIANTS", "emo_1m", "emo_2m", "emo_5m", "emo_6m", "group", "iRMB", "ungroup"]
