"""The base class of all kinds of corpora: an entry of the config, and what other code asks a kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from moult.base.rows import CorpusRow, Facts, Recipe
from moult.base.section import Section
from moult.base.stage import Experiment
from moult.data.fields import Decoding
from moult.inference.plans import Plan
from moult.inference.recipes import client_of
from moult.inference.requests import corpus_requests


class Generated(Section):
    """A corpus: rows of a dataset or of another corpus, each with text that an endpoint generates."""

    # The rule that writes such corpora; their journals are in journal/<rule>/. What a job does, for the terminal; the
    # function that does it, as `module:function`.
    rule: ClassVar[str]
    doing: ClassVar[str]
    run: ClassVar[str]
    # What a row holds: a guideline to follow, an answer to train on, a pair of answers to prefer by, or one of several
    # answers to a prompt, without or with its score.
    writes: ClassVar[Literal["guidelines", "answers", "pairs", "samples", "scores"]]
    # What the rows of its dataset are, one or several; see `Format.shape`.
    shape: ClassVar[str | tuple[str, ...]] = "questions"
    # What the corpora that it reads must write; None: whatever.
    takes: ClassVar[str | None] = None
    # Whether its job may ask an endpoint or load a model.
    works_with_models: ClassVar[bool] = True
    # Whether a judge may compare its answers with those of another corpus.
    judged: ClassVar[bool] = False
    # Of pairs: whether answers to prefer may be of sources, with one of the learning model's own behind them.
    has_sources: ClassVar[bool] = True
    # Key of each prompt → what its template is shown beside the question. A prompt that is not here is not tried.
    shown: ClassVar[dict[str, tuple[str, ...]]] = {}

    if TYPE_CHECKING:
        # What every kind has, each in its own place and with its own default.
        kind: str
        name: str
        splits: list[Any]
        endpoint: str
        prompt: Any
        decoding: Decoding

    @property
    def asked(self) -> str | None:
        """Name of the corpus whose questions are asked; None where they are those of a dataset."""
        return getattr(self, "guidelines", None) or getattr(self, "corpus", None)

    @property
    def reads(self) -> dict[str, str | list[str]]:
        """The corpora that its job reads: input → name, or names."""
        return {"asked": self.asked} if self.asked else {}

    @property
    def endpoints(self) -> dict[str, str]:
        """The endpoints that are asked: field → name."""
        return {"endpoint": self.endpoint}

    @property
    def models(self) -> dict[str, str]:
        """The models of this build that its job reads beside those that endpoints serve: input → name. The one under
        `model` is loaded, of others only the tokenizer."""
        return {}

    def recipe(self, cfg: Experiment) -> Recipe:
        """Return what decides the rows, as plain JSON."""
        raise NotImplementedError

    def client(self, cfg: Experiment) -> dict[str, Any] | None:
        """Return how the endpoints are dealt with, which decides no row."""
        return client_of(cfg, self.endpoint)

    @staticmethod
    def words(recipe: Recipe, facts: Facts) -> tuple[str, str]:
        """Return what a manifest says of a corpus: shortly, for a picture, and at length."""
        raise NotImplementedError

    @property
    def most_answers(self) -> int:
        """Answers to a question that are written at most, beams and samples among them."""
        return 1

    @property
    def most_beams(self) -> int:
        """Rows of a forward pass that one answer takes at most."""
        return 1

    @property
    def answer_tokens(self) -> int:
        """Tokens of answers that are in memory for a request at most: the new one, and those that its prompt shows."""
        return self.decoding.max_tokens

    def mistakes(self, engines: Mapping[str, str | None]) -> Iterator[str]:
        """Yield a sentence for each thing asked that an endpoint cannot do; engines: field of `endpoints` → engine of
        the served model, None of a remote endpoint."""
        yield from ()

    def checks(self, cfg: Experiment) -> Iterator[str]:
        """Yield a sentence for each thing asked that other entries of the config make impossible; names are known."""
        yield from ()

    def plans(self, recipe: Recipe, rows: Sequence[CorpusRow]) -> dict[str, Plan]:
        """Return the requests about rows, given the corpus' recipe: field of `endpoints` → Plan."""
        return {"endpoint": Plan(corpus_requests(recipe, rows), self.decoding.max_tokens)}
