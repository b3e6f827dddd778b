//! Secrets: from a reference to a value that cannot be printed.
//!
//! Nothing here ever shows a value, nor how long it is. Knows no YAML: who holds the `${secret:…}` passes what is inside.

use std::ffi::OsString;
use std::path::Path;

use smelt_engine::error::Complaint;
use smelt_engine::keys::Secret;
use smelt_engine::{Error, Result};

/// The kinds of reference that [`resolve`] knows.
pub const SCHEMES: [&str; 2] = ["env://", "file://"];

/// Fetches a secret. `env://NAME` is an environment variable, `file://PATH` a file's content without its last line break;
/// a relative path starts at `base`. `Error::Pipeline` (without a place) where there is no such secret or it is empty.
pub fn resolve(reference: &str, base: &Path) -> Result<Secret> {
    resolve_in(reference, base, &|name| std::env::var_os(name))
}

fn resolve_in(reference: &str, base: &Path, vars: &dyn Fn(&str) -> Option<OsString>) -> Result<Secret> {
    let complain = |message: String, help: String| Err(Error::pipeline(Complaint::at([""; 0], message).help(help)));
    if let Some(name) = reference.strip_prefix("env://") {
        return match vars(name) {
            None => complain(format!("the secret's environment variable `{name}` is not set"), format!("set `{name}` where smelt runs")),
            Some(value) if value.is_empty() => {
                complain(format!("the secret's environment variable `{name}` is empty"), "a key must have at least one character".into())
            }
            Some(value) => Ok(Secret::new(value.as_encoded_bytes())),
        };
    }
    if let Some(path) = reference.strip_prefix("file://") {
        let full = base.join(path);
        return match std::fs::read(&full) {
            Err(e) => complain(
                format!("the secret's file {} cannot be read: {e}", full.display()),
                "check the path (a relative one starts at the pipeline's folder) and the file's permissions".into(),
            ),
            Ok(bytes) => {
                let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
                match bytes {
                    [] => complain(format!("the secret's file {} is empty", full.display()), "write the secret into it".into()),
                    bytes => Ok(Secret::new(bytes)),
                }
            }
        };
    }
    let scheme = reference.split("://").next().unwrap_or(reference);
    complain(format!("secrets of kind `{scheme}` are not available in this version"), "use env://NAME or file://PATH".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(name: &str) -> Option<OsString> {
        match name {
            "PII" => Some("hunter2".into()),
            "EMPTY" => Some("".into()),
            _ => None,
        }
    }

    #[test]
    fn from_the_environment() {
        let get = |reference| resolve_in(reference, Path::new("."), &vars);
        assert_eq!(get("env://PII").unwrap().reveal(), b"hunter2");
        let missing = get("env://NOPE").unwrap_err();
        assert!(matches!(missing, Error::Pipeline(_)));
        assert_eq!(missing.to_string(), "the secret's environment variable `NOPE` is not set (set `NOPE` where smelt runs)");
        assert!(get("env://EMPTY").is_err());
        assert!(get("aws-sm://x/y").unwrap_err().to_string().contains("`aws-sm` are not available in this version"));
    }

    #[test]
    fn from_files_without_the_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), b"a\nb\r\n").unwrap();
        std::fs::write(folder.path().join("none"), b"\n").unwrap();
        let get = |reference: &str| resolve_in(reference, folder.path(), &vars);
        assert_eq!(get("file://key").unwrap().reveal(), b"a\nb");
        let absolute = format!("file://{}", folder.path().join("key").display());
        assert_eq!(resolve_in(&absolute, Path::new("/nowhere"), &vars).unwrap().reveal(), b"a\nb");
        assert!(get("file://none").unwrap_err().to_string().contains("is empty"));
        assert!(get("file://gone").unwrap_err().to_string().contains("cannot be read"));
    }
}
