"""Judgements that others published, read as battles: scored without asking anybody."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from moult.base.errors import UserError, nearest
from moult.base.rows import columns_of
from moult.base.suite_rows import Battle
from moult.evaluation.head_to_head.kind import Benchmark
from moult.evaluation.head_to_head.public_files import each_row


def read_judgements(
    path: str | Path,
    benchmark: Benchmark,
    name: str,
    of: str | None = None,
    parts: Mapping[str, str | None] | None = None,
) -> list[Battle]:
    """Return the battles that a file of published judgements tells of, in its order.

    name: what the model is called here. of: its name in the file; None where the file is of one model. parts: question
    → category, where the questions are at hand; judgements of others are left out.

    Raises:
        UserError: a row of no known form or that cannot be read, a file of several models, of another one, or of other
            questions.
    """
    rows: list[Battle] = []
    models: dict[str | None, None] = {}
    for place, row in each_row(path):
        reader = next((read for columns, read in benchmark.forms if set(columns) <= set(row)), None)
        if reader is None:
            known = "; ".join(", ".join(columns) for columns, _ in benchmark.forms)
            raise UserError(f"{place}: has the columns of no known form of judgements; write one of {known}.")
        try:
            read = list(reader(row))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"{place}: a judgement cannot be read ({type(error).__name__}: {error}); fetch the file again."
            ) from None
        for model, judge, said in read:
            models[model] = None
            if of is None or model == of:
                told: dict[str, Any] = {"raw": None, "reason": None, "kind": benchmark.name} | said
                told |= {"model": name, "judge": judge or "not named", "source": "published"}
                if told["value"] is None:
                    told |= {"status": "unknown", "reason": told["reason"] or "the file has no verdict"}
                rows.append(cast(Battle, {key: ({"status": "ok"} | told)[key] for key in columns_of(Battle)}))
    if of is None and len(models) > 1:
        among = ", ".join(sorted(map(str, models)))[:200]
        raise UserError(f"{path}: has judgements of {len(models)} models; write `of`, the one that is meant: {among}.")
    if of is not None and of not in models:
        raise UserError(f"{path}: has no judgement of {of!r}{nearest(of, [str(model) for model in models])}.")
    if parts is not None:
        rows = [cast(Battle, row | {"part": parts[row["uid"]] or row["part"]}) for row in rows if row["uid"] in parts]
    if not rows:
        raise UserError(f"{path}: has no judgement of any of these questions; name a file of theirs.")
    return rows
