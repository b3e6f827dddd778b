//! Rows of the table and remembered events as the columns of events, and the way back.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::functions::expr_fn::{concat, md5};
use datafusion::functions::unicode::expr_fn::character_length;
use datafusion::logical_expr::{Expr, cast, lit};

use super::apply::{Job, Prepared, name};
use super::config::{HardDeletes, SurrogateType};
use super::events::inherits;
use super::group::{Listed, Rules};
use super::plan::{DELETE, Kind, REMEMBERED, UPSERT, VISIBLE, extra, meta};
use super::resolve::{event_schema, memory_schema};
use super::spool::{self};
use crate::contract::hidden;
use crate::error::Result;

impl Job<'_> {
    pub(super) fn table_columns(&self) -> Vec<Expr> {
        self.schema.fields().iter().map(|f| name(f.name()).alias(f.name())).collect()
    }

    pub(super) fn rules(&self, prepared: &Prepared) -> Result<Rules> {
        let layout = &self.shape.layout;
        let whole = RowConverter::new(layout.sequence_types.iter().map(|t| SortField::new(t.clone())).collect())?;
        let first = RowConverter::new(vec![SortField::new(layout.sequence_types[0].clone())])?;
        let bytes = |members: &[ArrayRef]| -> Result<Vec<Listed>> {
            let (firsts, wholes) = (first.convert_columns(&members[..1])?, whole.convert_columns(members)?);
            Ok(firsts.iter().zip(wholes.iter()).map(|(f, w)| (f.data().into(), w.data().into())).collect())
        };
        let forgotten = match &self.state.forgotten {
            Some(text) => bytes(&spool::arrays(std::iter::once(text), layout)?)?.into_iter().next().map(|(_, whole)| whole),
            None => None,
        };
        let inherits = inherits(self.mode, &self.missing);
        Ok(Rules {
            shape: self.mode.shape(),
            bitemporal: self.mode.kind == Kind::Bitemporal,
            inherits,
            // a table that remembers partial events goes on with them when no new ones come
            partial: inherits || !self.state.files.is_empty(),
            composite: layout.sequence_types.len() > 1,
            forgotten,
            cutoff: self.cutoff(),
            listed: if prepared.listed.is_empty() { vec![] } else { bytes(&prepared.listed)? },
            fresh: prepared.fresh.clone(),
        })
    }

    /// Rows of the table as events.
    pub(super) fn visible_columns(&self) -> Result<Vec<Expr>> {
        let (layout, history) = (&self.shape.layout, self.mode.is_history());
        let stored = layout.stored.len();
        let schema = event_schema(layout);
        let column = |(i, field): (usize, &Arc<Field>)| -> Result<Expr> {
            let null = || -> Result<Expr> { Ok(Expr::Literal(ScalarValue::try_from(field.data_type())?, None)) };
            let expr = match field.name().as_str() {
                text if i < stored => name(text),
                meta::OP if self.mode.kind == Kind::Snapshot && self.mode.hard_deletes == HardDeletes::NewRecord => {
                    datafusion::logical_expr::when(name(extra::IS_DELETED), lit(DELETE)).otherwise(lit(UPSERT))?
                }
                meta::OP => lit(UPSERT),
                meta::ORIGIN => lit(VISIBLE),
                meta::TO if history => name(extra::VALID_TO),
                meta::SYSTEM if self.mode.kind == Kind::Bitemporal => name(extra::SYSTEM_FROM),
                meta::GIVEN | meta::TO | meta::RECORDED | meta::SYSTEM | hidden::FILE | hidden::LINE => null()?,
                _ => match (i - stored, history) {
                    (member, false) if layout.sequence[member].is_some() => name(&layout.sequence_names[member]),
                    (member, false) => {
                        datafusion::functions::core::expr_fn::get_field(name(extra::SEQUENCE), layout.sequence_names[member].as_str())
                    }
                    (_, true) if layout.sequence_types.len() == 1 => name(extra::VALID_FROM),
                    (member, true) => {
                        datafusion::functions::core::expr_fn::get_field(name(extra::SEQUENCE), layout.sequence_names[member].as_str())
                    }
                },
            };
            Ok(expr.alias(field.name()))
        };
        schema.fields().iter().enumerate().map(column).collect()
    }

    /// Remembered events as events.
    pub(super) fn remembered_columns(&self) -> Result<Vec<Expr>> {
        let layout = &self.shape.layout;
        let known = memory_schema(layout);
        let column = |field: &Arc<Field>| -> Result<Expr> {
            let expr = match field.name().as_str() {
                meta::ORIGIN => lit(REMEMBERED),
                text if known.field_with_name(text).is_ok() => name(text),
                _ => Expr::Literal(ScalarValue::try_from(field.data_type())?, None),
            };
            Ok(expr.alias(field.name()))
        };
        event_schema(layout).fields().iter().map(column).collect()
    }

    /// The operator's columns, with the surrogate key in its place.
    pub(super) fn with_surrogate(&self) -> Result<Vec<Expr>> {
        let stored = self.shape.layout.stored.iter().map(|f| name(f.name()));
        let extras = self.mode.extras(&DataType::Int64, &[]);
        let mut columns: Vec<Expr> = stored.collect();
        if let Some(key) = &self.mode.surrogate_key {
            let mut parts: Vec<Expr> = self.mode.keys.iter().map(|k| name(k)).collect();
            if self.mode.is_history() {
                parts.push(name(extra::VALID_FROM));
            }
            let expr = match key.ty {
                // the length of each part keeps ("a", "bc") and ("ab", "c") apart
                SurrogateType::String => {
                    let text = parts.into_iter().flat_map(|p| {
                        let text = cast(p, DataType::Utf8);
                        [cast(character_length(text.clone()), DataType::Utf8), lit(":"), text]
                    });
                    cast(md5(concat(text.collect())), DataType::Utf8View)
                }
                SurrogateType::Int64 => {
                    let fields: Vec<Field> =
                        parts.iter().enumerate().map(|(i, _)| Field::new(i.to_string(), DataType::Null, true)).collect();
                    let hash = super::row_hash::hash_of(&fields.iter().collect::<Vec<_>>(), parts);
                    datafusion::logical_expr::binary_expr(hash, datafusion::logical_expr::Operator::BitwiseAnd, lit(i64::MAX))
                }
            };
            columns.push(expr.alias(&key.name));
        }
        columns.extend(extras.iter().map(|f| name(f.name())));
        Ok(columns)
    }
}
