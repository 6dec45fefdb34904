import { assert, assertEquals, assertThrows } from "@std/assert";
import { CapacityError } from "../../src/errors.ts";
import { POLICY_NAMES } from "../../src/experts/policy.ts";
import {
  evaluatePredictions,
  fewestMisses,
  replay,
  replayOracle,
  type ReplayTrace,
} from "../../src/experts/replay.ts";
import { randomTrace, type RandomTraceOptions } from "./_traces.ts";

const RANDOM: RandomTraceOptions = {
  seed: 0,
  layers: 3,
  experts: 12,
  topK: 3,
  documents: 3,
  decodeSteps: 20,
  prefillRows: 8,
};

/** Below a layer's choice, at it, and up to all. */
const RESIDENTS = [1, 2, 3, 4, 7, 12, 18, 30, 36];

/** Decode steps of one layer, a list of chosen experts each. */
function decoding(experts: number, steps: readonly (readonly number[])[]): ReplayTrace {
  return {
    layers: [0],
    experts,
    documents: [{
      kind: "any",
      steps: steps.map((ids) => ({ rows: 1, prefill: false, experts: [ids] })),
    }],
  };
}

Deno.test("no policy has fewer misses than the oracle, at any number of residents", () => {
  for (let seed = 0; seed < 10; seed++) {
    const trace = randomTrace({ ...RANDOM, seed });
    for (const residents of RESIDENTS) {
      const fewest = fewestMisses(trace, { residents });
      const oracle = replayOracle(trace, { residents });
      for (const policy of POLICY_NAMES) {
        const { decode, prefill } = replay(trace, { policy, residents });
        const where = `${policy}, ${residents} residents, seed ${seed}`;
        assert(decode.misses + prefill.misses >= fewest, where);
        assert(decode.misses >= oracle.decode.misses, `decode of ${where}`);
        assert(prefill.misses >= oracle.prefill.misses, `prefill of ${where}`);
      }
    }
  }
});

Deno.test("the oracle has as few misses as the best of all choices of victims", () => {
  /** Fewest misses by trying every victim; requests of one expert each. */
  const search = (requests: readonly number[], capacity: number): number => {
    let states = new Map<string, number>([["", 0]]);
    for (const wanted of requests) {
      const after = new Map<string, number>();
      const reach = (residents: number[], misses: number) => {
        const state = residents.sort().join();
        after.set(state, Math.min(misses, after.get(state) ?? Infinity));
      };
      for (const [state, misses] of states) {
        const residents = state === "" ? [] : state.split(",").map(Number);
        if (residents.includes(wanted)) reach(residents, misses);
        else if (residents.length < capacity) reach([...residents, wanted], misses + 1);
        else {
          for (const victim of residents) {
            reach([...residents.filter((key) => key !== victim), wanted], misses + 1);
          }
        }
      }
      states = after;
    }
    return Math.min(...states.values());
  };
  for (let seed = 0; seed < 30; seed++) {
    const { documents } = randomTrace({ ...RANDOM, seed, layers: 1, experts: 6, topK: 1 });
    const requests = documents.flatMap(({ steps }) => steps.flatMap(({ experts }) => experts[0]));
    const trace = decoding(6, requests.map((id) => [id]));
    for (const residents of [1, 2, 3, 5]) {
      assertEquals(fewestMisses(trace, { residents }), search(requests, residents));
    }
  }
});

Deno.test("a replay gives the same counts each time", () => {
  const trace = randomTrace(RANDOM);
  for (const policy of POLICY_NAMES) {
    const options = { policy, residents: 10 };
    assertEquals(replay(trace, options), replay(trace, options));
  }
});

