"""Losses over preferences against their formulas, written plainly in float64, and that one is added by its file."""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest
from moult.base.paths import CODE, RESOURCES
from moult.objectives import LOSSES, loss_of
from pico import build_pico_model


class Answer(NamedTuple):
    """What a model gives an answer: its log-probability, its tokens, its log-probability under the reference."""

    logp: object
    tokens: object
    reference: object

    @property
    def gain(self):
        return self.logp - self.reference


# kind → settings to try, and the loss of a preferred and another answer.
PLAIN = {
    "contrastive": (
        [{"margin": 0.0}, {"margin": 0.7}],
        lambda loss, good, bad: (bad.logp / bad.tokens - good.logp / good.tokens + loss.margin).clamp(min=0),
    ),
    "dpo": (
        [{"beta": 0.1}, {"beta": 0.01}],
        lambda loss, good, bad: _minus_log_sigmoid(loss.beta * (good.gain - bad.gain)),
    ),
    "ipo": (
        [{"beta": 0.1}, {"beta": 0.5, "sum": True}],
        lambda loss, good, bad: (
            (
                (good.gain if loss.sum else good.gain / good.tokens)
                - (bad.gain if loss.sum else bad.gain / bad.tokens)
                - 1 / (2 * loss.beta)
            )
            ** 2
        ),
    ),
    "simpo": (
        [{}, {"beta": 2.5, "gamma_ratio": 0.55}],
        lambda loss, good, bad: _minus_log_sigmoid(
            loss.beta * good.logp / good.tokens - loss.beta * bad.logp / bad.tokens - loss.gamma_ratio * loss.beta
        ),
    ),
}


def _minus_log_sigmoid(value):
    return (1 + (-value).exp()).log()


def answers(seed):
    """Return (logps, tokens, reference), each (4 answers, 3 rows), and how many are preferred and how many there are.

    The rows have 1 and 1, 2 and 2, 1 and 2 answers; their log-probabilities are of the size that few tokens have.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    counts = [(1, 2), (2, 4), (1, 3)]
    tokens = torch.randint(1, 9, (4, 3), generator=generator)
    logps, reference = (-tokens * torch.rand(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    for row, (_, many) in enumerate(counts):
        for values in (tokens, logps, reference):
            values[many:, row] = 0
    return logps, tokens, reference, counts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("kind", "settings"), [(kind, one) for kind, (settings, _) in PLAIN.items() for one in settings], ids=str
)
def test_values_and_gradients_are_those_of_the_formula(kind, settings, seed):
    import torch

    loss, (_, formula) = loss_of({"kind": kind} | settings), PLAIN[kind]
    logps, tokens, reference, counts = answers(seed)
    plain = logps.clone().requires_grad_()
    expected = []
    for row, (preferred, many) in enumerate(counts):
        one = [Answer(plain[place, row], tokens[place, row], reference[place, row]) for place in range(many)]
        pairs = list(itertools.product(one[:preferred], one[preferred:]))
        expected.append(sum(formula(loss, *pair) for pair in pairs) / len(pairs))
    sum(expected).backward()

    ours = logps.float().requires_grad_()
    preferred = torch.arange(4)[:, None] < torch.tensor([count for count, _ in counts])
    others = ~preferred & (tokens > 0)
    given = reference.float() if loss.needs_reference else torch.full_like(ours, math.nan)
    losses = loss.losses(loss.scores(ours, tokens, given), preferred, others, 0.5)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([value.item() for value in expected], rel=1e-5, abs=1e-6)
    assert torch.allclose(ours.grad, plain.grad.float(), rtol=1e-4, atol=1e-6)
    # The loss of a row falls when its preferred answer becomes likelier, and it says when all is in order.
    surer = loss.scores(torch.where(preferred, ours + 1000, ours).detach(), tokens, given)
    assert loss.ordered(surer, preferred, others, 0.5).tolist() == [1, 1, 1]
    assert loss.ordered(-surer, preferred, others, 0.5).tolist() == [0, 0, 0]


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
import test_preference as t
from moult.config.entries.models import Optimise
from moult.config.schema import schema
from moult.objectives import loss_of

loss = Optimise(base="base", data=["pairs"], loss={"kind": "telling"}).loss.model_dump()
assert "Telling" in schema()["$defs"] and loss_of(loss).words() == "nothing"
folder = Path(sys.argv[1])
recipe = t.RECIPE | {"loss": loss, "batch_size": 1, "devices": 2, "zero": 2, "evaluate_every": 3}
t.finetune_lora(recipe, folder / "base", t.TRAIN[:9], t.DEV[:3], folder / "scratch", folder / "made")
"""


@pytest.mark.xdist_group("distributed")
def test_a_loss_is_added_by_one_file_and_is_told_the_share_of_training_done_on_every_device(tmp_path):
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
