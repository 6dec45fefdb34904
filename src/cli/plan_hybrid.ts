/** The part of `deno task plan` for models that lie on a GPU and on the CPU. */

import type { ActivationPrecision } from "../backend/backend.ts";
import { findAdapter, nameOf } from "../backend/webgpu/device.ts";
import { BURST_TOKENS } from "../engine/burst.ts";
import { hostProbeOf } from "../engine/hybrid_planning.ts";
import {
  CROSSING_SECONDS,
  KNOWN_DEVICE,
  measureDevice,
  measureHost,
  openTimedDevice,
} from "../engine/hybrid_rates.ts";
import { HYBRID_CHUNK_TOKENS, KV_BUDGET_BYTES } from "../engine/limits.ts";
import { hybridModelOf, workspaceBytes } from "../experts/hybrid_model.ts";
import { type HybridPlan, planHybrid } from "../experts/hybrid_plan.ts";
import type { ModelOutline } from "../experts/outline.ts";
import type { Storage } from "../experts/plan_model.ts";
import type { LayerCounts } from "../experts/routing_counts.ts";
import type { Rates } from "../experts/step_time.ts";
import { formatHybridPlan } from "./hybrid_report.ts";

export interface HybridPlanFlags {
  readonly deviceBytes: number;
  readonly hostBytes?: number;
  readonly counts?: readonly LayerCounts[];
  readonly slots: number;
  readonly context: number;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Bytes a second that the CPU reads of experts; measured where absent. */
  readonly hostBytesPerSecond?: number;
  /** Seconds of a wait for the GPU; measured where absent. */
  readonly crossingSeconds?: number;
}

/** A plan, with the way its weights are stored and what its figures are those of. */
export interface StoredHybridPlan extends HybridPlan {
  readonly storage: Storage;
  readonly gpu: string;
}

const CACHE_NUMBER_BYTES = 2;

/** A plan for each way to store the weights. Throws as `planHybrid` and `hybridModelOf` do. */
export async function planHybrids(
  outline: ModelOutline,
  { storages, ...flags }: HybridPlanFlags & { readonly storages: readonly Storage[] },
): Promise<StoredHybridPlan[]> {
  const models = storages.map((storage) => ({
    storage,
    model: hybridModelOf(outline, { storage, cacheNumberBytes: CACHE_NUMBER_BYTES }),
  }));
  const { slots, context, deviceBytes, hostBytes, counts } = flags;
  const { gpu, ...device } = await deviceRates(flags);
  const plans: StoredHybridPlan[] = [];
  for (const { storage, model } of models) {
    const conversation = model.cacheBytesPerToken * context;
    const budget = Math.min(KV_BUDGET_BYTES, deviceBytes / 4);
    const cacheBytes = Math.min(2 * slots * conversation, Math.max(conversation, budget));
    const host = await hostRates(outline, { ...flags, storage });
    const plan = planHybrid({
      ...{ model, counts, deviceBytes, hostBytes, slots, cacheBytes: Math.ceil(cacheBytes) },
      workspaceBytes: workspaceBytes(outline, {
        rows: slots + HYBRID_CHUNK_TOKENS,
        logitRows: slots,
        context,
      }),
      rates: { host, ...device },
      chunkTokens: HYBRID_CHUNK_TOKENS,
      stepsPerWait: BURST_TOKENS,
    });
    plans.push({ storage, gpu, ...plan });
  }
  return plans;
}

/** The text of some plans. */
export function formatHybridPlans(plans: readonly StoredHybridPlan[]): string {
  return plans.map((plan) =>
    `On a GPU and the CPU, weights as ${plan.storage} (${plan.gpu}):\n${formatHybridPlan(plan)}`
  ).join("\n\n");
}

/** This machine's GPU, or a known one's figures where none but a software adapter is here. */
async function deviceRates({ crossingSeconds }: HybridPlanFlags) {
  const adapter = await findAdapter();
  if (adapter === null || adapter.info.isFallbackAdapter) {
    return {
      device: KNOWN_DEVICE,
      crossingSeconds: crossingSeconds ?? CROSSING_SECONDS,
      gpu: "no GPU is here: an NVIDIA H200's figures",
    };
  }
  const timed = await openTimedDevice();
  try {
    const measured = await measureDevice(timed);
    return {
      device: measured.device,
      crossingSeconds: crossingSeconds ?? measured.crossingSeconds,
      gpu: nameOf(adapter),
    };
  } finally {
    timed.backend.close();
  }
}

async function hostRates(
  outline: ModelOutline,
  flags: HybridPlanFlags & { readonly storage: Storage },
): Promise<Rates["host"]> {
  const measured = await measureHost(hostProbeOf(outline, flags));
  return {
    ...measured,
    bytesPerSecond: flags.hostBytesPerSecond ?? measured.bytesPerSecond,
  };
}
