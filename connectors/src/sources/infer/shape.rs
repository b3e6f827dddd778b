//! What JSON records have at each of their places, and the columns that follow from it.

use smelt_engine::contract::{Column, hidden};
use smelt_engine::types::ContractType;

use super::evidence::Evidence;
use crate::sources::json::scan::{Brackets, Scanner, Stop, Token, unescape};
use crate::sources::json::{Layout, Step, detect, show_path};

/// Records of a JSON sample that are looked at.
const MAX_RECORDS: usize = 20_000;
/// An object with more keys than this is a map in disguise.
const MAX_FIELDS: usize = 200;

/// Calls `see` on a scanner at each whole, sound record.
pub(super) fn each_record(sample: &[u8], mut see: impl FnMut(&mut Scanner<'_>)) {
    let layout = detect(sample, true).unwrap_or(Layout::Lines);
    let mut pos = 0;
    let mut records = 0;
    if layout == Layout::Array {
        pos = sample.iter().position(|b| *b == b'[').map_or(sample.len(), |at| at + 1);
    }
    while pos < sample.len() && records < MAX_RECORDS {
        let end = match layout {
            Layout::Lines => memchr::memchr(b'\n', &sample[pos..]).map_or(sample.len(), |at| pos + at),
            _ => sample.len(),
        };
        let mut scan = Scanner::new(sample, end);
        scan.pos = pos;
        scan.space();
        let start = scan.pos;
        let sound = scan.peek() == b'{' && scan.skip(0).is_ok() && std::str::from_utf8(&sample[start..scan.pos]).is_ok();
        let behind = scan.pos;
        scan.space();
        if sound && (layout != Layout::Lines || scan.pos == end) {
            scan.pos = start;
            see(&mut scan);
            records += 1;
        }
        pos = match layout {
            Layout::Lines => end + 1,
            Layout::Objects if sound => behind,
            Layout::Objects if !matches!(sample.get(start), Some(b'{' | b'[')) => {
                memchr::memchr2(b'{', b'[', &sample[start..]).map_or(sample.len(), |at| start + at)
            }
            Layout::Objects => Brackets::default().follow(sample, start, |_, _, depth| depth == 0).max(pos + 1),
            Layout::Array => Brackets::in_array().follow(sample, start, |_, b, depth| depth == 0 || (b == b',' && depth == 1)),
        };
    }
}

/// What was seen at one place of the records.
#[derive(Debug, Default)]
pub(super) struct Shape {
    text: Option<Evidence>,
    number: Option<Evidence>,
    boolean: bool,
    object: bool,
    array: bool,
    pub fields: Vec<(String, Shape)>,
    /// Has more fields than are kept.
    wide: bool,
    element: Option<Box<Shape>>,
}

impl Shape {
    /// Takes in the value at the cursor, which is known to be sound.
    pub fn observe(&mut self, scan: &mut Scanner<'_>) {
        // Sound: no Stop comes, and depth is bounded.
        let _ = self.try_observe(scan);
    }

    fn try_observe(&mut self, scan: &mut Scanner<'_>) -> Result<(), Stop> {
        match scan.peek() {
            b'{' => {
                self.object = true;
                scan.pos += 1;
                scan.space();
                let mut next = 0;
                while scan.peek() != b'}' {
                    let (start, end) = scan.key()?;
                    let name = content(&scan.block[start..end]);
                    match self.field(name, next) {
                        Some(i) => {
                            next = i + 1;
                            self.fields[i].1.try_observe(scan)?;
                        }
                        None => drop(scan.skip(0)?),
                    }
                    separator(scan);
                }
                scan.pos += 1;
            }
            b'[' => {
                self.array = true;
                scan.pos += 1;
                scan.space();
                while scan.peek() != b']' {
                    self.element.get_or_insert_default().try_observe(scan)?;
                    separator(scan);
                }
                scan.pos += 1;
            }
            _ => {
                let start = scan.pos;
                let token = scan.skip(0)?;
                let raw = &scan.block[start..scan.pos];
                match token {
                    Token::String { .. } => self.text.get_or_insert_default().observe(&content(raw)),
                    Token::Number => self.number.get_or_insert_default().observe(&String::from_utf8_lossy(raw)),
                    Token::Bool => self.boolean = true,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Index of the field, which is probably `next`.
    fn field(&mut self, name: String, next: usize) -> Option<usize> {
        if self.fields.get(next).is_some_and(|(n, _)| *n == name) {
            return Some(next);
        }
        if let Some(i) = self.fields.iter().position(|(n, _)| *n == name) {
            return Some(i);
        }
        if self.fields.len() >= MAX_FIELDS {
            self.wide = true;
            return None;
        }
        self.fields.push((name, Shape::default()));
        Some(self.fields.len() - 1)
    }

    fn has_scalars(&self) -> bool {
        self.text.is_some() || self.number.is_some() || self.boolean
    }

    /// An object each time, with a bounded set of fields.
    pub fn only_object(&self) -> bool {
        self.object && !self.array && !self.has_scalars() && !self.wide && !self.fields.is_empty()
    }

    /// The type, and its formats.
    fn ty(&self) -> (ContractType, Vec<String>) {
        let plain = |ty| (ty, vec![]);
        match (self.has_scalars(), self.object, self.array) {
            (true, false, false) => match (&self.text, &self.number, self.boolean) {
                // A string in quotes was meant as one, unless it is a date.
                (Some(text), None, false) => text.time().unwrap_or(plain(ContractType::String)),
                (None, Some(number), false) => plain(number.number().unwrap_or(ContractType::String)),
                (None, None, true) => plain(ContractType::Boolean),
                _ => plain(ContractType::String),
            },
            (false, false, false) => plain(ContractType::String),
            (false, true, false) if self.only_object() && self.names_fit() => {
                plain(ContractType::Struct(self.fields.iter().map(|(name, shape)| (name.clone(), shape.inner())).collect()))
            }
            (false, false, true) => match self.element.as_ref().map(|e| e.inner()) {
                None | Some(ContractType::Json) => plain(ContractType::Json),
                Some(element) => plain(ContractType::List(Box::new(element))),
            },
            _ => plain(ContractType::Json),
        }
    }

    /// The type inside of another one, where there is no place for formats, and where a string must be one.
    fn inner(&self) -> ContractType {
        match self.ty() {
            (ContractType::String, _) if self.number.is_some() || self.boolean => ContractType::Json,
            (ty, formats) if formats.is_empty() => ty,
            _ => ContractType::String,
        }
    }

    /// The names can be written in a struct type, and are told apart in any case.
    fn names_fit(&self) -> bool {
        let fits = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.as_bytes()[0].is_ascii_digit()
        };
        let mut lower: Vec<String> = self.fields.iter().map(|(n, _)| n.to_lowercase()).collect();
        lower.sort_unstable();
        self.fields.iter().all(|(name, _)| fits(name)) && lower.windows(2).all(|w| w[0] != w[1])
    }

    /// Adds the column or, flattened, the columns of this place.
    pub fn columns(&self, steps: &mut Vec<Step>, flatten: bool, out: &mut Vec<Column>) {
        if flatten && self.only_object() {
            for (key, shape) in &self.fields {
                steps.push(Step::Key(key.clone()));
                shape.columns(steps, flatten, out);
                steps.pop();
            }
            return;
        }
        let keys: Vec<&str> = steps.iter().filter_map(|s| if let Step::Key(k) = s { Some(k.as_str()) } else { None }).collect();
        let wanted = keys.join("_");
        let taken = |name: &str| out.iter().any(|c| c.name.eq_ignore_ascii_case(name)) || hidden::RESERVED.contains(&name);
        let mut name = wanted.clone();
        let mut n = 2;
        while taken(&name) {
            name = format!("{wanted}_{n}");
            n += 1;
        }
        let path = (steps[..] != [Step::Key(name.clone())]).then(|| show_path(steps));
        let (ty, formats) = self.ty();
        out.push(Column { formats, path, ..Column::new(name, ty) });
    }

    /// Takes the element out of the array at `steps`, and the array out of its object.
    pub fn take_element(&mut self, steps: &[Step]) -> Option<Shape> {
        let (Step::Key(key), rest) = steps.split_first()? else {
            return None;
        };
        let at = self.fields.iter().position(|(n, _)| n == key)?;
        if rest.is_empty() {
            return self.fields.remove(at).1.element.map(|e| *e);
        }
        let element = self.fields[at].1.take_element(rest);
        if element.is_some() && self.fields[at].1.fields.is_empty() {
            self.fields.remove(at);
        }
        element
    }
}

fn separator(scan: &mut Scanner<'_>) {
    scan.space();
    if scan.peek() == b',' {
        scan.pos += 1;
        scan.space();
    }
}

/// The content of a string given with its quotes.
fn content(raw: &[u8]) -> String {
    let mut out = Vec::with_capacity(raw.len());
    unescape(&raw[1..raw.len() - 1], &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
