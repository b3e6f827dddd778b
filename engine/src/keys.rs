//! Secrets and mask keys. A secret lives in one type that cannot be printed (law 7).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A value that must never be shown. There is no `Display`, and `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Secret(Arc::from(bytes.as_ref()))
    }
    /// The bytes, for the one computation that needs them.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The keys that masks may name.
#[derive(Debug, Clone, Default)]
pub struct Keys(pub BTreeMap<String, Secret>);

impl Keys {
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
