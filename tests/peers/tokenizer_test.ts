import { assertEquals } from "@std/assert";
import { ChatTemplate } from "../../src/chat/mod.ts";
import { tokenizerFromHuggingFace } from "../../src/tokenizer/mod.ts";
import { FAMILIES, problemAt } from "../../src/training/data/families/mod.ts";
import { type Draft, problemDraft, textOf } from "../../src/training/data/rows.ts";
import { BOS, CHAT_TEMPLATE, EOS } from "../../src/training/data/tokenizer/files.ts";
import { trainTokenizer } from "../../src/training/data/tokenizer/train.ts";
import { askPython, pythonHas } from "./_python.ts";

const VOCABULARY = 900;

interface Answer {
  readonly ids: number[][];
  readonly withSpecial: number[];
  readonly merges: string[][];
  readonly vocab: Record<string, number>;
  readonly chat: string[] | null;
}

const MESSAGES = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "2 + 2?" },
  { role: "assistant", content: "<think>\n2 + 2 = 4\n</think>\n\n4." },
  { role: "user", content: "And 3 + 3?" },
];

for (const digits of ["single", "triples"] as const) {
  Deno.test({
    name:
      `Hugging Face's tokenizers learn the same merges and give the same ids (digits: ${digits})`,
    // Skipped where Python has no tokenizers package (SLUICE_PYTHON names one that has).
    ignore: !pythonHas("tokenizers"),
    async fn() {
      const drafts: Draft[] = FAMILIES.flatMap((family) =>
        Array.from({ length: 60 }, (_, index) =>
          problemDraft(
            problemAt(family, { seed: 5, index, levels: [1, family.levels], notation: "columns" }),
          ))
      );
      drafts.push({
        kind: "text",
        text: "Žluťoučký kůň, 漢字かな交じり文 🙂🙂\r\n\t tabs   and spaces",
      });
      const recipe = { vocabulary: VOCABULARY, digits, minCount: 2, rows: 1e6, contextLength: 512 };
      const files = await trainTokenizer(ReadableStream.from(drafts), { recipe });
      const folder = await Deno.makeTempDir();
      try {
        for (const [name, text] of Object.entries(files)) {
          await Deno.writeTextFile(`${folder}/${name}`, text);
        }
        const texts = drafts.map(textOf);
        // Their trainer would take <think> for a part of the corpus, ours knows it for a token.
        const training = texts.flatMap((text) => text.split(/<\/?think>/));
        const job = { folder, texts, training, messages: MESSAGES, vocabulary: VOCABULARY };
        const answer = await askPython<Answer>("tokenizer.py", job);
        const own = JSON.parse(files["tokenizer.json"]);
        assertEquals(own.model.vocab, answer.vocab);
        assertEquals(own.model.merges, answer.merges);
        const tokenizer = tokenizerFromHuggingFace(
          { tokenizer: files["tokenizer.json"], tokenizerConfig: files["tokenizer_config.json"] },
          { name: "trained" },
        );
        assertEquals(
          texts.map((text) => tokenizer.encode(text, { addSpecial: false })),
          answer.ids,
        );
        assertEquals(tokenizer.encode("a"), answer.withSpecial);
        if (answer.chat !== null) {
          const template = new ChatTemplate(CHAT_TEMPLATE, { bosToken: BOS, eosToken: EOS });
          assertEquals(answer.chat, [
            template.render(MESSAGES),
            template.render(MESSAGES, { addGenerationPrompt: false }),
          ]);
        }
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}
