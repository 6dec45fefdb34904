//! The gate and the experts of a layer as a plan: against float64, and bit for bit on any number of
//! threads, in any company, and from any number of tables.

use sluice_kernels::activations::{Layout, Precision};
use sluice_kernels::experts::Expert;
use sluice_kernels::gate::{Gate, Score};
use sluice_kernels::linear;
use sluice_kernels::output::Epilogue;
use sluice_kernels::scratch_bytes;

use crate::gate::exact;
use crate::kinds::{kind_named, Scales};
use crate::low::{at, opcode, words, Low, Pool};
use crate::support::{bits, quantisation_errors, Matrix, Random, PRECISIONS, ROUNDOFF};

const WIDTH: usize = 256;
/// Not whole groups of rows, nor whole vectors of scores.
const EXPERTS: usize = 14;
const TOP_K: usize = 3;
/// Tokens of the largest step: a tile of eight and one.
const TOKENS: usize = 9;
const EPS: f32 = 1e-5;
const SCALE: f32 = 0.8;

/// A layer's shape and types.
#[derive(Clone, Copy)]
struct Case {
    /// Type of gate and up projections, and of down projections.
    kinds: [&'static str; 2],
    router: &'static str,
    intermediate: usize,
    score: Score,
    groups_used: usize,
    top_two: bool,
    activation: Epilogue,
    biased: bool,
}

const GROUPS: usize = 7;

const CASES: [Case; 4] = [
    // As DeepSeek-V3.
    Case {
        kinds: ["Q8_0", "Q8_0 offset"],
        router: "F32",
        intermediate: 96,
        score: Score::Sigmoid,
        groups_used: 2,
        top_two: true,
        activation: Epilogue::Gate,
        biased: false,
    },
    // As DeepSeek-V2.
    Case {
        kinds: ["Q4_K", "Q6_K"],
        router: "F16",
        intermediate: 256,
        score: Score::Softmax,
        groups_used: 3,
        top_two: false,
        activation: Epilogue::Gate,
        biased: false,
    },
    // As GPT-OSS; the width of experts ends within a block and within a group of rows.
    Case {
        kinds: ["F16", "F16"],
        router: "BF16",
        intermediate: 52,
        score: Score::SoftmaxOfChosen,
        groups_used: GROUPS,
        top_two: false,
        activation: Epilogue::ClampedGate,
        biased: true,
    },
    Case {
        kinds: ["F8", "F8"],
        router: "F32",
        intermediate: 96,
        score: Score::Sigmoid,
        groups_used: 2,
        top_two: true,
        activation: Epilogue::Gate,
        biased: false,
    },
];

struct Model {
    case: Case,
    router: Matrix,
    norm: Vec<f32>,
    router_bias: Vec<f32>,
    correction: Vec<f32>,
    /// Gate, up and down of each expert.
    experts: Vec<[Matrix; 3]>,
    biases: Vec<[Vec<f32>; 3]>,
    /// `[TOKENS, WIDTH]`: what enters the layer, and what experts are added to.
    x: Vec<f32>,
    before: Vec<f32>,
}

impl Model {
    fn new(case: Case) -> Self {
        let mut random = Random::new(80);
        let (wide, narrow) = ((case.intermediate, WIDTH), (WIDTH, case.intermediate));
        let [inner, outer] = case.kinds.map(kind_named);
        let router = kind_named(case.router);
        let router = Matrix::new(router, (EXPERTS, WIDTH), || {
            // Small weights, for logits of a few units.
            match case.router {
                "F16" => half_bits(random.float()).to_vec(),
                _ => (random.float() / 4.0).to_le_bytes()[4 - router.bytes..].to_vec(),
            }
        });
        let mut matrix = |kind, shape| Matrix::random(kind, shape, &mut random, Scales::Moderate);
        let experts = (0..EXPERTS)
            .map(|_| {
                [
                    matrix(inner, wide),
                    matrix(inner, wide),
                    matrix(outer, narrow),
                ]
            })
            .collect();
        let sizes = [case.intermediate, case.intermediate, WIDTH];
        Self {
            case,
            router,
            norm: random.floats(WIDTH),
            router_bias: random.floats(EXPERTS),
            // All below zero, as far as scores go.
            correction: random
                .floats(EXPERTS)
                .iter()
                .map(|x| x / 4.0 - 3.0)
                .collect(),
            experts,
            biases: (0..EXPERTS)
                .map(|_| sizes.map(|n| random.floats(n)))
                .collect(),
            x: random.floats(TOKENS * WIDTH),
            before: random.floats(TOKENS * WIDTH),
        }
    }

