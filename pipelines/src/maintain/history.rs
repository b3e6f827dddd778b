//! `smelt history`: the versions of a table, the newest first.

use chrono::DateTime;
use smelt_engine::table::VersionInfo;

use super::args::{HistoryArgs, HistoryFormat};
use super::{columns, one, open};
use crate::cli::LogFormat;
use crate::console::Console;
use crate::units;

/// The command.
pub fn main(args: &HistoryArgs, log: LogFormat) -> u8 {
    let console = Console::new(log);
    let done = console.block_on(2, async {
        let bound = open(&args.pipeline, &console).await?;
        let table = one(&bound, &args.table).map_err(|e| console.error(&e))?;
        table.format.history(args.limit).await.map_err(|e| console.error(&e))
    });
    match done {
        Ok(versions) => {
            match args.format {
                HistoryFormat::Table => print!("{}", text(&versions)),
                HistoryFormat::Json => {
                    for line in versions.iter().filter_map(|v| serde_json::to_string(v).ok()) {
                        println!("{line}");
                    }
                }
            }
            0
        }
        Err(code) => code,
    }
}

fn text(versions: &[VersionInfo]) -> String {
    if versions.is_empty() {
        return "There is no version yet; run the pipeline first.\n".to_owned();
    }
    let rows: Vec<Vec<String>> = versions
        .iter()
        .map(|v| {
            vec![
                v.version.to_string(),
                DateTime::from_timestamp_millis(v.timestamp).map_or_else(String::new, |t| t.format("%Y-%m-%d %H:%M:%S").to_string()),
                v.operation.clone(),
                units::count(v.files_added),
                units::count(v.files_removed),
                v.rows_added.map_or_else(|| "?".into(), units::count),
                units::bytes(v.bytes_added),
                v.batch.as_ref().map_or_else(String::new, |b| b.0.clone()),
                v.engine.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let header = ["version", "time (UTC)", "operation", "files +", "files -", "rows +", "bytes +", "batch", "engine"];
    columns(&header, &rows, &[1, 2, 7, 8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use smelt_engine::table::BatchId;

    #[test]
    fn a_version_is_a_line() {
        let v = VersionInfo {
            version: 7,
            timestamp: 1_769_839_200_000,
            operation: "append".into(),
            batch: Some(BatchId("nightly".into())),
            engine: Some("smelt/0.1.0".into()),
            files_added: 2,
            files_removed: 0,
            rows_added: Some(1200),
            bytes_added: 2048,
            data_change: true,
        };
        let text = text(&[v]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("2026-01-31 06:00:00  append") && text.contains("1,200   2.0 KB"), "{text}");
    }
}
