//! The committed JSON Schema is the one that the code generates.

#[test]
fn the_committed_schema_is_current() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pipeline.schema.json");
    let committed = std::fs::read_to_string(file).unwrap();
    assert!(
        committed.trim() == smelt::schema::text().trim(),
        "docs/pipeline.schema.json is old; write it anew: cargo run --release -- schema > docs/pipeline.schema.json"
    );
}
