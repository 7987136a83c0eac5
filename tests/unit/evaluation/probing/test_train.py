"""Probes: what they find and do not, that members do not depend on each other, and what scikit-learn finds."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from moult.evaluation.probing.code_length import block_ends, description_bits, uniform_bits
from moult.evaluation.probing.train import Member, Settings, _schedule, fit, gradients, predict

SEEDS = range(5)


def planted(rows, width=24, labels=2, seed=0, strength=4.0):
    """Return (rows, width) noise in which the first columns tell the label, and the labels."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=random)
    y = torch.arange(rows) % labels
    x[:, :labels] += strength * torch.nn.functional.one_hot(y, labels)
    return x, y


def share_right(settings, fitted, members, x, y):
    return (predict(settings, fitted, members, x[None]).argmax(-1) == y).float().mean(dim=1)


@pytest.mark.parametrize(
    "settings", [Settings(2), Settings(3, hidden=6, penalty=0.1), Settings(1, hidden=4), Settings(1)]
)
def test_gradients_are_those_of_the_loss(settings):
    random = torch.Generator().manual_seed(1)
    widths = [5, settings.hidden, settings.labels] if settings.hidden else [5, settings.labels]
    weights = []
    for into, out in pairwise(widths):
        weights += [torch.randn(3, out, into, generator=random, dtype=torch.float64)]
        weights += [torch.randn(3, 1, out, generator=random, dtype=torch.float64)]
    read = torch.randn(3, 7, 5, generator=random, dtype=torch.float64)
    given = torch.randint(settings.labels, (3, 7), generator=random)
    if settings.regression:
        given = torch.randn(3, 7, generator=random, dtype=torch.float64) * 2
    leaves = [one.clone().requires_grad_() for one in weights]
    found = torch.baddbmm(leaves[1], read, leaves[0].transpose(1, 2))
    if settings.hidden:
        found = torch.baddbmm(leaves[3], torch.nn.functional.leaky_relu(found), leaves[2].transpose(1, 2))
    if settings.regression:
        loss = torch.nn.functional.smooth_l1_loss(found[..., 0], given, reduction="none").mean(1).sum()
    else:
        loss = torch.nn.functional.cross_entropy(found.transpose(1, 2), given, reduction="none").mean(1).sum()
    loss = loss + settings.penalty / 2 * sum(one.square().sum() for one in leaves[::2])
    for one, expected in zip(gradients(settings, weights, read, given), torch.autograd.grad(loss, leaves), strict=True):
        assert torch.allclose(one, expected, atol=1e-12)


