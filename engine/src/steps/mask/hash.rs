//! `hash`: salted digests.
//!
//! `hash = hex(SHA-256(salt || value))`, lower case, all 32 bytes; salt and value are UTF-8, integers their decimal text.
//! The salt is a secret: it lives in the function, not in the plan's text.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::plan_err;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use serde::Deserialize;

use super::sha::{Sha256, hex, push_hex};
use super::tokenize::{mask_views, texts};
use super::{Column, TextMask, constant_text};
use crate::error::Complaint;
use crate::keys::Secret;

/// A salted SHA-256 digest, 64 hex digits. Whoever has the salt can test guesses; prefer `tokenize` where values are few or guessable.
///
/// ```yaml
/// document: {hash: {salt: "${secret:env://HASH_SALT}"}}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    /// Put before each value. Columns that are to be joined need the same salt.
    #[serde(deserialize_with = "secret")]
    #[schemars(with = "String")]
    pub salt: Secret,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

impl Hash {
    pub(super) fn expression(&self, column: Column<'_>) -> Result<Expr, Vec<Complaint>> {
        if self.salt.reveal().is_empty() {
            return Err(vec![column.complaint(&["hash", "salt"], "the salt is empty").help("give some random text, best as a secret")]);
        }
        let text = column.as_text().ok_or_else(|| column.wrong_type("hash", "strings and integers"))?;
        Ok(udf(Some(self.salt.clone())).call(vec![text]))
    }

    pub(super) fn text(&self) -> TextMask {
        let hasher = Sha256::after(self.salt.reveal());
        Arc::new(move |value| Some(hex(&hasher.digest(value.as_bytes()))))
    }
}

/// `hash(value)` with the salt in it, or `hash(value, 'salt')`.
pub fn udf(salt: Option<Secret>) -> ScalarUDF {
    ScalarUDF::from(HashFunction { salt: Salt(salt), signature: Signature::variadic_any(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq)]
struct Salt(Option<Secret>);

impl std::hash::Hash for Salt {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.is_some().hash(state);
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HashFunction {
    salt: Salt,
    signature: Signature,
}

impl ScalarUDFImpl for HashFunction {
    fn name(&self) -> &str {
        "hash"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, args: &[DataType]) -> datafusion::error::Result<DataType> {
        let wanted = if self.salt.0.is_some() { 1 } else { 2 };
        match args.first() {
            Some(value) if args.len() == wanted && (value.is_integer() || value.is_string() || *value == DataType::Null) => {
                Ok(DataType::Utf8View)
            }
            _ => plan_err!("hash takes a string or integer, and a salt"),
        }
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        let hasher = match &self.salt.0 {
            Some(salt) => Sha256::after(salt.reveal()),
            None => Sha256::after(constant_text(&args.args, 1, "hash")?.unwrap_or_default().as_bytes()),
        };
        mask_views(&args, |values| texts(values, 64, |value, out| push_hex(out, &hasher.digest(value))))
    }
}

#[cfg(test)]
mod tests {
    use crate::steps::testing::*;

    #[tokio::test]
    async fn digest_of_salt_and_value() {
        let out = run(r#"[{"mask": {"name": {"hash": {"salt": "salt"}}}}]"#).await.unwrap();
        assert!(out.contains("43e65e7f7ea7c28977d9a35c20b581e4ef68c04bb062306cce46e9b51a88910a,1,f,1"), "{out}");
        assert!(out.contains("\n,,f,3"), "{out}");
        assert!(!complaints(r#"[{"mask": {"name": {"hash": {"salt": ""}}}}]"#).await.is_empty());
    }
}
