//! Every type's block in the file: random contents, and what they mean.

use crate::support::Random;

/// A type's block in the file.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub id: u32,
    /// Values and bytes of a block.
    pub values: usize,
    pub bytes: usize,
    /// Where its half-precision scales are.
    pub halves: &'static [usize],
}

const fn kind(
    name: &'static str,
    id: u32,
    values: usize,
    bytes: usize,
    halves: &'static [usize],
) -> Kind {
    Kind {
        name,
        id,
        values,
        bytes,
        halves,
    }
}

pub const KINDS: [Kind; 18] = [
    kind("F32", 0, 1, 4, &[]),
    kind("F16", 1, 1, 2, &[0]),
    kind("BF16", 30, 1, 2, &[]),
    kind("Q4_0", 2, 32, 18, &[0]),
    kind("Q4_1", 3, 32, 20, &[0, 2]),
    kind("Q5_0", 6, 32, 22, &[0]),
    kind("Q5_1", 7, 32, 24, &[0, 2]),
    kind("Q8_0", 8, 32, 34, &[0]),
    // The same in files, in a layout for processors that multiply by unsigned bytes.
    kind("Q8_0 offset", 1008, 32, 34, &[0]),
    kind("Q2_K", 10, 256, 84, &[80, 82]),
    kind("Q3_K", 11, 256, 110, &[108]),
    kind("Q4_K", 12, 256, 144, &[0, 2]),
    kind("Q5_K", 13, 256, 176, &[0, 2]),
    kind("Q6_K", 14, 256, 210, &[208]),
    kind("IQ4_NL", 20, 32, 18, &[0]),
    kind("IQ4_XS", 23, 256, 136, &[0]),
    kind("MXFP4", 39, 32, 17, &[]),
    // 8-bit floats e4m3, each 32 of a row after their float32 scale.
    kind("F8", 1000, 32, 36, &[]),
];

/// The types whose products are computed in integers.
pub fn integer_kinds() -> impl Iterator<Item = Kind> {
    KINDS.into_iter().filter(|kind| !kind.is_float())
}

pub fn kind_named(name: &str) -> Kind {
    *KINDS.iter().find(|kind| kind.name == name).unwrap()
}

/// How large random scales are.
#[derive(Clone, Copy, PartialEq)]
pub enum Scales {
    /// Between 1/1024 and 1/16 in magnitude.
    Moderate,
    /// Every finite value, zero and subnormals too.
    Any,
}

impl Kind {
    /// Whether products take the activations as they are, at any precision.
    pub fn is_float(&self) -> bool {
        self.values == 1 || self.name == "F8"
    }

