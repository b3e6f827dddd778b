//! Nodes to typed values, with every mistake found in one go.
//!
//! serde stops at the first error, so decoding runs again after each one, as if the value at fault had not been written:
//! a list item or a map entry that is wrong hides nothing beside it. Unknown keys are skipped and collected on the way.
//! A visitor may end its message with a line `help: …`; it becomes the remedy.

use std::cell::RefCell;
use std::collections::HashSet;

use serde::de::value::{StrDeserializer, U64Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::node::{Kind, Node, Value};
use super::types::{SECRET, SPANNED};
use crate::diagnostic::{Diagnostic, Diagnostics, listing};

mod fault;
mod probe;
mod words;

use fault::{Fault, What};
use probe::Probe;

/// Rounds of decoding, which is the number of errors shown at once.
const MAX_ROUNDS: usize = 200;

/// A key or variant of the language that this version does not have: `(type, name)`, where the type is the Rust name of
/// the struct or enum, or "" for any. Says so instead of "unknown key".
pub type Unavailable<'a> = &'a [(&'a str, &'a str)];

/// Decodes a node. Pushes one diagnostic for each mistake. The value, where there is one, lacks what was wrong and is
/// only good for finding more mistakes when there were errors.
pub fn from_node<T: DeserializeOwned>(node: &Node, diagnostics: &mut Diagnostics) -> Option<T> {
    from_node_with(node, &[], diagnostics)
}

/// As [`from_node`], knowing names that are not available yet.
pub fn from_node_with<T: DeserializeOwned>(node: &Node, unavailable: Unavailable<'_>, diagnostics: &mut Diagnostics) -> Option<T> {
    let context = Context { unavailable, skip: RefCell::default(), found: RefCell::default() };
    let mut value = None;
    for _ in 0..MAX_ROUNDS {
        let de = NodeDe::new(&context, node, None);
        let fault = match T::deserialize(de) {
            Ok(done) => {
                value = Some(done);
                break;
            }
            Err(error) => error.placed(&de),
        };
        let (Some(target), diagnostic) = (fault.0.target, fault.0.diagnostic) else { break };
        if let Some(diagnostic) = diagnostic {
            context.found.borrow_mut().push(diagnostic);
        }
        if target == id(node) || !context.skip.borrow_mut().insert(target) {
            break;
        }
    }
    // A value that was wrong before it was decoded is not wrong twice.
    let found = context.found.into_inner().without(diagnostics);
    diagnostics.extend(found);
    value
}

/// What all rounds over one node share.
struct Context<'c> {
    unavailable: Unavailable<'c>,
    /// Values that were at fault; from the next round on they count as not written.
    skip: RefCell<HashSet<usize>>,
    found: RefCell<Diagnostics>,
}

impl Context<'_> {
    fn skips(&self, node: &Node) -> bool {
        self.skip.borrow().contains(&id(node))
    }

    fn is_unavailable(&self, ty: &str, name: &str) -> bool {
        self.unavailable.iter().any(|(t, n)| *n == name && (*t == ty || t.is_empty() || ty.is_empty()))
    }
}

/// A node's identity: the tree does not move while it is decoded.
fn id(node: &Node) -> usize {
    std::ptr::from_ref(node) as usize
}

/// Decodes one node.
#[derive(Clone, Copy)]
struct NodeDe<'a> {
    context: &'a Context<'a>,
    node: &'a Node,
    /// The key under which the node stands.
    key: Option<&'a Node>,
    /// Nothing was written after the name of a variant (`- dedup`); `node` is an empty map in its place.
    bare: bool,
}

impl<'a> NodeDe<'a> {
    fn new(context: &'a Context<'a>, node: &'a Node, key: Option<&'a Node>) -> Self {
        NodeDe { context, node, key, bare: false }
    }