    fn gate(&self) -> Gate {
        Gate {
            experts: EXPERTS,
            top_k: TOP_K,
            score: self.case.score,
            correction: core::ptr::null(),
            groups: GROUPS,
            groups_used: self.case.groups_used,
            top_two: self.case.top_two,
            normalise: true,
            scale: 2.5,
        }
    }
}

/// A half-precision float of about a quarter of `x`: its sign, exponent and mantissa's upper bits.
fn half_bits(x: f32) -> [u8; 2] {
    let level = (x.abs() * 1023.0) as u16;
    // 2^-3 times 1 to 2.
    (level | 12 << 10 | ((x < 0.0) as u16) << 15).to_le_bytes()
}

/// What a step leaves behind, for each of its tokens.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    normed: Vec<f32>,
    ids: Vec<i32>,
    weights: Vec<f32>,
    out: Vec<f32>,
}

/// Which tokens of the model a step takes.
#[derive(Clone, Copy)]
struct Tokens {
    from: usize,
    count: usize,
}

/// Runs the tokens; experts from `split` on are in a table of their own.
fn run(
    model: &mut Model,
    pool: &Pool,
    tokens: Tokens,
    precision: Precision,
    split: usize,
) -> Outcome {
    let (case, gate) = (model.case, model.gate());
    let rows = tokens.count;
    let pairs = rows * TOP_K;
    let mut low = Low::new();
    let part = |all: &[f32]| all[tokens.from * WIDTH..][..rows * WIDTH].to_vec();
    let x = low.place(&part(&model.x));
    let out = low.place(&part(&model.before));
    let normed = low.place(&vec![f32::NAN; rows * WIDTH]);
    let ids = low.place(&vec![-1i32; pairs]);
    let weights = low.place(&vec![f32::NAN; pairs]);
    let router = low.place(&[model.router.weight()]);
    let logits = low.place(&vec![f32::NAN; rows * EXPERTS.next_multiple_of(4)]);
    let norm = low.place(&model.norm);
    let router_bias = low.place(&model.router_bias);
    let correction = low.place(&model.correction);
    let mut ops = vec![(
        opcode::GATE,
        vec![
            rows as u32,
            at(x),
            at(norm),
            EPS.to_bits(),
            at(normed),
            at(router),
            at(router_bias),
            at(logits),
            at(correction),
            case.score as u32,
            GROUPS as u32,
            gate.groups_used as u32,
            gate.top_two as u32,
            TOP_K as u32,
            gate.normalise as u32,
            gate.scale.to_bits(),
            at(ids),
            at(weights),
        ],
    )];
    let [inner, outer] = case
        .kinds
        .map(|name| linear::forms(kind_named(name).id, precision));
    let records = Layout::new(WIDTH, inner, precision).bytes * rows;
    let mid_records = Layout::new(case.intermediate, outer, precision).bytes * pairs;
    let records = low.place(&vec![0xffu8; records]);
    let mid_records = low.place(&vec![0xffu8; mid_records]);
    let hidden = low.place(&vec![f32::NAN; pairs * case.intermediate]);
    for here in [0..split, split..EXPERTS] {
        let table: Vec<Expert> = (0..EXPERTS)
            .map(|e| {
                // SAFETY: zeros and null pointers are an absent expert.
                let mut expert: Expert = unsafe { core::mem::zeroed() };
                if here.contains(&e) {
                    let [gate, up, down] = &mut model.experts[e];
                    (expert.gate, expert.up, expert.down) =
                        (gate.weight(), up.weight(), down.weight());
                    if case.biased {
                        expert.biases = [0, 1, 2].map(|i| model.biases[e][i].as_ptr());
                    }
                }
                expert
            })
            .collect();
        let table = low.place(&table);
        ops.push((
            opcode::EXPERTS,
            vec![
                rows as u32,
                at(normed),
                WIDTH as u32,
                case.intermediate as u32,
                at(table),
                EXPERTS as u32,
                at(ids),
                at(weights),
                TOP_K as u32,
                case.activation as u32,
                SCALE.to_bits(),
                at(out),
                precision as u32,
                inner,
                at(records),
                outer,
                at(mid_records),
                at(hidden),
            ],
        ));
    }
    pool.run(&words(ops));
    // SAFETY: placed above; no plan is running.
    unsafe {
        let floats = |at: *mut f32, n: usize| core::slice::from_raw_parts(at, n).to_vec();
        Outcome {
            normed: floats(normed, rows * WIDTH),
            ids: core::slice::from_raw_parts(ids, pairs).to_vec(),
            weights: floats(weights, pairs),
            out: floats(out, rows * WIDTH),
        }
    }
}

