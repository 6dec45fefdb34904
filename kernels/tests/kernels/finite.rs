//! Which packed weights count as finite: what a file holds must not turn a model's outputs into NaN.

use sluice_kernels::pack;

use crate::kinds::{kind_named, Kind, Scales, KINDS};
use crate::support::{Memory, Random};

const COLS: usize = 512;

/// Packs rows of blocks, which end in the middle of a group; returns whether they are finite.
fn finite(kind: Kind, rows: usize, blocks: &[Vec<u8>]) -> bool {
    let bytes = sluice_kernels::packed_bytes(kind.id, rows, COLS) as usize;
    let mut packed = Memory::new(bytes);
    let file = blocks.concat();
    let finite = pack(
        kind.id,
        file.as_ptr() as usize,
        rows,
        COLS,
        packed.at() as usize,
    );
    packed.check_guard();
    finite
}

fn random_blocks(kind: Kind, rows: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    (0..rows * COLS / kind.values)
        .map(|_| kind.random_block(&mut random, Scales::Any))
        .collect()
}

/// Whether matrices with these bytes at `at` are finite, in the first, a middle and the last block, one
/// at a time.
fn finite_with(kind: Kind, at: usize, bytes: &[u8]) -> [bool; 3] {
    const ROWS: usize = 19;
    let blocks = random_blocks(kind, ROWS, kind.id as u64 + 800);
    [0, blocks.len() / 2 + 1, blocks.len() - 1].map(|place| {
        let mut blocks = blocks.clone();
        blocks[place][at..at + bytes.len()].copy_from_slice(bytes);
        finite(kind, ROWS, &blocks)
    })
}

fn assert_seen(kind: Kind, at: usize, bytes: &[u8], finite: bool) {
    assert_eq!(
        finite_with(kind, at, bytes),
        [finite; 3],
        "{}, {bytes:x?} at {at}",
        kind.name
    );
}

#[test]
fn random_finite_weights_of_every_type_are_finite() {
    for kind in KINDS {
        for rows in [1, 8, 21] {
            let blocks = random_blocks(kind, rows, kind.id as u64 + 900 + rows as u64);
            assert!(finite(kind, rows, &blocks), "{} {rows} rows", kind.name);
        }
    }
}

#[test]
fn every_half_precision_scale_is_told_from_infinities_and_nan() {
    for kind in KINDS {
        for &at in kind.halves {
            // The largest finite value, the smallest ones, and zero.
            for half in [0x7bffu16, 0x0001, 0x03ff, 0x0400, 0x0000] {
                assert_seen(kind, at, &half.to_le_bytes(), true);
                assert_seen(kind, at, &(half | 0x8000).to_le_bytes(), true);
            }
            // Infinity, and NaN with its least, its highest and all bits.
            for half in [0x7c00u16, 0x7c01, 0x7e00, 0x7fff] {
                assert_seen(kind, at, &half.to_le_bytes(), false);
                assert_seen(kind, at, &(half | 0x8000).to_le_bytes(), false);
            }
        }
    }
}

#[test]
fn an_infinite_scale_is_seen_where_the_integer_scales_beside_it_are_zero() {
    for kind in KINDS.into_iter().filter(|kind| !kind.halves.is_empty()) {
        for &at in kind.halves {
            for half in [0x7c00u16, 0xfe00] {
                let mut blocks = random_blocks(kind, 3, 1000);
                // Zeros throughout, but for the scale.
                blocks[1] = vec![0; kind.bytes];
                assert!(finite(kind, 3, &blocks), "{}", kind.name);
                blocks[1][at..at + 2].copy_from_slice(&half.to_le_bytes());
                assert!(!finite(kind, 3, &blocks), "{} {half:#x}", kind.name);
            }
        }
    }
}

#[test]
fn float_values_are_told_from_infinities_and_nan() {
    let f32 = kind_named("F32");
    for value in [f32::MAX, f32::MIN, f32::from_bits(1), -0.0] {
        assert_seen(f32, 0, &value.to_le_bytes(), true);
    }
    for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
        assert_seen(f32, 0, &value.to_le_bytes(), false);
    }
    // Signalling NaN with its lowest bit.
    assert_seen(f32, 0, &0x7f80_0001u32.to_le_bytes(), false);
    let bf16 = kind_named("BF16");
    for bits in [0x7f7fu16, 0xff7f, 0x0001, 0x8000] {
        assert_seen(bf16, 0, &bits.to_le_bytes(), true);
    }
    for bits in [0x7f80u16, 0xff80, 0x7f81, 0xffff] {
        assert_seen(bf16, 0, &bits.to_le_bytes(), false);
    }
}

#[test]
fn the_exponent_of_mxfp4_that_stands_for_nan_is_seen_and_no_other() {
    let kind = kind_named("MXFP4");
    for exponent in 0..=255u8 {
        assert_seen(kind, 0, &[exponent], exponent < 255);
    }
}

#[test]
fn eight_bit_nan_and_infinite_scales_are_seen_anywhere_in_a_block() {
    let kind = kind_named("F8");
    for at in 4..kind.bytes {
        for byte in [0x7f, 0xff] {
            assert_seen(kind, at, &[byte], false);
        }
    }
    for byte in (0..=255).filter(|byte| byte & 0x7f != 0x7f) {
        assert_seen(kind, 17, &[byte], true);
    }
    for scale in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        assert_seen(kind, 0, &scale.to_le_bytes(), false);
    }
    for scale in [0.0, 1e-45, f32::MAX / 448.0] {
        assert_seen(kind, 0, &f32::to_le_bytes(scale), true);
    }
}
