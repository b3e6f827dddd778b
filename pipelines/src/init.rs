//! `smelt init`: a small pipeline with its input, ready to run. Never writes over a file.

use std::fs;
use std::io;
use std::path::Path;

const PIPELINE: &str = r#"# yaml-language-server: $schema=pipeline.schema.json
# A pipeline: sources, tables, contracts, steps, checks. `smelt plan` shows what a run would do; `smelt run` does it.
name: shop
lake: ${LAKE:-lake}            # a folder; s3://bucket/prefix in production

sources:
  orders:
    csv: {path: "data/orders*.csv"}

tables:
  silver.orders:
    from: orders
    columns:
      order_id: {type: int64, required: true, description: "Number of the order"}
      customer: {type: string}
      status: {type: string}
      price: {type: "decimal(12,2)"}
      ordered_at: {type: timestamp}
    steps:
      - clean: {trim: all, lower: [status]}
      - dedup: {keys: [order_id], order_by: [ordered_at desc]}
    checks:
      - in_set: {status: [paid, shipped, cancelled]}
      - range: {price: {min: 0}}
    write: append

  gold.daily_revenue:
    sql: |
      select date_trunc('day', ordered_at) as day, count(*) as orders, sum(price) as revenue
      from silver.orders
      where status <> 'cancelled'
      group by 1
    write: replace
"#;

const ORDERS: &str = "\
order_id,customer,status,price,ordered_at
1,Ana,paid,19.90,2026-01-05 09:12:00
2,Bruno,shipped,250.00,2026-01-05 10:40:11
2,Bruno,shipped,249.00,2026-01-05 10:55:00
3,Carla, PAID ,12.50,2026-01-06 08:00:00
4,Diego,lost,80.00,2026-01-06 12:31:09
5,Elena,paid,twelve,2026-01-06 14:02:45
";

/// Makes the files below `folder`; gives the exit code.
pub fn init(folder: &Path) -> u8 {
    match write(folder) {
        Ok(()) => {
            let shown = folder.display();
            println!(
                "Made {shown}/pipeline.yaml and {shown}/data/orders.csv.\n\nNext:\n  smelt plan {shown}\n  smelt run {shown}\n  smelt query {shown} 'select * from gold.daily_revenue'"
            );
            0
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            eprintln!("error: {} has a pipeline already\n  help: choose another folder; nothing was written", folder.display());
            2
        }
        Err(e) => {
            eprintln!("error: {}: {e}\n  help: check that the folder can be written to", folder.display());
            4
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.join("data"))?;
    let schema = crate::schema::text();
    let files =
        [("pipeline.yaml", PIPELINE), ("data/orders.csv", ORDERS), (".gitignore", "/lake\n"), ("pipeline.schema.json", schema.as_str())];
    if let Some((name, _)) = files.iter().find(|(name, _)| folder.join(name).exists() && *name == "pipeline.yaml") {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, *name));
    }
    for (name, text) in files {
        let path = folder.join(name);
        if !path.exists() {
            fs::write(path, text)?;
        }
    }
    Ok(())
}
