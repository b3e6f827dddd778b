//! Which versions of a table changed its columns, from its own log: what other writers did is there as well. The log forgets, in time;
//! what our commits did is in the checkpoint too (`Checkpoint::schemas`).

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use serde::Deserialize;
use serde_json::Value;
use smelt_engine::error::Result;

use super::checkpoint::fetch;
use super::schema::from_json;
use super::{FormatKind, delta_log, parquet};
use crate::stores::Location;

/// A version whose schema is not that of the version before it, or the oldest that the log still has.
#[derive(Debug, Clone)]
pub struct LoggedSchema {
    pub version: u64,
    /// Milliseconds since the epoch, where the log says.
    pub at: Option<i64>,
    /// `None`: another tool's commit.
    pub batch: Option<String>,
    pub schema: SchemaRef,
}

/// The versions that changed the columns, the oldest first. Versions whose schema we cannot read are left out.
pub async fn schema_log(kind: FormatKind, table: &Location) -> Result<Vec<LoggedSchema>> {
    let folder = match kind {
        FormatKind::Delta => delta_log::FOLDER,
        FormatKind::Parquet => parquet::VERSIONS,
    };
    let mut names: Vec<String> = table
        .store
        .list(Some(&table.path(folder)?))
        .try_filter_map(|object| async move {
            let name =
                object.location.filename().filter(|n| n.strip_suffix(".json").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())));
            Ok(name.map(|name| format!("{folder}/{name}")))
        })
        .try_collect()
        .await?;
    names.sort_unstable();
    let mut bodies = futures::stream::iter(names)
        .map(|name| async move { Ok::<_, smelt_engine::Error>((version(&name), fetch(table, &name).await?)) })
        .buffered(16);
    let mut log: Vec<LoggedSchema> = vec![];
    // one that went away in the meantime is one that the log has forgotten
    while let Some((version, body)) = bodies.try_next().await? {
        let found = body.and_then(|body| match kind {
            FormatKind::Delta => of_commit(version, &body),
            FormatKind::Parquet => of_manifest(version, &body),
        });
        if let Some(found) = found.filter(|f| log.last().is_none_or(|l| l.schema != f.schema)) {
            log.push(found);
        }
    }
    Ok(log)
}

fn version(name: &str) -> u64 {
    name.rsplit('/').next().and_then(|n| n.strip_suffix(".json")).and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// The `metaData` and `commitInfo` actions of a Delta commit; lines of files are not parsed.
fn of_commit(version: u64, body: &Bytes) -> Option<LoggedSchema> {
    let mut schema = None;
    let (mut at, mut batch) = (None, None);
    for line in body.split(|b| *b == b'\n') {
        if line.starts_with(b"{\"add\"") || line.starts_with(b"{\"remove\"") || line.is_empty() {
            continue;
        }
        let Ok(action) = serde_json::from_slice::<Value>(line) else { continue };
        if let Some(text) = action["metaData"]["schemaString"].as_str() {
            schema = serde_json::from_str::<Value>(text).ok().and_then(|json| from_json(&json).ok());
        }
        let info = &action["commitInfo"];
        at = info["timestamp"].as_i64().or(at);
        batch = info["smelt.batch"].as_str().map(str::to_owned).or(batch);
    }
    schema.map(|schema| LoggedSchema { version, at, batch, schema })
}

fn of_manifest(version: u64, body: &Bytes) -> Option<LoggedSchema> {
    #[derive(Deserialize)]
    struct Part {
        batch: String,
        timestamp: i64,
        schema: Value,
    }
    let part: Part = serde_json::from_slice(body).ok()?;
    let schema = from_json(&part.schema).ok()?;
    Some(LoggedSchema { version, at: Some(part.timestamp), batch: Some(part.batch), schema })
}
