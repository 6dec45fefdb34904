//! Attention over the latest keys only, and with a score beside the keys' that has no value.

use core::ops::Range;

use sluice_kernels::attention::{attend, Attention, Query, Split};

use crate::attention::{
    assert_near, batch, Cache, ALL_CELLS, HEADS, KEY_DIM, KV_HEADS, SCALE, SCRATCH, TABLES, TALL,
    VALUE_DIM,
};
use crate::support::{bits, Random};

const NO_SINK: f32 = f32::NEG_INFINITY;

/// One query at a time.
fn attend_alone(
    cache: &mut Cache,
    q: &[f32],
    head: usize,
    (seen, sink): (Range<usize>, f32),
) -> Vec<f32> {
    let mut out = vec![f32::NAN; VALUE_DIM];
    let mut scores = [f32::NAN; SCRATCH];
    let query = Query {
        q: q.as_ptr(),
        out: out.as_mut_ptr(),
        first: seen.start,
        limit: seen.end,
        sink,
    };
    let layer = cache.layer();
    let (table, scores) = (TABLES.as_ptr(), scores.as_mut_ptr());
    // SAFETY: the table covers the limit.
    unsafe { attend(&[query], table, &layer, head, SCALE, scores) };
    out
}

#[test]
fn a_query_sees_the_keys_of_its_range_wherever_pages_begin() {
    for cells in ALL_CELLS {
        check_ranges(Cache::of(cells, [190, 1]));
    }
}

fn check_ranges(mut cache: Cache) {
    let q = Random::new(60).floats(KEY_DIM);
    for first in [0, 1, 7, 8, 63, 64, 65, 127, 128, 150, 189] {
        for limit in [1, 64, 65, 66, 128, 129, 151, 190] {
            if first >= limit {
                continue;
            }
            for sink in [NO_SINK, -1e30, -3.0, 0.0, 2.0, 60.0] {
                for head in 0..KV_HEADS {
                    let seen = (first..limit, sink);
                    let want = cache.exact_seen(&q, 0, head, seen.clone());
                    let got = attend_alone(&mut cache, &q, head, seen);
                    assert_near(&got, &want, &format!("keys {first}..{limit}, sink {sink}"));
                }
            }
        }
    }
}

#[test]
fn keys_before_the_range_are_not_read_from_other_pages() {
    // Page 5 holds the first 64 keys and is NaN for a query that starts behind it.
    let mut cache = Cache::new([190, 1]);
    let q = Random::new(61).floats(KEY_DIM);
    let want = attend_alone(&mut cache, &q, 0, (64..190, NO_SINK));
    let layer = cache.layer();
    let page = layer.page_bytes();
    // SAFETY: the first page of the table lies in the cache.
    unsafe {
        let at = layer.base.add(TABLES[0] as usize * page);
        core::slice::from_raw_parts_mut(at, page).fill(0xff);
    }
    let got = attend_alone(&mut cache, &q, 0, (64..190, NO_SINK));
    assert_eq!(bits(&got), bits(&want));
}

#[test]
fn a_sink_far_above_all_scores_leaves_nothing_and_one_far_below_changes_nothing() {
    let mut cache = Cache::new([70, 1]);
    let q = Random::new(62).floats(KEY_DIM);
    let above = attend_alone(&mut cache, &q, 0, (0..70, 200.0));
    assert_eq!(above, [0.0; VALUE_DIM]);
    let without = attend_alone(&mut cache, &q, 0, (0..70, NO_SINK));
    let below = attend_alone(&mut cache, &q, 0, (0..70, -200.0));
    assert_eq!(bits(&below), bits(&without));
}

