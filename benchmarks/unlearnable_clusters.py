"""Speed of a training step of the generator.

    python benchmarks/unlearnable_clusters.py

One pass of the generator for the whole batch, a frozen ResNet-50 as the surrogate, Adam. Peers: a surrogate whose
weights ask for gradients, as in the authors' code; and one that also runs the generator once for each image. The
gradients of all are compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repertory.core.bench import Race, bench
from repertory.papers.unlearnable_clusters import Generator, Surrogate, centre_loss, perturbation

EPS, SURROGATE = 16 / 255, "rn50"


class Step:
    """One step of one contestant, with a generator, a surrogate and an optimizer of its own."""

    def __init__(self, x: Tensor, target: Tensor, *, frozen: bool, per_image: bool = False) -> None:
        torch.manual_seed(0)
        self.generator, self.surrogate, self.per_image = Generator(), Surrogate(SURROGATE), per_image
        self.surrogate.requires_grad_(not frozen)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), 1e-4, weight_decay=5e-4)
        self.noise = torch.rand(1, 3, *x.shape[2:], generator=torch.Generator().manual_seed(0))
        self.x, self.target = x, target

    def backward(self) -> None:
        self.generator.zero_grad()
        self.surrogate.zero_grad()
        one = [perturbation(self.generator, self.noise, EPS) for _ in range(len(self.x) if self.per_image else 1)]
        features = self.surrogate((self.x + torch.cat(one)).clamp(0, 1))
        centre_loss(features, self.target).backward()

    def __call__(self) -> None:
        self.backward()
        self.optimizer.step()

    def gradient(self) -> Tensor:
        self.backward()
        return torch.cat([p.grad.flatten() for p in self.generator.parameters() if p.grad is not None])


def step(batch: int = 4, size: int = 64) -> Race:
    x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    with torch.no_grad():
        target = Surrogate(SURROGATE)(x[:1])[0]
    ours = Step(x, target, frozen=True)
    peers = {
        "surrogate with gradients": Step(x, target, frozen=False),
        "generator for each image": Step(x, target, frozen=False, per_image=True),
    }
    expected = ours.gradient()
    for peer in peers.values():
        assert (peer.gradient() - expected).norm() <= 1e-3 * expected.norm()
    return Race(ours, peers, facts={"batch": batch, "size": size})


if __name__ == "__main__":
    bench(__doc__, {"step": step})
