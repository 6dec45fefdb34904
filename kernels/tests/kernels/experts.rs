//! The choices of a step, sorted by expert.

use sluice_kernels::experts::{scratch_bytes, Expert, Groups, NO_EXPERT};

use crate::support::{Memory, Random};

/// A table of experts of which only some are in this memory. Their matrices are not looked at.
fn table(here: &[bool]) -> Vec<Expert> {
    let data = core::ptr::dangling::<u8>();
    here.iter()
        .map(|&here| {
            // SAFETY: zeros and null pointers are what JavaScript writes for an absent expert.
            let mut expert: Expert = unsafe { core::mem::zeroed() };
            if here {
                expert.gate.data = data;
            }
            expert
        })
        .collect()
}

/// `(expert, token, weight)` of all groups in order, and where each group starts.
type Sorted = (Vec<(usize, u32, f32)>, Vec<usize>);

fn sorted(table: &[Expert], ids: &[i32], weights: &[f32], top_k: usize) -> Sorted {
    let mut scratch = Memory::new(scratch_bytes(ids.len(), table.len()));
    let rows = ids.len() / top_k;
    let mut pairs = Vec::new();
    let mut starts = Vec::new();
    // SAFETY: the scratch is as large as it must be, and kept while groups are read.
    unsafe {
        let (table, experts) = (table.as_ptr(), table.len());
        let (ids, weights) = (ids.as_ptr(), weights.as_ptr());
        let groups = Groups::sort(table, experts, ids, weights, rows, top_k, scratch.at());
        for i in 0..groups.count {
            let group = groups.get(i);
            starts.push(group.start);
            assert_eq!(group.start, pairs.len());
            assert!(group.len > 0);
            for j in 0..group.len {
                pairs.push((group.expert, *group.tokens.add(j), *group.weights.add(j)));
            }
        }
    }
    scratch.check_guard();
    (pairs, starts)
}

#[test]
fn choices_are_sorted_by_expert_and_then_by_token_without_those_who_are_elsewhere_or_none() {
    let mut random = Random::new(50);
    for (experts, top_k) in [(1, 1), (5, 5), (8, 2), (64, 6), (256, 8)] {
        for rows in [1, 2, 7, 60] {
            for share in [0, 1, 2, 4] {
                // All, none, and some of the experts are here.
                let here: Vec<bool> = (0..experts)
                    .map(|_| share == 4 || random.below(4) < share)
                    .collect();
                let mut ids = Vec::new();
                for _ in 0..rows {
                    let first = ids.len();
                    while ids.len() < first + top_k {
                        let id = random.below(experts as u32) as i32;
                        if !ids[first..].contains(&id) {
                            ids.push(id);
                        }
                    }
                }
                // A choice in eight is of none.
                for id in &mut ids {
                    if random.below(8) == 0 {
                        *id = NO_EXPERT;
                    }
                }
                let weights = random.floats(ids.len());
                let mut want: Vec<(usize, u32, f32)> = (0..ids.len())
                    .filter(|&i| ids[i] != NO_EXPERT)
                    .map(|i| (ids[i] as usize, (i / top_k) as u32, weights[i]))
                    .filter(|&(expert, ..)| here[expert])
                    .collect();
                want.sort_by_key(|&(expert, token, _)| (expert, token));
                let starts: Vec<usize> = (0..want.len())
                    .filter(|&i| i == 0 || want[i - 1].0 != want[i].0)
                    .collect();
                assert_eq!(sorted(&table(&here), &ids, &weights, top_k), (want, starts));
            }
        }
    }
}

#[test]
fn an_id_beyond_the_experts_is_an_error() {
    for id in [4, -2] {
        let failed = std::panic::catch_unwind(|| sorted(&table(&[true; 4]), &[id], &[1.0], 1));
        assert!(failed.is_err(), "id {id}");
    }
}
