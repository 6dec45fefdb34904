/**
 * Faults on purpose, for tests of a whole process: `SLUICE_FAULT=kv:7` lets the seventh call to the
 * database fail, `kv:slow:200` makes each take 200 ms longer, `kv:gone` lets all of them fail.
 */

import { OptionError } from "../errors.ts";
import type { Kv, KvAtomic, KvMedium } from "./kv.ts";

export type KvFaults =
  | { readonly kind: "nth"; readonly call: number }
  | { readonly kind: "slow"; readonly ms: number }
  | { readonly kind: "gone" };

/** The faults that a text asks for; undefined where it speaks of something else than the database. */
export function parseKvFaults(text: string): KvFaults | undefined {
  if (!text.startsWith("kv:")) return undefined;
  if (text === "kv:gone") return { kind: "gone" };
  const slow = /^kv:slow:(\d{1,6})$/.exec(text);
  if (slow) return { kind: "slow", ms: Number(slow[1]) };
  const nth = /^kv:([1-9]\d{0,8})$/.exec(text);
  if (nth) return { kind: "nth", call: Number(nth[1]) };
  throw new OptionError(
    `cannot read SLUICE_FAULT: it is ${JSON.stringify(text)}, must be kv:N, kv:slow:MS or kv:gone`,
  );
}

/** The medium with faults in the calls to its databases, counted over all that are opened. */
export function withFaults(medium: KvMedium, faults: KvFaults): KvMedium {
  let calls = 0;
  const before = async () => {
    calls++;
    if (faults.kind === "gone" || (faults.kind === "nth" && faults.call === calls)) {
      throw new Error("a fault on purpose");
    }
    if (faults.kind === "slow") await new Promise((done) => setTimeout(done, faults.ms));
  };
  return { ...medium, open: async () => faultyKv(await medium.open(), before) };
}

function faultyKv(kv: Kv, before: () => Promise<void>): Kv {
  return {
    get: async (key) => (await before(), kv.get(key)),
    getMany: async (keys) => (await before(), kv.getMany(keys)),
    list(selector, options) {
      const entries = kv.list(selector, options);
      return { next: async () => (await before(), entries.next()) };
    },
    atomic: () => faultyAtomic(kv.atomic(), before),
    close: () => kv.close(),
  };
}

function faultyAtomic(atomic: KvAtomic, before: () => Promise<void>): KvAtomic {
  const faulty: KvAtomic = {
    check: (check) => (atomic.check(check), faulty),
    set: (key, value, options) => (atomic.set(key, value, options), faulty),
    delete: (key) => (atomic.delete(key), faulty),
    commit: async () => (await before(), atomic.commit()),
  };
  return faulty;
}