fn pool(model: &Model, threads: u32, streams: u32) -> Pool {
    let cols = WIDTH.max(model.case.intermediate);
    Pool::new(
        threads,
        streams,
        scratch_bytes(cols, TOKENS * TOP_K, EXPERTS, 0),
    )
}

fn assert_near(got: f32, want: f64, bound: f64, what: &str) {
    assert!(
        (got as f64 - want).abs() <= bound,
        "{what}: {got} for {want}, bound {bound}"
    );
}

/// Compares a token's routing with float64.
fn check_routing(model: &Model, token: usize, outcome: &Outcome) {
    let x = &model.x[token * WIDTH..][..WIDTH];
    let normed = &outcome.normed[token * WIDTH..][..WIDTH];
    let mean = x.iter().map(|&x| (x as f64).powi(2)).sum::<f64>() / WIDTH as f64;
    for i in 0..WIDTH {
        let want = x[i] as f64 / (mean + EPS as f64).sqrt() * model.norm[i] as f64;
        let bound = (WIDTH + 8) as f64 * ROUNDOFF * want.abs();
        assert_near(normed[i], want, bound, "normed");
    }
    let mut worst = 0f64;
    let logits: Vec<f32> = (0..EXPERTS)
        .map(|e| {
            let (sum, bound) = model.router.product(e, normed, &[0.0; WIDTH]);
            let logit = sum + model.router_bias[e] as f64;
            worst = worst.max(bound + 2.0 * ROUNDOFF * (logit.abs() + sum.abs()));
            logit as f32
        })
        .collect();
    let (ids, weights) = exact(&model.gate(), &logits, Some(&model.correction));
    assert_eq!(outcome.ids[token * TOP_K..][..TOP_K], ids, "token {token}");
    for (got, want) in outcome.weights[token * TOP_K..].iter().zip(weights) {
        // A score changes by at most its logit's error, relatively; so does the sum of all.
        let relative = 2.0 * worst + (2 * EXPERTS + 30) as f64 * ROUNDOFF;
        assert_near(*got, want, relative * want, "weight");
    }
}

/// An expert's activations in float64 from normalised values, and how far the kernel may be off.
fn activations(
    model: &Model,
    expert: usize,
    x: &[f32],
    precision: Precision,
) -> (Vec<f64>, Vec<f64>) {
    let [gate, up, _] = &model.experts[expert];
    let errors = if gate.kind.is_float() {
        vec![0.0; x.len()]
    } else {
        quantisation_errors(x, precision)
    };
    (0..model.case.intermediate)
        .map(|row| {
            let side = |matrix: &Matrix, bias: &[f32]| {
                let (sum, bound) = matrix.product(row, x, &errors);
                let bias = if model.case.biased {
                    bias[row] as f64
                } else {
                    0.0
                };
                (sum + bias, bound + ROUNDOFF * (sum.abs() + bias.abs()))
            };
            let (g, g_bound) = side(gate, &model.biases[expert][0]);
            let (u, u_bound) = side(up, &model.biases[expert][1]);
            let (g, u, slope) = match model.case.activation {
                Epilogue::ClampedGate => (g.min(7.0), u.clamp(-7.0, 7.0) + 1.0, 1.702),
                _ => (g, u, 1.0),
            };
            let gated = g / (1.0 + (-slope * g).exp());
            // Neither form of the gate is steeper than 1.1; its exp rounds its argument as well.
            let rounded = (16.0 + 4.0 * g.abs()) * ROUNDOFF * (gated * u).abs();
            let bound = 1.1 * g_bound * (u.abs() + u_bound) + gated.abs() * u_bound + rounded;
            (gated * u, bound)
        })
        .unzip()
}

