//! Bad pipelines, and what their authors see. One snapshot each: read them as a user would.

use crate::spec::{LoadOptions, Loaded, load};
use crate::yaml::Unset;

fn read(yaml: &str, env: Option<&str>, set: &[String]) -> Loaded {
    let vars = |name: &str| (name == "HOME").then(|| "/root".to_owned());
    load("pipeline.yaml", yaml, &LoadOptions { env, set, vars: &vars, unset: Unset::Complain })
}

fn shown(yaml: &str, env: Option<&str>, set: &[&str]) -> String {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let loaded = read(yaml, env, &set);
    assert!(loaded.diagnostics.has_errors(), "{yaml}");
    loaded.diagnostics.render(&loaded.sources, false)
}
