/**
 * Tiles of attention's backward pass. A workgroup holds MINE queries or keys, and OTHERS keys or queries
 * go by at a time. Threads have a grid of four of its own by COLUMNS of the others: for products of both,
 * whose columns pass through workgroup memory, and for sums of the others' vectors, of which a thread has
 * some columns.
 */

import { type Dispatch, unrolled } from "../kernel.ts";
import { type Access, type Accesses, kernel, reads, writes } from "./arrays.ts";
import {
  type Attention,
  COLUMNS,
  EACH,
  LOWEST,
  MINE,
  OTHERS,
  type Out,
  outsOf,
  type Pair,
  pairsOf,
  QUADS,
  ROOM,
  SECOND,
  THREADS,
} from "./attention_layout.ts";
import { accumulate, declareSums, eachSum, products, queryAt, store } from "./attention_loops.ts";
import { isAligned, type Names, readFour, writeFour } from "./vectors.ts";

interface Options {
  /** Of each row and head: the logarithm of the sum of its powers, and dout out. */
  readonly stats: GPUBuffer;
  readonly of: "queries" | "keys";
}

/** dout out of each row and head, into the second numbers of `stats`. */
export function outProducts(attention: Attention, stats: GPUBuffer): Dispatch {
  const { value: { dim, query }, out, heads, rows } = attention;
  const threads = 64;
  const type = isAligned([{ vectors: query, dim }, { vectors: out, dim }]) ? "vec4<f32>" : "f32";
  return kernel({
    label: "attention out products",
    arrays: {
      gradient: reads(query.memory, type),
      out: reads(out.memory, type),
      stats: writes(stats),
    },
    params: { count: rows * heads },
    workgroups: Math.ceil(rows * heads / (threads / COLUMNS)),
    threads,
    declare: (names) =>
      `var<workgroup> partial: array<f32, ${threads}>;
${readFour("gradient_4", { array: names.gradient, vectors: query, dim, type })}
${readFour("out_4", { array: names.out, vectors: out, dim, type })}`,
    body: (names) => `
  let at = workgroup * ${threads / COLUMNS}u + lane / ${COLUMNS}u;
  let own = min(at, params.count - 1u);
  var sum = vec4<f32>();
  for (var c = lane % ${COLUMNS}u; c < ${Math.ceil(dim / 4)}u; c += ${COLUMNS}u) {
    sum = fma(gradient_4(own / ${heads}u, own % ${heads}u, c), out_4(own / ${heads}u, own % ${heads}u, c), sum);
  }
  partial[lane] = sum.x + sum.y + sum.z + sum.w;
  workgroupBarrier();
  if (lane % ${COLUMNS}u != 0u || at >= params.count) { return; }
  var all = 0.0;
  for (var i = 0u; i < ${COLUMNS}u; i++) { all += partial[lane + i]; }
  ${names.stats}[at * 2u + 1u] = all;`,
  });
}

export function gradientTiles(attention: Attention, { stats, of }: Options): Dispatch {
  const { heads, kvHeads, scale, positions, rows } = attention;
  const isQueries = of === "queries";
  const group = heads / kvHeads;
  const pairs = pairsOf(attention);
  const outs = outsOf(attention, of);
  const type = isAligned([
      ...pairs.flatMap(({ pair: { dim, query, key } }) => [
        { vectors: query, dim },
        { vectors: key, dim },
      ]),
      ...outs.map(({ to, dim }) => ({ vectors: to, dim })),
    ])
    ? "vec4<f32>"
    : "f32";
  const arrays: Accesses<string> = {
    ...Object.fromEntries(pairs.flatMap(({ name, pair }): [string, Access][] => [
      [`q${name}`, reads(pair.query.memory, type)],
      [`k${name}`, reads(pair.key.memory, type)],
    ])),
    ...{ positions: reads(positions), stats: isQueries ? writes(stats) : reads(stats) },
    ...Object.fromEntries(
      outs.map(({ to }, i): [string, Access] => [`out${i}`, writes(to.memory, type)]),
    ),
  };
  const count = isQueries ? rows * group : rows;
  const tiles = Math.ceil(count / MINE);
  return kernel({
    label: `attention gradients of ${of}`,
    arrays,
    params: { rows, tiles, scale: { f32: scale } },
    workgroups: tiles * kvHeads,
    threads: THREADS,
    declare: (names) =>
      `var<workgroup> room: array<vec4<f32>, ${ROOM}>;
${readers(names, { pairs, type })}
${
        outs.map(({ to, dim }, i) =>
          writeFour(`write_out${i}`, { array: names[`out${i}`], vectors: to, dim, type })
        ).join("")
      }
${firstOf(names, attention)}`,
    body: (names) => `
  // The last tiles have the most to do, so they start first.
  let kv_head = workgroup % ${kvHeads}u;
  if (workgroup / ${kvHeads}u >= params.tiles) { return; }
  let first = ${
      isQueries ? `(params.tiles - 1u - workgroup / ${kvHeads}u)` : `workgroup / ${kvHeads}u`
    } * ${MINE}u;
  let quad = lane / ${COLUMNS}u;
  let column = lane % ${COLUMNS}u;
${outs.map(({ dim }, o) => declareSums(o, dim)).join("\n")}
${isQueries ? overKeys(names, { attention, outs }) : overQueries(names, { attention, outs })}`,
  });
}

