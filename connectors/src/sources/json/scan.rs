//! Strict RFC 8259 scanning over bytes, without building anything. Knows JSON; knows no column, no row and no file.
//!
//! Everything that is passed over is validated. UTF-8 is the caller's to check, since one pass over the block is cheaper.

use std::borrow::Cow;

/// Containers nested deeper than this are refused: nobody writes them, and they are how parsers are attacked.
pub const MAX_DEPTH: u32 = 128;

/// Parsing stopped; the reason is in [`Scanner::fault`]. Carries nothing, so that the hot path returns in a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop;

/// Why and where a record is no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Index into the buffer.
    pub at: usize,
    pub what: Cow<'static, str>,
    /// The text ended: there is no byte to point at.
    pub cut: bool,
}

/// What kind of value was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Null,
    Bool,
    Number,
    String { escaped: bool },
    Object,
    Array,
}

impl Token {
    /// With its article, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Token::Null => "null",
            Token::Bool => "a boolean",
            Token::Number => "a number",
            Token::String { .. } => "a string",
            Token::Object => "an object",
            Token::Array => "an array",
        }
    }
}

/// A cursor over one record (or a run of them).
#[derive(Debug)]
pub struct Scanner<'a> {
    /// The whole block: string scanning loads 16 bytes at once and may look past the record's end.
    pub block: &'a [u8],
    /// The block up to the record's end.
    pub text: &'a [u8],
    pub pos: usize,
    pub fault: Option<Fault>,
}

impl<'a> Scanner<'a> {
    pub fn new(block: &'a [u8], end: usize) -> Self {
        Scanner { block, text: &block[..end], pos: 0, fault: None }
    }

    /// The next byte, or 0 at the end: 0 is legal nowhere outside of nothing, so every caller refuses it.
    #[inline(always)]
    pub fn peek(&self) -> u8 {
        if self.pos < self.text.len() { self.text[self.pos] } else { 0 }
    }

    #[inline(always)]
    pub fn space(&mut self) {
        if self.peek() <= b' ' {
            self.space_slow();
        }
    }

    fn space_slow(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.text.get(self.pos) {
            self.pos += 1;
        }
    }

    /// Stops at the cursor: `expected` unless the text ends here, then "cut off inside `inside`".
    #[cold]
    #[inline(never)]
    pub fn stop(&mut self, expected: &'static str, inside: &'static str) -> Stop {
        let cut = self.pos >= self.text.len();
        let what = if cut { inside } else { expected };
        self.fault = Some(Fault { at: self.pos, what: Cow::Borrowed(what), cut });
        Stop
    }

    #[cold]
    #[inline(never)]
    pub fn stop_at(&mut self, at: usize, what: impl Into<Cow<'static, str>>) -> Stop {
        self.fault = Some(Fault { at, what: what.into(), cut: false });
        Stop
    }

    #[cold]
    #[inline(never)]
    fn cut(&mut self, inside: &'static str) -> Stop {
        self.fault = Some(Fault { at: self.text.len(), what: Cow::Borrowed(inside), cut: true });
        Stop
    }

    /// Passes over a string; the cursor is on its opening quote. Says whether it holds escapes.
    #[inline(always)]
    pub fn string(&mut self) -> Result<bool, Stop> {
        let p = special(self.block, self.pos + 1);
        if p < self.text.len() && self.text[p] == b'"' {
            self.pos = p + 1;
            return Ok(false);
        }
        self.string_slow(p)
    }

    #[inline(never)]
    fn string_slow(&mut self, mut p: usize) -> Result<bool, Stop> {
        let mut escaped = false;
        loop {
            match self.text.get(p) {
                Some(b'"') => {
                    self.pos = p + 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    p = self.escape(p)?;
                }
                Some(_) => return Err(self.stop_at(p, "control character in a string")),
                None => return Err(self.cut("cut off inside a string")),
            }
            p = special(self.block, p);
        }
    }

    /// Checks the escape at `p` and returns the position behind it.
    fn escape(&mut self, p: usize) -> Result<usize, Stop> {
        match self.text.get(p + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(p + 2),
            Some(b'u') => {
                let unit = self.hex4(p)?;
                match unit {
                    0xD800..=0xDBFF => {
                        if p + 6 >= self.text.len() || (p + 7 >= self.text.len() && self.text[p + 6] == b'\\') {
                            return Err(self.cut("cut off inside a string"));
                        }
                        if self.text[p + 6] != b'\\' || self.text[p + 7] != b'u' {
                            return Err(self.stop_at(p, "half of a surrogate pair"));
                        }
                        match self.hex4(p + 6)? {
                            0xDC00..=0xDFFF => Ok(p + 12),
                            _ => Err(self.stop_at(p, "half of a surrogate pair")),
                        }
                    }
                    0xDC00..=0xDFFF => Err(self.stop_at(p, "half of a surrogate pair")),
                    _ => Ok(p + 6),
                }
            }
            Some(_) => Err(self.stop_at(p, "unknown escape")),
            None => Err(self.cut("cut off inside a string")),
        }
    }

