"""Stages of suites: what their kinds say of themselves."""

from moult.evaluation.suites import KINDS

STAGES = tuple(stage for kind in KINDS for stage in kind.stages)