#[test]
fn queries_of_different_ranges_and_sinks_get_in_a_tile_what_they_get_alone() {
    let mut cache = Cache::new([190, 1]);
    let q = Random::new(63).floats(4 * KEY_DIM);
    for ranges in [
        [0..1, 0..2, 1..3, 2..4],
        [60..64, 61..65, 64..66, 0..67],
        [0..190, 130..131, 64..128, 63..65],
        [189..190, 3..70, 0..64, 100..150],
    ] {
        for sinks in [[NO_SINK; 4], [1.0, NO_SINK, -2.0, 40.0]] {
            for head in 0..KV_HEADS {
                let mut tile = [[f32::NAN; VALUE_DIM]; 4];
                let mut scores = [f32::NAN; SCRATCH];
                let base = tile.as_mut_ptr();
                let queries: [Query; 4] = core::array::from_fn(|n| Query {
                    q: q[n * KEY_DIM..].as_ptr(),
                    out: base.wrapping_add(n) as *mut f32,
                    first: ranges[n].start,
                    limit: ranges[n].end,
                    sink: sinks[n],
                });
                let layer = cache.layer();
                let (table, scores) = (TABLES.as_ptr(), scores.as_mut_ptr());
                // SAFETY: the table covers the limits; each output is its own.
                unsafe { attend(&queries, table, &layer, head, SCALE, scores) };
                for n in 0..4 {
                    let q = &q[n * KEY_DIM..][..KEY_DIM];
                    let seen = (ranges[n].clone(), sinks[n]);
                    let alone = attend_alone(&mut cache, q, head, seen);
                    assert_eq!(bits(&tile[n]), bits(&alone), "{ranges:?}, query {n}");
                }
            }
        }
    }
}

#[test]
fn windows_and_sinks_are_each_rows_and_heads_own_however_work_is_split() {
    let mut cache = Cache::new([140, 100]);
    let positions: Vec<i32> = (120..140).chain(58..70).chain([139, 99, 0, 5]).collect();
    let sequences: Vec<i32> = [0; 20]
        .into_iter()
        .chain([1; 12])
        .chain([0, 1, 0, 1])
        .collect();
    let rows = positions.len();
    let mut random = Random::new(64);
    let q = random.floats(rows * HEADS * KEY_DIM);
    let sinks = random.floats(HEADS);
    let layer = cache.layer();
    // Windows of one key, within a page, across a border, of whole pages, and longer than all keys.
    for window in [0, 1, 9, 63, 64, 66, 128, 139, 1000] {
        for sinks in [None, Some(&sinks)] {
            let run = |from: usize, rows: usize, split: Option<Split>| {
                let mut out = vec![f32::NAN; rows * HEADS * VALUE_DIM];
                let attention = Attention {
                    q: q[from * HEADS * KEY_DIM..].as_ptr(),
                    out: out.as_mut_ptr(),
                    heads: HEADS,
                    rows,
                    scale: SCALE,
                    window,
                    sinks: sinks.map_or(core::ptr::null(), |s| s.as_ptr()),
                    layer,
                    batch: batch(&positions[from..], &sequences[from..]),
                };
                let split = split.unwrap_or_else(|| attention.split(2));
                let mut scores = [f32::NAN; SCRATCH];
                for task in 0..attention.tasks(split) {
                    // SAFETY: the tables cover all positions.
                    unsafe { attention.run(split, task, scores.as_mut_ptr()) };
                }
                out
            };
            let whole = run(0, rows, Some(TALL));
            for row in 0..rows {
                let limit = positions[row] as usize + 1;
                let first = if window == 0 {
                    0
                } else {
                    limit - window.min(limit)
                };
                for head in 0..HEADS {
                    let at = row * HEADS + head;
                    let q = &q[at * KEY_DIM..][..KEY_DIM];
                    let seen = (first..limit, sinks.map_or(NO_SINK, |s| s[head]));
                    let kv_head = head / (HEADS / KV_HEADS);
                    let want = cache.exact_seen(q, sequences[row] as usize, kv_head, seen);
                    let got = &whole[at * VALUE_DIM..][..VALUE_DIM];
                    assert_near(got, &want, &format!("window {window}, row {row}"));
                }
            }
            for per_task in 1..=3 {
                let heads = Split {
                    rows: 1,
                    heads: per_task,
                };
                assert_eq!(bits(&run(0, rows, Some(heads))), bits(&whole));
            }
            for count in [1, 3, 9] {
                for from in [0, 17, rows - count] {
                    let at = from * HEADS * VALUE_DIM;
                    let alone = run(from, count, None);
                    assert_eq!(bits(&alone), bits(&whole[at..at + alone.len()]));
                }
            }
        }
    }
}
