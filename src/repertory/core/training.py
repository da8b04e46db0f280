"""Supervised training: one recipe, one function, on Lightning Fabric.

All randomness in step `s` is a function of the seed and `s` (and of the sample, for augmentation). A run that is
killed and resumed gives the same weights as an uninterrupted one, for any number of workers.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, default_collate

from repertory.core.batchnorm import over_processes, plain_norms
from repertory.core.fabric import Fabric, adds_nothing
from repertory.core.loops import Diverged as Diverged
from repertory.core.loops import diverged, finite_weights, fuses
from repertory.core.problem import Problem
from repertory.core.settings import Recipe
from repertory.core.study import Session, set_generators

M = TypeVar("M", bound=nn.Module)

DRY_RUN_BATCH = 2
"""Largest batch of a dry run on a CPU: it checks that a recipe for GPUs builds, in seconds and little memory."""
FUSED = ("adam", "adamw", "momentum", "sgd")
"""Optimizers that torch has in a form that updates all weights in one pass."""
LOG_EVERY = 20
"""Steps between two log records; only then are losses copied from the device and checked."""


def fit(
    session: Session,
    model: M,
    dataset: Dataset[Any],
    recipe: Recipe,
    loss: Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]],
    *,
    evaluate: Callable[[M], Mapping[str, float]] | None = None,
    monitor: str = "",
    better: Literal["higher", "lower"] = "higher",
    collate: Callable[[list[Any]], Any] | None = None,
    groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
    part: str = "",
) -> M:
    """Train `model` on a map-style `dataset` and return it on the session's device, in evaluation mode.

    Args:
        session: seed, device, progress, records, resume points.
        model: trained in place.
        dataset: `dataset[i]` may draw from the global torch, numpy and random generators (augmentation);
            they are seeded with the seed, the epoch and `i` before each call. A data set that draws nothing says so by
            `draws = False` and is read faster, see `draws`.
        recipe: epochs, optimizer, schedule, ...
        loss: (model, batch) -> scalar, or a mapping with "loss"; its other entries are logged.
        evaluate: called with the module (and with its moving average, if any) every `recipe.eval_every` epochs.
        monitor: metric of `evaluate` that selects the weights to return and drives early stopping. Empty: return the
            last weights (their moving average, if the recipe keeps and returns one).
        better: whether a higher or a lower `monitor` is better.
        collate: list of samples -> batch; default: torch's.
        groups: model -> parameter groups with their own `weight_decay` and `lr_scale`; default: by the recipe's
            weight_decay, decay_all and layer_decay.
        part: name of this loop if a trial has several.

    Several processes average their gradients, and batch norms use the samples of all of them, as one process with the
    whole batch would (published recipes on several GPUs normalise per GPU). Random layers (dropout, drop path) draw per
    process, and batch norms with a forward pass of their own use its samples: a warning names them.

    Raises:
        Problem: the data set is empty, the optimizer does not support the schedule, a batch is too small for batch
            normalisation, or the recipe sets layer_decay or decay_all beside `groups`, which decide both.
        Diverged: the loss is not finite; the last resume point stays on disk.
    """
    from timm.optim import create_optimizer_v2  # here: it imports torch._dynamo, a second that only training needs

    if groups and (recipe.layer_decay or recipe.decay_all):
        raise Problem(
            f"the paper has parameter groups of its own: layer_decay={recipe.layer_decay:g} or "
            f"decay_all={recipe.decay_all} would be ignored",
            "layer_decay, decay_all",
            "leave both at their defaults",
        )
    fabric = session.fabric
    batches = Batches(session, dataset, recipe, collate)  # before setup: report an empty data set first
    per_epoch = len(batches)
    total = recipe.epochs * per_epoch
    if fabric.is_global_zero and not session.dry_run:
        for line in unreachable(recipe, per_epoch):
            warnings.warn(line, stacklevel=2)

    options: dict[str, Any] = {"betas": recipe.betas} if recipe.betas else {}
    scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
    if recipe.optimizer in FUSED and fuses(fabric.device) and not scaled:
        options["fused"] = True  # a loss scale would have to be undone before the step, which fused ones do within it
    try:
        optimizer = create_optimizer_v2(
            model,
            recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            **options,
            filter_bias_and_bn=not recipe.decay_all,
            layer_decay=recipe.layer_decay or None,
            param_group_fn=groups,
        )
    except ValueError as error:  # for example Nesterov with momentum 0
        remedy = "choose another optimizer, or change its settings"
        raise Problem(f"{recipe.optimizer} cannot be set up: {error}", "optimizer, momentum", remedy) from error
    if fabric.world_size > 1 and fabric.is_global_zero:
        warn_of_processes(model, fabric.world_size)
    average = ModelEmaV3(model, decay=recipe.ema_decay, device=fabric.device) if recipe.ema_decay else None
    wrapped, optimizer = fabric.setup(model, optimizer)
    plain = adds_nothing(fabric)
    network = model if plain else wrapped
    if plain:
        optimizer = optimizer.optimizer
    schedule = _schedule(optimizer, recipe, total, per_epoch)

    best: dict[str, Any] = {"value": math.nan, "weights": {}, "stale": 0}
    stateful = {"model": network, "optimizer": optimizer, "schedule": schedule}
    if average:
        stateful["average"] = average.module
    saved = session.resume(part=part, **stateful)
    best, start = saved.get("best", best), saved.get("step", 0)
    if recipe.patience and best["stale"] >= recipe.patience:
        start = total

    step = start
    pending: list[dict[str, Tensor]] = []
    stream: Iterator[Any] = iter(())
    network.train()
    for step in session.progress(range(start, total), "train"):
        epoch, position = divmod(step, per_epoch)
        if step == start or position == 0:
            stream = batches.epoch(epoch, position)
        means: dict[str, Tensor] = {}
        for micro in range(recipe.accumulate):
            batch = fabric.to_device(next(stream))
            session.reseed("step", step, micro, fabric.global_rank)
            with nullcontext() if plain else _together(fabric, wrapped, model, micro + 1 == recipe.accumulate):
                with _batch_norm_explained(batches.batch):
                    result = loss(network, batch)
                parts = result if isinstance(result, Mapping) else {"loss": result}
                share = parts["loss"] / recipe.accumulate if recipe.accumulate > 1 else parts["loss"]
                share.backward() if plain else fabric.backward(share)
            for name, value in parts.items():
                value = value.detach() / recipe.accumulate  # a copy: losses may reuse their tensors
                means[name] = means[name] + value if micro else value
        if recipe.clip_norm:
            fabric.clip_gradients(network, optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        lr = optimizer.param_groups[0]["lr"]
        schedule.step_update(step + 1)
        if average:
            average.update(model)
        pending.append(means)

        end_of_epoch = position + 1 == per_epoch
        if end_of_epoch or len(pending) == LOG_EVERY:
            session.log(step, part=part, lr=lr, **_mean_losses(fabric, pending, step))
            _check_weights(fabric, model, step)
            pending.clear()
        if end_of_epoch and evaluate and ((epoch + 1) % recipe.eval_every == 0 or epoch + 1 == recipe.epochs):
            _evaluate_candidates(
                session,
                {"": model, "ema_": average.module if average else None},
                evaluate,
                monitor,
                better,
                best,
                step,
                part,
            )
            wrapped.train()
        if not pending:  # keep only weights that were checked to be finite
            session.keep(step + 1, part=part, best=best, **stateful)
        if recipe.patience and best["stale"] >= recipe.patience:
            break

    _mean_losses(fabric, pending, step)
    if best["weights"]:
        model.load_state_dict(best["weights"])
    elif average and recipe.ema_returned:
        model.load_state_dict(average.module.state_dict())
    return model.eval()


def unreachable(recipe: Recipe, per_epoch: int) -> list[str]:
    """What a recipe asks for and the training is too short to do, a line each.

    Args:
        recipe: lengths in epochs and in evaluations.
        per_epoch: steps of an epoch.

    Example:
        >>> unreachable(Recipe(epochs=3, warmup_epochs=20), per_epoch=10)
        ['warmup_epochs is 20 and epochs is 3: the learning rate ends at 15 % of lr']
    """
    lines: list[str] = []
    epochs, steps = recipe.epochs, recipe.epochs * per_epoch
    evaluations = -(-epochs // recipe.eval_every)
    if recipe.warmup_epochs >= epochs and recipe.schedule != "onecycle":
        share = 100 * epochs / recipe.warmup_epochs
        lines.append(
            f"warmup_epochs is {recipe.warmup_epochs:g} and epochs is {epochs}: the learning rate ends at {share:.2g} "
            "% of lr"
        )
    if recipe.patience >= evaluations:
        lines.append(
            f"patience is {recipe.patience} and there are {evaluations} evaluations: training never stops early"
        )
    if recipe.ema_decay and (length := round(1 / (1 - recipe.ema_decay))) > steps:
        share = 100 * recipe.ema_decay**steps
        lines.append(
            f"ema_decay = {recipe.ema_decay} averages over {length} steps and there are {steps}: {share:.0f} % of the "
            "average are the initial weights"
        )
    if recipe.schedule == "step":
        late = [epoch for epoch in recipe.milestones or (recipe.decay_epochs,) if epoch >= epochs]
        if late:
            name = "milestones has" if recipe.milestones else "decay_epochs is"
            lines.append(f"{name} {late[0]:g} and epochs is {epochs}: the learning rate does not decay there")
    return lines


@contextmanager
def _together(fabric: Fabric, wrapped: Any, model: nn.Module, last: bool) -> Iterator[None]:
    """A pass of several processes: batch norms over all of them, gradients exchanged after the `last` of a step."""
    with fabric.no_backward_sync(wrapped, enabled=not last), over_processes(model, fabric.world_size):
        yield


@contextmanager
def _batch_norm_explained(batch: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise Problem(
            f"batches of {batch} are too small for batch normalisation",
            "training data",
            "add samples, or raise batch_size",
        ) from error


def loader(
    session: Session,
    dataset: Dataset[Any],
    batch_size: int,
    *,
    collate: Callable[[list[Any]], Any] | None = None,
    workers: int = 0,
    label: str = "evaluate",
    shard: bool = False,
) -> Iterator[Any]:
    """Batches of `dataset` in order, on the session's device, with a progress bar.

    Args:
        shard: split the samples over the processes: rank r takes samples r, r + world_size, ... Use it with metrics
            that merge across processes (torchmetrics). False: every process gets all samples.
    """
    fabric = session.fabric
    first, stride = (fabric.global_rank, fabric.world_size) if shard else (0, 1)
    batch_size, workers = _dry_run_limits(session, batch_size, workers)
    indices = np.arange(first, len(dataset), stride)  # pyright: ignore[reportArgumentType]
    parts = [indices[k : k + batch_size] for k in range(0, len(indices), batch_size)]
    keyed = [(part, part) for part in parts]  # an index is a seed too
    seeded = _Seeded(dataset, collate or default_collate)
    batches = iter(seeded.batches(keyed, num_workers=workers))
    for _ in session.progress(keyed, label):
        with _preserve_generators():
            batch = _raise_problem(next(batches))
        yield fabric.to_device(batch)


def draws(dataset: Any) -> bool:
    """Whether samples of a data set may be random.

    A data set without random numbers, in its samples and wherever it gets them from, says so by an attribute or a
    property `draws` that is False. It is read faster then: no generator is seeded for each sample. Subsets, unions and
    `TensorDataset` follow from what they consist of; all others that say nothing may draw.

    Example:
        >>> draws(Subset(TensorDataset(torch.zeros(3, 2)), [0, 2]))
        False
    """
    if (told := getattr(dataset, "draws", None)) is not None:
        return bool(told)
    if isinstance(dataset, Subset):
        return draws(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return any(draws(part) for part in dataset.datasets)
    return type(dataset).__getitem__ is not TensorDataset.__getitem__


Key = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Indices of a batch (B,), and the seed of each sample (B,); worker processes get arrays as plain bytes."""


