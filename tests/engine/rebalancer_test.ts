import { assert, assertEquals } from "@std/assert";
import type { ExpertPlace } from "../../src/backend/hybrid/mod.ts";
import { Rebalancer } from "../../src/engine/rebalancer.ts";
import { Roots } from "../../src/engine/roots.ts";

const LAYERS = [{ layer: 2, experts: 4, topK: 1 }, { layer: 3, experts: 4, topK: 1 }];

/** A backend that keeps books, and fails or waits where it is told to. */
function bookkeeper(resident: readonly (readonly number[])[]) {
  const layers = LAYERS.map(({ layer }, i) => ({ layer, resident: [...resident[i]] }));
  const moves: ExpertPlace[] = [];
  const failing = new Set<number>();
  let gate = Promise.resolve();
  return {
    moves,
    failing,
    layers,
    hold() {
      const held = Promise.withResolvers<void>();
      gate = held.promise;
      return held.resolve;
    },
    placement: () => ({
      layers: layers.map(({ layer, resident }) => ({ layer, resident: [...resident] })),
    }),
    async place(move: ExpertPlace) {
      moves.push(move);
      await gate;
      const { resident } = layers.find(({ layer }) => layer === move.layer)!;
      resident[move.slot] = move.expert;
      if (failing.has(move.expert)) throw new Error("cannot read");
    },
  };
}

/** A step in which every row chooses these experts, one a layer. */
function step(first: number, second: number, rows: number) {
  const list = (id: number) => new Int32Array(rows).fill(id);
  return [{ experts: [list(first), list(second)], weights: null }, rows] as const;
}

Deno.test("experts that are chosen move in after so many tokens, and the version tells before and after", async () => {
  const backend = bookkeeper([[0, 1], [2]]);
  const rebalancer = new Rebalancer({ backend, layers: LAYERS, roundTokens: 100 });
  rebalancer.add(...step(3, 2, 99));
  assertEquals([backend.moves, rebalancer.version], [[], 0]);
  const release = backend.hold();
  rebalancer.add(...step(3, 2, 1));
  await Promise.resolve();
  assertEquals(rebalancer.version, 1);
  // 0 and 1 were chosen as seldom: of equals the one with the higher id leaves.
  assertEquals(backend.moves, [{ layer: 2, slot: 1, expert: 3 }]);
  release();
  await rebalancer.settled();
  assertEquals(rebalancer.version, 2);
  assertEquals(backend.layers.map(({ resident }) => resident), [[0, 3], [2]]);
  rebalancer.add(...step(3, 2, 500));
  await rebalancer.settled();
  assertEquals([backend.moves.length, rebalancer.version], [1, 2]);
});

Deno.test("nothing is looked at while experts move, and a look moves no more than it may", async () => {
  const backend = bookkeeper([[0], [0]]);
  const options = { backend, layers: LAYERS, roundTokens: 10, roundMoves: 1 };
  const rebalancer = new Rebalancer(options);
  const release = backend.hold();
  for (let i = 0; i < 5; i++) rebalancer.add(...step(1, 2, 100));
  assertEquals(backend.moves.length, 1);
  release();
  await rebalancer.settled();
  rebalancer.add(...step(1, 2, 100));
  await rebalancer.settled();
  assertEquals(backend.moves.map(({ layer }) => layer).sort(), [2, 3]);
  assertEquals(backend.layers.map(({ resident }) => resident), [[1], [2]]);
});

Deno.test("a move that has failed is tried again, before others", async () => {
  const backend = bookkeeper([[0], [2]]);
  const rebalancer = new Rebalancer({ backend, layers: LAYERS, roundTokens: 10 });
  backend.failing.add(1);
  rebalancer.add(...step(1, 2, 100));
  await rebalancer.settled();
  backend.failing.clear();
  // By now another layer has something to move as well.
  rebalancer.add(...step(1, 3, 400));
  await rebalancer.settled();
  const move = { layer: 2, slot: 0, expert: 1 };
  assertEquals(backend.moves, [move, move, { layer: 3, slot: 0, expert: 3 }]);
  rebalancer.add(...step(1, 3, 100));
  await rebalancer.settled();
  assertEquals(backend.moves.length, 3);
});

Deno.test("requests begin at other roots once experts have moved", () => {
  let version = 0;
  const roots = new Roots({
    rootOf: (tenant) => `${tenant} ${version}`,
    rootVersion: () => version,
    reusePrefixes: true,
  });
  const key = () => {
    const sampling = {} as never;
    return roots.of({ tokens: [1], sampling, maxTokens: 1, stopTokens: [], tenant: "a" }, 1).key;
  };
  assertEquals([key(), key()], ["a 0", "a 0"]);
  version = 1;
  assert(key() === "a 1" && key() === "a 1");
});
