//! The peer jobs as whole processes: `cargo bench -p smelt-benches --bench jobs -- [ROWS] [ROUNDS]` (3,000,000 rows and 5 rounds when absent).
//!
//! Prints the median wall time and peak memory of each job. It reports; it asserts nothing about time.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// With this set the process is `smelt` itself, so that no other binary has to be found.
const AS_SMELT: &str = "SMELT_BENCH_CHILD";

fn main() -> ExitCode {
    if std::env::var_os(AS_SMELT).is_some() {
        return smelt::cli::main();
    }
    match compare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> std::io::Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse::<u64>().ok());
    let rows = numbers.next().unwrap_or(3_000_000);
    let rounds = numbers.next().unwrap_or(5).max(1);
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    smelt_benches::customers(&data, rows, 7)?;
    smelt_benches::clicks(&data, rows, 7)?;
    println!("{rows} rows, {rounds} rounds, whole processes");
    for job in ["customers", "clicks"] {
        let mut runs: Vec<(f64, f64)> = vec![];
        for round in 0..rounds {
            let lake = folder.path().join(format!("lake-{job}-{round}"));
            runs.push(run(job, &data, &lake)?);
            std::fs::remove_dir_all(&lake)?;
        }
        let median = |f: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(f).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!("{job:<12} {:6.2} s  {:6.0} MB peak", median(|r| r.0), median(|r| r.1));
    }
    Ok(())
}

fn run(job: &str, data: &Path, lake: &Path) -> std::io::Result<(f64, f64)> {
    let report = lake.with_extension("json");
    let started = Instant::now();
    let status = Command::new(std::env::current_exe()?)
        .arg("run")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs").join(job))
        .args(["--progress", "never", "--report"])
        .arg(&report)
        .env(AS_SMELT, "1")
        .env("DATA", data)
        .env("LAKE", lake)
        .stdout(Stdio::null())
        .status()?;
    let wall = started.elapsed().as_secs_f64();
    if !status.success() {
        return Err(std::io::Error::other(format!("{job} failed with {status}")));
    }
    let text = std::fs::read_to_string(report)?;
    let peak = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("\"peak_memory_bytes\": ")?.trim_end_matches(',').parse::<f64>().ok())
        .unwrap_or(0.0);
    Ok((wall, peak / 1e6))
}
