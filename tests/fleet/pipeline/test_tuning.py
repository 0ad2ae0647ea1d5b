"""The search: the same plan proposes the same, whatever stops it on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import optuna
import pytest

from fleet.pipeline.objectives import Objective, Trial, choose, front_of, rule_of
from fleet.pipeline.search import Choice, Range
from fleet.pipeline.tuning import Plan, Pruned, tune
from wire.errors import BundleError, ConfigError, StorageError

SPACE = {"x": Range(-3.0, 3.0), "n": Range(1, 5, is_whole=True), "kind": Choice(("a", "b"))}
PLAN = Plan(SPACE, (Objective("score"),), trials=14, seed=3)


def bowl(parameters, report):
    """Best at x = 1, n = 4 and kind b."""
    loss = (parameters["x"] - 1) ** 2 + (parameters["n"] - 4) ** 2 + (parameters["kind"] == "a")
    return {"score": -loss, "bytes": 100 * parameters["n"]}


def search(path, plan=PLAN, evaluate=bowl):
    lines = []
    found = tune(plan, evaluate, path / "study" / "journal", lines.append)
    return found, lines


def test_the_best_of_all_trials_is_taken_and_each_is_told(tmp_path):
    found, lines = search(tmp_path)
    assert len(found.trials) == len(lines) == 14
    assert [trial.number for trial in found.trials] == list(range(14))
    assert found.best.values[0] == max(trial.values[0] for trial in found.trials)
    assert bowl(found.best.parameters, None)["score"] == found.best.values[0]
    assert lines[0].startswith("trial 1 of 14: score -")
    json.dumps(found.to_json(), allow_nan=False)


def test_the_search_learns(tmp_path):
    found, _ = search(tmp_path, replace(PLAN, trials=60))
    first = max(trial.values[0] for trial in found.trials[:10])
    assert found.best.values[0] > max(first, -0.2)


def test_the_same_seed_proposes_the_same_and_another_does_not(tmp_path):
    one, _ = search(tmp_path / "one")
    again, _ = search(tmp_path / "again")
    other, _ = search(tmp_path / "other", replace(PLAN, seed=4))
    assert one.trials == again.trials
    assert one.trials[0].parameters != other.trials[0].parameters


def test_a_search_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    whole, _ = search(tmp_path / "whole")
    count = 0

    def breaks(parameters, report):
        nonlocal count
        count += 1
        if count == 7:
            raise KeyboardInterrupt
        return bowl(parameters, report)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "halves", evaluate=breaks)
    resumed, lines = search(tmp_path / "halves")
    assert resumed.trials == whole.trials
    assert len(lines) == 14 - 6


def test_more_trials_go_on_from_those_that_are_there(tmp_path):
    short, _ = search(tmp_path, replace(PLAN, trials=5))
    long, lines = search(tmp_path)
    assert long.trials[:5] == short.trials
    assert len(lines) == 9
    again, lines = search(tmp_path, replace(PLAN, trials=5))
    assert (again, lines) == (short, [])


@pytest.mark.parametrize(
    "change",
    [{"seed": 9}, {"key": "other data"}, {"space": {**SPACE, "x": Range(-3.0, 4.0)}},
     {"objectives": (Objective("score", "minimize"),)}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_trials_of_another_search_are_not_taken_for_this_ones(tmp_path, change):
    search(tmp_path, replace(PLAN, trials=3))
    _, lines = search(tmp_path, replace(PLAN, trials=3, **change))
    assert len(lines) == 3


CHILD = """
import os, signal, sys
from pathlib import Path
from fleet.pipeline.tuning import tune
from tests.fleet.pipeline.test_tuning import PLAN, bowl
count = 0
def evaluate(parameters, report):
    global count
    count += 1
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return bowl(parameters, report)
tune(PLAN, evaluate, Path(sys.argv[1]), print)
"""


def test_a_search_that_is_killed_goes_on(tmp_path):
    whole, _ = search(tmp_path / "whole")
    journal = tmp_path / "killed" / "study" / "journal"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(journal)], check=False, capture_output=True,
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')  # what a kill within a write leaves
    resumed, lines = search(tmp_path / "killed")
    assert resumed.trials == whole.trials
    assert len(lines) == 14 - 3


def test_trials_at_once_run_at_once_and_are_told_in_their_order(tmp_path):
    plan = replace(PLAN, trials=9, jobs=3)
    gate = threading.Barrier(3, timeout=60)

    def meets(parameters, report):
        gate.wait()  # nobody passes before all three are here
        return bowl(parameters, report)

    together, lines = search(tmp_path / "one", plan, meets)
    assert [line.partition(":")[0] for line in lines] == [f"trial {i} of 9" for i in range(1, 10)]
    turn = threading.Condition()
    came, left = [], []

    def backwards(parameters, report):
        """Ends after all that came later in the same round."""
        with turn:
            place = len(came)
            came.append(place)
            last = place // 3 * 3 + 2
            turn.notify_all()
            turn.wait_for(
                lambda: len(came) > last and len(left) == last // 3 * 3 + last - place, 60
            )
            left.append(place)
            turn.notify_all()
        return bowl(parameters, report)

    assert search(tmp_path / "two", plan, backwards)[0].trials == together.trials
    assert left == [2, 1, 0, 5, 4, 3, 8, 7, 6]


def test_a_trial_may_work_in_a_child_process(tmp_path):
    def evaluate(parameters, report):
        code = f"print(-abs({parameters['x']} - 1))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return {"score": float(done.stdout)}

    found, _ = search(tmp_path, replace(PLAN, trials=4, jobs=2), evaluate)
    assert all(t.values == (-abs(t.parameters["x"] - 1),) for t in found.trials)


def test_a_trial_that_fails_is_counted_and_said_and_the_search_goes_on(tmp_path):
    def evaluate(parameters, report):
        if parameters["kind"] == "a":
            raise BundleError("it does not convert", code="parity_failed")
        return bowl(parameters, report) if parameters["x"] > 0 else {"score": float("nan")}

    found, lines = search(tmp_path, evaluate=evaluate)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert {trial.reason for trial in failed} == {
        "it does not convert", "score is no finite number",
    }  # fmt: skip
    assert sum("it does not convert" in line for line in lines) == sum(
        trial.parameters["kind"] == "a" for trial in failed
    )
    assert found.best.parameters["kind"] == "b"


def test_a_search_in_which_all_fails_says_why(tmp_path):
    def evaluate(parameters, report):
        raise BundleError("it does not convert", code="parity_failed")

    with pytest.raises(ConfigError) as caught:
        search(tmp_path, replace(PLAN, trials=3), evaluate)
    assert caught.value.code == "tuning_failed"
    assert "none of 3 trials is complete; the last one: it does not convert" in str(caught.value)


def test_our_own_fault_is_no_failed_trial(tmp_path):
    def evaluate(parameters, report):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(tmp_path, evaluate=evaluate)


def folds(parameters, report):
    score = bowl(parameters, report)["score"]
    for fold in range(3):
        report(fold, score)
    return {"score": score, "bytes": 1.0}


def test_a_trial_that_falls_behind_is_stopped(tmp_path):
    found, lines = search(tmp_path, replace(PLAN, trials=25), folds)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert all(trial.number >= 5 for trial in pruned)
    assert sum(line.endswith(": pruned") for line in lines) == len(pruned)
    scores = [bowl(trial.parameters, None)["score"] for trial in found.trials]
    assert found.best.values[0] == max(scores)
    assert found.trials == search(tmp_path / "again", replace(PLAN, trials=25), folds)[0].trials


def test_trials_at_once_are_stopped_by_those_before_them_alone(tmp_path):
    plan = replace(PLAN, trials=24, jobs=3)
    found, _ = search(tmp_path / "one", plan, folds)
    assert "pruned" in {trial.state for trial in found.trials}
    assert found.trials == search(tmp_path / "again", plan, folds)[0].trials
    search(tmp_path / "parts", replace(plan, trials=9), folds)
    assert search(tmp_path / "parts", plan, folds)[0].trials == found.trials


def test_a_trial_keeps_what_it_reported(tmp_path):
    def evaluate(parameters, report):
        score = bowl(parameters, report)["score"]
        report(0, score - 1)
        report(1, score - 0.5)
        return {"score": score}

    found, _ = search(tmp_path, replace(PLAN, trials=20), evaluate)
    for trial in found.trials:
        score = bowl(trial.parameters, None)["score"]
        wanted = (score - 1, score - 0.5)
        assert (
            trial.reported == wanted if trial.state == "complete" else wanted[: len(trial.reported)]
        )
    assert {len(trial.reported) for trial in found.trials if trial.state == "pruned"} <= {1, 2}


def test_with_several_objectives_nothing_is_stopped(tmp_path):
    both = (Objective("score"), Objective("bytes", "minimize"))
    found, _ = search(tmp_path, replace(PLAN, objectives=both), folds)
    assert {trial.state for trial in found.trials} == {"complete"}


def test_pruned_is_no_error_of_ours_that_callers_would_catch():
    assert not issubclass(Pruned, (ValueError, OSError))


def test_parameters_that_were_tried_are_not_tried_again(tmp_path):
    tried = []

    def evaluate(parameters, report):
        tried.append(parameters["kind"])
        return {"score": float(len(tried))}

    plan = Plan({"kind": Choice(("a", "b"))}, (Objective("score"),), trials=12)
    found, _ = search(tmp_path, plan, evaluate)
    assert sorted(tried) == ["a", "b"]
    assert len(found.trials) == 12
    assert len({trial.values for trial in found.trials}) == 2


@pytest.mark.parametrize("content", [b"no journal\nat all\n", b"[1]\n", b'{"op_code": 99}\n' * 2])
def test_a_journal_that_is_none_is_told(tmp_path, content):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "journal").write_bytes(content)
    with pytest.raises(StorageError) as caught:
        search(tmp_path)
    assert caught.value.code == "study_unreadable"


def test_the_front_is_optunas(tmp_path):
    objectives = (Objective("score"), Objective("bytes", "minimize"))
    found, _ = search(tmp_path, replace(PLAN, trials=40, objectives=objectives))
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "study" / "journal"))
    )
    (name,) = optuna.get_all_study_names(storage)
    theirs = optuna.load_study(study_name=name, storage=storage).best_trials
    assert [trial.number for trial in found.front] == [trial.number for trial in theirs]
    assert found.best in found.front
    assert len(found.front) > 1


def trial(number, *values, state="complete"):
    return Trial(number, state, {}, values)


BOTH = (Objective("accuracy", slack=0.01), Objective("bytes", "minimize"))
TRIALS = (
    trial(0, 0.90, 500.0),
    trial(1, 0.95, 900.0),
    trial(2, 0.945, 300.0),
    trial(3, 0.945, 300.0),
    trial(4, 0.93, 100.0),
    trial(5, 0.94, 800.0),
    trial(6, state="failed"),
)


def test_nothing_beats_what_is_on_the_front():
    assert [t.number for t in front_of(TRIALS, BOTH)] == [1, 2, 3, 4]
    assert front_of(TRIALS[6:], BOTH) == ()


def test_of_the_front_the_smallest_within_the_slack_is_taken():
    assert choose(TRIALS, BOTH).number == 2
    assert choose(TRIALS, (Objective("accuracy"), BOTH[1])).number == 1
    assert choose(TRIALS, (Objective("accuracy", slack=0.03), BOTH[1])).number == 4
    assert choose(TRIALS[6:], BOTH) is None
    assert rule_of(BOTH) == (
        "Of the trials that nothing beats, the largest accuracy within 0.01 of it; of these the "
        "smallest bytes; of equals the first."
    )
