//! The operations of `Processor` with AVX2.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256,
    _mm256_blendv_epi8, _mm256_broadcastsi128_si256, _mm256_cmpgt_epi32, _mm256_i32gather_epi32,
    _mm256_loadu_si256, _mm256_min_epi32, _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi32,
    _mm256_setr_epi32, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_sllv_epi32,
    _mm256_srai_epi32, _mm256_srli_epi32, _mm256_srlv_epi32, _mm256_storeu_si256,
};

use super::{
    copy,
    cursor::SPENT,
    fused::{ABSENT, BITS, ELSEWHERE, Entries, LITERAL, MAKE_RARE, Parts},
    processor::Processor,
};
use crate::inflate::huffman::{self, DISTANCE_BITS};

/// Needs a processor with AVX2, and with BMI1, BMI2 and LZCNT, which the compiler uses.
pub(super) struct Avx2;

impl Processor for Avx2 {
    #[inline(always)]
    unsafe fn apart<R>(f: impl FnOnce() -> R) -> R {
        // SAFETY: the caller promises that the processor has the features.
        unsafe { apart(f) }
    }

    #[inline(always)]
    unsafe fn copy_32(from: *const u8, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<__m256i>().write_unaligned(from.cast::<__m256i>().read_unaligned()) };
    }

    #[inline(always)]
    unsafe fn copy_match(out: *mut u8, distance: usize, len: usize) {
        // SAFETY: the caller promises the same.
        unsafe { copy_match(out, distance, len) };
    }

    #[inline(always)]
    unsafe fn copy_long(from: *const u8, step: usize, byte: u8, out: *mut u8) {
        // SAFETY: the caller promises the same.
        unsafe { copy_long(from, step, byte, out) };
    }

    #[inline(always)]
    unsafe fn fill(entries: &mut Entries, parts: &Parts) {
        // SAFETY: the caller promises that the processor has the features.
        unsafe { fill(entries, parts) };
    }
}

/// See `Processor::apart`.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
#[inline(never)]
fn apart<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// For each distance below 16 and each of the first 32 bytes of a match: the index of the source
/// byte, from `distance` bytes before the match on.
#[repr(align(32))]
struct Pattern([[u8; 32]; 16]);

static PATTERN: Pattern = {
    let mut pattern = [[0; 32]; 16];
    let mut distance = 1;
    while distance < 16 {
        let mut at = 0;
        while at < 32 {
            pattern[distance][at] = (at % distance) as u8;
            at += 1;
        }
        distance += 1;
    }
    Pattern(pattern)
};

/// For each distance below 16: how many of these 32 bytes make up whole periods.
static PERIODS: [u8; 16] = {
    let mut periods = [32; 16];
    let mut distance = 1;
    while distance < 16 {
        periods[distance] = (32 / distance * distance) as u8;
        distance += 1;
    }
    periods
};

/// See `Processor::copy_match`.
///
/// # Safety
/// As for `Processor::copy_match`. The processor must have AVX2.
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn copy_match(out: *mut u8, distance: usize, len: usize) {
    if distance >= 32 {
        // SAFETY: the caller promises the same.
        return unsafe { copy::copy_apart::<Avx2>(out, distance, len) };
    }
    let from = out.cast_const().wrapping_sub(distance);
    let mut at = 0;
    if distance >= 16 {
        while at < len {
            // SAFETY: 16 bytes that start before the end of the match; `OVERRUN` has room for
            // them. The source starts 16 bytes or more before.
            unsafe { copy::copy_16(from.wrapping_add(at), out.wrapping_add(at)) };
            at += 16;
        }
        return;
    }
    // SAFETY: 16 bytes that start before `out`. The caller promises the bytes from `out` on, too;
    // `pattern` selects none of them.
    let before = unsafe { _mm_loadu_si128(from.cast::<__m128i>()) };
    // SAFETY: the pattern has 32 initialised bytes, and is aligned to 32.
    let pattern = unsafe { PATTERN.0[distance].as_ptr().cast::<__m256i>().read() };
    let block = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(before), pattern);
    let periods = usize::from(PERIODS[distance]);
    while at < len {
        // SAFETY: 32 bytes that start before the end of the match; `OVERRUN` has room for them.
        unsafe { _mm256_storeu_si256(out.wrapping_add(at).cast::<__m256i>(), block) };
        at += periods;
    }
}

