//! Changes to tables: `merge`, `scd2`, `bitemporal` and `snapshot`.
//!
//! The rows of a load are events with a sequence. For each key that they touch, the events that the table stands for, those that
//! it remembers beside its rows, and the new ones are put in order and folded (`fold`) into the rows that the table shall show. What
//! the rows do not show (tombstones, overtaken and repeated events, inherited values) is remembered in files below `_smelt/state/`,
//! which the table's checkpoint names, so that both are one commit. Whatever the order of arrival, the same events make the
//! same table (law 6).
//!
//! Only files that can hold a touched key are read, only those that do are rewritten (`apply`). Sorts spill; a key at a time is in memory.
//! How rows come here and how files are published is not this room's.

mod apply;
mod columns;
mod config;
mod events;
mod fold;
mod group;
mod hash;
mod keyset;
mod plan;
mod reads;
mod resolve;
mod row_hash;
mod shape;
mod spool;
mod touch;
mod window;

pub use apply::{Applied, Job, MEMORY_FOLDER, Prepared, Way};
pub use config::{
    ChangeState, ChangeTies, HardDeletes, HistorySpec, MergeSpec, NullUpdates, Retention, SequenceText, SnapshotSpec, SurrogateKey,
    SurrogateType,
};
pub use events::Missing;
pub use group::Counts;
pub use plan::{ChangeMode, Kind, Layout, extra};
pub(crate) use resolve::plan_operator;
pub use shape::{Shape, check, shape};
