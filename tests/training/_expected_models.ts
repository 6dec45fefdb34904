/** Qwen2 and DeepSeek-V3 as their papers write them, over the oracle: latent attention is expanded. */

import { Graph, type Matrix } from "./_autograd.ts";

/** What config.json states, with the names it has there. */
// deno-lint-ignore no-explicit-any -- a JSON document
type Config = any;
/** A checkpoint's tensors by name. */
export type Weights = (name: string) => Matrix;

export interface Rope {
  readonly frequencies: readonly number[];
  readonly factor: number;
  /** Of attention's scores. */
  readonly scale: number;
}

/** The mean cross-entropy of a sequence's targets; derivatives are in the weights then. */
export function expectedLoss(
  options: {
    config: Config;
    weights: Weights;
    rope: Rope;
    ids: readonly number[];
    targets: readonly number[];
  },
): number {
  const { config, weights, ids, targets } = options;
  const graph = new Graph();
  const isDeepSeek = config.architectures[0].startsWith("Deepseek");
  let x = graph.rows(weights("model.embed_tokens.weight"), ids);
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const own: Weights = (name) => weights(`model.layers.${layer}.${name}.weight`);
    const norm = (name: string) => graph.rmsNorm(x, own(name), config.rms_norm_eps);
    const at = { ...options, graph, own, x: norm("input_layernorm") };
    x = graph.add(x, isDeepSeek ? latentAttention(at) : groupedAttention({ ...at, layer }));
    const h = norm("post_attention_layernorm");
    const isRouted = isDeepSeek && layer >= config.first_k_dense_replace;
    x = graph.add(x, isRouted ? mixture({ ...at, layer, x: h }) : mlp(graph, own, h, "mlp"));
  }
  x = graph.rmsNorm(x, weights("model.norm.weight"), config.rms_norm_eps);
  const head = config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  const loss = graph.crossEntropy(graph.linear(x, weights(head)), targets);
  graph.backward(loss);
  return loss.v[0];
}

interface At {
  readonly config: Config;
  readonly rope: Rope;
  readonly weights: Weights;
  readonly graph: Graph;
  readonly own: Weights;
  readonly x: Matrix;
}

function mlp(graph: Graph, own: Weights, x: Matrix, name: string): Matrix {
  const gate = graph.silu(graph.linear(x, own(`${name}.gate_proj`)));
  return graph.linear(
    graph.mul(gate, graph.linear(x, own(`${name}.up_proj`))),
    own(`${name}.down_proj`),
  );
}

function groupedAttention({ config, rope, weights, graph, own, x, layer }: At & { layer: number }) {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, hidden_size: hidden } = config;
  const dim = hidden / heads;
  const project = (name: string) => {
    const bias = weights(`model.layers.${layer}.self_attn.${name}.bias`);
    return graph.addRow(graph.linear(x, own(`self_attn.${name}`)), bias);
  };
  const [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(project);
  const outs = Array.from({ length: heads }, (_, h) => {
    const head = (m: Matrix, i: number) => graph.columns(m, i * dim, (i + 1) * dim);
    const turn = (m: Matrix) => graph.rotate(m, { ...rope, pairing: "halves" });
    const shared = Math.floor(h / (heads / kvHeads));
    const scores = graph.linear(turn(head(q, h)), turn(head(k, shared)));
    return graph.matmul(graph.causalSoftmax(graph.scale(scores, rope.scale)), head(v, shared));
  });
  return graph.linear(graph.beside(...outs), own("self_attn.o_proj"));
}

/** DeepSeek-V2, section 2.1, equations 9 to 19. */
function latentAttention({ config, rope, graph, own, x }: At): Matrix {
  const { num_attention_heads: heads, kv_lora_rank: rank } = config;
  const { qk_nope_head_dim: nope, qk_rope_head_dim: turned, v_head_dim: value } = config;
  const turn = (m: Matrix) => graph.rotate(m, { ...rope, pairing: "interleaved" });
  const cq = graph.rmsNorm(
    graph.linear(x, own("self_attn.q_a_proj")),
    own("self_attn.q_a_layernorm"),
    1e-6,
  );
  const q = graph.linear(cq, own("self_attn.q_b_proj"));
  const down = graph.linear(x, own("self_attn.kv_a_proj_with_mqa"));
  const latent = graph.columns(down, 0, rank);
  const c = graph.rmsNorm(latent, own("self_attn.kv_a_layernorm"), 1e-6);
  const kRope = turn(graph.columns(down, rank, rank + turned));
  const kv = graph.linear(c, own("self_attn.kv_b_proj"));
  const outs = Array.from({ length: heads }, (_, h) => {
    const qAt = h * (nope + turned);
    const kvAt = h * (nope + value);
    const qHead = graph.beside(
      graph.columns(q, qAt, qAt + nope),
      turn(graph.columns(q, qAt + nope, qAt + nope + turned)),
    );
    const kHead = graph.beside(graph.columns(kv, kvAt, kvAt + nope), kRope);
    const scores = graph.scale(graph.linear(qHead, kHead), rope.scale);
    const v = graph.columns(kv, kvAt + nope, kvAt + nope + value);
    return graph.matmul(graph.causalSoftmax(scores), v);
  });
  return graph.linear(graph.beside(...outs), own("self_attn.o_proj"));
}

/** DeepSeek-V3, section 2.1.2, equations 12 to 16, and the limit to groups. */
function mixture({ config, weights, graph, own, x, layer }: At & { layer: number }): Matrix {
  const { n_routed_experts: experts, num_experts_per_tok: topK, n_group: groups } = config;
  const logits = graph.linear(x, own("mlp.gate"));
  const isV3 = config.architectures[0] === "DeepseekV3ForCausalLM";
  const scores = isV3 ? graph.sigmoid(logits) : graph.softmax(logits);
  const bias = isV3 ? weights(`model.layers.${layer}.mlp.gate.e_score_correction_bias`).v : null;
  const chosen = new Float64Array(x.rows * experts);
  for (let t = 0; t < x.rows; t++) {
    const choice = Array.from(
      { length: experts },
      (_, e) => scores.v[t * experts + e] + (bias?.[e] ?? 0),
    );
    const size = experts / groups;
    const ranks = Array.from({ length: groups }, (_, g) => {
      const members = choice.slice(g * size, (g + 1) * size).sort((a, b) => b - a);
      return isV3 ? members[0] + members[1] : members[0];
    });
    const best = largest(ranks, config.topk_group);
    const allowed = choice.map((value, e) =>
      best.includes(Math.floor(e / size)) ? value : -Infinity
    );
    for (const e of largest(allowed, topK)) chosen[t * experts + e] = 1;
  }
  const kept = maskOf(graph, scores, chosen);
  const weighed = config.norm_topk_prob && isV3
    ? graph.mulColumn(kept, graph.inverseRowSums(kept, 1e-20))
    : kept;
  const shares = graph.scale(weighed, config.routed_scaling_factor);
  let y = mlp(graph, own, x, "mlp.shared_experts");
  for (let e = 0; e < experts; e++) {
    const answer = mlp(graph, own, x, `mlp.experts.${e}`);
    y = graph.add(y, graph.mulColumn(answer, graph.columns(shares, e, e + 1)));
  }
  return y;
}

function maskOf(graph: Graph, scores: Matrix, chosen: Float64Array): Matrix {
  // Multiplied by constants, whose derivatives nobody reads.
  const constant = { rows: scores.rows, cols: scores.cols, v: chosen, g: chosen.map(() => 0) };
  return graph.mul(scores, constant as Matrix);
}

function largest(values: readonly number[], count: number): number[] {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a]).slice(0, count);
}
