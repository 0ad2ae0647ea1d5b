"""Requests made from the API's own description, by someone who means no good: never a 5xx.

`HOSTILE_REQUESTS` says how many, by default 800; hypothesis prints what to put into the test to
see a failure again, and `HOSTILE_SEED` begins another series.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fleet.api.app import build_app
from fleet.core.rights import Role
from tests.fleet.bundles import bundle
from tests.fleet.peers import Fleet, dawdles

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("HOSTILE_REQUESTS", "800"))
ENOUGH = 800
"""Requests of which some get through; a shorter series may miss a kind of answer by chance."""
SEED = int(os.environ.get("HOSTILE_SEED", "1"))
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW"]
JSON = "application/json"
KNOWN = ["a", "digits", "1.0.0", "r-1", "r-2", "admin", "lab", "site=lab", "0", "-1", "1e9", ""]
NASTY = [
    "\0",
    "../..",
    "a/b",
    "%00",
    "'; DROP TABLE devices; --",
    "é",
    "\ud800",
    "\u202e",
    "\U0001d54f" * 300,
]
WORD = st.one_of(st.sampled_from(KNOWN), st.sampled_from(NASTY), st.text(max_size=70))
LIKELY = {
    "model": st.just("digits"),
    "version": st.just("1.0.0"),
    "match": st.sampled_from([{}, {"site": "lab"}]),
    "device": st.sampled_from(["a", None]),
    "phases": st.just(["100%"]),
    "tags": st.just({"site": "lab"}),
    "scope": st.just({"site": "lab"}),
}
"""What the fleet of the test has, so that requests get beyond the first look at them."""
NUMBER = st.one_of(
    st.integers(-3, 1100),
    st.sampled_from([2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 1e308, -0.0, 0.5]),
    st.floats(),
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, WORD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORD, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    where = None
    if request.param == "postgres":
        where = request.getfixturevalue("cluster").database()
    fleet = Fleet(tmp_path_factory.mktemp("hostile"), approval_limit=0.6, where=where)
    fleet.add("a", verdict=dawdles)
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0", match={"site": "lab"})
    fleet.controller.ask_to_stop()  # streams end at once
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@pytest.fixture(scope="module")
def heads(fleet: Fleet) -> list[dict[str, str]]:
    """Tokens: an administrator's most of the time, others, none and nonsense."""
    admin = fleet.bearer("chief")
    fleet.token("admin")
    scoped = fleet.bearer("scoped", Role.ADMIN, site="lab")
    return [admin] * 6 + [
        scoped,
        fleet.bearer("viewer", Role.VIEWER),
        {},
        {"authorization": "Bearer mft_\xff"},
        {"authorization": "Basic \x00"},
    ]


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> TestClient:
    app = build_app(fleet.controller, rate_per_s=1e6)
    return TestClient(app, raise_server_exceptions=False)


