"""Samples of what a JSON schema allows, so that mutants begin as messages and not as noise."""

import json
import math
from re import _constants as sre  # the parser of patterns has no other name
from re import _parser

PRINTABLE = "".join(map(chr, range(32, 127)))
TEXTS = ("", "a", "idle", "1.0.0", "site=lab", "ü", "\u2028", "\U0001f600", "\x7f", "a" * 64)
MAX_ITEMS = 3
MAX_REPEATS = 8


def sample(schema, random, root=None):
    """Return a value that `schema` allows, but for what only code can check."""
    root = root or schema
    if "$ref" in schema:
        return sample(_resolved(schema["$ref"], root), random, root)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return sample(random.choice(schema[key]), random, root)
    if "allOf" in schema:
        return sample(schema["allOf"][0], random, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return random.choice(schema["enum"])
    return _OF_TYPE[schema.get("type", "any")](schema, random, root)


def sampled_json(schema):
    """Return a function from chance to a payload of JSON."""
    return lambda random: json.dumps(sample(schema, random)).encode()


def matching(pattern, random):
    """Return a text that the whole of `pattern` matches."""
    return "".join(_text_of(node, random) for node in _parser.parse(pattern))


def _resolved(reference, root):
    found = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _object(schema, random, root):
    made = {}
    required = set(schema.get("required", ()))
    for name, inner in schema.get("properties", {}).items():
        if name in required or random.random() < 0.7:
            made[name] = sample(inner, random, root)
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        keys = {"type": "string"} | schema.get("propertyNames", {})
        for _ in range(random.randrange(MAX_ITEMS)):
            made[sample(keys, random, root)] = sample(more, random, root)
    for pattern, inner in schema.get("patternProperties", {}).items():
        for _ in range(random.randrange(MAX_ITEMS)):
            made[matching(pattern, random)] = sample(inner, random, root)
    return made


def _array(schema, random, root):
    if "prefixItems" in schema:
        return [sample(item, random, root) for item in schema["prefixItems"]]
    least = schema.get("minItems", 0)
    most = min(schema.get("maxItems", least + MAX_ITEMS), least + MAX_ITEMS)
    return [
        sample(schema.get("items", {}), random, root) for _ in range(random.randint(least, most))
    ]


def _string(schema, random, root):
    if "pattern" in schema:
        return matching(schema["pattern"], random)
    return random.choice(TEXTS)[: schema.get("maxLength", 64)]


def _integer(schema, random, root):
    least, most = int(schema.get("minimum", -(2**53))), int(schema.get("maximum", 2**53))
    return random.choice([least, most, random.randint(least, most), min(most, max(least, 7))])


def _number(schema, random, root):
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1e9))
    most = schema.get("maximum", 1e9)
    value = random.uniform(least, most)
    return value if value > least else math.nextafter(least, most)


def _any(schema, random, root):
    return random.choice([None, True, 1, -0.5, "a", [], {}, {"a": [1]}])


_OF_TYPE = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": lambda _schema, random, _root: random.random() < 0.5,
    "null": lambda _schema, _random, _root: None,
    "any": _any,
}


def _text_of(node, random):
    kind, given = node
    if kind is sre.LITERAL:
        return chr(given)
    if kind is sre.IN:
        return _one_of(given, random)
    if kind is sre.MAX_REPEAT:
        least, most, inner = given
        times = random.choice(
            [least, min(most, 10_000), random.randint(least, least + MAX_REPEATS)]
        )
        if most is sre.MAXREPEAT or times > most:
            times = least
        return "".join(_text_of(part, random) for _ in range(times) for part in inner)
    if kind is sre.SUBPATTERN:
        return "".join(_text_of(part, random) for part in given[-1])
    if kind is sre.BRANCH:
        return "".join(_text_of(part, random) for part in random.choice(given[1]))
    if kind is sre.AT:
        return ""
    raise NotImplementedError(f"{kind} in a pattern")


def _one_of(choices, random):
    if choices[0][0] is sre.NEGATE:  # [^/ ] and the like, which leave letters and digits
        return random.choice("abc123")
    kind, given = random.choice(choices)
    if kind is sre.LITERAL:
        return chr(given)
    if kind is sre.RANGE:
        return chr(random.randint(*given))
    raise NotImplementedError(f"{kind} in a set of characters")
