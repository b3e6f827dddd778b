//! Table formats: Delta and Parquet with versioned manifests, behind `smelt_engine::table::TableFormat`.
