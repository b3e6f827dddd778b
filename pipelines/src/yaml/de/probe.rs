//! Finds out what a list would be a list of, by offering one element and noting as what it is asked for.

use std::cell::RefCell;

use serde::de::value::U64Deserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, SeqAccess, Visitor};

use super::fault::{Fault, What};
use crate::yaml::types::{SECRET, SPANNED};

/// Offers one element that only notes as what it is asked for.
pub(super) struct Probe<'h>(pub(super) &'h RefCell<&'static str>);

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        seed.deserialize(ProbeElement(self.0)).map(Some)
    }
}

struct ProbeElement<'h>(&'h RefCell<&'static str>);

macro_rules! probe {
    ($($hint:literal: $($method:ident)*;)*) => {$($(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
            self.note($hint)
        }
    )*)*};
}

impl ProbeElement<'_> {
    fn note<T>(&self, hint: &'static str) -> Result<T, Fault> {
        *self.0.borrow_mut() = hint;
        Err(Fault::new(What::Told))
    }
}

impl<'de> Deserializer<'de> for ProbeElement<'_> {
    type Error = Fault;

    probe! {
        "": deserialize_any deserialize_unit deserialize_identifier deserialize_ignored_any;
        "`true` or `false`": deserialize_bool;
        "whole numbers": deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
            deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128;
        "numbers": deserialize_f32 deserialize_f64;
        "strings": deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf;
        "lists": deserialize_seq;
        "maps": deserialize_map;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, Fault> {
        self.note("")
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        if name == SECRET { self.note("secrets") } else { visitor.visit_newtype_struct(self) }
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        self.note("lists")
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(self, name: &'static str, _: usize, visitor: V) -> Result<V::Value, Fault> {
        if name != SPANNED {
            return self.note("lists");
        }
        struct Skip<'h>(ProbeElement<'h>, usize);
        impl<'de> SeqAccess<'de> for Skip<'_> {
            type Error = Fault;
            fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
                self.1 += 1;
                let de: U64Deserializer<Fault> = 0u64.into_deserializer();
                if self.1 <= 3 { seed.deserialize(de) } else { seed.deserialize(ProbeElement(self.0.0)) }.map(Some)
            }
        }
        visitor.visit_seq(Skip(self, 0))
    }
    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        self.note("maps")
    }
    fn deserialize_enum<V: Visitor<'de>>(self, name: &'static str, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        self.note(match name {
            "Step" => "steps",
            "Check" => "checks",
            _ => "",
        })
    }
}
