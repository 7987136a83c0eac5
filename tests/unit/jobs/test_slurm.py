"""What the executor plugin is told, where no Slurm is needed to see it; the rest is in tests/cluster."""

import inspect

import pytest
import snakemake_executor_plugin_slurm as plugin
from moult.jobs.slurm import keep_to_squeue


@pytest.mark.parametrize(("at_first", "later"), [(300, 300), (None, None)])
def test_a_controller_that_is_away_does_not_change_how_it_is_asked(monkeypatch, at_first, later):
    """The plugin's look-up is replaced where it uses it; where there was no answer at the start, it is left alone."""
    answers = iter([at_first])
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: next(answers, None))
    keep_to_squeue()
    assert plugin.get_min_job_age() == later
    assert "get_min_job_age()" in inspect.getsource(plugin.Executor.check_active_jobs)
