"""Reads a Delta table with deltalake, Polars and DuckDB and a query's rows for each. usage: readers.py TABLE COLUMN[,COLUMN...] [VERSION...]
Prints one JSON object: for each reader the rows as sorted lists of strings. With versions: for each version the rows that deltalake
reads when it travels there."""
import datetime, decimal, json, os, sys

import deltalake
import duckdb
import polars

table, columns, versions = sys.argv[1], sys.argv[2].split(","), [int(v) for v in sys.argv[3:]]
delta = deltalake.DeltaTable(table)


def text(value):
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.datetime):
        if value.tzinfo:
            value = value.astimezone(datetime.timezone.utc)
        return value.strftime("%Y-%m-%dT%H:%M:%S.%f")
    if isinstance(value, float):
        return repr(round(value, 6))
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return str(value)


def done(answer):
    print(json.dumps(answer), flush=True)
    # without the interpreter's farewell: threads of pyarrow that are still about abort the process in it
    os._exit(0)


def rows(records):
    return sorted([text(v) for v in record] for record in records)


if versions:
    travelled = {}
    for version in versions:
        arrow = deltalake.DeltaTable(table, version=version).to_pyarrow_table(columns=columns)
        travelled[version] = rows(zip(*[arrow.column(c).to_pylist() for c in columns]))
    done(travelled)

out = {}
arrow = delta.to_pyarrow_table(columns=columns)
out["deltalake"] = rows(zip(*[arrow.column(c).to_pylist() for c in columns])) if columns else []
frame = polars.read_delta(table).select(columns)
out["polars"] = rows(frame.iter_rows())
con = duckdb.connect()
con.execute("set timezone='UTC'")
files = [u.removeprefix("file://") for u in delta.file_uris()]
names = ", ".join(f'"{c}"' for c in columns)
out["duckdb"] = rows(con.execute(f"select {names} from read_parquet(?, hive_partitioning=true, union_by_name=true)", [files]).fetchall())
done(out)
