//! What the loads of one run share: resources, the batch, the versions of tables, and sessions that see the lake.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableProvider};
use datafusion::prelude::SessionContext;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use smelt_connectors::sources::Window;
use smelt_engine::Result;
use smelt_engine::ledger::Ledger;
use smelt_engine::session::Resources;
use smelt_engine::table::{BatchId, Snapshot, TableFormat, TableName};

use crate::bound::{Bound, BoundTable};
use crate::look::Look;

/// Shared by all loads of one run.
#[derive(Debug)]
pub struct RunContext {
    pub bound: Arc<Bound>,
    pub resources: Resources,
    pub batch: BatchId,
    pub now: DateTime<Utc>,
    pub full_refresh: bool,
    /// Which input files are considered, by their dates.
    pub window: Window,
    pub dry_run: bool,
    snapshots: Mutex<BTreeMap<TableName, Option<Snapshot>>>,
}

impl RunContext {
    pub fn new(bound: Arc<Bound>, resources: Resources, batch: BatchId, now: DateTime<Utc>) -> Self {
        RunContext {
            bound,
            resources,
            batch,
            now,
            full_refresh: false,
            window: Window::default(),
            dry_run: false,
            snapshots: Mutex::default(),
        }
    }

    /// The version of a table that this run builds on and reads; loaded once, and anew after `forget`.
    pub async fn snapshot(&self, table: &BoundTable) -> Result<Option<Snapshot>> {
        if let Some(known) = self.snapshots.lock().get(&table.name) {
            return Ok(known.clone());
        }
        let snapshot = match self.bound.listings.snapshot(&table.name) {
            Some(listed) => listed,
            None => table.format.snapshot().await?,
        };
        self.snapshots.lock().insert(table.name.clone(), snapshot.clone());
        Ok(snapshot)
    }

    /// Which input files this run looks at.
    pub fn look(&self) -> Look {
        Look { now: self.now, everything: self.full_refresh, window: self.window }
    }

    /// A commit made the known version old.
    pub fn forget(&self, table: &TableName) {
        self.snapshots.lock().remove(table);
    }

    /// A session with its own ledger, our functions and the pipeline's keys.
    pub fn session(&self, ledger: Arc<Ledger>) -> SessionContext {
        let session = self.resources.session(ledger);
        smelt_engine::steps::mask::register(&session, &self.bound.keys);
        session
    }

    /// Makes the tables that `table` reads visible under their names, each at the version that this run sees.
    /// A table that does not exist yet is left out.
    pub async fn register_reads(&self, session: &SessionContext, table: &BoundTable) -> Result<BTreeMap<String, u64>> {
        let mut versions = BTreeMap::new();
        for upstream in self.bound.reads(&table.name) {
            if let Some(snapshot) = self.snapshot(upstream).await? {
                let provider = provider(upstream.format.as_ref(), &snapshot, &self.resources, &self.bound, &upstream.location).await?;
                register(session, &upstream.name, provider)?;
                versions.insert(upstream.name.to_string(), identity(&snapshot));
            }
        }
        Ok(versions)
    }
}

/// Tells one state of a table from every other, also from the same version number of a table that was made anew.
pub fn identity(snapshot: &Snapshot) -> u64 {
    let last = snapshot.checkpoint.batches.last().map(|b| b.0.as_str()).unwrap_or_default();
    // Versions that only laid rows out anew are no reason to build anything again.
    let version = snapshot.version.saturating_sub(snapshot.rewrites);
    let digest = Sha256::digest(format!("{version}/{}/{last}", snapshot.checkpoint.sequence));
    digest.iter().take(8).fold(0, |n, byte| (n << 8) | u64::from(*byte))
}

/// A reader of one version, with the store known to the run-time.
pub async fn provider(
    format: &dyn TableFormat,
    snapshot: &Snapshot,
    resources: &Resources,
    bound: &Bound,
    location: &smelt_connectors::stores::Location,
) -> Result<Arc<dyn TableProvider>> {
    bound.stores.register(&resources.runtime, location);
    format.provider(snapshot).await
}

/// Registers `provider` as `layer.name` in the session's default catalog.
pub fn register(session: &SessionContext, name: &TableName, provider: Arc<dyn TableProvider>) -> Result<()> {
    let catalog = match session.catalog("lake") {
        Some(catalog) => catalog,
        None => {
            let catalog: Arc<dyn CatalogProvider> = Arc::new(MemoryCatalogProvider::new());
            session.register_catalog("lake", Arc::clone(&catalog));
            catalog
        }
    };
    let schema = match catalog.schema(&name.layer) {
        Some(schema) => schema,
        None => {
            let schema: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
            catalog.register_schema(&name.layer, Arc::clone(&schema))?;
            schema
        }
    };
    if schema.table_exist(&name.name) {
        schema.deregister_table(&name.name)?;
    }
    schema.register_table(name.name.clone(), provider)?;
    Ok(())
}
