//! YAML 1.2 with places: text -> tree of spanned nodes -> overlays -> interpolation -> typed values, all errors at once.
//!
//! Built on `saphyr-parser`, the maintained successor of yaml-rust, which gives events with positions. Knows no
//! pipelines: what the keys mean is `spec`.

mod de;
mod node;
mod overlay;
mod parse;
mod scan_error;
mod source;
mod text;
mod types;
mod vars;

#[cfg(test)]
mod gallery;

pub use de::{Unavailable, from_node, from_node_with};
pub use node::{Kind, Node, Replaced, Scalar, Style, Value, deepest, locate, locate_key};
pub use overlay::{apply_environment, apply_set, take_environments};
pub use parse::parse;
pub use source::{Source, Sources, Span};
pub use text::within;
pub use types::{Ordered, SecretRef, Spanned};
pub use vars::{Unset, interpolate};
