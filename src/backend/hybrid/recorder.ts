/**
 * Cuts a recording where experts lie on both sides. The device's part of a mixture, and what was recorded
 * between the gate and it (the shared expert), runs while the host reads what the gate has left and
 * computes the rest.
 */

import { UnsupportedOpError } from "../../errors.ts";
import type {
  AddParams,
  AttentionParams,
  Buffer,
  EmbedParams,
  ExpertsParams,
  GatedLinearParams,
  GateParams,
  GatherRowsParams,
  HeadLinearParams,
  LatentAttentionParams,
  LinearParams,
  Ops,
  Plan,
  RmsNormParams,
  RotateAndCacheLatentParams,
  RotateAndCacheParams,
} from "../backend.ts";
import { checkExperts } from "../op_checks.ts";
import type { Exchange, Exchanges } from "./exchange.ts";
import { type HybridExperts, hybridExpertsOf, type Sides } from "./experts.ts";
import { HybridPlan, type Stretch } from "./plan.ts";

type Op = (ops: Ops) => void;

export class HybridRecorder implements Ops {
  readonly #sides: Sides;
  readonly #exchanges: Exchanges;
  readonly #stretches: Stretch[] = [];
  /** Ops of the device since the last cut. */
  #ops: Op[] = [];
  /** How many of them there were when each buffer had been written. */
  #written = new Map<Buffer, number>();
  #length = 0;

  constructor(sides: Sides, exchanges: Exchanges) {
    this.#sides = sides;
    this.#exchanges = exchanges;
  }

  finish(): HybridPlan {
    this.#stretches.push({ before: this.#onDevice(this.#ops), mixture: null });
    return new HybridPlan(this.#stretches, this.#length);
  }

  embed(params: EmbedParams): void {
    this.#record((ops) => ops.embed(params), [params.out]);
  }

  rmsNorm(params: RmsNormParams): void {
    this.#record((ops) => ops.rmsNorm(params), [params.out]);
  }

  linear(params: LinearParams): void {
    this.#record((ops) => ops.linear(params), params.outputs.map(({ out }) => out));
  }

  gatedLinear(params: GatedLinearParams): void {
    this.#record((ops) => ops.gatedLinear(params), [params.out]);
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    this.#record((ops) => ops.rotateAndCache(params), [params.q, params.k]);
  }

  attention(params: AttentionParams): void {
    this.#record((ops) => ops.attention(params), [params.out]);
  }

  gatherRows(params: GatherRowsParams): void {
    this.#record((ops) => ops.gatherRows(params), [params.out]);
  }

  add(params: AddParams): void {
    this.#record((ops) => ops.add(params), [params.out]);
  }

  headLinear(params: HeadLinearParams): void {
    this.#record((ops) => ops.headLinear(params), [params.out]);
  }

  rotateAndCacheLatent(params: RotateAndCacheLatentParams): void {
    this.#record((ops) => ops.rotateAndCacheLatent(params), [params.q, params.kv]);
  }

  latentAttention(params: LatentAttentionParams): void {
    this.#record((ops) => ops.latentAttention(params), [params.out]);
  }

  gate(params: GateParams): void {
    const { normed, expertIds, weights } = params;
    this.#record((ops) => ops.gate(params), [normed, expertIds, weights]);
  }

  choose(): void {
    throw new UnsupportedOpError("cannot record choose: the hybrid backend leaves it to the host");
  }

  experts(params: ExpertsParams): void {
    checkExperts(params);
    const experts = hybridExpertsOf(params.experts);
    const { onDevice, onHost } = experts;
    if (onHost === null) {
      this.#record((ops) => ops.experts({ ...params, experts: onDevice! }), [params.out]);
      return;
    }
    this.#length += 1;
    const { x, expertIds, weights, topK, out, rows } = params;
    const exchange = this.#exchanges.of({ rows: x.rows, hidden: x.width, topK });
    const { device, host } = this.#sides;
    // What the host reads is there after these ops; the others need not wait for it.
    const ready = Math.max(
      ...[x, expertIds, weights].map((buffer) => this.#written.get(buffer) ?? 0),
    );
    const before = this.#ops.slice(0, ready);
    const meanwhile = [...this.#ops.slice(ready), ...residents(experts, { params, exchange })];
    this.#stretches.push({
      before: this.#onDevice(before),
      mixture: {
        ...{ experts, rows, x, expertIds, weights, exchange },
        meanwhile: this.#onDevice(meanwhile),
        host: host.record((ops) =>
          ops.experts({ ...params, ...exchange.host, experts: onHost, rows })
        ),
        add: device.record((ops) => ops.add({ x: exchange.sums, out, rows })),
      },
    });
    this.#ops = [];
    this.#written = new Map();
  }

  #record(op: Op, written: readonly Buffer[]): void {
    this.#length += 1;
    this.#ops.push(op);
    for (const buffer of written) this.#written.set(buffer, this.#ops.length);
  }

  #onDevice(list: readonly Op[]): Plan | null {
    if (list.length === 0) return null;
    return this.#sides.device.record((ops) => list.forEach((op) => op(ops)));
  }
}

/** The ops of a mixture's experts that lie on the device: slots instead of ids, then the experts there. */
function residents(
  { onDevice, slotTable }: HybridExperts,
  { params, exchange }: { params: ExpertsParams; exchange: Exchange },
): Op[] {
  if (onDevice === null || slotTable === null) return [];
  const { expertIds, rows } = params;
  const { slots } = exchange;
  return [
    (ops) => ops.gatherRows({ x: slotTable, indices: expertIds, out: slots, rows }),
    (ops) => ops.experts({ ...params, experts: onDevice, expertIds: slots }),
  ];
}