Deno.test("with room for all, an expert is missed once, and every choice is counted once a step", () => {
  const trace = randomTrace(RANDOM);
  const steps = trace.documents.flatMap((document) => document.steps);
  const lookups = (prefill: boolean) =>
    steps.filter((step) => step.prefill === prefill)
      .flatMap(({ experts }) => experts.map((ids) => new Set(ids).size))
      .reduce((sum, count) => sum + count, 0);
  const seen = new Set(
    steps.flatMap(({ experts }) =>
      experts.flatMap((ids, layer) => ids.map((id) => layer * trace.experts + id))
    ),
  );
  for (const policy of POLICY_NAMES) {
    const { decode, prefill } = replay(trace, { policy, residents: 36 });
    assertEquals(decode.misses + prefill.misses, seen.size);
    assertEquals(decode.hits + decode.misses, lookups(false));
    assertEquals(prefill.hits + prefill.misses, lookups(true));
    assertEquals(decode.hitRate, decode.hits / lookups(false));
  }
});

Deno.test("lru misses on every turn of a loop that is one too long, the oracle does not", () => {
  const loop = Array.from({ length: 40 }, (_, i) => [i % 4]);
  const trace = decoding(4, loop);
  assertEquals(replay(trace, { policy: "lru", residents: 3 }).decode.hits, 0);
  // Of each four, one is missed every third time: 3 cold misses, then one in three.
  assertEquals(fewestMisses(trace, { residents: 3 }), 3 + Math.ceil(37 / 3));
});

Deno.test("experts that a layer uses are not given up for others of the same layer", () => {
  // 0 and 1 are there; 2 must take the place of the one that is not chosen.
  const trace = decoding(4, [[0, 1], [0, 2], [0, 2]]);
  for (const policy of POLICY_NAMES) {
    const { decode } = replay(trace, { policy, residents: 2 });
    assertEquals([decode.hits, decode.misses], [3, 3]);
  }
});

Deno.test("a layer that chose more than fits runs piece by piece", () => {
  const trace = decoding(6, [[0, 1, 2, 3], [3, 4, 5, 0]]);
  for (const policy of POLICY_NAMES) {
    const { decode } = replay(trace, { policy, residents: 2 });
    assertEquals(decode.hits + decode.misses, 8);
    assert(decode.misses >= fewestMisses(trace, { residents: 2 }));
  }
  // One of the second step's can be kept beside the last one read, or be that itself.
  assertEquals(fewestMisses(trace, { residents: 2 }), 6);
});

Deno.test("a prompt between two answers costs decode no more than the places it needs", () => {
  const decode = (ids: number[]) => ({ rows: 1, prefill: false, experts: [ids] });
  const answer = [decode([0, 1]), decode([2, 3]), decode([0, 1]), decode([2, 3])];
  const prompt = [4, 5, 6, 7].map((id) => ({ rows: 1, prefill: true, experts: [[id, id ^ 1]] }));
  const trace: ReplayTrace = {
    layers: [0],
    experts: 8,
    documents: [{ kind: "a", steps: [...answer, ...prompt, ...answer] }],
  };
  for (const policy of POLICY_NAMES) {
    const { decode } = replay(trace, { policy, residents: 6 });
    // Two places are free for the prompt, so that decode finds all it had.
    assertEquals(decode.misses, 4, policy);
  }
});

Deno.test("predictions are held against what was chosen", () => {
  const trace: ReplayTrace = {
    layers: [0, 1],
    experts: 8,
    documents: [{
      kind: "a",
      steps: [
        { rows: 1, prefill: false, experts: [[0, 1], [2, 3]], predicted: [[], [2, 3, 4, 5]] },
        { rows: 1, prefill: false, experts: [[0, 1], [6, 7]], predicted: [[], [6, 0]] },
        { rows: 1, prefill: false, experts: [[0, 1], [6, 7]] },
      ],
    }],
  };
  assertEquals(evaluatePredictions(trace, { prefill: false }), { precision: 3 / 6, recall: 3 / 4 });
  const none = { precision: null, recall: null };
  assertEquals(evaluatePredictions(trace, { prefill: true }), none);
  // Of the six first uses, 2, 3 and 6 had been foreseen.
  const { decode } = replay(trace, { policy: "lru", residents: 16 });
  assertEquals([decode.misses, decode.foreseen], [6, 3]);
});

Deno.test("a replay without any room is refused", () => {
  const trace = decoding(4, [[0]]);
  assertThrows(() => replay(trace, { policy: "lru", residents: 0 }), CapacityError, "are 0");
});
