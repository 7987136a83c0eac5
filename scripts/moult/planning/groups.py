"""Groups of jobs that share a Slurm job, where a profile's name of a group is not enough.

Snakemake puts eight jobs of a group that know nothing of each other into one, and refuses a plan in which one of them
waits for another through a job outside: scores of what was merged out of the model that earlier scores chose.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from moult.base.stage import Ref
from moult.config.experiment import Config
from moult.planning.standing import flat
from moult.stages import BY_RULE, STAGES


class Group(str):
    """The name of a group, which is also a function: Snakemake asks such a one for the group of each job.

    times: how often the way to a job leads out of the group, by the job's names in the order of `wildcards`. parents:
    group → the one that it is a part of, by which Snakemake finds how many of its jobs go together.
    """

    times: Callable[..., int]
    wildcards: tuple[str, ...]
    parents: dict[str, str]

    def __call__(self, wildcards: Any) -> str:
        """Return the name of a job's group: that of the profile, with a number where jobs of it are behind the job."""
        times = self.times(*(getattr(wildcards, name) for name in self.wildcards))
        if not times:
            return str(self)
        self.parents[f"{self}_{times}"] = str(self)
        return f"{self}_{times}"


def told_apart(cfg: Config, groups: Mapping[str, str], parents: dict[str, str]) -> dict[str, str]:
    """Return rule → group, as the profile has it, with groups that tell apart what may not share a Slurm job."""
    made = {stage.path(*names): (stage, names) for stage in STAGES for names in stage.names(cfg)}

    @cache
    def times(path, group):
        """Return how often the way to a job, this one counted, leads out of a group."""
        stage, names = made[path]
        behind = flat(stage.inputs(cfg, *names))
        left = groups.get(stage.rule) != group
        return max(
            (
                times(one.path, group) + (left and groups.get(made[one.path][0].rule) == group)
                for one in behind
                if isinstance(one, Ref) and one.path in made
            ),
            default=0,
        )

    def told(rule, name):
        group = Group(name)
        stage = BY_RULE[rule]
        group.times = lambda *names: times(stage.path(*names), name)
        group.wildcards, group.parents = stage.wildcards, parents
        return group

    return {rule: told(rule, name) if rule in BY_RULE else name for rule, name in groups.items()}
