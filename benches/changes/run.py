#!/usr/bin/env python3
"""Changes to tables, Smelt against its peers, whole processes in turn: see docs/benchmarks.md.

usage: run.py [--only SCENARIO…] [--engines ENGINE…] [--rounds N] [--rows N] [--smelt PATH] [--memory SIZE] [--spark] [--growth]

Prints Markdown tables of medians. Ends with 1 where Smelt's result is not what it should be, or an engine failed.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.dont_write_bytecode = True
from processes import HEADS, Failed, cache_folder, cells, copy, machine, measure, medians, python, run, smelt_binary, table  # noqa: E402


class Scenario(NamedTuple):
    pipeline: str
    mode: str
    layout: str  # of gen.py: parts | ranges
    changes: str  # of gen.py: all | few
    what: str


SCENARIOS = {
    "merge": Scenario("merge", "merge", "parts", "all", "changed keys in every file"),
    "merge_few": Scenario("merge", "merge", "parts", "few", "changed keys in few files, which only the keys in them tell"),
    "merge_clustered": Scenario("merge_clustered", "merge", "ranges", "few", "changed keys in few files, which the ranges of their ids tell"),
    "scd2": Scenario("scd2", "scd2", "parts", "all", "changed keys in every file"),
    "scd2_few": Scenario("scd2", "scd2", "parts", "few", "changed keys in few files, which only the keys in them tell"),
    "scd2_clustered": Scenario("scd2_clustered", "scd2", "ranges", "few", "changed keys in few files, which the ranges of their ids tell"),
}
ENGINES = {
    "smelt": "Smelt",
    "delta_rs": "delta-rs MERGE",
    "delta_rs_pruned": "delta-rs MERGE, early filter",
    "duckdb": "DuckDB, rewrites all",
    "spark": "Spark 4.0 with Delta",
}


class Bench:
    def __init__(self, a, work, data):
        self.a, self.work, self.data = a, work, data
        self.smelt = smelt_binary(a.smelt) if "smelt" in a.engines else None
        self.python = python(HERE.parent / "requirements.txt")
        self.spark = python(HERE.parent / "requirements-spark.txt", "--no-deps") if "spark" in a.engines else None
        self.table = work / "round"
        self.templates = {}

    def prepare(self, rows, files, few, changes):
        """Makes the data, unless it lies there from an earlier call."""
        a = self.a
        options = ["--rows", rows, "--files", files, "--few", few, "--changes", changes, "--late", a.late, "--seed", a.seed]
        mark = json.dumps([str(o) for o in options] + [(HERE / "gen.py").read_text()])
        marker = self.data / "prepared.json"
        if not (marker.is_file() and marker.read_text() == mark):
            say(f"making {rows:,} rows in {files} files")
            shutil.rmtree(self.data, ignore_errors=True)
            self.data.mkdir(parents=True)
            run([self.python, HERE / "gen.py", self.data, *options], self.work / "gen.log")
            marker.write_text(mark)

    def environment(self, s, lake):
        return os.environ | {"SOURCE": str(self.source(s)), "LAKE": str(lake)}

    def source(self, s):
        return self.work / f"source-{s.mode}-{s.layout}"

    def smelt_run(self, s, memory=True):
        limit = ["--memory", self.a.memory] if memory and self.a.memory else []
        return [self.smelt, "run", HERE / s.pipeline, "--progress", "never", *limit]

    def template(self, s):
        """Smelt's own table before the changes, loaded once a call: in one run by partitions, in a run a file where files hold ranges."""
        lake = self.work / f"template-{s.mode}-{s.layout}"
        if (s.mode, s.layout) in self.templates:
            return lake
        say(f"loading Smelt's {s.mode} table, {s.layout}")
        source = self.source(s)
        for folder in (lake, source):
            shutil.rmtree(folder, ignore_errors=True)
        source.mkdir(parents=True)
        initial = sorted((self.data / s.layout / "initial").iterdir())
        for batch in [initial] if s.layout == "parts" else [[file] for file in initial]:
            for file in batch:
                os.link(file, source / file.name)  # the same file to Smelt, whichever lake looks at it
            run(self.smelt_run(s, memory=False), self.work / "template.log", self.environment(s, lake))
        made = self.check("delta", s.mode, lake / "silver" / "customers")
        if made["files"] != len(initial):
            say(f"note: Smelt's table has {made['files']} files where the peers' have {len(initial)}")
        self.templates[s.mode, s.layout] = made["files"]
        return lake

    def check(self, *arguments):
        return json.loads(measure([self.python, HERE / "check.py", *arguments], self.work / "check").output)

    def expected(self, s):
        kept = self.data / f"expected-{s.mode}-{s.layout}-{s.changes}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(self.check("expect", s.mode, self.data / s.layout / "initial", self.changes(s))))
        return json.loads(kept.read_text())

    def changes(self, s):
        return self.data / s.layout / f"{s.changes}.parquet"

    def round(self, s, engine):
        """Restores the table, not measured, and measures one engine."""
        log = self.work / f"log-{engine}"
        if engine == "smelt":
            copy(self.template(s), self.table)
            for old in self.source(s).glob("changes-*.parquet"):
                old.unlink()
            os.link(self.changes(s), self.source(s) / f"changes-{s.changes}.parquet")
            return measure(self.smelt_run(s), log, self.environment(s, self.table))
        copy(self.data / s.layout / "delta" / s.mode, self.table)
        if engine == "duckdb":
            out = self.work / "rewritten"
            shutil.rmtree(out, ignore_errors=True)
            return measure([self.python, HERE / "peers" / "duckdb_rewrite.py", s.mode, self.table, self.changes(s), out], log)
        if engine == "spark":
            return measure([self.spark, HERE / "peers" / "spark.py", s.mode, self.table, self.changes(s)], log)
        pruned = ["--pruned"] if engine == "delta_rs_pruned" else []
        return measure([self.python, HERE / "peers" / "delta_rs.py", s.mode, self.table, self.changes(s), *pruned], log)

    def verdict(self, s, engine):
        """Whether the table that the round left is right, in words, and whether that is good enough."""
        if engine == "duckdb":
            held = self.check("parquet", s.mode, self.work / "rewritten")
        else:
            held = self.check("delta", s.mode, self.table / "silver" / "customers" if engine == "smelt" else self.table)
        wanted = self.expected(s)
        if held["current"] != wanted["current"]:
            return f"WRONG: {held['current'][0]:,} current rows, {wanted['current'][0]:,} expected", False
        if s.mode == "merge":
            return "right", True
        if held["history"] == wanted["history"]:
            return "right, with late rows", True
        missing = wanted["history"][0] - held["history"][0]
        if engine in ("delta_rs", "delta_rs_pruned", "spark"):
            return f"current rows right; {missing:,} late versions left out", True
        return f"WRONG history: {held['history'][0]:,} versions, {wanted['history'][0]:,} expected", False

    def scenario(self, name, rounds):
        """Medians and verdicts by engine."""
        s, results, verdicts = SCENARIOS[name], {}, {}
        for number in range(rounds):
            turn = number % len(self.a.engines)
            for engine in self.a.engines[turn:] + self.a.engines[:turn]:
                if engine in verdicts and not verdicts[engine][1]:
                    continue
                say(f"{name}, round {number + 1}: {ENGINES[engine]}")
                try:
                    results.setdefault(engine, []).append(self.round(s, engine))
                    if number == 0:
                        verdicts[engine] = self.verdict(s, engine)
                except Failed as e:
                    say(str(e))
                    verdicts[engine] = ("FAILED", False)
        return {e: (medians(results[e]) if results.get(e) else None, *verdicts[e]) for e in self.a.engines}


