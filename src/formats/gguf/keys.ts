/** Keys of GGUF files that are this project's own. */

/** A bool: routed experts are not stacked, the tensors of each lie side by side (`deno task repack`). */
export const EXPERTS_ADJACENT_KEY = "sluice.experts_adjacent";
