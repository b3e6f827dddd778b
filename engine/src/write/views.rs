//! What a batch really holds on to, and how to make it let go of the rest.
//!
//! A view array keeps whole data buffers alive, often those of the file block it was decoded from. Whoever keeps rows
//! for long must copy out the bytes that it needs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray};
use arrow::datatypes::{ByteViewType, DataType};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

/// The same rows; view columns that keep far more bytes alive than they use are copied.
pub(crate) fn compact(batch: &RecordBatch) -> RecordBatch {
    map(batch, |a| match a.data_type() {
        DataType::Utf8View => sparse(a.as_string_view()).map(|v| Arc::new(v) as ArrayRef),
        DataType::BinaryView => sparse(a.as_binary_view()).map(|v| Arc::new(v) as ArrayRef),
        _ => None,
    })
}

/// The same rows; every view column owns its bytes.
pub(crate) fn own(batch: &RecordBatch) -> RecordBatch {
    map(batch, |a| match a.data_type() {
        DataType::Utf8View => Some(Arc::new(a.as_string_view().gc())),
        DataType::BinaryView => Some(Arc::new(a.as_binary_view().gc())),
        _ => None,
    })
}

/// Bytes that the rows keep alive.
pub(crate) fn bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|c| array_bytes(c.as_ref())).sum()
}

fn array_bytes(array: &dyn Array) -> usize {
    let nulls = array.nulls().map_or(0, |_| array.len() / 8);
    let buffers = match array.data_type() {
        DataType::Utf8View => array.as_string_view().data_buffers(),
        DataType::BinaryView => array.as_binary_view().data_buffers(),
        t => {
            return match t.primitive_width() {
                Some(width) => width * array.len() + nulls,
                None => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
            };
        }
    };
    16 * array.len() + nulls + buffers.iter().map(|b| b.len()).sum::<usize>()
}

fn sparse<T: ByteViewType + ?Sized>(array: &GenericByteViewArray<T>) -> Option<GenericByteViewArray<T>> {
    let held: usize = array.data_buffers().iter().map(|b| b.len()).sum();
    (held > 16 * 1024 && held > 2 * array.total_buffer_bytes_used()).then(|| array.gc())
}

fn map(batch: &RecordBatch, f: impl Fn(&ArrayRef) -> Option<ArrayRef>) -> RecordBatch {
    let columns: Vec<_> = batch.columns().iter().map(|c| f(c).unwrap_or_else(|| Arc::clone(c))).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    // The types are those of the batch that came in.
    RecordBatch::try_new_with_options(batch.schema(), columns, &options).unwrap_or_else(|_| batch.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringViewArray;

    #[test]
    fn a_slice_lets_go_of_the_block_it_came_from() {
        let long: Vec<String> = (0..10_000).map(|i| format!("a value longer than twelve bytes {i}")).collect();
        let array: ArrayRef = Arc::new(StringViewArray::from_iter_values(&long));
        let batch = RecordBatch::try_from_iter([("a", array)]).unwrap();
        let slice = batch.slice(5, 10);
        assert!(bytes(&slice) > 100_000);
        let small = compact(&slice);
        assert!(bytes(&small) < 2_000);
        assert_eq!(small, slice);
        assert_eq!(own(&slice), slice);
    }
}