def say(text):
    print(text, file=sys.stderr, flush=True)


def comparison(a, work):
    bench = Bench(a, work, work / f"data-{a.rows}")
    bench.prepare(a.rows, a.files, a.few, a.changes)
    good, kept = True, {}
    print(f"{a.rows:,} rows, {a.files} files, changes {a.changes:g}, {a.late:.0%} of them late, medians of {a.rounds}; {machine()}\n")
    for name in a.only or SCENARIOS:
        results = bench.scenario(name, a.rounds)
        rows = []
        for engine, (m, verdict, fine) in results.items():
            good &= fine
            rows.append([ENGINES[engine], *cells(m), verdict])
            kept.setdefault(name, {})[engine] = {**(m._asdict() if m else {}), "result": verdict}
        print(f"`{name}`: {SCENARIOS[name].what}\n")
        print(table(["engine", *HEADS, "result"], rows) + "\n", flush=True)
    return good, kept


def growth(a, work):
    """Wall time by size of the table, where the touched files and changed keys stay the same."""
    good, kept, rows = True, {}, []
    per_file, few, keys = a.rows_per_file, 4, 10_000
    for size in a.sizes:
        bench = Bench(a, work, work / f"growth-{size}")
        bench.prepare(size, max(few, size // per_file), few, keys)
        for name in a.only or ["merge_clustered", "merge_few", "scd2_clustered", "scd2_few"]:
            results = bench.scenario(name, a.rounds)
            good &= all(fine for _, _, fine in results.values())
            kept.setdefault(name, {})[size] = {e: {**(m._asdict() if m else {}), "result": v} for e, (m, v, _) in results.items()}
    print(f"{keys:,} changed keys in {few} files of {per_file:,} rows, wall time and peak memory, medians of {a.rounds}; {machine()}\n")
    for name, by_size in kept.items():
        for engine in a.engines:
            sizes = [by_size[size][engine] for size in a.sizes]
            rows.append([f"`{name}`", ENGINES[engine], *(f"{m['wall']:.2f} s, {m['peak']:,.0f} MB" if "wall" in m else "FAILED" for m in sizes)])
    print(table(["scenario", "engine", *(f"{size:,} rows" for size in a.sizes)], rows))
    return good, kept


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all when absent")
    p.add_argument("--engines", nargs="+", choices=ENGINES, metavar="ENGINE", help=f"of {', '.join(ENGINES)}; all but spark when absent")
    p.add_argument("--spark", action="store_true", help="Spark too")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--rows", type=int, default=10_000_000)
    p.add_argument("--files", type=int, default=16)
    p.add_argument("--few", type=int, default=1, help="files that hold the keys of the scenarios *_few and *_clustered")
    p.add_argument("--changes", type=float, default=0.01, help="share of the keys, or their number")
    p.add_argument("--late", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--smelt", help="the binary; target/release/smelt when absent")
    p.add_argument("--memory", default="512MB", help="Smelt's --memory; '' for its default")
    p.add_argument("--work", type=Path, default=cache_folder("bench-changes"), help="where data, tables and logs are kept")
    p.add_argument("--growth", action="store_true", help="tables of growing size at a fixed number of touched files")
    p.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000], help="with --growth")
    p.add_argument("--rows-per-file", type=int, default=62_500, help="with --growth")
    p.add_argument("--json", type=Path, help="also write the medians here")
    a = p.parse_args()
    a.engines = a.engines or [e for e in ENGINES if e != "spark" and not (a.growth and e == "duckdb")]
    if a.spark and "spark" not in a.engines:
        a.engines.append("spark")
    a.work.mkdir(parents=True, exist_ok=True)
    try:
        good, kept = (growth if a.growth else comparison)(a, a.work.resolve())
    except Failed as e:
        sys.exit(f"error: {e}")
    if a.json:
        a.json.write_text(json.dumps(kept, indent=2) + "\n")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