    fn name(&self) -> Option<&'a str> {
        self.key.and_then(Node::text)
    }

    /// Nothing was written. (`null` where a string or a name is wanted is that word.)
    fn is_empty(&self) -> bool {
        self.node.is_null() && self.node.text() == Some("")
    }

    fn has_skipped_children(&self) -> bool {
        match &self.node.kind {
            Kind::Map(entries) => entries.iter().any(|(_, value)| self.context.skips(value)),
            Kind::List(items) => items.iter().any(|item| self.context.skips(item)),
            Kind::Scalar(_) | Kind::Secret(_) => false,
        }
    }

    fn fail<T>(&self, expected: &str) -> Result<T, Fault> {
        Err(Fault::told(self.node, (!self.has_skipped_children()).then(|| self.mismatch(expected))))
    }

    fn seq<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::List(items) => visitor.visit_seq(Items { de: self, items: items.iter() }).map_err(|e: Fault| e.placed(&self)),
            Kind::Scalar(_) if self.is_empty() => {
                visitor.visit_seq(Items { de: self, items: [].iter() }).map_err(|e: Fault| e.placed(&self))
            }
            _ => {
                // Asking the visitor for one element tells what the list is a list of.
                let hint = RefCell::new("");
                drop(visitor.visit_seq(Probe(&hint)));
                let of = hint.into_inner();
                self.fail(&if of.is_empty() { "a list".to_owned() } else { format!("a list of {of}") })
            }
        }
    }

    fn map<'de, V: Visitor<'de>>(self, fields: Option<(&'static str, &'static [&'static str])>, visitor: V) -> Result<V::Value, Fault> {
        let entries = match &self.node.kind {
            Kind::Map(entries) => entries.iter(),
            Kind::Scalar(_) if self.is_empty() => [].iter(),
            _ => {
                return match fields {
                    Some((_, fields)) if !fields.is_empty() => {
                        let few: Vec<String> = fields.iter().take(6).map(|f| format!("`{f}`")).collect();
                        let more = if fields.len() > 6 { ", …" } else { "" };
                        let keys = format!("write its keys ({}{more}) below it or in {{ }}", few.join(", "));
                        Err(Fault::told(self.node, Some(self.mismatch("a map").help(keys))))
                    }
                    _ => self.fail("a map"),
                };
            }
        };
        visitor.visit_map(Entries { de: self, entries, fields, value: None }).map_err(|e: Fault| e.placed(&self))
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.integer(visitor)
        }
    )*};
}

impl NodeDe<'_> {
    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value = self.node.scalar().map(|s| s.value());
        match value {
            Some(Value::Int(int)) => match (u64::try_from(int), i64::try_from(int)) {
                (Ok(int), _) => visitor.visit_u64(int),
                (_, Ok(int)) => visitor.visit_i64(int),
                _ => visitor.visit_i128(int),
            }
            .map_err(|e: Fault| e.placed(&self)),
            _ => self.fail("a whole number"),
        }
    }
}

