//! Finds the bytes that structure CSV, 64 at a time.
//!
//! SSE2 is part of every x86_64, AVX2 is used where the processor has it; elsewhere plain code does the same.

/// Appends the positions at which `text` has one of `needles`, ascending. `text` is shorter than 4 GB.
pub(crate) fn positions<const N: usize>(text: &[u8], needles: [u8; N], out: &mut Vec<u32>) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("popcnt")
    {
        // SAFETY: the processor has all three.
        return unsafe { x86::positions_avx2(text, needles, out) };
    }
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: SSE2 is in the x86_64 baseline.
        unsafe { x86::positions_sse2(text, needles, out) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    plain(text, 0, needles, out);
}

/// The same, byte by byte; `text[from..]` is searched.
fn plain<const N: usize>(text: &[u8], from: usize, needles: [u8; N], out: &mut Vec<u32>) {
    for (i, byte) in text[from..].iter().enumerate() {
        if needles.contains(byte) {
            out.push((from + i) as u32);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,bmi1,popcnt")]
    pub(super) unsafe fn positions_avx2<const N: usize>(text: &[u8], needles: [u8; N], out: &mut Vec<u32>) {
        let wanted = needles.map(|n| _mm256_set1_epi8(n as i8));
        let mut at = 0;
        while at + 64 <= text.len() {
            // SAFETY: 64 bytes are left from `at`.
            let (a, b) = unsafe {
                let p = text.as_ptr().add(at);
                (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast()))
            };
            let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for w in wanted {
                low = _mm256_or_si256(low, _mm256_cmpeq_epi8(a, w));
                high = _mm256_or_si256(high, _mm256_cmpeq_epi8(b, w));
            }
            let mask = _mm256_movemask_epi8(low) as u32 as u64 | (_mm256_movemask_epi8(high) as u32 as u64) << 32;
            // SAFETY: the needed room is reserved inside.
            unsafe { unpack(mask, at as u32, out) };
            at += 64;
        }
        super::plain(text, at, needles, out);
    }

    pub(super) unsafe fn positions_sse2<const N: usize>(text: &[u8], needles: [u8; N], out: &mut Vec<u32>) {
        let mut at = 0;
        while at + 64 <= text.len() {
            let mut mask = 0u64;
            for quarter in 0..4 {
                // SAFETY: 64 bytes are left from `at`, and SSE2 is in the x86_64 baseline.
                let bits = unsafe {
                    let bytes = _mm_loadu_si128(text.as_ptr().add(at + quarter * 16).cast());
                    let mut hit = _mm_setzero_si128();
                    for n in needles {
                        hit = _mm_or_si128(hit, _mm_cmpeq_epi8(bytes, _mm_set1_epi8(n as i8)));
                    }
                    _mm_movemask_epi8(hit) as u32 as u64
                };
                mask |= bits << (quarter * 16);
            }
            // SAFETY: the needed room is reserved inside.
            unsafe { unpack(mask, at as u32, out) };
            at += 64;
        }
        super::plain(text, at, needles, out);
    }

    /// Appends the positions of the set bits, several at a time: a few too many writes cost less than a branch per bit.
    #[inline(always)]
    unsafe fn unpack(mut mask: u64, base: u32, out: &mut Vec<u32>) {
        if mask == 0 {
            return;
        }
        out.reserve(72);
        let count = mask.count_ones() as usize;
        let len = out.len();
        // SAFETY: 72 places are free behind `len`; at most 64 + 7 are written, and `count` of them are kept.
        unsafe {
            let mut p = out.as_mut_ptr().add(len);
            let end = p.add(count);
            while p < end {
                for i in 0..8 {
                    *p.add(i) = base.wrapping_add(mask.trailing_zeros());
                    mask &= mask.wrapping_sub(1);
                }
                p = p.add(8);
            }
            out.set_len(len + count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_finds_the_same() {
        let mut state = 7u32;
        let text: Vec<u8> = (0..5000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                b",\n\"abcde\xFF\0"[(state >> 16) as usize % 10]
            })
            .collect();
        for len in [0, 1, 63, 64, 65, 128, 200, 4999, 5000] {
            let (mut a, mut b) = (vec![], vec![]);
            positions(&text[..len], [b',', b'\n', b'"'], &mut a);
            plain(&text[..len], 0, [b',', b'\n', b'"'], &mut b);
            assert_eq!(a, b, "{len}");
            #[cfg(target_arch = "x86_64")]
            {
                let mut c = vec![];
                // SAFETY: SSE2 is in the x86_64 baseline.
                unsafe { x86::positions_sse2(&text[..len], [b',', b'\n', b'"'], &mut c) };
                assert_eq!(a, c, "{len}");
            }
        }
        let all = vec![b','; 640];
        let mut every = vec![];
        positions(&all, [b','], &mut every);
        assert_eq!(every, (0..640).collect::<Vec<u32>>());
    }
}
