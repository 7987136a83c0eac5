"""`for:` in a raw config, written out."""

import itertools

from moult.errors import UserError

LISTS = ("datasets", "endpoints", "corpora", "models", "suites", "evaluations")


def _substitute(value, axes):
    if isinstance(value, dict):
        return {key: _substitute(item, axes) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, axes) for item in value]
    if not isinstance(value, str):
        return value
    for axis, chosen in axes.items():
        if value == f"{{{axis}}}":
            return chosen
        value = value.replace(f"{{{axis}}}", str(chosen))
    return value


def expand(raw):
    """Return the raw config with every entry that has `for:` written out, one entry per combination. Pure."""
    expanded = dict(raw)
    for kind in LISTS:
        entries = raw.get(kind) or []
        if not isinstance(entries, list):
            continue
        written = []
        for entry in entries:
            axes = entry.get("for") if isinstance(entry, dict) else None
            if axes is None:
                written.append(entry)
                continue
            if not isinstance(axes, dict) or not all(isinstance(values, list) and values for values in axes.values()):
                raise UserError(f"{kind}: `for` maps each axis to a list, e.g. `for: {{dataset: [a, b]}}`.")
            rest = {key: value for key, value in entry.items() if key != "for"}
            for axis in axes:
                if f"{{{axis}}}" not in str(rest):
                    raise UserError(
                        f"{kind} {rest.get('name', '')!r}: `for` has the axis {axis!r}, but no {{{axis}}} uses it."
                    )
            for combination in itertools.product(*axes.values()):
                written.append(_substitute(rest, dict(zip(axes, combination, strict=True))))
        expanded[kind] = written
    return expanded
