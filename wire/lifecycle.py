"""Names of update states, outcomes and codes: what reports, events and tables say of a model."""

from __future__ import annotations

from enum import StrEnum


class UpdateState(StrEnum):
    """Where a device stands with one model."""

    IDLE = "idle"
    FETCHING = "fetching"
    STAGED = "staged"
    SELF_TESTING = "self_testing"
    ON_PROBATION = "on_probation"
    ROLLING_BACK = "rolling_back"


class Outcome(StrEnum):
    """How the newest assignment of a model ended on a device.

    `confirmed`: served long enough and well enough. `confirmed_without_traffic`: nobody asked it
    anything, the golden rows still pass. `rolled_back`: served, breached a guard, the fallback
    serves. `rollback_failed`: the same, but nothing serves in its place: there was no fallback, or
    it did not come up. `rejected`: never served; the fault is the bundle's or the assignment's,
    and trying again would end the same. `failed`: never served; the fault is this device's or the
    way's. After the last two, what served before serves on.
    """

    CONFIRMED = "confirmed"
    CONFIRMED_WITHOUT_TRAFFIC = "confirmed_without_traffic"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    REJECTED = "rejected"
    FAILED = "failed"


SUCCESSES = frozenset({Outcome.CONFIRMED, Outcome.CONFIRMED_WITHOUT_TRAFFIC})


class Code(StrEnum):
    """Why. One word per cause, the same in events, reports, logs and the store."""

    # progress
    ASSIGNED = "assigned"
    FETCHED = "fetched"
    TRYING = "trying"
    ACTIVATED = "activated"
    CONFIRMED = "confirmed"
    REMOVED = "removed"
    ALREADY_ACTIVE = "already_active"
    SUPERSEDED = "superseded"
    QUARANTINE_LIFTED = "quarantine_lifted"
    SHADOW_STARTED = "shadow_started"
    SHADOW_ENDED = "shadow_ended"
    # the bundle's fault: quarantined
    MANIFEST_INVALID = "manifest_invalid"
    DIGEST_MISMATCH = "digest_mismatch"
    MODEL_REFUSED = "model_refused"
    LOAD_FAILED = "load_failed"
    SELF_TEST_FAILED = "self_test_failed"
    START_TIMEOUT = "start_timeout"
    ERROR_RATIO = "error_ratio"
    NON_FINITE = "non_finite"
    LATENCY_BUDGET = "latency_budget"
    LATENCY_RATIO = "latency_ratio"
    MEMORY_GROWTH = "memory_growth"
    OUTPUT_DRIFT = "output_drift"
    REQUEST_STUCK = "request_stuck"
    RUNTIME_DIED = "runtime_died"
    CRASH_LOOP = "crash_loop"
    # a shadow's fault: its trial has failed, and nothing that serves
    SHADOW_DIED = "shadow_died"
    SHADOW_STUCK = "shadow_stuck"
    # the assignment's fault
    QUARANTINED = "quarantined"
    INDEX_INVALID = "index_invalid"
    WRONG_MODEL = "wrong_model"
    INCOMPATIBLE = "incompatible"
    EXPIRED = "expired"
    # signatures: what they do not allow is not installed; see docs/decisions/0006-trust.md
    UNSIGNED = "unsigned"
    TRUST_SIGNATURE = "trust_signature"
    TRUST_ROLLBACK = "trust_rollback"
    TRUST_EXPIRED = "trust_expired"
    TRUST_MISMATCH = "trust_mismatch"
    TRUST_MALFORMED = "trust_malformed"
    TRUST_UNAVAILABLE = "trust_unavailable"
    TRUST_TOO_LARGE = "trust_too_large"
    NOT_SIGNED = "not_signed"
    BELOW_FLOOR = "below_floor"
    WRONG_DEVICE = "wrong_device"
    DESIRED_REPLAYED = "desired_replayed"
    DESIRED_EXPIRED = "desired_expired"
    # this device's or the way's fault
    DISK_FULL = "disk_full"
    DISK_BUDGET = "disk_budget"
    STORAGE_ERROR = "storage_error"
    CONTENT_CORRUPT = "content_corrupt"
    START_FAILED = "start_failed"
    SHADOW_NO_ROOM = "shadow_no_room"
    STEP_LIMIT = "step_limit"
    STATE_LOST = "state_lost"
    IDENTITY_DAMAGED = "identity_damaged"
    IDENTITY_LOST = "identity_lost"
    RECORDS_DROPPED = "records_dropped"
    LEAVE_OUT_UNKNOWN = "leave_out_unknown"