/** WGSL of `qNAME_4(row, head, c)` and `kNAME_4`: columns 4 c .. 4 c + 3. */
function readers(
  names: Names,
  { pairs, type }: { pairs: readonly { name: string; pair: Pair }[]; type: Access["type"] },
): string {
  return pairs.map(({ name, pair: { dim, query, key } }) =>
    readFour(`q${name}_4`, { array: names[`q${name}`], vectors: query, dim, type }) +
    readFour(`k${name}_4`, { array: names[`k${name}`], vectors: key, dim, type })
  ).join("");
}

/** WGSL of `first_of(row)`, the first row that a row sees. */
function firstOf(names: Names, { window }: Attention): string {
  return `
fn first_of(row: u32) -> u32 {
  let start = row - u32(${names.positions}[row]);
  return ${
    window === undefined ? "start" : `max(start, max(row, ${window - 1}u) - ${window - 1}u)`
  };
}`;
}

/** WGSL of the tile of queries: the softmax goes along, and sums are made smaller where it grows. */
function overKeys(
  names: Names,
  { attention, outs }: { attention: Attention; outs: readonly Out[] },
): string {
  const { heads, kvHeads, parts, value } = attention;
  const group = heads / kvHeads;
  const own = (m: string) => queryAt(`min(first + ${m}, last)`, attention);
  const key = (o: string) => `min(base + ${o}, params.rows - 1u), kv_head`;
  return `
  let last = params.rows * ${group}u - 1u;
  let end = min(first + ${MINE - 1}u, last) / ${group}u;
  var begins = vec4<u32>();
  var ends = vec4<u32>();
  var means = vec4<f32>();
  for (var i = 0u; i < 4u; i++) {
    let n = first + quad * 4u + i;
    if (n > last) { continue; }
    let row = n / ${group}u;
    begins[i] = first_of(row);
    ends[i] = row + 1u;
    means[i] = ${names.stats}[(row * ${heads}u + kv_head * ${group}u + n % ${group}u) * 2u + 1u];
  }
  var peaks = vec4<f32>(${LOWEST});
  var totals = vec4<f32>();
  for (var base = first_of(first / ${group}u); base <= end; base += ${OTHERS}u) {
    let there = min(${OTHERS}u, end + 1u - base);
${unrolled(EACH, (j) => `    var s${j} = vec4<f32>(); var d${j} = vec4<f32>();`)}
${
    parts.map(({ dim }, p) =>
      products("s", {
        dim,
        mine: (m, c) => `q${p}_4(${own(m)}, ${c})`,
        other: (o, c) => `k${p}_4(${key(o)}, ${c})`,
      })
    ).join("")
  }
${
    products("d", {
      dim: value.dim,
      mine: (m, c) => `q_value_4(${own(m)}, ${c})`,
      other: (o, c) => `k_value_4(${key(o)}, ${c})`,
    })
  }
    var most = vec4<f32>(${LOWEST});
${
    unrolled(EACH, (j) =>
      `    let t${j} = vec4<u32>(base + column + ${j * COLUMNS}u);
    s${j} = select(vec4<f32>(${LOWEST}), params.scale * s${j}, (t${j} >= begins) & (t${j} < ends));
    most = max(most, s${j});`)
  }
    room[${SECOND}u + column * ${QUADS}u + quad] = most;
    workgroupBarrier();
    let earlier = peaks;
    for (var x = 0u; x < ${COLUMNS}u; x++) { peaks = max(peaks, room[${SECOND}u + x * ${QUADS}u + quad]); }
    let keep = exp(earlier - peaks);
    totals *= keep;
${
    unrolled(EACH, (j) =>
      `    {
      let weight = select(vec4<f32>(), exp(s${j} - peaks), s${j} > vec4<f32>(${LOWEST}));
      totals += weight;
      room[(column + ${j * COLUMNS}u) * ${QUADS}u + quad] = weight * (d${j} - means);
    }`)
  }
${eachSum(outs, (o, r, i) => `    sum${o}_${r}_${i} *= keep.${"xyzw"[i]};`)}
    workgroupBarrier();
${accumulate(outs, ({ name }, o, c) => `k${name}_4(${key(o)}, ${c})`)}
  }
  room[column * ${QUADS}u + quad] = totals;
  workgroupBarrier();
  var powers = vec4<f32>();
  for (var x = 0u; x < ${COLUMNS}u; x++) { powers += room[x * ${QUADS}u + quad]; }
  let factors = vec4<f32>(params.scale) / powers;
  let logs = peaks + log(powers);
${
    unrolled(4, (i) =>
      `  {
    let n = first + quad * 4u + ${i}u;
    if (n <= last) {
      let row = n / ${group}u;
      let head = kv_head * ${group}u + n % ${group}u;
      if (column == 0u) { ${names.stats}[(row * ${heads}u + head) * 2u] = logs.${"xyzw"[i]}; }
${store(outs, i, { place: "row, head", factor: `factors.${"xyzw"[i]}` })}
    }
  }`)
  }`;
}

