/**
 * The choice of a token: the best one of each segment of a row, then of all. Rows that are sampled have
 * their logits edited on the way, and what `sample.ts` draws for them goes before every other token.
 * Logits are compared as integers in the same order: GPUs may take the smallest ones for zero.
 */

import { type ChooseParams, CHOSEN_NONE, CHOSEN_NOT_FINITE } from "../../backend.ts";
import { RULE_FLAGS, SEEN } from "../../../sampling/rule.ts";
import { type Binding, BUILTINS, WORKGROUP } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import {
  BEST_WORDS,
  CLEARED,
  EXCLUDED,
  LANES,
  NO_KEY,
  ruleAt,
  ruleBindings,
  SEGMENT,
  segmentsOf,
  words,
  workBinding,
  workWords,
} from "./choose_layout.ts";
import type { TableContext } from "./context.ts";
import { sample } from "./sample.ts";
import { ROUNDED, SETTLED } from "./sample_code.ts";

/** Keeps the candidate with the larger key, of equals that with the lower id; defects add up. */
const REDUCE = `
var<workgroup> keys: array<u32, ${LANES}>;
var<workgroup> winners: array<u32, ${LANES}>;
var<workgroup> defects: array<u32, ${LANES}>;
fn reduce(lane: u32) {
  workgroupBarrier();
  for (var half = ${LANES / 2}u; half > 0u; half /= 2u) {
    if (lane < half) {
      let other = lane + half;
      let better = keys[other] > keys[lane] ||
        (keys[other] == keys[lane] && winners[other] < winners[lane]);
      if (better) {
        keys[lane] = keys[other];
        winners[lane] = winners[other];
      }
      defects[lane] |= defects[other];
    }
    workgroupBarrier();
  }
}`;

/** A float32's key; 0 and -0 have one. */
const KEY = `
fn key_of(bits: u32) -> u32 {
  if ((bits & 0x7fffffffu) == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, bits > 0x80000000u);
}`;

export function choose(context: TableContext, params: ChooseParams): void {
  const best = context.scratch("best", params.rows * segmentsOf(params) * BEST_WORDS * 4);
  chooseInSegments(context, params, best);
  if (params.sampling !== undefined) sample(context, params, best);
  chooseOfSegments(context, params, best);
}

/** A finite logit's bits after biases and penalties, as `editedLogit` makes them. */
const EDITED = `
fn number(bits: u32) -> f32 { return bitcast<f32>(bits); }
fn edited(bits: u32, row: u32, tally: u32, bias: u32) -> u32 {
  if (bias == ${EXCLUDED}) { return bias; }
  var value = settled(rounded(settled(bits) + number(bias)));
  if ((tally & ${SEEN}u) != 0u) {
    let factor = select(${ruleAt("row", "repetition")}, ${ruleAt("row", "inverse")}, value > 0.0);
    value = settled(rounded(value * number(factor)));
  }
  let count = tally & ${SEEN - 1}u;
  if (count > 0u) {
    let often = settled(rounded(f32(count) * number(${ruleAt("row", "frequency")})));
    value = settled(rounded(value - often));
    value = settled(rounded(value - number(${ruleAt("row", "presence")})));
  }
  return bitcast<u32>(value);
}`;