impl<'de> Deserializer<'de> for NodeDe<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = match &self.node.kind {
            Kind::List(_) => return self.seq_of_any(visitor),
            Kind::Map(_) => return self.map(None, visitor),
            Kind::Secret(_) => return self.fail("another value"),
            Kind::Scalar(scalar) => scalar,
        };
        match scalar.value() {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(_) => return self.integer(visitor),
            Value::Float(value) => visitor.visit_f64(value),
            Value::Text(text) => visitor.visit_str(text),
        }
        .map_err(|e: Fault| e.placed(&self))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.scalar().map(|s| s.value()) {
            Some(Value::Bool(value)) => visitor.visit_bool(value).map_err(|e: Fault| e.placed(&self)),
            _ => self.fail("`true` or `false`"),
        }
    }

    integers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
    deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.scalar().map(|s| s.value()) {
            Some(Value::Float(value)) => visitor.visit_f64(value).map_err(|e: Fault| e.placed(&self)),
            Some(Value::Int(value)) => visitor.visit_f64(value as f64).map_err(|e: Fault| e.placed(&self)),
            _ => self.fail("a number"),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = self.node.text().filter(|t| t.chars().count() == 1);
        match text {
            Some(text) => visitor.visit_str(text).map_err(|e: Fault| e.placed(&self)),
            None => self.fail("one character"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.text() {
            Some(text) if !self.is_empty() => visitor.visit_str(text).map_err(|e: Fault| e.placed(&self)),
            _ => self.fail("a string"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }.map_err(|e: Fault| e.placed(&self))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.node.is_null() { visitor.visit_unit().map_err(|e: Fault| e.placed(&self)) } else { self.fail("nothing") }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        if name != SECRET {
            return visitor.visit_newtype_struct(self).map_err(|e: Fault| e.placed(&self));
        }
        match &self.node.kind {
            Kind::Secret(reference) => visitor.visit_str(reference).map_err(|e: Fault| e.placed(&self)),
            _ => {
                let by_variable = self.node.scalar().is_some_and(|s| s.replaced.is_some());
                if !by_variable && self.node.text().is_none_or(|t| !t.contains("${")) {
                    self.context.found.borrow_mut().conceal(self.node.span);
                }
                let diagnostic = Diagnostic::error(self.node.spot(self.key), "a secret must not stand in the pipeline itself")
                    .label(if by_variable { "variables may be shown; secrets are not" } else { "expected a reference to the secret" })
                    .help("write ${secret:env://NAME} for an environment variable, or ${secret:file://PATH} for a file");
                Err(Fault::told(self.node, Some(diagnostic)))
            }
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.seq(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, name: &'static str, _: usize, visitor: V) -> Result<V::Value, Fault> {
        if name == SPANNED {
            let spot = self.node.head;
            let numbers = [spot.source, spot.start, spot.end];
            return visitor.visit_seq(PlaceThenValue { de: self, numbers, given: 0 }).map_err(|e: Fault| e.placed(&self));
        }
        self.seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.map(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.map(Some((name, fields)), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (tag, payload) = match &self.node.kind {
            Kind::Scalar(_) if !self.is_empty() => (self.node, None),
            Kind::Map(entries) if entries.len() == 1 => (&entries[0].0, Some(&entries[0].1)),
            Kind::Map(entries) if entries.len() > 1 => {
                let names: Vec<&str> = entries.iter().filter_map(|(key, _)| key.text()).collect();
                let known: Vec<&str> = names.iter().copied().filter(|n| variants.contains(n)).collect();
                let help = match known.as_slice() {
                    [one] => {
                        let others = listing(names.iter().copied().filter(|n| n != one));
                        format!("{others} may belong inside `{one}`: indent further")
                    }
                    _ => "keep one; in a list, start each with its own `-`".to_owned(),
                };
                let mut diagnostic = Diagnostic::error(
                    entries[1].0.span,
                    format!("expected one name, found {}: {}", names.len(), listing(names.iter().copied())),
                )
                .label("a second name")
                .help(help);
                diagnostic = diagnostic.related(entries[0].0.span, "the first");
                return Err(Fault::told(self.node, Some(diagnostic)));
            }
            Kind::Secret(_) | Kind::List(_) | Kind::Map(_) | Kind::Scalar(_) => {
                return self.fail(&format!("one of {}", listing(variants.iter().copied())));
            }
        };
        let text = tag.text().unwrap_or_default();
        if !variants.contains(&text) {
            // A value that came in by a variable is marked, not shown.
            let shown = if tag.scalar().is_some_and(|s| s.replaced.is_some()) { "…" } else { text };
            return Err(Fault::told(self.node, Some(self.unknown_variant(name, tag.head, shown, variants))));
        }
        if payload.is_some_and(|p| self.context.skips(p)) {
            return Err(Fault::told(self.node, None));
        }
        visitor.visit_enum(Variant { de: self, tag, payload }).map_err(|e: Fault| e.placed(&self))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.node.text().unwrap_or_default()).map_err(|e: Fault| e.placed(&self))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}

impl NodeDe<'_> {
    fn seq_of_any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(Items { de: self, items: self.node.items().iter() }).map_err(|e: Fault| e.placed(&self))
    }
}

struct Items<'a> {
    de: NodeDe<'a>,
    items: std::slice::Iter<'a, Node>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some(item) = self.items.by_ref().find(|item| !self.de.context.skips(item)) else { return Ok(None) };
        let de = NodeDe::new(self.de.context, item, None);
        seed.deserialize(de).map(Some).map_err(|e: Fault| e.placed(&de))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'a> {
    de: NodeDe<'a>,
    entries: std::slice::Iter<'a, (Node, Node)>,
    fields: Option<(&'static str, &'static [&'static str])>,
    value: Option<(&'a Node, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        for (key, value) in self.entries.by_ref() {
            if self.de.context.skips(value) {
                continue;
            }
            let name = key.text().unwrap_or_default();
            if let Some((ty, fields)) = self.fields.filter(|(_, fields)| !fields.contains(&name)) {
                let diagnostic = self.de.unknown_key(ty, key.span, name, fields.iter().copied());
                self.de.context.found.borrow_mut().push(diagnostic);
                continue;
            }
            self.value = Some((key, value));
            let de = NodeDe::new(self.de.context, key, None);
            return seed.deserialize(de).map(Some).map_err(|error| match error.0.what {
                // A derived visitor that was handed a map without its fields.
                What::UnknownKey(name, known) => Fault::told(value, Some(self.de.unknown_key("", key.span, &name, known.iter().copied()))),
                what if error.0.target.is_none() => Fault::told(value, Some(what.explain(&de))),
                _ => Fault::told(value, error.0.diagnostic),
            });
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some((key, value)) = self.value.take() else { return Err(Fault::custom("a value was asked for before its key")) };
        let de = NodeDe::new(self.de.context, value, Some(key));
        seed.deserialize(de).map_err(|e: Fault| e.placed(&de))
    }
}

/// The parts of a `Spanned`: three numbers, then the value.
struct PlaceThenValue<'a> {
    de: NodeDe<'a>,
    numbers: [usize; 3],
    given: usize,
}

impl<'de> SeqAccess<'de> for PlaceThenValue<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let number = self.numbers.get(self.given).copied();
        self.given += 1;
        match number {
            Some(number) => {
                let de: U64Deserializer<Fault> = (number as u64).into_deserializer();
                seed.deserialize(de).map(Some)
            }
            None => seed.deserialize(self.de).map(Some),
        }
    }
}

struct Variant<'a> {
    de: NodeDe<'a>,
    tag: &'a Node,
    payload: Option<&'a Node>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Payload<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Payload<'a>), Fault> {
        let tag: StrDeserializer<'_, Fault> = self.tag.text().unwrap_or_default().into_deserializer();
        Ok((seed.deserialize(tag)?, Payload { de: self.de, tag: self.tag, node: self.payload }))
    }
}

