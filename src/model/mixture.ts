/**
 * The mixture-of-experts block: a gate chooses experts for each token, their answers are summed by the
 * gate's weights, and a shared expert, where there is one, answers every token (DeepSeekMoE, Dai et
 * al. 2024; DeepSeek-V3's technical report, section 2.1.2).
 */

import type { ExpertsParams, GateParams } from "../backend/backend.ts";
import type { ConfigKey, ConfigReader } from "./config_reader.ts";
import {
  type ExpertLayout,
  type ExpertSizes,
  expertSpecs,
  expertTensors,
} from "./expert_tensors.ts";
import {
  type Block,
  type BlockContext,
  gatedMlpSpecs,
  inOrder,
  loadGatedMlp,
  loadNorm,
  scaleOf,
} from "./layers.ts";
import { MAX_EXPERTS, MAX_WIDTH } from "./limits.ts";
import type { RoutedLayer } from "./types.ts";
import type { WeightSpec } from "./weights.ts";

export interface MixtureConfig extends ExpertSizes, Pick<GateParams, "score" | "groups"> {
  readonly topK: number;
  /** Whether the chosen experts' weights are divided by their sum. */
  readonly normalise: boolean;
  /** Factor on the weights. */
  readonly scale: number;
  readonly gateBias: boolean;
  /** Whether a bias takes part in the choice alone (DeepSeek-V3). */
  readonly correctionBias: boolean;
  readonly activation: ExpertsParams["activation"];
  /** Intermediate width of the shared expert; 0 where there is none. */
  readonly sharedSize: number;
}

const TOP_K: ConfigKey = { gguf: "expert_used_count", huggingFace: "num_experts_per_tok" };

const SHARED = { gate: "sharedGate", up: "sharedUp", down: "sharedDown" } as const;

/** What most families leave as it is. */
export const PLAIN_MIXTURE = {
  score: "softmax",
  scale: 1,
  gateBias: false,
  correctionBias: false,
  expertBiases: false,
  activation: "silu",
  sharedSize: 0,
} as const satisfies Partial<MixtureConfig>;

/**
 * Reads how many experts there are, how many a token gets, their width, and how the file has them;
 * `layout` is what a Hugging Face checkpoint does.
 */
export function readExperts(
  reader: ConfigReader,
  keys: { experts: string; expertSize: string; layout: ExpertLayout },
): Pick<MixtureConfig, "experts" | "topK" | "expertSize" | "layout"> {
  const count: ConfigKey = { gguf: "expert_count", huggingFace: keys.experts };
  const experts = reader.integer(count, { min: 1, max: MAX_EXPERTS });
  const topK = reader.integer(TOP_K, { min: 1, max: experts });
  const own: ConfigKey = { gguf: "expert_feed_forward_length", huggingFace: keys.expertSize };
  // Files of families without dense layers state the experts' width as the only one.
  const only: ConfigKey = { gguf: "feed_forward_length", huggingFace: keys.expertSize };
  const expertSize = reader.integer(reader.has(own) ? own : only, { min: 1, max: MAX_WIDTH });
  const gguf = reader.expertsApart ? "apart" : "stacked";
  return { experts, topK, expertSize, layout: reader.format === "gguf" ? gguf : keys.layout };
}

/** The error for a `groups` value that the experts don't allow; undefined for one that is right. */
export function groupsProblem(
  { experts, topK }: Pick<MixtureConfig, "experts" | "topK">,
  { count, used, rank }: NonNullable<MixtureConfig["groups"]>,
): string | undefined {
  if (experts % count !== 0) return `a divisor of the ${experts} experts`;
  const size = experts / count;
  if (rank === "topTwo" && size < 2) {
    return `at most ${Math.floor(experts / 2)}, two experts a group`;
  }
  if (used < 1 || used > count) return `so that from 1 to ${count} groups are used`;
  if (used * size < topK) return `so that the ${used} groups used hold the ${topK} experts chosen`;
}

/** The block's weights in the order in which a step reads them. */
export function mixtureSpecs(
  config: MixtureConfig,
  { layer, hiddenSize }: { layer: number; hiddenSize: number },
): WeightSpec[] {
  const { experts, sharedSize } = config;
  const specs: WeightSpec[] = [
    { role: "mlpNorm", layer, shape: [hiddenSize] },
    { role: "moeGate", layer, shape: [experts, hiddenSize] },
  ];
  if (config.gateBias) specs.push({ role: "moeGateBias", layer, shape: [experts] });
  if (config.correctionBias) specs.push({ role: "correctionBias", layer, shape: [experts] });
  if (sharedSize > 0) {
    specs.push(...gatedMlpSpecs(SHARED, { layer, hiddenSize, intermediateSize: sharedSize }));
  }
  return [...specs, ...expertSpecs(config, { layer, hiddenSize })];
}

/** The block's parts, in the order in which they run. */
export interface Mixture {
  /** The gate, then the shared expert. */
  readonly choose: Block;
  /** The routed experts. */
  readonly answer: Block;
  /** The gate on the residual stream as it is then, into `routed.foreseen`; nothing without that. */
  readonly foresee: Block;
  /** What the gate chooses in a step can be read from it. */
  readonly routed: RoutedLayer;
}

/** Uploads the block's weights. `foresee`: have a place for what is foreseen of the gate's choice. */
export async function loadMixture(
  config: MixtureConfig,
  context: BlockContext,
  { foresee }: { foresee: boolean },
): Promise<Mixture> {
  const { layer, loader, workspace, residualScale } = context;
  const { topK, activation } = config;
  const { x } = workspace;
  const norm = await loadNorm(context, { role: "mlpNorm", eps: context.rmsNormEps });
  const weight = await loader.upload("moeGate", { layer }, { exact: true });
  const bias = await loader.uploadIfThere("moeGateBias", { layer });
  const correctionBias = await loader.uploadIfThere("correctionBias", { layer });
  const normed = workspace.get("normed", x.width);
  const shared = config.sharedSize === 0
    ? []
    : [await loadGatedMlp(context, { roles: SHARED, input: normed })];
  const tensors = expertTensors(config, { layer, hiddenSize: x.width, loader });
  const experts = await loader.uploadExperts(tensors, { topK });
  const expertIds = workspace.create("i32", topK);
  const weights = workspace.create("f32", topK);
  const choice: Omit<GateParams, "rows"> = {
    x,
    norm,
    normed,
    weight,
    ...(bias && { bias }),
    ...(correctionBias && { correctionBias }),
    ...(config.groups && { groups: config.groups }),
    score: config.score,
    topK,
    normalise: config.normalise,
    scale: config.scale,
    expertIds,
    weights,
  };
  const scale = scaleOf(residualScale);
  const answer = { x: normed, experts, expertIds, weights, topK, activation, ...scale, out: x };
  const gate: Block = (ops, { rows }) => ops.gate({ ...choice, rows });
  const foreseen = foresee ? workspace.create("i32", topK) : undefined;
  const guess = foreseen && {
    ...choice,
    normed: workspace.get("foreseenNormed", x.width),
    expertIds: foreseen,
    weights: workspace.get("foreseenWeights", topK),
  };
  const routed = { layer, experts: config.experts, topK, expertIds, weights };
  return {
    choose: inOrder(gate, ...shared),
    answer: (ops, { rows }) => ops.experts({ ...answer, rows }),
    foresee: (ops, { rows }) => {
      if (guess) ops.gate({ ...guess, rows });
    },
    routed: { ...routed, ...(foreseen && { foreseen }) },
  };
}
