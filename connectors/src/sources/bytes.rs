//! The text of one file: taken from the store in large pieces, decompressed, transcoded to UTF-8, without its byte order mark.
//!
//! Memory stays at a few megabytes whatever the file's size. This room knows nothing of records; bytes that are no text in the
//! given encoding pass as the byte 0xFF, which is never UTF-8, so that the record around them is found malformed.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, GetResultPayload};
use smelt_engine::error::{Error, Result};
use smelt_engine::ledger::Ledger;
use zstd::stream::raw::Operation;

use super::{Compression, Encoding, SourceFile};

/// Bytes of one request to a remote store; two of them are under way at a time.
const RANGE: u64 = 4 << 20;
/// Stored bytes that are decompressed or transcoded at a time.
const PIECE: usize = 256 << 10;

/// How a fill ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fill {
    /// There may be more.
    More,
    /// That was the end of the file.
    End,
    /// The compressed stream ends early or is damaged: nothing more can be read. What was read is good.
    Broken(String),
}

/// Reads one file from its start to its end.
pub struct TextReader {
    raw: Raw,
    /// Stored bytes taken from the store and not yet decompressed.
    pending: Bytes,
    taken: u64,
    raw_ended: bool,
    unpacker: Option<Unpacker>,
    encoding: Encoding,
    text: Text,
    /// Decompressed bytes not yet transcoded.
    carry: Vec<u8>,
    packed_end: Option<Fill>,
    file: SourceFile,
    ledger: Option<Arc<Ledger>>,
}

enum Raw {
    /// A local file; absent only while a blocking read has it.
    File(Option<std::fs::File>),
    Stream(BoxStream<'static, object_store::Result<Bytes>>),
}

enum Text {
    /// The first bytes will tell.
    Unknown,
    /// UTF-8 already.
    Plain,
    Latin1,
    Other(encoding_rs::Decoder),
}

impl std::fmt::Debug for TextReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextReader").field("path", &self.file.path).field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl TextReader {
    /// Opens `file` in the very state in which it was listed. Stored bytes are counted in `ledger`.
    pub async fn open(file: &SourceFile, compression: Compression, encoding: Encoding, ledger: Option<Arc<Ledger>>) -> Result<Self> {
        let size = file.mark.size;
        let if_match = file.mark.etag.clone();
        let first = if size > RANGE { Some(GetRange::Bounded(0..RANGE)) } else { None };
        let options = GetOptions { if_match: if_match.clone(), range: first, ..GetOptions::default() };
        let got = file.store.get_opts(&file.location, options).await.map_err(|e| changed(file, e))?;
        let raw = match got.payload {
            // The handle is of the whole file, whatever the range.
            GetResultPayload::File(handle, _) => Raw::File(Some(handle)),
            GetResultPayload::Stream(body) if size <= RANGE => Raw::Stream(body),
            GetResultPayload::Stream(body) => {
                let (store, location) = (Arc::clone(&file.store), file.location.clone());
                let rest = futures::stream::iter((1..size.div_ceil(RANGE)).map(move |i| i * RANGE))
                    .map(move |start| {
                        let (store, location, if_match) = (Arc::clone(&store), location.clone(), if_match.clone());
                        async move {
                            let range = Some(GetRange::Bounded(start..size.min(start + RANGE)));
                            store.get_opts(&location, GetOptions { if_match, range, ..GetOptions::default() }).await?.bytes().await
                        }
                    })
                    .buffered(2);
                Raw::Stream(body.chain(rest).boxed())
            }
        };
        Ok(TextReader {
            raw,
            pending: Bytes::new(),
            taken: 0,
            raw_ended: false,
            unpacker: Unpacker::of(compression, &file.path)?,
            encoding,
            text: Text::Unknown,
            carry: vec![],
            packed_end: None,
            file: file.clone(),
            ledger,
        })
    }

