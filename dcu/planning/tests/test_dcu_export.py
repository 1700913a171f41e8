"""What `headroom-dcu export` writes is what planning reads."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from dcu.planning.meter_data import read_meter_data
from dcu.planning.reading import read_study
from dcu.planning.tests.stand_in import FOLDER, study
from dcu.store.database import Database
from dcu.store.export import Order, export
from dcu.store.schema import TELEMETRY
from shared.errors import ConfigError

DAY_S = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp())


def test_an_export_of_the_dcu_is_read_without_a_fault(tmp_path: Path) -> None:
    """Two whole days of two customers: energies and voltages in place, the hole unknown and told, no bad row."""
    database = Database(tmp_path / "store", TELEMETRY, "dcu-1")
    with database.transaction() as connection:
        connection.execute("INSERT INTO meters VALUES (1, 'meter-b'), (2, 'meter-a')")
        for number in range(192):
            for meter in (1, 2):
                energy = None if meter == 1 and 40 <= number < 44 else 10 * (number * 67 % 192) + meter
                row = (DAY_S + 900 * number, meter, energy, 0 if energy is not None else None, 23010, 1, 1)
                connection.execute("INSERT INTO quarters VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("INSERT INTO made VALUES ('quarters', ?)", (DAY_S + 900 * 192,))
    order = Order(tmp_path / "store", "dcu-1", ["meter-a", "meter-b"], salted=False)
    files = export(order, None, None, tmp_path / "out").files
    database.close()
    table = read_meter_data(list(files))
    assert table.customers == ("meter-a", "meter-b")
    assert (table.interval_s, len(table.start_s), int(table.start_s[0])) == (900, 192, DAY_S)
    assert table.import_wh[0].tolist() == pytest.approx([n * 67 % 192 + 0.2 for n in range(192)])
    assert np.flatnonzero(np.isnan(table.import_wh[1])).tolist() == [40, 41, 42, 43]
    assert np.isnan(table.pv_wh).all()
    assert table.u_mean_v[0, 0] == 230.1
    assert table.notes == ("meter-b: 4 of 192 intervals are missing and stay unknown",)


def test_files_may_be_named_by_a_pattern(tmp_path: Path) -> None:
    """All that fit are read, in the order of their names; a pattern that fits nothing is a fault."""
    (tmp_path / "export").mkdir()
    shutil.copy(FOLDER / "meters.parquet", tmp_path / "export" / "meter-data-1.parquet")
    shutil.copy(FOLDER / "network.json", tmp_path)
    asked = study(2, "A", meter_data={"files": ["export/meter-data-*.parquet"]})
    read = read_study(asked, tmp_path)
    assert read.study.meter_data.files == ["export/meter-data-1.parquet"]
    assert read.inputs.past.days == 365
    whole = str(tmp_path / "export" / "*.parquet")
    assert len(read_study(study(2, "A", meter_data={"files": [whole]}), tmp_path).files) == 2
    with pytest.raises(ConfigError, match="files that fit"):
        read_study(study(2, "A", meter_data={"files": ["export/other-*.parquet"]}), tmp_path)
