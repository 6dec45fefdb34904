//! Numbers of caches to and from float32, against arithmetic in float64.

use sluice_kernels::cells::{
    from_cells, from_halves, from_interleaved_cells, to_half, Cells, Row, BLOCK,
};

use crate::support::{bits, Random};

/// What a vector reads as once a cache has kept it.
pub fn rounded(cells: Cells, vector: &mut [f32]) {
    match cells {
        Cells::F32 => {}
        Cells::F16 => vector.iter_mut().for_each(|x| *x = nearest_half(*x)),
        Cells::Q8 => {
            for block in vector.chunks_mut(BLOCK) {
                let largest = block.iter().fold(0f32, |most, x| most.max(x.abs()));
                let scale = largest / 127.0;
                for x in block.iter_mut().filter(|_| scale > 0.0) {
                    // Integers have no negative zero.
                    *x = (*x / scale).round_ties_even() * scale + 0.0;
                }
            }
        }
    }
}

/// The multiple of its binade's last place that is nearest, the even one of two; at most 65504.
fn nearest_half(x: f32) -> f32 {
    let exponent = (x.abs() as f64).log2().floor().max(-14.0);
    let place = 2f64.powi(exponent as i32 - 10);
    let nearest = (x as f64 / place).round_ties_even() * place;
    nearest.clamp(-65504.0, 65504.0) as f32
}

/// What a finite half stands for.
fn value_of(half: u16) -> f32 {
    let exponent = (half >> 10 & 31) as i32;
    let mantissa = (half & 1023) as f64;
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-24),
        _ => (1024.0 + mantissa) * 2f64.powi(exponent - 25),
    };
    (if half >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }) as f32
}

fn finite_halves() -> impl Iterator<Item = u16> {
    (0..=u16::MAX).filter(|half| half >> 10 & 31 != 31)
}

#[test]
fn every_finite_half_is_converted_exactly_whatever_its_neighbours() {
    let all: Vec<u16> = finite_halves().collect();
    // In order, so that runs are normal or subnormal as a whole; then shuffled, so that they are mixed.
    let mixed: Vec<u16> = (0..all.len()).map(|i| all[i * 7919 % all.len()]).collect();
    for halves in [all, mixed] {
        for count in [8, 64, 72, halves.len()] {
            let mut floats = vec![f32::NAN; count];
            // SAFETY: both have `count` values, a multiple of 8.
            unsafe { from_halves(halves.as_ptr(), count, floats.as_mut_ptr()) };
            let want: Vec<f32> = halves[..count].iter().map(|&h| value_of(h)).collect();
            assert_eq!(bits(&floats), bits(&want));
        }
    }
}

#[test]
fn a_half_is_the_nearest_one_and_of_two_the_even_one() {
    for half in finite_halves() {
        assert_eq!(to_half(value_of(half)), half);
        // Halfway to the next one, and the floats around.
        if half & 0x7fff < 0x7bff {
            let middle = ((value_of(half) as f64 + value_of(half + 1) as f64) / 2.0) as f32;
            assert_eq!(to_half(middle), half + (half & 1), "{middle}");
            let below = f32::from_bits(middle.to_bits() - 1);
            let above = f32::from_bits(middle.to_bits() + 1);
            assert_eq!([to_half(below), to_half(above)], [half, half + 1]);
        }
    }
}

#[test]
fn numbers_beyond_the_halves_become_the_last_one() {
    for x in [65504.0, 65519.9, 65520.0, 1e9, f32::MAX] {
        assert_eq!(to_half(x), 0x7bff, "{x}");
        assert_eq!(to_half(-x), 0xfbff, "{x}");
    }
    assert_eq!([to_half(f32::MIN_POSITIVE), to_half(-1e-40)], [0, 0x8000]);
}