    /// Appends about `want` bytes of text to `out`, or less; never nothing, unless the end is told.
    pub async fn fill(&mut self, out: &mut Vec<u8>, want: usize) -> Result<Fill> {
        if matches!(self.text, Text::Unknown) {
            self.sniff().await?;
        }
        if let Text::Plain = self.text {
            if !self.carry.is_empty() {
                out.append(&mut self.carry);
                return Ok(Fill::More);
            }
            return self.unpack(out, want).await;
        }
        let mut ended = Fill::More;
        if self.carry.is_empty() || self.packed_end.is_some() {
            let mut carry = std::mem::take(&mut self.carry);
            ended = self.unpack(&mut carry, want.min(PIECE)).await?;
            self.carry = carry;
        }
        transcode(&mut self.text, &self.carry, out, ended == Fill::End);
        self.carry.clear();
        Ok(ended)
    }

    /// Finds the encoding by the byte order mark, and removes it.
    async fn sniff(&mut self) -> Result<()> {
        let mut head = vec![];
        while head.len() < 3 && self.unpack(&mut head, 4).await? == Fill::More {}
        let (text, mark) = match (self.encoding, head.as_slice()) {
            (Encoding::Utf8, [0xEF, 0xBB, 0xBF, ..]) => (Text::Plain, 3),
            (Encoding::Utf8 | Encoding::Utf16 | Encoding::Utf16Le, [0xFF, 0xFE, ..]) => (utf16le(), 2),
            (Encoding::Utf8 | Encoding::Utf16 | Encoding::Utf16Be, [0xFE, 0xFF, ..]) => (utf16be(), 2),
            (Encoding::Utf8, _) => (Text::Plain, 0),
            (Encoding::Latin1, _) => (Text::Latin1, 0),
            (Encoding::Windows1252, _) => (Text::Other(encoding_rs::WINDOWS_1252.new_decoder_without_bom_handling()), 0),
            (Encoding::Utf16 | Encoding::Utf16Le, _) => (utf16le(), 0),
            (Encoding::Utf16Be, _) => (utf16be(), 0),
        };
        head.drain(..mark);
        self.text = text;
        self.carry = head;
        Ok(())
    }

    /// Appends decompressed bytes. Ends are told again and again.
    async fn unpack(&mut self, out: &mut Vec<u8>, want: usize) -> Result<Fill> {
        if let Some(end) = &self.packed_end {
            return Ok(end.clone());
        }
        let end = match self.unpacker.take() {
            None => self.take_plain(out, want).await?,
            Some(mut unpacker) => {
                let end = self.take_packed(&mut unpacker, out, want).await?;
                self.unpacker = Some(unpacker);
                end
            }
        };
        if end != Fill::More {
            self.packed_end = Some(end.clone());
        }
        Ok(end)
    }

    async fn take_plain(&mut self, out: &mut Vec<u8>, want: usize) -> Result<Fill> {
        if let Raw::File(handle) = &mut self.raw {
            let Some(mut open) = handle.take() else { return Err(Error::bug("a read of this file failed before")) };
            let mut buf = std::mem::take(out);
            // A blocking thread: a network disk may keep the read waiting.
            let done = tokio::task::spawn_blocking(move || {
                buf.reserve(want);
                let read = open.by_ref().take(want as u64).read_to_end(&mut buf);
                (open, buf, read)
            });
            let (open, buf, read) = done.await.map_err(|e| Error::bug(e.to_string()))?;
            *out = buf;
            *handle = Some(open);
            let read = read?;
            self.count(read as u64);
            return if read < want { self.ended() } else { Ok(Fill::More) };
        }
        if self.pending.is_empty() {
            match self.next_piece().await? {
                Some(piece) => self.pending = piece,
                None => return Ok(Fill::End),
            }
        }
        let take = self.pending.len().min(want);
        out.extend_from_slice(&self.pending.split_to(take));
        Ok(Fill::More)
    }

