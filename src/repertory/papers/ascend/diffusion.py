"""The variance-preserving diffusion in continuous time, its samplers, and a network with all that sampling needs.

    x_t = sqrt(a(t)) x_0 + sqrt(1 - a(t)) e,    a(t) = exp(-int_0^t beta),    t in [0, 1]
    loss = mean (e - net(x_t, 999 t))^2,        score = -e_hat / sqrt(1 - a)

Samplers yield the image after every step, so that a trajectory can be drawn.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_whole
from repertory.core.problem import Problem, suggest
from repertory.papers.ascend.model import TEXT_DIM, DiffusionViT

TIME_SCALE = 999.0
"""The network sees 999 t."""
EULER_END, SOLVER_END = 1e-3, 1e-4
"""Smallest time of Euler-Maruyama, which divides by sqrt(1 - a), and of DPM-Solver."""

Sampler = Literal["ode", "sde", "dpm"]
Noise = Callable[[Tensor, Tensor], Tensor]
"""x (B, C, H, W), t () -> the predicted noise."""


# -- schedules ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """How fast an image becomes noise.

    Attributes:
        log_alpha_bar: t -> log a(t).
        beta: t -> -d log a / dt.
        last: the largest time that samplers start from.
    """

    log_alpha_bar: Callable[[Tensor], Tensor]
    beta: Callable[[Tensor], Tensor]
    last: float = 1.0

    def alpha_bar(self, t: Tensor) -> Tensor:
        """a(t), the share of the image's variance."""
        return self.log_alpha_bar(t).exp()

    def noise_variance(self, t: Tensor) -> Tensor:
        """1 - a(t), exact near 0."""
        return -torch.expm1(self.log_alpha_bar(t))

    def snr(self, t: Tensor) -> Tensor:
        """a / (1 - a)."""
        return self.alpha_bar(t) / self.noise_variance(t)

    def equal_ratios(self, steps: int) -> Tensor:
        """Times (steps + 1,) from the last to 0.0001 with equal steps in log snr, by bisection on the CPU."""
        ends = torch.tensor([self.last, SOLVER_END], dtype=torch.float64)
        first, last = self.snr(ends).log().tolist()
        wanted = torch.linspace(first, last, steps + 1, dtype=torch.float64)
        low, high = torch.full_like(wanted, SOLVER_END), torch.full_like(wanted, self.last)
        for _ in range(50):
            middle = (low + high) / 2
            noisier = self.snr(middle).log() < wanted
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return high.float()

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of images (B, C, H, W) at times (B,)."""
        t = t.view(-1, 1, 1, 1)
        return (self.log_alpha_bar(t) / 2).exp() * x + self.noise_variance(t).sqrt() * noise


def _cosine_angle(t: Tensor) -> Tensor:
    return (t + 0.008) / 1.008 * (math.pi / 2)


def _latent_log_alpha_bars() -> Tensor:
    """log a after each of the 1000 discrete steps of Stable Diffusion, before them 0: (1001,)."""
    betas = torch.linspace(math.sqrt(0.00085), math.sqrt(0.0120), 1000, dtype=torch.float64).square()
    return torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)]).float()


def _between(t: Tensor) -> tuple[Tensor, Tensor]:
    """log a of Stable Diffusion, linear between discrete steps, and its slope."""
    table = _latent_log_alpha_bars().to(t.device)
    place = (t * 1000).clamp(0, 1000)
    below = place.long().clamp(max=999)
    slope = table[below + 1] - table[below]
    return table[below] + slope * (place - below), 1000 * slope


SCHEDULES: Mapping[str, Schedule] = {
    "linear": Schedule(lambda t: -(0.1 * t + 9.95 * t.square()), lambda t: 0.1 + 19.9 * t),
    "cosine": Schedule(
        lambda t: 2 * (torch.cos(_cosine_angle(t)).log() - math.log(math.cos(0.008 / 1.008 * math.pi / 2))),
        lambda t: math.pi / 1.008 * torch.tan(_cosine_angle(t)),
        last=0.9946,  # a(1) = 0, and beta(1) is infinite
    ),
    "latent": Schedule(lambda t: _between(t)[0], lambda t: -_between(t)[1]),
}
"""linear: VP-SDE, beta from 0.1 to 20; latent: the discrete betas of Stable Diffusion."""


# -- samplers -----------------------------------------------------------------------------------


def euler(
    noise: Noise, x: Tensor, steps: int, schedule: Schedule, *, ode: bool, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Euler-Maruyama of the reverse SDE, or Euler of the probability-flow ODE; as many network calls as steps.

    From t to the next smaller s: x <- x + (-beta x / 2 - beta score [/ 2 for the ODE]) (s - t), and for the SDE plus
    sqrt(beta (t - s)) z but at the last step, to s = 0.

    Args:
        noise: prediction of the noise.
        x: x_1, standard normal (B, C, H, W).
        steps: N >= 2; times 0 and N values from 0.001 to 1.
        schedule: of the diffusion.
        ode: without noise.
        generator: of z.
    """
    times = torch.cat([torch.zeros(1), torch.linspace(EULER_END, schedule.last, steps)]).to(x.device)
    for i in range(steps, 0, -1):
        s, t = times[i - 1], times[i]
        beta = schedule.beta(t)
        score = -noise(x, t) / schedule.noise_variance(t).sqrt()
        x = x + (-beta * x / 2 - beta * score * (0.5 if ode else 1.0)) * (s - t)
        if not ode and i > 1:
            x = x + (beta * (t - s)).sqrt() * normal(x.shape, generator, x.device)
        yield x