@pytest.mark.parametrize("hidden", [0, 16])
def test_a_member_is_the_same_whichever_others_are_beside_it(hidden):
    settings = Settings(2, hidden=hidden, epochs=6, patience=2)
    (x, y), (dev_x, dev_y) = planted(50), planted(20, seed=1)
    views, labels = torch.stack([x, x.flip(0)]), torch.stack([y, y.roll(1)])
    dev = torch.stack([dev_x, dev_x.flip(0)])
    members = [Member(view, kind, seed) for view in (0, 1) for kind in (0, 1) for seed in SEEDS]
    together = fit(settings, members, views, labels, dev, dev_y)
    for place in (0, 7, 19):
        alone = fit(settings, [members[place]], views, labels, dev, dev_y)
        assert alone.epochs == [together.epochs[place]]
        for ours, theirs in zip(alone.weights, together.weights, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert torch.allclose(one[0], other[place], atol=1e-6)
    # Five seeds are five seeds.
    assert len({tuple(one.flatten().tolist()) for one in together.weights[0][0][:5]}) == 5


def test_more_weights_than_are_trained_at_once_change_nothing(monkeypatch):
    settings = Settings(2, epochs=3)
    (x, y), (dev_x, dev_y) = planted(40), planted(20, seed=1)
    members = [Member(0, 0, seed) for seed in SEEDS]
    whole = fit(settings, members, x[None], y[None], dev_x[None], dev_y)
    monkeypatch.setattr("moult.evaluation.probing.train.MOST_WEIGHTS", 100)
    parts = fit(settings, members, x[None], y[None], dev_x[None], dev_y)
    assert torch.allclose(whole.weights[0][0], parts.weights[0][0], atol=1e-6) and whole.epochs == parts.epochs


def test_a_planted_feature_is_found_and_random_labels_are_not_learnt():
    (x, y), (dev_x, dev_y), (test_x, test_y) = planted(1000), planted(100, seed=1), planted(400, seed=2)
    mixed = torch.stack([y, *(y[torch.randperm(1000, generator=torch.Generator().manual_seed(s))] for s in SEEDS)])
    members = [Member(0, kind, seed, last=kind > 0) for seed in SEEDS for kind in (0, 1 + seed)]
    settings = Settings(2)
    fitted = fit(settings, members, x[None], mixed, dev_x[None], dev_y)
    right = share_right(settings, fitted, members, test_x, test_y)
    assert (right[::2] > 0.98).all()
    chance = right[1::2]
    half = 2.776 * chance.std() / math.sqrt(5)
    assert abs(chance.mean() - 0.5) < half + 0.05


def test_a_regression_finds_a_number():
    random = torch.Generator().manual_seed(3)
    x = torch.randn(400, 12, generator=random)
    y = x[:, 0] + 0.1 * torch.randn(400, generator=random)
    settings, members = Settings(1, learning_rate=1e-2), [Member(0, 0, seed) for seed in SEEDS]
    fitted = fit(settings, members, x[None, :250], y[None, :250], x[None, 250:300], y[250:300])
    said = predict(settings, fitted, members, x[None, 300:])[..., 0]
    assert all(np.corrcoef(one, y[300:])[0, 1] > 0.95 for one in said.numpy())


@pytest.mark.parametrize("labels", [2, 3])
def test_without_dropout_and_with_a_penalty_it_is_scikit_learn_s_logistic_regression(labels):
    from sklearn.linear_model import LogisticRegression

    x, y = planted(240, width=10, labels=labels, strength=0.8)
    test_x, _ = planted(300, width=10, labels=labels, seed=5, strength=0.8)
    penalty = 0.05
    settings = Settings(labels, dropout=0, penalty=penalty, batch=240, epochs=600, patience=None, learning_rate=0.05)
    members = [Member(0, 0, 0)]
    fitted = fit(settings, members, x[None], y[None], x[None], y)
    ours = predict(settings, fitted, members, test_x[None])[0].numpy()
    # Of two classes we have two vectors, ±w/2 each: half the penalty of scikit-learn's one.
    theirs = LogisticRegression(C=1 / (240 * penalty * (0.5 if labels == 2 else 1)), max_iter=2000, tol=1e-8).fit(x, y)
    assert (theirs.predict(test_x) == ours.argmax(1)).mean() >= 0.99
    decision = theirs.decision_function(test_x)
    ours = ours[:, 1] - ours[:, 0] if labels == 2 else ours - ours.mean(axis=1, keepdims=True)
    assert np.corrcoef(ours.ravel(), decision.ravel())[0, 1] > 0.999


def test_the_rate_rises_for_a_tenth_of_the_steps_and_falls_to_nothing():
    rates = [_schedule(step, 100, 0.1) for step in range(100)]
    assert max(rates) == rates[10] == 1 and rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[99] < 0.02


def test_it_stops_where_dev_gets_no_better_and_keeps_the_best():
    # Labels without a pattern: the loss on dev rises from the beginning.
    random = torch.Generator().manual_seed(4)
    x, dev = torch.randn(60, 40, generator=random), torch.randn(40, 40, generator=random)
    y, dev_y = torch.arange(60) % 2, torch.arange(40) % 2
    settings = Settings(2, learning_rate=0.05, patience=2)
    fitted = fit(settings, [Member(0, 0, seed) for seed in SEEDS], x[None], y[None], dev[None], dev_y)
    assert max(fitted.epochs) < 18
    again = torch.nn.functional.cross_entropy(predict(settings, fitted, [Member(0, 0, 0)] * 1, dev[None])[0], dev_y)
    assert float(again) == pytest.approx(fitted.dev_loss[0], abs=1e-5)


def test_the_code_s_blocks_and_its_uniform_length():
    assert block_ends(1024) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert block_ends(43) == [1, 2, 3, 6, 11, 22, 43]
    assert uniform_bits(43, 4) == 86


def test_a_constant_label_costs_next_to_nothing_noise_the_uniform_code_and_a_pattern_little():
    random = torch.Generator().manual_seed(6)
    x, dev = torch.randn(512, 32, generator=random), torch.randn(200, 32, generator=random)
    settings, members = Settings(2), [Member(0, 0, 3)]
    noise, dev_noise = (torch.randint(2, (n,), generator=random) for n in (512, 200))

    def bits(x, y, dev, dev_y):
        return np.mean(description_bits(settings, members, x[None], y[None], dev[None], dev_y)) / len(y)

    assert bits(x, torch.zeros(512, dtype=torch.long), dev, torch.zeros(200, dtype=torch.long)) < 0.05
    assert 0.95 < bits(x, noise, dev, dev_noise) < 1.05
    (told, y), (dev_told, dev_y) = planted(512, 32), planted(200, 32, seed=1)
    assert bits(told, y, dev_told, dev_y) < 0.6
