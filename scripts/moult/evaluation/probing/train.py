"""Probes: all seeds, layers and controls of a probing set trained as one batched problem.

A member of the problem is a probe of its own: a linear layer, or one hidden layer before it, dropout on what it reads,
Adam, a learning rate that warms up and then falls linearly, stopped by the loss on dev. Its random numbers come from
its seed alone, so that a member is the same whichever others are trained beside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Slope of LeakyReLU below 0, torch's default.
SLOPE = 0.01
# Numbers of weights that are trained at once: with more, the processor waits for memory, and members gain nothing from
# each other's company.
MOST_WEIGHTS = 500_000
# Numbers of a seed's dropout masks that are drawn at once. It decides no bit of them only as long as it is the same.
MASKED_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Settings:
    """How probes are trained.

    hidden: width of a hidden layer (LeakyReLU behind it), 0 for a linear probe. batch: rows of a step. warmup: share of
    the steps in which the rate rises. patience: epochs without a smaller loss on dev after which a probe is done,
    and is what it was at the smallest; None: what it is after all epochs.
    penalty: λ in λ/2 · the sum of squared weights, added to the mean loss. least_steps: of an epoch; fewer rows are
    passed over several times. blank: whether probes begin with the shares of the classes, and dev may choose those
    alone, or the probe that knows nothing.
    """

    labels: int
    hidden: int = 0
    dropout: float = 0.2
    learning_rate: float = 1e-3
    batch: int = 16
    epochs: int = 20
    patience: int | None = 5
    warmup: float = 0.1
    penalty: float = 0.0
    least_steps: int = 1
    blank: bool = False

    @property
    def regression(self) -> bool:
        return self.labels == 1


@dataclass(frozen=True)
class Member:
    """One probe: which view of the rows it reads, which labels it learns, and its seed. last: whether it is what it is
    after all epochs: dev, whose labels are true, may choose nothing of a probe that learns random ones."""

    view: int
    labels: int
    seed: int
    last: bool = False


@dataclass(frozen=True)
class Fitted:
    """Trained members. weights: per layer (members, out, in) and (members, 1, out). dev_loss, epochs: per member, the
    best loss on dev and the epoch after which it was reached."""

    weights: list[tuple[torch.Tensor, torch.Tensor]]
    dev_loss: list[float]
    epochs: list[int]


def fit(
    settings: Settings,
    members: Sequence[Member],
    rows: torch.Tensor,
    labels: torch.Tensor,
    dev_rows: torch.Tensor,
    dev_labels: torch.Tensor,
    pools: dict[int, torch.Tensor] | None = None,
) -> Fitted:
    """Train members and return each as it was when its loss on dev was smallest.

    rows: (views, rows, width). labels: (kinds of labels, rows), whole numbers or, in a regression, numbers. dev_rows,
    dev_labels: (views, dev rows, width), (dev rows). pools: seed → rows that are learnt, equally many for each seed;
    None: all.
    """
    import torch

    single = rows.shape[2] * (settings.hidden or settings.labels) + settings.hidden * settings.labels
    if (at_once := max(1, MOST_WEIGHTS // single)) < len(members):
        groups = [members[begin : begin + at_once] for begin in range(0, len(members), at_once)]
        parts = [fit(settings, group, rows, labels, dev_rows, dev_labels, pools) for group in groups]
        columns = zip(*(one.weights for one in parts), strict=True)
        joined = [tuple(torch.cat(part) for part in zip(*layer, strict=True)) for layer in columns]
        return Fitted(joined, sum((one.dev_loss for one in parts), []), sum((one.epochs for one in parts), []))
    seeds = list(dict.fromkeys(member.seed for member in members))
    pools = pools or {seed: torch.arange(rows.shape[1]) for seed in seeds}
    size = len(pools[seeds[0]])
    draws = _Draws(settings, seeds, size, rows.shape[2])
    pairs = [
        tuple(torch.stack([draws.initial[one.seed][layer][part] for one in members]) for part in (0, 1))
        for layer in range(2 if settings.hidden else 1)
    ]
    weights = [tensor.to(rows.device) for pair in pairs for tensor in pair]
    best, best_epoch = [one.clone() for one in weights], [0] * len(members)
    least = [math.inf] * len(members)
    flat, views = rows.flatten(0, 1), torch.tensor([one.view for one in members], device=rows.device)
    kinds = torch.tensor([one.labels for one in members], device=rows.device)
    own = torch.tensor([seeds.index(one.seed) for one in members], device=rows.device)
    if settings.blank:
        shares = _shares(settings, members, labels, pools)
        weights[-1] += shares
        for bias in (torch.zeros_like(shares), shares):
            blank = [*(torch.zeros_like(one) for one in weights[:-1]), bias]
            for member, loss in enumerate(_losses(settings, blank, members, dev_rows, dev_labels)):
                if loss < least[member]:
                    least[member] = loss
                    for kept, one in zip(best, blank, strict=True):
                        kept[member] = one[member]
    waited, alive = [0] * len(members), list(range(len(members)))
    adam, steps = _Adam(weights), draws.steps
    total = settings.epochs * steps
    for epoch in range(1, settings.epochs + 1):
        places = torch.stack([pools[seed][draws.order(seed)] for seed in seeds]).to(rows.device)
        for step, masks in enumerate(draws.masks()):
            at = places[:, draws.span(step)][own]
            read = flat.index_select(0, (views[:, None] * rows.shape[1] + at).flatten()).unflatten(0, at.shape)
            if masks is not None:
                read *= masks.to(rows.device)[own]
            given = labels[kinds[:, None], at]
            done = (epoch - 1) * steps + step
            rate = settings.learning_rate * _schedule(done, total, settings.warmup)
            adam.step(gradients(settings, weights, read, given), rate)
        if settings.patience is None and epoch < settings.epochs:
            continue
        now = _losses(settings, weights, [members[one] for one in alive], dev_rows, dev_labels)
        for place, (member, loss) in enumerate(zip(alive, now, strict=True)):
            if loss < least[member] or settings.patience is None or members[member].last:
                least[member], best_epoch[member], waited[member] = loss, epoch, 0
                for kept, one in zip(best, weights, strict=True):
                    kept[member] = one[place]
            else:
                waited[member] += 1
        left = [place for place, member in enumerate(alive) if waited[member] < (settings.patience or math.inf)]
        if len(left) < len(alive):
            alive = [alive[place] for place in left]
            if not alive:
                break
            chosen = torch.tensor(left, device=rows.device)
            weights = adam.keep(chosen)
            views, kinds, own = views[chosen], kinds[chosen], own[chosen]
    return Fitted([(best[at], best[at + 1]) for at in range(0, len(best), 2)], least, best_epoch)


def predict(settings: Settings, fitted: Fitted, members: Sequence[Member], rows: torch.Tensor) -> torch.Tensor:
    """Return the scores of members on rows, (members, rows, labels). rows: (views, rows, width)."""
    return _scores([tensor for pair in fitted.weights for tensor in pair], members, rows)


def _shares(settings, members, labels, pools):
    """Return the logarithms of the shares of classes in what each member learns, each class counted once more."""
    import torch

    counts = [torch.bincount(labels[one.labels, pools[one.seed]].cpu(), minlength=settings.labels) for one in members]
    counts = torch.stack(counts)[:, None].to(labels.device) + 1
    return (counts / counts.sum(dim=-1, keepdim=True)).log()


def _schedule(done, total, warmup):
    """Return the share of the learning rate at a step: it rises over the first `warmup` of all steps, then falls."""
    first = int(warmup * total)
    return (done + 1) / (first + 1) if done < first else (total - done) / max(1, total - first)


def gradients(
    settings: Settings, weights: Sequence[torch.Tensor], read: torch.Tensor, given: torch.Tensor
) -> list[torch.Tensor]:
    """Return the gradients of the members' mean losses, each by its own weights.

    weights: of the first layer (members, out, in), its biases (members, 1, out), then those of the second. read:
    (members, rows, in). given: labels, (members, rows). Written out, since the steps are so small that recording them
    would take most of the time.
    """
    import torch

    first = torch.baddbmm(weights[1], read, weights[0].transpose(1, 2))
    inner = torch.nn.functional.leaky_relu(first) if settings.hidden else None
    scores = first if inner is None else torch.baddbmm(weights[3], inner, weights[2].transpose(1, 2))
    if settings.regression:
        # Smooth L1: the error, within -1 and 1.
        slope = (scores - given[..., None]).clamp_(-1, 1)
    else:
        slope = scores.softmax(dim=-1)
        slope.scatter_add_(2, given[..., None], slope.new_tensor(-1.0).expand(*given.shape, 1))
    slope /= read.shape[1]
    found = []
    if inner is not None:
        found = [slope.transpose(1, 2) @ inner, slope.sum(dim=1, keepdim=True)]
        slope = (slope @ weights[2]) * torch.where(first > 0, 1.0, SLOPE)
    found = [slope.transpose(1, 2) @ read, slope.sum(dim=1, keepdim=True), *found]
    if settings.penalty:
        for layer in range(0, len(weights), 2):
            found[layer].add_(weights[layer], alpha=settings.penalty)
    return found


def _loss(settings, scores, given):
    """Return the loss of each row, (members, rows): cross-entropy of one softmax, or smooth L1 of a number."""
    from torch.nn import functional

    if settings.regression:
        return functional.smooth_l1_loss(scores[..., 0], given, reduction="none")
    return functional.cross_entropy(scores.transpose(1, 2), given, reduction="none")


def _losses(settings, weights, members, rows, labels):
    """Return the mean loss of each member on rows whose labels are true."""
    scores = _scores(weights, members, rows)
    return _loss(settings, scores, labels.expand(len(members), -1)).mean(dim=1).tolist()


def _scores(weights, members, rows):
    import torch

    found = [None] * len(members)
    for view in dict.fromkeys(one.view for one in members):
        mine = [place for place, one in enumerate(members) if one.view == view]
        chosen = torch.tensor(mine, device=rows.device)
        own = [one[chosen] for one in weights]
        # All members of a view in one product.
        first = rows[view] @ own[0].flatten(0, 1).T
        first = first.unflatten(1, (len(mine), -1)).transpose(0, 1) + own[1]
        if len(own) > 2:
            first = torch.baddbmm(own[3], torch.nn.functional.leaky_relu(first), own[2].transpose(1, 2))
        for place, one in zip(mine, first, strict=True):
            found[place] = one
    return torch.stack(found)


class _Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) over members, which may leave."""

    def __init__(self, weights):
        import torch

        self.weights, self.done = list(weights), 0
        self.first, self.second = ([torch.zeros_like(one) for one in weights] for _ in range(2))

    def step(self, gradients, rate):
        self.done += 1
        by, root = rate / (1 - 0.9**self.done), math.sqrt(1 - 0.999**self.done)
        for one, first, second, gradient in zip(self.weights, self.first, self.second, gradients, strict=True):
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            one.addcdiv_(first, (second.sqrt() / root).add_(1e-8), value=-by)

    def keep(self, chosen):
        self.weights, self.first, self.second = (
            [one[chosen] for one in kind] for kind in (self.weights, self.first, self.second)
        )
        return self.weights


