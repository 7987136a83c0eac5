"""Minimum description length of labels given representations: an online code, in bits.

The first block of labels is sent with the uniform code. Each further block is sent with the probe that was trained on
all blocks before it (Voita and Titov 2020, arXiv 2003.12298, section 3.2). Cross-entropy is that of one softmax, so
that it is a length; the order of rows is drawn by seed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moult.evaluation.probing.train import Member, Settings, fit, predict

if TYPE_CHECKING:
    import torch

# Where blocks end, as shares of the rows: 1/1024, 1/512 … 1/2, and all.
SHARES = tuple(1 / 2**power for power in range(10, -1, -1))
# Steps of an epoch at least: a block of two rows is passed over many times.
LEAST_STEPS = 20


def uniform_bits(rows: int, labels: int) -> float:
    """Return the length of labels in the code that knows their number alone."""
    return rows * math.log2(labels)


def block_ends(rows: int) -> list[int]:
    """Return where blocks of rows end; of few rows some are one."""
    return sorted({math.ceil(share * rows) for share in SHARES})


def description_bits(
    settings: Settings,
    members: Sequence[Member],
    rows: torch.Tensor,
    labels: torch.Tensor,
    dev_rows: torch.Tensor,
    dev_labels: torch.Tensor,
) -> list[float]:
    """Return the length in bits of each member's labels. The arguments are those of `train.fit`.

    Dev, which both ends know, chooses when a probe stops, and whether it knows anything at all: labels without a
    pattern cost what the uniform code does.
    """
    import numpy as np
    import torch

    patience = settings.patience or settings.epochs
    settings = dataclasses.replace(settings, least_steps=LEAST_STEPS, blank=True, patience=patience)
    size = rows.shape[1]
    orders = {one.seed: torch.from_numpy(np.random.default_rng(one.seed).permutation(size)) for one in members}
    ends = block_ends(size)
    bits = [uniform_bits(ends[0], settings.labels)] * len(members)
    for known, end in itertools.pairwise(ends):
        pools = {seed: order[:known] for seed, order in orders.items()}
        fitted = fit(settings, members, rows, labels, dev_rows, dev_labels, pools)
        said = predict(settings, fitted, members, rows).log_softmax(dim=-1)
        for place, one in enumerate(members):
            sent = orders[one.seed][known:end].to(rows.device)
            told = said[place, sent].gather(1, labels[one.labels, sent][:, None])
            bits[place] -= float(told.double().sum()) / math.log(2)
    return bits
