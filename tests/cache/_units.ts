/** Units whose bytes follow from their keys, so that whoever reads one can tell whether it is right. */

import { assert, assertEquals } from "@std/assert";
import { chainKey, rootKey } from "../../src/cache/chain.ts";
import type { LoadQuery, StoredUnit, UnitStore } from "../../src/cache/store.ts";

export const PAGE = 64;
export const MODEL = "a model";

export function rootOf(tenant: string): string {
  return rootKey({ model: MODEL, numerics: "exact", kvType: "f16", tenant });
}

/** Bytes of a unit of each number of tokens, index 0 unused. */
export function unitBytes(bytesPerToken: number): number[] {
  return Array.from({ length: PAGE + 1 }, (_, tokens) => tokens * bytesPerToken);
}

/** The bytes that belong to a key. */
export function bytesOf(key: string, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = parseInt(key.slice(0, 8), 16) | 1;
  for (let i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state;
  }
  return bytes;
}

/** A chain over `tokens`: whole units and what is left. */
export function chainOf(
  tokens: readonly number[],
  { root, bytesPerToken }: { root: string; bytesPerToken: number },
): StoredUnit[] {
  const units: StoredUnit[] = [];
  let parent = root;
  for (let i = 0; i < tokens.length; i += PAGE) {
    const part = tokens.slice(i, i + PAGE);
    const key = chainKey(parent, part);
    const bytes = bytesOf(key, part.length * bytesPerToken);
    units.push({ key, parent, tokens: part.length, bytes });
    parent = key;
  }
  return units;
}

/** `length` tokens that no other `seed` has. */
export function tokensOf(seed: number, length: number): number[] {
  return Array.from({ length }, (_, i) => seed * 100_000 + i);
}

export function query(
  tokens: readonly number[],
  { root, bytesPerToken }: { root: string; bytesPerToken: number },
): LoadQuery {
  return { parent: root, tokens, unitBytes: unitBytes(bytesPerToken) };
}

/** Fails unless every unit has the bytes that belong to its key. */
export function assertRight(units: readonly StoredUnit[]): void {
  for (const { key, bytes } of units) {
    const right = bytesOf(key, bytes.length);
    // Not assertEquals: it takes minutes to write down how two long arrays differ.
    assert(bytes.every((byte, i) => byte === right[i]), `the bytes of ${key} are wrong`);
  }
}

/** Fails unless a load gives these units, all of them and in this order. */
export function assertSameUnits(
  actual: readonly StoredUnit[],
  expected: readonly StoredUnit[],
): void {
  const names = (units: readonly StoredUnit[]) =>
    units.map(({ key, parent, tokens, bytes }) => ({ key, parent, tokens, bytes: bytes.length }));
  assertEquals(names(actual), names(expected));
  assertRight(actual);
}

/** Saves a chain and waits until it is there. */
export async function saveChain(
  store: UnitStore,
  tokens: readonly number[],
  place: { root: string; bytesPerToken: number },
): Promise<StoredUnit[]> {
  const units = chainOf(tokens, place);
  for (const unit of units) store.save({ ...unit, bytes: unit.bytes.slice() });
  await store.flush();
  return units;
}

/** How many tokens a load of `tokens` brings; its bytes must be right. */
export async function loadedTokens(
  store: UnitStore,
  tokens: readonly number[],
  place: { root: string; bytesPerToken: number },
): Promise<number> {
  const units = await store.load(query(tokens, place));
  assertRight(units);
  return units.reduce((sum, unit) => sum + unit.tokens, 0);
}

/** Prompts of eight conversations, each two units and a shorter one. */
export const CHAINS = Array.from({ length: 8 }, (_, i) => tokensOf(i, 2 * PAGE + 11));

/** Waits until a store reads and writes, two seconds at most. */
export async function becomesReady(store: UnitStore): Promise<void> {
  for (let i = 0; i < 100 && store.state().state !== "ready"; i++) {
    await new Promise((done) => setTimeout(done, 20));
  }
  assertEquals(store.state().state, "ready");
}
