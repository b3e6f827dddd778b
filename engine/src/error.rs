//! Errors, grouped by what the user must do about them. The binary maps each group to an exit code.
//!
//! No variant may carry a value of a row in clear unless the table masks nothing (law 3).

use std::fmt;

/// A place inside one component's configuration, from its root: keys and list indices, and within the text found
/// there (an SQL expression, say) a line and a column. The crate that knows the file turns it into file:line:column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Keys and indices from the component's root, e.g. `["derive", "purchase_month"]`.
    pub path: Vec<String>,
    /// 1-based line and column inside the text at `path`, and the length of the text to mark (in characters; 0: unknown).
    pub within: Option<(usize, usize, usize)>,
}

/// One thing that is wrong with a pipeline, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Where, relative to the component's own configuration.
    pub place: Place,
    /// What is wrong, in one sentence without a final period.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Complaint {
    /// A complaint about the value at `path`.
    pub fn at<S: Into<String>>(path: impl IntoIterator<Item = S>, message: impl Into<String>) -> Self {
        let place = Place { path: path.into_iter().map(Into::into).collect(), within: None };
        Complaint { place, message: message.into(), help: None }
    }

    /// Adds the remedy.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Prefixes the path: a component that holds another one says where.
    pub fn under<S: Into<String>>(mut self, prefix: impl IntoIterator<Item = S>) -> Self {
        let mut path: Vec<String> = prefix.into_iter().map(Into::into).collect();
        path.append(&mut self.place.path);
        self.place.path = path;
        self
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.path.is_empty() {
            write!(f, "{}: ", self.place.path.join("."))?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// Everything that can go wrong in the engine and the connectors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fix the pipeline: exit code 2, nothing was changed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Pipeline(Vec<Complaint>),
    /// Fix the data, or allow for it: exit code 3, nothing was published.
    #[error("{message}")]
    Data { message: String, help: Option<String> },
    /// As `Data`, from evaluating an expression: the message may quote a value. Exit code 3.
    #[error("{0}")]
    Value(String),
    /// The world outside failed (network, disk, another writer): exit code 4, running again is safe.
    #[error("{message}")]
    Retry { message: String, help: Option<String> },
    /// Our mistake: exit code 1.
    #[error("{0}")]
    Bug(String),
}

impl Error {
    pub fn pipeline(complaint: Complaint) -> Self {
        Error::Pipeline(vec![complaint])
    }
    pub fn data(message: impl Into<String>, help: impl Into<String>) -> Self {
        Error::Data { message: message.into(), help: Some(help.into()) }
    }
    pub fn retry(message: impl Into<String>, help: impl Into<String>) -> Self {
        Error::Retry { message: message.into(), help: Some(help.into()) }
    }
    pub fn bug(message: impl Into<String>) -> Self {
        Error::Bug(message.into())
    }
    /// The remedy, where there is one.
    pub fn help(&self) -> Option<&str> {
        match self {
            Error::Data { help, .. } | Error::Retry { help, .. } => help.as_deref(),
            Error::Value(_) => Some("a cast or a calculation met a value that it cannot take; use try_cast, or filter such rows first"),
            _ => None,
        }
    }
}

/// Our operators hand `Error` through DataFusion as an external error; this finds it again at the driver.
impl From<datafusion::error::DataFusionError> for Error {
    fn from(e: datafusion::error::DataFusionError) -> Self {
        use datafusion::error::DataFusionError as D;
        match e {
            D::External(inner) => match inner.downcast::<Error>() {
                Ok(own) => *own,
                Err(other) => match other.downcast::<D>() {
                    Ok(df) => (*df).into(),
                    Err(other) => outside(other),
                },
            },
            D::Context(context, inner) => match Error::from(*inner) {
                Error::Bug(m) => Error::Bug(format!("{context}: {m}")),
                own => own,
            },
            D::Diagnostic(_, inner) => (*inner).into(),
            D::Shared(inner) => match std::sync::Arc::try_unwrap(inner) {
                Ok(inner) => inner.into(),
                Err(shared) => shared_error(&shared),
            },
            D::ArrowError(inner, _) => match *inner {
                arrow::error::ArrowError::ExternalError(e) => D::External(e).into(),
                other => Error::Value(other.to_string()),
            },
            D::ObjectStore(e) => (*e).into(),
            D::ParquetError(e) => match *e {
                parquet::errors::ParquetError::External(inner) => D::External(inner).into(),
                // DataFusion's reader makes a text of what the store said
                parquet::errors::ParquetError::General(text) if text.contains("Object Store error") => unreachable_store(text),
                other => Error::Data { message: other.to_string(), help: None },
            },
            D::IoError(e) => e.into(),
            D::ResourcesExhausted(m) => Error::retry(m, "give more memory with --memory, or free disk space for spilling"),
            D::Execution(m) => Error::Value(m),
            other => Error::Bug(other.to_string()),
        }
    }
}

/// An error of a library below DataFusion.
fn outside(e: Box<dyn std::error::Error + Send + Sync>) -> Error {
    match e.downcast::<object_store::Error>() {
        Ok(store) => (*store).into(),
        Err(e) => match e.downcast::<std::io::Error>() {
            Ok(io) => (*io).into(),
            Err(other) => Error::Bug(other.to_string()),
        },
    }
}

fn unreachable_store(message: String) -> Error {
    Error::retry(message, "the store did not give the object; check permissions and network, then run again")
}

/// A shared error cannot be taken apart; its kind still decides the exit code.
fn shared_error(e: &datafusion::error::DataFusionError) -> Error {
    use datafusion::error::DataFusionError as D;
    match e.find_root() {
        D::External(inner) => match inner.downcast_ref::<Error>() {
            Some(Error::Data { message, help }) => Error::Data { message: message.clone(), help: help.clone() },
            Some(Error::Retry { message, help }) => Error::Retry { message: message.clone(), help: help.clone() },
            Some(Error::Pipeline(c)) => Error::Pipeline(c.clone()),
            Some(Error::Value(m)) => Error::Value(m.clone()),
            _ if inner.is::<object_store::Error>() || inner.is::<std::io::Error>() => unreachable_store(e.to_string()),
            _ => Error::Bug(e.to_string()),
        },
        D::ArrowError(..) | D::Execution(_) => Error::Value(e.to_string()),
        D::ObjectStore(_) | D::IoError(_) | D::ResourcesExhausted(_) => Error::Retry { message: e.to_string(), help: None },
        _ => Error::Bug(e.to_string()),
    }
}

impl From<Error> for datafusion::error::DataFusionError {
    fn from(e: Error) -> Self {
        datafusion::error::DataFusionError::External(Box::new(e))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Self {
        datafusion::error::DataFusionError::from(e).into()
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(e: parquet::errors::ParquetError) -> Self {
        datafusion::error::DataFusionError::from(e).into()
    }
}

impl From<object_store::Error> for Error {
    fn from(e: object_store::Error) -> Self {
        match e {
            object_store::Error::NotFound { path, .. } => Error::data(
                format!("{path} does not exist"),
                "it may have been moved while the run read it; run again, or correct the path",
            ),
            other => Error::retry(
                chain(&other),
                "the store did not take or give the object; check permissions, space and network, then run again",
            ),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::retry(e.to_string(), "check permissions and free disk space, then run again")
    }
}

/// The message of an error with those of its causes that it does not already repeat.
pub fn chain(e: &(dyn std::error::Error + 'static)) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let part = s.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = s.source();
    }
    text
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