/// Compares a token's output with the weighted sum over its experts in float64.
fn check_output(model: &Model, token: usize, outcome: &Outcome, precision: Precision) {
    let normed = &outcome.normed[token * WIDTH..][..WIDTH];
    let mut want: Vec<f64> = model.before[token * WIDTH..][..WIDTH]
        .iter()
        .map(|&x| x as f64)
        .collect();
    let mut bounds = vec![0f64; WIDTH];
    let mut sizes: Vec<f64> = want.iter().map(|x| x.abs()).collect();
    for pair in token * TOP_K..(token + 1) * TOP_K {
        let expert = outcome.ids[pair] as usize;
        let factor = outcome.weights[pair] as f64 * SCALE as f64;
        let (mid, mut errors) = activations(model, expert, normed, precision);
        let rounded: Vec<f32> = mid.iter().map(|&x| x as f32).collect();
        for (error, x) in errors.iter_mut().zip(&mid) {
            *error += ROUNDOFF * x.abs();
        }
        let down = &model.experts[expert][2];
        if !down.kind.is_float() {
            // What is quantised may itself be off, and so may the peak that sets the step.
            let largest: Vec<f32> = mid
                .iter()
                .zip(&errors)
                .map(|(x, e)| ((x.abs() + e) * (1.0 + 2.0 * ROUNDOFF)) as f32)
                .collect();
            for (error, more) in errors
                .iter_mut()
                .zip(quantisation_errors(&largest, precision))
            {
                *error += more;
            }
        }
        for row in 0..WIDTH {
            let (sum, bound) = down.product(row, &rounded, &errors);
            let bias = if model.case.biased {
                model.biases[expert][2][row] as f64
            } else {
                0.0
            };
            want[row] += factor * (sum + bias);
            let size = sum.abs() + bias.abs();
            sizes[row] += factor.abs() * size;
            bounds[row] += factor.abs() * (bound + 4.0 * ROUNDOFF * size);
        }
    }
    for row in 0..WIDTH {
        let bound = bounds[row] + (TOP_K + 1) as f64 * ROUNDOFF * (sizes[row] + bounds[row]);
        let got = outcome.out[token * WIDTH + row];
        let what = format!(
            "{:?} {precision:?}, token {token}, row {row}",
            model.case.kinds
        );
        assert_near(got, want[row], bound, &what);
    }
}

/// The outcome of some of the tokens.
fn part(whole: &Outcome, tokens: Tokens) -> Outcome {
    let of = |values: &[f32], width: usize| {
        values[tokens.from * width..][..tokens.count * width].to_vec()
    };
    Outcome {
        normed: of(&whole.normed, WIDTH),
        ids: whole.ids[tokens.from * TOP_K..][..tokens.count * TOP_K].to_vec(),
        weights: of(&whole.weights, TOP_K),
        out: of(&whole.out, WIDTH),
    }
}

fn assert_same_bits(got: &Outcome, want: &Outcome, what: &str) {
    assert_eq!(got.ids, want.ids, "{what}");
    assert_eq!(bits(&got.normed), bits(&want.normed), "{what}");
    assert_eq!(bits(&got.weights), bits(&want.weights), "{what}");
    assert_eq!(bits(&got.out), bits(&want.out), "{what}");
}

fn check(case: Case) {
    const ALL: Tokens = Tokens {
        from: 0,
        count: TOKENS,
    };
    let mut model = Model::new(case);
    let alone = pool(&model, 1, 1);
    for precision in PRECISIONS {
        let whole = run(&mut model, &alone, ALL, precision, EXPERTS);
        for token in 0..TOKENS {
            check_routing(&model, token, &whole);
            check_output(&model, token, &whole, precision);
        }
        // Experts in two memories, of which one may have none of those chosen.
        for split in [0, 5] {
            let got = run(&mut model, &alone, ALL, precision, split);
            assert_same_bits(&got, &whole, &format!("{precision:?}, split at {split}"));
        }
        for (threads, streams) in [(1, 4), (2, 1), (2, 4), (3, 1)] {
            let pool = pool(&model, threads, streams);
            let singles = (0..TOKENS).map(|from| Tokens { from, count: 1 });
            let more = [(0, TOKENS), (0, 8), (2, 2), (5, 3)];
            let more = more.map(|(from, count)| Tokens { from, count });
            for tokens in singles.chain(more) {
                let got = run(&mut model, &pool, tokens, precision, EXPERTS);
                let Tokens { from, count } = tokens;
                let what = format!(
                    "{:?} {precision:?}, {threads} threads, {streams} streams, {count} tokens from {from}",
                    case.kinds
                );
                assert_same_bits(&got, &part(&whole, tokens), &what);
            }
        }
    }
}

#[test]
fn experts_of_q8_0_add_what_the_gate_chose_in_any_company_and_on_any_threads() {
    check(CASES[0]);
}

#[test]
fn experts_of_k_quants_add_what_the_gate_chose_in_any_company_and_on_any_threads() {
    check(CASES[1]);
}

#[test]
fn experts_of_half_floats_add_what_the_gate_chose_in_any_company_and_on_any_threads() {
    check(CASES[2]);
}

#[test]
fn experts_of_eight_bit_floats_add_what_the_gate_chose_in_any_company_and_on_any_threads() {
    check(CASES[3]);
}
