"""Suites of lm-eval: tasks that it defines, put to models through our engines and journal."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from moult.base.errors import nearest
from moult.base.files import sha256_file
from moult.base.paths import RESOURCES
from moult.base.section import DType, Hub, Inside, LocalPath, Revision, Section, Variable
from moult.base.stage import Local, Ref, Stage
from moult.evaluation import lm_eval_scores as scores
from moult.evaluation.kinds import Headline, Settings, SuiteKind
from moult.evaluation.lm_eval_tables import METHODS, SCORE, panels, samples, suite_tables
from moult.evaluation.lm_eval_tasks import data_files, entries_of, flaws, known_tasks
from moult.inference.recipes import compute_recipe

# Raise when the same tasks would now be put to a model, or their results be kept, otherwise.
VERSION = 1
# Tokens of a prompt with its shots, beside those that any prompt is taken to have.
PROMPT = 2048


class TaskData(Section):
    """A repository of the hub with the rows of tasks, fetched once at its revision."""

    hub: Hub = Field(description="Dataset repository on the Hugging Face hub, owner/name, as the task names it.")
    revision: Revision | None = Field(
        None, description="Commit of the hub repository, 40 hex digits; null until `make pin` records it."
    )
    files: list[Inside] = Field([], description="Files and folders of the repository that are fetched; []: all.")
    token: Variable | None = Field(
        None,
        description="Environment variable with your hub token, which a gated dataset needs; null: no token is sent.",
    )
    path: LocalPath | None = Field(
        None, description="Folder of this machine that has the repository's files; null: they are fetched."
    )


class Seeds(Section):
    """Seeds as lm-eval has them."""

    random: int = Field(0, description="Seed of Python's random numbers.")
    numpy: int = Field(1234, description="Seed of numpy's random numbers.")
    torch: int = Field(1234, description="Seed from which sampled answers draw.")
    fewshot: int = Field(1234, description="Seed by which the shots of a row are chosen.")


def _names(value):
    for name in value:
        if "\n" in name or not name.strip():
            raise ValueError(f"{name!r} is no name of a task")
    return value


class LmEvalSuite(Settings):
    """Tasks of the Language Model Evaluation Harness (lm-eval). Fields of its names mean what they mean there."""

    datasets: ClassVar[list[str]] = []
    split: ClassVar[str] = "test"

    tasks: Annotated[list[str], AfterValidator(_names)] = Field(
        min_length=1, description="Tasks, groups and tags by their names: of resources/lm_eval, lm_eval/, or lm-eval."
    )
    include: list[LocalPath] = Field([], description="Folders with further tasks as YAML.")
    data: list[TaskData] = Field([], description="Repositories of the hub with the rows of tasks, each pinned.")
    num_fewshot: int | None = Field(None, ge=0, description="Shots before each row; null: as many as the task says.")
    apply_chat_template: bool | str = Field(
        False, description="Whether prompts are put in the model's chat template, or the name of one of several."
    )
    fewshot_as_multiturn: bool = Field(True, description="Whether shots are turns of a chat, with a chat template.")
    system_instruction: str | None = Field(None, description="System message before each prompt; null: none.")
    limit: int | float | None = Field(
        None, gt=0, description="Rows per task, or a share of them below 1; marked wherever scores stand; null: all."
    )
    samples: dict[str, list[int]] = Field({}, description="Task → numbers of the rows that are taken; {}: all rows.")
    gen_kwargs: dict[str, Any] = Field({}, description="Settings of generation that win over those of the tasks.")
    bootstrap_iters: int = Field(
        100_000, ge=0, description="Resamples for the standard error of metrics that are no means; 0: no such error."
    )
    seeds: Seeds = Field(Seeds(), description="Seeds, those of lm-eval by default.")
    confirm_run_unsafe_code: bool = Field(False, description="Whether tasks may run the code that models write.")
    dtype: DType | None = Field(None, description="Numbers that the model computes in; null: those of its `compute`.")
    batch_size: int | None = Field(None, ge=1, description="Rows in a forward pass; null: as its `compute` says.")
    bits: Literal[4, 8] | None = Field(
        None, description="Bits of a weight, by bitsandbytes; marked wherever scores stand; null: as they are."
    )
    engines: dict[Literal["scoring", "writing"], Literal["transformers", "vllm"]] = Field(
        {}, description="Engine for log-likelihoods (`scoring`) and for text (`writing`); {}: that of its `compute`."
    )

    @model_validator(mode="after")
    def fits(self) -> Self:
        if self.limit and self.samples:
            raise ValueError("write `limit` or `samples`, not both")
        if isinstance(self.limit, float) and self.limit >= 1 and not self.limit.is_integer():
            raise ValueError(f"limit {self.limit:g}: write a whole number of rows, or a share below 1")
        if self.bits and "vllm" in self.engines.values():
            raise ValueError("bits: are of engine transformers; leave vllm out")
        return self

    @property
    def fetched(self) -> list[TaskData]:
        """The repositories of the hub that are fetched."""
        return [one for one in self.data if not one.path]


def _settings(cfg, suite):
    return cfg.find("suites", suite).lm_eval


def _entries(settings):
    return entries_of(settings.tasks, known_tasks(settings.include))


def _limit(cfg, settings):
    """Rows per task: the least of what the suite and a smoke run say."""
    if cfg.limit is None or (settings.limit and settings.limit < 1):
        return settings.limit
    return min(cfg.limit, settings.limit or cfg.limit)


def _files(settings):
    """Return the files of the tasks: those that come with Moult, and those of the user's."""
    found = [path for entry in _entries(settings) for path in [*entry.files, *data_files(entry)]]
    shipped = [path for path in dict.fromkeys(found) if path.is_relative_to(RESOURCES)]
    return shipped, [path for path in dict.fromkeys(found) if path not in shipped]