class _Draws:
    """The random numbers of each seed, and how rows are cut into steps."""

    initial: dict[int, list[Any]]

    def __init__(self, settings, seeds, size, width):
        import numpy as np

        self.settings, self.size, self.width = settings, size, width
        self.random = {seed: np.random.Generator(np.random.SFC64(seed)) for seed in seeds}
        per_pass = math.ceil(size / settings.batch)
        self.passes = math.ceil(settings.least_steps / per_pass)
        self.per_pass, self.steps = per_pass, per_pass * self.passes
        widths = [width, settings.hidden, settings.labels] if settings.hidden else [width, settings.labels]
        self.initial = {seed: [self._layer(seed, *pair) for pair in itertools.pairwise(widths)] for seed in seeds}

    def _layer(self, seed, into, out):
        """Return weights and biases of a layer, uniform within 1/√in as torch draws them."""
        import torch

        bound, random = 1 / math.sqrt(into), self.random[seed]
        return tuple(
            torch.from_numpy(bound * (2 * random.random(shape, dtype="float32") - 1))
            for shape in ((out, into), (1, out))
        )

    def order(self, seed):
        """Return the places of an epoch's rows among those that are learnt."""
        import numpy as np
        import torch

        return torch.from_numpy(np.concatenate([self.random[seed].permutation(self.size) for _ in range(self.passes)]))

    def span(self, step):
        """Return which places of an epoch a step takes; the last step of a pass has what is left."""
        done, within = divmod(step, self.per_pass)
        begin = done * self.size + within * self.settings.batch
        return slice(begin, min(begin + self.settings.batch, (done + 1) * self.size))

    def masks(self):
        """Yield for each step what rows are multiplied by, (seeds, rows, width): 0 or 1 / (1 − dropout); or None."""
        import numpy as np
        import torch

        drop = round(self.settings.dropout * 65536)
        at_once = max(1, MASKED_AT_ONCE // (self.settings.batch * self.width))
        for begin in range(0, self.steps, at_once):
            spans = [self.span(step) for step in range(begin, min(begin + at_once, self.steps))]
            rows = [span.stop - span.start for span in spans]
            if not drop:
                yield from [None] * len(spans)
                continue
            size = sum(rows) * self.width
            drawn = [
                # Sixteen bits a number, cut out of whole words.
                one.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size] >= drop
                for one in self.random.values()
            ]
            kept = np.stack(drawn).astype(np.float32)
            kept *= 65536 / (65536 - drop)
            yield from torch.from_numpy(kept).view(len(drawn), sum(rows), self.width).split(rows, dim=1)
