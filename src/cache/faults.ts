/** Faults on purpose in the calls to the store's databases; which, `src/faults.ts` says. */

import { faultDue, type Faults } from "../faults.ts";
import type { Kv, KvAtomic, KvMedium } from "./kv.ts";

/** The medium with faults in the calls to its databases, counted over all that are opened. */
export function withFaults(medium: KvMedium, faults: Faults): KvMedium {
  const before = async () => {
    if (faultDue(faults, "kv") || faults.kvGone) throw new Error("a fault on purpose");
    if (faults.kvSlowMs > 0) await new Promise((done) => setTimeout(done, faults.kvSlowMs));
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
