#!/usr/bin/env python3
"""Compaction of many small files, Smelt against delta-rs, whole processes in turn: see docs/benchmarks.md.

usage: run.py [--rounds N] [--files N] [--rows-per-file N] [--smelt PATH] [--memory SIZE]

Prints a Markdown table of medians. Ends with 1 where an engine failed, or changed what the table holds.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.dont_write_bytecode = True
from processes import HEADS, Failed, cache_folder, cells, copy, machine, measure, medians, python, run, smelt_binary, table  # noqa: E402

ENGINES = {"smelt": "smelt optimize", "delta_rs": "delta-rs optimize.compact"}
TARGET = 128 << 20


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--files", type=int, default=2000)
    p.add_argument("--rows-per-file", type=int, default=2000)
    p.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    p.add_argument("--smelt", help="the binary; target/release/smelt when absent")
    p.add_argument("--memory", default="512MB", help="Smelt's memory; '' for its default")
    p.add_argument("--work", type=Path, default=cache_folder("bench-compaction"), help="where tables and logs are kept")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    try:
        good = compare(a, a.work.resolve())
    except Failed as e:
        sys.exit(f"error: {e}")
    sys.exit(0 if good else 1)


def compare(a, work):
    py = python(HERE.parent / "requirements.txt")
    smelt = smelt_binary(a.smelt) if "smelt" in a.engines else None
    lake, template = work / "lake", work / f"template-{a.files}-{a.rows_per_file}"
    if not (template / "made").is_file():
        shutil.rmtree(template, ignore_errors=True)
        run([py, HERE / "gen.py", template, "--files", a.files, "--rows-per-file", a.rows_per_file], work / "gen.log")
        (template / "made").touch()
    (work / "source").mkdir(exist_ok=True)
    environment = os.environ | {"LAKE": str(lake), "SOURCE": str(work / "source")}
    environment |= {"SMELT_MEMORY": a.memory} if a.memory else {}
    check = lambda lake: json.loads(measure([py, HERE / "check.py", lake / "silver" / "events"], work / "check").output)
    before = check(template)
    commands = {
        "smelt": [smelt, "optimize", HERE, "silver.events"],
        "delta_rs": [py, HERE / "peers" / "delta_rs.py", lake / "silver" / "events", TARGET],
    }
    results, after, good = {}, {}, True
    for number in range(a.rounds):
        turn = number % len(a.engines)
        for engine in a.engines[turn:] + a.engines[:turn]:
            print(f"round {number + 1}: {ENGINES[engine]}", file=sys.stderr, flush=True)
            copy(template, lake)
            results.setdefault(engine, []).append(measure(commands[engine], work / f"log-{engine}", environment))
            if number == 0:
                after[engine] = check(lake)
    print(f"{before['files']:,} files, {before['rows']:,} rows, {before['bytes'] / 1e6:,.0f} MB, target 128 MB, medians of {a.rounds}; {machine()}\n")
    rows = []
    for engine in a.engines:
        now = after[engine]
        same = all(now[k] == before[k] for k in ("rows", "hash"))
        good &= same and now["files"] < before["files"]
        verdict = "the same rows" if same else f"WRONG: {now['rows']:,} rows"
        rows.append([ENGINES[engine], *cells(medians(results[engine])), f"{now['files']:,} of {now['bytes'] / 1e6:,.0f} MB", verdict])
    print(table(["engine", *HEADS, "files after", "result"], rows))
    return good


if __name__ == "__main__":
    main()
