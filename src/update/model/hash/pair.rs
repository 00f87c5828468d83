//! SHA-256's compression of two messages at a time, by the processor's instructions.
//!
//! Each of the instructions waits for the one before it, so a processor that works on
//! one message is idle half of the time. Two messages whose steps alternate take as
//! long as one. Where the instructions are missing there is no [`Pair`], and whoever
//! wants two hashes makes one after the other.
//!
//! Source: FIPS 180-4, sections 4.2.2 and 6.2.2; Intel, "Intel SHA Extensions" (2013).

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_loadu_si128, _mm_set_epi8, _mm_set_epi32,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

/// What SHA-256 compresses at once.
pub type Chunk = [u8; 64];

/// The eight words between two chunks.
pub type State = [u32; 8];

/// That this processor has the instructions.
#[derive(Clone, Copy, Debug)]
pub struct Pair(());

impl Pair {
    /// On a processor that has them.
    pub fn of_this_processor() -> Option<Self> {
        let has_them = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        has_them.then_some(Self(()))
    }

    /// Compresses a chunk of the one message and then one of the other, until one of
    /// them has no more; gives what is left of both.
    pub fn compress<'a, 'b>(
        self,
        states: [&mut State; 2],
        a: &'a [Chunk],
        b: &'b [Chunk],
    ) -> (&'a [Chunk], &'b [Chunk]) {
        let both = a.len().min(b.len());
        let ((a, a_rest), (b, b_rest)) = (a.split_at(both), b.split_at(both));
        // SAFETY: there is a `Pair` only where the processor has the instructions.
        unsafe { compress(states, a, b) };
        (a_rest, b_rest)
    }
}

#[rustfmt::skip]
const ROUND_CONSTANTS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// A state as the instructions want it: words A, B, E, F and C, D, G, H, the first
/// in the highest place.
#[derive(Clone, Copy)]
struct Lane {
    abef: __m128i,
    cdgh: __m128i,
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn lane(state: &State) -> Lane {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    Lane { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) }
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn state(lane: Lane) -> State {
    let words = |four| {
        [
            _mm_extract_epi32::<3>(four),
            _mm_extract_epi32::<2>(four),
            _mm_extract_epi32::<1>(four),
            _mm_extract_epi32::<0>(four),
        ]
    };
    let ([a, b, e, f], [c, d, g, h]) = (words(lane.abef), words(lane.cdgh));
    [a, b, c, d, e, f, g, h].map(i32::cast_unsigned)
}

/// Sixteen bytes of a chunk as four words, the first in the lowest place.
///
/// This and what follows are macros so that everything is in one function, however
/// small the compiler is asked to make it: a call costs more than the rounds.
macro_rules! words {
    ($chunk:ident, $quarter:literal) => {{
        let (quarters, _) = $chunk.as_chunks::<16>();
        let quarter: &[u8; 16] = &quarters[$quarter];
        // SAFETY: it reads these 16 bytes, wherever they lie.
        let bytes = unsafe { _mm_loadu_si128(quarter.as_ptr().cast()) };
        _mm_shuffle_epi8(bytes, _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3))
    }};
}

/// Puts the four words of the schedule that follow sixteen in the place of the first.
macro_rules! next_words {
    ($w0:ident $w1:ident $w2:ident $w3:ident) => {
        let sum = _mm_add_epi32(_mm_sha256msg1_epu32($w0, $w1), _mm_alignr_epi8::<4>($w3, $w2));
        $w0 = _mm_sha256msg2_epu32(sum, $w3);
    };
}

/// Four rounds, of which this is the first, with these words of the schedule.
macro_rules! rounds {
    ($from:expr, $lane:ident, $words:ident) => {
        let constants = const {
            let at = $from;
            [
                ROUND_CONSTANTS[at].cast_signed(),
                ROUND_CONSTANTS[at + 1].cast_signed(),
                ROUND_CONSTANTS[at + 2].cast_signed(),
                ROUND_CONSTANTS[at + 3].cast_signed(),
            ]
        };
        let constants = _mm_set_epi32(constants[3], constants[2], constants[1], constants[0]);
        let low = _mm_add_epi32($words, constants);
        $lane.cdgh = _mm_sha256rnds2_epu32($lane.cdgh, $lane.abef, low);
        let high = _mm_shuffle_epi32::<0b_00_00_11_10>(low);
        $lane.abef = _mm_sha256rnds2_epu32($lane.abef, $lane.cdgh, high);
    };
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress([of_a, of_b]: [&mut State; 2], a: &[Chunk], b: &[Chunk]) {
    let (mut lane_a, mut lane_b) = (lane(of_a), lane(of_b));
    for (a, b) in a.iter().zip(b) {
        let (before_a, before_b) = (lane_a, lane_b);
        let (mut a0, mut b0) = (words!(a, 0), words!(b, 0));
        let (mut a1, mut b1) = (words!(a, 1), words!(b, 1));
        let (mut a2, mut b2) = (words!(a, 2), words!(b, 2));
        let (mut a3, mut b3) = (words!(a, 3), words!(b, 3));
        macro_rules! four_rounds {
            ($from:expr, $a:ident, $b:ident) => {
                rounds!($from, lane_a, $a);
                rounds!($from, lane_b, $b);
            };
        }
        macro_rules! next_sixteen_rounds {
            ($from:literal) => {
                next_words!(a0 a1 a2 a3);
                next_words!(b0 b1 b2 b3);
                four_rounds!($from, a0, b0);
                next_words!(a1 a2 a3 a0);
                next_words!(b1 b2 b3 b0);
                four_rounds!($from + 4, a1, b1);
                next_words!(a2 a3 a0 a1);
                next_words!(b2 b3 b0 b1);
                four_rounds!($from + 8, a2, b2);
                next_words!(a3 a0 a1 a2);
                next_words!(b3 b0 b1 b2);
                four_rounds!($from + 12, a3, b3);
            };
        }
        four_rounds!(0, a0, b0);
        four_rounds!(4, a1, b1);
        four_rounds!(8, a2, b2);
        four_rounds!(12, a3, b3);
        next_sixteen_rounds!(16);
        next_sixteen_rounds!(32);
        next_sixteen_rounds!(48);
        lane_a.abef = _mm_add_epi32(lane_a.abef, before_a.abef);
        lane_a.cdgh = _mm_add_epi32(lane_a.cdgh, before_a.cdgh);
        lane_b.abef = _mm_add_epi32(lane_b.abef, before_b.abef);
        lane_b.cdgh = _mm_add_epi32(lane_b.cdgh, before_b.cdgh);
    }
    (*of_a, *of_b) = (state(lane_a), state(lane_b));
}
