//! Object stores by URL: local folders, `s3://`, `gs://`, `az://`, `memory://`.
