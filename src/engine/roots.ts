/** Which requests may share pages: where each one's chain of pages begins. */

import { chainKey } from "../cache/chain.ts";
import type { GenerateRequest } from "./types.ts";

export interface RootsOptions {
  /** Where a tenant's chain begins (`rootKey`). */
  readonly rootOf: (tenant: string) => string;
  /** Another number whenever `rootOf` gives other keys; the same keys for ever where absent. */
  readonly rootVersion?: () => number;
  /** False: requests share with equal ones that run at the same time only. */
  readonly reusePrefixes: boolean;
}

export interface Root {
  readonly key: string;
  /** Another request, now or later, may have the same one. */
  readonly lasting: boolean;
  /** The request has ended. */
  release(): void;
}

/** Tenants whose roots are remembered; a root is cheap to compute again. */
const MAX_KNOWN = 1000;

const KEEP = () => {};

export class Roots {
  readonly #options: RootsOptions;
  readonly #known = new Map<string, string>();
  /** The version that they are of. */
  #version = 0;
  /** Without reuse: equal prompts of one tenant that run at present. */
  readonly #together = new Map<string, { readonly key: string; requests: number }>();

  constructor(options: RootsOptions) {
    this.#options = options;
  }

  /** The root of request `id`. */
  of({ tenant = "", tokens }: GenerateRequest, id: number): Root {
    if (tenant === null) return { key: `request ${id} alone`, lasting: false, release: KEEP };
    const key = this.#ofTenant(tenant);
    if (this.#options.reusePrefixes) return { key, lasting: true, release: KEEP };
    const prompt = chainKey(key, tokens);
    const group = this.#together.get(prompt) ?? { key: `requests as ${id}`, requests: 0 };
    group.requests++;
    this.#together.set(prompt, group);
    const release = () => {
      if (--group.requests === 0) this.#together.delete(prompt);
    };
    return { key: group.key, lasting: false, release };
  }

  #ofTenant(tenant: string): string {
    const version = this.#options.rootVersion?.() ?? 0;
    if (version !== this.#version) this.#known.clear();
    this.#version = version;
    const known = this.#known.get(tenant);
    if (known !== undefined) return known;
    if (this.#known.size >= MAX_KNOWN) this.#known.clear();
    const key = this.#options.rootOf(tenant);
    this.#known.set(tenant, key);
    return key;
  }
}
