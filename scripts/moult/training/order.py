"""The order in which rows are trained on."""

from collections.abc import Sequence

from moult.training.encoding import BLANK, Encoded, length_of


class GroupedRows:
    """Rows in an order of their own each epoch, rows of like length side by side.

    The order depends on seed and epoch alone, so that a resumed run meets the same batches; the Trainer's own
    length-grouped sampler draws it from a generator whose state no checkpoint holds.
    """

    def __init__(
        self, rows: Sequence[Encoded], batch: int, accumulation: int, seed: int, devices: int = 1, mixed: bool = False
    ) -> None:
        """A group, whose rows are put together and shuffled, is the rows of one optimiser step on all devices.

        mixed: the rows come from several datasets. What tells their lengths apart is then their dataset, its list of
        labels above all, and groups of like length would each teach one task: a group is drawn from all rows alike.
        """
        self.rows, self.seed, self.devices, self.mixed = rows, seed, devices, mixed
        self.batch = batch
        self.group = batch * accumulation * devices
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch; the data loader calls this."""
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        generator = torch.Generator().manual_seed(self.seed + epoch)
        lengths = [length_of(row) for row in self.rows]
        if self.mixed:
            order = torch.randperm(len(lengths), generator=generator).tolist()
            groups = [order[i : i + self.group] for i in range(0, len(order), self.group)]
            groups = [sorted(group, key=lambda index: -lengths[index]) for group in groups]
            # The longest row first, here too; the last group may be smaller, it keeps its place.
            groups[:-1] = sorted(groups[:-1], key=lambda group: max(lengths) not in (lengths[i] for i in group))
        else:
            order = get_length_grouped_indices(lengths, self.group, generator=generator)
            # The library runs from long to short within each of a few large blocks, which the loss would follow. The
            # first group keeps its place, it has the longest row and fails early if memory is short; so does the last.
            groups = [order[i : i + self.group] for i in range(0, len(order), self.group)]
            middle = [groups[i + 1] for i in torch.randperm(max(len(groups) - 2, 0), generator=generator)]
            groups = groups[:1] + middle + groups[1:][-1:]
        self.order = [index for group in groups for index in group]

    def __len__(self) -> int:
        """Return the number of rows of an epoch, which devices share equally; else the loader would repeat rows."""
        share = self.batch * self.devices if self.devices > 1 else 1
        return -(-len(self.rows) // share) * share

    def __getitem__(self, index: int) -> Encoded:
        return self.rows[self.order[index]] if index < len(self.rows) else BLANK
