/** What an op needs to record itself. */

import type { Dispatch } from "../kernel.ts";

export interface OpContext {
  /** Adds a dispatch, which runs after those before it. */
  run(dispatch: Dispatch): void;
  /** Room that lives within one op, shared by all that ask by the same name. */
  scratch(name: string, bytes: number): GPUBuffer;
  /** Storage buffers that a kernel may see. */
  readonly maxBindings: number;
  /** Features of the device. */
  readonly features: { has(name: string): boolean };
}
