"""How the claims of ASCEND are tested.

repertory run ascend                                            # ten arms on 8 x 8 digits, minutes
repertory run ascend --set condition=text --set text_dim=32 --set text_tokens=4     # "a thin seven"
repertory run ascend --scale paper --data cifar10/ --arms uvit ascend --devices 4 --precision bf16-mixed \\
    --set batch_size=32 --set inception=inception_v3_google-0cc3c7bd.pth    # U-ViT-S/2: FID 3.11, U-ViT's README
repertory train ascend --data my_images/ --set condition=class --out my_model/
repertory predict my_model/ cat --set guidance=1 --set count=64 --out cats/
repertory convert ascend nnet_ema.pth my_model/                 # U-ViT's weights
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Measured, Metric, Prediction, Study
from repertory.core.timing import seconds_a_sample
from repertory.core.training import fit
from repertory.data.arrays import read_lines
from repertory.data.images import ImageSet
from repertory.nn.macs import count_macs
from repertory.papers.ascend import pictures
from repertory.papers.ascend.classifier import Classifier, train_classifier
from repertory.papers.ascend.diffusion import Diffuser, Sampler, noise_loss, prompt_words
from repertory.papers.ascend.model import IMPROVEMENTS, PLAIN, VARIANTS, DiffusionViT, count_parameters, matched
from repertory.papers.ascend.reading import LAYOUT, Conditioned, Data, are_grey, drawn, read, transform, write_sample
from repertory.papers.ascend.settings import IMPROVED, AscendConfig, AscendDesign
from repertory.tasks.classification import readable, relative_name, with_problems
from repertory.tasks.generation import (
    Inception,
    frechet_distance,
    kernel_distance,
    pixels,
    sheet_picture,
    strip_picture,
)
from repertory.tasks.images import network_facts, unlabelled
from repertory.tasks.settings import fitted

MINI: dict[str, Any] = {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 6, "num_heads": 2}
ARCHS: dict[str, dict[str, Any]] = {
    "mini": MINI,
    **{name: {k: v for k, v in sizes.items() if k != "num_classes"} for name, sizes in VARIANTS.items()},
}
BATCH = 128
"""Images in a pass without gradients."""
SHEET, STRIP, STATES = 100, 6, 9
"""Images of the sheet, rows and columns of the strip."""
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Times at which `predict` measures a given image."""
NEIGHBOURS = 10_000
"""Training images among which the nearest is looked for."""
MOST_SAMPLES = 100_000
DRY_SAMPLES, DRY_STEPS = 4, 2
NOTE = "reconstruction: architecture details not public to us"


def _metric(en: str, zh: str, better: Any = "lower", needs: str = "", **how: Any) -> Metric:
    return Metric(en, zh, better=better, needs=needs, **how)


LABELS = "class labels"


