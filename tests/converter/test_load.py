"""Sources are loaded only if they are safe, and what is not safe is not touched."""

import importlib
import io
import json
import pickle
import re
import sys
import zipfile

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skops.io._protocol import PROTOCOL

from converter.load import SAFE_TYPES, load_estimator
from wire.errors import BundleError


def load(source, *, trust_pickle=False):
    return load_estimator(str(source), trust_pickle=trust_pickle)


def refuse(source, code, **options):
    with pytest.raises(BundleError) as caught:
        load(source, **options)
    assert caught.value.code == code, caught.value
    assert str(caught.value).isprintable()
    return caught.value


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A working directory with modules of its own, forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("workshop_"):
            del sys.modules[name]


@pytest.fixture
def evil(workshop, tmp_path):
    """A module that leaves a mark when it is imported and when anything in it is called."""
    marker = tmp_path / "marker"
    name = workshop(
        "workshop_evil",
        f"""
import pathlib
from sklearn.base import BaseEstimator
def mark(*args):
    pathlib.Path({str(marker)!r}).touch()
    return args[0] if args else None
mark()
class Thing(BaseEstimator):
    def __init__(self): mark()
    def __setstate__(self, state): mark()
    def fit(self, X): return self
    def predict(self, X): return mark(X)
""",
    )
    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module(name)
    assert marker.exists()

    def forget():
        marker.unlink(missing_ok=True)
        sys.modules.pop(name, None)
        return marker

    return module, forget


def test_a_skops_file_is_the_same_estimator_again(tmp_path, digits, classifier):
    skops.io.dump(classifier, tmp_path / "m.skops")
    found = load(tmp_path / "m.skops")
    assert np.array_equal(found.predict_proba(digits.rows), classifier.predict_proba(digits.rows))


@pytest.mark.parametrize("name", sorted(SAFE_TYPES))
def test_every_type_on_the_list_is_one_of_the_libraries(name):
    module, _, attribute = name.rpartition(".")
    assert module.split(".")[0] in ("sklearn", "numpy", "scipy")
    assert getattr(importlib.import_module(module), attribute) is not None


def test_a_function_of_a_stranger_is_named_and_not_imported(tmp_path, evil, digits):
    module, forget = evil
    model = make_pipeline(FunctionTransformer(module.mark), LogisticRegression())
    skops.io.dump(model.fit(digits.rows, digits.label), tmp_path / "m.skops")
    marker = forget()
    error = refuse(tmp_path / "m.skops", "source_untrusted")
    assert "workshop_evil.mark" in str(error)
    assert "module:attribute" in error.hint
    assert not marker.exists()
    assert "workshop_evil" not in sys.modules


def test_a_class_of_a_stranger_is_named_and_not_imported(tmp_path, evil):
    module, forget = evil
    skops.io.dump(module.Thing(), tmp_path / "m.skops")
    marker = forget()
    assert "workshop_evil.Thing" in str(refuse(tmp_path / "m.skops", "source_untrusted"))
    assert not marker.exists()
    assert "workshop_evil" not in sys.modules


def text(value):
    return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode",
            "content": json.dumps(value), "is_json": True}  # fmt: skip


def tuple_of(*nodes, kind="tuple", module="builtins"):
    return {
        "__class__": kind, "__module__": module, "__loader__": "TupleNode", "content": list(nodes),
    }  # fmt: skip


def forgeries(marker):
    """Return objects that touch `marker` if anything makes them."""
    command = f"touch {marker}"
    function = {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}
    thing = {"__class__": "Thing", "__module__": "workshop_evil"}
    return {
        "constructor": {
            "__class__": "system", "__module__": "os", "__loader__": "ConstructorFromReduceNode",
            "content": tuple_of(text(command)),
        },
        "popen": {
            "__class__": "Popen", "__module__": "subprocess",
            "__loader__": "ConstructorFromReduceNode",
            "content": tuple_of(tuple_of(text("touch"), text(str(marker)))),
        },
        "list": {
            "__class__": "system", "__module__": "os", "__loader__": "ListNode",
            "content": [text(command)],
        },
        "tuple": tuple_of(text(command), kind="system", module="os"),
        "function": function,
        "type": {**function, "__loader__": "TypeNode"},
        "object": {**thing, "__loader__": "ObjectNode", "content": text({})},
        "partial": {
            "__class__": "partial", "__module__": "functools", "__loader__": "PartialNode",
            "content": {
                "func": function, "args": tuple_of(text(command)), "kwds": text({}),
                "namespace": text({}),
            },
        },
        "method": {
            **thing, "__loader__": "MethodNode",
            "content": {"func": "fit", "obj": {**thing, "__loader__": "ObjectNode"}},
        },
        "operator": {
            "__class__": "methodcaller", "__module__": "operator", "__loader__": "OperatorFuncNode",
            "attrs": tuple_of(text("system"), text(command)),
        },
        "reduce": {
            "__class__": "system", "__module__": "os", "__loader__": "LossNode",
            "__reduce__": {"args": tuple_of(text(command))}, "content": text({}),
        },
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(forgeries("")))
def test_a_forged_file_runs_nothing(tmp_path, evil, forge, kind):
    _, forget = evil
    marker = forget()
    node = forgeries(marker)[kind]
    error = refuse(forge(tmp_path / "m.skops", node), "source_untrusted")
    assert re.search(r"os\.system|subprocess\.Popen|workshop_evil|partial|operator", str(error))
    assert not marker.exists()
    assert "workshop_evil" not in sys.modules


def test_the_forgeries_would_work_if_they_were_trusted(tmp_path, evil, forge):
    _, forget = evil
    marker = forget()
    for kind in ("constructor", "object"):
        path = forge(tmp_path / "m.skops", forgeries(marker)[kind])
        skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
        assert marker.exists(), kind
        marker.unlink()


