/** Reads Prometheus' text form strictly: what a scraper would refuse, throws. */

export interface ParsedFamily {
  readonly type: string;
  readonly help: string;
  readonly samples: {
    readonly name: string;
    readonly labels: Record<string, string>;
    readonly value: number;
  }[];
}

const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*";
const SAMPLE = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (\\S+)$`);

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  const pair = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:\\[\\"n]|[^"\\\n])*)"(,|$)/y;
  while (pair.lastIndex < text.length) {
    const match = pair.exec(text);
    if (match === null) throw new Error(`labels are not labels: ${text}`);
    if (match[1] in labels) throw new Error(`label ${match[1]} comes twice: ${text}`);
    labels[match[1]] = match[2].replace(/\\(.)/g, (_, char) => char === "n" ? "\n" : char);
  }
  return labels;
}

export function parsePrometheus(page: string): Map<string, ParsedFamily> {
  if (!page.endsWith("\n")) throw new Error("the page does not end with a line's end");
  const families = new Map<string, ParsedFamily>();
  const seen = new Set<string>();
  const helps = new Map<string, string>();
  let current = "";
  for (const line of page.slice(0, -1).split("\n")) {
    const comment = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line);
    if (comment !== null) {
      const [, kind, name, rest] = comment;
      if (kind === "HELP") helps.set(name, rest);
      else if (families.has(name)) throw new Error(`${name} comes twice`);
      else families.set(current = name, { type: rest, help: helps.get(name) ?? "", samples: [] });
      continue;
    }
    const match = SAMPLE.exec(line);
    if (match === null) throw new Error(`no sample: ${line}`);
    const [, name, labels = "", number] = match;
    const family = families.get(current)!;
    const suffix = name.slice(current.length);
    const right = family.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
    if (!name.startsWith(current) || !right.includes(suffix)) {
      throw new Error(`${name} is no sample of ${current}`);
    }
    const value = number === "+Inf" ? Infinity : Number(number);
    if (Number.isNaN(value)) throw new Error(`no number: ${line}`);
    const series = `${name}{${labels}}`;
    if (seen.has(series)) throw new Error(`${series} comes twice`);
    seen.add(series);
    family.samples.push({ name, labels: parseLabels(labels), value });
  }
  for (const [name, { type, help, samples }] of families) {
    if (help === "") throw new Error(`${name} has no help`);
    if (type !== "histogram") continue;
    const buckets = samples.filter((sample) => sample.name.endsWith("_bucket"));
    const count = samples.find((sample) => sample.name.endsWith("_count"))?.value;
    const bounds = buckets.map(({ labels }) => labels.le === "+Inf" ? Infinity : Number(labels.le));
    for (let i = 1; i < buckets.length; i++) {
      if (!(bounds[i] > bounds[i - 1]) || buckets[i].value < buckets[i - 1].value) {
        throw new Error(`${name}'s buckets don't ascend`);
      }
    }
    if (bounds.at(-1) !== Infinity || buckets.at(-1)?.value !== count) {
      throw new Error(`${name}'s last bucket is not all`);
    }
  }
  return families;
}

/** The value of one series; undefined where there is none. */
export function valueOf(
  families: Map<string, ParsedFamily>,
  { name, labels = {} }: { name: string; labels?: Record<string, string> },
): number | undefined {
  const family = families.get(name) ?? families.get(name.replace(/_(bucket|sum|count)$/, ""));
  return family?.samples.find((sample) =>
    sample.name === name &&
    Object.entries(labels).every(([label, value]) => sample.labels[label] === value)
  )?.value;
}
