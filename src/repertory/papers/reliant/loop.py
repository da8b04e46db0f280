"""Training: a teacher; then a student that imitates it, against an adversarial proxy of the bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.loops import Loop, Picks, fuses
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data.fair_graphs import FairGraph
from repertory.papers.reliant.fairness import counted, smooth_difference
from repertory.papers.reliant.graph import Graph
from repertory.papers.reliant.knowledge import Knowledge
from repertory.papers.reliant.model import PROXIES, Discriminators, Distilled, summary_of
from repertory.papers.reliant.settings import Arm, ReliantConfig
from repertory.tasks.graphs import accuracy


@dataclass(frozen=True)
class Task:
    """A graph of people as tensors on the session's device."""

    x: Tensor
    graph: Graph
    labels: Tensor
    sensitive: Tensor
    train: Tensor
    val: Tensor
    test: Tensor

    @classmethod
    def of(cls, data: FairGraph, device: torch.device) -> Task:
        """Convert a graph with labels and groups."""
        arrays = data.features, data.labels, data.sensitive, *(data.split[part] for part in ("train", "val", "test"))
        x, *others = (torch.as_tensor(array, device=device) for array in arrays)
        return cls(x, Graph(data.edges, data.size, device), *others)

    @property
    def trained(self) -> Tensor:
        """Mask of the training nodes (n,)."""
        return torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device).index_fill(0, self.train, True)


# -- the teacher --------------------------------------------------------------------------------


def train_teacher(session: Session, config: ReliantConfig, model: Distilled, task: Task) -> None:
    """Cross entropy on the training nodes; the weights with the best validation accuracy are kept."""
    decay, fused = {"gcn": 1e-3, "sage": 5e-4}[config.teacher], fuses(task.x.device)
    optimizer = torch.optim.Adam(model.teacher.parameters(), lr=0.01, weight_decay=decay, fused=fused)
    picks = Picks(ties="last")
    loop = Loop(
        session,
        config.teacher_epochs,
        part="teacher",
        until=lambda: picks.stale("best") >= config.patience,
        module=model.teacher,
        optimizer=optimizer,
        picks=picks,
    )
    for epoch in loop:
        model.teacher.train()
        logits, _ = model.teacher(task.x, task.graph)
        loss = F.cross_entropy(logits[task.train], task.labels[task.train])
        loop.check(loss)
        optimizer.zero_grad()
        session.fabric.backward(loss)
        optimizer.step()

        model.teacher.eval()
        with torch.no_grad():
            score = accuracy(model.teacher(task.x, task.graph)[0], task.labels, task.val)
        picks.offer(epoch, {"best": score}, model.teacher.state_dict)
        loop.log(loss=loss.item(), score=score)
    model.teacher.load_state_dict(picks.state("best"))
    model.teacher.eval()


# -- the student --------------------------------------------------------------------------------