class AscendStudy(AscendDesign, Study[AscendConfig, Data, Diffuser]):
    """Train diffusion backbones of equal size; compare their held-out error and the images sampled from them."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "mse": _metric("held-out error of the noise (MSE)", "留出集噪声预测误差 (MSE)", decimals=4),
        "fd": _metric(
            "FD-digits: Frechet distance in classifier features", "FD-digits：分类器特征上的 Fréchet 距离", needs=LABELS
        ),
        "fd_floor": _metric(
            "floor of FD-digits: real against real", "FD-digits 下限：真实图像之间", better="", needs=LABELS
        ),
        "kd": _metric("KD, kernel distance in classifier features", "分类器特征上的核距离 (KD)", needs=LABELS),
        "kd_floor": _metric("floor of KD: real against real", "KD 下限：真实图像之间", better="", needs=LABELS),
        "classes_hit": _metric(
            "classes among the samples", "样本覆盖的类别比例", "higher", LABELS, unit="%", decimals=1
        ),
        "confidence": _metric(
            "confidence of the classifier in samples", "分类器对样本的置信度", "higher", LABELS, unit="%", decimals=1
        ),
        "obeyed": _metric(
            "samples of the class asked for", "符合指定类别的样本比例", "higher", "condition=class", unit="%"
        ),
        "classifier": _metric(
            "accuracy of the classifier", "分类器的准确率", "", LABELS, unit="%", decimals=1
        ),
        "fid": _metric("FID by torchvision's Inception", "FID（torchvision Inception）", needs="inception"),
        "fid_floor": _metric("floor of FID: real against real", "FID 下限：真实图像之间", "", "inception"),
        "nearest": _metric("distance to the nearest training image", "与最近训练图像的距离", better="", decimals=3),
        "parameters": _metric("parameters", "参数量", decimals=0),
        "macs": _metric("multiply-accumulates of a step", "单步乘加次数", decimals=0),
        **{
            f"{name}_parameters": _metric(f"parameters, {name}", f"{name} 的参数量", decimals=0) for name in VARIANTS
        },
        "largest_size_difference": _metric(
            "largest difference of an arm's size", "各臂参数量的最大差异", unit="%", decimals=2
        ),
    }  # fmt: skip
    sample_name = "digits"
    sample_fields = ("sample_digits",)
    layout = LAYOUT

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write scikit-learn's digits, 8 x 8, in class folders, and captions of them in COCO's format."""
        write_sample(folder, self.config.sample_digits)

    def read(self, folder: Path) -> Data:
        """Training images, of which the seed draws a share, and held-out ones.

        Raises:
            Problem: in none of the layouts, or a damaged file.
        """
        config = self.config
        data = read(folder, config.condition == "text", self.session.seed) if folder.is_dir() else None
        if data is None:
            raise self.missing(folder)
        if config.train_share < 1 and len(data.train):
            data = drawn(data, config.train_share, self.session.rng("split"))
        return data

    def _prepared(self, data: Data, part: ImageSet, network: Diffuser) -> ImageSet:
        channels, size, _ = network.shape
        return part.with_transform(transform(size, channels, data.crop), fixed=True)

    def _conditions(self, data: Data, part: ImageSet, network: Diffuser) -> list[Tensor]:
        """What each image can be conditioned on: (1,) labels, or (captions, T) numbers of words."""
        if network.words is not None:
            words = network.words
            return [torch.tensor([words.read(text) for text in data.captions[path]]) for path in part.paths]
        if network.classes:
            part = part.named(network.classes)
        return [torch.tensor([label]) for label in part.labels]

    # -- the experiment -------------------------------------------------------------------------

    def network(self, arm: str) -> dict[str, Any]:
        """Arguments of an arm's `DiffusionViT`, with as many parameters as every other arm has.

        Raises:
            Problem: no widths give that number.
        """
        config = self.config
        base = {**ARCHS[config.arch], "in_chans": config.channels}
        base["img_size"] = config.image_size or base["img_size"]
        target = config.parameters or count_parameters(base)
        if arm == "uvit" and not config.parameters:
            return base
        return matched({**base, **self._switches(arm, base["depth"])}, target)

    def _switches(self, arm: str, depth: int) -> dict[str, Any]:
        if arm == "vit":
            return dict(PLAIN)
        if arm == "uvit":
            return {}
        if arm.startswith("iu_vit"):
            left_out = arm.removeprefix("iu_vit").removeprefix("_no_")
            return {k: v for name in IMPROVED if name != left_out for k, v in IMPROVEMENTS[name].items()}
        strong = min(depth - 1, round(self.config.encoder_share * depth))
        encoder = {"ascend": strong, "symmetric": depth // 2, "reverse": depth - strong}[arm]
        split: dict[str, Any] = {"depth": encoder, "decoder_depth": depth - encoder}
        width = {"ascend": 1.0, "symmetric": 0.0, "reverse": -1.0}[arm]
        split["decoder_dim"] = round(ARCHS[self.config.arch]["embed_dim"] * self.config.decoder_width**width)
        return {**split, "decoder_text": self.config.decoder_text and self.config.condition == "text"}

    def build(self, arm: str, data: Data) -> Diffuser:
        """The untrained network of an arm."""
        config = self.config
        words = sorted({word for texts in data.captions.values() for text in texts for word in prompt_words(text)})
        by_text = config.condition == "text"
        return Diffuser(
            {**self.network(arm), **({"text_tokens": config.text_tokens} if by_text else {})},
            classes=data.train.classes if config.condition == "class" else (),
            words=words if by_text else (),
            text_dim=config.text_dim,
            guided=config.condition_drop > 0,
            schedule=config.noise_schedule,
            predicts=config.predicts,
        )

    def train(self, arm: str, data: Data) -> Diffuser:
        """Train one arm; the result is the moving average of its weights.

        Raises:
            Problem: fewer images than a batch.
        """
        config, session = self.config, self.session
        needed = config.batch_size * session.fabric.world_size
        if len(data.train) < needed and not session.dry_run:
            raise Problem(
                f"{len(data.train)} training images, fewer than the batch of {needed}",
                "training data",
                f"add images, or set batch_size to {max(1, len(data.train) // session.fabric.world_size)} or less",
            )
        if config.channels == 3 and are_grey(data.train):
            warnings.warn("grey images, converted to RGB (channels=1 takes them as grey)", stacklevel=2)
        elif config.channels == 1 and not are_grey(data.train):
            warnings.warn("colour images, converted to grey (channels=3 keeps the colours)", stacklevel=2)
        session.reseed("weights")
        diffuser = self.build(arm, data)
        train = self._prepared(data, data.train, diffuser)
        pairs = Conditioned(train, self._conditions(data, data.train, diffuser), config.flip)
        drop = config.condition_drop if diffuser.conditional else 0.0

        def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, condition = batch
            return noise_loss(module, diffuser, x, condition if diffuser.conditional else None, drop)

        return fit(session, diffuser, pairs, config, loss)

    def evaluate(self, model: Diffuser, data: Data) -> dict[str, float]:
        """Error on the held-out images at fixed times and noises; distances between samples and held-out images.

        Raises:
            Problem: classes or words that the model does not know.
        """
        session, config = self.session, self.config
        test, conditions = self._tensors(data, data.test, model)
        errors = self._errors(model, test, conditions)  # (levels, N)
        session.keep_outputs({"mse": errors.mean(0)})
        channels, size, _ = model.shape
        network = model.network
        device = session.fabric.device
        given = (torch.zeros(1, channels, size, size, device=device), torch.zeros(1, device=device))
        first = [] if conditions is None else [conditions[:1].to(device)]
        found = {
            "mse": float(errors.mean()),
            "parameters": float(sum(p.numel() for p in network.parameters())),
            "macs": float(count_macs(model, *given, *first)),
        }
        if session.fabric.is_global_zero:
            levels = self._levels()[: len(errors)].tolist()  # a dry run takes two
            figure = pictures.error_picture(levels, {"held-out images": errors.mean(1).tolist()})
            session.figure("error-over-time", figure)
        if config.eval_samples:
            found |= self._sampled(model, data, test)
        return found

    def _tensors(self, data: Data, part: ImageSet, model: Diffuser, most: int | None = None) -> tuple[Tensor, Any]:
        """Images (N, C, H, W) and, of a conditional model, their first conditions; at most `most`, at random."""
        if most is not None and most < len(part):
            order = torch.randperm(len(part), generator=self.session.generator("subset"))
            part = part.subset(order[:most].sort().values.tolist())
        if self.session.dry_run:
            part = part.subset(range(min(DRY_SAMPLES, len(part))))
        prepared = self._prepared(data, part, model)
        x = torch.stack([prepared[i][0] for i in range(len(prepared))])
        if not model.conditional:
            return x, None
        return x, torch.stack([choices[0] for choices in self._conditions(data, part, model)])

    def _levels(self) -> Tensor:
        """Times in the middle of equal intervals."""
        count = self.config.noise_levels
        return (torch.arange(count) + 0.5) / count

    @torch.no_grad()
    def _errors(self, model: Diffuser, x: Tensor, conditions: Tensor | None, levels: Tensor | None = None) -> Tensor:
        """Squared error of the noise at each time, for each image: (levels, N); the noises are those of every arm."""
        device, levels = self.session.fabric.device, self._levels() if levels is None else levels
        rows = []
        for k, level in enumerate(self.session.progress(levels, "held-out error")):
            noises = torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
            of_images = []
            for first in range(0, len(x), BATCH):
                part = slice(first, first + BATCH)
                clean, noise = x[part].to(device), noises[part].to(device)
                t = level.to(device).expand(len(clean))
                noisy = model.schedule.noised(clean, t, noise)
                output = model(noisy, t, None if conditions is None else conditions[part].to(device))
                error = (model.predicted_noise(output, noisy, t) - noise).square().mean((1, 2, 3))
                of_images.append(error.float().cpu())
            rows.append(torch.cat(of_images))
        return torch.stack(rows)

    # -- samples --------------------------------------------------------------------------------

    def _protocol(self, guidance: float, steps: int, sampler: str) -> str:
        """What belongs beside every score of samples."""
        average = f"EMA {self.config.ema_decay:g}" if self.config.ema_decay else "no EMA"
        return f"{sampler}, {steps} steps, guidance {guidance:g}, {average}"

    def _sampled(self, model: Diffuser, data: Data, test: Tensor) -> dict[str, float]:
        """Distances of samples to the held-out images, with their floors, and figures."""
        config, session = self.config, self.session
        count, steps = config.eval_samples, config.eval_steps
        if session.dry_run:
            count, steps = min(count, DRY_SAMPLES), DRY_STEPS
        train, conditions = self._tensors(data, data.train or data.test, model, most=max(count, NEIGHBOURS))
        order = torch.randperm(len(train), generator=session.generator("floor"))
        real = train[order[:count]]
        wanted = None if conditions is None else conditions[order[torch.arange(count) % len(order)]]
        samples = self._draw(
            model, count, wanted, steps, config.eval_sampler, config.eval_guidance, session.generator("samples")
        )
        found: dict[str, float] = {}
        if classifier := self._classifier(data, model):
            ours, theirs, held_out = (self._features(classifier.features, x) for x in (samples, real, test))
            found |= {
                "fd": frechet_distance(ours, held_out),
                "fd_floor": frechet_distance(theirs, held_out),
                "kd": kernel_distance(ours, held_out),
                "kd_floor": kernel_distance(theirs, held_out),
                **self._judged(classifier, data, samples, wanted if model.classes else None, test),
            }
        if config.inception:
            inception = session.fabric.to_device(Inception(Path(config.inception)))
            ours, theirs, held_out = (self._features(inception, x) for x in (samples, real, test))
            # As usual for CIFAR-10, against the training images; the floor is that of the held-out ones.
            found |= {"fid": frechet_distance(ours, theirs), "fid_floor": frechet_distance(held_out, theirs)}
        numbers, distances = pictures.nearest(samples.clamp(-1, 1), train)
        found["nearest"] = float(distances.mean())
        if session.fabric.is_global_zero:
            protocol = self._protocol(config.eval_guidance, steps, config.eval_sampler)
            some = slice(None, min(10, count))
            session.figure("samples", sheet_picture(samples[:SHEET], protocol))
            session.figure(
                "nearest-training-images",
                pictures.nearest_picture(samples[some], train[numbers[some]], distances[some]),
            )
            strip = self._strip(
                model, None if wanted is None else wanted[:STRIP], steps, config.eval_sampler, config.eval_guidance
            )
            session.figure("denoising", strip)
        return found

    def _classifier(self, data: Data, model: Diffuser) -> Classifier | None:
        """The classifier of this seed, trained on the training images; None without classes or epochs."""
        classes, epochs = data.train.classes, self.config.classifier_epochs
        if not epochs or len(classes) < 2 or not len(data.train):
            return None
        train = self._prepared(data, data.train, model)
        channels, size, _ = model.shape
        return self.session.shared(
            f"classifier-{channels}x{size}-{epochs}",
            lambda: train_classifier(self.session, train, channels, len(classes), epochs),
        ).eval()

    def _judged(
        self, classifier: Classifier, data: Data, samples: Tensor, labels: Tensor | None, test: Tensor
    ) -> dict[str, float]:
        """What the classifier sees in the samples; its own accuracy on the held-out images."""
        seen = self._features(classifier, samples).softmax(1)
        own = self._features(classifier, test).argmax(1)
        truth = torch.tensor(data.test.named(data.train.classes).labels[: len(test)])
        found = {
            "classes_hit": 100 * len(seen.argmax(1).unique()) / seen.shape[1],
            "confidence": 100 * float(seen.max(1).values.mean()),
            "classifier": 100 * float((own == truth).float().mean()),
        }
        if labels is not None:
            found["obeyed"] = 100 * float((seen.argmax(1) == labels).float().mean())
        return found

    @torch.no_grad()
    def _features(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What a network gives for images (N, C, H, W), in batches, on the CPU."""
        device = self.session.fabric.device
        return torch.cat([network(x[k : k + BATCH].to(device)).float().cpu() for k in range(0, len(x), BATCH)])

    @torch.no_grad()
    def _draw(
        self,
        model: Diffuser,
        count: int,
        condition: Tensor | None,
        steps: int,
        sampler: Sampler,
        guidance: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Samples (count, C, H, W) on the CPU, in batches."""
        parts = []
        for first in self.session.progress(range(0, count, BATCH), "sample"):
            size = min(BATCH, count - first)
            x = model.sample(
                size,
                sampler=sampler,
                steps=steps,
                condition=None if condition is None else condition[first : first + size],
                guidance=guidance,
                generator=generator,
            )
            parts.append(x.float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def _strip(
        self, model: Diffuser, condition: Tensor | None, steps: int, sampler: Sampler, guidance: float
    ) -> Figure:
        """Some images on their way from noise."""
        count = STRIP if condition is None else len(condition)
        generator = torch.Generator().manual_seed(self.config.sample_seed)
        states = list(
            model.trajectory(
                count, sampler=sampler, steps=steps, condition=condition, guidance=guidance, generator=generator
            )
        )
        shown = np.unique(np.linspace(0, steps, STATES).round().astype(int)).tolist()
        return strip_picture(
            [states[k] for k in shown],
            [f"step {k}" for k in shown],
            f"from noise to image: {self._protocol(guidance, steps, sampler)}",
        )

    # -- figures without training ---------------------------------------------------------------

    def measure(self) -> dict[str, Measured]:
        """Parameters of the released U-ViTs; how far the arms of this scale differ in size."""
        sizes = {f"{name}_parameters": float(count_parameters(options)) for name, options in VARIANTS.items()}
        counts = [count_parameters(self.network(arm)) for arm in self.arms]
        return {**sizes, "largest_size_difference": 100 * (max(counts) / min(counts) - 1)}

    # -- use ------------------------------------------------------------------------------------

    def scaled(self, data: Data, given: Collection[str]) -> AscendConfig:
        """The published recipe for these images, see `repertory.tasks.settings.fitted`."""
        published = cast(AscendConfig, self.own)
        config = fitted(self.config, published, len(data.train), self.session.fabric.world_size, self.own_batch, given)
        # 10,000 samples in 1000 steps take hours on a CPU; the held-out error needs none.
        quick = {
            "eval_samples": min(config.eval_samples, len(data.test)),
            "eval_sampler": "dpm",
            "eval_steps": 50,
        }
        return config.model_copy(update={k: v for k, v in quick.items() if k not in given})

    def preview(self, arm: str, data: Data) -> list[str]:
        """Parameters, pixels, minutes, steps, and how samples are judged."""
        config = self.config
        if not len(data.train):
            return []
        device = self.session.fabric.device
        model = self.build(arm, data).to(device).train()
        x = torch.zeros(2, *model.shape, device=device)
        condition = None
        if model.conditional:
            condition = torch.stack(
                [choices[0] for choices in self._conditions(data, data.train.subset([0, 0]), model)]
            )
            condition = condition.to(device)
        seconds = seconds_a_sample(lambda: noise_loss(model, model, x, condition), 2, device)
        seen = len(data.train) * config.epochs / self.session.fabric.world_size
        steps = config.epochs * max(1, len(data.train) // (config.batch_size * self.session.fabric.world_size))
        _, height, width = model.shape
        return [
            *network_facts(model.network, height, width, seconds * seen / 60),
            f"{steps} steps",
            f"samples: {self._protocol(config.eval_guidance, config.eval_steps, config.eval_sampler)}",
            *([NOTE] if arm != "uvit" and arm != "vit" else []),
        ]

    def convert(self, source: Path, variant: str = "") -> Diffuser:
        """Build a model from U-ViT's weights (nnet_ema.pth): their names are ours.

        Args:
            source: the file.
            variant: name in `VARIANTS`; empty: the one whose shapes fit.

        Raises:
            Problem: an unknown variant, or weights of another one.
        """
        if variant and variant not in VARIANTS:
            raise Problem(f"no variant {variant!r}", "--variant", f"choose from {', '.join(VARIANTS)}")
        state = checkpoint.read_weights(source)
        fits = [name for name in VARIANTS if _shapes(VARIANTS[name]) == {k: v.shape for k, v in state.items()}]
        name = variant or next(iter(fits), "")
        if not name or name not in fits:
            wanted = name or "any released U-ViT in pixel space"
            remedy = f"--variant {fits[0]} fits" if fits else f"give nnet_ema.pth of one of {', '.join(VARIANTS)}"
            raise Problem(f"not the weights of {wanted}", source, remedy)
        options = VARIANTS[name]
        classes = [str(k) for k in range(options.get("num_classes", 0))]
        model = Diffuser(dict(options), classes=classes, guided=False)
        checkpoint.fit_weights(model.network, state, source)
        return model.eval()

    @torch.no_grad()
    def predict(self, model: Diffuser, source: Path) -> Prediction:
        """Sample images for a class or a prompt, or for each line of a text file; or measure given images.

        - A number, of an unconditional model: so many images.
        - Words: a class or a prompt; `count` images of it.
        - A text file: a class or a prompt a line; a line that is not understood has a row with the reason.
        - An image, or a folder: how well the noise in each is predicted, at `LEVELS`.

        Raises:
            Problem: none of these; an unknown class or word; guidance that the model was not trained for.
        """
        if source.is_dir() or (source.is_file() and source.suffix.lower() != ".txt"):
            return self._measured(model, source)
        lines = read_lines(source) if source.is_file() else [str(source)]
        requests = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        if not requests:
            raise Problem("no line with a class or a prompt", source, "write one a line")
        understood: dict[str, Tensor | None] = {}
        problems: dict[str, str] = {}
        for request in requests:
            try:
                understood[request] = self._understood(model, request)
            except Problem as problem:
                if len(requests) == 1:
                    raise
                problems[request] = problem.what
        if not understood:
            raise Problem(f"none of {len(requests)} lines is understood ({problems[requests[0]]})", source, "mend them")
        return self._made(model, requests, understood, problems)

    def _understood(self, model: Diffuser, request: str) -> Tensor | None:
        """The conditions of a request, one an image."""
        if model.conditional:
            return model.conditions(request, self.config.count)
        if not request.isdecimal() or not 0 < int(request) <= MOST_SAMPLES:
            raise Problem(
                f"{request!r} asks an unconditional model for something", "request", "give the number of images: 16"
            )
        return None

    def _made(
        self,
        model: Diffuser,
        requests: list[str],
        understood: Mapping[str, Tensor | None],
        problems: Mapping[str, str],
    ) -> Prediction:
        config = self.config
        folder = self.session.out_dir / "samples"
        folder.mkdir(exist_ok=True)
        generator = torch.Generator().manual_seed(config.sample_seed)
        steps = DRY_STEPS if self.session.dry_run else config.steps
        table: list[dict[str, Any]] = []
        sheets: list[Tensor] = []
        for number, request in enumerate(requests):
            row = {"request": request, "file": ""}
            if request in problems:
                table.append({**row, "problem": problems[request]})
                continue
            condition = understood[request]
            count = int(request) if condition is None else config.count
            x = self._draw(model, count, condition, steps, config.sampler, config.guidance, generator)
            for k, image in enumerate(pixels(x)):
                name = f"{number:03d}-{k:05d}.png"
                Image.fromarray(image).save(folder / name)
                table.append({**row, "file": name, **({"problem": ""} if problems else {})})
            sheets.append(x)
        first = next(iter(understood.values()))
        samples = torch.cat(sheets)
        protocol = self._protocol(config.guidance, steps, config.sampler)
        return Prediction(
            text=f"{len(samples)} images: {protocol}, seed {config.sample_seed}",
            table=table,
            figures={
                "samples": sheet_picture(samples[:SHEET], protocol),
                "denoising": self._strip(
                    model, None if first is None else first[:STRIP], steps, config.sampler, config.guidance
                ),
            },
            files={"images": folder},
        )

    def _measured(self, model: Diffuser, source: Path) -> Prediction:
        """The error of the noise in given images, and what the network takes out of noisy ones in one step."""
        found = unlabelled(source, ("image",))
        good, problems = readable(found.paths, found.image, source)
        channels, size, _ = model.shape
        prepared = found.subset(good).with_transform(transform(size, channels, None), fixed=True)
        x = torch.stack([prepared[i][0] for i in range(len(prepared))])
        condition = None
        if model.conditional:  # nothing is known of the images
            shape = (len(x),) if model.words is None else (len(x), model.words.tokens)
            if not model.guided:
                raise Problem("a conditional model without an empty condition", source, "give a class or a prompt")
            condition = model.empty(torch.zeros(shape, dtype=torch.long))
        errors = self._errors(model, x, condition, torch.tensor(LEVELS))
        table = [
            {
                "file": relative_name(path, source),
                "error": round(float(of_image.mean()), 5),
                **{
                    f"error at {level:g}": round(value, 5)
                    for level, value in zip(LEVELS, of_image.tolist(), strict=False)
                },
            }
            for path, of_image in zip(prepared.paths, errors.T, strict=True)
        ]
        some = x[:STRIP].to(self.session.fabric.device)
        given = None if condition is None else condition[:STRIP].to(some.device)
        states, labels = [some.cpu()], ["image"]
        for k, level in enumerate(LEVELS):
            noise = torch.randn(some.shape, generator=torch.Generator().manual_seed(k)).to(some.device)
            t = torch.full((len(some),), level, device=some.device)
            noisy = model.schedule.noised(some, t, noise)
            predicted = model.predicted_noise(model(noisy, t, given), noisy, t)
            clean = (noisy - model.schedule.noise_variance(t).sqrt().view(-1, 1, 1, 1) * predicted) / (
                model.schedule.alpha_bar(t).sqrt().view(-1, 1, 1, 1)
            )
            states += [noisy.cpu(), clean.cpu()]
            labels += [f"t = {level:g}", "denoised"]
        mean = errors.mean(1).tolist()
        return Prediction(
            text=f"error of the predicted noise in {len(x)} images: {float(errors.mean()):.4f}; {NOTE}",
            table=with_problems(table, found.paths, problems, source),
            figures={
                "denoised": strip_picture(states, labels, "given images, noisy ones, and one step of denoising"),
                "error-over-time": pictures.error_picture(LEVELS[: len(errors)], {"given images": mean}),
            },
        )


def _shapes(options: Mapping[str, Any]) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in DiffusionViT(**options).state_dict().items()}
