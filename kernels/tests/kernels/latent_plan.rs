//! Latent attention as a plan, from projections of queries by heads to projections of averaged latents,
//! on one and several threads, against direct calls of what its ops stand for.

use sluice_kernels::activations::{Layout, Precision};
use sluice_kernels::attention::{Batch, PAGE};
use sluice_kernels::cells::Cells;
use sluice_kernels::latent::{scratch_floats, LatentAttention, LatentLayer, LatentRotation};
use sluice_kernels::linear;
use sluice_kernels::scratch_bytes;

use crate::kinds::{kind_named, Scales};
use crate::low::{at, opcode, words, Low, Pool};
use crate::support::{bits, product, Matrix, Random, Records, PRECISIONS};

const HEADS: usize = 5;
const NOPE: usize = 32;
const ROPE: usize = 8;
const LATENT: usize = 64;
/// Rows of a head in the matrix that projects averaged latents.
const VALUE: usize = 16;
const TOKENS: usize = 9;
const SCALE: f32 = 0.3;
const EPS: f32 = 1e-6;
const TABLE: [i32; 2] = [1, 0];

/// The two matrices that absorb a projection, heads' rows after each other, and what enters.
struct Model {
    queries: Matrix,
    values: Matrix,
    norm: Vec<f32>,
    q: Vec<f32>,
    kv: Vec<f32>,
    cos_sin: Vec<f32>,
}

impl Model {
    fn new(kind: &'static str) -> Self {
        let mut random = Random::new(90);
        let kind = kind_named(kind);
        let mut matrix = |shape| Matrix::random(kind, shape, &mut random, Scales::Moderate);
        Self {
            queries: matrix((HEADS * LATENT, NOPE)),
            values: matrix((HEADS * VALUE, LATENT)),
            norm: random.floats(LATENT),
            q: random.floats(TOKENS * HEADS * (NOPE + ROPE)),
            kv: random.floats(TOKENS * (LATENT + ROPE)),
            cos_sin: random.floats(TOKENS * ROPE),
        }
    }
}

/// A head's rows of a matrix times a vector.
fn head_product(matrix: &mut Matrix, head: usize, x: &[f32], precision: Precision) -> Vec<f32> {
    let mut records = Records::new(matrix.kind.id, x, x.len(), precision);
    let each = matrix.rows / HEADS;
    product(matrix, &records.inputs(0, 1, 1))[head * each..][..each].to_vec()
}

/// `[TOKENS, HEADS * VALUE]` by direct calls, token by token.
fn run_directly(model: &mut Model, precision: Precision) -> Vec<f32> {
    let mut pages = vec![f32::NAN; TABLE.len() * PAGE * (LATENT + ROPE)];
    let mut q = model.q.clone();
    let positions: Vec<i32> = (0..TOKENS as i32).collect();
    let batch = Batch {
        positions: positions.as_ptr(),
        sequences: [0; TOKENS].as_ptr(),
        tables: TABLE.as_ptr(),
        table_width: TABLE.len(),
    };
    let layer = LatentLayer {
        base: pages.as_mut_ptr() as *mut u8,
        cells: Cells::F32,
        latent: LATENT,
        rope: ROPE,
    };
    let rotation = LatentRotation {
        q: q.as_mut_ptr(),
        heads: HEADS,
        nope: NOPE,
        kv: model.kv.as_ptr(),
        norm: model.norm.as_ptr(),
        eps: EPS,
        cos_sin: model.cos_sin.as_ptr(),
        interleaved: true,
        layer,
        batch,
    };
    let mut room = [f32::NAN; LATENT + ROPE];
    for row in 0..TOKENS {
        // SAFETY: all pointers cover the tokens.
        unsafe {
            rotation.key(row, room.as_mut_ptr());
            (0..HEADS).for_each(|head| rotation.query(row, head));
        }
    }
    let latent_query: Vec<f32> = (0..TOKENS * HEADS)
        .flat_map(|i| {
            let x = &model.q[i * (NOPE + ROPE)..][..NOPE];
            head_product(&mut model.queries, i % HEADS, x, precision)
        })
        .collect();
    let mut averaged = vec![f32::NAN; TOKENS * HEADS * LATENT];
    let attention = LatentAttention {
        latent_query: latent_query.as_ptr(),
        q: q.as_ptr(),
        out: averaged.as_mut_ptr(),
        heads: HEADS,
        nope: NOPE,
        rows: TOKENS,
        scale: SCALE,
        layer,
        batch,
    };
    let mut scores = [f32::NAN; scratch_floats(LATENT + ROPE)];
    let split = attention.split(1);
    for task in 0..attention.tasks(split) {
        // SAFETY: as above.
        unsafe { attention.run(split, task, scores.as_mut_ptr()) };
    }
    averaged
        .chunks(LATENT)
        .enumerate()
        .flat_map(|(i, x)| head_product(&mut model.values, i % HEADS, x, precision))
        .collect()
}