class _Seeded(Dataset[Any]):
    """The batches of a data set; its random samples depend only on (seed, epoch, index).

    A worker process can return a Problem as a value.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate
        self.draws = draws(dataset)
        self.rows = type(dataset).__getitem__ is TensorDataset.__getitem__ and collate is default_collate

    def __getitem__(self, key: Key) -> Any:
        indices, seeds = key
        if self.rows:
            rows = torch.from_numpy(indices)
            return [tensor.index_select(0, rows) for tensor in cast(TensorDataset, self.dataset).tensors]
        samples = []
        try:
            for index, seed in zip(indices.tolist(), seeds.tolist(), strict=True):
                if self.draws:
                    set_generators(seed)
                samples.append(self.dataset[index])
        except Problem as problem:
            return problem
        if not self.draws and self.collate is not default_collate:  # which may draw, after the last sample
            set_generators(int(seeds[-1]))
        return self.collate(samples)

    def batches(self, keys: list[Key], **options: Any) -> DataLoader[Any]:
        """A loader of the batches in `keys`, which may change between two passes."""
        return DataLoader(self, batch_size=None, sampler=keys, collate_fn=_same, **options)


@contextmanager
def _preserve_generators() -> Iterator[None]:
    """Restore the global generators: draws between two batches do not depend on the number of workers."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def _same(batch: Any) -> Any:
    return batch


