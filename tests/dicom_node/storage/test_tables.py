"""The migrations and the definitions of the tables agree."""

from dataclasses import fields

import pytest
import sqlalchemy as sa

from dicom_node.storage import records
from dicom_node.storage.records import InstanceRecord, ResultRecord
from dicom_node.storage.tables import instance, metadata, read_one, result

pytestmark = pytest.mark.integration

AFFINITY = {
    "BIGINT": "bigint",
    "INTEGER": "integer",
    "DOUBLE": "double",
    "DOUBLE PRECISION": "double",
    "REAL": "double",
    "TEXT": "text",
    "BLOB": "bytes",
    "BYTEA": "bytes",
}


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=str)
def test_the_migrations_create_the_columns_of_each_table(
    engine: sa.Engine, table: sa.Table
) -> None:
    inspector = sa.inspect(engine)
    keys = inspector.get_pk_constraint(table.name)["constrained_columns"]
    created = {
        each["name"]: kind(each["type"], engine, is_key=each["name"] in keys)
        for each in inspector.get_columns(table.name)
    }
    optional = {
        each["name"]
        for each in inspector.get_columns(table.name)
        if each["nullable"] and each["name"] not in keys
    }

    assert created == {
        each.name: kind(each.type, engine, is_key=each.primary_key)
        for each in table.columns
    }
    assert optional == {each.name for each in table.columns if each.nullable}


def kind(type_: sa.types.TypeEngine[object], engine: sa.Engine, *, is_key: bool) -> str:
    name = AFFINITY[str(type_.compile(engine.dialect))]
    if not is_key:
        return name
    # The migrations make a numbered key as large as the database allows.
    return "number as key" if name in {"integer", "bigint"} else f"{name} as key"


def test_each_table_of_the_migrations_is_defined(engine: sa.Engine) -> None:
    created = set(sa.inspect(engine).get_table_names())
    own = {each for each in created if not each.startswith("journal_")}

    defined = {each.name for each in metadata.sorted_tables}
    assert defined <= own
    # Other tables belong to DBOS. In PostgreSQL, these have their own schema.
    if engine.dialect.name == "postgresql":
        assert own == defined


def test_a_row_is_read_as_a_record(engine: sa.Engine) -> None:
    values = {
        each.name: 1.0 if each.type is float else 1 if each.type is int else "x"
        for each in fields(InstanceRecord)
    }
    values |= {"size": 2**40, "acquisition": None, "probability": 0.5, "slow": 1}
    values |= {"is_summary": None, "not_meant": 1}
    values |= dict.fromkeys(
        ("analyzed_at", "delivered_at", "ended_at", "files_removed_at", "returned")
    )
    values["same_picture_as"] = None
    with engine.begin() as connection:
        connection.execute(instance.insert(), values)
        row = read_one(InstanceRecord, connection.execute(instance.select()))

    assert row == InstanceRecord(**values)  # type: ignore[arg-type]


def test_a_table_has_the_fields_of_its_record_as_columns() -> None:
    assert [each.name for each in result.columns] == [
        each.name for each in fields(ResultRecord)
    ]
    assert [each.name for each in result.primary_key] == [
        "instance_id",
        "sop_instance_uid",
    ]


def test_each_record_describes_all_its_fields() -> None:
    for name, each in vars(records).items():
        if name.endswith("Record"):
            described = "".join(base.__doc__ or "" for base in each.__mro__)
            missing = [f.name for f in fields(each) if f" {f.name}: " not in described]
            assert not missing, name