/// `[TOKENS, HEADS * VALUE]` by plans of `step` tokens each.
fn run_plans(model: &mut Model, pool: &Pool, step: usize, precision: Precision) -> Vec<f32> {
    let mut low = Low::new();
    let queries = low.place(&[model.queries.weight()]);
    let values = low.place(&[model.values.weight()]);
    let forms = linear::forms(model.queries.kind.id, precision);
    let width = HEADS * (NOPE + ROPE);
    let q = low.place(&model.q);
    let kv = low.place(&model.kv);
    let cos_sin = low.place(&model.cos_sin);
    let norm = low.place(&model.norm);
    let positions = low.place(&(0..TOKENS as i32).collect::<Vec<_>>());
    let sequences = low.place(&[0i32; TOKENS]);
    let table = low.place(&TABLE);
    let pages = low.place(&vec![f32::NAN; TABLE.len() * PAGE * (LATENT + ROPE)]);
    let latent_query = low.place(&vec![f32::NAN; TOKENS * HEADS * LATENT]);
    let averaged = low.place(&vec![f32::NAN; TOKENS * HEADS * LATENT]);
    let out = low.place(&vec![f32::NAN; TOKENS * HEADS * VALUE]);
    let each = Layout::new(LATENT.max(NOPE), forms, precision).bytes;
    let records = low.place(&vec![0xffu8; TOKENS * HEADS * each]);
    let heads = HEADS as u32;
    for first in (0..TOKENS).step_by(step) {
        let rows = step.min(TOKENS - first) as u32;
        let from = |at: *mut f32, width: usize| at.wrapping_add(first * width);
        let layer = [at(pages), 0, LATENT as u32, ROPE as u32];
        let batch = [
            at(positions.wrapping_add(first)),
            at(sequences),
            at(table),
            TABLE.len() as u32,
        ];
        let head_linear = |x: *mut f32, stride: usize, weight: u32, out: *mut f32| {
            let mut fields = vec![rows, at(x), stride as u32, weight, heads, at(out)];
            fields.extend([precision as u32, forms, at(records)]);
            (opcode::HEAD_LINEAR, fields)
        };
        let q = from(q, width);
        let mut rotate = vec![rows, at(q), heads, NOPE as u32];
        rotate.extend([at(from(kv, LATENT + ROPE)), at(norm), EPS.to_bits()]);
        rotate.extend([at(from(cos_sin, ROPE)), 1]);
        rotate.extend(layer.into_iter().chain(batch));
        let latent_query = from(latent_query, HEADS * LATENT);
        let averaged = from(averaged, HEADS * LATENT);
        let mut attention = vec![rows, at(latent_query), at(q), heads, NOPE as u32];
        attention.extend([SCALE.to_bits(), at(averaged)]);
        attention.extend(layer.into_iter().chain(batch));
        pool.run(&words(vec![
            head_linear(q, NOPE + ROPE, at(queries), latent_query),
            (opcode::ROTATE_LATENT, rotate),
            (opcode::LATENT_ATTENTION, attention),
            head_linear(averaged, LATENT, at(values), from(out, HEADS * VALUE)),
        ]));
    }
    // SAFETY: placed above; no plan is running.
    unsafe { core::slice::from_raw_parts(out, TOKENS * HEADS * VALUE) }.to_vec()
}

#[test]
fn plans_of_latent_attention_give_the_same_bits_in_any_steps_and_on_any_threads() {
    for kind in ["Q8_0", "Q4_0", "F16", "F8"] {
        let mut model = Model::new(kind);
        let wanted = PRECISIONS.map(|precision| run_directly(&mut model, precision));
        for (threads, streams) in [(1, 1), (1, 4), (2, 4), (3, 1)] {
            let pool = Pool::new(threads, streams, scratch_bytes(LATENT, 0, 0, LATENT + ROPE));
            for (precision, want) in PRECISIONS.into_iter().zip(&wanted) {
                assert!(want.iter().all(|x| x.is_finite()));
                for step in [1, 2, 4, TOKENS] {
                    let got = run_plans(&mut model, &pool, step, precision);
                    assert_eq!(
                        bits(&got),
                        bits(want),
                        "{kind} {precision:?}, {threads} threads, {streams} streams, {step} a step"
                    );
                }
            }
        }
    }
}