def dpm_solver(noise: Noise, x: Tensor, steps: int, schedule: Schedule) -> Iterator[Tensor]:
    """DPM-Solver++ of second order, multistep (2M; Lu et al., 2022), from the last time to 0.0001.

    Times are equally spaced in l = log(sqrt(a) / sqrt(1 - a)); h is the step in l, r the ratio of the last step to it,
    and D = (1 + 1 / (2 r)) x_0(t) - x_0(before) / (2 r): x <- (sigma_s / sigma_t) x - sqrt(a_s) expm1(-h) D.

    Args:
        noise: prediction of the noise.
        x: x_1, standard normal (B, C, H, W).
        steps: of the solver, as many network calls.
        schedule: of the diffusion.
    """
    times = schedule.equal_ratios(steps).to(x.device)
    signal, sigma = (schedule.log_alpha_bar(times) / 2).exp(), schedule.noise_variance(times).sqrt()
    lengths = (signal.log() - sigma.log()).diff()  # (steps,)
    before = None
    for i in range(steps):
        image = (x - sigma[i] * noise(x, times[i])) / signal[i]
        mixed = image
        if before is not None:
            weight = lengths[i] / (2 * lengths[i - 1])
            mixed = image + weight * (image - before)
        x = sigma[i + 1] / sigma[i] * x - signal[i + 1] * torch.expm1(-lengths[i]) * mixed
        before = image
        yield x


def normal(shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Standard normal numbers, drawn on the generator's own device: the same on a CPU and a GPU."""
    where = device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=where).to(device)


# -- a network and what sampling needs ----------------------------------------------------------


