"""An Analysis of Attention via the Lens of Exchangeability and Latent Variable Models (Zhang et al. 2022)."""

from repertory.papers.latent_attention.generators import (
    draw_tokens,
    linear_gaussian,
    log_posterior,
    masked_token,
    smooth,
    token_world,
)
from repertory.papers.latent_attention.model import (
    BayesRegression,
    CMEAttention,
    MeanPool,
    NearestKey,
    SoftmaxAttention,
    resultant_length,
)

__all__ = [
    "BayesRegression",
    "CMEAttention",
    "MeanPool",
    "NearestKey",
    "SoftmaxAttention",
    "draw_tokens",
    "linear_gaussian",
    "log_posterior",
    "masked_token",
    "resultant_length",
    "smooth",
    "token_world",
]
