"""The model that the devices serve, and an application that asks it."""

import threading

from tests.system.device import until

ZERO = [
    0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0, 0, 3, 15, 2, 0, 11, 8, 0, 0, 4, 12, 0, 0, 8, 8, 0,
    0, 5, 8, 0, 0, 9, 8, 0, 0, 4, 11, 0, 1, 12, 7, 0, 0, 2, 14, 5, 10, 12, 0, 0, 0, 0, 6, 13, 10, 0, 0, 0,
]  # fmt: skip
REQUEST = {"inputs": [{"name": "X", "shape": [1, 64], "datatype": "FP32", "data": ZERO}]}
INFER = "/v2/models/digits/infer"


def infer(device, **where):
    """Ask for the zero; return the version that answered."""
    status, answer = device.ask(INFER, REQUEST, **where)
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == [0], answer
    return answer["model_version"]


def serve(fleet, device, name):
    """Roll digits 1.0.0 out to a device, and ask it until the rollout ends."""
    rollout = fleet.start(
        "rollout", "start", "digits:1.0.0", "--match", f"name={name}", "--phases", "100%",
        "--soak", "1s", "--probation-min", "1s", "--wait",
    )  # fmt: skip
    until(lambda: infer(device) and rollout.poll() is not None, "the rollout ends")
    said, _ = rollout.communicate()
    assert rollout.returncode == 0, said


class Client:
    """Asks all the time, on a new connection each time, and keeps every answer."""

    def __init__(self, device):
        self._device = device
        self._ending = threading.Event()
        self.answers, self.failures = 0, []
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._ending.wait(0.02):
            try:
                assert infer(self._device) == "1.0.0"
                self.answers += 1
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is a lost request
                self.failures.append(repr(exc))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join()