function chooseInSegments(context: TableContext, params: ChooseParams, best: GPUBuffer): void {
  const { rows, sampling, logits: { width } } = params;
  const segments = segmentsOf(params);
  const samples = sampling !== undefined;
  context.run({
    label: samples ? "edit and choose in segments" : "choose in segments",
    bindings: [
      { ...words("logits", params.logits), write: samples },
      { name: "best", buffer: best, type: "array<u32>", write: true },
      ...(sampling === undefined ? [] : [
        ...ruleBindings(params),
        words("tallies", sampling.tallies),
        words("biases", sampling.biases),
        workBinding(context, { params, type: "array<u32>", write: true }),
      ]),
    ],
    params: { width, segments, rows, zero: 0 },
    workgroups: rows * segments,
    code: `${REDUCE}${KEY}${samples ? SETTLED + ROUNDED + EDITED : ""}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let row = workgroup / params.segments;
  if (row >= params.rows) { return; }
  let segment = workgroup % params.segments;${
      samples
        ? `
  let cells = sequences[row] * params.width;
  let edits = (${ruleAt("row", "flags")} & ${RULE_FLAGS.edits}u) != 0u;
  for (var i = segment * ${LANES}u + lane; i < ${CLEARED}u; i += params.segments * ${LANES}u) {
    work[row * ${workWords(params)}u + i] = 0u;
  }`
        : ""
    }
  let end = min((segment + 1u) * ${SEGMENT}u, params.width);
  var key = ${NO_KEY};
  var winner = 0xffffffffu;
  var defect = 0u;
  for (var i = segment * ${SEGMENT}u + lane; i < end; i += ${LANES}u) {
    let at = row * params.width + i;
    var bits = logits[at];
    // Arithmetic on what is not finite is not defined.
    if ((bits & 0x7f800000u) == 0x7f800000u) {
      defect = 1u;
      continue;
    }${
      samples
        ? `
    if (edits) {
      bits = edited(bits, row, tallies[cells + i], biases[cells + i]);
      logits[at] = bits;
      if (bits == ${EXCLUDED}) { continue; }
    }`
        : ""
    }
    let own = key_of(bits);
    if (own > key) {
      key = own;
      winner = i;
    }
  }
  keys[lane] = key;
  winners[lane] = winner;
  defects[lane] = defect;
  reduce(lane);
  if (lane == 0u) {
    best[workgroup * ${BEST_WORDS}u] = keys[0];
    best[workgroup * ${BEST_WORDS}u + 1u] = winners[0];
    best[workgroup * ${BEST_WORDS}u + 2u] = defects[0];
  }
}`,
  });
}

function chooseOfSegments(context: TableContext, params: ChooseParams, best: GPUBuffer): void {
  const { rows, stride, sampling, logits: { width } } = params;
  const integers = (name: "ids" | "latest" | "history"): Binding => ({
    name,
    buffer: bufferOf(params[name]).memory,
    type: "array<i32>",
    write: true,
  });
  context.run({
    label: "choose",
    bindings: [
      { name: "best", buffer: best, type: "array<u32>" },
      words("turn", params.turn),
      integers("ids"),
      integers("latest"),
      integers("history"),
      ...(sampling === undefined ? [words("sequences", params.sequences)] : [
        ...ruleBindings(params),
        { ...words("tallies", sampling.tallies), write: true },
      ]),
    ],
    params: { width, segments: segmentsOf(params), stride, rows },
    workgroups: rows,
    code: `${REDUCE}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let row = workgroup;
  if (row >= params.rows) { return; }
  var key = ${NO_KEY};
  var winner = 0xffffffffu;
  var defect = 0u;
  for (var i = lane; i < params.segments; i += ${LANES}u) {
    let at = (row * params.segments + i) * ${BEST_WORDS}u;
    defect |= best[at + 2u];
    if (best[at] > key) {
      key = best[at];
      winner = best[at + 1u];
    }
  }
  keys[lane] = key;
  winners[lane] = winner;
  defects[lane] = defect;
  reduce(lane);
  if (lane == 0u) {
    let isThere = defects[0] == 0u && keys[0] != ${NO_KEY};
    let none = select(${CHOSEN_NONE}, ${CHOSEN_NOT_FINITE}, defects[0] != 0u);
    let id = select(none, i32(winners[0]), isThere);
    // The next step looks the id up.
    ids[row] = max(id, 0);
    latest[sequences[row]] = max(id, 0);
    history[turn[0] * params.stride + row] = id;${
      sampling === undefined ? "" : `
    if (isThere && (${ruleAt("row", "flags")} & ${RULE_FLAGS.edits}u) != 0u) {
      let cell = sequences[row] * params.width + winners[0];
      tallies[cell] = (tallies[cell] | ${SEEN}u) + 1u;
    }`
    }
  }
}`,
  });
}
