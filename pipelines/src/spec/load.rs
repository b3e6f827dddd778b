//! From the text of a pipeline to its typed form, with all that is wrong with it; and from the complaints of components to
//! places in the file. Does no I/O but to fetch secrets when told to.

use std::path::Path;

use smelt_engine::Error;
use smelt_engine::error::Complaint;
use smelt_engine::keys::Keys;

use super::{Pipeline, UNAVAILABLE, check};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::yaml::{self, Node, Sources, Unset};

/// What the command line says about how to read a pipeline.
#[allow(missing_debug_implementations)] // holds a function
pub struct LoadOptions<'a> {
    /// `--env NAME`.
    pub env: Option<&'a str>,
    /// `--set key.path=value`, in order.
    pub set: &'a [String],
    /// Gives the value of an environment variable.
    pub vars: &'a dyn Fn(&str) -> Option<String>,
    /// What to do about variables that are not set.
    pub unset: Unset,
}

/// A pipeline that was read, with all that is known about where its parts were written.
#[derive(Debug)]
pub struct Loaded {
    pub sources: Sources,
    /// The whole tree, with the environment and the settings laid over it and variables replaced. `environments` is taken out.
    pub root: Option<Node>,
    /// The key and value of `environments`, as written.
    pub environments: Option<(Node, Node)>,
    /// Good for a run only where `diagnostics` has no errors: wrong parts are left out.
    pub pipeline: Option<Pipeline>,
    pub diagnostics: Diagnostics,
}

/// Reads a pipeline. `name` is what diagnostics call the file. Secrets are not fetched: see [`resolve_keys`].
pub fn load(name: &str, text: &str, options: &LoadOptions<'_>) -> Loaded {
    let (mut sources, mut diagnostics) = (Sources::default(), Diagnostics::default());
    let id = sources.add(name, text);
    let Some(mut root) = yaml::parse(&sources, id, &mut diagnostics) else {
        return Loaded { sources, root: None, environments: None, pipeline: None, diagnostics };
    };
    let environments = yaml::take_environments(&mut root);
    yaml::apply_environment(&mut root, environments.as_ref(), options.env, &mut diagnostics);
    for setting in options.set {
        yaml::apply_set(&mut root, setting, &mut sources, &mut diagnostics);
    }
    // Keys that start with `x-` are the user's own: a place for anchors.
    if let yaml::Kind::Map(entries) = &mut root.kind {
        entries.retain(|(key, _)| !key.text().is_some_and(|k| k.starts_with("x-")));
    }
    yaml::interpolate(&mut root, &sources, options.vars, options.unset, &mut diagnostics);
    let mut pipeline: Option<Pipeline> = yaml::from_node_with(&root, UNAVAILABLE, &mut diagnostics);
    check::check(&root, &mut diagnostics);
    if let Some(pipeline) = &mut pipeline {
        let defaults = pipeline.defaults.clone();
        pipeline.tables.0.iter_mut().for_each(|(_, table)| table.apply(&defaults));
    }
    Loaded { sources, root: Some(root), environments, pipeline, diagnostics }
}

/// As [`load`], with the variables of this process.
pub fn load_os(name: &str, text: &str, env: Option<&str>, set: &[String], unset: Unset) -> Loaded {
    let vars = |name: &str| std::env::var(name).ok();
    load(name, text, &LoadOptions { env, set, vars: &vars, unset })
}

impl Loaded {
    /// The diagnostic for a complaint of the component whose configuration stands at `base`, such as
    /// `["tables", "silver.orders", "steps", "0"]`. A place within SQL becomes the place in the file.
    pub fn diagnose(&self, base: &[&str], complaint: &Complaint) -> Diagnostic {
        let path: Vec<String> = base.iter().map(|s| (*s).to_owned()).chain(complaint.place.path.iter().cloned()).collect();
        let span = self.root.as_ref().map(|root| match complaint.place.within {
            Some((line, column, length)) => match yaml::deepest(root, &path) {
                (_, node, depth) if depth == path.len() => yaml::within(&self.sources, node, line, column, length),
                _ => yaml::locate(root, &path),
            },
            None => yaml::locate(root, &path),
        });
        let mut diagnostic = Diagnostic::error(span, &complaint.message);
        diagnostic.help.clone_from(&complaint.help);
        diagnostic
    }

    /// Adds the complaints of an `Error::Pipeline` as diagnostics; gives any other error back.
    pub fn complain(&mut self, base: &[&str], error: Error) -> Result<(), Error> {
        match error {
            Error::Pipeline(complaints) => {
                for complaint in &complaints {
                    let diagnostic = self.diagnose(base, complaint);
                    self.diagnostics.push(diagnostic);
                }
                Ok(())
            }
            other => Err(other),
        }
    }
}

/// Fetches the pipeline's keys; relative paths start at `base`. What cannot be fetched becomes a diagnostic.
pub fn resolve_keys(loaded: &mut Loaded, base: &Path) -> Keys {
    let mut keys = Keys::default();
    let references: Vec<(String, String)> = match &loaded.pipeline {
        Some(pipeline) => pipeline.keys.iter().map(|(name, secret)| (name.to_owned(), secret.reference.clone())).collect(),
        None => vec![],
    };
    for (name, reference) in references {
        match smelt_connectors::secrets::resolve(&reference, base) {
            Ok(secret) => {
                keys.0.insert(name, secret);
            }
            Err(error) => {
                let message = error.to_string();
                if loaded.complain(&["keys", &name], error).is_err() {
                    loaded.diagnostics.push(Diagnostic::error(None, message));
                }
            }
        }
    }
    keys
}
