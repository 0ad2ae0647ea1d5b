import pytest

from agent.core.diagnosis import (
    PROTECTIONS,
    Verdict,
    judge_clock,
    judge_disk,
    judge_models,
    judge_protections,
    judge_quarantine,
    judge_records,
    judge_trust,
)
from agent.core.states import (
    Assignment,
    DeviceState,
    Fetching,
    ModelRecord,
    OnProbation,
    Quarantine,
    Ref,
)
from agent.core.trust import RoleFacts, TrustView
from wire.lifecycle import Code, Outcome

ONE, TWO = Ref("1.0.0", "1" * 64, "a" * 64), Ref("2.0.0", "2" * 64, "b" * 64)


def state(**record):
    return DeviceState(models=(ModelRecord("m", **record),))


def test_all_protections_are_well():
    assert judge_protections(tuple(PROTECTIONS)).verdict is Verdict.OK


@pytest.mark.parametrize("name", PROTECTIONS)
def test_each_missing_protection_is_named_with_what_it_needs(name):
    found = judge_protections([other for other in PROTECTIONS if other != name])
    assert found.verdict is Verdict.WARNING
    assert f"without {name}" in found.text
    assert PROTECTIONS[name] in found.remedy


def test_protections_are_unknown_before_the_first_runtime():
    assert "unknown" in judge_protections(()).text


@pytest.mark.parametrize(
    ("record", "answering", "verdict", "words"),
    [
        ({"active": ONE, "is_confirmed": True}, {"m": "1.0.0"}, Verdict.OK, "serves 1.0.0"),
        ({"active": ONE, "is_confirmed": True}, {"m": "2.0.0"}, Verdict.FAULT, "answers 2.0.0"),
        # Nothing answers: the runtime's own line says so, the model is not blamed as well.
        ({"active": ONE, "is_confirmed": True}, {}, Verdict.OK, "serves 1.0.0"),
        (
            {
                "active": ONE,
                "is_confirmed": True,
                "target": TWO,
                "outcome": Outcome.ROLLED_BACK,
                "code": Code.ERROR_RATIO,
                "detail": "9 of 20 requests failed",
            },
            {"m": "1.0.0"},
            Verdict.WARNING,
            "serves 1.0.0; 2.0.0 rolled_back (error_ratio): 9 of 20 requests failed",
        ),
        (
            {"target": TWO, "outcome": Outcome.FAILED, "code": Code.DISK_FULL},
            {},
            Verdict.FAULT,
            "serves nothing; 2.0.0 failed (disk_full)",
        ),
    ],
)
def test_a_model_is_judged_by_state_answer_and_outcome(record, answering, verdict, words):
    (found,) = judge_models(state(**record), answering)
    assert found.verdict is verdict
    assert words in found.text


def test_during_an_update_another_answer_is_no_fault():
    trial = DeviceState(
        models=(ModelRecord("m", active=TWO, fallback=ONE),),
        update=OnProbation(Assignment("m", TWO)),
    )
    (found,) = judge_models(trial, {"m": "1.0.0"})
    assert found.verdict is Verdict.OK
    assert found.text == "serves 2.0.0 on trial, fallback 1.0.0; on_probation"


def test_no_model_is_said_to_be_so():
    assert "none yet" in judge_models(DeviceState(), {})[0].text


def test_quarantine_lists_the_newest_three():
    assert judge_quarantine(DeviceState()) is None
    many = DeviceState(quarantined=tuple(Quarantine(f"{n:064}", "load_failed") for n in range(5)))
    assert "and 2 more" in judge_quarantine(many).text


@pytest.mark.parametrize(
    ("now_s", "verdict"),
    [(2e9, Verdict.OK), (1e9 - 3599, Verdict.OK), (1e9 - 3601, Verdict.WARNING)],
)
def test_a_clock_before_its_own_last_write_has_gone_back(now_s, verdict):
    assert judge_clock(now_s, 1e9).verdict is verdict


def test_little_disk_and_stuck_records_are_warnings():
    assert judge_disk(63 * 1024**2, "/x").verdict is Verdict.WARNING
    assert judge_disk(64 * 1024**2, "/x").verdict is Verdict.OK
    assert judge_records(101, is_controller_online=True).verdict is Verdict.WARNING
    assert judge_records(101, is_controller_online=False).verdict is Verdict.OK
    assert judge_records(100, is_controller_online=True).verdict is Verdict.OK


HOUR_MS = 3_600_000
SIGNED = TrustView(
    {n: RoleFacts(3, 72 * HOUR_MS) for n in ("root", "timestamp", "snapshot", "targets")}
)
WAITING = DeviceState(update=Fetching(Assignment("digits", Ref("2.0.0", "a" * 64, "b" * 64))))


@pytest.mark.parametrize(
    ("state", "view", "now_unix_ms", "verdict", "words"),
    [
        (DeviceState(), SIGNED, 0, "ok", "root 3, snapshot 3, good for 3 days"),
        (DeviceState(), SIGNED, 71 * HOUR_MS, "ok", "good for 1 hours"),
        (DeviceState(), None, 0, "warning", "no signed metadata"),
        (DeviceState(), SIGNED, 72 * HOUR_MS, "fault", "expired: the timestamp"),
        (WAITING, SIGNED, 0, "warning", "digits:2.0.0 waits: the metadata of model digits"),
    ],
)  # fmt: skip
def test_what_is_signed_is_judged(state, view, now_unix_ms, verdict, words):
    found = judge_trust(state, view, now_unix_ms)
    assert found.verdict == verdict
    assert words in found.text
    assert (found.remedy == "") is (verdict == "ok")
