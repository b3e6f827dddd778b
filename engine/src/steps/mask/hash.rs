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
use crate::keys::{Keys, Secret};

/// A salted SHA-256 digest, 64 hex digits. Whoever has the salt can test guesses; prefer `tokenize` where values are few or guessable.
///
/// ```yaml
/// document: {hash: {key: pii}}             # the salt is a secret, one of `keys`
/// sku: {hash: {salt: "2024-catalogue"}}    # the salt stands in the pipeline
/// ```
#[derive(Debug, Clone, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    /// Put before each value. Columns that are to be joined need the same salt.
    #[serde(default, deserialize_with = "secret")]
    #[schemars(with = "Option<String>")]
    pub salt: Option<Secret>,
    /// Name of a key under `keys` that is the salt.
    pub key: Option<String>,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}

impl Hash {
    pub(super) fn expression(&self, column: Column<'_>, keys: &Keys) -> Result<Expr, Vec<Complaint>> {
        let mut found = vec![];
        match (&self.salt, &self.key) {
            (None, Some(key)) if keys.get(key).is_none() => found.push(column.missing_key("hash", key, keys)),
            (None, Some(_)) => {}
            (Some(salt), None) if !salt.reveal().is_empty() => {}
            (Some(_), None) => found.push(column.complaint(&["hash", "salt"], "the salt is empty").help("give some text, or `key: NAME`")),
            _ => found.push(column.complaint(&["hash"], "hash takes either `key` or `salt`").help("write for example `hash: {key: pii}`")),
        }
        let text = match column.as_text() {
            Some(text) if found.is_empty() => text,
            Some(_) => return Err(found),
            None => {
                found.extend(column.wrong_type("hash", "strings and integers"));
                return Err(found);
            }
        };
        Ok(udf(self.secret(keys)).call(vec![text]))
    }

    pub(super) fn text(&self, keys: &Keys) -> Option<TextMask> {
        let hasher = Sha256::after(self.secret(keys)?.reveal());
        Some(Arc::new(move |value| Some(hex(&hasher.digest(value.as_bytes())))))
    }

    fn secret(&self, keys: &Keys) -> Option<Secret> {
        self.salt.clone().or_else(|| keys.get(self.key.as_deref()?).cloned())
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
        let by_key = run(r#"[{"mask": {"name": {"hash": {"key": "pii"}}}}]"#).await.unwrap();
        let by_salt = run(r#"[{"mask": {"name": {"hash": {"salt": "key"}}}}]"#).await.unwrap();
        assert_eq!(by_key, by_salt);
        for wrong in [r#"{"salt": ""}"#, r#"{"salt": "a", "key": "pii"}"#, r#"{"key": "pi"}"#, "{}"] {
            let found = complaints(&format!(r#"[{{"mask": {{"name": {{"hash": {wrong}}}}}}}]"#)).await;
            assert_eq!(found.len(), 1, "{found:?}");
        }
    }
}