/// See `Processor::copy_long`.
///
/// # Safety
/// As for `Processor::copy_long`. The processor must have AVX2.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn copy_long(from: *const u8, step: usize, byte: u8, out: *mut u8) {
    let bytes = _mm256_set1_epi8(byte.cast_signed());
    for at in 0..copy::LONG / 32 {
        let (from, out) = (from.wrapping_add(at * step), out.wrapping_add(at * 32));
        // SAFETY: the caller's promise.
        unsafe {
            let block = _mm256_or_si256(_mm256_loadu_si256(from.cast::<__m256i>()), bytes);
            _mm256_storeu_si256(out.cast::<__m256i>(), block);
        }
    }
}

/// Does the same as `fused::fill`, for eight entries at a time.
#[target_feature(enable = "avx2")]
fn fill(entries: &mut Entries, parts: &Parts) {
    let all = |value: u32| _mm256_set1_epi32(value.cast_signed());
    // A mask of the lanes in which `bit` is set.
    let has = |lanes: __m256i, bit: u32| {
        let count = bit.leading_zeros();
        let shifted = _mm256_sllv_epi32(lanes, all(count));
        _mm256_srai_epi32::<31>(shifted)
    };
    let mut index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (entries, litlens) in entries
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .zip(parts.litlen.as_chunks::<8>().0)
        .take((1 << BITS) / 8)
    {
        // SAFETY: `litlens` has 32 bytes.
        let litlen = unsafe { _mm256_loadu_si256(litlens.as_ptr().cast::<__m256i>()) };
        let bits = _mm256_and_si256(litlen, all(63));

        let code = _mm256_and_si256(_mm256_srli_epi32::<8>(litlen), all(15));
        let taken = _mm256_andnot_si256(_mm256_sllv_epi32(all(u32::MAX), bits), index);
        let len = _mm256_add_epi32(_mm256_srli_epi32::<16>(litlen), _mm256_srlv_epi32(taken, code));

        let rest = _mm256_and_si256(_mm256_srlv_epi32(index, bits), all((1 << DISTANCE_BITS) - 1));
        // SAFETY: `distances` has an element for every index of `DISTANCE_BITS` bits.
        let distance =
            unsafe { _mm256_i32gather_epi32::<4>(parts.distances.as_ptr().cast::<i32>(), rest) };
        let code = _mm256_and_si256(_mm256_srli_epi32::<16>(distance), all(15));
        let codes = _mm256_add_epi32(bits, code);

        let entry = _mm256_and_si256(distance, all(0xf8 << 24 | 0x3f));
        let entry = _mm256_add_epi32(entry, bits);
        let start = _mm256_slli_epi32::<16>(_mm256_add_epi32(codes, all(SPENT)));
        let entry = _mm256_add_epi32(entry, start);
        let entry = _mm256_add_epi32(entry, _mm256_slli_epi32::<8>(len));
        let shortest = _mm256_and_si256(_mm256_srli_epi32::<8>(distance), all(0x7f));
        let rare = _mm256_cmpgt_epi32(len, _mm256_min_epi32(shortest, all(parts.longest)));
        let entry = _mm256_add_epi32(entry, _mm256_and_si256(rare, all(MAKE_RARE)));

        const { assert!(huffman::EXCEPTIONAL == ABSENT) };
        let exceptional = has(_mm256_or_si256(litlen, distance), ABSENT);
        let elsewhere = _mm256_or_si256(_mm256_cmpgt_epi32(codes, all(BITS)), exceptional);
        let entry = _mm256_blendv_epi8(entry, all(ELSEWHERE), elsewhere);

        let literal = _mm256_and_si256(litlen, all(0xff << 16));
        let first = _mm256_or_si256(literal, _mm256_or_si256(bits, all(LITERAL | 1 << 8)));
        let rest = _mm256_and_si256(_mm256_srlv_epi32(index, bits), all((1 << BITS) - 1));
        // SAFETY: `litlen` has an entry for every index of `BITS` bits.
        let second =
            unsafe { _mm256_i32gather_epi32::<4>(parts.litlen.as_ptr().cast::<i32>(), rest) };
        let second_bits = _mm256_and_si256(second, all(63));
        let literal = _mm256_slli_epi32::<8>(_mm256_and_si256(second, all(0xff << 16)));
        let more = _mm256_add_epi32(_mm256_or_si256(second_bits, literal), all(1 << 8));
        let misfit = _mm256_cmpgt_epi32(_mm256_add_epi32(bits, second_bits), all(BITS));
        let fits = _mm256_andnot_si256(misfit, has(second, huffman::LITERAL));
        let literal = _mm256_add_epi32(first, _mm256_and_si256(more, fits));
        let entry = _mm256_blendv_epi8(entry, literal, has(litlen, huffman::LITERAL));
        // SAFETY: `entries` has 32 bytes.
        unsafe { _mm256_storeu_si256(entries.as_mut_ptr().cast::<__m256i>(), entry) };
        index = _mm256_add_epi32(index, all(8));
    }
}
