"""A real Prometheus scrapes a real controller, as docs/runbook.md says, and finds the fleet in it."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request

import pytest

from tests.spine.processes import free_port
from tests.spine.soundness import absent

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

CONFIG = """
scrape_configs:
  - job_name: modelfleet
    scrape_interval: 1s
    authorization: {{credentials_file: {token}}}
    static_configs: [{{targets: ["{target}"]}}]
"""


@pytest.fixture
def prometheus(tmp_path):
    """Start one on a target; return what asks it a query."""
    program = shutil.which("prometheus")
    if program is None:
        absent("prometheus (Debian's package of that name)")
    started = []

    def start(target, token):
        port = free_port()
        config = tmp_path / "prometheus.yml"
        config.write_text(CONFIG.format(token=token, target=target))
        log = (tmp_path / "prometheus.log").open("wb")
        started.append((subprocess.Popen([
            program, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ], stdout=log, stderr=log), log))  # fmt: skip

        def ask(query):
            where = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
            try:
                with urllib.request.urlopen(where, timeout=10) as answer:
                    found = json.load(answer)["data"]["result"]
            except OSError:
                return None
            return [float(row["value"][1]) for row in found]

        return ask

    yield start
    for process, log in started:
        process.terminate()
        process.wait(20)
        log.close()


def test_prometheus_finds_the_fleet(make_bed, prometheus):
    bed = make_bed("mosquitto")
    bed.add("cam-0", "cam-1")
    bed.install("1.0.0")
    token = bed.fleet_dir / "prometheus.token"
    bed.fleet("token", "create", "prometheus", "--role", "viewer", "--output", token)
    ask = prometheus(bed.api_address, token)
    bed.until("it is scraped", lambda: ask('up{job="modelfleet"}') == [1.0])
    assert ask('modelfleet_devices{state="online"}') == [2.0]
    assert ask('modelfleet_release_devices{version="1.0.0"}') == [2.0]
    requests = 'modelfleet_inference_requests_total{version="1.0.0"}'
    bed.until("requests are counted", lambda: (ask(requests) or [0.0])[0] > 0)
    before = ask(requests)[0]
    bed.until("they grow", lambda: ask(requests)[0] > before)
