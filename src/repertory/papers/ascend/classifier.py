"""The classifier in whose features distances between sets of images are measured."""

from __future__ import annotations

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from repertory.core.settings import Recipe
from repertory.core.study import Session
from repertory.core.training import fit

PART = "classifier"
"""Name of its training loop."""
FEATURES = 64


class Classifier(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A small convolutional network: three layers, mean and maximum over the map, 64 features, classes.

    Args:
        channels: of the images.
        classes: number of classes.

    Shape:
        images (B, channels, H, W) in [-1, 1], at least 4 x 4 -> logits (B, classes).
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2),
        )  # fmt: skip
        self.penultimate = nn.Linear(4 * 64, FEATURES)
        self.head = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (B, 64), after their ReLU."""
        return self.penultimate(self.trunk(x.clamp(-1, 1)).flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def train_classifier(session: Session, dataset: Dataset, channels: int, classes: int, epochs: int) -> Classifier:
    """Train on (image, label) pairs with Adam; a batch is shifted by up to a pixel."""
    model = Classifier(channels, classes)
    recipe = Recipe(epochs=epochs, batch_size=64, lr=2e-3, schedule="cosine", optimizer="adam")

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, labels = batch
        row, column = torch.randint(3, (2,)).tolist()
        height, width = x.shape[-2:]
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")[..., row : row + height, column : column + width]
        return F.cross_entropy(module(x), labels)

    with torch.enable_grad():  # evaluation asks for it, too
        return fit(session, model, dataset, recipe, loss, part=PART)
