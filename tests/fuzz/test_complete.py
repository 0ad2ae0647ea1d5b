"""No door is left out: each kind of message has one, and so has each module that parses bytes."""

import ast
from pathlib import Path

from tests.fuzz.table import all_doors
from tests.fuzz.wire_doors import kinds

ROOT = Path(__file__).parents[2]
PARSERS = {
    "csv.DictReader", "csv.reader", "json.load", "json.loads", "msgspec.json.Decoder", "msgspec.json.decode",
    "np.load", "pickle.load", "pickle.loads", "tarfile.open", "tomllib.load", "tomllib.loads", "zipfile.ZipFile",
    "zstandard.ZstdDecompressor",
}  # fmt: skip
METHODS = {"from_bytes", "model_validate_json", "validate_json"}
METHOD_PREFIXES = ("load_pem_", "load_der_")
OWN_ROWS = "rows of the controller's own database, which it wrote from checked values"
OWN_STEPS = "what steps of a run left in the cache, which knows the digest of each file"
ELSEWHERE = {
    "agent.core.captured": "only writes archives",
    "converter.bundle": "only writes archives",
    "converter.child": "reads what its parent has just written",
    "converter.golden": "reads what it has just written",
    "converter.rows": "the author's own data; tests/converter/test_rows.py",
    "fleet.api.lineage": OWN_ROWS,
    "converter.answer_child": "reads what its parent has just written",
    "converter.trainer": "reads what its parent has just written",
    "fleet.pipeline.cache": "a list of digests: what is not as listed goes; tests/fleet/pipeline/test_cache.py",
    "fleet.pipeline.carding": OWN_STEPS,
    "fleet.pipeline.checking": OWN_STEPS,
    "fleet.pipeline.judging": OWN_STEPS,
    "fleet.pipeline.making": OWN_STEPS,
    "fleet.pipeline.searching": OWN_STEPS,
    "fleet.pipeline.report": OWN_STEPS,
    "fleet.pipeline.snapshot": "only writes archives",
    "fleet.pipeline.project": "the author's own file; tests/fleet/pipeline/test_project.py",
    "fleet.pipeline.record": "records of our own runs; tests/fleet/pipeline/test_run.py",
    "fleet.cli.pipeline": "what the user types",
    "fleet.api.views": OWN_ROWS,
    "fleet.store.alerts": OWN_ROWS,
    "fleet.store.drift": OWN_ROWS,
    "fleet.store.performance": OWN_ROWS,
    "fleet.store.windows": OWN_ROWS,
    "fleet.monitoring.baselines": "a file of a signed bundle, which agent.runtime.outputs reads too",
    "fleet.expiries": "certificates of our own, out of our own folder",
    "fleet.store.journal": OWN_ROWS,
    "fleet.store.rollouts": OWN_ROWS,
    "fleet.store.shadows": OWN_ROWS,
    "fleet.store.states": OWN_ROWS,
    "fleet.trust.keys": "private keys of the person who types the command",
    "fleet.store.tokens": OWN_ROWS,
}
"""Modules that parse and have no door, and why not."""


def parsers_in(path):
    """Return the calls in a source file that make values of bytes."""
    tree = ast.parse(path.read_text("utf-8"))
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    # A generic class that is called: `Decoder[list[int]](…)`.
    names = [name.partition("[")[0] for name in called]
    return [
        name
        for name in names
        if name in PARSERS
        or (name.rpartition(".")[2] in METHODS and not name.startswith("int."))
        or name.rpartition(".")[2].startswith(METHOD_PREFIXES)
    ]


def parsing_modules():
    found = {}
    for program in ("agent", "converter", "fleet", "wire"):
        for path in (ROOT / program).rglob("*.py"):
            if names := parsers_in(path):
                found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = names
    return found


def test_every_kind_of_message_has_a_door():
    assert len(kinds()) >= 11
    assert {kind.__name__ for kind in kinds()} <= set(all_doors())


def test_every_module_that_parses_has_a_door_or_a_reason():
    with_door = {module for door in all_doors().values() for module in door.modules}
    found = parsing_modules()
    assert len(found) > 20
    left_out = {module: names for module, names in found.items() if module not in with_door}
    assert left_out.keys() - ELSEWHERE.keys() == set(), (
        "these parse bytes: give each a door in tests/fuzz/, or a reason in ELSEWHERE",
        {module: left_out[module] for module in left_out.keys() - ELSEWHERE.keys()},
    )
    assert ELSEWHERE.keys() - left_out.keys() == set(), "these have a door, or parse no more"
