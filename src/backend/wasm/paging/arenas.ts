/**
 * The slots that resident experts lie in. A slot holds any expert of the layers that share it, so layers
 * whose experts are of one size share slots of just that size; where the budget is too small for each
 * size to have half a layer's worth, all share slots of the largest.
 */

import { CapacityError } from "../../../errors.ts";
import { createPolicy, type EvictionPolicy, type PolicyName } from "../../../experts/policy.ts";
import type { Bank } from "../bank.ts";
import type { PagedExperts } from "./paged_experts.ts";

const ALIGNMENT = 64;

/** Neighbouring slots of one bank, for the layers whose experts run there. */
export interface Arena {
  readonly bank: Bank;
  readonly address: number;
  readonly slotBytes: number;
  readonly first: number;
  readonly count: number;
  /** Slots that hold nothing. */
  readonly free: number[];
  readonly policy: EvictionPolicy;
  /** Slots of experts that the present turn runs or waits for. */
  readonly pinned: Set<number>;
}

export interface ArenaOptions {
  readonly layers: readonly PagedExperts[];
  readonly banks: readonly Bank[];
  /** What a bank takes before the next one is filled. */
  readonly bankBytes: number;
  /** Bytes of all slots together. */
  readonly cacheBytes: number;
  readonly policy: PolicyName;
}

/** Layers that share slots, and how many. */
interface SlotClass {
  readonly slotBytes: number;
  readonly layers: readonly number[];
  readonly slots: number;
}

export interface Arenas {
  readonly arenas: readonly Arena[];
  /** The arena of each layer. */
  readonly arenaOf: readonly Arena[];
  readonly slots: number;
}

/** Allocates the slots. Throws CapacityError where there is not room for a single expert. */
export function makeArenas(options: ArenaOptions): Arenas {
  const arenas: Arena[] = [];
  const arenaOf: Arena[] = [];
  let first = 0;
  for (const slotClass of slotClasses(options)) {
    const made = allocate(slotClass, { ...options, first });
    const shares = shareOut(slotClass.layers.length, made);
    for (const [i, layer] of slotClass.layers.entries()) arenaOf[layer] = shares[i];
    arenas.push(...made);
    first += slotClass.slots;
  }
  return { arenas, arenaOf, slots: first };
}

export const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

function slotClasses({ layers, cacheBytes }: ArenaOptions): SlotClass[] {
  const sizes = layers.map(({ packedBytes }) =>
    packedBytes.reduce((sum, bytes) => sum + aligned(bytes), 0)
  );
  const expertsIn = (indices: readonly number[]) =>
    indices.reduce((sum, layer) => sum + layers[layer].count, 0);
  const all = layers.map((_, layer) => layer);
  const bytes = all.reduce((sum, layer) => sum + layers[layer].count * sizes[layer], 0);
  const classes = [...Map.groupBy(all, (layer) => sizes[layer])].map(([slotBytes, members]) => {
    const experts = expertsIn(members);
    const share = cacheBytes * Math.min(1, experts * slotBytes / bytes);
    const slots = Math.min(experts, Math.floor(share / slotBytes));
    return { slotBytes, layers: members, slots };
  });
  const enough = classes.every(({ layers: members, slots }) =>
    slots >= Math.max(...members.map((layer) => layers[layer].count)) / 2
  );
  if (enough) return classes;
  const slotBytes = Math.max(...sizes);
  const slots = Math.min(expertsIn(all), Math.floor(cacheBytes / slotBytes));
  if (slots < 1) {
    throw new CapacityError(
      `cannot page experts: the memory budget leaves ${Math.floor(cacheBytes)} bytes for them, ` +
        `must leave at least the ${slotBytes} of one`,
    );
  }
  return [{ slotBytes, layers: all, slots }];
}

function allocate(
  { slotBytes, slots }: SlotClass,
  { layers, banks, bankBytes, policy: name, first: start }: ArenaOptions & { first: number },
): Arena[] {
  const arenas: Arena[] = [];
  const size = { layers: layers.length, experts: Math.max(...layers.map(({ count }) => count)) };
  const end = start + slots;
  let first = start;
  for (const bank of banks) {
    const { arena } = bank;
    const most = bank === banks.at(-1) ? arena.free : Math.min(arena.free, bankBytes - arena.used);
    const count = Math.min(end - first, Math.floor(most * 0.98 / slotBytes));
    if (count < 1) continue;
    const address = arena.allocate(count * slotBytes, "resident experts");
    const free = Array.from({ length: count }, (_, i) => first + count - 1 - i);
    const policy = createPolicy(name, size);
    arenas.push({ bank, address, slotBytes, first, count, free, policy, pinned: new Set() });
    first += count;
    if (first === end) return arenas;
  }
  throw new CapacityError(
    `cannot page experts: room for ${slots} of ${slotBytes} bytes is asked for, ` +
      `must be at most ${first - start}, what the memories hold`,
  );
}

/** The arena of each of so many layers, neighbouring layers together, by the arenas' sizes. */
function shareOut(layers: number, arenas: readonly Arena[]): Arena[] {
  const start = arenas[0].first;
  const total = arenas.reduce((sum, { count }) => sum + count, 0);
  return Array.from({ length: layers }, (_, layer) => {
    const slot = start + Math.floor((layer + 0.5) / layers * total);
    return arenas.find(({ first, count }) => slot < first + count) ?? arenas[arenas.length - 1];
  });
}
