"""Tests of the claims of Unlearnable Clusters.

    repertory run unlearnable_clusters                                          # nine arms on digits, minutes
    repertory train unlearnable_clusters --data my_photos/ --out protector/     # learns from any folder of images
    repertory predict protector/ my_photos/ --out out/                          # publish out/protected/
    repertory run unlearnable_clusters --scale paper --data pets/ --arms clean uc \\
        --set surrogate=clip_rn50 --set surrogate_weights=RN50.pt               # UC-CLIP; train/ and test/ by class
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from repertory.core.problem import Problem
from repertory.core.settings import Recipe
from repertory.core.study import Metric, Prediction, Session, Study
from repertory.core.training import fit, loader
from repertory.data import images
from repertory.data.images import ImageSet
from repertory.papers.unlearnable_clusters import pictures
from repertory.papers.unlearnable_clusters.baselines import minimise_error, random_signs, synthetic
from repertory.papers.unlearnable_clusters.files import Protected, difference, protect_file
from repertory.papers.unlearnable_clusters.hackers import features_of, probe_accuracy, train_hacker, train_simclr
from repertory.papers.unlearnable_clusters.model import (
    Generator,
    Protection,
    bounded,
    centre_loss,
    cluster,
    perturbation,
    targets,
)
from repertory.papers.unlearnable_clusters.networks import (
    HALF,
    Normalised,
    Surrogate,
    clip_resnet,
    load_surrogate,
)
from repertory.papers.unlearnable_clusters.sample import write_digits
from repertory.papers.unlearnable_clusters.settings import UnlearnableClustersConfig, UnlearnableClustersDesign
from repertory.papers.unlearnable_clusters.views import (
    Views,
    augmented,
    centred,
    cropped,
    protected,
    relabelled,
    two_views,
)
from repertory.papers.unlearnable_clusters.weights import read_released
from repertory.tasks.classification import top_k_accuracy

WRITTEN = "protected"
"""Folder of the output that holds the protected images."""
MEASURED = 200
"""Training images whose noise `evaluate` measures."""


@dataclass(frozen=True)
class OwnerData:
    """The owner's images, held-out ones with labels, and images of nobody.

    `test` and `public` may be empty; without `test` the labels are not known either.
    """

    train: ImageSet
    test: ImageSet
    public: ImageSet


class UnlearnableClustersStudy(UnlearnableClustersDesign, Study[UnlearnableClustersConfig, OwnerData, Protection]):
    """Protect the owner's images by each method, then train hackers on them and test these on clean images."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        **{
            f"accuracy_{labels}": Metric(
                f"clean-test accuracy of a hacker, {en}", f"黑客在干净测试集上的准确率，{zh}", "%", "lower", 1
            )
            for labels, en, zh in (
                ("classes", "labels: the classes", "标签为原类别"),
                ("parity", "labels: the parity of the class number", "标签为类别编号的奇偶"),
                ("halves", "labels: lower or upper half of the classes", "标签为类别的前后一半"),
                ("merged", "labels: classes merged in pairs", "标签为两两合并的类别"),
                ("simclr", "contrastive, linear probe of the classes", "对比学习，线性探测原类别"),
                ("classes_{x}", "the classes, {x}", "原类别，{x}"),
            )
        },
        "unprotected_accuracy": Metric(
            "clean-test accuracy of a hacker of unprotected images, the classes",
            "用未保护图像训练的黑客准确率，原类别",
            "%", "", 1,
        ),
        "psnr": Metric("PSNR of protected images", "受保护图像的 PSNR", "dB", "higher", 1),
        "ssim": Metric("SSIM of protected images", "受保护图像的 SSIM", "", "higher", 3),
        "mean_delta": Metric("mean change of a value, of 255", "像素值的平均改变（满值 255）", "", "lower", 2),
        "largest_delta": Metric("largest change of a value, of 255", "像素值的最大改变（满值 255）", "", "lower", 0),
        "generator_parameters": Metric("parameters of a generator", "生成器参数量", "", "lower", 0),
        "clip_rn50_parameters": Metric("parameters of CLIP's RN50 tower", "CLIP RN50 图像塔参数量", "", "lower", 0),
    }  # fmt: skip
    sample_name = "digits"
    sample_fields = ("public_images", "train_images", "test_images")
    layout = """\
any folder of images: .png, .jpg, … at any depth; or, to test the protection,
train/<class>/*.png and val/<class>/*.png (or test/), perhaps public/*.png for the small surrogate"""

    def __init__(self, config: UnlearnableClustersConfig, session: Session) -> None:
        super().__init__(config.filled(own=session.data_dir is not None), session)

    # -- data -----------------------------------------------------------------------------------

    def write_sample(self, folder: Path) -> None:
        """Write digits in class folders, and public ones; each seed deals out its own."""
        config = self.config
        write_digits(folder, config.train_images, config.public_images, config.test_images, self.session.seed)

    def sample_key(self) -> str:
        return f"{super().sample_key()}-seed{self.session.seed}"

    def read(self, folder: Path) -> OwnerData:
        """Class folders with held-out images, or any folder of images, whose labels are not known.

        Raises:
            Problem: no images.
        """
        if not folder.is_dir():
            raise self.missing(folder)
        if (folder / "train").is_dir() and any((folder / part).is_dir() for part in ("val", "test")):
            train, test = images.read_splits(folder)
            public = images.image_files(folder / "public") if (folder / "public").is_dir() else []
            return OwnerData(train, test, _unlabelled(public))
        found = images.image_files(folder)
        if not found:
            raise self.missing(folder)
        return OwnerData(_unlabelled(found), _unlabelled([]), _unlabelled([]))

    # -- protection -----------------------------------------------------------------------------

    def train(self, arm: str, data: OwnerData) -> Protection:
        """The perturbations of one arm.

        Raises:
            Problem: fewer images than clusters, a surrogate whose weights are not to be had, or a baseline that needs
                labels where there are none.
        """
        if arm == "clean":
            return self._protection("nothing", 0)
        if arm in ("em", "em_class", "synthetic"):
            if not data.train.classes:
                remedy = "give train/<class>/ and val/<class>/, or take an arm that needs no labels: uc, em_cluster"
                raise Problem(f"the arm {arm} needs the owner's labels", "training data", remedy)
            groups, count = relabelled(data.train, self.config.owner_labels)
            if arm == "em":
                names = [_name(path) for path in data.train.paths]
                protection = self._protection("images", len(names), names)
                return self._error_minimising(
                    protection, data.train, groups, range(len(names)), self.config.em_steps, 0.01
                )
            named = self.config.owner_labels == "classes"
            protection = self._protection(
                "classes", count, data.train.classes if named else [str(k) for k in range(count)]
            )
        else:
            protection, groups = self._clustered(data)
        if arm in ("em_class", "em_cluster"):
            return self._error_minimising(protection, data.train, groups, groups, 1, 0.1)
        size = len(protection.deltas), protection.size, self.config.eps / 255, self.session.generator("noise")
        if arm == "random":
            protection.deltas.copy_(random_signs(*size))
        elif arm.startswith("synthetic"):
            protection.deltas.copy_(synthetic(*size))
        else:
            self._generate(protection, data.train, groups, 0 if arm == "uc_own" else self.config.target_offset)
        self.session.figure("perturbations", pictures.perturbations(protection.deltas, _titles(protection)))
        return protection

    def _protection(
        self, by: Any, count: int, names: Sequence[str] = (), surrogate: Surrogate | None = None, features: int = 0
    ) -> Protection:
        config = self.config
        return Protection(
            by, count, cast(int, config.image_size), names, config.eps, config.norm,
            surrogate.name if surrogate else "", features, cast(int, config.resize),
        )  # fmt: skip

    def _clustered(self, data: OwnerData) -> tuple[Protection, list[int]]:
        """Stage 0: a protection with clusters, whose perturbations are zero; and the cluster of each image."""
        config = self.config
        surrogate = self.session.shared("surrogate", lambda: self._surrogate(data))
        batch = Recipe(batch_size=cast(int, config.generator_batch_size), workers=config.workers)
        features, _ = features_of(self.session, surrogate, self._views(data.train, centred), batch)
        count = min(cast(int, config.clusters), len(features)) if self.session.dry_run else cast(int, config.clusters)
        centres, assigned = cluster(features, count, int(self.session.rng("clusters").integers(2**31)))
        protection = self._protection("clusters", count, surrogate=surrogate, features=features.shape[1])
        assert protection.surrogate is not None
        protection.surrogate.load_state_dict(surrogate.state_dict())
        protection.centres.copy_(centres)
        return protection, assigned.tolist()

    def _surrogate(self, data: OwnerData) -> Surrogate:
        """Pre-trained, or a small network that learns how far the public images are turned; no labels are read."""
        config = self.config
        if config.surrogate != "small" or config.surrogate_weights:
            return load_surrogate(config.surrogate, config.surrogate_weights, download=not self.session.dry_run)
        source = data.public if len(data.public) else data.train
        turned = self._views(source, lambda size: lambda image: _turned(centred(size)(image)))
        network = Normalised("small", 4, HALF, HALF)
        recipe = Recipe(epochs=config.surrogate_epochs, batch_size=64, lr=1e-3, workers=config.workers)

        def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, _ = batch  # (B, 4, 3, S, S)
            turns = torch.arange(4, device=x.device).repeat(len(x))
            return torch.nn.functional.cross_entropy(model(x.flatten(0, 1)), turns)

        fit(self.session, network, turned, recipe, loss, part="surrogate")
        surrogate = Surrogate("small")
        own = surrogate.state_dict()
        surrogate.load_state_dict({key: value for key, value in network.state_dict().items() if key in own})
        return surrogate

    def _generate(self, protection: Protection, train: ImageSet, assigned: Sequence[int], offset: int) -> None:
        """Stage 1: a generator for each cluster, trained on all images (or its own); the perturbations are kept."""
        config = self.config
        surrogate = self.session.fabric.to_device(protection.surrogate)
        assert surrogate is not None
        moved = targets(protection.centres, offset).to(self.session.fabric.device)
        recipe = Recipe(
            epochs=cast(int, config.generator_epochs), batch_size=cast(int, config.generator_batch_size),
            optimizer="adam", lr=cast(float, config.generator_lr), weight_decay=5e-4, decay_all=True, min_lr=1e-6,
            workers=config.workers,
        )  # fmt: skip
        everything = self._views(train, self._augmented)
        wanted = 1 if self.session.dry_run else len(moved)  # a step takes seconds at the published size
        for i in self.session.progress(range(wanted), "clusters"):
            self.session.reseed("generator", i)
            generator = Generator(cast(int, config.ngf), n_blocks=cast(int, config.blocks))
            noise = torch.rand(1, 3, protection.size, protection.size, generator=self.session.generator("noise", i))
            noise = noise.to(self.session.fabric.device)
            own = [k for k, number in enumerate(assigned) if number == i]
            views = self._views(train.subset(own), self._augmented) if config.own_cluster else everything

            def loss(
                model: Any, batch: tuple[Tensor, Tensor], noise: Tensor = noise, target: Tensor = moved[i]
            ) -> Tensor:
                delta = perturbation(model, noise, config.eps / 255, config.norm)
                return centre_loss(surrogate((batch[0] + delta).clamp(0, 1)), target)

            fit(self.session, generator, views, recipe, loss, part=f"generator-{i}")
            with torch.no_grad():
                protection.deltas[i] = perturbation(generator.train(), noise, config.eps / 255, config.norm)[0].cpu()

    def _error_minimising(
        self,
        protection: Protection,
        train: ImageSet,
        labels: Sequence[int],
        groups: Sequence[int],
        steps: int,
        threshold: float,
    ) -> Protection:
        config = self.config
        self.session.reseed("error-minimising")
        protection.deltas.copy_(
            minimise_error(
                self.session, Normalised(config.em_network or config.hacker, max(labels) + 1, HALF, HALF),
                self._views(train, centred), labels, groups, protection.size, config.eps / 255, config.hacker_recipe(),
                steps=steps, threshold=threshold, rounds=config.em_rounds, batches=config.em_batches,
            )
        )  # fmt: skip
        self.session.figure("perturbations", pictures.perturbations(protection.deltas, _titles(protection)))
        return protection

    def _augmented(self, size: int) -> Callable[[Image.Image], Tensor]:
        return augmented(size, cast(float, self.config.flip))

    def _views(
        self,
        images: ImageSet,
        transform: Callable[[int], Callable[[Image.Image], Any]],
        labels: Sequence[int] | None = None,
        load: Callable[[int], Image.Image] | None = None,
    ) -> Views:
        config = self.config
        chosen = list(images.labels) if labels is None else labels
        return Views(load or images.image, chosen, cast(int, config.resize), transform(cast(int, config.image_size)))

    # -- hackers --------------------------------------------------------------------------------

    def evaluate(self, model: Protection, data: OwnerData) -> dict[str, float]:
        """How visible the noise is, and what hackers reach on clean held-out images who train on protected ones.

        Hackers are trained here, each with a label set of its own. Without held-out images, or with verify=False, only
        the noise is measured.
        """
        model = cast(Protection, self.session.fabric.to_device(model))
        numbers = self._numbers(model, data)
        load = (
            data.train.image if model.by == "nothing" else protected(data.train, model, numbers, self.config.keep_size)
        )
        metrics = {} if model.by == "nothing" else self._visibility(model, data.train, load)
        if not self.config.verify or not len(data.test):
            return metrics
        with torch.enable_grad():
            return {**metrics, **self._verify(data, load)}

    def _verify(self, data: OwnerData, load: Callable[[int], Image.Image]) -> dict[str, float]:
        config = self.config
        original = self.session.shared(
            "unprotected", lambda: self._hacker(data.train.image, data, config.hacker, "classes", "unprotected")
        )
        metrics = {"unprotected_accuracy": self._accuracy(original, data, "classes")}
        plain = {f"accuracy_{labels}": (config.hacker, labels) for labels in config.hacker_labels}
        others = {
            f"accuracy_classes_{name.rpartition(':')[2]}": (name, "classes") for name in config.other_hackers or ()
        }
        for metric, (network, labels) in (plain | others).items():
            hacker = self._hacker(load, data, network, labels, part=f"hacker-{metric}")
            metrics[metric] = self._accuracy(hacker, data, labels)
        if config.simclr_epochs:
            metrics["accuracy_simclr"] = self._contrastive(data, load)
        return metrics

    def _hacker(
        self, load: Callable[[int], Image.Image], data: OwnerData, network: str, labels: str, part: str
    ) -> Normalised:
        numbers, count = relabelled(data.train, labels)
        views = self._views(data.train, self._augmented, numbers, load)
        return train_hacker(self.session, network, count, views, self.config.hacker_recipe(), part)

    def _accuracy(self, hacker: Normalised, data: OwnerData, labels: str) -> float:
        numbers, count = relabelled(data.test, labels)
        recipe = self.config.hacker_recipe()
        views = self._views(data.test, centred, numbers)
        batches = loader(self.session, views, recipe.batch_size, workers=recipe.workers, shard=True)
        (accuracy,) = top_k_accuracy(((hacker(x), y) for x, y in batches), count, self.session.fabric.device)
        return accuracy

    def _contrastive(self, data: OwnerData, load: Callable[[int], Image.Image]) -> float:
        """SimCLR on the protected images, then a linear probe with their classes."""
        config = self.config
        size = cast(int, config.image_size)
        recipe = config.hacker_recipe(epochs=config.simclr_epochs)
        views = self._views(data.train, lambda size: two_views(size, cast(float, config.flip)), load=load)
        encoder = train_simclr(self.session, config.simclr_network, views, size, recipe, "simclr")
        train = features_of(self.session, encoder, self._views(data.train, centred, load=load), recipe)
        test = features_of(self.session, encoder, self._views(data.test, centred), recipe)
        return probe_accuracy(train, test)

    def _numbers(self, model: Protection, data: OwnerData) -> list[int]:
        """Which perturbation each of the owner's images gets."""
        if model.by == "clusters":
            batch = Recipe(batch_size=cast(int, self.config.generator_batch_size), workers=self.config.workers)
            views = self._views(data.train, centred)
            numbers = features_of(self.session, model.assign, views, batch)[0].tolist()
            return numbers + [0] * (len(data.train) - len(numbers))  # a dry run stops early
        if model.by == "classes":
            return relabelled(data.train, self.config.owner_labels)[0]
        places = {name: number for number, name in enumerate(model.names)}
        unknown = [path for path in data.train.paths if _name(path) not in places] if model.by == "images" else []
        if unknown:
            raise Problem("no noise for this image: it was learned image by image", unknown[0], "train on these images")
        return [places.get(_name(path), 0) for path in data.train.paths]

    def _visibility(self, model: Protection, train: ImageSet, load: Callable[[int], Image.Image]) -> dict[str, float]:
        chosen = np.linspace(0, len(train) - 1, min(MEASURED, len(train))).astype(int)
        found = []
        for k in self.session.progress(chosen.tolist(), "visibility"):
            original = train.image(k) if self.config.keep_size else cropped(train.image(k), model.resize, model.size)
            changed = np.asarray(load(k))
            found.append(difference(np.asarray(original), changed, changed, model.eps))
        return {
            "psnr": float(np.mean([one.psnr for one in found])),
            "ssim": float(np.mean([one.ssim for one in found])),
            "mean_delta": float(np.mean([one.mean for one in found])),
            "largest_delta": float(max(one.largest for one in found)),
        }

    def measure(self) -> dict[str, float]:
        """Sizes of the published generator and of CLIP's image tower."""
        with torch.device("meta"):
            networks = {"generator": Generator(), "clip_rn50": clip_resnet()}
        return {f"{name}_parameters": float(sum(p.numel() for p in net.parameters())) for name, net in networks.items()}

    # -- use ------------------------------------------------------------------------------------

    def predict(self, model: Protection, source: Path) -> Prediction:
        """Protect one image, or all images below a folder: same names, formats and sizes.

        A file that cannot be read or protected gets a row with the reason, and is not written.

        Raises:
            Problem: no images, none that can be protected, or the arm without noise.
        """
        if model.by == "nothing":
            raise Problem("this model adds no noise: it is the arm of unprotected images", "model", "train the arm uc")
        found = images.image_files(source)
        if not found:
            raise Problem("no images here", source, "give an image, or a folder that holds some")
        root = source if source.is_dir() else source.parent
        if source.is_dir() and source.resolve().name == WRITTEN:
            what = f"the folder is called {WRITTEN}, as the one that is written"
            raise Problem(what, source, "give the folder of the originals, or rename it")
        target = self.session.out_dir / WRITTEN
        table: list[dict[str, Any]] = []
        rows: list[pictures.Row] = []
        for path in self.session.progress(found, "protect"):
            name = str(path.relative_to(root))
            try:
                if Path(name).parts[0] == WRITTEN and source.is_dir():
                    raise Problem(
                        f"lies in {WRITTEN}, the output of an earlier run", path, "move it, if it is an original"
                    )
                done = self._protect(model, path, target / name, name)
            except Problem as problem:
                table.append(_row(name, problem=f"{problem.what}; {problem.remedy}"))
                continue
            table.append(_row(str(done.path.relative_to(target)), done))
            if len(rows) < pictures.MOST_ROWS:
                rows.append((name, done.original, done.pixels, done.difference))
        if not rows:
            raise Problem(f"none of {len(found)} images can be protected", source, table[0]["problem"])
        figures = {
            "sheet": pictures.sheet(rows),
            "perturbations": pictures.perturbations(model.deltas.cpu(), _titles(model)),
        }
        return Prediction(
            text=_summary(table, source, found, model), table=table, figures=figures, files={WRITTEN: target}
        )

    def _protect(self, model: Protection, path: Path, target: Path, name: str) -> Protected:
        def choose(image: Image.Image) -> tuple[int, NDArray[np.int16]]:
            number = self._number(model, image, name)
            return number, model.noise(number)

        prepare = None if self.config.keep_size else lambda image: cropped(image, model.resize, model.size)
        return protect_file(
            path, target, choose, model.eps, format=self.config.format, quality=self.config.quality, prepare=prepare
        )

    def _number(self, model: Protection, image: Image.Image, name: str) -> int:
        """Which perturbation an image of the user gets."""
        if model.by == "clusters":
            x = centred(model.size)(cropped(image, model.resize, model.size))
            return int(model.assign(self.session.fabric.to_device(x[None])))
        key = Path(name).parent.name if model.by == "classes" else _name(Path(name))
        if key not in model.names:
            what = f"no noise for {'the class' if model.by == 'classes' else 'the image'} {key!r}"
            raise Problem(what, name, "this baseline protects the classes and images that it was trained on")
        return model.names.index(key)

    def convert(self, source: Path, variant: str = "") -> Protection:
        """Build a protection from what the authors' code saves.

        Args:
            source: folder with perturbation_0.pth, … and one more .pth with the clusters' `centers`.
            variant: surrogate of the clusters, rn50 or clip_rn50; empty: by the width of the centres.

        Raises:
            Problem: files are missing, damaged, or do not go together.
        """
        raw, centres = read_released(source)
        known = {2048: "rn50", 1024: "clip_rn50"}
        name = variant or known.get(centres.shape[1], "")
        if not name:
            what = f"centres of {centres.shape[1]} features are of none of the paper's surrogates"
            raise Problem(what, source, f"--variant: {', '.join(known.values())}")
        config = self.config
        surrogate = load_surrogate(name, config.surrogate_weights)
        size = raw.shape[-1]
        protection = Protection(
            "clusters", len(raw), size, eps=config.eps, norm=config.norm, surrogate=name, features=centres.shape[1],
            resize=size * 8 // 7,
        )  # fmt: skip
        assert protection.surrogate is not None
        protection.surrogate.load_state_dict(surrogate.state_dict())
        protection.centres.copy_(centres)
        protection.deltas.copy_(bounded(raw, config.eps / 255, config.norm))
        return protection.eval()