def value(schema: dict[str, Any], shapes: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Return values that fit a schema of the document, or nearly, or not at all."""
    if "$ref" in schema:
        return value(shapes[schema["$ref"].rsplit("/", 1)[-1]], shapes, depth)
    if depth > 6:
        return ANYTHING
    choices: list[st.SearchStrategy[Any]] = [ANYTHING] if depth else []
    parts = (*schema.get("anyOf", ()), *schema.get("oneOf", ()))
    choices += [value(part, shapes, depth + 1) for part in parts] * 8
    match schema.get("type"):
        case "object":
            named = {
                k: value(v, shapes, depth + 1) for k, v in schema.get("properties", {}).items()
            }
            named |= {k: st.one_of(v, LIKELY[k]) for k, v in named.items() if k in LIKELY}
            must = {k: named[k] for k in schema.get("required", ()) if k in named}
            may = {k: v for k, v in named.items() if k not in must}
            choices += [st.fixed_dictionaries(must, optional=may)] * 12
            if not named:
                choices.append(st.dictionaries(WORD, WORD, max_size=4))
        case "array":
            items = value(schema.get("items", {}), shapes, depth + 1)
            choices += [st.lists(items, max_size=4)] * 8
        case "integer" | "number":
            choices += [NUMBER] * 8
        case "string" if "enum" in schema:
            choices += [st.sampled_from(schema["enum"])] * 12
        case "string" if "pattern" in schema:
            choices += [st.from_regex(schema["pattern"]), st.sampled_from(KNOWN)] * 8
        case "string":
            choices.append(WORD)
        case "boolean":
            choices.append(st.booleans())
        case _:
            pass
    return st.one_of(choices or [ANYTHING])


@st.composite
def requests(draw: st.DrawFn, document: dict[str, Any], heads: list[dict[str, str]]) -> Any:
    """Draw one request: an operation of the document, and what is sent to it."""
    shapes = document["components"]["schemas"]
    path = draw(st.sampled_from(sorted(document["paths"])))
    method, operation = draw(st.sampled_from(sorted(document["paths"][path].items())))
    query = []
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            given_ = quote(
                draw(st.sampled_from(KNOWN) | WORD).encode("utf-8", "surrogatepass"), safe=""
            )
            path = path.replace("{" + parameter["name"] + "}", given_ or "x")
        elif parameter["in"] == "query" and draw(st.booleans()):
            given_ = draw(value(parameter["schema"], shapes, 1))
            for one in given_ if isinstance(given_, list) else [given_]:
                text = str(one).encode("utf-8", "surrogatepass")
                query.append(f"{parameter['name']}={quote(text)}")
    content, kind = b"", JSON
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"][JSON]["schema"]
        body = json.dumps(draw(value(schema, shapes))).encode()
        content = draw(st.one_of(st.just(body), st.just(body), st.just(body[:-1]), st.binary()))
        kind = draw(
            st.sampled_from([JSON, JSON, JSON, "text/plain", "application/json; charset=x", ""])
        )
    elif path == "/v1/bundles":
        whole = bundle(draw(st.sampled_from(["1.0.0", "2.0.0"])))
        cut = draw(st.integers(0, len(whole)))
        content = draw(st.sampled_from([whole, whole[:cut], whole[cut:], b"x" * cut]))
    method = draw(st.sampled_from([method.upper()] * 12 + METHODS))
    headers = {"content-type": kind} | draw(st.sampled_from(heads))
    odd = st.sampled_from(
        ["last-event-id", "origin", "content-length", "expect", "range", "accept"]
    )
    if draw(st.integers(0, 9)) == 0:
        number = draw(st.one_of(NUMBER.map(str), st.sampled_from(["null", "é", "bytes=0-,1-,2-"])))
        headers[draw(odd)] = number
    return method, path + ("?" + "&".join(query) if query else ""), headers, content


def test_no_request_brings_the_controller_to_answer_with_a_5xx(
    fleet: Fleet, client: TestClient, heads: list[dict[str, str]]
) -> None:
    document = client.get("/openapi.json", headers=heads[0]).json()
    seen: dict[int, int] = {}

    @seed(SEED)
    @settings(
        max_examples=COUNT,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(document, heads))
    def attack(request: Any) -> None:
        method, url, headers, content = request
        raw = {name: text.encode("utf-8", "replace") for name, text in headers.items()}
        answer = client.request(method, url, headers=raw, content=content)
        assert answer.status_code < 500, (SEED, method, url, headers, content, answer.text)
        assert (
            not answer.headers["content-type"].startswith("text/html") if answer.content else True
        )
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1

    attack()
    print(f"seed {SEED}: {dict(sorted(seen.items()))}")  # noqa: T201 - what the series reached
    for status in (200, 401, 403, 404, 409, 422) if COUNT >= ENOUGH else ():
        assert seen.get(status, 0), (status, seen)
    fleet.settle()  # nor did the loop fall over what they left behind
    whole = fleet.controller.store
    with whole.read() as tx:
        assert tx.audit.newest() is not None