    /// The four hex digits of the `\u` escape at `p`.
    fn hex4(&mut self, p: usize) -> Result<u32, Stop> {
        let mut unit = 0;
        for i in p + 2..p + 6 {
            match self.text.get(i).map(|b| (*b as char).to_digit(16)) {
                Some(Some(digit)) => unit = unit << 4 | digit,
                Some(None) => return Err(self.stop_at(p, "unknown escape")),
                None => return Err(self.cut("cut off inside a string")),
            }
        }
        Ok(unit)
    }

    /// Passes over a number; the cursor is on `-` or a digit.
    #[inline(always)]
    pub fn number(&mut self) -> Result<(), Stop> {
        let text = self.text;
        let mut p = self.pos;
        if text[p] == b'-' {
            p += 1;
        }
        match text.get(p) {
            Some(b'0') => {
                p += 1;
                if let Some(b'0'..=b'9') = text.get(p) {
                    return Err(self.stop_at(p - 1, "number with a leading zero"));
                }
            }
            Some(b'1'..=b'9') => p = digits(text, p + 1),
            Some(_) => return Err(self.stop_at(p, "expected a digit")),
            None => return Err(self.cut("cut off inside a number")),
        }
        if let Some(b'.' | b'e' | b'E') = text.get(p) {
            return self.fraction(p);
        }
        self.pos = p;
        Ok(())
    }

    fn fraction(&mut self, mut p: usize) -> Result<(), Stop> {
        let text = self.text;
        if text[p] == b'.' {
            p = self.some_digits(p + 1)?;
        }
        if let Some(b'e' | b'E') = text.get(p) {
            p += 1;
            if let Some(b'+' | b'-') = text.get(p) {
                p += 1;
            }
            p = self.some_digits(p)?;
        }
        self.pos = p;
        Ok(())
    }

    fn some_digits(&mut self, p: usize) -> Result<usize, Stop> {
        match self.text.get(p) {
            Some(b'0'..=b'9') => Ok(digits(self.text, p + 1)),
            Some(_) => Err(self.stop_at(p, "expected a digit")),
            None => Err(self.cut("cut off inside a number")),
        }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), Stop> {
        let rest = &self.text[self.pos..];
        if rest.starts_with(word) {
            self.pos += word.len();
            Ok(())
        } else if word.starts_with(rest) {
            Err(self.cut("cut off inside a word"))
        } else {
            Err(self.stop("expected a value", "cut off before a value"))
        }
    }

    /// Passes over a key and its colon, up to its value; the cursor is where the key starts. Returns the key's text with its quotes.
    #[inline(always)]
    pub fn key(&mut self) -> Result<(usize, usize), Stop> {
        let start = self.pos;
        if self.peek() != b'"' {
            return Err(self.stop("expected a key in double quotes", "cut off inside an object"));
        }
        self.string()?;
        let end = self.pos;
        self.space();
        if self.peek() != b':' {
            return Err(self.stop("expected ':'", "cut off inside an object"));
        }
        self.pos += 1;
        self.space();
        Ok((start, end))
    }

    /// Passes over any value; the cursor is on its first byte. `depth` containers are open around it.
    #[inline(always)]
    pub fn skip(&mut self, depth: u32) -> Result<Token, Stop> {
        match self.peek() {
            b'"' => Ok(Token::String { escaped: self.string()? }),
            b'-' | b'0'..=b'9' => self.number().map(|()| Token::Number),
            b'{' => self.container(depth).map(|()| Token::Object),
            b'[' => self.container(depth).map(|()| Token::Array),
            b't' => self.word(b"true").map(|()| Token::Bool),
            b'f' => self.word(b"false").map(|()| Token::Bool),
            b'n' => self.word(b"null").map(|()| Token::Null),
            _ => Err(self.stop("expected a value", "cut off before a value")),
        }
    }

