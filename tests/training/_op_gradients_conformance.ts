/** The backward pass of each op on any backend that trains, against finite differences on odd shapes. */

import { generator, normals } from "../backend/_random.ts";
import { assertGradients, Bench, matrixOf } from "./_differences.ts";
import type { TrainingConformance } from "./_update_conformance.ts";

/** Sequences of these lengths side by side, in pages of their own. */
function batchOf(b: Bench, lengths: readonly number[]) {
  const positions = lengths.flatMap((length) => Array.from({ length }, (_, i) => i));
  const sequences = lengths.flatMap((length, s) => new Array<number>(length).fill(s));
  return {
    rows: positions.length,
    batch: {
      positions: b.integers(positions),
      sequences: b.integers(sequences),
      pageTables: b.integers(lengths.map((_, s) => s)),
    },
  };
}

function cosSinOf(b: Bench, { rows, dim }: { rows: number; dim: number }) {
  const angles = normals(b.random, { length: rows * dim / 2 });
  const values = Array.from({ length: rows }, (_, t) => {
    const row = angles.subarray(t * dim / 2, (t + 1) * dim / 2);
    return [...row.map(Math.cos), ...row.map(Math.sin)];
  });
  return b.floats(values.flat(), dim);
}

/** Random coefficients of an output, and a buffer that holds them as its gradient. */
function lossOf(b: Bench, shape: { rows: number; width: number }) {
  const coefficients = normals(b.random, { length: shape.rows * shape.width });
  return { coefficients, gradient: b.floats(coefficients, shape.width) };
}

