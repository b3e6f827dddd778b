//! A raw source under a contract: the table that steps and SQL see. Rows that do not conform leave for quarantine inside the
//! scan; every contract column is checked whether or not it is asked for.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as ColumnExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use super::exec::{ConformExec, Conformer};
use super::sensitive::Sensitive;
use crate::contract::{Contract, hidden};
use crate::error::{Complaint, Error, Result};
use crate::route::RouteExec;
use crate::table::TableName;

/// A source's rows, conformed. Columns: the contract's in their Arrow types, `_file`, `_line`, and `_rescued` where the raw
/// source has it. All are nullable in plans: what is required is enforced here, not promised to the optimizer.
#[derive(Debug)]
pub struct ConformedSource {
    raw: Arc<dyn TableProvider>,
    contract: Contract,
    sensitive: Sensitive,
    table: TableName,
    schema: SchemaRef,
}

impl ConformedSource {
    /// `table` names the rows in quarantine.
    ///
    /// # Errors
    /// `Error::Pipeline` for formats that cannot be, for reserved or repeated names; `Error::Data` when the source lacks a
    /// column and the contract says that this fails.
    pub fn new(raw: Arc<dyn TableProvider>, contract: Contract, sensitive: Sensitive, table: TableName) -> Result<Self> {
        let mut complaints = vec![];
        for (i, column) in contract.columns.iter().enumerate() {
            let at = || ["columns", column.name.as_str()];
            if hidden::RESERVED.contains(&column.name.as_str()) {
                complaints.push(Complaint::at(at(), format!("'{}' is a name of Smelt's own", column.name)).help("choose another name"));
            }
            if contract.columns[..i].iter().any(|c| c.name == column.name) {
                complaints.push(Complaint::at(at(), format!("the column '{}' is declared twice", column.name)).help("remove one of them"));
            }
        }
        if !complaints.is_empty() {
            return Err(Error::Pipeline(complaints));
        }
        let conformer = Conformer::try_new(&raw.schema(), &contract, &sensitive)?;
        let inner = [hidden::OFFSET, hidden::ERRORS, hidden::RAW];
        let fields = conformer.schema.fields().iter().filter(|f| !inner.contains(&f.name().as_str())).cloned();
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(ConformedSource { raw, contract, sensitive, table, schema })
    }
}

#[async_trait]
impl TableProvider for ConformedSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
    fn table_type(&self) -> TableType {
        TableType::Base
    }
    /// The limit stays above: rows that leave for quarantine do not count.
    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let raw = self.raw.scan(state, None, &[], None).await?;
        let conformed = Arc::new(ConformExec::try_new(raw, self.contract.clone(), self.sensitive.clone())?);
        let routed = RouteExec::try_new(conformed, vec![], self.sensitive.clone(), "conform", Some(self.table.to_string()))?;
        let routed: Arc<dyn ExecutionPlan> = Arc::new(routed);
        let Some(asked) = projection else { return Ok(routed) };
        let columns = asked.iter().map(|i| {
            let name = self.schema.field(*i).name();
            (Arc::new(ColumnExpr::new(name, *i)) as Arc<dyn PhysicalExpr>, name.clone())
        });
        if routed.schema().fields().len() != self.schema.fields().len() {
            return Err(Error::bug("the conformed scan has other columns than its table").into());
        }
        Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), routed)?))
    }
}
