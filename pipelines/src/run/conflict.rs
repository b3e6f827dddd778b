//! What a load does when another writer published first: it waits a moment and plans anew on the new version, a few times.

use std::time::Duration;

use smelt_engine::Error;
use smelt_engine::table::{BatchId, TableName};

/// How often a load is planned before it gives up. A conflict means that somebody got through, so that as many writers as this
/// all get through, if each of them publishes once.
pub const ATTEMPTS: u32 = 8;

/// The first pause, before the second attempt; it doubles, up to a hundred times as long.
const PAUSE: Duration = Duration::from_millis(50);

/// Who was first.
#[derive(Debug, Clone)]
pub struct Conflict {
    pub version: u64,
    /// `None`: a writer that names no batch.
    pub batch: Option<BatchId>,
}

/// How long to wait after attempt `attempt` (from 1): half to one and a half of the pause, so that two writers do not stay in step.
pub fn pause(attempt: u32) -> Duration {
    let whole = PAUSE * 2_u32.saturating_pow(attempt.saturating_sub(1)).min(100);
    let share = (uuid::Uuid::new_v4().as_u128() % 1000) as u32;
    whole / 2 + whole * share / 1000
}

/// The end of a load that was never first. `last`: who was, the last time.
pub fn gave_up(batch: &BatchId, table: &TableName, last: &Conflict, times: u32) -> Error {
    let who = match &last.batch {
        Some(other) => format!("batch {other} was"),
        None => format!("the writer of version {} was", last.version),
    };
    Error::retry(
        format!("batch {batch} could not be published to {table}: other writers were first {times} times, and the last time {who}"),
        "run again: it builds on the new version",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        for (attempt, pause_millis) in [(1, 50), (2, 100), (7, 3200), (8, 5000), (40, 5000)] {
            for _ in 0..50 {
                let millis = pause(attempt).as_millis();
                assert!((pause_millis / 2..pause_millis * 3 / 2).contains(&millis), "{attempt}: {millis}");
            }
        }
        let some: std::collections::BTreeSet<_> = (0..20).map(|_| pause(5)).collect();
        assert!(some.len() > 1);
    }

    #[test]
    fn both_batches_are_named() {
        let table = TableName { layer: "silver".into(), name: "orders".into() };
        let of = |batch: Option<&str>| {
            let last = Conflict { version: 7, batch: batch.map(|b| BatchId(b.into())) };
            gave_up(&BatchId("a".into()), &table, &last, 8).to_string()
        };
        let text = of(Some("b"));
        assert!(text.contains("batch a could not be published to silver.orders") && text.contains("batch b was"), "{text}");
        assert!(of(None).contains("the writer of version 7 was"), "{}", of(None));
    }
}
