use sluice_kernels::linear;
use sluice_kernels::quant::GROUP;

use crate::support::{integer_kinds, Matrix, Memory, Random, Scales, KINDS};

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
