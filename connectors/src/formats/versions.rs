//! Which versions of a table can still be read, and which one was the newest at a time.

use std::collections::BTreeMap;

use chrono::DateTime;
use smelt_engine::error::{Complaint, Error, Result};
use smelt_engine::table::At;

/// The versions from `oldest` to `newest`, without a gap.
#[derive(Debug, Clone)]
pub(super) struct Versions {
    pub oldest: u64,
    pub newest: u64,
    /// When each was written, by the store's clock, in milliseconds since the epoch. Never falls from one version to the next: writers'
    /// replies may cross, and a later version is never older. May know of versions before `oldest`, which cannot be read any more.
    pub times: BTreeMap<u64, i64>,
}

impl Versions {
    /// `times` as the store has them.
    pub fn new(oldest: u64, newest: u64, mut times: BTreeMap<u64, i64>) -> Self {
        let mut latest = i64::MIN;
        for time in times.values_mut() {
            latest = latest.max(*time);
            *time = latest;
        }
        Versions { oldest, newest, times }
    }

    /// The version that `at` means, or which ones there are.
    pub fn find(&self, at: At, table: &str) -> Result<u64> {
        let there = match self.oldest {
            oldest if oldest == self.newest => format!("version {oldest} is the only one"),
            oldest => format!("there are versions {oldest} to {}", self.newest),
        };
        let refuse = |message: String| {
            let help = format!(
                "{there}, the oldest of {}; `smelt history` lists them",
                self.times.get(&self.oldest).map_or_else(|| "?".into(), |t| show(*t))
            );
            Err(Error::pipeline(Complaint::at(Vec::<String>::new(), message).help(help)))
        };
        match at {
            At::Version(version) if version > self.newest => refuse(format!("version {version} of {table} does not exist yet")),
            At::Version(version) if version < self.oldest => {
                refuse(format!("version {version} of {table} can no longer be read: its log was cleaned up"))
            }
            At::Version(version) => Ok(version),
            At::Timestamp(time) => match self.newest_at(time) {
                Some(version) => Ok(version),
                None if self.oldest == 0 => refuse(format!("{table} did not exist at {}", show(time))),
                None => refuse(format!("what {table} held at {} can no longer be read: its log was cleaned up", show(time))),
            },
        }
    }

    /// The oldest version that somebody may still read who opened the table at `time` or later.
    pub fn current_since(&self, time: i64) -> u64 {
        self.newest_at(time).unwrap_or(self.oldest)
    }

    fn newest_at(&self, time: i64) -> Option<u64> {
        self.times.range(self.oldest..=self.newest).rev().find(|(_, written)| **written <= time).map(|(version, _)| *version)
    }
}

/// There is no table to look back at.
pub(super) fn none(table: &str) -> Error {
    Error::data(format!("{table} does not exist yet"), "run the pipeline first")
}

fn show(time: i64) -> String {
    DateTime::from_timestamp_millis(time).map_or_else(|| time.to_string(), |t| t.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_by_number_and_by_time_or_those_there_are_are_named() {
        let v = Versions::new(3, 6, BTreeMap::from([(2, 1_000), (3, 2_000), (4, 5_000), (5, 4_000), (6, 7_000)]));
        assert_eq!(v.find(At::Version(3), "t").unwrap(), 3);
        let said = |at| v.find(at, "t").unwrap_err().to_string();
        assert!(said(At::Version(7)).contains("does not exist yet") && said(At::Version(7)).contains("versions 3 to 6"));
        assert!(said(At::Version(2)).contains("no longer"));
        assert!(said(At::Timestamp(1_500)).contains("no longer") && said(At::Timestamp(1_500)).contains("1970-01-01T00:00:01Z"));
        let at = |time| v.find(At::Timestamp(time), "t").unwrap();
        assert_eq!([at(2_000), at(4_999), at(5_000), at(9_000)], [3, 3, 5, 6], "times never fall");
        assert_eq!((v.current_since(6_000), v.current_since(0)), (5, 3));
        let first = Versions::new(0, 0, BTreeMap::from([(0, 10)]));
        assert!(first.find(At::Timestamp(9), "t").unwrap_err().to_string().contains("did not exist"));
    }
}
