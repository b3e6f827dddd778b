//! Errors of decoding: what serde reports, then the place, then the diagnostic.

use std::fmt;

use serde::de::{Expected, Unexpected};

use super::{NodeDe, id};
use crate::diagnostic::Diagnostic;
use crate::yaml::Node;

#[derive(Debug)]
pub(super) struct Fault(pub(super) Box<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    /// The value at fault, once it is known.
    pub(super) target: Option<usize>,
    /// `None`: a consequence of an error already told.
    pub(super) diagnostic: Option<Diagnostic>,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Message(String),
    Expected(String),
    Missing(&'static str),
    UnknownKey(String, &'static [&'static str]),
    UnknownVariant(String, &'static [&'static str]),
    Told,
}

impl Fault {
    pub(super) fn new(what: What) -> Self {
        Fault(Box::new(Inner { target: None, diagnostic: None, what }))
    }

    pub(super) fn told(node: &Node, diagnostic: Option<Diagnostic>) -> Self {
        Fault(Box::new(Inner { target: Some(id(node)), diagnostic, what: What::Told }))
    }

    /// Gives the error the place of `de`, unless a place below it is known already.
    pub(super) fn placed(self, de: &NodeDe<'_>) -> Self {
        if self.0.target.is_some() {
            return self;
        }
        let consequence = match &self.0.what {
            What::Missing(field) => de.node.get(field).is_some_and(|child| de.context.skips(child)),
            What::Message(_) | What::Expected(_) => de.has_skipped_children(),
            _ => false,
        };
        Fault::told(de.node, (!consequence).then(|| self.0.what.explain(de)))
    }
}

impl What {
    pub(super) fn explain(self, de: &NodeDe<'_>) -> Diagnostic {
        let spot = de.node.spot(de.key);
        match self {
            What::Expected(expected) => de.mismatch(&expected),
            What::Message(message) => match message.split_once("\nhelp: ") {
                Some((message, help)) => Diagnostic::error(spot, message).help(help),
                None => Diagnostic::error(spot, message),
            },
            What::Missing(field) => {
                let place = de.key.map_or(de.node.head, |key| key.span);
                let owner = de.name().map(|n| format!(" in `{n}`")).unwrap_or_default();
                Diagnostic::error(place, format!("missing key `{field}`{owner}"))
                    .label(format!("needs `{field}`"))
                    .help(format!("add `{field}: …`"))
            }
            What::UnknownKey(name, known) => de.unknown_key("", spot, &name, known.iter().copied()),
            What::UnknownVariant(name, known) => de.unknown_variant("", spot, &name, known),
            What::Told => Diagnostic::error(spot, "wrong value"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.what)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::new(What::Message(message.to_string()))
    }
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Fault::new(What::Expected(expected.to_string()))
    }
    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Fault::new(What::Expected(expected.to_string()))
    }
    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Fault::new(What::Expected(expected.to_string()))
    }
    fn missing_field(field: &'static str) -> Self {
        Fault::new(What::Missing(field))
    }
    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Fault::new(What::UnknownKey(field.to_owned(), expected))
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Fault::new(What::UnknownVariant(variant.to_owned(), expected))
    }
}