/** Declares the tests. Widths of heads and latents are multiples of 4, as the wasm kernels want them. */
export function opGradientTests({ name, open }: TrainingConformance): void {
  const bench = async (seed: number) => new Bench(await open(), generator(seed));

  Deno.test(`${name}: embed's backward pass adds up the rows of repeated ids`, async () => {
    using b = await bench(1);
    const table = await b.weight("table", { rows: 5, cols: 7 });
    const ids = b.integers([4, 0, 4, 4, 2, 0]);
    const order = b.integers([1, 5, 4, 0, 2, 3]);
    const rows = 6;
    const out = b.buffer(rows, 7);
    const { coefficients, gradient } = lossOf(b, { rows, width: 7 });
    await assertGradients(b, {
      what: "embed",
      forward: b.backend.record((ops) => ops.embed({ table, ids, out, scale: 3, rows })),
      backward: b.backend.recordTraining((ops) =>
        ops.embedBackward({ table, ids, order, outGradient: gradient, scale: 3, rows })
      ),
      outputs: [{ buffer: out, coefficients }],
    });
  });

  Deno.test(`${name}: rmsNorm's backward pass replaces a gradient or adds to it`, async (t) => {
    for (const accumulate of [false, true]) {
      await t.step(accumulate ? "adds" : "replaces", async () => {
        using b = await bench(2);
        const [rows, width] = [5, 13];
        const x = b.activation("x", { rows, width });
        const weight = await b.weight("weight", { rows: 1, cols: width, around: 1 });
        const out = b.buffer(rows, width);
        const { coefficients, gradient } = lossOf(b, { rows, width });
        const outputs = [{ buffer: out, coefficients }];
        const before = lossOf(b, { rows, width });
        if (accumulate) outputs.push({ buffer: x.buffer, coefficients: before.coefficients });
        const norm = { weight, eps: 1e-3 };
        const target = { buffer: x.gradient, accumulate };
        await assertGradients(b, {
          what: "rmsNorm",
          forward: b.backend.record((ops) => ops.rmsNorm({ ...norm, x: x.buffer, out, rows })),
          backward: b.backend.recordTraining((ops) => {
            ops.copy({ from: before.gradient, to: x.gradient, rows });
            ops.rmsNormBackward({ ...norm, x: x.buffer, outGradient: gradient, target, rows });
          }),
          outputs,
        });
      });
    }
  });

  Deno.test(`${name}: linear's backward pass takes several outputs, biases and factors`, async () => {
    using b = await bench(3);
    const [rows, width] = [4, 9];
    const x = b.activation("x", { rows, width });
    const first = await b.weight("first", { rows: 5, cols: width });
    const second = await b.weight("second", { rows: 3, cols: width });
    const bias = await b.weight("bias", { rows: 1, cols: 5 });
    const outs = [b.buffer(rows, 5), b.buffer(rows, 3)];
    const losses = [lossOf(b, { rows, width: 5 }), lossOf(b, { rows, width: 3 })];
    const outputs = [{ weight: first, bias, scale: 0.7 }, { weight: second }];
    await assertGradients(b, {
      what: "linear",
      forward: b.backend.record((ops) =>
        ops.linear({
          x: x.buffer,
          outputs: outputs.map((output, i) => ({ ...output, out: outs[i] })),
          rows,
        })
      ),
      backward: b.backend.recordTraining((ops) =>
        ops.linearBackward({
          x: x.buffer,
          outputs: outputs.map((output, i) => ({ ...output, outGradient: losses[i].gradient })),
          target: { buffer: x.gradient, accumulate: false },
          rows,
        })
      ),
      outputs: outs.map((buffer, i) => ({ buffer, coefficients: losses[i].coefficients })),
    });
  });

  Deno.test(`${name}: gatedLinear leaves behind what its backward pass needs`, async () => {
    using b = await bench(4);
    const [rows, width, intermediate] = [3, 6, 11];
    const x = b.activation("x", { rows, width });
    const gate = await b.weight("gate", { rows: intermediate, cols: width });
    const up = await b.weight("up", { rows: intermediate, cols: width });
    const out = b.buffer(rows, intermediate);
    const kept = { gate: b.buffer(rows, intermediate), up: b.buffer(rows, intermediate) };
    const { coefficients, gradient } = lossOf(b, { rows, width: intermediate });
    const params = { x: x.buffer, gate, up, activation: "silu", out, rows } as const;
    await assertGradients(b, {
      what: "gatedLinear",
      forward: b.backend.recordTraining((ops) => ops.keepingGatedLinear({ ...params, kept })),
      backward: b.backend.recordTraining((ops) => {
        ops.swigluBackward({
          ...kept,
          outGradient: gradient,
          gateGradient: kept.gate,
          upGradient: kept.up,
          rows,
        });
        ops.linearBackward({
          x: x.buffer,
          outputs: [{ weight: gate, outGradient: kept.gate }, { weight: up, outGradient: kept.up }],
          target: { buffer: x.gradient, accumulate: false },
          rows,
        });
      }),
      outputs: [{ buffer: out, coefficients }],
    });
  });

  Deno.test(`${name}: rotation's backward pass turns gradients back, through norms of heads`, async (t) => {
    for (const pairing of ["halves", "interleaved"] as const) {
      for (const normed of [false, true]) {
        await t.step(`${pairing}${normed ? ", normed" : ""}`, async () => {
          using b = await bench(5);
          const [heads, kvHeads, keyDim, rotary] = [3, 1, 12, 6];
          const { rows, batch } = batchOf(b, [3, 2]);
          const q = b.activation("q", { rows, width: heads * keyDim });
          const k = b.activation("k", { rows, width: kvHeads * keyDim });
          const v = b.floats(normals(b.random, { length: rows * kvHeads * keyDim }), keyDim);
          const weight = async (name: string) =>
            await b.weight(name, { rows: 1, cols: keyDim, around: 1 });
          const qNorm = normed ? { weight: await weight("qNorm"), eps: 1e-3 } : undefined;
          const kNorm = normed ? { weight: await weight("kNorm"), eps: 1e-3 } : undefined;
          const cosSin = cosSinOf(b, { rows, dim: rotary });
          const cache = b.backend.createKvCache({
            ...{ type: "f32", layers: 1, pages: 2, kvHeads },
            ...{ keyDim, valueDim: keyDim },
          });
          const rotated = [b.buffer(rows, heads * keyDim), b.buffer(rows, kvHeads * keyDim)];
          const losses = [q, k].map(({ buffer }) => lossOf(b, { rows, width: buffer.width }));
          await assertGradients(b, {
            what: "rotateAndCache",
            forward: b.backend.recordTraining((ops) => {
              ops.copy({ from: q.buffer, to: rotated[0], rows });
              ops.copy({ from: k.buffer, to: rotated[1], rows });
              ops.rotateAndCache({
                ...{ q: rotated[0], k: rotated[1], v, heads, cosSin, pairing },
                ...(qNorm && { qNorm }),
                ...(kNorm && { kNorm }),
                ...{ cache, layer: 0, batch, rows },
              });
            }),
            backward: b.backend.recordTraining((ops) => {
              ops.copy({ from: losses[0].gradient, to: q.gradient, rows });
              ops.copy({ from: losses[1].gradient, to: k.gradient, rows });
              ops.rotateAndCacheBackward({
                ...{ heads, kvHeads, qGradient: q.gradient, kGradient: k.gradient },
                ...(qNorm && { qNorm: { ...qNorm, x: q.buffer } }),
                ...(kNorm && { kNorm: { ...kNorm, x: k.buffer } }),
                ...{ cosSin, pairing, rows },
              });
            }),
            outputs: rotated.map((buffer, i) => ({ buffer, coefficients: losses[i].coefficients })),
          });
        });
      }
    }
  });

  Deno.test(`${name}: attention's backward pass shares keys among heads and keeps sequences apart`, async (t) => {
    for (const window of [undefined, 3]) {
      await t.step(window === undefined ? "all positions" : "a window", async () => {
        using b = await bench(6);
        const [heads, kvHeads, keyDim, valueDim] = [4, 2, 8, 4];
        const { rows, batch } = batchOf(b, [5, 1, 4]);
        const q = b.activation("q", { rows, width: heads * keyDim });
        const k = b.activation("k", { rows, width: kvHeads * keyDim });
        const v = b.activation("v", { rows, width: kvHeads * valueDim });
        // A rotation by nothing: only what puts keys and values into the cache.
        const cosSin = b.floats(new Array(rows).fill([1, 0]).flat(), 2);
        const cache = b.backend.createKvCache({
          ...{ type: "f32", layers: 2, pages: 3, kvHeads, keyDim, valueDim },
        });
        const out = b.buffer(rows, heads * valueDim);
        const { coefficients, gradient } = lossOf(b, { rows, width: heads * valueDim });
        const common = { heads, scale: 0.4, ...(window !== undefined && { window }), rows };
        await assertGradients(b, {
          what: "attention",
          forward: b.backend.record((ops) => {
            ops.rotateAndCache({
              ...{ q: q.buffer, k: k.buffer, v: v.buffer, heads, cosSin, pairing: "halves" },
              ...{ cache, layer: 1, batch, rows },
            });
            ops.attention({ ...common, q: q.buffer, cache, layer: 1, batch, out });
          }),
          backward: b.backend.recordTraining((ops) =>
            ops.attentionBackward({
              ...{ ...common, q: q.buffer, k: k.buffer, v: v.buffer, out, outGradient: gradient },
              ...{ kvHeads, positions: batch.positions },
              ...{ qGradient: q.gradient, kGradient: k.gradient, vGradient: v.gradient },
            })
          ),
          outputs: [{ buffer: out, coefficients }],
        });
      });
    }
  });

  Deno.test(`${name}: gatherRows's backward pass leaves zeros where nothing was gathered`, async () => {
    using b = await bench(7);
    const x = b.activation("x", { rows: 6, width: 5 });
    const indices = b.integers([4, 1, 5]);
    const out = b.buffer(3, 5);
    const { coefficients, gradient } = lossOf(b, { rows: 3, width: 5 });
    b.backend.write(x.gradient, new Float32Array(30).fill(7));
    await assertGradients(b, {
      what: "gatherRows",
      forward: b.backend.record((ops) => ops.gatherRows({ x: x.buffer, indices, out, rows: 3 })),
      backward: b.backend.recordTraining((ops) =>
        ops.gatherRowsBackward({
          ...{ indices, outGradient: gradient, targetRows: 6, rows: 3 },
          target: { buffer: x.gradient, accumulate: false },
        })
      ),
      outputs: [{ buffer: out, coefficients }],
    });
  });

  Deno.test(`${name}: headLinear's backward pass reads a part of each head`, async () => {
    using b = await bench(8);
    const [rows, heads, xStride, cols, outDim] = [3, 2, 9, 5, 8];
    const x = b.activation("x", { rows, width: heads * xStride });
    const weight = await b.weight("weight", { rows: heads * outDim, cols });
    const out = b.buffer(rows, heads * outDim);
    const { coefficients, gradient } = lossOf(b, { rows, width: heads * outDim });
    const params = { x: x.buffer, xStride, weight, heads, rows };
    b.backend.write(x.gradient, new Float32Array(rows * heads * xStride).fill(7));
    await assertGradients(b, {
      what: "headLinear",
      forward: b.backend.record((ops) => ops.headLinear({ ...params, out })),
      backward: b.backend.recordTraining((ops) =>
        ops.headLinearBackward({
          ...{ ...params, outGradient: gradient },
          target: { buffer: x.gradient, accumulate: false },
        })
      ),
      outputs: [{ buffer: out, coefficients }],
    });
  });

  Deno.test(`${name}: latent attention's backward pass goes through its norm and rotation`, async (t) => {
    for (const pairing of ["halves", "interleaved"] as const) {
      await t.step(pairing, async () => {
        using b = await bench(9);
        const [heads, nopeDim, latentDim, ropeDim] = [3, 5, 8, 4];
        const { rows, batch } = batchOf(b, [4, 3]);
        const stride = nopeDim + ropeDim;
        const latentQuery = b.activation("latentQuery", { rows, width: heads * latentDim });
        const q = b.activation("q", { rows, width: heads * stride });
        const kv = b.activation("kv", { rows, width: latentDim + ropeDim });
        const latentNorm = {
          weight: await b.weight("norm", { rows: 1, cols: latentDim, around: 1 }),
          eps: 1e-3,
        };
        const cosSin = cosSinOf(b, { rows, dim: ropeDim });
        const cache = b.backend.createLatentCache({
          ...{ type: "f32", layers: 1, pages: 2, latentDim, ropeDim },
        });
        const out = b.buffer(rows, heads * latentDim);
        const rotated = b.buffer(rows, heads * stride);
        const tokens = b.buffer(rows, latentDim + ropeDim);
        const tokensGradient = b.buffer(rows, latentDim + ropeDim);
        const { coefficients, gradient } = lossOf(b, { rows, width: heads * latentDim });
        // What is not rotated of the queries takes no part in attention, but goes on from the rotation.
        const rest = lossOf(b, { rows, width: heads * stride });
        const everyRow = b.integers(Array.from({ length: rows }, (_, t) => t));
        const common = { heads, nopeDim, scale: 0.4, rows };
        const cached = { latentNorm, cosSin, pairing, rows };
        await assertGradients(b, {
          what: "latentAttention",
          forward: b.backend.recordTraining((ops) => {
            ops.copy({ from: q.buffer, to: rotated, rows });
            ops.rotateAndCacheLatent({
              ...{ q: rotated, heads, nopeDim, kv: kv.buffer },
              ...{ ...cached, cache, layer: 0, batch },
            });
            const read = { ...common, latentQuery: latentQuery.buffer, q: rotated };
            ops.latentAttention({ ...read, cache, layer: 0, batch, out });
          }),
          backward: b.backend.recordTraining((ops) => {
            ops.latentTokens({ ...cached, kv: kv.buffer, out: tokens });
            ops.latentAttentionBackward({
              ...{ ...common, latentQuery: latentQuery.buffer, q: rotated, tokens, latentDim },
              ...{ out, outGradient: gradient, positions: batch.positions },
              ...{ latentQueryGradient: latentQuery.gradient, qGradient: q.gradient },
              tokensGradient,
            });
            // Adds the one to the other.
            ops.gatherRowsBackward({
              ...{ indices: everyRow, outGradient: rest.gradient, targetRows: rows, rows },
              target: { buffer: q.gradient, accumulate: true },
            });
            ops.rotateAndCacheLatentBackward({
              ...{ ...cached, kv: kv.buffer, heads, nopeDim, qGradient: q.gradient },
              ...{ tokensGradient, kvGradient: kv.gradient },
            });
          }),
          outputs: [
            { buffer: out, coefficients },
            { buffer: rotated, coefficients: rest.coefficients },
          ],
        });
      });
    }
  });

  Deno.test(`${name}: a gate's backward pass goes through scores and their normalisation`, async (t) => {
    for (const score of ["softmax", "sigmoid", "softmaxOfChosen"] as const) {
      for (const divides of [false, true]) {
        if (score === "softmaxOfChosen" && divides) continue;
        await t.step(`${score}${divides ? ", normalised" : ""}`, async () => {
          using b = await bench(10);
          const [rows, width, experts, topK] = [5, 6, 7, 3];
          const normed = b.activation("normed", { rows, width });
          const weight = await b.weight("weight", { rows: experts, cols: width });
          const bias = await b.weight("bias", { rows: 1, cols: experts });
          // The choice is made beforehand, since it has no gradient; the norm is one of ones.
          const choices = [[1, 4, 0], [6, 2, 3], [0, 1, 2], [5, 6, 4], [3, 0, 6]];
          const expertIds = b.integers(choices.flat(), topK);
          const out = b.buffer(rows, topK);
          const same = b.buffer(rows, width);
          const ones = await b.backend.upload(
            matrixOf("ones", { rows: 1, cols: width, values: new Float32Array(width).fill(1) }),
          );
          b.backend.allocateGradients([b.backend.parameterOf(ones)], { moments: 0 });
          const { coefficients, gradient } = lossOf(b, { rows, width: topK });
          const common = { weight, bias, score, topK, normalise: divides, scale: 1.7, expertIds };
          const inner = b.buffer(rows, width);
          const norm = { weight: ones, eps: 1e-3 };
          await assertGradients(b, {
            what: "gate",
            forward: b.backend.recordTraining((ops) =>
              ops.replayGate({
                ...common,
                x: normed.buffer,
                norm,
                normed: same,
                weights: out,
                rows,
              })
            ),
            backward: b.backend.recordTraining((ops) => {
              ops.gateBackward({
                ...{ ...common, normed: same, weightsGradient: gradient, rows },
                target: { buffer: inner, accumulate: false },
              });
              ops.rmsNormBackward({
                ...{ ...norm, x: normed.buffer, outGradient: inner, rows },
                target: { buffer: normed.gradient, accumulate: false },
              });
            }),
            outputs: [{ buffer: out, coefficients }],
          });
        });
      }
    }
  });

  Deno.test(`${name}: experts' backward pass reaches inputs, weights and matrices`, async () => {
    using b = await bench(11);
    const [rows, hidden, intermediate, count, topK] = [5, 6, 9, 4, 2];
    const x = b.activation("x", { rows, width: hidden });
    const weights = b.activation("weights", { rows, width: topK });
    const tensors = (rows: number, cols: number, name: string) =>
      Array.from({ length: count }, (_, e) => {
        const values = normals(b.random, { length: rows * cols, scale: 0.5 });
        return { values, data: matrixOf(`${name}.${e}`, { rows, cols, values }) };
      });
    const parts = {
      gate: tensors(intermediate, hidden, "gate"),
      up: tensors(intermediate, hidden, "up"),
      down: tensors(hidden, intermediate, "down"),
    };
    const data = (part: keyof typeof parts) => parts[part].map((tensor) => tensor.data);
    const experts = await b.backend.uploadExperts({
      ...{ layer: 0, gate: data("gate"), up: data("up"), down: data("down") },
    });
    const parameters = b.backend.parametersOf(experts);
    for (const part of ["gate", "up", "down"] as const) {
      const all = parts[part].flatMap(({ values }) => Array.from(values));
      b.parameter(part, parameters[part], Float32Array.from(all));
    }
    // Expert 1 is chosen by nobody, and expert 3 by one row alone.
    const expertIds = b.integers([0, 2, 2, 0, 0, 3, 2, 0, 0, 2], topK);
    const out = b.buffer(rows, hidden);
    const kept = {
      gate: b.buffer(rows * topK, intermediate),
      up: b.buffer(rows * topK, intermediate),
    };
    const { coefficients, gradient } = lossOf(b, { rows, width: hidden });
    const common = {
      x: x.buffer,
      experts,
      expertIds,
      weights: weights.buffer,
      topK,
      scale: 0.8,
      rows,
    };
    await assertGradients(b, {
      what: "experts",
      forward: b.backend.recordTraining((ops) => {
        ops.fill({ buffer: out, value: 0 });
        ops.keepingExperts({ ...common, activation: "silu", out, kept });
      }),
      backward: b.backend.recordTraining((ops) =>
        ops.expertsBackward({
          ...{ ...common, kept, outGradient: gradient, weightsGradient: weights.gradient },
          target: { buffer: x.gradient, accumulate: false },
        })
      ),
      outputs: [{ buffer: out, coefficients }],
    });
  });

  Deno.test(`${name}: log-probabilities' backward pass knows the temperature`, async () => {
    using b = await bench(12);
    const [rows, vocab] = [4, 11];
    const logits = b.activation("logits", { rows, width: vocab, scale: 2 });
    const targets = b.integers([0, 10, 3, 3]);
    const out = b.buffer(rows, 1);
    const { coefficients, gradient } = lossOf(b, { rows, width: 1 });
    const common = { logits: logits.buffer, targets, temperature: 0.7, rows };
    await assertGradients(b, {
      what: "tokenLogProbs",
      forward: b.backend.recordTraining((ops) => ops.tokenLogProbs({ ...common, out })),
      backward: b.backend.recordTraining((ops) =>
        ops.tokenLogProbsBackward({
          ...{ ...common, outGradient: gradient, logitsGradient: logits.gradient },
        })
      ),
      outputs: [{ buffer: out, coefficients }],
    });
  });
}