def _run(cfg, suite, model):
    """What is put to the model, and how it is run."""
    settings = _settings(cfg, suite)
    compute = compute_recipe(cfg, model)
    own = {"dtype": settings.dtype, "batch_size": settings.batch_size, "bits": settings.bits}
    compute |= {key: value for key, value in own.items() if value is not None}
    return {
        "suite": suite,
        "model": model,
        "tasks": list(settings.tasks),
        "include": list(settings.include),
        "data": [one.model_dump(include={"hub", "revision", "files", "path"}) for one in settings.data],
        "num_fewshot": settings.num_fewshot,
        "apply_chat_template": settings.apply_chat_template,
        "fewshot_as_multiturn": settings.fewshot_as_multiturn,
        "system_instruction": settings.system_instruction,
        "limit": _limit(cfg, settings),
        "samples": settings.samples,
        "gen_kwargs": settings.gen_kwargs,
        "bootstrap_iters": settings.bootstrap_iters,
        "seeds": settings.seeds.model_dump(),
        "confirm_run_unsafe_code": settings.confirm_run_unsafe_code,
        "shipped": {path.relative_to(RESOURCES).as_posix(): sha256_file(path) for path in _files(settings)[0]},
        "engines": {part: settings.engines.get(part, compute["engine"]) for part in ("scoring", "writing")},
        "compute": compute,
        "version": VERSION,
    }


def _inputs(cfg, suite, model):
    settings = _settings(cfg, suite)
    inputs: dict[str, Any] = {"model": Ref("models", model)}
    if own := _files(settings)[1]:
        inputs["files"] = [Local(str(path)) for path in own]
    return inputs | ({"fetched": Ref("taskdata", suite)} if settings.fetched else {})


def _fetch(cfg, suite):
    """Which files of which repositories, at which revisions."""
    sources = [one.model_dump(include={"hub", "revision", "files", "token"}) for one in _settings(cfg, suite).fetched]
    return {"sources": sources, "version": VERSION}


def _score(cfg, suite, model):
    return {"suite": suite, "model": model, "version": scores.VERSION}


def _measured(cfg):
    return [(entry.suite, name) for entry in cfg.under("lm_eval") for name in entry.models]


def _fetching(cfg):
    return [(name,) for name in dict.fromkeys(suite for suite, _ in _measured(cfg)) if _settings(cfg, name).fetched]


def _words(recipe, facts):
    cut = f", {facts['cut']:,} prompts lost their beginning" if facts["cut"] else ""
    return "", f"{facts['tasks']:,} tasks, {facts['rows']:,} samples by {recipe['compute']['engine']}{cut}"


STAGES = (
    Stage(
        rule="fetch_task_data",
        makes="taskdata",
        doing="fetching the rows of the tasks of {suite}",
        run="moult.evaluation.lm_eval_fetch:run",
        wildcards=("suite",),
        names=_fetching,
        recipe=_fetch,
        needs="fetch",
        words=lambda recipe, facts: ("", f"{len(recipe['sources'])} repositories, {facts['files']:,} files"),
    ),
    Stage(
        rule="run_lm_eval",
        makes="lm_eval",
        doing="putting the tasks of {suite} to {model}",
        run="moult.evaluation.lm_eval_run:run",
        wildcards=("suite", "model"),
        names=_measured,
        recipe=_run,
        inputs=_inputs,
        model=lambda cfg, suite, model: model,
        needs="inference",
        workload=lambda *_: {"answer": PROMPT, "datasets": []},
        words=_words,
    ),
    Stage(
        rule="score_lm_eval",
        makes="scores",
        doing="tabulating the tasks of {suite} by {model}",
        run="moult.evaluation.lm_eval_scores:run",
        wildcards=("suite", "model"),
        names=_measured,
        recipe=_score,
        inputs=lambda cfg, suite, model: {"samples": Ref("lm_eval", f"{suite}/{model}")},
        words=lambda *_: ("", "scores as lm-eval has them, with intervals"),
    ),
)


# ---------------------------------------------------------------- the kind


def _checks(cfg):
    for suite in cfg.suites:
        settings = suite.lm_eval
        if not settings:
            continue
        known, place = known_tasks(settings.include), f"suites {suite.name!r}"
        for folder in settings.include:
            if not Path(folder).is_dir():
                yield f"{place}, include: {folder} is no folder on this machine"
        for name in settings.tasks:
            if name not in known and not settings.data:
                yield (
                    f"{place}, tasks: {name!r} stands in no file here{nearest(name, known)}; a task that comes with "
                    "lm-eval wants the hub: name its repository under `data`"
                )
        for told in flaws(_entries(settings), [one.hub for one in settings.data]):
            yield f"{place}: {told}"
        for one in settings.data:
            if one.path and not Path(one.path).is_dir():
                yield f"{place}, data {one.hub!r}: {one.path} is no folder on this machine"


LM_EVAL = SuiteKind(
    key="lm_eval",
    fields=LmEvalSuite,
    title="lm-eval",
    shape="tasks",
    carved=(),
    measures=("models",),
    refusal="a suite of lm-eval measures models; write `models`",
    published=(),
    methods=METHODS,
    headline=Headline(SCORE, "score", "scores"),
    baseline=None,
    differences=scores.differences,
    measurement="lm_eval",
    stages=STAGES,
    subjects=lambda one: [f"models/{one['recipe']['model']}"],
    summary=lambda runs: (f"{len(runs)} models", f"{len(runs)} models on {', '.join(runs[0]['recipe']['tasks'])}"),
    tables=suite_tables,
    section=("lm_eval", "Benchmarks by lm-eval"),
    template="lm_eval.html.j2",
    checks=_checks,
    panels=panels,
    samples=samples,
)