    /// Passes over an object or array without recursion: one bit of `open` says which kind each level is.
    fn container(&mut self, depth: u32) -> Result<(), Stop> {
        let mut open: u128 = 0;
        let mut level: u32 = 0;
        'value: loop {
            match self.peek() {
                bracket @ (b'{' | b'[') => {
                    if depth + level >= MAX_DEPTH {
                        return Err(self.stop_at(self.pos, "nested deeper than 128"));
                    }
                    let object = bracket == b'{';
                    open = open << 1 | u128::from(object);
                    level += 1;
                    self.pos += 1;
                    self.space();
                    // '{' + 2 is '}', '[' + 2 is ']'.
                    if self.peek() != bracket + 2 {
                        if object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                    self.pos += 1;
                    open >>= 1;
                    level -= 1;
                }
                b'"' => {
                    self.string()?;
                }
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ if open & 1 == 1 => return Err(self.stop("expected a value", "cut off inside an object")),
                _ => return Err(self.stop("expected a value", "cut off inside an array")),
            }
            while level > 0 {
                self.space();
                let object = open & 1 == 1;
                match self.peek() {
                    b',' => {
                        self.pos += 1;
                        self.space();
                        if object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                    b'}' if object => {}
                    b']' if !object => {}
                    _ if object => return Err(self.stop("expected ',' or '}'", "cut off inside an object")),
                    _ => return Err(self.stop("expected ',' or ']'", "cut off inside an array")),
                }
                self.pos += 1;
                open >>= 1;
                level -= 1;
            }
            return Ok(());
        }
    }
}

#[inline(always)]
fn digits(text: &[u8], mut p: usize) -> usize {
    while p < text.len() && text[p].is_ascii_digit() {
        p += 1;
    }
    p
}

/// Position of the first quote, backslash or control character at or after `pos`; the length of `block` if there is none.
#[inline(always)]
pub fn special(block: &[u8], mut pos: usize) -> usize {
    while let Some(chunk) = block.get(pos..).and_then(|rest| rest.first_chunk::<16>()) {
        let mask = special16(chunk);
        if mask != 0 {
            return pos + mask.trailing_zeros() as usize;
        }
        pos += 16;
    }
    while pos < block.len() && !matches!(block[pos], b'"' | b'\\' | 0..=0x1f) {
        pos += 1;
    }
    pos
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn special16(chunk: &[u8; 16]) -> u32 {
    use std::arch::x86_64::*;
    // SAFETY: SSE2 belongs to every x86_64; the load reads the 16 bytes of `chunk` and needs no alignment.
    unsafe {
        let x = _mm_loadu_si128(chunk.as_ptr().cast());
        let quote = _mm_cmpeq_epi8(x, _mm_set1_epi8(b'"' as i8));
        let backslash = _mm_cmpeq_epi8(x, _mm_set1_epi8(b'\\' as i8));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1f)), x);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control)) as u32
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn special16(chunk: &[u8; 16]) -> u32 {
    let mut mask = 0;
    for (i, b) in chunk.iter().enumerate() {
        mask |= u32::from(matches!(b, b'"' | b'\\' | 0..=0x1f)) << i;
    }
    mask
}

/// Appends the content of a validated string (without its quotes) with its escapes resolved.
pub fn unescape(mut content: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(b'\\', content) {
        out.extend_from_slice(&content[..at]);
        let (byte, used) = match content[at + 1] {
            b'b' => (0x08, 2),
            b'f' => (0x0c, 2),
            b'n' => (b'\n', 2),
            b'r' => (b'\r', 2),
            b't' => (b'\t', 2),
            b'u' => {
                let mut unit = hex(&content[at + 2..at + 6]);
                let mut used = 6;
                if (0xD800..0xDC00).contains(&unit) {
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (hex(&content[at + 8..at + 12]) - 0xDC00);
                    used = 12;
                }
                // Validated: the replacement character is never reached.
                let c = char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                content = &content[at + used..];
                continue;
            }
            other => (other, 2),
        };
        out.push(byte);
        content = &content[at + used..];
    }
    out.extend_from_slice(content);
}

fn hex(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |n, d| n << 4 | (*d as char).to_digit(16).unwrap_or(0))
}

/// Follows brackets outside of strings: all that can be said of text that may be no JSON. The splitters and the
/// resynchronisation after a malformed element share it, so that both see the same record ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Brackets {
    pub depth: u32,
    in_string: bool,
    escaped: bool,
}

impl Brackets {
    /// Inside the top-level array, between two elements.
    pub fn in_array() -> Self {
        Brackets { depth: 1, in_string: false, escaped: false }
    }

