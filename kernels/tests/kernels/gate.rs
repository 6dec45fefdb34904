//! The gate's choice against a plain evaluation in float64.

use sluice_kernels::gate::{scratch_floats, Gate, Score};

use crate::support::{Random, ROUNDOFF};

const SCORES: [Score; 3] = [Score::Softmax, Score::Sigmoid, Score::SoftmaxOfChosen];

/// A gate over experts without limits or factors.
fn plain(score: Score, experts: usize, top_k: usize) -> Gate {
    Gate {
        experts,
        top_k,
        score,
        correction: core::ptr::null(),
        groups: 1,
        groups_used: 1,
        top_two: false,
        normalise: false,
        scale: 1.0,
    }
}

/// Runs the kernel; what lies beyond the experts and the choices must not matter, or stay.
fn choose(gate: &Gate, logits: &[f32]) -> (Vec<i32>, Vec<f32>) {
    let padded = gate.experts.next_multiple_of(4);
    let mut scratch = vec![f32::NAN; scratch_floats(gate.experts) + 1];
    scratch[..gate.experts].copy_from_slice(logits);
    let mut ids = vec![-1; gate.top_k + 1];
    let mut weights = vec![f32::NAN; gate.top_k + 1];
    let scores = scratch.as_mut_ptr();
    // SAFETY: the scratch has room for scores and choice scores.
    unsafe {
        let choice = scores.add(padded);
        gate.choose(scores, choice, ids.as_mut_ptr(), weights.as_mut_ptr());
    }
    assert!(scratch.pop().unwrap().is_nan(), "wrote past the scratch");
    assert_eq!(ids.pop(), Some(-1), "wrote past the ids");
    assert!(weights.pop().unwrap().is_nan(), "wrote past the weights");
    (ids, weights)
}

/// Ids by falling value; of equal ones the lower id comes first.
fn ranked(values: &[f32]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..values.len()).collect();
    // A stable sort keeps equal ones in order.
    ids.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    ids
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let peak = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|x| (x - peak).exp()).sum();
    x.iter().map(|x| (x - peak).exp() / total).collect()
}

