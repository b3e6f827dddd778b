//! Utf8View columns under construction over one block: short strings inline, long ones as slices of the block or of a
//! side buffer. Knows no JSON.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};

/// A view that no string has: its length would be 4 GiB.
pub const NULL: u128 = u128::MAX;

/// A null that the record gives, told apart from a field that it lacks. Only where somebody asks; never in an array.
pub const GIVEN_NULL: u128 = u128::MAX - 1;

/// Strings inside the block must have 32-bit offsets.
pub const MAX_BLOCK: usize = i32::MAX as usize;

/// The view of `block[start..end]`, which becomes buffer 0 of the array.
#[inline(always)]
pub fn slice(block: &[u8], start: usize, end: usize) -> u128 {
    let len = end - start;
    if len <= 12 {
        if let Some(chunk) = block.get(start..).and_then(|rest| rest.first_chunk::<16>()) {
            // len is at most 12, so the shift is at most 96.
            let mask = (1u128 << (8 * len)) - 1;
            return (u128::from_le_bytes(*chunk) & mask) << 32 | len as u128;
        }
        return inline(&block[start..end]);
    }
    long(&block[start..start + 4], len, 0, start)
}

#[inline(always)]
fn long(head: &[u8], len: usize, buffer: usize, offset: usize) -> u128 {
    let prefix = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    len as u128 | u128::from(prefix) << 32 | (buffer as u128) << 64 | (offset as u128) << 96
}

/// `text` is at most 12 bytes.
fn inline(text: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    bytes[0] = text.len() as u8;
    bytes[4..4 + text.len()].copy_from_slice(text);
    u128::from_le_bytes(bytes)
}

/// Text that does not stand in the block as it is: unescaped strings, messages, constants. Buffers 1 and up.
#[derive(Debug, Default)]
pub struct Side {
    full: Vec<Vec<u8>>,
    open: Vec<u8>,
}

impl Side {
    /// Appends what `write` writes and returns its view.
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u128 {
        let mut start = self.open.len();
        write(&mut self.open);
        if self.open.len() > MAX_BLOCK {
            // Views have 32-bit offsets: begin another buffer with this text.
            let text = self.open.split_off(start);
            self.full.push(std::mem::replace(&mut self.open, text));
            start = 0;
        }
        let text = &self.open[start..];
        if text.len() <= 12 {
            let view = inline(text);
            self.open.truncate(start);
            return view;
        }
        long(text, text.len(), self.full.len() + 1, start)
    }

    pub fn put_str(&mut self, text: &str) -> u128 {
        self.put(|out| out.extend_from_slice(text.as_bytes()))
    }

    /// All buffers of the arrays to come, the block first.
    pub fn take(&mut self, block: &Buffer) -> Arc<[Buffer]> {
        let mut buffers = vec![block.clone()];
        buffers.extend(self.full.drain(..).map(Buffer::from_vec));
        if !self.open.is_empty() {
            buffers.push(Buffer::from_vec(std::mem::take(&mut self.open)));
        }
        buffers.into()
    }
}

/// Turns views, of which some are [`NULL`], into an array.
///
/// # Safety
/// Every view must be one that [`slice`] or [`Side::put`] made over `buffers`, of text that is UTF-8.
pub unsafe fn array(mut views: Vec<u128>, buffers: &Arc<[Buffer]>) -> ArrayRef {
    let valid = BooleanBuffer::collect_bool(views.len(), |i| views[i] != NULL);
    let nulls = NullBuffer::new(valid);
    let nulls = (nulls.null_count() > 0).then_some(nulls);
    if nulls.is_some() {
        for view in &mut views {
            if *view == NULL {
                *view = 0;
            }
        }
    }
    // SAFETY: the caller's promise; the views of NULL rows are empty strings.
    Arc::new(unsafe { StringViewArray::new_unchecked(ScalarBuffer::from(views), Arc::clone(buffers), nulls) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_every_length_read_back() {
        let block: Vec<u8> = (0..40).map(|i| b'a' + (i % 26)).collect();
        let mut side = Side::default();
        let (mut views, mut want) = (vec![], vec![]);
        for start in 0..40 {
            for end in start..=40 {
                views.push(slice(&block, start, end));
                views.push(side.put(|out| out.extend_from_slice(&block[start..end])));
                views.push(NULL);
                let text = std::str::from_utf8(&block[start..end]).unwrap();
                want.extend([Some(text), Some(text), None]);
            }
        }
        let buffers = side.take(&Buffer::from_vec(block.clone()));
        // SAFETY: the views were made above, over ASCII.
        let array = unsafe { array(views, &buffers) };
        array.to_data().validate_full().unwrap();
        let array = array.as_any().downcast_ref::<StringViewArray>().unwrap();
        assert_eq!(array.iter().collect::<Vec<_>>(), want);
    }
}