    async fn take_packed(&mut self, unpacker: &mut Unpacker, out: &mut Vec<u8>, want: usize) -> Result<Fill> {
        let target = out.len() + want;
        out.reserve(want.max(4096));
        loop {
            if self.pending.is_empty() && !self.raw_ended {
                match self.next_piece().await? {
                    Some(piece) => self.pending = piece,
                    None => self.raw_ended = true,
                }
            }
            let before = out.len();
            if out.capacity() - before < 1024 {
                return Ok(Fill::More);
            }
            match unpacker.run(&self.pending, out) {
                Ok(used) => {
                    let _ = self.pending.split_to(used);
                    let stuck = used == 0 && out.len() == before;
                    if stuck && self.raw_ended {
                        if self.pending.is_empty() && !unpacker.inside {
                            return Ok(Fill::End);
                        }
                        return Ok(Fill::Broken(format!(
                            "the {} stream ends early at byte {}; rows after it are lost, fetch the file again",
                            unpacker.name(),
                            self.taken
                        )));
                    }
                    if stuck && !self.pending.is_empty() {
                        return Ok(Fill::Broken(self.damaged(unpacker)));
                    }
                    if out.len() >= target {
                        return Ok(Fill::More);
                    }
                }
                Err(()) => return Ok(Fill::Broken(self.damaged(unpacker))),
            }
        }
    }

    fn damaged(&self, unpacker: &Unpacker) -> String {
        let at = self.taken - self.pending.len() as u64;
        format!("the {} stream is damaged near byte {at}; rows after it are lost, fetch the file again", unpacker.name())
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let piece = match &mut self.raw {
            Raw::Stream(body) => body.try_next().await.map_err(|e| changed(&self.file, e))?,
            Raw::File(handle) => {
                let Some(mut open) = handle.take() else { return Err(Error::bug("a read of this file failed before")) };
                let done = tokio::task::spawn_blocking(move || {
                    let mut buf = Vec::with_capacity(PIECE);
                    let read = open.by_ref().take(PIECE as u64).read_to_end(&mut buf);
                    (open, read.map(|_| buf))
                });
                let (open, buf) = done.await.map_err(|e| Error::bug(e.to_string()))?;
                *handle = Some(open);
                let buf = buf?;
                (!buf.is_empty()).then(|| Bytes::from(buf))
            }
        };
        match piece {
            Some(piece) => {
                self.count(piece.len() as u64);
                Ok(Some(piece))
            }
            None => self.ended().map(|_| None),
        }
    }