/// The choice and its weights in float64.
pub fn exact(gate: &Gate, logits: &[f32], correction: Option<&[f32]>) -> (Vec<i32>, Vec<f64>) {
    let logits: Vec<f64> = logits.iter().map(|&x| x as f64).collect();
    let scores = match gate.score {
        Score::Softmax => softmax(&logits),
        Score::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Score::SoftmaxOfChosen => logits,
    };
    // Sums are made in float32, where they tie in float32.
    let choice: Vec<f32> = (0..gate.experts)
        .map(|e| scores[e] as f32 + correction.map_or(0.0, |c| c[e]))
        .collect();
    let size = gate.experts / gate.groups;
    let ranks: Vec<f32> = choice
        .chunks(size)
        .map(|group| {
            let best = ranked(group);
            let first = group[best[0]];
            if gate.top_two && size > 1 {
                first + group[best[1]]
            } else {
                first
            }
        })
        .collect();
    let used = &ranked(&ranks)[..gate.groups_used];
    let ids: Vec<usize> = ranked(&choice)
        .into_iter()
        .filter(|e| used.contains(&(e / size)))
        .take(gate.top_k)
        .collect();
    let mut weights: Vec<f64> = ids.iter().map(|&e| scores[e]).collect();
    if gate.score == Score::SoftmaxOfChosen {
        weights = softmax(&weights);
    }
    if gate.normalise {
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    weights.iter_mut().for_each(|w| *w *= gate.scale as f64);
    (ids.into_iter().map(|e| e as i32).collect(), weights)
}

fn check(gate: &Gate, logits: &[f32], correction: Option<&[f32]>) {
    let gate = Gate {
        correction: correction.map_or(core::ptr::null(), <[f32]>::as_ptr),
        ..*gate
    };
    let (ids, weights) = choose(&gate, logits);
    let (want, exact) = exact(&gate, logits, correction);
    assert_eq!(ids, want, "{logits:?} {correction:?}");
    // A few roundings of exp, and one for each summand above and below the fraction.
    let relative = (24 + 2 * gate.experts + 2 * gate.top_k) as f64 * ROUNDOFF;
    for (got, want) in weights.iter().zip(exact) {
        assert!(
            (*got as f64 - want).abs() <= relative * want.abs(),
            "{got} for {want}"
        );
    }
}

/// Logits of few different values, so that there are many ties and no near ones.
fn logits(random: &mut Random, n: usize) -> Vec<f32> {
    (0..n)
        .map(|_| random.below(256) as f32 / 32.0 - 4.0)
        .collect()
}

#[test]
fn the_best_experts_are_chosen_and_weighted_by_each_kind_of_score() {
    let mut random = Random::new(40);
    for score in SCORES {
        for (experts, top_k) in [(1, 1), (3, 3), (4, 2), (10, 3), (61, 6), (64, 8), (257, 8)] {
            for (normalise, scale) in [(false, 1.0), (true, 1.0), (true, 2.5), (false, 16.0)] {
                let gate = Gate {
                    normalise,
                    scale,
                    ..plain(score, experts, top_k)
                };
                for _ in 0..10 {
                    check(&gate, &logits(&mut random, experts), None);
                }
            }
        }
    }
}

#[test]
fn a_correction_moves_the_choice_and_not_the_weights() {
    let mut random = Random::new(41);
    for score in SCORES {
        // A shift by which all choice scores are negative changes nothing.
        for shift in [0.0, -40.0] {
            let gate = plain(score, 48, 6);
            for _ in 0..30 {
                let correction: Vec<f32> = logits(&mut random, 48)
                    .iter()
                    .map(|x| x / 8.0 + shift)
                    .collect();
                check(&gate, &logits(&mut random, 48), Some(&correction));
            }
        }
    }
    // Expert 2 has the lowest score and is chosen by its correction alone.
    let gate = Gate {
        correction: [-1.0, -2.0, 0.5, -1.0].as_ptr(),
        ..plain(Score::Sigmoid, 4, 1)
    };
    assert_eq!(choose(&gate, &[0.0, 3.0, -2.0, 0.0]).0, [2]);
}

#[test]
fn experts_outside_of_the_best_groups_are_never_chosen() {
    let mut random = Random::new(42);
    for score in SCORES {
        for top_two in [false, true] {
            // As DeepSeek-V2 and V3 have them, and groups that are all used or of one expert.
            for (experts, groups, groups_used, top_k) in [
                (160, 8, 3, 6),
                (256, 8, 4, 8),
                (24, 4, 1, 6),
                (24, 4, 4, 6),
                (8, 8, 3, 3),
                (256, 256, 200, 8),
            ] {
                let gate = Gate {
                    groups,
                    groups_used,
                    top_two,
                    ..plain(score, experts, top_k)
                };
                for round in 0..20 {
                    let logits = logits(&mut random, experts);
                    // Half of the time all choice scores are negative.
                    let correction: Vec<f32> = (0..experts)
                        .map(|_| random.float() - (round % 2) as f32 * 10.0)
                        .collect();
                    check(&gate, &logits, Some(&correction));
                    check(&gate, &logits, None);
                }
            }
        }
    }
}

#[test]
fn the_lower_id_wins_a_tie() {
    for score in SCORES {
        let gate = plain(score, 9, 4);
        let ids = choose(&gate, &[0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]).0;
        assert_eq!(ids, [1, 3, 4, 6]);
        // All groups are equal: the first two are used, though the choice runs out of them.
        let gate = Gate {
            groups: 3,
            groups_used: 2,
            top_two: true,
            ..gate
        };
        assert_eq!(choose(&gate, &[0.5; 9]).0, [0, 1, 2, 3]);
    }
}

#[test]
fn two_good_experts_outrank_one_that_is_better() {
    // Groups of four, of which the first has the best expert and the second the best two.
    let logits = [4.0, -4.0, -4.0, -4.0, 3.0, 3.0, -4.0, -4.0];
    for (top_two, want) in [(false, 0), (true, 4)] {
        let gate = Gate {
            groups: 2,
            groups_used: 1,
            top_two,
            ..plain(Score::Sigmoid, 8, 1)
        };
        assert_eq!(choose(&gate, &logits).0, [want]);
    }
}

#[test]
fn ids_are_distinct_however_far_scores_are_apart() {
    // Softmax makes all but one of these zero, and sigmoid all but a few one or zero.
    let logits: Vec<f32> = (0..64)
        .map(|e| (e * 37 % 64) as f32 * 50.0 - 1600.0)
        .collect();
    for score in SCORES {
        for groups_used in [1, 2, 4] {
            let gate = Gate {
                groups: 4,
                groups_used,
                normalise: true,
                ..plain(score, 64, 16)
            };
            let (mut ids, weights) = choose(&gate, &logits);
            assert!(weights.iter().all(|w| (0.0..=1.0).contains(w)));
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), 16);
            assert!(ids.iter().all(|id| (0..64).contains(id)));
        }
    }
}

#[test]
fn logits_that_are_not_numbers_come_last_and_ids_stay_distinct() {
    for score in [Score::Sigmoid, Score::SoftmaxOfChosen] {
        let mut logits = [f32::NAN; 9];
        (logits[4], logits[7], logits[8]) = (-2.0, 3.0, f32::NEG_INFINITY);
        let gate = plain(score, 9, 2);
        assert_eq!(choose(&gate, &logits).0, [7, 4]);
        let mut ids = choose(&plain(score, 9, 9), &logits).0;
        assert_eq!(ids[..2], [7, 4]);
        ids.sort();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    // A softmax over one that is not a number has no others.
    for groups_used in [1, 3] {
        let gate = Gate {
            groups: 3,
            groups_used,
            ..plain(Score::Softmax, 9, 9)
        };
        let mut logits = [0.5; 9];
        logits[3] = f32::NAN;
        let (ids, weights) = choose(&gate, &logits);
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(weights.iter().all(|w| w.is_nan()));
    }
}
