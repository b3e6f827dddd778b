//! Debezium messages: where in a message the row's image and the envelope lie. Knows the envelope's keys; knows no column.
//!
//! A message is an envelope (`op`, `before`, `after`, `source`, …), the same below `payload` beside its `schema`, or a row
//! flattened by `ExtractNewRecordState`, which has `__op` or `__deleted` among its fields.

use super::scan::{Scanner, Stop, Token};
use crate::sources::feed::DEBEZIUM_OPS;

/// What stands in place of a value that the database's log does not hold, because it did not change.
pub const UNAVAILABLE: &[u8] = b"__debezium_unavailable_value";

/// What one message is. Places are of the `{` of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// `null`, which tells a log that compacts itself that the key is gone. The change itself came before it.
    Tombstone,
    Envelope {
        at: usize,
        image: Option<usize>,
        depth: u32,
    },
    /// `op` where the row does not say it by `__op`.
    Flat {
        at: usize,
        op: Option<&'static str>,
        depth: u32,
    },
}

type Value = Option<(usize, usize, Token)>;

/// The members of an object that decide.
#[derive(Default)]
struct Members {
    op: Value,
    before: Value,
    after: Value,
    payload: Value,
    flat_op: Value,
    deleted: Value,
}

/// Reads the message at the cursor and leaves the cursor behind it. All of it is validated.
pub fn locate(scan: &mut Scanner<'_>) -> Result<Message, Stop> {
    let start = scan.pos;
    if scan.peek() != b'{' {
        return match scan.skip(0)? {
            Token::Null => Ok(Message::Tombstone),
            token => Err(scan.stop_at(start, format!("{} where a record should be, which is an object,", token.name()))),
        };
    }
    let (mut at, mut depth) = (start, 0);
    let mut members = Members::read(scan, depth)?;
    let end = scan.pos;
    if let (Some((payload, _, token)), None, false) = (members.payload, members.op, members.is_flat()) {
        match token {
            Token::Null => return Ok(Message::Tombstone),
            Token::Object => {
                (at, depth) = (payload, 1);
                scan.pos = payload;
                members = Members::read(scan, depth)?;
                scan.pos = end;
            }
            token => return Err(scan.stop_at(payload, format!("'payload' is {}, not an object,", token.name()))),
        }
    }
    if members.is_flat() {
        let op = match (members.flat_op, members.deleted) {
            (Some(op), _) => {
                operation(scan, op, "__op")?;
                None
            }
            (None, Some((from, to, _))) => Some(if matches!(&scan.block[from..to], b"true" | b"\"true\"") { "d" } else { "u" }),
            (None, None) => None,
        };
        return Ok(Message::Flat { at, op, depth });
    }
    let Some(op) = members.op else {
        return Err(scan.stop_at(at, "no Debezium message: it has neither 'op' nor '__op'"));
    };
    let image = match operation(scan, op, "op")? {
        "t" => None,
        "d" => match members.before {
            Some((before, _, Token::Object)) => Some(before),
            None | Some((_, _, Token::Null)) => None,
            Some((before, _, token)) => return Err(scan.stop_at(before, format!("'before' is {}, not an object,", token.name()))),
        },
        _ => match members.after {
            Some((after, _, Token::Object)) => Some(after),
            None => return Err(scan.stop_at(at, "'after' is missing from a message that is no delete")),
            Some((after, _, token)) => return Err(scan.stop_at(after, format!("'after' is {}, not an object,", token.name()))),
        },
    };
    Ok(Message::Envelope { at, image, depth })
}

/// The operation's text. Never shows another.
fn operation(scan: &mut Scanner<'_>, (from, to, _): (usize, usize, Token), key: &str) -> Result<&'static str, Stop> {
    let text = scan.block[from..to].strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\""));
    match DEBEZIUM_OPS.iter().find(|op| text == Some(op.as_bytes())) {
        Some(op) => Ok(op),
        None => Err(scan.stop_at(from, format!("'{key}' is none of {}", DEBEZIUM_OPS.join(", ")))),
    }
}