def zipped(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_json", ".json"), content)
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no zip", id="no-zip"),
        pytest.param(zipped(other="1"), id="no-schema"),
        pytest.param(zipped(schema_json="{"), id="cut"),
        pytest.param(zipped(schema_json="[]"), id="array"),
        pytest.param(zipped(schema_json="{}"), id="nothing-in-it"),
        pytest.param(zipped(schema_json=json.dumps({"protocol": 999})), id="newer"),
        pytest.param(
            zipped(schema_json=json.dumps({"protocol": PROTOCOL, "__loader__": "NoNode"})),
            id="unknown-node",
        ),
        pytest.param(zipped(schema_json="[" * 100_000), id="deep"),
    ],
)
def test_a_damaged_file_is_said_to_be_unreadable(tmp_path, content):
    (tmp_path / "m.skops").write_bytes(content)
    refuse(tmp_path / "m.skops", "source_unreadable")


def test_a_file_cut_anywhere_is_refused(tmp_path, classifier):
    whole = skops.io.dumps(classifier)
    for length in range(0, len(whole) - 1, len(whole) // 23):
        (tmp_path / "m.skops").write_bytes(whole[:length])
        refuse(tmp_path / "m.skops", "source_unreadable")


@pytest.mark.parametrize("name", ["none.skops", "none.pkl", "none.joblib"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    error = refuse(tmp_path / name, "source_unreadable", trust_pickle=True)
    assert str(error).endswith(f"{name}: No such file or directory")


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib"])
def test_a_pickle_is_not_opened_without_trust(tmp_path, suffix):
    path, marker = tmp_path / f"m{suffix}", tmp_path / "marker"
    path.write_bytes(pickle.dumps(Trap(marker)))
    error = refuse(path, "source_untrusted")
    assert "--trust-pickle" in error.hint
    assert not marker.exists()
    # The trap works: trusted, it is sprung, and what comes out of it is no estimator.
    assert "TextIOWrapper" in str(refuse(path, "source_invalid", trust_pickle=True))
    assert marker.exists()


def test_a_trusted_pickle_is_loaded_with_the_classes_beside_it(workshop, tmp_path, digits):
    workshop(
        "workshop_mine",
        "from sklearn.linear_model import LogisticRegression as L\nclass Mine(L): pass\n",
    )
    sys.path.insert(0, str(tmp_path))
    made = importlib.import_module("workshop_mine").Mine().fit(digits.rows, digits.label)
    joblib.dump(made, tmp_path / "m.joblib")
    sys.path.remove(str(tmp_path))
    del sys.modules["workshop_mine"]
    assert type(load(tmp_path / "m.joblib", trust_pickle=True)).__name__ == "Mine"


@pytest.mark.parametrize("content", [b"", b"x", b"cposix\nnothing_like_it\n.", b"\x80\x05."])
def test_a_damaged_pickle_is_said_to_be_unreadable(tmp_path, content):
    (tmp_path / "m.pkl").write_bytes(content)
    refuse(tmp_path / "m.pkl", "source_unreadable", trust_pickle=True)


@pytest.mark.parametrize("attribute", ["model", "make", "Class"])
def test_a_module_gives_an_estimator_or_what_makes_one(workshop, attribute):
    name = workshop(
        "workshop_good",
        "from sklearn.linear_model import LinearRegression as Class\n"
        "model = Class().fit([[1], [2]], [1, 2])\n"
        "def make(): return model\n",
    )
    assert type(load(f"{name}:{attribute}")).__name__ == "LinearRegression"


@pytest.mark.parametrize(
    ("body", "attribute", "says"),
    [
        ("raise ValueError('not today\\nor tomorrow')", "m", "ValueError: not today"),
        ("import sys; sys.exit(0)", "m", "SystemExit: 0"),
        ("syntax error", "m", "SyntaxError"),
        ("x = 1", "m", "has no attribute 'm'"),
        ("def m(): raise KeyError('k')", "m", "KeyError: 'k'"),
        ("def m(needed): pass", "m", "TypeError"),
        ("import nothing_like_it", "m", "No module named 'nothing_like_it'"),
    ],
)
def test_a_module_that_fails_says_how(workshop, body, attribute, says):
    error = refuse(f"{workshop('workshop_bad', body)}:{attribute}", "source_unreadable")
    assert says in str(error)
    assert "\n" not in str(error)


def test_a_module_that_is_not_there_is_named(workshop):
    assert "nothing_like_it" in str(refuse("nothing_like_it:m", "source_unreadable"))


@pytest.mark.parametrize("body", ["m = {'a': 1}", "m = 3", "m = None", "def m(): return 'text'"])
def test_what_is_no_estimator_is_refused(workshop, body):
    error = refuse(f"{workshop('workshop_other', body)}:m", "source_invalid")
    assert "no scikit-learn estimator" in str(error)


def test_a_skops_file_of_something_else_is_refused(tmp_path):
    skops.io.dump({"weights": [1, 2]}, tmp_path / "m.skops")
    assert "dict" in str(refuse(tmp_path / "m.skops", "source_invalid"))


@pytest.mark.parametrize("method", ["fit", "predict", "transform"])
def test_an_estimator_can_be_fitted_and_asked(workshop, method):
    name = workshop("workshop_half", f"class M:\n def {method}(self, X): return self\nm = M()\n")
    refuse(f"{name}:m", "source_invalid")


@pytest.mark.parametrize("source", ["model", "model.txt", "dir/model.h5", "", "model.SKOPS"])
def test_another_kind_of_file_is_refused_with_the_kinds_there_are(source):
    error = refuse(source, "source_unknown")
    assert ".skops" in error.hint
