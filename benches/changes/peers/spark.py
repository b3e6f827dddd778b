"""spark.py merge|scd2 TABLE CHANGES: applies a change file to a Delta table with the MERGE of Delta on Spark 4.0, one local process.

The Delta classes are in the jar that the Python package jsoniq brings; a jar of one file made here registers them as `delta`.
The statements are those of peers/delta_rs.py.
"""

import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

from pyspark.sql import SparkSession

mode, target, source = sys.argv[1:4]
jar = next(Path(sysconfig.get_path("purelib")).glob("jsoniq/jars/rumbledb-*.jar"))  # not imported: that needs pandas
folder = tempfile.TemporaryDirectory()
register = Path(folder.name) / "register.jar"
with zipfile.ZipFile(register, "w") as z:
    z.writestr("META-INF/services/org.apache.spark.sql.sources.DataSourceRegister", "org.apache.spark.sql.delta.sources.DeltaDataSource\n")
spark = (
    SparkSession.builder.master("local[*]")
    .config("spark.driver.memory", "8g")
    .config("spark.jars", f"{jar},{register}")
    .config("spark.driver.extraClassPath", f"{jar}:{register}")
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.sql.shuffle.partitions", "4")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.sql.warehouse.dir", folder.name)
    .config("spark.local.dir", folder.name)
    .config("spark.databricks.delta.snapshotPartitions", "2")  # its 50 are for large clusters
    .config("spark.ui.enabled", "false")
    .config("spark.ui.showConsoleProgress", "false")
    .getOrCreate()
)
start = time.monotonic()
changes = spark.read.parquet(source)
changes.createOrReplaceTempView("s")
columns = [c for c in changes.columns if c != "op"]
names, values = ", ".join(columns), ", ".join(f"s.{c}" for c in columns)
if mode == "merge":
    spark.sql(f"""
        merge into delta.`{target}` t using s on t.customer_id = s.customer_id
        when matched and s.op = 'D' and s.updated_at > t.updated_at then delete
        when matched and s.op <> 'D' and s.updated_at > t.updated_at then update set {", ".join(f"t.{c} = s.{c}" for c in columns)}
        when not matched and s.op <> 'D' then insert ({names}) values ({values})""")
else:
    spark.sql(f"""
        merge into delta.`{target}` t using (
            select s.*, s.customer_id as merge_key from s
            union all
            select s.*, null from s join delta.`{target}` c on c.customer_id = s.customer_id and c.is_current
            where s.updated_at > c.valid_from and s.op <> 'D'
        ) s on t.customer_id = s.merge_key and t.is_current
        when matched and s.updated_at > t.valid_from then update set t.valid_to = s.updated_at, t.is_current = false
        when not matched and s.op <> 'D' then insert ({names}, valid_from, valid_to, is_current) values ({values}, s.updated_at, null, true)""")
print(f"work {time.monotonic() - start:.3f}")
spark.stop()
