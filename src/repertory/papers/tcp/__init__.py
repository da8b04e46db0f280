"""TCP: temporal-attentive covariance pooling, a head of video networks (Gao et al., NeurIPS 2021)."""

from repertory.papers.tcp.model import GAP, TCA, TCP, TSA, TCPNet, TemporalAttention

__all__ = ["GAP", "TCA", "TCP", "TSA", "TCPNet", "TemporalAttention"]