    /// Follows `text` from `pos` and calls `seen` on each comma, opening and closing bracket with the depth after it.
    /// Stops where `seen` says true, behind that byte.
    pub fn follow(&mut self, text: &[u8], mut pos: usize, mut seen: impl FnMut(usize, u8, u32) -> bool) -> usize {
        if self.escaped && pos < text.len() {
            self.escaped = false;
            pos += 1;
        }
        while pos < text.len() {
            if self.in_string {
                // Short strings are the rule: the inline search beats a call.
                let at = special(text, pos);
                match text.get(at) {
                    None => return text.len(),
                    Some(b'"') => self.in_string = false,
                    Some(b'\\') => {
                        if at + 1 >= text.len() {
                            self.escaped = true;
                            return text.len();
                        }
                        pos = at + 2;
                        continue;
                    }
                    // A control character ends no string here; the parser refuses it.
                    Some(_) => {}
                }
                pos = at + 1;
                continue;
            }
            let b = text[pos];
            match b {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth = self.depth.saturating_add(1);
                    if seen(pos, b, self.depth) {
                        return pos + 1;
                    }
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if seen(pos, b, self.depth) {
                        return pos + 1;
                    }
                }
                b',' if seen(pos, b, self.depth) => return pos + 1,
                _ => {}
            }
            pos += 1;
        }
        pos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Token, String> {
        let mut s = Scanner::new(text.as_bytes(), text.len());
        s.space();
        let result = s.skip(0);
        s.space();
        match result {
            Ok(token) if s.pos == text.len() => Ok(token),
            Ok(_) => Err("trailing".into()),
            Err(Stop) => s.fault.map(|f| f.what.into_owned()).map_or(Err("no fault".into()), Err),
        }
    }

    #[test]
    fn accepts_every_kind_of_value() {
        assert_eq!(check(" null "), Ok(Token::Null));
        assert_eq!(check("-0.5e+10"), Ok(Token::Number));
        assert_eq!(check(r#"{"a":[1,{"b":[]},{}],"c" : "\ud83d\ude00"}"#), Ok(Token::Object));
        assert_eq!(check("[true,false]"), Ok(Token::Array));
    }

    #[test]
    fn refuses_what_rfc_8259_refuses() {
        let refused = [
            ("01", "number with a leading zero"),
            ("-", "cut off inside a number"),
            ("1.", "cut off inside a number"),
            ("1.x", "expected a digit"),
            ("+1", "expected a value"),
            ("nul", "cut off inside a word"),
            ("nulL", "expected a value"),
            ("[1,]", "expected a value"),
            (r#"{"a":1,}"#, "expected a key in double quotes"),
            (r#"{"a" 1}"#, "expected ':'"),
            (r#"{"a":1"#, "cut off inside an object"),
            ("[1 2]", "expected ',' or ']'"),
            ("[1}", "expected ',' or ']'"),
            (r#""\x""#, "unknown escape"),
            (r#""\u12g4""#, "unknown escape"),
            (r#""\ud800""#, "half of a surrogate pair"),
            (r#""\ud800\u0041""#, "half of a surrogate pair"),
            (r#""\udc00""#, "half of a surrogate pair"),
            ("\"a\tb\"", "control character in a string"),
            (r#""abc"#, "cut off inside a string"),
            (r#""abc\"#, "cut off inside a string"),
            (r#""abc\ud83d\"#, "cut off inside a string"),
            ("[NaN]", "expected a value"),
            ("", "cut off before a value"),
        ];
        for (text, why) in refused {
            assert_eq!(check(text), Err(why.into()), "{text}");
        }
    }

    #[test]
    fn depth_128_is_the_last_that_passes() {
        assert!(check(&("[".repeat(128) + &"]".repeat(128))).is_ok());
        assert_eq!(check(&("[".repeat(129) + &"]".repeat(129))), Err("nested deeper than 128".into()));
        assert_eq!(check(&r#"{"a":"#.repeat(1_000_000)), Err("nested deeper than 128".into()));
    }

    #[test]
    fn unescapes_everything() {
        let mut out = vec![];
        unescape(br#"a\"\\\/\b\f\n\r\t\u0000\u00e9\ud83d\ude00z"#, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a\"\\/\u{8}\u{c}\n\r\t\0\u{e9}\u{1f600}z");
    }

    #[test]
    fn finds_specials_at_every_offset() {
        for at in 0..40 {
            for b in [b'"', b'\\', 0, 0x1f] {
                let mut text = vec![b'\x80'; 40];
                text[at] = b;
                assert_eq!(special(&text, 0), at);
                assert_eq!(special(&text, at + 1), 40);
            }
        }
    }
}
