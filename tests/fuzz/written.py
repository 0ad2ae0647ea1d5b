"""Writers of formats that the product only reads."""

import csv
import io
import json


def toml(sections):
    """Return a TOML file of sections: of texts, numbers, booleans, lists, and sections within."""
    lines = [line for name, values in sections.items() for line in _section(name, values)]
    return "\n".join(lines).encode("utf-8", "replace")


def _section(name, values, head="[{}]"):
    if values is None:
        return
    yield head.format(name)
    inner = {}
    for key, value in values.items():
        if isinstance(value, dict) or (
            isinstance(value, list) and value and isinstance(value[0], dict)
        ):
            inner[f"{name}.{key}"] = value
        elif value is not None:
            yield f"{key} = {_value(value)}"
    for place, value in inner.items():
        if isinstance(value, dict):
            yield from _section(place, value)
            continue
        for one in value:
            yield from _section(place, one, "[[{}]]")


def _value(value):
    # JSON leaves DEL as it is, which TOML forbids.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def table(rows):
    """Return a CSV file of dictionaries, with every column that one of them has."""
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()
