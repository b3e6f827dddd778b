//! `tokenize`: keyed pseudonyms.
//!
//! With `H(k, m)` = HMAC-SHA-256, `key` the key's bytes as given, and all texts UTF-8:
//!
//! ```text
//! domain key = H(key, "domain:" || domain)              32 bytes
//! version    = "k" || hex(H(key, "version")[0..2])      tells which key made a token, and changes with the key
//! token      = prefix || version || "_" || hex(H(domain key, value)[0..bytes])
//! ```
//!
//! Hex is lower case. Integers are tokenized as their decimal text. Sixteen bytes keep the chance of one collision among a
//! billion values below 10^-20.

use std::sync::Arc;

use arrow::array::{Array, StringViewArray, make_view};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit};

use super::sha::{Hmac, hex, push_hex};
use super::{Column, TextMask, constant_int, constant_text, key, views};
use crate::error::Complaint;
use crate::keys::{Keys, Secret};

/// A keyed pseudonym (HMAC-SHA-256): the same value gives the same token wherever key and domain are the same, so joins survive; without the
/// key a token can neither be made nor undone. A token looks like `k3f9a_0c1d…`: the version of its key, then the digest.
///
/// ```yaml
/// customer_id: {tokenize: {key: pii, domain: customer, prefix: cus_}}
/// ```
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// Name of a key under `keys`.
    pub key: String,
    /// Values of different domains get different tokens. Columns that are to be joined need the same domain. Default: one domain for all.
    #[serde(default)]
    pub domain: String,
    /// Text before each token.
    #[serde(default)]
    pub prefix: String,
    /// Length of the digest, 8 to 32 bytes; a token has two hex digits for each.
    #[serde(default = "sixteen")]
    #[schemars(range(min = 8, max = 32))]
    pub bytes: u8,
}

fn sixteen() -> u8 {
    16
}

impl Tokenize {
    pub(super) fn expression(&self, column: Column<'_>, keys: &Keys) -> Result<Expr, Vec<Complaint>> {
        let mut found = vec![];
        if keys.get(&self.key).is_none() {
            found.push(column.missing_key("tokenize", &self.key, keys));
        }
        if !(8..=32).contains(&self.bytes) {
            found.push(column.complaint(&["tokenize", "bytes"], "a token has 8 to 32 bytes").help("leave it out for 16"));
        }
        let Some(text) = column.as_text() else {
            found.extend(column.wrong_type("tokenize", "strings and integers"));
            return Err(found);
        };
        if !found.is_empty() {
            return Err(found);
        }
        let args = [lit(self.key.as_str()), lit(self.domain.as_str()), lit(self.prefix.as_str()), lit(i64::from(self.bytes))];
        Ok(udf(keys).call(std::iter::once(text).chain(args).collect()))
    }

    pub(super) fn text(&self, keys: &Keys) -> Option<TextMask> {
        let tokens = Tokens::new(keys.get(&self.key)?, &self.domain, &self.prefix, self.bytes.clamp(8, 32));
        Some(Arc::new(move |value| {
            let mut out = vec![];
            tokens.push(value.as_bytes(), &mut out);
            String::from_utf8(out).ok()
        }))
    }
}

/// The function `tokenize(value, 'key' [, 'domain' [, 'prefix' [, bytes]]])` over these keys.
pub fn udf(keys: &Keys) -> ScalarUDF {
    ScalarUDF::from(TokenizeFunction { keys: SessionKeys(keys.clone()), signature: Signature::variadic_any(Volatility::Immutable) })
}

/// The keys inside a function. Two sets are equal when they have the same names and secrets; hashing looks at names only.
#[derive(Debug, Clone)]
pub(super) struct SessionKeys(pub Keys);

impl PartialEq for SessionKeys {
    fn eq(&self, other: &Self) -> bool {
        self.0.0 == other.0.0
    }
}
impl Eq for SessionKeys {}
impl std::hash::Hash for SessionKeys {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.names().for_each(|n| n.hash(state));
    }
}

/// Makes the tokens of one key, domain and prefix.
pub(super) struct Tokens {
    hmac: Hmac,
    /// prefix, version and underscore.
    head: Vec<u8>,
    bytes: usize,
}

impl Tokens {
    pub(super) fn new(key: &Secret, domain: &str, prefix: &str, bytes: u8) -> Self {
        let root = Hmac::new(key.reveal());
        let version = hex(&root.digest(b"version")[..2]);
        let hmac = Hmac::new(&root.digest(format!("domain:{domain}").as_bytes()));
        Tokens { hmac, head: format!("{prefix}k{version}_").into_bytes(), bytes: usize::from(bytes) }
    }

    #[inline]
    fn push(&self, value: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        push_hex(out, &self.hmac.digest(value)[..self.bytes]);
    }

    pub(super) fn array(&self, values: &StringViewArray) -> datafusion::error::Result<StringViewArray> {
        texts(values, self.head.len() + 2 * self.bytes, |value, out| self.push(value, out))
    }
}

