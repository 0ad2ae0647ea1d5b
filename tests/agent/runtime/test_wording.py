"""What onnxruntime says, as it really says it, against what a person is told."""

import pytest

from agent.runtime.wording import plain

SOURCE = "/onnxruntime_src/onnxruntime/core/providers/cpu/ml/tree_ensemble_common.h:288 "
SIGNATURE = "onnxruntime::common::Status A<B>::Init(int, const C<D>&, std::pair<E, F> >&) const "
WITH = "[with B = float; G<H> = I<J, 6, K<L[2]> >] "
ROWS = {
    "[ONNXRuntimeError] : 1 : FAIL : Fatal error: com.example:Backdoor(-1) is not a registered": (
        "com.example:Backdoor(-1) is not a registered"
    ),
    "[ONNXRuntimeError] : 1 : FAIL : Load model from /var/lib/x/y failed:Fatal error: a:b": "a:b",
    "[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model from /a failed:This is an invalid model. "
    'In Node, ("", Identity, "", -1)': 'In Node, ("", Identity, "", -1)',
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running Tile "
    "node. Name:'' Status Message: it is too large": "Tile: it is too large",
    "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: "
    + SOURCE + SIGNATURE + WITH + "A node cannot point to itself: 0-0 (true).\n": (
        "A node cannot point to itself: 0-0 (true)."
    ),
    SOURCE + SIGNATURE + "(x >= 0 && y < n) was false. \nmore": "(x >= 0 && y < n) was false.",
    SOURCE + "f(int [with cut": "the file breaks a rule of onnxruntime",
    "std::bad_alloc": "it needs more memory than it may have",
    "": "",
}  # fmt: skip


@pytest.mark.parametrize("said", ROWS)
def test_the_gist_is_left(said):
    assert plain(said) == ROWS[said]


def test_it_fits_a_report():
    assert len(plain("x" * 1000)) == 300
