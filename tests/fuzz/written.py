"""Writers of formats that the product only reads."""

import csv
import io
import json


def toml(sections):
    """Return a TOML file of sections, whose values are texts, numbers and booleans."""
    lines = []
    for section, values in sections.items():
        if values is None:
            continue
        lines.append(f"[{section}]")
        lines += [f"{key} = {_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines).encode("utf-8", "replace")


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
