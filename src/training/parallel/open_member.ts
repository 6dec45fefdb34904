/** Opens a member's part of a model on a backend of its own. */

import type { TrainingBackend } from "../../backend/training.ts";
import { OptionError } from "../../errors.ts";
import type { TensorSource } from "../../formats/tensor_source.ts";
import { loadDecoder } from "../../model/decoder.ts";
import type { DecoderConfig } from "../../model/decoder_config.ts";
import { readModelConfig } from "../../model/registry.ts";
import type { HostSum } from "../tape/rules/exchange.ts";
import { TapeBackend } from "../tape/mod.ts";
import type { TrainerOptions } from "../trainer.ts";
import { allReduce, type Communicator, Subgroup } from "./communicator.ts";
import { ExpertDesk } from "./expert_desk.ts";
import { ExpertExchange } from "./expert_exchange.ts";
import { type Axis, extentsOf, type Grid, groupOf, placeOf } from "./grid.ts";
import { holds } from "./holding.ts";
import { Member } from "./member.ts";
import { SharedOps } from "./shared_ops.ts";
import { slicedSource, slicesOf } from "./slices.ts";
import { Timeline } from "./timeline.ts";

export interface OpenMemberOptions {
  readonly backend: TrainingBackend;
  /** The whole model; of its numbers only the member's are read. */
  readonly source: TensorSource;
  readonly communicator: Communicator;
  readonly grid: Grid;
  readonly trainer: TrainerOptions;
}

export interface OpenedMember {
  readonly member: Member;
  readonly timeline: Timeline;
}

/** Throws OptionError where the model cannot be divided as the grid says. */
export async function openMember(options: OpenMemberOptions): Promise<OpenedMember> {
  const { backend, source, communicator, grid, trainer } = options;
  const whole = readModelConfig(source) as DecoderConfig;
  checkModel(whole, grid);
  const place = placeOf(grid, communicator.rank);
  const { tensor, expert } = extentsOf(grid);
  const timeline = new Timeline(communicator.rank);
  const slices = slicesOf(whole, { count: tensor });
  const group = (axis: Axis) => new Subgroup(communicator, groupOf(grid, place, [axis]));
  const desk = new ExpertDesk({ backend, timeline });
  const members = group("expert");
  const tape: TapeBackend = new TapeBackend(backend, {
    holds: holds(whole, { index: place.stage, count: grid.stages }),
    ...(expert > 1 && { experts: { index: place.expert, count: expert } }),
    ...((tensor > 1 || expert > 1) && {
      share: (ops) =>
        new SharedOps(ops, {
          createBuffer: (shape) => tape.createBuffer(shape),
          cutOf: slices.cutOf,
          sum: tensor === 1 ? null : sumOver(group("tensor"), { backend, timeline }),
          exchange: expert === 1 ? null : (params) =>
            new ExpertExchange({
              ...{ backend, timeline, desk, params, group: members },
              count: whole.mixture!.experts,
            }),
        }),
    }),
  });
  const { rows, logitRows } = trainer.shape;
  const model = await loadDecoder(slices.config, {
    source: slicedSource(source, { slices, place: { index: place.tensor, count: tensor } }),
    ...{ backend: tape, maxRows: rows, maxLogitRows: logitRows },
  });
  const member = new Member({ tape, model, slices, communicator, timeline, grid, trainer });
  return { member, timeline };
}

function sumOver(
  group: Communicator,
  { backend, timeline }: { backend: TrainingBackend; timeline: Timeline },
): HostSum {
  return (values) =>
    timeline.measure("exchange", "sum", async () => {
      const parts = [];
      for (const { buffer, rows } of values) parts.push(await backend.read(buffer, { rows }));
      const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
      let at = 0;
      for (const part of parts) {
        all.set(part, at);
        at += part.length;
      }
      await allReduce(group, "sum", all);
      at = 0;
      for (const [i, { buffer }] of values.entries()) {
        const end = at + parts[i].length;
        backend.write(buffer, all.subarray(at, end));
        at = end;
      }
    });
}

function checkModel({ layers, mixture }: DecoderConfig, grid: Grid): void {
  const { stage, expert } = extentsOf(grid);
  if (stage > layers) {
    throw new OptionError(
      `cannot train together: stages are ${stage}, must be at most the ${layers} layers`,
    );
  }
  if (mixture && mixture.layout !== "apart") {
    throw new OptionError(
      `cannot train together: experts are ${mixture.layout}, must be tensors of their own`,
    );
  }
  const experts = mixture?.experts ?? 1;
  if (expert > experts) {
    const most = mixture ? `at most the ${experts} experts of a layer` : "1 for a dense model";
    throw new OptionError(`cannot train together: expert parts are ${expert}, must be ${most}`);
  }
}
