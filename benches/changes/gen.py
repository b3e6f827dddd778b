"""Makes a customer dimension and the changes to it, for Smelt as Parquet files and for the peers as Delta tables of the same rows.

usage: gen.py OUT [--rows N] [--files N] [--changes SHARE|COUNT] [--late SHARE] [--few N] [--seed N] [--only parts|ranges]

Two layouts of one dimension, each of `files` files:
  parts    partitioned by part = customer_id % files, so that every file holds ids over the whole range
  ranges   not partitioned; the files hold ranges of ids that do not overlap
Two change files for each, one row per changed key, 90 % updates, 5 % inserts, 5 % deletes (`op` I, U, D), in no order:
  all      keys over all files
  few      keys of `few` files only; their ids say nothing of that to an engine in `parts`, and everything in `ranges`
`late` of the updates and deletes are older than the row that they would change.

  OUT/LAYOUT/initial/NN.parquet      what Smelt loads first, `op` is I in every row
  OUT/LAYOUT/{all,few}.parquet       the changes
  OUT/LAYOUT/delta/{merge,scd2}      what the peers start from; scd2 has valid_from, valid_to, is_current in addition

A row is a function of its id and the seed, and a file is made at a time: memory does not grow with the number of rows.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, WriterProperties, write_deltalake

FIRST = pa.array("Ana Bruno Carla Diego Elena Fábio Gabriela Hugo Inês João Karla Luís Marta Nuno Olga Pedro Rita Sílvia Tiago Vera".split())
LAST = pa.array("Silva Santos Oliveira Souza Lima Pereira Ferreira Almeida Costa Gomes O'Neil Araújo".split())
SEGMENTS = pa.array(["consumer", "corporate", "public", "reseller", "partner"])
CITIES = pa.array([f"{a} {b}" for a in "Santa São Porto Campo Monte Vila Rio Nova Bela Alto".split() for b in "Alegre Belo Claro Grande Verde Novo Preto Largo Feliz Real".split()])
DAY = 86_400_000_000  # microseconds
EPOCH = int(np.datetime64("2026-01-06T00:00:00", "us").astype("int64"))
INITIAL, CHANGED, LATE = 0, 1, 2  # versions of a row


def pick(r, among, k):
    """`k` different numbers below `among`."""
    return r.choice(among, k, replace=False).astype(np.int64)


class Rows:
    """Rows by id and version."""

    def __init__(self, seed, files):
        self.seed, self.files = seed, files

    def mix(self, ids, salt):
        """SplitMix64 of ids, as uint64."""
        with np.errstate(over="ignore"):
            z = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64((self.seed * 1_000_003 + salt) % 2**64)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return z ^ (z >> np.uint64(31))

    def below(self, ids, salt, n):
        return (self.mix(ids, salt) % np.uint64(n)).astype(np.int64)

    def updated_at(self, ids, version):
        """Microseconds. Everything lies within 21 days, so that no engine may have forgotten what a late row needs."""
        first = EPOCH + self.below(ids, 1, 15 * 86_400) * 1_000_000
        changed = EPOCH + 16 * DAY + self.below(ids, 2, 86_400) * 1_000_000
        late = first - (60 + self.below(ids, 3, 4 * 86_400)) * 1_000_000
        return np.select([version == INITIAL, version == CHANGED], [first, changed], late)

    def table(self, ids, version):
        version = np.broadcast_to(np.asarray(version), ids.shape)
        other = ids + (version.astype(np.int64) << 40)  # city and segment change with the version
        first = FIRST.take(pa.array(self.below(ids, 4, len(FIRST))))
        text = pc.cast(pa.array(ids), pa.string())
        cents = (self.below(ids, 6, 10_000_000) + version.astype(np.int64) * 1_234_567) % 10_000_000
        return pa.table(
            {
                "customer_id": pa.array(ids),
                "name": pc.binary_join_element_wise(first, LAST.take(pa.array(self.below(ids, 5, len(LAST)))), " "),
                "city": CITIES.take(pa.array(self.below(other, 7, len(CITIES)))),
                "email": pc.binary_join_element_wise(pc.utf8_lower(first), ".", text, "@example.com", ""),
                "segment": SEGMENTS.take(pa.array(self.below(other, 8, len(SEGMENTS)))),
                "balance": decimals(cents),
                "updated_at": pa.array(self.updated_at(ids, version), pa.timestamp("us", tz="UTC")),
                "part": pa.array((ids % self.files).astype(np.int32)),
            }
        )


def decimals(cents):
    """decimal(12,2) of whole cents, none of them negative."""
    words = np.zeros((len(cents), 2), np.int64)
    words[:, 0] = cents
    return pa.Array.from_buffers(pa.decimal128(12, 2), len(cents), [None, pa.py_buffer(words)])


def changes(rows, n, count, late, existing, inserted, seed):
    """`existing(k)` gives k different ids of the table, `inserted(k)` k new ones."""
    r = np.random.default_rng(seed)
    inserts, deletes = round(count * 0.05), round(count * 0.05)
    old = existing(count - inserts, r)
    is_late = np.zeros(len(old), bool)
    is_late[r.permutation(len(old))[: round(len(old) * late)]] = True
    ids = np.concatenate([old, inserted(inserts)])
    version = np.concatenate([np.where(is_late, LATE, CHANGED), np.full(inserts, CHANGED)])
    op = np.full(count, "U")
    op[r.permutation(len(old))[:deletes]] = "D"
    op[len(old) :] = "I"
    order = r.permutation(count)
    return rows.table(ids[order], version[order]).append_column("op", pa.array(op[order]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--changes", type=float, default=0.01, help="share of the keys, or from 1 on their number")
    parser.add_argument("--late", type=float, default=0.1)
    parser.add_argument("--few", type=int, default=1, help="files that hold all keys of `few`")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["parts", "ranges"])
    a = parser.parse_args()
    n, files = a.rows - a.rows % a.files, a.files
    each = n // files
    count = round(a.changes if a.changes >= 1 else n * a.changes)
    if count > each * a.few:
        parser.error(f"{count} changed keys do not fit in {a.few} of {files} files of {each} rows: raise --few or lower --changes")
    rows = Rows(a.seed, files)
    layouts = {
        "parts": {
            "ids": lambda f: np.arange(each, dtype=np.int64) * files + f,
            # the last files here too, so that both layouts have their few keys where new ones come in
            "few": (
                lambda k, r: (lambda x: x // a.few * files + files - 1 - x % a.few)(pick(r, each * a.few, k)),
                lambda k: n + np.arange(k, dtype=np.int64) // a.few * files + files - 1 - np.arange(k, dtype=np.int64) % a.few,
            ),
        },
        "ranges": {
            "ids": lambda f: np.arange(f * each, (f + 1) * each, dtype=np.int64),
            "few": (lambda k, r: n - 1 - pick(r, each * a.few, k), lambda k: n + np.arange(k, dtype=np.int64)),
        },
    }
    everywhere = (lambda k, r: pick(r, n, k), lambda k: n + np.arange(k, dtype=np.int64))
    for name, layout in layouts.items():
        if a.only not in (None, name):
            continue
        folder = a.out / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "initial").mkdir(parents=True)
        for f in range(files):
            table = rows.table(layout["ids"](f), INITIAL)
            write(table.append_column("op", pa.repeat("I", len(table))), folder / "initial" / f"{f:03}.parquet")
            by = ["part"] if name == "parts" else None
            delta(folder / "delta" / "merge", table, by)
            history = table.append_column("valid_from", table["updated_at"])
            history = history.append_column("valid_to", pa.nulls(len(table), pa.timestamp("us", tz="UTC")))
            delta(folder / "delta" / "scd2", history.append_column("is_current", pa.repeat(True, len(table))), by)
        for mode in ["merge", "scd2"]:
            made = len(DeltaTable(folder / "delta" / mode).file_uris())
            if made != files:
                raise SystemExit(f"error: delta-rs made {made} data files of {mode} instead of {files}")
        write(changes(rows, n, count, a.late, *everywhere, a.seed), folder / "all.parquet")
        write(changes(rows, n, count, a.late, *layout["few"], a.seed + 1), folder / "few.parquet")
        print(json.dumps({"layout": name, "rows": n, "files": files, "changed_keys": count, "few": a.few}))


def write(table, path):
    pq.write_table(table, path, compression="zstd", compression_level=3)


def delta(path, table, partition_by):
    """One file a call. Zstd 3, as Smelt writes."""
    properties = WriterProperties(compression="ZSTD", compression_level=3)
    write_deltalake(path, table, mode="append", partition_by=partition_by, target_file_size=1 << 31, writer_properties=properties)


if __name__ == "__main__":
    main()
