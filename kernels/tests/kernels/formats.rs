use sluice_kernels::linear;
use sluice_kernels::quant::GROUP;

use crate::kinds::{e4m3, integer_kinds, kind_named, Scales, KINDS};
use crate::support::{Matrix, Memory, Random};

/// Compares every value of a matrix of each type, padding rows included.
fn check_all(shape: (usize, usize), scales: Scales) {
    for kind in KINDS {
        let mut random = Random::new(kind.id as u64 + 1);
        let mut matrix = Matrix::random(kind, shape, &mut random, scales);
        let cols = matrix.cols;
        let weight = matrix.weight();
        for group in 0..matrix.groups() {
            let mut panel = Memory::new(cols * GROUP * 4);
            // SAFETY: the panel has room for a group.
            let got = unsafe {
                linear::group_to_float(&weight, group, panel.at() as *mut f32);
                core::slice::from_raw_parts(panel.at() as *const f32, cols * GROUP)
            };
            for (i, &got) in got.iter().enumerate() {
                let (row, col) = (group * GROUP + i % GROUP, i / GROUP);
                let want = matrix
                    .values
                    .get(row * cols + col)
                    .map_or(0.0, |v| v.0 + v.1);
                assert_eq!(got, want, "{} row {row} column {col}", kind.name);
            }
            panel.check_guard();
        }
    }
}

#[test]
fn packed_weights_dequantise_as_their_definition_says() {
    check_all((21, 768), Scales::Moderate);
}

#[test]
fn scales_of_any_size_survive_packing() {
    check_all((9, 1024), Scales::Any);
}

#[test]
fn matrices_of_fewer_rows_than_a_group_are_padded() {
    check_all((1, 256), Scales::Moderate);
}

#[test]
fn every_type_states_the_size_of_its_packed_block() {
    for kind in KINDS {
        let (values, bytes) = linear::geometry(kind.id).unwrap();
        assert_eq!(values, kind.values, "{}", kind.name);
        assert!(bytes >= kind.bytes * GROUP, "{}", kind.name);
        let whole = sluice_kernels::packed_bytes(kind.id, 17, 512);
        assert_eq!(whole, (3 * 512 / values * bytes) as f64, "{}", kind.name);
    }
    for kind in integer_kinds() {
        assert_eq!(
            sluice_kernels::packed_bytes(kind.id, 8, kind.values + 1),
            0.0
        );
    }
    // 16 is IQ2_XXS, which is converted before it comes here.
    assert_eq!(sluice_kernels::packed_bytes(16, 8, 256), 0.0);
}

#[test]
fn every_eight_bit_float_times_a_scale_is_rounded_once() {
    let kind = kind_named("F8");
    for scale in [1.0f32, -0.37, 1e-40, 3.1e-38, 7.3e35] {
        // Eight blocks, which are one row, hold every byte once; the two that are NaN are left out.
        let bytes: Vec<u8> = (0..=255).collect();
        let mut runs = bytes.chunks(32);
        let mut matrix = Matrix::new(kind, (1, 256), || {
            let mut block = scale.to_le_bytes().to_vec();
            block.extend(runs.next().unwrap());
            block
        });
        let mut panel = vec![0f32; 256 * GROUP];
        // SAFETY: the panel has room for a group.
        unsafe { linear::group_to_float(&matrix.weight(), 0, panel.as_mut_ptr()) };
        for byte in bytes.into_iter().filter(|byte| byte & 0x7f != 0x7f) {
            let want = (e4m3(byte) * scale as f64) as f32;
            let got = panel[byte as usize * GROUP];
            assert_eq!(got.to_bits(), want.to_bits(), "{byte:#x} times {scale:e}");
        }
    }
}

#[test]
fn rows_packed_in_pieces_are_as_if_packed_at_once() {
    const COLS: usize = 256;
    for kind in KINDS {
        let mut random = Random::new(kind.id as u64 + 600);
        for rows in [1, 7, 8, 9, 23] {
            let row_bytes = COLS / kind.values * kind.bytes;
            let file: Vec<u8> = (0..rows * COLS / kind.values)
                .flat_map(|_| kind.random_block(&mut random, Scales::Any))
                .collect();
            let group = linear::group_bytes(kind.id, COLS);
            let pack = |piece: usize| {
                let bytes = rows.div_ceil(GROUP) * group;
                let mut packed = Memory::new(bytes);
                for first in (0..rows).step_by(piece) {
                    // SAFETY: the pieces are whole groups, for which there is room.
                    unsafe {
                        linear::pack(
                            kind.id,
                            file[first * row_bytes..].as_ptr(),
                            piece.min(rows - first),
                            COLS,
                            packed.at().add(first / GROUP * group),
                        );
                    }
                }
                packed.check_guard();
                // SAFETY: as long as it was made.
                unsafe { core::slice::from_raw_parts(packed.at(), bytes) }.to_vec()
            };
            let whole = pack(24);
            assert_eq!(pack(GROUP), whole, "{} {rows} rows", kind.name);
            assert_eq!(pack(2 * GROUP), whole, "{} {rows} rows", kind.name);
        }
    }
}
