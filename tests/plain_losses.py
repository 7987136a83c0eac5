"""Every loss over preferences as its paper writes it, for a row of answers, in whatever numbers it is given."""

import itertools
from typing import NamedTuple


class Answer(NamedTuple):
    """What a model gives an answer: its log-probability, its tokens, its log-probability under the reference."""

    logp: object
    tokens: object
    reference: object

    @property
    def gain(self):
        return self.logp - self.reference


def _minus_log_sigmoid(value):
    return (1 + (-value).exp()).log()


def _smoothed(loss, value):
    share = loss.label_smoothing
    return (1 - share) * _minus_log_sigmoid(value) + share * _minus_log_sigmoid(-value)


def _over_pairs(formula):
    def of_row(loss, good, bad, done):
        pairs = list(itertools.product(good, bad))
        return sum(formula(loss, *pair) for pair in pairs) / len(pairs)

    return of_row


def _ipo(loss, good, bad):
    gaps = (good.gain - bad.gain) if loss.sum else (good.gain / good.tokens - bad.gain / bad.tokens)
    return (gaps - 1 / (2 * loss.beta)) ** 2


def _wrpo(loss, good, bad, done):
    *sources, own = good
    alpha = loss.alpha_end * done if loss.schedule == "linear" else loss.alpha_end
    source = sum(answer.gain for answer in sources) / len(sources)
    weighted = alpha * source + (1 - alpha) * own.gain
    return sum(_smoothed(loss, loss.beta * (weighted - answer.gain)) for answer in bad) / len(bad)


# kind → settings to try, and the loss of a row: of the answers to prefer and the others, at a share of training done.
PLAIN = {
    "contrastive": (
        [{"margin": 0.0}, {"margin": 0.7}],
        _over_pairs(
            lambda loss, good, bad: (bad.logp / bad.tokens - good.logp / good.tokens + loss.margin).clamp(min=0)
        ),
    ),
    "dpo": (
        [{"beta": 0.1}, {"beta": 0.01, "label_smoothing": 0.2}],
        _over_pairs(lambda loss, good, bad: _smoothed(loss, loss.beta * (good.gain - bad.gain))),
    ),
    "ipo": ([{"beta": 0.1}, {"beta": 0.5, "sum": True}], _over_pairs(_ipo)),
    "simpo": (
        [{}, {"beta": 2.5, "gamma_ratio": 0.55, "label_smoothing": 0.1}],
        _over_pairs(
            lambda loss, good, bad: _smoothed(
                loss,
                loss.beta * good.logp / good.tokens - loss.beta * bad.logp / bad.tokens - loss.gamma_ratio * loss.beta,
            )
        ),
    ),
    "wrpo": (
        [{"beta": 0.1}, {"alpha_end": 0.7, "schedule": "constant"}, {"beta": 0.1, "label_smoothing": 0.3}],
        _wrpo,
    ),
}