# -- helpers ------------------------------------------------------------------------------------


def _unlabelled(paths: Sequence[Path]) -> ImageSet:
    return ImageSet(tuple(paths), (0,) * len(paths), ())


def _name(path: Path) -> str:
    """Class folder and file: what an image is called wherever its folder lies."""
    return f"{path.parent.name}/{path.name}"


def _turned(x: Tensor) -> Tensor:
    """An image (3, S, S) by 0, 90, 180 and 270 degrees: (4, 3, S, S)."""
    return torch.stack([x.rot90(turns, (1, 2)) for turns in range(4)])


def _titles(model: Protection) -> list[str]:
    return list(model.names) or [f"cluster {k}" for k in range(len(model.deltas))]


def _row(name: str, done: Protected | None = None, problem: str = "") -> dict[str, Any]:
    found = done.difference if done else None
    return {
        "file": name,
        "noise": done.number if done else None,
        "psnr": found.psnr if found else None,
        "ssim": found.ssim if found else None,
        "largest": found.largest if found else None,
        "kept": found.kept if found else None,
        "note": "; ".join(done.notes) if done else "",
        "problem": problem,
    }


def _summary(table: Sequence[dict[str, Any]], source: Path, found: Sequence[Path], model: Protection) -> str:
    good = [row for row in table if not row["problem"]]
    lines = [
        f"{len(good)} of {len(table)} images protected: PSNR {np.mean([row['psnr'] for row in good]):.1f} dB, SSIM "
        f"{np.nanmean([row['ssim'] for row in good]):.3f} on average, no value changed by more than "
        f"{max(row['largest'] for row in good)} of 255 (eps {model.eps:g})"
    ]
    weak = [row for row in good if row["kept"] < 0.9]
    if weak:
        lines.append(
            f"{len(weak)} files hold less than 90 % of the noise (first: {weak[0]['file']}, "
            f"{100 * weak[0]['kept']:.0f} %): JPEG, or nearly black or white; format=png or quality=100 keeps more"
        )
    if len(good) < len(table):
        lines.append(f"{len(table) - len(good)} files are not protected and not written: see problem")
    if source.is_dir():
        others = sorted(p for p in source.rglob("*") if p.is_file() and p not in set(found))
        if others:
            lines.append(f"{len(others)} other files are not copied (first: {others[0].relative_to(source)})")
    return "\n".join(lines)