/** WGSL of the tile of keys: all queries that see any of them go by. */
function overQueries(
  names: Names,
  { attention, outs }: { attention: Attention; outs: readonly Out[] },
): string {
  const { heads, kvHeads, parts, value } = attention;
  const group = heads / kvHeads;
  const own = (m: string) => `min(first + ${m}, params.rows - 1u), kv_head`;
  const query = (o: string) => queryAt(`min(base + ${o}, last)`, attention);
  return `
  let last = params.rows * ${group}u - 1u;
  let end = min(first + ${MINE - 1}u, params.rows - 1u);
  let keys = vec4<u32>(first + quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
  for (var base = first * ${group}u; base <= last; base += ${OTHERS}u) {
    // Later rows are of later sequences, or see none of these keys.
    if (first_of(base / ${group}u) > end) { break; }
    let there = min(${OTHERS}u, last + 1u - base);
${unrolled(EACH, (j) => `    var s${j} = vec4<f32>(); var d${j} = vec4<f32>();`)}
${
    parts.map(({ dim }, p) =>
      products("s", {
        dim,
        mine: (m, c) => `k${p}_4(${own(m)}, ${c})`,
        other: (o, c) => `q${p}_4(${query(o)}, ${c})`,
      })
    ).join("")
  }
${
    products("d", {
      dim: value.dim,
      mine: (m, c) => `k_value_4(${own(m)}, ${c})`,
      other: (o, c) => `q_value_4(${query(o)}, ${c})`,
    })
  }
${
    unrolled(EACH, (j) =>
      `    {
      let other = base + column + ${j * COLUMNS}u;
      let n = min(other, last);
      let row = n / ${group}u;
      let stat = (row * ${heads}u + kv_head * ${group}u + n % ${group}u) * 2u;
      let seen = (keys <= vec4<u32>(row)) & (keys >= vec4<u32>(first_of(row))) &
        vec4<bool>(other <= last);
      let weight = select(vec4<f32>(), exp(params.scale * s${j} - ${names.stats}[stat]), seen);
      room[(column + ${j * COLUMNS}u) * ${QUADS}u + quad] =
        params.scale * weight * (d${j} - ${names.stats}[stat + 1u]);
      room[${SECOND}u + (column + ${j * COLUMNS}u) * ${QUADS}u + quad] = weight;
    }`)
  }
    workgroupBarrier();
${accumulate(outs, ({ name }, o, c) => `q${name}_4(${query(o)}, ${c})`)}
  }
${
    unrolled(4, (i) =>
      `  if (keys.${"xyzw"[i]} < params.rows) {
${store(outs, i, { place: `keys.${"xyzw"[i]}, kv_head` })}
  }`)
  }`;
}
