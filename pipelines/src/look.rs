//! What a run looks at in its sources: each is listed once per process, and of millions of files only those are held that some table
//! may have to take.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use smelt_connectors::formats::consumed;
use smelt_connectors::sources::{self, Dated, Listing, Window};
use smelt_engine::Result;
use smelt_engine::consumed::{Consumed, Seen};
use smelt_engine::table::{FileMark, Snapshot, TableName};

use crate::bound::{Bound, Input, Mode};
use crate::run::RunOptions;

/// Which files of a source are of interest.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub now: DateTime<Utc>,
    /// Also those that the tables have taken in.
    pub everything: bool,
    pub window: Window,
}

/// All files that are there.
impl From<DateTime<Utc>> for Look {
    fn from(now: DateTime<Utc>) -> Self {
        Look { now, everything: true, window: Window::default() }
    }
}

/// Those that a run has to do with.
impl From<&RunOptions> for Look {
    fn from(options: &RunOptions) -> Self {
        Look { now: options.now, everything: options.full_refresh, window: options.window }
    }
}

/// What was listed so far, and the versions of tables that were read to know what is new.
#[derive(Debug, Default)]
pub struct Listings {
    known: tokio::sync::Mutex<BTreeMap<String, Known>>,
    snapshots: Mutex<BTreeMap<TableName, Option<Snapshot>>>,
}

#[derive(Debug)]
struct Known {
    whole: bool,
    listing: Arc<Listing>,
}

impl Listings {
    /// The version of a table that a listing was made for, for its load; once.
    pub fn snapshot(&self, table: &TableName) -> Option<Option<Snapshot>> {
        self.snapshots.lock().remove(table)
    }
}

/// What decides whether a file may be new to any table of a source.
struct Filter {
    tables: Vec<Consumed>,
    window: Window,
    dated: Option<Dated>,
}

impl Filter {
    fn keeps(&self, path: &str, mark: &FileMark) -> Result<bool> {
        if !self.window.holds(self.dated.as_ref(), path, mark.modified) {
            return Ok(false);
        }
        for consumed in &self.tables {
            if consumed.seen(path, mark)? != Seen::Same {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Bound {
    /// The files of a source that some table may have to take, or all of them. Listed on the first call, so that all stages of one
    /// process see the same files.
    pub async fn listing(&self, source: &str, look: impl Into<Look>) -> Result<Arc<Listing>> {
        let look = look.into();
        let mut known = self.listings.known.lock().await;
        if let Some(known) = known.get(source)
            && (known.whole || !look.everything)
        {
            return Ok(Arc::clone(&known.listing));
        }
        let filter = if look.everything { None } else { self.filter(source, look.window).await? };
        let spec = self.source(source)?;
        let (listing, whole) = match &filter {
            None => (sources::list(spec, self, look.now).await?, true),
            Some(filter) => {
                let keep = |path: &str, mark: &FileMark| filter.keeps(path, mark);
                (sources::list_some(spec, self, look.now, look.window.since, &keep).await?, false)
            }
        };
        let listing = Arc::new(listing);
        known.insert(source.to_owned(), Known { whole, listing: Arc::clone(&listing) });
        Ok(listing)
    }

    /// `None` where a table needs all files.
    async fn filter(&self, source: &str, window: Window) -> Result<Option<Filter>> {
        let spec = self.source(source)?;
        let prefixes = sources::prefixes(spec, self)?;
        let readers = || self.tables.iter().filter(|t| matches!(&t.input, Input::Source(s) if s == source));
        if readers().any(|t| t.mode == Mode::Replace) {
            return Ok(None);
        }
        let mut tables = vec![];
        for table in readers() {
            // a table that cannot be read says so when it is loaded
            let Ok(snapshot) = table.format.snapshot().await else { return Ok(None) };
            let files = snapshot.as_ref().map(|s| s.checkpoint.files.clone()).unwrap_or_default();
            if consumed::load(&table.location, &files, &prefixes).await.is_err() {
                return Ok(None);
            }
            tables.push(files);
            self.listings.snapshots.lock().insert(table.name.clone(), snapshot);
        }
        Ok(Some(Filter { tables, window, dated: spec.dated() }))
    }
}