#[test]
fn rows_of_halves_have_each_number_as_one_alone_is_rounded() {
    const WIDTH: usize = 13;
    let steps = (0..0x7c00u32).step_by(7).flat_map(|half| {
        let x = value_of(half as u16);
        let middle = (x + value_of((half as u16 + 1).min(0x7bff))) / 2.0;
        [x, middle, f32::from_bits(middle.to_bits() + 1)]
    });
    let extremes = [f32::MIN_POSITIVE, 1e-40, 65519.9, 65520.0, 3e38];
    let numbers: Vec<f32> = extremes
        .into_iter()
        .chain(steps)
        .flat_map(|x| [x, -x])
        .collect();
    for row in numbers.chunks_exact(WIDTH) {
        for stride in [1, 8] {
            let mut halves = [0x5555u16; 8 * WIDTH];
            let to = Row {
                cells: Cells::F16,
                numbers: halves.as_mut_ptr() as *mut u8,
                scales: core::ptr::null_mut(),
                stride,
            };
            // SAFETY: there is room for both strides.
            unsafe { to.store(row.as_ptr(), WIDTH) };
            for (i, &half) in halves.iter().enumerate() {
                let want = match i / stride {
                    d if i % stride == 0 && d < WIDTH => to_half(row[d]),
                    _ => 0x5555,
                };
                assert_eq!(half, want, "{row:?}, stride {stride}, cell {i}");
            }
        }
    }
}

/// Writes vectors by rows of some stride and reads them back.
fn kept(cells: Cells, vectors: &[Vec<f32>], interleaved: bool) -> Vec<f32> {
    let (count, width) = (vectors.len(), vectors[0].len());
    let mut numbers = vec![0x55u8; count * width * cells.bytes()];
    let mut scales = vec![f32::NAN; count * cells.scales(width)];
    let stride = if interleaved { 8 } else { 1 };
    for (i, vector) in vectors.iter().enumerate() {
        let (first, first_scale) = match interleaved {
            true => (
                i / 8 * 8 * width + i % 8,
                i / 8 * 8 * cells.scales(width) + i % 8,
            ),
            false => (i * width, i * cells.scales(width)),
        };
        let row = Row {
            cells,
            numbers: numbers[first * cells.bytes()..].as_mut_ptr(),
            scales: scales.as_mut_ptr().wrapping_add(first_scale),
            stride,
        };
        // SAFETY: the rows lie side by side.
        unsafe { row.store(vector.as_ptr(), width) };
    }
    let mut out = vec![f32::NAN; count * width];
    let (from, to) = (numbers.as_ptr() as *const i8, out.as_mut_ptr());
    // SAFETY: as above.
    unsafe {
        if interleaved {
            from_interleaved_cells(from, scales.as_ptr(), (count / 8, width), to);
            let read: Vec<f32> = (0..count * width)
                .map(|i| {
                    let (row, d) = (i / width, i % width);
                    out[(row / 8 * width + d) * 8 + row % 8]
                })
                .collect();
            return read;
        }
        from_cells(from, scales.as_ptr(), (count, &[width]), to);
    }
    out
}

#[test]
fn cells_of_eight_bits_are_multiples_of_their_blocks_largest_over_127() {
    let mut random = Random::new(90);
    for width in [4, 8, 20, 32, 36, 64, 100] {
        let vectors: Vec<Vec<f32>> = (0..16).map(|_| random.floats(width)).collect();
        let mut want = vectors.clone();
        want.iter_mut().for_each(|v| rounded(Cells::Q8, v));
        for interleaved in [false, true] {
            let got = kept(Cells::Q8, &vectors, interleaved);
            assert_eq!(bits(&got), bits(&want.concat()), "width {width}");
        }
    }
}

#[test]
fn blocks_of_zeros_and_of_the_smallest_floats_stay_finite() {
    let tiny = f32::from_bits(1);
    let vectors = vec![vec![0.0; 36], vec![tiny; 36], vec![-3e38; 36]];
    let got = kept(Cells::Q8, &vectors, false);
    assert!(got[..36].iter().all(|&x| x == 0.0));
    assert!(got[36..72].iter().all(|&x| x.abs() <= 127.0 * tiny));
    assert!(got[72..].iter().all(|&x| x == got[72] && x.is_finite()));
}
