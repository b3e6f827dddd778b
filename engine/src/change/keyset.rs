//! The keys that a load changes, as 64-bit hashes: small enough for memory where the load is, and exact enough that what it
//! lets through by accident (one row in 10^12 for a million keys) is only looked at, never changed.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::error::Result;

/// Hashes are spread already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _bytes: &[u8]) {}
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Hashes of keys.
#[derive(Default)]
pub(super) struct KeySet {
    hashes: hashbrown::HashSet<u64, BuildHasherDefault<AsIs>>,
    /// Every key is in it.
    pub all: bool,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("len", &self.hashes.len()).field("all", &self.all).finish()
    }
}

/// Bytes of a key in the set, with the room that the set leaves.
pub(super) const BYTES_A_KEY: usize = 20;

impl KeySet {
    pub fn everything() -> Self {
        KeySet { all: true, ..KeySet::default() }
    }

    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Adds the keys whose columns are `keys`.
    pub fn insert(&mut self, keys: &[ArrayRef]) -> Result<()> {
        for hash in hashes(keys)? {
            self.hashes.insert(hash);
        }
        Ok(())
    }

    fn contains(&self, keys: &[ArrayRef]) -> Result<BooleanArray> {
        let hashes = hashes(keys)?;
        Ok(hashes.iter().map(|h| Some(self.all || self.hashes.contains(h))).collect())
    }
}

fn hashes(keys: &[ArrayRef]) -> Result<Vec<u64>> {
    let rows = keys.first().map_or(0, |k| k.len());
    let mut out = vec![0; rows];
    create_hashes(keys, &RandomState::with_seed(7), &mut out)?;
    Ok(out)
}

/// Whether a key is in the set, or, negated, is not.
#[derive(Debug)]
struct Touched {
    set: Arc<KeySet>,
    negated: bool,
    name: String,
    signature: Signature,
}

impl PartialEq for Touched {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Touched {}
impl std::hash::Hash for Touched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Touched {
    fn name(&self) -> &str {
        &self.name
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let found = self.set.contains(&arrays)?;
        let found = if self.negated { arrow::compute::not(&found)? } else { found };
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}

/// `touched(keys…)`: pushed down to the scan, which then decodes only the rows that it needs. `untouched` is called volatile, so that it
/// is not: nearly all rows pass it, and picking them one by one costs more than decoding them.
pub(super) fn touched(set: &Arc<KeySet>, keys: Vec<Expr>, negated: bool) -> Expr {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("{}_{}", if negated { "untouched" } else { "touched" }, NUMBER.fetch_add(1, Ordering::Relaxed));
    let volatility = if negated { Volatility::Volatile } else { Volatility::Immutable };
    let function = Touched { set: Arc::clone(set), negated, name, signature: Signature::any(keys.len(), volatility) };
    ScalarUDF::new_from_impl(function).call(keys)
}