def distil(session: Session, config: ReliantConfig, model: Distilled, task: Task, teacher: Knowledge, arm: Arm) -> None:
    """Train the student of `model` as `arm` says, in place.

    Raises:
        Problem: the fairness term has no node of a group.
        Diverged: the loss is not finite.
    """
    cpf = arm.framework == "cpf"
    alpha = config.alpha if config.alpha is not None else (1000.0 if cpf else 10.0)
    alpha = alpha if arm.fairness else 0.0
    lr = (config.cpf_lr or 0.01) if cpf else config.akd_lr
    proxy_lr = lr if cpf else 10 * lr
    decay = config.cpf_weight_decay if cpf else config.akd_weight_decay
    student = model.student
    assert student is not None
    model.teacher.requires_grad_(False)

    proxy = nn.Parameter(torch.rand(len(task.x), PROXIES, generator=session.generator("proxy")).to(task.x))
    options: dict[str, Any] = {"weight_decay": decay, "fused": fuses(task.x.device)}
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=lr, **options)
    proxy_optimizer = torch.optim.Adam([proxy], lr=proxy_lr, **options)
    network, optimizer = session.fabric.setup(model, optimizer)
    trained: dict[str, Any] = {"optimizer": optimizer, "proxy_optimizer": proxy_optimizer}
    judges, critic = None, None
    if arm.framework == "akd":
        if not teacher.embedding.shape[1]:
            raise Problem("the teacher's file has no embeddings", "knowledge", "give GraphAKD's .pth.tar, or train cpf")
        judges = Discriminators(model.classes, teacher.embedding.shape[1]).to(task.x.device)
        critic = torch.optim.Adam(judges.parameters(), lr=10 * config.akd_lr, **options)
        trained |= {"judges": judges, "critic": critic}

    everybody = torch.ones_like(task.trained)
    labels = None
    if arm.fairness == "eo":
        guessed = torch.where(task.trained, task.labels, teacher.logits.argmax(1))
        labels = task.labels if config.released else guessed
    groups = counted(task.sensitive, ~task.trained if cpf else task.trained, labels)
    proxy_groups = groups if cpf else counted(task.sensitive, everybody, labels)
    truth = torch.stack([task.sensitive, 1 - task.sensitive], dim=1).to(task.x) if arm.proxy == "group" else None

    together, picks = _WithProxy(student, proxy), Picks(ties="last")
    loop = Loop(
        session,
        config.cpf_epochs if cpf else config.akd_epochs,
        key=(session.point, "epoch"),  # each point of the sweep over α draws its own random numbers
        until=lambda: picks.stale("best") >= config.patience,
        module=together,
        picks=picks,
        **trained,
    )
    for epoch in loop:
        # Student step: imitate the teacher, decide alike for both groups; input [X | mean of B].
        student.train()
        model.proxy_mean.copy_(proxy.detach().mean(0))
        logits, embedding = network(task.x, task.graph, truth)
        if judges is not None and critic is not None and embedding is not None:
            told = discriminator_loss(judges, task, teacher, logits.detach(), embedding.detach())
            critic.zero_grad()
            session.fabric.backward(told)
            critic.step()
            loss = akd_loss(judges, task, teacher, logits, embedding)
        elif cpf:
            loss = cpf_loss(logits, teacher, ~task.trained, rounded=config.released)
        else:
            loss = F.cross_entropy(logits[task.train], task.labels[task.train])
        unfair = smooth_difference(logits.softmax(1), groups, config.legendre) if alpha else logits.new_zeros(())
        total = loss + alpha * unfair
        loop.check(total, "lower alpha or the learning rate")
        optimizer.zero_grad()
        session.fabric.backward(total)
        optimizer.step()

        # Proxy step: separate the groups; input [X | B], a row of B per node.
        apart = logits.new_zeros(())
        if arm.proxy == "learned":
            logits, _ = network(task.x, task.graph, proxy)
            apart = smooth_difference(logits.softmax(1), proxy_groups, config.legendre)
            (proxy.grad,) = torch.autograd.grad(-alpha * apart, proxy)
            proxy_optimizer.step()

        student.eval()
        model.proxy_mean.copy_(proxy.detach().mean(0))
        model.train(config.released and arm.framework == "akd")
        with torch.no_grad():
            logits, _ = model(task.x, task.graph, truth)
            score = (
                accuracy(logits, task.labels, task.val)
                if cpf
                else -F.cross_entropy(logits[task.val], task.labels[task.val]).item()
            )
        picks.offer(epoch, {"best": score}, together.state_dict)
        loop.log(loss=total.item(), distillation=loss.item(), unfair=unfair.item(), proxy=apart.item(), score=score)
    last = proxy.detach().clone()
    together.load_state_dict(picks.state("best"))
    if config.released:  # the released code restores the student alone
        proxy.data.copy_(last)
    model.proxy_mean.copy_(proxy.detach().mean(0))
    model.eval()


def cpf_loss(logits: Tensor, teacher: Knowledge, counts: Tensor, rounded: bool = False) -> Tensor:
    """CPF: Euclidean norm of the differences in probability, over the nodes in the mask `counts` (n,) and the classes.

    Args:
        rounded: round the teacher's probabilities to the 4 decimals of CPF's text file.
    """
    taught = teacher.logits.softmax(1)
    taught = taught.round(decimals=4) if rounded else taught
    return torch.linalg.norm((logits.softmax(1) - taught)[counts])


def discriminator_loss(
    judges: Discriminators, task: Task, teacher: Knowledge, logits: Tensor, embedding: Tensor
) -> Tensor:
    """GraphAKD, discriminators: classify teacher (1) and student (0), and the classes of the training nodes."""
    by_teacher, by_student = judges.logits(teacher.logits), judges.logits(logits)
    known = task.labels[task.train]
    classes = sum(F.cross_entropy(out[task.train, :-1], known) for out in (by_teacher, by_student))
    summaries = summary_of(teacher.embedding), summary_of(embedding)
    return (
        0.5 * (_real(by_teacher[:, -1]) + _fake(by_student[:, -1]) + classes)
        + _real(judges.local_scores(teacher.embedding, task.graph))
        + _fake(judges.local_scores(embedding, task.graph))
        + _real(judges.global_scores(teacher.embedding, summaries[0]))
        + _fake(judges.global_scores(embedding, summaries[0]))
        + _real(judges.global_scores(embedding, summaries[1]))
        + _fake(judges.global_scores(teacher.embedding, summaries[1]))
    )


def akd_loss(judges: Discriminators, task: Task, teacher: Knowledge, logits: Tensor, embedding: Tensor) -> Tensor:
    """GraphAKD, student: cross entropy on training nodes, L1 to the teacher's logits, fool the discriminators."""
    known, judged = task.labels[task.train], judges.logits(logits)
    summaries = summary_of(teacher.embedding), summary_of(embedding)
    return (
        F.cross_entropy(logits[task.train], known)
        + 0.5 * (F.cross_entropy(judged[task.train, :-1], known) + _real(judged[:, -1]))
        + (logits - teacher.logits).abs().sum() / len(logits)
        + _real(judges.local_scores(embedding, task.graph))
        + _real(judges.global_scores(embedding, summaries[0]))
        + _real(judges.global_scores(embedding, summaries[1]))
        + _fake(judges.global_scores(teacher.embedding, summaries[1]))
    )


def _real(scores: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))


def _fake(scores: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, torch.zeros_like(scores))


class _WithProxy(nn.Module):
    """A student and B, saved and restored together."""

    def __init__(self, student: nn.Module, proxy: nn.Parameter) -> None:
        super().__init__()
        self.student, self.proxy = student, proxy
