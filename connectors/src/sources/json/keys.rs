//! Which key comes next: records of one file have mostly the same keys in mostly the same order, so that a key is
//! usually told by one comparison of 16 bytes. Knows no values.

use hashbrown::HashMap;

/// Keys that are remembered per object, and the longest of them.
const MAX_KEYS: usize = 1024;
const MAX_LENGTH: usize = 256;
/// Keys that may be missing between two others before the key is looked up instead.
const WINDOW: usize = 16;
const NONE: u32 = u32::MAX;

/// The keys of the objects at one place, as a list in the order of their appearance.
#[derive(Debug)]
pub struct Keys {
    slots: Vec<Slot>,
    first: u32,
    /// By the key's text with its quotes.
    index: HashMap<Box<[u8]>, u32>,
}

impl Default for Keys {
    fn default() -> Self {
        Keys { slots: vec![], first: NONE, index: HashMap::new() }
    }
}

/// Where in the list the object being read is.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    previous: u32,
    next: u32,
}

#[derive(Debug)]
struct Slot {
    head: u128,
    mask: u128,
    /// With quotes and colon, as it stands in the source.
    text: Box<[u8]>,
    child: u32,
    next: u32,
}

impl Slot {
    /// Keys hold no control characters, so a match never runs over the end of a line.
    #[inline(always)]
    fn matches(&self, rest: &[u8]) -> bool {
        match rest.first_chunk::<16>() {
            Some(chunk) => {
                (u128::from_le_bytes(*chunk) ^ self.head) & self.mask == 0
                    && (self.text.len() <= 16 || rest[16..].starts_with(&self.text[16..]))
            }
            None => rest.starts_with(&self.text),
        }
    }
}

impl Keys {
    #[inline(always)]
    pub fn start(&self) -> Cursor {
        Cursor { previous: NONE, next: self.first }
    }

    /// The predicted key, if `rest` begins with it and its colon: its child, and the length of both.
    #[inline(always)]
    pub fn predicted(&self, cursor: &mut Cursor, rest: &[u8]) -> Option<(u32, usize)> {
        let slot = self.slots.get(cursor.next as usize)?;
        if !slot.matches(rest) {
            return None;
        }
        *cursor = Cursor { previous: cursor.next, next: slot.next };
        Some((slot.child, slot.text.len()))
    }

    /// The same for one of the keys behind the predicted one.
    pub fn ahead(&self, cursor: &mut Cursor, rest: &[u8]) -> Option<(u32, usize)> {
        let mut at = cursor.next;
        for _ in 0..WINDOW {
            let slot = self.slots.get(at as usize)?;
            if slot.matches(rest) {
                *cursor = Cursor { previous: at, next: slot.next };
                return Some((slot.child, slot.text.len()));
            }
            at = slot.next;
        }
        None
    }

    /// The child of a key given by its text, if it is known; prediction goes on behind it.
    pub fn find(&self, cursor: &mut Cursor, key: &[u8]) -> Option<u32> {
        let at = *self.index.get(key)?;
        let slot = self.slots.get(at as usize)?;
        *cursor = Cursor { previous: at, next: slot.next };
        Some(slot.child)
    }

    /// Remembers a key that [`Keys::find`] did not know, behind the one before it. False: there is no room.
    pub fn learn(&mut self, cursor: &mut Cursor, key: &[u8], child: u32) -> bool {
        if self.slots.len() >= MAX_KEYS || key.len() > MAX_LENGTH {
            return false;
        }
        let mut text = key.to_vec();
        text.push(b':');
        let n = text.len().min(16);
        let mut head = [0; 16];
        head[..n].copy_from_slice(&text[..n]);
        let mask = if n == 16 { u128::MAX } else { (1 << (8 * n)) - 1 };
        let new = self.slots.len() as u32;
        let link = match self.slots.get_mut(cursor.previous as usize) {
            Some(previous) => &mut previous.next,
            None => &mut self.first,
        };
        let next = std::mem::replace(link, new);
        self.slots.push(Slot { head: u128::from_le_bytes(head), mask, text: text.into(), child, next });
        self.index.insert(key.into(), new);
        *cursor = Cursor { previous: new, next };
        true
    }

    pub fn forget(&mut self) {
        *self = Keys::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_the_order_and_finds_its_way_back() {
        let mut keys = Keys::default();
        let mut cursor = keys.start();
        for (child, key) in ["\"a\"", "\"c\"", "\"a key of more than sixteen bytes\""].iter().enumerate() {
            assert!(keys.predicted(&mut cursor, key.as_bytes()).is_none());
            assert!(keys.learn(&mut cursor, key.as_bytes(), child as u32));
        }
        // An optional key goes between its neighbours.
        let mut cursor = keys.start();
        assert_eq!(keys.predicted(&mut cursor, b"\"a\":1"), Some((0, 4)));
        assert!(keys.learn(&mut cursor, b"\"b\"", 3));
        assert_eq!(keys.predicted(&mut cursor, b"\"c\":1,\"a key of more"), Some((1, 4)));
        assert_eq!(keys.predicted(&mut cursor, b"\"a key of more than sixteen bites\":"), None);
        assert_eq!(keys.predicted(&mut cursor, b"\"a key of more than sixteen bytes\":"), Some((2, 35)));
        // Absent, it is passed over; out of order, it is found by name.
        let mut cursor = keys.start();
        assert_eq!(keys.predicted(&mut cursor, b"\"a\":"), Some((0, 4)));
        assert_eq!(keys.predicted(&mut cursor, b"\"c\":"), None);
        assert_eq!(keys.ahead(&mut cursor, b"\"c\":"), Some((1, 4)));
        assert_eq!(keys.ahead(&mut cursor, b"\"b\":"), None);
        assert_eq!(keys.find(&mut cursor, b"\"b\""), Some(3));
        assert_eq!(keys.predicted(&mut cursor, b"\"c\":"), Some((1, 4)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut keys = Keys::default();
        let mut cursor = keys.start();
        let learned = (0..5000).filter(|i| keys.learn(&mut cursor, format!("\"{i}\"").as_bytes(), 0)).count();
        assert_eq!(learned, MAX_KEYS);
        assert!(!Keys::default().learn(&mut Cursor { previous: NONE, next: NONE }, &[b'x'; 300], 0));
    }
}
