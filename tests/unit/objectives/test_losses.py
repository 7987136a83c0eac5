"""Losses over preferences against their formulas, written plainly in float64, and that one is added by its file."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
from moult.base.paths import CODE, RESOURCES
from moult.objectives import LOSSES, loss_of
from pico import build_pico_model
from plain_losses import PLAIN, Answer


def answers(seed, fused=False, rows=3):
    """Return (logps, tokens, reference), each (5 answers, rows) in float32, and how many answers of a row are preferred
    and how many it has.

    The log-probabilities are of the size that few tokens have. fused: the rows have one to three sources.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    counts = ([(2, 3), (3, 4), (4, 5), (2, 4)] if fused else [(1, 2), (2, 4), (1, 3), (3, 5)])[:rows]
    tokens = torch.randint(1, 9, (5, rows), generator=generator)
    logps, reference = (-tokens * torch.rand(5, rows, generator=generator) for _ in range(2))
    for row, (_, many) in enumerate(counts):
        for values in (tokens, logps, reference):
            values[many:, row] = 0
    return logps, tokens, reference, counts


def preferred_of(counts, tokens):
    """Return which answers are to be preferred and which are the others, (answers, rows) bool."""
    import torch

    preferred = torch.arange(len(tokens))[:, None] < torch.tensor([count for count, _ in counts])
    return preferred, ~preferred & (tokens > 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("kind", "settings"), [(kind, one) for kind, (settings, _) in PLAIN.items() for one in settings], ids=str
)
def test_values_and_gradients_are_those_of_the_formula(kind, settings, rows, seed):
    import torch

    loss, (_, formula) = loss_of({"kind": kind} | settings), PLAIN[kind]
    logps, tokens, reference, counts = answers(seed, loss.needs_sources, rows)
    plain = logps.double().requires_grad_()
    expected = []
    for row, (preferred, many) in enumerate(counts):
        one = [Answer(plain[place, row], tokens[place, row], reference[place, row]) for place in range(many)]
        expected.append(formula(loss, one[:preferred], one[preferred:], 0.3))
    torch.stack(expected).sum().backward()

    ours = logps.clone().requires_grad_()
    preferred, others = preferred_of(counts, tokens)
    given = reference if loss.needs_reference else torch.full_like(ours, math.nan)
    losses = loss.losses(loss.scores(ours, tokens, given), preferred, others, 0.3)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([value.item() for value in expected], rel=1e-6, abs=1e-7)
    assert (ours.grad - plain.grad).norm() <= 1e-6 * plain.grad.norm()
    # The loss of a row falls when its preferred answer becomes likelier, and it says when all is in order.
    surer = loss.scores(torch.where(preferred, ours + 1000, ours).detach(), tokens, given)
    assert loss.ordered(surer, preferred, others, 0.3).tolist() == [1] * rows
    assert loss.ordered(-surer, preferred, others, 0.3).tolist() == [0] * rows


@pytest.mark.parametrize(("alpha", "place"), [(0.0, 1), (1.0, 0)])
def test_wrpo_is_dpo_on_one_of_its_pairs_at_either_end_of_its_weight_bit_for_bit(alpha, place):
    """With the weight 0 on the own answer and the rejected one, with 1 on the source's and the rejected one."""
    import torch

    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logps, reference = (-30 * torch.rand(3, 4, generator=generator) for _ in range(2))
        tokens, found = torch.ones(3, 4, dtype=torch.long), []
        wrpo = loss_of({"kind": "wrpo", "beta": 0.1, "schedule": "constant", "alpha_end": alpha})
        for loss, kept in ((wrpo, [0, 1, 2]), (loss_of({"kind": "dpo", "beta": 0.1}), [place, 2])):
            given = logps.clone().requires_grad_()
            preferred, others = preferred_of([(len(kept) - 1, len(kept))] * 4, tokens[kept])
            losses = loss.losses(loss.scores(given[kept], tokens[kept], reference[kept]), preferred, others, 0.5)
            losses.sum().backward()
            found.append((losses, given.grad))
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_what_wrpo_logs_is_what_the_published_trainer_means():
    """The published formulas in float64 on given log-probabilities; one accuracy of theirs compares every row with
    every other, and ours does not."""
    import torch

    loss = loss_of({"kind": "wrpo", "beta": 0.1, "alpha_end": 0.4})
    generator = torch.Generator().manual_seed(3)
    logps, reference = (-30 * torch.rand(3, 64, generator=generator) for _ in range(2))
    tokens = torch.randint(1, 40, (3, 64), generator=generator)
    preferred, others = preferred_of([(2, 3)] * 64, tokens)
    for done in (0.0, 0.25, 11 / 12):
        scores = loss.scores(logps, tokens, reference)
        told = loss.measured(logps, tokens, scores, preferred, others, done)
        assert told.keys() == loss.measures.keys()
        told = {name: values.double().mean().item() for name, values in told.items()}

        source, target, rejected = 0.1 * (logps.double() - reference.double())
        alpha = 0.4 * done
        chosen = alpha * source + (1 - alpha) * target
        losses = -torch.log(torch.sigmoid(chosen - rejected))
        assert loss.losses(scores, preferred, others, done).mean().item() == pytest.approx(
            losses.mean().item(), rel=1e-6
        )
        ordered = loss.ordered(scores, preferred, others, done).mean().item()
        assert ordered == pytest.approx((chosen > rejected).double().mean().item())
        published = {
            "alpha": alpha,
            "reward_source": source,
            "reward_target": target,
            "reward_weighted": chosen,
            "reward_rejected": rejected,
            "margin": chosen - rejected,
            "accuracy_source": source > rejected,
            "accuracy_target": target > rejected,
        }
        for place, part in enumerate(("source", "target", "rejected")):
            published |= {f"logp_{part}": logps[place], f"tokens_{part}": tokens[place]}
        published = {name: torch.as_tensor(value).double().mean().item() for name, value in published.items()}
        assert told == pytest.approx(published, rel=1e-6, abs=1e-7)
        broadcast = (target[:, None] > rejected).double()
        assert broadcast.shape == (64, 64) and abs(broadcast.mean().item() - told["accuracy_target"]) > 0.01