    fn count(&mut self, bytes: u64) {
        self.taken += bytes;
        if let Some(ledger) = &self.ledger {
            ledger.bytes_read.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The checkpoint will keep the file's mark, so the bytes must be those of the mark.
    fn ended(&self) -> Result<Fill> {
        if self.taken == self.file.mark.size {
            return Ok(Fill::End);
        }
        Err(Error::retry(
            format!("`{}` changed while it was read: {} bytes were listed, {} were there", self.file.path, self.file.mark.size, self.taken),
            "run again when it is complete; `min_age` leaves files alone that are still being written",
        ))
    }
}

pub(crate) fn changed(file: &SourceFile, e: object_store::Error) -> Error {
    match e {
        object_store::Error::Precondition { .. } => Error::retry(
            format!("`{}` changed after it was listed", file.path),
            "run again when it is complete; `min_age` leaves files alone that are still being written",
        ),
        other => other.into(),
    }
}

fn utf16le() -> Text {
    Text::Other(encoding_rs::UTF_16LE.new_decoder_without_bom_handling())
}

fn utf16be() -> Text {
    Text::Other(encoding_rs::UTF_16BE.new_decoder_without_bom_handling())
}

fn transcode(text: &mut Text, mut src: &[u8], out: &mut Vec<u8>, last: bool) {
    match text {
        Text::Unknown | Text::Plain => out.extend_from_slice(src),
        Text::Latin1 => {
            let start = out.len();
            out.resize(start + src.len() * 2, 0);
            let written = encoding_rs::mem::convert_latin1_to_utf8(src, &mut out[start..]);
            out.truncate(start + written);
        }
        Text::Other(decoder) => loop {
            let start = out.len();
            // Three bytes of UTF-8 for each unit, and some for what the decoder holds back.
            out.resize(start + src.len() * 3 + 16, 0);
            let (result, read, written) = decoder.decode_to_utf8_without_replacement(src, &mut out[start..], last);
            out.truncate(start + written);
            src = &src[read..];
            match result {
                encoding_rs::DecoderResult::InputEmpty => return,
                encoding_rs::DecoderResult::OutputFull => {}
                encoding_rs::DecoderResult::Malformed(..) => out.push(0xFF),
            }
        },
    }
}

/// A decompressor of one format that goes on from member to member, as concatenated files are.
struct Unpacker {
    format: Format,
    /// Inside a member: the stream may not end here.
    inside: bool,
}

enum Format {
    Gz(flate2::Decompress),
    Zst(zstd::stream::raw::Decoder<'static>),
    Bz2(bzip2::Decompress),
}

/// zlib's largest window.
const WINDOW: u8 = 15;

impl Unpacker {
    fn of(compression: Compression, path: &str) -> Result<Option<Self>> {
        let extension = path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        let format = match (compression, extension.as_str()) {
            (Compression::Gz, _) | (Compression::Auto, "gz" | "gzip") => Format::Gz(flate2::Decompress::new_gzip(WINDOW)),
            (Compression::Zst, _) | (Compression::Auto, "zst" | "zstd") => Format::Zst(zstd::stream::raw::Decoder::new()?),
            (Compression::Bz2, _) | (Compression::Auto, "bz2") => Format::Bz2(bzip2::Decompress::new(false)),
            (Compression::None | Compression::Auto, _) => return Ok(None),
        };
        Ok(Some(Unpacker { format, inside: false }))
    }

    fn name(&self) -> &'static str {
        match self.format {
            Format::Gz(_) => "gzip",
            Format::Zst(_) => "zstd",
            Format::Bz2(_) => "bzip2",
        }
    }

    /// Decompresses into the spare capacity of `out`; returns how much of `input` was used.
    fn run(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, ()> {
        if !self.inside && input.is_empty() {
            return Ok(0);
        }
        match &mut self.format {
            Format::Gz(inflate) => {
                if !self.inside && input[0] == 0 {
                    // Tapes and some tools pad the end with zeros.
                    return Ok(input.iter().take_while(|b| **b == 0).count());
                }
                let before = inflate.total_in();
                let status = inflate.decompress_vec(input, out, flate2::FlushDecompress::None).map_err(|_| ())?;
                let used = (inflate.total_in() - before) as usize;
                self.inside = status != flate2::Status::StreamEnd;
                if !self.inside {
                    *inflate = flate2::Decompress::new_gzip(WINDOW);
                }
                Ok(used)
            }
            Format::Zst(decoder) => {
                let at = out.len();
                let mut source = zstd::stream::raw::InBuffer::around(input);
                let mut sink = zstd::stream::raw::OutBuffer::around_pos(out, at);
                let hint = decoder.run(&mut source, &mut sink).map_err(|_| ())?;
                self.inside = hint != 0;
                Ok(source.pos())
            }
            Format::Bz2(decompress) => {
                let before = decompress.total_in();
                let status = decompress.decompress_vec(input, out).map_err(|_| ())?;
                let used = (decompress.total_in() - before) as usize;
                self.inside = status != bzip2::Status::StreamEnd;
                if !self.inside {
                    *decompress = bzip2::Decompress::new(false);
                }
                Ok(used)
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt};
    use smelt_engine::table::FileMark;
    use std::io::Write;

    /// A file in memory.
    pub(crate) async fn file(path: &str, content: impl Into<Vec<u8>>) -> SourceFile {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let content = content.into();
        let location = Path::parse(path).unwrap();
        let size = content.len() as u64;
        store.put(&location, content.into()).await.unwrap();
        let mark = FileMark { size, modified: 0, etag: None };
        SourceFile { location, path: path.into(), mark, partitions: vec![], store }
    }

    async fn read(file: &SourceFile, encoding: Encoding) -> (Vec<u8>, Fill) {
        let mut reader = TextReader::open(file, Compression::Auto, encoding, None).await.unwrap();
        let mut out = vec![];
        loop {
            let end = reader.fill(&mut out, 5000).await.unwrap();
            if end != Fill::More {
                return (out, end);
            }
        }
    }

    pub(crate) fn gz(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn bz2(text: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(vec![], bzip2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Text that does not compress to nothing.
    pub(crate) fn long_text() -> Vec<u8> {
        (0..40_000u64).flat_map(|i| format!("{i},{}\n", i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into_bytes()).collect()
    }

    #[tokio::test]
    async fn every_compression_with_several_members() {
        let text = long_text();
        let twice = [text.clone(), text.clone()].concat();
        let zst = zstd::encode_all(text.as_slice(), 1).unwrap();
        for (name, packed) in [("a.gz", gz(&text)), ("a.zst", zst), ("a.bz2", bz2(&text))] {
            let one = file(name, packed.clone()).await;
            assert!(read(&one, Encoding::Utf8).await == (text.clone(), Fill::End), "{name}");
            let two = file(name, [packed.clone(), packed.clone()].concat()).await;
            assert!(read(&two, Encoding::Utf8).await == (twice.clone(), Fill::End), "{name} twice");
            let cut = file(name, &packed[..packed.len() / 2]).await;
            let (got, end) = read(&cut, Encoding::Utf8).await;
            assert!(text.starts_with(&got) && (name == "a.bz2" || got.len() > text.len() / 4), "{name}: {}", got.len());
            let Fill::Broken(reason) = end else { panic!("{name} is not broken") };
            assert!(reason.contains(&format!("ends early at byte {}", packed.len() / 2)), "{reason}");
        }
        let plain = file("a.gz", "no gzip at all").await;
        assert!(matches!(read(&plain, Encoding::Utf8).await.1, Fill::Broken(reason) if reason.contains("damaged")));
        assert_eq!(read(&file("a.gz", "").await, Encoding::Utf8).await, (vec![], Fill::End));
    }

    #[tokio::test]
    async fn every_encoding() {
        let text = "año,naïve €\n";
        let utf16 =
            |le: bool| -> Vec<u8> { text.encode_utf16().flat_map(|u| if le { u.to_le_bytes() } else { u.to_be_bytes() }).collect() };
        let with = |mark: &[u8], body: Vec<u8>| [mark.to_vec(), body].concat();
        let cases = [
            (Encoding::Utf8, text.as_bytes().to_vec()),
            (Encoding::Utf8, with(&[0xEF, 0xBB, 0xBF], text.into())),
            (Encoding::Utf8, with(&[0xFF, 0xFE], utf16(true))),
            (Encoding::Utf16, with(&[0xFE, 0xFF], utf16(false))),
            (Encoding::Utf16, utf16(true)),
            (Encoding::Utf16Le, utf16(true)),
            (Encoding::Utf16Be, utf16(false)),
            (Encoding::Windows1252, b"a\xF1o,na\xEFve \x80\n".to_vec()),
        ];
        for (encoding, bytes) in cases {
            assert_eq!(String::from_utf8(read(&file("a.csv", bytes).await, encoding).await.0).unwrap(), text, "{encoding:?}");
        }
        assert_eq!(read(&file("a", b"a\xF1\x80".to_vec()).await, Encoding::Latin1).await.0, "añ\u{80}".as_bytes());
        assert_eq!(read(&file("a", b"a\0\x00\xD8b\0c".to_vec()).await, Encoding::Utf16Le).await.0, b"a\xFFb\xFF");
    }

    #[tokio::test]
    async fn a_large_object_comes_in_ranges() {
        let text: Vec<u8> = (0..RANGE * 2 + 12345).map(|i| (i % 251) as u8).collect();
        let big = file("a.bin", text.clone()).await;
        assert!(read(&big, Encoding::Latin1).await.0.len() > text.len());
        assert!(read(&big, Encoding::Utf8).await.0 == text);
    }

    #[tokio::test]
    async fn a_file_that_grew_is_not_taken() {
        let mut grown = file("a.csv", "a\n1\n").await;
        grown.mark.size = 2;
        let mut reader = TextReader::open(&grown, Compression::Auto, Encoding::Utf8, None).await.unwrap();
        let mut out = vec![];
        let _ = reader.fill(&mut out, 100).await;
        assert!(matches!(reader.fill(&mut out, 100).await, Err(Error::Retry { .. })));
    }
}