class Words(nn.Module):
    """Text features of a bag of words: one learned vector a word, in the order of the prompt.

    Args:
        words: of the vocabulary; word k is number k + 1, and 0 is no word.
        dim: channels of a feature.
        tokens: length that prompts are filled up to.

    Shape:
        numbers (B, tokens) -> (B, tokens, dim).
    """

    def __init__(self, words: Sequence[str], dim: int, tokens: int) -> None:
        super().__init__()
        self.numbers = {word: k for k, word in enumerate(words, start=1)}
        self.tokens = tokens
        self.table = nn.Embedding(len(words) + 1, dim)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.table(numbers)

    def read(self, prompt: str) -> list[int]:
        """Numbers of a prompt's words, filled up with 0.

        Raises:
            Problem: a word that no caption has (names the closest), no word, or too many.
        """
        words = prompt_words(prompt)
        for word in words:
            if word not in self.numbers:
                raise Problem(
                    f"no caption has the word {word!r}{suggest(word, self.numbers)}",
                    f"prompt {prompt!r}",
                    f"use words of the captions: {', '.join(list(self.numbers)[:12])}, …",
                )
        if not 0 < len(words) <= self.tokens:
            raise Problem(f"{len(words)} words", f"prompt {prompt!r}", f"give 1 to {self.tokens} words")
        return [self.numbers[word] for word in words] + [0] * (self.tokens - len(words))


def prompt_words(text: str) -> list[str]:
    """Words of a caption or prompt: small letters, digits and apostrophes.

    Example:
        >>> prompt_words("A thin Seven.")
        ['a', 'thin', 'seven']
    """
    cleaned = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower())
    return cleaned.split()


