import { assert, assertEquals, assertRejects } from "@std/assert";
import { DISK_FILES } from "../../../src/cli/data_folder.ts";
import { FormatError } from "../../../src/errors.ts";
import { type Item, readFiles, START } from "../../../src/training/data/readers/files.ts";
import { linesOf } from "../../../src/training/data/readers/lines.ts";
import { readRecord } from "../../../src/training/data/readers/records.ts";
import { textsOfWarc } from "../../../src/training/data/readers/warc.ts";
import { downloadedData } from "./_data.ts";
import { withFolder } from "./_corpus.ts";

const OPTIONS = { minReward: 0.5, textField: "text" };

function read(format: string, record: unknown) {
  return readRecord(JSON.stringify(record), { ...OPTIONS, format });
}

function chunked(bytes: Uint8Array<ArrayBuffer>, size: number): ReadableStream<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.slice(at, at + size));
  return ReadableStream.from(chunks);
}

function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

async function gzip(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

Deno.test("lines end where they end, however the stream is cut", async () => {
  const bytes = encode("first\r\nzwölf\n\nlast");
  for (const size of [1, 2, 3, 7, 100]) {
    const lines = await Array.fromAsync(linesOf(chunked(bytes, size)));
    assertEquals(lines.map(({ text }) => text), ["first", "zwölf", "", "last"]);
    assertEquals(lines.map(({ end }) => end), [7, 14, 15, bytes.length]);
  }
});

Deno.test("GSM8K loses its calculator marks and keeps its answer", () => {
  assertEquals(
    read("gsm8k", { question: "How many?", answer: "48/2 = <<48/2=24>>24 clips\n#### 1,024" }),
    {
      kind: "chat",
      messages: [
        { role: "user", content: "How many?" },
        {
          role: "assistant",
          content: "<think>\n48/2 = 24 clips\n</think>\n\nThe answer is 1024.",
        },
      ],
      answer: "1024",
    },
  );
  assertEquals(read("gsm8k", { question: "How many?", answer: "24" }), {
    refused: "no #### answer",
  });
});

Deno.test("SVAMP's equation is its reasoning", () => {
  const reading = read("svamp", {
    question: "Q",
    equation: "( ( 76.0 - 25.0 ) * 2.0 )",
    answer: 102.0,
  });
  assert("messages" in reading);
  assertEquals(
    reading.messages[1].content,
    "<think>\n(76 - 25) * 2 = 102\n</think>\n\nThe answer is 102.",
  );
});

Deno.test("ARC's choices are in the prompt, and an answer key without choice is refused", () => {
  const choices = { text: ["fire", "ice"], label: ["A", "B"] };
  const reading = read("arc", { question: "What is cold?", choices, answerKey: "B" });
  assert("messages" in reading);
  assertEquals(reading.messages.map(({ content }) => content), [
    "What is cold?\nA. fire\nB. ice",
    "B. ice",
  ]);
  assertEquals(reading.answer, "B");
  assert("refused" in read("arc", { question: "What is cold?", choices, answerKey: "C" }));
});

Deno.test("conversations and prompts with completions are read in the forms of other trainers", () => {
  const messages = [{ role: "user", content: "Hi" }, { role: "assistant", content: "Hello" }];
  for (
    const reading of [
      read("chat", { messages, other: 1 }),
      read("completion", { prompt: "Hi", completion: " Hello" }),
      read("completion", { prompt: messages.slice(0, 1), completion: messages.slice(1) }),
    ]
  ) {
    assert("messages" in reading);
    assertEquals(reading.messages as unknown, messages);
  }
  assert("refused" in read("chat", { messages: messages.slice(0, 1) }));
  assert("refused" in read("chat", { messages: [...messages].reverse() }));
  assert("refused" in read("chat", { messages: [{ role: "robot", content: "x" }] }));
  assert("refused" in read("completion", { prompt: "", completion: "x" }));
});

Deno.test("samples are taken by their reward", () => {
  const sample = { prompt: "2 + 2?", completion: "<think>\n2 + 2 = 4\n</think>\n\n4" };
  const reading = read("samples", { ...sample, reward: 0.9, answer: "4", family: "addition" });
  assert("messages" in reading);
  assertEquals([reading.reward, reading.answer, reading.family], [0.9, "4", "addition"]);
  assertEquals(read("samples", { ...sample, reward: 0.4 }), { refused: "reward too low" });
  assertEquals(read("samples", { ...sample, reward: NaN }), { refused: "no reward" });
  assertEquals(read("samples", sample), { refused: "no reward" });
});

Deno.test("lines that are no records are refused by kind", () => {
  const line = (text: string) => readRecord(text, { ...OPTIONS, format: "web" });
  assertEquals(line("{"), { refused: "not JSON" });
  assertEquals(line("[1]"), { refused: "not a JSON object" });
  assertEquals(line("null"), { refused: "not a JSON object" });
  assertEquals(line('{"text": " "}'), { refused: "no text" });
  assertEquals(line('{"text": 5}'), { refused: "no text" });
});

/** Reads all, then again from behind each item, which must give the rest. */
async function assertResumable(options: { format: string; paths: string[] }): Promise<Item[]> {
  const source = { ...OPTIONS, ...options, files: DISK_FILES, pieceCharacters: 30 };
  const all = await Array.fromAsync(readFiles(source, START));
  for (const [i, { next }] of all.entries()) {
    assertEquals(await Array.fromAsync(readFiles(source, next)), all.slice(i + 1));
  }
  return all;
}

Deno.test("reading goes on behind any row, over several files and in packed ones", async () => {
  await withFolder(async (folder) => {
    const lines = (from: number) =>
      encode(Array.from({ length: 5 }, (_, i) => `{"text": "row ${from + i} ü"}\n`).join("\n"));
    await Deno.writeFile(`${folder}/a.jsonl`, lines(0));
    // Two packed files, joined as `cat` joins them.
    const packed = [await gzip(lines(5)), await gzip(lines(10))];
    await Deno.writeFile(`${folder}/b.jsonl.gz`, new Uint8Array([...packed[0], ...packed[1]]));
    const paths = [`${folder}/a.jsonl`, `${folder}/b.jsonl.gz`];
    const items = await assertResumable({ format: "web", paths });
    assertEquals(
      items.map(({ reading }) => "text" in reading && reading.text),
      Array.from({ length: 15 }, (_, i) => `row ${i} ü`),
    );
    assertEquals(items.map(({ next }) => next.row), items.map((_, i) => i + 1));
  });
});

Deno.test("plain text is cut at empty lines, whole paragraphs together", async () => {
  await withFolder(async (folder) => {
    const paragraphs = [
      "a short one",
      "another",
      "one that is longer than thirty characters",
      "end",
    ];
    await Deno.writeTextFile(`${folder}/a.txt`, `\n\n${paragraphs.join("\n\n\n")}`);
    const items = await assertResumable({ format: "text", paths: [`${folder}/a.txt`] });
    assertEquals(items.map(({ reading }) => "text" in reading && reading.text), [
      `${paragraphs[0]}\n\n\n${paragraphs[1]}\n\n\n${paragraphs[2]}`,
      "end",
    ]);
  });
});

function warcRecord(type: string, body: string | Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = typeof body === "string" ? encode(body) : body;
  const head = `WARC/1.0\r\nWARC-Type: ${type}\r\nContent-Length: ${bytes.length}\r\n\r\n`;
  return new Uint8Array([...encode(head), ...bytes, ...encode("\r\n\r\n")]);
}

function response(headers: string, body: string): string {
  return `HTTP/1.1 200 OK\r\n${headers}\r\n\r\n${body}`;
}

const HTML = "<html><head><title>No</title><script>var no</script></head><body><nav>No</nav>" +
  "<h1>Title</h1><p>Some <b>bold</b> text with a <a href='/x'>link</a>.</p></body></html>";

Deno.test("an archive gives its pages as text, and says of the other records why not", async () => {
  const packed = await gzip(encode(HTML));
  const httpHead = encode(
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n",
  );
  const half = HTML.length >> 1;
  const hex = (length: number) => length.toString(16);
  const chunks = `${hex(half)}\r\n${HTML.slice(0, half)}\r\n${hex(HTML.length - half)};x\r\n` +
    `${HTML.slice(half)}\r\n0\r\n\r\n`;
  const records = [
    warcRecord("warcinfo", "software: test"),
    warcRecord("response", response("Content-Type: text/html; charset=utf-8", HTML)),
    warcRecord("response", response("Content-Type: image/png", "xx")),
    warcRecord(
      "response",
      response("Content-Type: text/html\r\nTransfer-Encoding: chunked", chunks),
    ),
    warcRecord("response", new Uint8Array([...httpHead, ...packed])),
    warcRecord("response", "no HTTP at all"),
    warcRecord("conversion", "plain text of a page"),
  ];
  const bytes = new Uint8Array(records.flatMap((record) => [...record]));
  for (const size of [1, 50, 4096]) {
    const readings = await Array.fromAsync(textsOfWarc(chunked(bytes, size)));
    const page = { kind: "text", text: "TITLE\n\nSome bold text with a link." };
    assertEquals(readings as unknown[], [
      { refused: "record of type warcinfo" },
      page,
      { refused: "neither HTML nor plain text" },
      page,
      page,
      { refused: "no readable HTTP response" },
      { kind: "text", text: "plain text of a page" },
    ]);
  }
});

Deno.test("an archive goes on behind any record, packed record by record", async () => {
  await withFolder(async (folder) => {
    const records = await Promise.all(
      ["one", "two", "three"].map((text) => gzip(warcRecord("conversion", `${text} page`))),
    );
    await Deno.writeFile(`${folder}/a.warc.gz`, new Uint8Array(records.flatMap((r) => [...r])));
    const items = await assertResumable({ format: "warc", paths: [`${folder}/a.warc.gz`] });
    assertEquals(items.map(({ reading }) => "text" in reading && reading.text), [
      "one page",
      "two page",
      "three page",
    ]);
  });
});

Deno.test("an archive that is cut off or none at all is an error", async () => {
  const whole = warcRecord("conversion", "some text");
  const damaged = [
    whole.slice(0, 30),
    whole.slice(0, 60),
    encode("<html>\n\n</html>"),
    encode("x".repeat(1e5)),
  ];
  for (const bytes of damaged) {
    await assertRejects(() => Array.fromAsync(textsOfWarc(chunked(bytes, 100))), FormatError);
  }
});

const data = downloadedData();

Deno.test({
  name: "the published files are read without a refusal",
  ignore: data === undefined,
  async fn() {
    const files = [
      ["gsm8k", "gsm8k_train.jsonl", 7473],
      ["svamp", "svamp_test.dev80.jsonl", 800],
      ["arc", "arc_easy_train.jsonl", 2251],
      ["arc", "arc_challenge_train.jsonl", 1119],
    ] as const;
    for (const [format, name, count] of files) {
      const source = {
        ...OPTIONS,
        format,
        paths: [`${data}/${name}`],
        files: DISK_FILES,
        pieceCharacters: 1,
      };
      const items = await Array.fromAsync(readFiles(source, START));
      assertEquals(items.filter(({ reading }) => "refused" in reading), [], name);
      assertEquals(items.length, count, name);
    }
  },
});
