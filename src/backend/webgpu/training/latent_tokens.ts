/** What latent attention keeps of a token, made again as rows. */

import type { LatentTokensParams } from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { giveBack, hold, holding, LANES, normHeld, rotateHeld } from "../ops/rotation.ts";
import { weightOf } from "../memory.ts";
import { kernel, reads, writes } from "./arrays.ts";

/** The same statements that put a token into the cache, and so the same bits. */
export function latentTokens(context: OpContext, params: LatentTokensParams): void {
  const { kv, latentNorm, cosSin, pairing, out, rows } = params;
  const { width } = kv;
  const ropeDim = cosSin.width;
  const latentDim = width - ropeDim;
  const base = `row * ${width}u`;
  context.run(kernel({
    label: "latentTokens",
    arrays: {
      ...{ kv: reads(kv), norm: reads(weightOf(latentNorm.weight).parts[0].memory) },
      ...{ cosSin: reads(cosSin), out: writes(out) },
    },
    params: { rows, eps: { f32: latentNorm.eps } },
    workgroups: rows,
    threads: LANES,
    declare: () => holding(width),
    body: (names) => `
  let row = workgroup;
  if (row >= params.rows) { return; }
  ${hold(names.kv, { base, count: width })}
  ${normHeld(names.norm, { count: latentDim, eps: "params.eps" })}
  ${
      rotateHeld({ start: latentDim, rotaryDim: ropeDim, pairing })
        .replaceAll("cos_sin[", `${names.cosSin}[`)
    }
  ${giveBack(names.out, { base, start: 0, count: width })}`,
  }));
}
