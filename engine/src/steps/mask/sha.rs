//! SHA-256 and HMAC-SHA-256 over many short messages: the key's blocks are compressed once, a short value then costs one
//! compression (hash) or two (HMAC), on the CPU's SHA instructions where it has them. Nothing is allocated.

use sha2::block_api::compress256;

/// First words of the fractional parts of the square roots of the first eight primes (FIPS 180-4, 5.3.3).
const START: [u32; 8] = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
const BLOCK: usize = 64;
const HEX: &[u8; 16] = b"0123456789abcdef";

pub type Digest = [u8; 32];

/// SHA-256 that has taken in a prefix.
#[derive(Clone)]
pub struct Sha256 {
    state: [u32; 8],
    /// Bytes in `state` already; a multiple of 64.
    taken: u64,
    /// The last, unfinished block of the prefix.
    rest: [u8; BLOCK],
    rest_len: usize,
}

impl Sha256 {
    pub fn after(prefix: &[u8]) -> Self {
        let (blocks, tail) = prefix.as_chunks::<BLOCK>();
        let mut state = START;
        compress256(&mut state, blocks);
        let mut rest = [0; BLOCK];
        rest[..tail.len()].copy_from_slice(tail);
        Sha256 { state, taken: (blocks.len() * BLOCK) as u64, rest, rest_len: tail.len() }
    }

    /// SHA-256(prefix || message).
    #[inline]
    pub fn digest(&self, message: &[u8]) -> Digest {
        let mut state = self.state;
        let bits = (self.taken + self.rest_len as u64 + message.len() as u64) * 8;
        let mut block = self.rest;
        let mut filled = self.rest_len;
        let mut message = message;
        if filled + message.len() >= BLOCK {
            if filled > 0 {
                let (head, tail) = message.split_at(BLOCK - filled);
                block[filled..].copy_from_slice(head);
                compress256(&mut state, std::slice::from_ref(&block));
                message = tail;
            }
            let (blocks, tail) = message.as_chunks::<BLOCK>();
            compress256(&mut state, blocks);
            message = tail;
            filled = 0;
        }
        block[filled..filled + message.len()].copy_from_slice(message);
        filled += message.len();
        block[filled] = 0x80;
        block[filled + 1..].fill(0);
        if filled >= BLOCK - 8 {
            compress256(&mut state, std::slice::from_ref(&block));
            block = [0; BLOCK];
        }
        block[BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
        compress256(&mut state, std::slice::from_ref(&block));
        let mut out = [0; 32];
        for (bytes, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *bytes = word.to_be_bytes();
        }
        out
    }
}

/// HMAC-SHA-256 (RFC 2104) with its two key blocks compressed beforehand.
#[derive(Clone)]
pub struct Hmac {
    inner: Sha256,
    outer: Sha256,
}

/// Shows nothing: what is inside comes of the key.
impl std::fmt::Debug for Hmac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hmac(…)")
    }
}

impl Hmac {
    pub fn new(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        match key.len() {
            n if n > BLOCK => block[..32].copy_from_slice(&Sha256::after(&[]).digest(key)),
            n => block[..n].copy_from_slice(key),
        }
        Hmac { inner: Sha256::after(&block.map(|b| b ^ 0x36)), outer: Sha256::after(&block.map(|b| b ^ 0x5c)) }
    }

    #[inline]
    pub fn digest(&self, message: &[u8]) -> Digest {
        self.outer.digest(&self.inner.digest(message))
    }
}

/// Appends the lower-case hex of `bytes`.
#[inline]
pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const PAIRS: [[u8; 2]; 256] = {
        let mut pairs = [[0; 2]; 256];
        let mut i = 0;
        while i < 256 {
            pairs[i] = [HEX[i >> 4], HEX[i & 15]];
            i += 1;
        }
        pairs
    };
    let mut text = [0; 64];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = PAIRS[*byte as usize];
    }
    out.extend_from_slice(&text[..2 * bytes.len().min(32)]);
}

pub fn hex(bytes: &[u8]) -> String {
    let mut out = vec![];
    bytes.chunks(32).for_each(|c| push_hex(&mut out, c));
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;

    #[test]
    fn equals_the_reference_at_every_length_and_prefix() {
        let bytes: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8).collect();
        for prefix in [0, 1, 9, 55, 56, 63, 64, 65, 128, 130] {
            let hasher = Sha256::after(&bytes[..prefix]);
            for len in 0..150 {
                let want: Digest = sha2::Sha256::digest(&bytes[..prefix + len]).into();
                assert_eq!(hasher.digest(&bytes[prefix..prefix + len]), want, "{prefix} {len}");
            }
        }
    }

    #[test]
    fn hmac_gives_the_vectors_of_rfc_4231() {
        assert_eq!(
            hex(&Hmac::new(b"Jefe").digest(b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(&Hmac::new(&[0xaa; 131]).digest(b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
