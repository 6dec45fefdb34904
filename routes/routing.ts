/** Routing on the wire: `[tokens][layers][k]` lists of expert ids, as vLLM has them, and of weights. */

import type { RoutedLayerInfo, TokenRouting } from "../src/engine/types.ts";

/** Ids and weights of some tokens; the layers are those of `/v1/moe/stats`, in their order. */
export interface WireRouting {
  readonly routed_experts: number[][][];
  readonly routed_expert_weights: number[][][];
}

/** The routing of tokens in a row. */
export function wireRouting(
  routing: readonly TokenRouting[],
  layers: readonly RoutedLayerInfo[],
): WireRouting {
  return {
    routed_experts: routing.flatMap(({ experts }) => nested(experts, layers)),
    routed_expert_weights: routing.flatMap(({ weights }) =>
      nested(Array.from(weights, short), layers)
    ),
  };
}

/** As `wireRouting`, under the names of a prompt's. */
export function wirePromptRouting(routing: TokenRouting, layers: readonly RoutedLayerInfo[]) {
  const { routed_experts, routed_expert_weights } = wireRouting([routing], layers);
  return {
    prompt_routed_experts: routed_experts,
    prompt_routed_expert_weights: routed_expert_weights,
  };
}

function nested(flat: ArrayLike<number>, layers: readonly RoutedLayerInfo[]): number[][][] {
  const tokens: number[][][] = [];
  let at = 0;
  while (at < flat.length) {
    tokens.push(layers.map(({ topK }) => Array.from({ length: topK }, () => flat[at++])));
  }
  return tokens;
}

/** Nine digits are a float32, to the bit; the double that stands for it has seventeen. */
function short(weight: number): number {
  return Number(weight.toPrecision(9));
}
