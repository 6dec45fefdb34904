/** Published data sets, where a machine has them: `data` in the folder of shared fixtures. */

import { sharedFolder } from "../../support/fixtures.ts";

/** The folder; undefined where there is none, and the tests that need it are skipped. */
export function downloadedData(): string | undefined {
  const shared = sharedFolder();
  if (shared === undefined) return undefined;
  try {
    Deno.statSync(`${shared}/data/gsm8k_train.jsonl`);
    return `${shared}/data`;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