/// An array of texts of one width (13 bytes or more), all in one buffer, NULL where `values` is NULL. `push` appends exactly `width` bytes of UTF-8.
pub(super) fn texts(
    values: &StringViewArray,
    width: usize,
    push: impl Fn(&[u8], &mut Vec<u8>),
) -> datafusion::error::Result<StringViewArray> {
    let rows = values.len() - values.null_count();
    if width <= 12 || rows.saturating_mul(width) > i32::MAX as usize {
        return exec_err!("{rows} masked texts of {width} bytes do not fit one array");
    }
    let mut data: Vec<u8> = Vec::with_capacity(rows * width);
    let mut out: Vec<u128> = Vec::with_capacity(values.len());
    let whole = values.null_count() == 0;
    for i in 0..values.len() {
        if whole || values.is_valid(i) {
            let start = data.len();
            // SAFETY: i < len.
            push(unsafe { values.value_unchecked(i) }.as_bytes(), &mut data);
            out.push(make_view(&data[start..start + width], 0, start as u32));
        } else {
            out.push(0);
        }
    }
    let nulls = values.nulls().cloned();
    // SAFETY: each view covers `width` bytes of UTF-8 in buffer 0 that `push` has written, or is empty.
    Ok(unsafe { StringViewArray::new_unchecked(ScalarBuffer::from(out), vec![Buffer::from_vec(data)], nulls) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TokenizeFunction {
    keys: SessionKeys,
    signature: Signature,
}

impl ScalarUDFImpl for TokenizeFunction {
    fn name(&self) -> &str {
        "tokenize"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, args: &[DataType]) -> datafusion::error::Result<DataType> {
        match args {
            [value, _] | [value, _, _] | [value, _, _, _] | [value, _, _, _, _]
                if value.is_integer() || value.is_string() || *value == DataType::Null =>
            {
                Ok(DataType::Utf8View)
            }
            _ => plan_err!("tokenize takes a string or integer, a key's name, and perhaps a domain, a prefix and a number of bytes"),
        }
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::error::Result<ColumnarValue> {
        let name = constant_text(&args.args, 1, "tokenize")?.unwrap_or_default();
        let domain = constant_text(&args.args, 2, "tokenize")?.unwrap_or_default();
        let prefix = constant_text(&args.args, 3, "tokenize")?.unwrap_or_default();
        let bytes = constant_int(&args.args, 4, "tokenize")?.unwrap_or(16);
        if !(8..=32).contains(&bytes) {
            return exec_err!("tokenize: a token has 8 to 32 bytes");
        }
        let tokens = Tokens::new(key(&self.keys.0, &name, "tokenize")?, &domain, &prefix, bytes as u8);
        mask_views(&args, |values| tokens.array(values))
    }
}

/// Applies `mask` to the first argument, a column or a constant.
pub(super) fn mask_views(
    args: &ScalarFunctionArgs,
    mask: impl Fn(&StringViewArray) -> datafusion::error::Result<StringViewArray>,
) -> datafusion::error::Result<ColumnarValue> {
    let constant = matches!(args.args[0], ColumnarValue::Scalar(_));
    let masked = mask(&views(&args.args[0], if constant { 1 } else { args.number_rows })?)?;
    Ok(match constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&masked, 0)?),
        false => ColumnarValue::Array(Arc::new(masked)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::*;

    /// Computed with Python's hmac: see the module's definition.
    const ANN: &str = "u_kd0f7_1f3dd7947f10cb91b8aa01263ecf0973";

    #[tokio::test]
    async fn tokens_are_as_defined_and_null_stays_null() {
        let json = r#"[{"mask": {"name": {"tokenize": {"key": "pii", "domain": "email", "prefix": "u_"}}, "price": {"tokenize": {"key": "pii"}}}}]"#;
        let out = run(json).await.unwrap();
        let first: Vec<&str> = out.lines().nth(1).unwrap().split(',').collect();
        assert_eq!(first[0], ANN);
        assert_eq!(out.lines().nth(3), Some(",,f,3"));
        // An integer is its decimal text.
        let one = run_over(r#"[{"mask": {"a": {"tokenize": {"key": "pii"}}}}]"#, &[("a", text(&[Some("1")]))]).await.unwrap();
        assert_eq!(one.lines().nth(1), Some(first[1]));
    }

    #[tokio::test]
    async fn domains_and_keys_differ_and_raw_text_is_masked_alike() {
        let values = [("a", text(&[Some("ann")])), ("b", text(&[Some("ann")])), ("c", text(&[Some("ann")])), ("d", text(&[Some("ann")]))];
        let json = r#"[{"mask": {"a": {"tokenize": {"key": "pii"}}, "b": {"tokenize": {"key": "pii", "domain": "x"}}, "c": {"tokenize": {"key": "other"}}, "d": {"tokenize": {"key": "pii", "bytes": 32}}}}]"#;
        let out = run_over(json, &values).await.unwrap();
        let row: Vec<&str> = out.lines().nth(1).unwrap().split(',').collect();
        assert!(row[0] != row[1] && row[0][..5] == row[1][..5], "{row:?}");
        assert_ne!(row[0][..5], row[2][..5]);
        assert!(row[3].starts_with(row[0]) && row[3].len() == 6 + 64);
        let mask = Tokenize { key: "pii".into(), domain: String::new(), prefix: String::new(), bytes: 16 };
        assert_eq!(mask.text(keys()).unwrap()("ann").as_deref(), Some(row[0]));
    }
}
