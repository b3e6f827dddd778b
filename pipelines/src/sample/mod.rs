//! Sample input: makes raw files of a known shape at any size, so that a pipeline can be tried, tested and measured without
//! anyone's data. All names, texts and addresses are invented; e-mail addresses lie in the domains reserved for examples.
//!
//! This room must not know pipelines, tables or the terminal: it writes files and says what it wrote. The same options give
//! the same bytes on every platform, whatever the number of threads: all choices are made with integers, and each chunk of
//! work draws from a generator of its own.

pub mod clickstream;
mod dice;
pub mod olist;
mod text;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

pub use clickstream::{ClickstreamOptions, clickstream};
pub use olist::{OlistOptions, olist};

/// What a sample holds, exactly. Bad rows are additional rows, so that a pipeline that sends them to quarantine and removes
/// the duplicates is left with what a sample without them would have given.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Name, records (bad ones and duplicates included, header not) and bytes of each file, in the order of writing.
    pub files: Vec<(String, u64, u64)>,
    /// Planted bad rows: file, kind (`ragged_line`, `no_such_day`, ...), number. Kinds without rows are left out.
    pub planted: BTreeMap<String, BTreeMap<String, u64>>,
    /// Planted duplicates: file, kind (`exact`, `older_version`), number.
    pub duplicates: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Summary {
    /// Records of all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|(_, rows, _)| rows).sum()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, _, bytes)| bytes).sum()
    }

    /// Bad rows planted in `file`, of all kinds.
    pub fn bad(&self, file: &str) -> u64 {
        self.planted.get(file).map_or(0, |kinds| kinds.values().sum())
    }

    /// Duplicates planted in `file`, of all kinds.
    pub fn repeated(&self, file: &str) -> u64 {
        self.duplicates.get(file).map_or(0, |kinds| kinds.values().sum())
    }

    fn count(map: &mut BTreeMap<String, BTreeMap<String, u64>>, file: &str, kind: &str, rows: u64) {
        if rows > 0 {
            *map.entry(file.to_owned()).or_default().entry(kind.to_owned()).or_default() += rows;
        }
    }
}

/// Fills a hidden folder beside `out` and then renames it to `out`, so that a sample that was cut off is never taken for a
/// whole one. An existing `out` is replaced where it holds nothing but files that `ours` knows.
fn publish<T>(out: &Path, ours: &dyn Fn(&str) -> bool, write: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let out = std::path::absolute(out)?;
    let (Some(parent), Some(name)) = (out.parent(), out.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a folder that a sample can be", out.display())));
    };
    let exists = replaceable(&out, ours)?;
    fs::create_dir_all(parent)?;
    let hidden = |what: &str| parent.join(format!(".{}.{what}-{}", name.to_string_lossy(), uuid::Uuid::new_v4().simple()));
    let partial = Discard(hidden("partial"));
    fs::create_dir(&partial.0)?;
    let value = write(&partial.0)?;
    if exists {
        let old = Discard(hidden("old"));
        fs::rename(&out, &old.0)?;
        if let Err(e) = fs::rename(&partial.0, &out) {
            fs::rename(&old.0, &out)?;
            return Err(e);
        }
    } else {
        fs::rename(&partial.0, &out)?;
    }
    Ok(value)
}

/// Whether there is something at `out` to replace; an error where that would lose what is not ours.
fn replaceable(out: &Path, ours: &dyn Fn(&str) -> bool) -> io::Result<bool> {
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", out.display()))),
    };
    for entry in entries {
        let name = entry?.file_name();
        if !name.to_str().is_some_and(ours) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} holds {}, which is no sample file; choose another folder", out.display(), name.to_string_lossy()),
            ));
        }
    }
    Ok(true)
}

/// Removes the folder, if it is still there, when dropped.
struct Discard(PathBuf);

impl Drop for Discard {
    fn drop(&mut self) {
        // What cannot be removed is hidden, and the error that matters is the one already under way.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes jobs `0..jobs` on all cores and takes their results in order, holding no more than two a core.
fn in_order<T: Send>(jobs: u64, make: impl Fn(u64) -> T + Sync, mut take: impl FnMut(T) -> io::Result<()>) -> io::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get().min(8)) as u64;
    let workers = cores.min(jobs).max(1);
    std::thread::scope(|scope| {
        let results: Vec<mpsc::Receiver<T>> = (0..workers)
            .map(|worker| {
                let (sender, receiver) = mpsc::sync_channel(1);
                let make = &make;
                scope.spawn(move || {
                    for job in (worker..jobs).step_by(workers as usize) {
                        if sender.send(make(job)).is_err() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        for job in 0..jobs {
            let result = results[(job % workers) as usize].recv().map_err(|_| io::Error::other("a thread that makes sample rows died"))?;
            take(result)?;
        }
        Ok(())
    })
}

/// A share of rows as a number out of 10^9.
fn per_billion(what: &str, share: f64) -> io::Result<u64> {
    if !(0.0..=1.0).contains(&share) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{what} is a share of rows between 0 and 1 (0% and 100%), not {share}"),
        ));
    }
    Ok((share * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_fails_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("data");
        let failed = publish(&out, &|_| true, |folder| {
            fs::write(folder.join("a.csv"), "x")?;
            Err::<(), _>(io::Error::other("cut off"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_an_older_sample_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/data");
        let ours = |name: &str| name.ends_with(".csv");
        for text in ["one", "two"] {
            publish(&out, &ours, |folder| fs::write(folder.join("a.csv"), text)).unwrap();
        }
        assert_eq!(fs::read_to_string(out.join("a.csv")).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 1, "no folder aside is left");

        fs::write(out.join("thesis.doc"), "years of work").unwrap();
        let refused = publish(&out, &ours, |folder| fs::write(folder.join("a.csv"), "three")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(refused.to_string().contains("thesis.doc"), "{refused}");
        assert_eq!(fs::read_to_string(out.join("a.csv")).unwrap(), "two");
    }

    #[test]
    fn jobs_arrive_in_order_and_an_error_ends_them() {
        let mut seen = vec![];
        in_order(
            100,
            |job| job * 2,
            |result| {
                seen.push(result);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(seen, (0..100).map(|job| job * 2).collect::<Vec<_>>());
        let error = in_order(100, |job| job, |job| if job == 7 { Err(io::Error::other("full")) } else { Ok(()) }).unwrap_err();
        assert_eq!(error.to_string(), "full");
    }

    #[test]
    fn shares_are_checked() {
        assert_eq!(per_billion("bad", 0.001).unwrap(), 1_000_000);
        assert!(per_billion("bad", 1.5).unwrap_err().to_string().contains("bad is a share"));
        assert!(per_billion("bad", f64::NAN).is_err());
    }
}
