"""Devices, precision and strategy of a trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repertory.core.problem import Problem, reason

if TYPE_CHECKING:
    from repertory.core.fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Weights stay in float32: evaluation runs the module by itself, outside the training loop's casts."""


@dataclass(frozen=True)
class Hardware:
    """What Lightning Fabric is told about devices."""

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def fabric(self) -> Fabric:
        """Raises `Problem` when this machine cannot provide it."""
        if self.precision not in PRECISIONS:
            raise Problem(f"no precision {self.precision!r}", "--precision", f"choose from {', '.join(PRECISIONS)}")
        from repertory.core.fabric import Fabric  # takes seconds to import

        try:
            return Fabric(
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.num_nodes,
                strategy=self.strategy,
                precision=self.precision,  # pyright: ignore[reportArgumentType]  checked by Fabric
            )
        except (ValueError, RuntimeError, ImportError) as error:
            raise Problem(
                f"this machine cannot run that: {reason(error)}",
                f"devices={self.devices} strategy={self.strategy} precision={self.precision}",
                "see --accelerator, --devices, --strategy, --precision in `repertory run --help`",
            ) from error