struct Payload<'a> {
    de: NodeDe<'a>,
    tag: &'a Node,
    node: Option<&'a Node>,
}

impl Payload<'_> {
    /// Decodes the payload; where nothing was written, from an empty map in the place of the name.
    fn decode<T>(self, decode: impl FnOnce(NodeDe<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        match self.node {
            Some(node) => decode(NodeDe::new(self.de.context, node, Some(self.tag))),
            None => {
                let empty = Node { span: self.tag.span, head: self.tag.head, kind: Kind::Map(vec![]) };
                let de = NodeDe { context: self.de.context, node: &empty, key: Some(self.tag), bare: true };
                // The stand-in dies here: the fault belongs to the whole value.
                decode(de).map_err(|e: Fault| Fault::told(self.de.node, e.placed(&de).0.diagnostic))
            }
        }
    }
}

impl<'de> VariantAccess<'de> for Payload<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.node {
            Some(node) if !node.is_null() && !node.is_empty_collection() => {
                let de = NodeDe::new(self.de.context, node, Some(self.tag));
                let name = self.tag.text().unwrap_or_default();
                let diagnostic =
                    Diagnostic::error(node.spot(Some(self.tag)), format!("`{name}` takes no settings, found {}", de.describe()))
                        .label("nothing may stand here")
                        .help(format!("write just `{name}`"));
                Err(Fault::told(node, Some(diagnostic)))
            }
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        self.decode(|de| seed.deserialize(de).map_err(|e: Fault| e.placed(&de)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.decode(|de| de.seq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.decode(|de| de.map(Some(("", fields)), visitor))
    }
}
