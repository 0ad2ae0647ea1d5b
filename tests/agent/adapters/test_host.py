"""What a device tells of its machine: from a tree like the kernel's, and from this machine."""

import ctypes

import pytest

from agent.adapters import clock_quality
from agent.adapters.host import Host
from agent.adapters.throttling import Throttling

INTEL = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
PI = "devices/platform/soc/soc:firmware/get_throttled"
COOLING = "class/thermal/cooling_device0"


@pytest.fixture
def sysfs(tmp_path):
    def write(**files):
        for path, text in files.items():
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return tmp_path

    return write


def test_a_machine_that_tells_nothing_is_not_said_to_be_well(sysfs):
    assert Throttling(sysfs()).is_throttled() is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({PI: "0\n"}, False, id="a Raspberry Pi at ease"),
        pytest.param({PI: "50005\n"}, True, id="one with a weak supply now"),
        pytest.param({PI: "50000\n"}, False, id="one that had a weak supply before"),
        pytest.param({f"{COOLING}/type": "cpufreq-cpu0\n", f"{COOLING}/cur_state": "3\n"}, True, id="slowed"),
        pytest.param({f"{COOLING}/type": "Processor\n", f"{COOLING}/cur_state": "0\n"}, False, id="not slowed"),
        pytest.param({f"{COOLING}/type": "Fan\n", f"{COOLING}/cur_state": "1\n"}, None, id="a fan that runs"),
        pytest.param({PI: "lots\n"}, None, id="nonsense"),
        pytest.param({PI: "0\n", f"{COOLING}/type": "cpufreq-cpu0", f"{COOLING}/cur_state": "1"}, True, id="any"),
    ],
)  # fmt: skip
def test_throttling_is_read_from_what_the_kernel_says(sysfs, files, expected):
    assert Throttling(sysfs(**files)).is_throttled() is expected


def test_a_count_tells_of_the_time_since_the_last_look(sysfs):
    throttling = Throttling(sysfs(**{INTEL: "7\n"}))
    seen = []
    for count in (7, 9, 9):
        sysfs(**{INTEL: f"{count}\n"})
        seen.append(throttling.is_throttled())
    assert seen == [False, True, False]


def test_the_clock_of_this_machine_is_described_as_the_kernel_does():
    # glibc's ntp_gettime() reads the same of the kernel through its own, smaller structure.
    class NtpTime(ctypes.Structure):
        _fields_ = (
            ("time", ctypes.c_long * 2),
            ("maxerror", ctypes.c_long),
            ("rest", ctypes.c_long * 8),
        )

    said = NtpTime()
    state = ctypes.CDLL(None).ntp_gettime(ctypes.byref(said))
    quality = clock_quality.clock_quality()
    if state < 0:
        pytest.skip("this machine lets nobody ask how its clock is kept")
    assert quality.is_synchronized is (state != clock_quality._TIME_ERROR)
    if quality.error_ms is not None:
        # It grows by half a millisecond a second until the clock is set again.
        assert quality.error_ms == pytest.approx(said.maxerror / 1000, rel=0.5, abs=500)


@pytest.mark.parametrize(("files", "expected"), [((), False), (("synchronized",), True)])
def test_where_the_kernel_may_not_be_asked_timesyncd_is(tmp_path, monkeypatch, files, expected):
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(clock_quality, "_TIMESYNCD", tmp_path / "synchronized")
    monkeypatch.setattr(clock_quality, "_adjtimex", lambda _timex: None)
    assert clock_quality.clock_quality().is_synchronized is expected
    assert clock_quality.clock_quality().error_ms is None


def test_where_nobody_says_the_clock_is_not_called_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(clock_quality, "_TIMESYNCD", tmp_path / "absent" / "synchronized")
    monkeypatch.setattr(clock_quality, "_adjtimex", lambda _timex: None)
    assert clock_quality.clock_quality().is_synchronized is None


def test_the_figures_of_this_machine_are_possible(tmp_path):
    vitals = Host(tmp_path).vitals()
    assert vitals.uptime_s > 0
    assert 0 <= vitals.cpu_ratio <= 1
    assert 0 < vitals.supervisor_rss_bytes < vitals.memory_available_bytes * 100
    assert vitals.disk_free_bytes > 0


def test_a_disk_that_does_not_answer_has_nothing_free_and_ends_nobody(tmp_path):
    assert Host(tmp_path).vitals().disk_free_bytes > 0
    (tmp_path / "file").touch()
    assert Host(tmp_path / "file" / "below").vitals().disk_free_bytes == 0