class Diffuser(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A network that was trained for a schedule, with what its condition means: sample from it, or train it.

    Args:
        network: arguments of `DiffusionViT`; num_classes and text_dim are set here.
        classes: names of the classes that it is conditioned on; empty: no labels.
        words: vocabulary of the captions that it is conditioned on; empty: no text.
        text_dim: channels of text features.
        guided: there is an empty condition, so that guidance works.
        schedule: name in `SCHEDULES`.
        predicts: what the network gives: the noise, or the image.

    Raises:
        Problem: classes and words at once, or an unknown schedule.

    Example:
        >>> diffuser = Diffuser({"img_size": 8, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}, ["a", "b"])
        >>> diffuser.sample(3, steps=2, condition=diffuser.conditions("b", 3), guidance=1.5).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        network: dict[str, Any],
        classes: Sequence[str] = (),
        words: Sequence[str] = (),
        text_dim: int = TEXT_DIM,
        guided: bool = True,
        schedule: str = "linear",
        predicts: Literal["noise", "image"] = "noise",
    ) -> None:
        check_choice("Diffuser", SCHEDULES, schedule=schedule)
        check_choice("Diffuser", ("noise", "image"), predicts=predicts)
        if classes and words:
            raise Problem("classes and words at once", "Diffuser", "give one of them")
        super().__init__()
        self.classes, self.guided, self.predicts = tuple(classes), guided, predicts
        self.schedule = SCHEDULES[schedule]
        rows = len(classes) + guided if classes else -1
        self.network = DiffusionViT(**{**network, "num_classes": rows, "text_dim": text_dim if words else 0})
        self.words = Words(words, text_dim, self.network.text_tokens) if words else None

    @property
    def conditional(self) -> bool:
        """Whether images are made for a class or a prompt."""
        return bool(self.classes) or self.words is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.network.in_chans, self.network.img_size, self.network.img_size

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Noisy images (B, C, H, W) at times (B,) in 0 to 1, labels (B,) or numbers of words (B, T) -> output."""
        if self.words is not None:
            return self.network(x, TIME_SCALE * t, context=self.words(_present(condition)))
        return self.network(x, TIME_SCALE * t, condition if self.classes else None)

    def predicted_noise(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise behind the network's output."""
        if self.predicts == "noise":
            return output
        t = t.view(-1, 1, 1, 1)
        return (x - (self.schedule.log_alpha_bar(t) / 2).exp() * output) / self.schedule.noise_variance(t).sqrt()

    def conditions(self, wanted: str, count: int) -> Tensor | None:
        """`count` times the condition that a class or prompt stands for; None of an unconditional model.

        Raises:
            Problem: no such class (names the closest), or a word that no caption has.
        """
        if self.words is not None:
            return torch.tensor([self.words.read(wanted)]).repeat(count, 1)
        if not self.classes:
            return None
        if wanted not in self.classes:
            raise Problem(
                f"no class {wanted!r}{suggest(wanted, self.classes)}",
                "class",
                f"choose from {', '.join(self.classes[:12])}{', …' if len(self.classes) > 12 else ''}",
            )
        return torch.full((count,), self.classes.index(wanted))

    def empty(self, condition: Tensor) -> Tensor:
        """The condition of no class or no words, of the same shape."""
        return torch.full_like(condition, len(self.classes))

    def dropped(self, condition: Tensor, rate: float) -> Tensor:
        """A condition with a share of its rows emptied, for guidance; draws from the global generator."""
        if not rate:
            return condition
        drop = torch.rand(len(condition), device=condition.device) < rate
        return torch.where(drop.view(-1, *[1] * (condition.ndim - 1)), self.empty(condition), condition)

    def trajectory(
        self,
        count: int,
        *,
        sampler: Sampler = "ode",
        steps: int = 50,
        condition: Tensor | None = None,
        guidance: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Sample `count` images; yields the noise first, then the images after every step.

        Args:
            count: number of images.
            sampler: "ode": Euler; "sde": Euler-Maruyama; "dpm": DPM-Solver++(2M).
            steps: network calls, at least 2.
            condition: labels (count,) or numbers of words (count, T).
            guidance: s of e_c + s (e_c - e_u); 0: none.
            generator: of the noise.

        Raises:
            Problem: fewer than 2 steps, guidance without an empty condition, or a condition that is missing.
        """
        check_whole("sampling", 2, steps=steps)
        check_whole("sampling", 0, count=count)
        check_choice("sampling", ("ode", "sde", "dpm"), sampler=sampler)
        if guidance and not (self.conditional and self.guided):
            kind = "an unconditional model" if not self.conditional else "a model trained without empty conditions"
            raise Problem(f"guidance={guidance:g} with {kind}", "sampling", "leave guidance at 0")
        device = next(self.parameters()).device
        condition = None if condition is None else condition.to(device)
        if self.conditional and (condition is None or len(condition) != count):
            raise Problem("a conditional model needs a condition for every image", "sampling", "give `conditions(...)`")

        def noise(x: Tensor, t: Tensor) -> Tensor:
            times = t.expand(len(x))
            given = self.predicted_noise(self(x, times, condition), x, times)
            if not guidance:
                return given
            without = self.predicted_noise(self(x, times, self.empty(_present(condition))), x, times)
            return given + guidance * (given - without)

        x = normal((count, *self.shape), generator, device)
        yield x
        if sampler == "dpm":
            yield from dpm_solver(noise, x, steps, self.schedule)
        else:
            yield from euler(noise, x, steps, self.schedule, ode=sampler == "ode", generator=generator)

    @torch.no_grad()
    def sample(self, count: int, **options: Any) -> Tensor:
        """The images (count, C, H, W) at the end of `trajectory`, which takes the options; about -1 to 1."""
        (last,) = deque(self.trajectory(count, **options), maxlen=1)
        return last


def _present(condition: Tensor | None) -> Tensor:
    if condition is None:
        raise Problem("a conditional model without a condition", "Diffuser", "give labels or numbers of words")
    return condition


def noise_loss(model: nn.Module, diffuser: Diffuser, x: Tensor, condition: Tensor | None, drop: float = 0.0) -> Tensor:
    """Mean squared error of the network's output at uniform times; draws from the global generator.

    Args:
        model: `diffuser`, perhaps wrapped for several devices.
        diffuser: says what the network predicts.
        x: images (B, C, H, W) in [-1, 1].
        condition: labels, numbers of words, or None.
        drop: share of conditions that are emptied.
    """
    t, noise = torch.rand(len(x), device=x.device), torch.randn_like(x)
    condition = None if condition is None else diffuser.dropped(condition, drop)
    output = cast(Tensor, model(diffuser.schedule.noised(x, t, noise), t, condition))
    return (output - (noise if diffuser.predicts == "noise" else x)).square().mean()
