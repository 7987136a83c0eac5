"""What a job will ask, as far as it is known before anything is answered: what estimates are made of."""

from dataclasses import dataclass
from typing import NamedTuple


class Plan(NamedTuple):
    """What a job asks of one endpoint."""

    # All of them are surely asked.
    requests: list
    # Tokens of an answer at most.
    longest: int
    # How often a request is asked at most: each further time with a longer prompt.
    times: int = 1
    # Tokens of earlier answers that the prompts of a request hold at most, all times together. A request whose prompt
    # gains some is not known word by word.
    gains: int = 0


@dataclass(frozen=True)
class Asking:
    """What a job asks of its endpoints.

    endpoints: part → name of the endpoint. recipe: that of the job, with each part's endpoint under its name. plans:
    part → Plan, None where the rows are unknown; of a job that asks one endpoint, its requests are known word by word.
    guessed: further requests to that endpoint, to which something is to be added that is not there yet. extra: how
    many tokens that is per request, at least and at most.
    """

    endpoints: dict[str, str]
    recipe: dict
    plans: dict[str, Plan] | None
    guessed: tuple = ()
    extra: tuple[int, int] = (0, 0)
