"""Preference optimisation: pairs out of corpora, and the losses that learn to prefer the chosen answer.

Both answers to a prompt are one row until the collator puts them into one batch; no shuffle can part them.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import digest, read_json, read_jsonl, write_json
from moult.training.encoding import collate_pairs, length_of

# Share of the train pairs that is held out where there is no dev pair.
HELD_OUT = 0.1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """Chat messages up to the answer, the answer to prefer, and the one to prefer it to."""

    uid: str
    messages: list
    chosen: str
    rejected: str


def read_pairs(paths, names, seed):
    """Return (train, dev) pairs of preference corpora, uids made unique across them.

    Where no pair is of the dev split, a tenth of train is held out by the seed: something must watch for collapse.
    UserError for a row that is no pair, or for fewer than two pairs.
    """
    pairs = {"train": [], "dev": []}
    for path, name in zip(paths, names, strict=True):
        for number, row in enumerate(read_jsonl(path), start=1):
            pair = _pair(row, name, f"{path}, row {number}")
            if row["split"] in pairs:
                pairs[row["split"]].append(pair)
    if not pairs["dev"]:
        order = sorted(pairs["train"], key=lambda pair: digest([seed, pair.uid]))
        held = {pair.uid for pair in order[: max(1, round(HELD_OUT * len(order)))]}
        logger.warning("no dev pair: %d of %d train pairs are held out", len(held), len(order))
        pairs["dev"] = [pair for pair in pairs["train"] if pair.uid in held]
        pairs["train"] = [pair for pair in pairs["train"] if pair.uid not in held]
    if not pairs["train"]:
        raise UserError(
            f"{', '.join(map(str, paths))}: {len(pairs['dev'])} pairs are too few to train on and to hold one out; ask "
            "more questions, or loosen the gate of the corpus (its rejects say what it took)."
        )
    return pairs["train"], pairs["dev"]


def _pair(row, name, place):
    try:
        chosen, rejected = ([answer["content"] for answer in row[side]] for side in ("chosen", "rejected"))
        pair = Pair(f"{name}/{row['uid']}", row["prompt"], chosen[0], rejected[0])
        row["split"]  # noqa: B018
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"{place}: is no preference pair ({error!r}); make the corpus again.") from None
    if len(chosen) != 1 or len(rejected) != 1:
        raise UserError(
            f"{place}: has {len(chosen)} chosen and {len(rejected)} rejected answers; the losses compare one with one."
        )
    return pair


# ---------------------------------------------------------------- losses


def answer_logps(logits, targets):
    """Return (rows,) summed log-probabilities of the answers' tokens, and (rows,) their numbers.

    logits: (rows, longest answer, vocabulary), each predicting the target in its place; targets: -100 is padding.
    """
    import torch

    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    return -losses.sum(-1), (targets != -100).sum(-1)


def contrastive_losses(logps, tokens, margin):
    """Return (pairs,) max(0, NLL of chosen − NLL of rejected + margin), NLL being the mean over an answer's tokens.

    METEOR's objective for self-training. logps, tokens: (2, pairs), the chosen answers first.
    """
    nll = -logps / tokens.clamp(min=1)
    return (nll[0] - nll[1] + margin).relu()


def dpo_losses(logps, reference, beta):
    """Return (pairs,) −log sigmoid(beta × (gain of chosen − gain of rejected)), a gain being the log-probability of a
    whole answer less that under the frozen reference: DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    logps, reference: (2, pairs), the chosen answers first.
    """
    import torch

    gains = logps - reference
    return -torch.nn.functional.logsigmoid(beta * (gains[0] - gains[1]))


def pair_losses(loss, logps, tokens, reference=None):
    """Return (pairs,) losses, and (pairs,) whether a pair is in the right order by what its loss compares.

    loss: `kind` (contrastive: `margin`; dpo: `beta`) and `nll_weight`, that of the chosen answers' mean NLL a token
    beside the loss (Pang et al. 2024, arXiv 2404.19733). logps, tokens, reference: (2, pairs).
    """
    means = logps / tokens.clamp(min=1)
    if loss["kind"] == "dpo":
        losses, compared = dpo_losses(logps, reference, loss["beta"]), logps - reference
    else:
        losses, compared = contrastive_losses(logps, tokens, loss["margin"]), means
    return losses - loss["nll_weight"] * means[0], compared[0] > compared[1]


def pair_trainer(loss):
    """Return the Trainer of a loss (see `pair_losses`): the mean over the pairs of a step, on all devices."""
    import torch
    from transformers import Trainer

    class PairTrainer(Trainer):
        loss_is_scaled_for_ga = True

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            """Return the loss; and as `logits` (pairs, 4): loss, NLL of the chosen answer, its tokens, 1 if in order.

            num_items_in_batch: the pairs of the step; the library counts them by `labels`, over all devices.
            """
            own = ("labels", "shift_labels", "targets", "reference")
            labels, _, targets, reference = (inputs.get(name) for name in own)
            outputs = model(**{name: value for name, value in inputs.items() if name not in own})
            logps, tokens = (value.view(2, -1) for value in answer_logps(outputs.logits, targets))
            # A device whose share is blank rows alone is given no reference; they count nowhere.
            reference = torch.zeros_like(logps) if reference is None else reference.T
            losses, ordered = pair_losses(loss, logps, tokens, reference)
            real = labels != -100
            total = (losses * real).sum() / (real.sum() if num_items_in_batch is None else num_items_in_batch)
            # The library averages over devices what is a share of the sum here.
            total = total * self.accelerator.num_processes
            if not return_outputs:
                return total
            return total, {"logits": torch.stack([losses, -logps[0], tokens[0], ordered], dim=-1)}

    return PairTrainer


def dev_metrics(scores, selection):
    """Return what dev pairs come to, out of (pairs, 4) of a PairTrainer: mean loss, mean NLL of a token of the chosen
    answers, share of pairs in order, and the number by which checkpoints compete."""
    loss, nll, tokens, ordered = scores.astype("float64").sum(axis=0)
    loss, accuracy = loss / len(scores), ordered / len(scores)
    # Of two checkpoints with as many pairs in order the one with the lower loss wins.
    by_accuracy = ordered - loss / (1 + abs(loss))
    return {
        "objective": loss,
        "nll": nll / tokens,
        "accuracy": accuracy,
        "selection": by_accuracy if selection == "accuracy" else -loss,
    }


def refuse_collapse(recipe, state, before, now):
    """Raise a UserError when held-out chosen answers are worse than `recipe["collapse"]` times as perplexing as before.

    before, now: their mean NLL a token under the base and under the model; perplexity is its exponential. Where the
    base is nearly sure of its own answers, a ratio of NLLs would be large for nothing.
    """
    if now - before <= math.log(recipe["collapse"]):
        return
    ratio = math.exp(min(now - before, 700))
    raise UserError(
        f"collapsed at step {state.global_step} of {state.max_steps}: the held-out chosen answers of "
        f"{', '.join(recipe['data'])} have NLL {now:.3f} a token, under {recipe['base']} {before:.3f}: perplexity rose "
        f"{ratio:.3g}-fold, `collapse` allows {recipe['collapse']:g}; nothing was written: lower learning_rate (now "
        f"{recipe['learning_rate']:g})."
    )


# ---------------------------------------------------------------- the frozen reference


def with_reference(rows, load, batch_size, file):
    """Return the pairs of each split with `reference`, the log-probabilities of their answers before training.

    They are computed once and kept in `file`: a second model in memory, or a second forward pass in each step of each
    epoch, would give the same numbers. `load()` returns the model, ready to be called.
    """
    if not Path(file).exists():
        model = load()
        write_json(file, {split: _logps(model, pairs, batch_size, split) for split, pairs in rows.items()})
    known = read_json(file)
    return {
        split: [row | {"reference": values} for row, values in zip(pairs, known[split], strict=True)]
        for split, pairs in rows.items()
    }


def _logps(model, pairs, batch_size, split):
    import torch

    found = [None] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda place: -length_of(pairs[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = collate_pairs([pairs[place] for place in places])
        targets = batch.pop("targets")
        inputs = {
            name: value.to(model.device) for name, value in batch.items() if name not in ("labels", "shift_labels")
        }
        with torch.inference_mode():
            logps, _ = answer_logps(model(**inputs).logits, targets.to(model.device))
        for place, *both in zip(places, *logps.view(2, -1).tolist(), strict=True):
            found[place] = both
        if start % (64 * batch_size) == 0:
            logger.info("reference: %d of %d %s pairs", start + len(places), len(pairs), split)
    return found
