//! The memory pool of a run: DataFusion's fair pool, less what it should not count.
//!
//! A batch on its way between two operators is a view into buffers that others hold as well, and `RepartitionExec` counts the
//! whole buffer for each of its slices: a megabyte of input becomes tens of them, the pool seems full, and batches are sent through
//! spill files for nothing (with a small pool the run then stands still: DataFusion 55.2 loses the wake-up of a reader of such a
//! file). What is in flight is bounded by the channels' gates; it is let through here and kept out of the account.

use std::fmt;
use std::num::NonZeroUsize;

use datafusion::error::Result;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool};

/// Bounds what operators hold; they spill when it is full.
#[derive(Debug)]
pub struct RunPool(TrackConsumersPool<FairSpillPool>);

impl RunPool {
    /// `memory` in bytes, shared fairly among the operators that can spill.
    pub fn new(memory: usize) -> Self {
        RunPool(TrackConsumersPool::new(FairSpillPool::new(memory), NonZeroUsize::MIN.saturating_add(4)))
    }
}

fn in_flight(consumer: &MemoryConsumer) -> bool {
    consumer.name().starts_with("RepartitionExec[") && !consumer.name().contains("Merge")
}

impl fmt::Display for RunPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl MemoryPool for RunPool {
    fn name(&self) -> &str {
        "run"
    }
    fn register(&self, consumer: &MemoryConsumer) {
        if !in_flight(consumer) {
            self.0.register(consumer);
        }
    }
    fn unregister(&self, consumer: &MemoryConsumer) {
        if !in_flight(consumer) {
            self.0.unregister(consumer);
        }
    }
    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        if !in_flight(reservation.consumer()) {
            self.0.grow(reservation, additional);
        }
    }
    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        if !in_flight(reservation.consumer()) {
            self.0.shrink(reservation, shrink);
        }
    }
    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if in_flight(reservation.consumer()) { Ok(()) } else { self.0.try_grow(reservation, additional) }
    }
    fn reserved(&self) -> usize {
        self.0.reserved()
    }
    fn memory_limit(&self) -> MemoryLimit {
        self.0.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_is_in_flight_is_let_through_and_the_rest_is_bounded() {
        let pool: Arc<dyn MemoryPool> = Arc::new(RunPool::new(1000));
        let flying = MemoryConsumer::new("RepartitionExec[0]").with_can_spill(true).register(&pool);
        flying.try_grow(1 << 30).unwrap();
        assert_eq!(pool.reserved(), 0);
        let sort = MemoryConsumer::new("ExternalSorter[0]").with_can_spill(true).register(&pool);
        sort.try_grow(900).unwrap();
        assert!(sort.try_grow(200).is_err());
        assert_eq!(pool.reserved(), 900);
        flying.free();
        assert_eq!(pool.reserved(), 900);
    }
}
