/**
 * Where tests find files that are too large for the repository. Each is looked for by an environment
 * variable and in its usual place; a test that needs a missing one is skipped with the reason.
 */

/** The repository's root, with a slash at the end. */
export const ROOT = new URL("../../", import.meta.url);

/** A small trained mixture with 2,048 tokens of context (tests/data/models). */
export const TINY_V3 = new URL("tests/data/models/tiny_v3_moe.q4_k_m.gguf", ROOT).pathname;

/** The folder of golden fixtures (`SLUICE_SHARED`, by default `shared` beside the repository). */
export function sharedFolder(): string | undefined {
  return existing(Deno.env.get("SLUICE_SHARED") ?? new URL("../shared", ROOT).pathname);
}

/** A downloaded checkpoint by file name (in `SLUICE_MODELS`, by default `models` in the root). */
export function downloadedModel(file: string): string | undefined {
  return existing(`${Deno.env.get("SLUICE_MODELS") ?? new URL("models", ROOT).pathname}/${file}`);
}

function existing(path: string): string | undefined {
  try {
    Deno.statSync(path);
    return path;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