def test_the_weight_of_sources_is_0_in_the_first_step_and_its_end_is_never_reached():
    loss, constant = (loss_of({"kind": "wrpo", "schedule": schedule}) for schedule in ("linear", "constant"))
    assert [loss.alpha(step / 10) for step in range(10)] == pytest.approx([0.1 * step / 10 for step in range(10)])
    assert loss.alpha(0.0) == 0 and {constant.alpha(step / 10) for step in range(10)} == {0.1}


def test_a_loss_without_smoothing_has_no_such_key_in_its_recipe():
    for loss in LOSSES.values():
        plain = loss(kind=loss_kind(loss))
        assert "label_smoothing" not in plain.model_dump()
        if "label_smoothing" in loss.model_fields:
            smoothed = loss(kind=loss_kind(loss), label_smoothing=0.1)
            assert smoothed.model_dump()["label_smoothing"] == 0.1 and "smoothed by 0.1" in smoothed.words()


def loss_kind(loss):
    return next(kind for kind, one in LOSSES.items() if one is loss)


def test_every_loss_is_held_against_its_formula():
    assert PLAIN.keys() == LOSSES.keys()


def test_every_loss_and_every_setting_says_what_it_is():
    for loss in LOSSES.values():
        schema = loss.model_json_schema()
        assert schema["description"].endswith(".")
        for name, field in schema["properties"].items():
            assert name == "kind" or len(field["description"].split()) > 4, (loss, name)


NEW = '''
"""A loss that is the share of training done, whatever the answers are."""

from typing import Literal

from moult.objectives.base import Loss


class Telling(Loss):
    kind: Literal["telling"]

    def words(self):
        return "nothing"

    def scores(self, logps, tokens, reference):
        return logps

    def losses(self, scores, preferred, others, done):
        return 0 * scores.sum(0) + done
'''
PROGRAM = """
import json, sys
from pathlib import Path
import preference_tuning as t
from moult.config.entries.models import Optimise
from moult.config.schema import schema
from moult.stages import BY_RULE
from moult.training.finetune import finetune_lora

loss = Optimise(base="base", data=["pairs"], loss={"kind": "telling"}).loss.model_dump()
assert "Telling" in schema()["$defs"]
told = {"loss": loss, "lora": {"rank": 1, "alpha": 2}, "data": ["pairs"], "learning_rate": 1}
assert BY_RULE["optimise_lora"].words(told, {"steps": 6})[0] == "nothing, LoRA rank 1, 6 steps"
folder = Path(sys.argv[1])
recipe = t.RECIPE | {"loss": loss, "batch_size": 1, "devices": 2, "zero": 2, "evaluate_every": 3}
finetune_lora(recipe, folder / "base", t.TRAIN[:9], t.DEV[:3], folder / "scratch", folder / "made")
"""


@pytest.mark.slow
def test_a_loss_is_added_by_one_file_and_is_told_the_share_of_training_done_on_every_device(tmp_path, two_devices):
    """Nine pairs, four a step on two devices in two forward passes, twice: six steps."""
    copy = shutil.copytree(CODE / "moult", tmp_path / "scripts" / "moult").parent
    (tmp_path / "resources").symlink_to(RESOURCES)
    (copy / "moult" / "objectives" / "telling.py").write_text(NEW)
    build_pico_model(tmp_path / "base")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(copy), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    history = json.loads((tmp_path / "scratch" / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert [one["loss"] for one in history if "loss" in one] == pytest.approx([step / 6 for step in range(6)], abs=1e-6)
    shares = [one["eval_objective"] for one in history if "eval_objective" in one]
    assert shares == pytest.approx([0, 0.5, 1], abs=1e-6)
