"""All rows of a fleet from one database into another, and the numbers that follow them."""

import contextlib

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from fleet.api.schemas import RolloutIn
from fleet.cli.main import app
from fleet.settings import require_settings
from fleet.store.copying import copy_store
from fleet.store.database import open_database
from fleet.store.identities import CertificateRow
from fleet.store.journal import EventRow
from fleet.store.schema import METADATA
from fleet.store.store import Store
from tests.fleet.peers import Fleet
from wire.errors import ConfigError


@pytest.fixture
def source(tmp_path):
    """A fleet with a bit of everything, in SQLite."""
    fleet = Fleet(tmp_path / "fleet")
    fleet.settle()
    fleet.add("a", "b")
    fleet.release("1.0.0")
    fleet.roll_out("1.0.0")
    fleet.devices["a"].send_record(1)
    fleet.settle()
    fleet.token("shift")
    fleet.controller.start_rollout(RolloutIn(model="digits", version="1.0.0"))
    with fleet.store.write() as tx:
        for serial in "cab":
            tx.identities.add_certificate(CertificateRow(serial, "a", "k", "pem", 1, 2**40))
    fleet.controller.stop()
    fleet.store.close()
    return fleet.database


def content(where):
    with (
        contextlib.closing(open_database(where, is_sole=False)) as database,
        database.reader.begin() as connection,
    ):
        return {
            name: sorted(map(repr, connection.execute(select(table))))
            for name, table in METADATA.tables.items()
        }


def test_every_row_is_copied_and_numbers_go_on(source, make_where, tmp_path):
    target = make_where(is_empty=True)
    count = copy_store(source, target)
    before, after = content(source), content(target)
    assert after == before
    assert (
        count == sum(map(len, after.values())) - 1
    )  # the version of the schema is no row of a fleet
    assert all(after[name] for name in ("records", "events", "certificates", "confirmed", "tokens"))
    store = Store(target, tmp_path)
    with store.write() as tx:
        newest = tx.journal.newest_event()
        tx.journal.note([EventRow("device", "a", "x")], 1)
        assert tx.journal.newest_event() == newest + 1
        assert [row.serial for row in tx.identities.certificates("a")] == ["c", "a", "b"]
    store.close()


def test_nothing_is_copied_over_another_fleet(source, where, tmp_path):
    other = Store(where, tmp_path)
    with other.write() as tx:
        tx.devices.add([("mine", {})], 1)
    other.close()
    before = content(where)
    with pytest.raises(ConfigError) as caught:
        copy_store(source, where)
    assert caught.value.code == "store_not_empty"
    assert content(where) == before


@pytest.mark.postgres
def test_the_command_copies_into_what_fleet_toml_names(source, cluster, tmp_path):
    home, url = tmp_path / "home", cluster.database(is_empty=True)
    (home / "store").mkdir(parents=True)
    source.rename(home / "store" / "fleet.db")
    toml = home / "fleet.toml"
    toml.write_text("[store]\n")
    run = CliRunner().invoke
    assert run(app, ["store", "copy", "--fleet", str(home)]).exception.code == "no_store_url"
    toml.write_text(f'[store]\nurl = "{url}"\n')
    done = run(app, ["store", "copy", "--fleet", str(home)])
    assert done.exit_code == 0, done.output
    assert "is left as it was" in done.output
    assert content(url) == content(require_settings(home).sqlite_path)
    assert run(app, ["store", "copy", "--fleet", str(home)]).exception.code == "store_not_empty"