    pub fn random_block(&self, random: &mut Random, scales: Scales) -> Vec<u8> {
        let mut block: Vec<u8> = (0..self.bytes).map(|_| random.bits() as u8).collect();
        for &at in self.halves {
            let exponent = match scales {
                Scales::Moderate => 5 + random.below(6),
                Scales::Any => random.below(31),
            };
            let half = (random.bits() & 0x83ff) as u16 | (exponent as u16) << 10;
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        match self.name {
            "F32" => block.copy_from_slice(&random.float().to_le_bytes()),
            "BF16" => block.copy_from_slice(&random.float().to_le_bytes()[2..]),
            "MXFP4" if scales == Scales::Moderate => block[0] = 118 + random.below(6) as u8,
            // The exponent 255 stands for NaN.
            "MXFP4" => block[0] = random.below(255) as u8,
            "F8" => {
                // Exponents of scales whose products with every value are finite.
                let exponent = match scales {
                    Scales::Moderate => 110 + random.below(6),
                    Scales::Any => random.below(246),
                };
                let scale = random.bits() & 0x807f_ffff | exponent << 23;
                block[..4].copy_from_slice(&scale.to_le_bytes());
                for byte in &mut block[4..] {
                    // The two patterns that stand for NaN become the largest values.
                    *byte -= (*byte & 0x7f == 0x7f) as u8;
                }
            }
            _ => {}
        }
        block
    }

    /// Value `i` of a block, as a product of scale and level and a constant term to add.
    pub fn value(&self, block: &[u8], i: usize) -> (f32, f32) {
        let half = |at: usize| half(u16::from_le_bytes([block[at], block[at + 1]]));
        // Byte and shift of value i where bytes hold values i and i + 16 of 32.
        let nibble = |at: usize| block[at + i % 16] >> (i / 16 * 4) & 15;
        let fifth = |at: usize| (block[at + i / 8] >> (i % 8) & 1) << 4;
        let product = |scale: f32, level: i32| scale * level as f32;
        match self.name {
            "F32" => (f32::from_le_bytes(block.try_into().unwrap()), 0.0),
            "F16" => (half(0), 0.0),
            "BF16" => (f32::from_le_bytes([0, 0, block[0], block[1]]), 0.0),
            "Q4_0" => (product(half(0), nibble(2) as i32 - 8), 0.0),
            "Q4_1" => (product(half(0), nibble(4) as i32), half(2)),
            "Q5_0" => (product(half(0), (nibble(6) | fifth(2)) as i32 - 16), 0.0),
            "Q5_1" => (product(half(0), (nibble(8) | fifth(4)) as i32), half(2)),
            "Q8_0" | "Q8_0 offset" => (product(half(0), block[2 + i] as i8 as i32), 0.0),
            "Q2_K" => {
                let q = block[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
                let scale = half(80) * (block[i / 16] & 15) as f32;
                (
                    product(scale, q as i32),
                    -(half(82) * (block[i / 16] >> 4) as f32),
                )
            }
            "Q3_K" => {
                let low = block[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
                let high = block[i % 32] >> (i / 32) & 1;
                let s = i / 16;
                let packed = &block[96..108];
                let scale = (packed[s % 8] >> (s / 8 * 4) & 15)
                    | (packed[8 + s % 4] >> (s / 4 * 2) & 3) << 4;
                let scale = half(108) * (scale as i32 - 32) as f32;
                (product(scale, (low | high << 2) as i32 - 4), 0.0)
            }
            "Q4_K" | "Q5_K" => {
                let s = i / 32;
                let packed = &block[4..16];
                let (scale, min) = match s {
                    0..4 => (packed[s] & 63, packed[s + 4] & 63),
                    _ => (
                        packed[s + 4] & 15 | packed[s - 4] >> 6 << 4,
                        packed[s + 4] >> 4 | packed[s] >> 6 << 4,
                    ),
                };
                let nibbles = self.bytes - 128;
                let mut q = block[nibbles + i / 64 * 32 + i % 32] >> (s % 2 * 4) & 15;
                if self.name == "Q5_K" {
                    q |= (block[16 + i % 32] >> s & 1) << 4;
                }
                let scale = half(0) * scale as f32;
                (product(scale, q as i32), -(half(2) * min as f32))
            }
            "Q6_K" => {
                let low = block[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
                let high = block[128 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
                let scale = half(208) * (block[192 + i / 16] as i8) as f32;
                (product(scale, (low | high << 4) as i32 - 32), 0.0)
            }
            "IQ4_NL" => (product(half(0), IQ4_LEVELS[nibble(2) as usize]), 0.0),
            "IQ4_XS" => {
                let s = i / 32;
                let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * s) & 3;
                let scale = (block[4 + s / 2] >> (s % 2 * 4) & 15) | (high as u8) << 4;
                let q = block[8 + s * 16 + i % 16] >> (i % 32 / 16 * 4) & 15;
                let scale = half(0) * (scale as i32 - 32) as f32;
                (product(scale, IQ4_LEVELS[q as usize]), 0.0)
            }
            "MXFP4" => {
                let scale = 2f64.powi(block[0] as i32 - 127);
                ((scale * E2M1[nibble(1) as usize]) as f32, 0.0)
            }
            "F8" => {
                let scale = f32::from_le_bytes(block[..4].try_into().unwrap());
                (scale * e4m3(block[4 + i]) as f32, 0.0)
            }
            name => unreachable!("{name} is not in the table"),
        }
    }
}

const IQ4_LEVELS: [i32; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
const E2M1: [f64; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// A finite half-precision float.
pub fn half(bits: u16) -> f32 {
    let mantissa = (bits & 0x3ff) as f64;
    let magnitude = match bits >> 10 & 31 {
        0 => mantissa * 2f64.powi(-24),
        exponent => (1.0 + mantissa / 1024.0) * 2f64.powi(exponent as i32 - 15),
    };
    (if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }) as f32
}

/// An 8-bit float with 4 bits of exponent (bias 7) and 3 of mantissa, not NaN.
pub fn e4m3(byte: u8) -> f64 {
    let mantissa = (byte & 7) as f64;
    let magnitude = match byte >> 3 & 15 {
        0 => mantissa / 8.0 * 2f64.powi(-6),
        exponent => (1.0 + mantissa / 8.0) * 2f64.powi(exponent as i32 - 7),
    };
    if byte >> 7 == 1 {
        -magnitude
    } else {
        magnitude
    }
}