def _raise_problem(batch: Any) -> Any:
    """Return a batch; raise a Problem that a worker returned in its place."""
    if not isinstance(batch, Problem):
        return batch
    try:
        raise batch
    finally:
        del batch  # break the reference cycle exception -> traceback -> frame, which would keep the workers alive


class Batches:
    """Shuffled batches of an epoch, starting at any step; an incomplete last batch is dropped.

    For `fit`, and for loops that papers write themselves. Of the recipe, batch_size, accumulate and workers count.

    Process r of w takes the r-th part of each w * batch_size samples: w processes use the same samples per step as
    one process with a w times larger batch.
    """

    def __init__(
        self, session: Session, dataset: Any, recipe: Recipe, collate: Callable[[list[Any]], Any] | None = None
    ) -> None:
        self.session, self.recipe, self.size = session, recipe, len(dataset)
        world = session.fabric.world_size
        if self.size < world:
            raise Problem(f"{self.size} training samples for {world} process(es)", "training data", "add samples")
        batch_size, workers = _dry_run_limits(session, recipe.batch_size, recipe.workers)
        self.batch = min(batch_size, self.size // world)
        self.steps = max(1, self.size // (self.batch * world * recipe.accumulate))
        self._keys: list[Key] = []
        self._seeded = _Seeded(dataset, collate or default_collate)
        pinned = session.fabric.device.type == "cuda"
        self._loader = None
        if workers or pinned:
            self._loader = self._seeded.batches(
                self._keys, num_workers=workers, persistent_workers=workers > 0, pin_memory=pinned
            )

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, position: int) -> Iterator[Any]:
        """The batches of an epoch from step `position` on."""
        order = torch.randperm(self.size, generator=self.session.generator("order", epoch)).numpy()
        base = int(self.session.rng("sample", epoch).integers(2**32))
        rank, world = self.session.fabric.global_rank, self.session.fabric.world_size
        numbers = np.arange(position * self.recipe.accumulate, self.steps * self.recipe.accumulate)
        first = (numbers * world + rank) * self.batch
        # Wrap around if there are fewer samples than one accumulated step needs.
        indices = order[(first[:, None] + np.arange(self.batch)) % self.size]  # (batches, B)
        seeds = (base + indices * 2_654_435_761) % 2**32
        self._keys[:] = zip(indices, seeds, strict=True)
        return map(_raise_problem, self._loader or map(self._seeded.__getitem__, self._keys))


def _dry_run_limits(session: Session, batch_size: int, workers: int) -> tuple[int, int]:
    """Batch size and number of workers, reduced in a dry run."""
    if not session.dry_run:
        return batch_size, workers
    return (min(batch_size, DRY_RUN_BATCH) if session.fabric.device.type == "cpu" else batch_size), 0


class _OneCycle(OneCycleLR):
    """OneCycleLR with the interface of timm's schedulers."""

    def step_update(self, num_updates: int) -> None:
        if num_updates < self.total_steps:
            self.step()


def _schedule(optimizer: Any, recipe: Recipe, total: int, per_epoch: int) -> Scheduler | _OneCycle:
    common = {
        "warmup_t": round(recipe.warmup_epochs * per_epoch),
        "warmup_lr_init": recipe.warmup_lr,
        "warmup_prefix": False,  # the warm-up is part of the schedule, as in most recipes
        "t_in_epochs": False,
    }
    match recipe.schedule:
        case "onecycle":
            if not {"momentum", "betas"} & set(optimizer.defaults):
                raise Problem(
                    f"the onecycle schedule needs momentum or betas; {recipe.optimizer} has neither",
                    "schedule",
                    "set schedule=cosine, or optimizer=adamw",
                )
            peaks = [recipe.lr * group.get("lr_scale", 1.0) for group in optimizer.param_groups]
            return _OneCycle(optimizer, max_lr=peaks, total_steps=max(total, 2))
        case "cosine":
            schedule = CosineLRScheduler(optimizer, t_initial=total, lr_min=recipe.min_lr, **common)
        case "poly":
            schedule = PolyLRScheduler(optimizer, t_initial=total, power=recipe.power, lr_min=recipe.min_lr, **common)
        case "step" if recipe.milestones:
            # timm decays one step too early.
            decays = [round(epoch * per_epoch) + 1 for epoch in sorted(recipe.milestones)]
            schedule = MultiStepLRScheduler(optimizer, decay_t=decays, decay_rate=recipe.decay_rate, **common)
        case "step":
            decay = max(1, round(recipe.decay_epochs * per_epoch))
            schedule = StepLRScheduler(optimizer, decay_t=decay, decay_rate=recipe.decay_rate, **common)
        case "constant":
            schedule = StepLRScheduler(optimizer, decay_t=total + 1, **common)
    schedule.step_update(0)
    return schedule


def _mean_losses(fabric: Fabric, pending: list[dict[str, Tensor]], step: int) -> dict[str, float]:
    """Means of the pending losses over steps and processes; `step` is the last of the steps.

    Raises:
        Diverged: one of the losses is not finite.
    """
    if not pending:
        return {}
    # All processes check the mean over processes, so that all of them stop at the same step.
    table = {name: _process_mean(fabric, torch.stack([p[name] for p in pending])) for name in pending[0]}
    wrong = (~torch.isfinite(table["loss"])).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise diverged(f"the loss is {table['loss'][first].item()} at step {step + 1 - len(pending) + first}")
    return {name: float(values.mean()) for name, values in table.items()}


def _check_weights(fabric: Fabric, model: nn.Module, step: int) -> None:
    """Raise `Diverged` if a weight is not finite in any process."""
    if _process_mean(fabric, finite_weights(model)) < 1:
        raise diverged(f"the weights are no longer finite after step {step}")


def _process_mean(fabric: Fabric, values: Tensor) -> Tensor:
    """Mean over processes."""
    values = values.float()
    return cast(Tensor, fabric.all_reduce(values)) if fabric.world_size > 1 else values


def _evaluate_candidates(
    session: Session,
    candidates: Mapping[str, M | None],
    evaluate: Callable[[M], Mapping[str, float]],
    monitor: str,
    better: str,
    best: dict[str, Any],
    step: int,
    part: str,
) -> None:
    """Evaluate the model and its moving average; keep the better weights in `best`."""
    improved = False
    for prefix, module in candidates.items():
        if module is None:
            continue
        session.reseed("assess", step)
        with torch.no_grad():
            metrics = evaluate(module.eval())
        session.log(step, part=part, **{f"{prefix}{name}": value for name, value in metrics.items()})
        if not monitor:
            continue
        value = metrics[monitor]
        if math.isnan(best["value"]) or (value > best["value"] if better == "higher" else value < best["value"]):
            weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
            best.update(value=float(value), weights=weights)
            improved = True
    if monitor:
        best["stale"] = 0 if improved else best["stale"] + 1


def warn_of_processes(model: nn.Module, processes: int) -> None:
    """Warn of layers that make several processes differ from one with the whole batch."""
    plain = set(plain_norms(model))
    apart = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m not in plain]
    random_layers = [m for m in model.modules() if _drops(m)]
    says = {"draw per process": random_layers, "use the samples of their own process": apart}
    for what, modules in says.items():
        if modules:
            names = ", ".join(sorted({type(module).__name__ for module in modules}))
            warnings.warn(
                f"{processes} processes: layers of the kind {names} {what}; the losses differ from those of one "
                "process with the whole batch",
                stacklevel=2,
            )


def _drops(module: nn.Module) -> bool:
    """Whether it drops at random in training: a layer of torch or timm, or a network with a rate for a function."""
    rates = (vars(module).get(name) for name in ("p", "drop_prob", "drop_rate", "attn_drop"))
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
