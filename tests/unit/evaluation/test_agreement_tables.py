"""What the report shows of judges that are measured: datasets of which something could be read."""

from moult.evaluation import agreement_tables
from moult.evaluation.agreement import AGREEMENT
from moult.evaluation.scores import COLUMNS


def row(model, dataset, task, n, metric="agreement"):
    known = {"suite": "judges", "model": model, "dataset": dataset, "task": task, "method": "grade", "metric": metric}
    return dict.fromkeys(COLUMNS, "") | known | {"value": "0.5", "n": str(n), "ci_low": "0.2", "ci_high": "0.8"}


def test_a_group_without_items_hides_no_dataset():
    """One category had no pair to order, which says nothing of the whole."""
    rows = [
        row("one", "items", "", 8),
        row("one", "items", "category:arts", 0),
        row("two", "items", "", 0),
        row("two", "items", "category:arts", 0),
    ]
    assert [(one["model"], one["task"]) for one in agreement_tables.panels(rows)] == [("one", "")]
    (suite,) = agreement_tables.suite_tables(AGREEMENT, rows, [])
    (table,) = suite["tables"]
    assert [column["name"] for column in table["columns"]] == ["items"]