impl Members {
    /// Reads the object at the cursor; `depth` containers are open around it.
    fn read(scan: &mut Scanner<'_>, depth: u32) -> Result<Members, Stop> {
        let mut members = Members::default();
        scan.pos += 1;
        scan.space();
        if scan.peek() == b'}' {
            scan.pos += 1;
            return Ok(members);
        }
        loop {
            let (start, end) = scan.key()?;
            let from = scan.pos;
            let token = scan.skip(depth + 1)?;
            let slot = match &scan.block[start + 1..end - 1] {
                b"op" => Some(&mut members.op),
                b"before" => Some(&mut members.before),
                b"after" => Some(&mut members.after),
                b"payload" => Some(&mut members.payload),
                b"__op" => Some(&mut members.flat_op),
                b"__deleted" => Some(&mut members.deleted),
                _ => None,
            };
            if slot.is_some_and(|slot| slot.replace((from, scan.pos, token)).is_some()) {
                return Err(scan.stop_at(start, "duplicate key"));
            }
            scan.space();
            match scan.peek() {
                b',' => {
                    scan.pos += 1;
                    scan.space();
                }
                b'}' => {
                    scan.pos += 1;
                    return Ok(members);
                }
                _ => return Err(scan.stop("expected ',' or '}'", "cut off inside an object")),
            }
        }
    }

    fn is_flat(&self) -> bool {
        self.flat_op.is_some() || self.deleted.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<Message, String> {
        let mut scan = Scanner::new(text.as_bytes(), text.len());
        match locate(&mut scan) {
            Ok(message) => {
                assert_eq!(scan.pos, text.len());
                Ok(message)
            }
            Err(Stop) => Err(scan.fault.unwrap().what.into_owned()),
        }
    }

    #[test]
    fn images_are_found_in_every_form() {
        let at = |at, image, depth| Ok(Message::Envelope { at, image, depth });
        assert_eq!(found(r#"{"after":{},"op":"c"}"#), at(0, Some(9), 0));
        assert_eq!(found(r#"{"op":"u", "before":{"a":1},"after": {"a":2}}"#), at(0, Some(37), 0));
        assert_eq!(found(r#"{"op":"d","before":{"a":1},"after":null}"#), at(0, Some(19), 0));
        assert_eq!(found(r#"{"op":"d","before":null}"#), at(0, None, 0));
        assert_eq!(found(r#"{"op":"t","source":{}}"#), at(0, None, 0));
        assert_eq!(found(r#"{"schema":{"op":1},"payload":{"op":"r","after":{}}}"#), at(29, Some(47), 1));
        assert_eq!(found(r#"{"payload":1,"op":"r","after":{}}"#), at(0, Some(30), 0));
        assert_eq!(found(r#"{"id":1,"__op":"u"}"#), Ok(Message::Flat { at: 0, op: None, depth: 0 }));
        assert_eq!(found(r#"{"id":1,"__deleted":"true"}"#), Ok(Message::Flat { at: 0, op: Some("d"), depth: 0 }));
        assert_eq!(found(r#"{"payload":{"op":1,"__deleted":false}}"#), Ok(Message::Flat { at: 11, op: Some("u"), depth: 1 }));
        for null in ["null", r#"{"schema":null,"payload":null}"#] {
            assert_eq!(found(null), Ok(Message::Tombstone));
        }
    }

    #[test]
    fn what_is_no_message_is_said() {
        for (text, why) in [
            ("[1]", "an array where a record should be, which is an object,"),
            (r#"{"id":1}"#, "no Debezium message: it has neither 'op' nor '__op'"),
            (r#"{"op":"m","message":{}}"#, "'op' is none of c, r, u, d, t"),
            (r#"{"op":null,"after":{}}"#, "'op' is none of c, r, u, d, t"),
            (r#"{"__op":"x"}"#, "'__op' is none of c, r, u, d, t"),
            (r#"{"op":"c"}"#, "'after' is missing from a message that is no delete"),
            (r#"{"op":"u","after":null}"#, "'after' is null, not an object,"),
            (r#"{"op":"d","before":[]}"#, "'before' is an array, not an object,"),
            (r#"{"payload":"x"}"#, "'payload' is a string, not an object,"),
            (r#"{"op":"c","op":"d","after":{}}"#, "duplicate key"),
            (r#"{"op":"c","after":{"a":1}"#, "cut off inside an object"),
            (r#"{"op":"c","after":{"a":1} x}"#, "expected ',' or '}'"),
        ] {
            assert_eq!(found(text), Err(why.into()), "{text}");
        }
    }
}
