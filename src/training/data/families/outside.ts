/**
 * What the other families do not cover: greetings, questions about the model, and questions that a small
 * model cannot know the answer to. The answer says so, instead of a guess.
 */

import type { Draws } from "../draws.ts";
import type { Family } from "../problem.ts";

const SKILLS = "sums, comparisons, units, times, short word problems and small puzzles";

const PLACES = "France Japan Peru Kenya Norway Canada India Egypt Chile Turkey Vietnam Portugal"
  .split(" ");
const PEOPLE = [
  "Napoleon",
  "Cleopatra",
  "Mozart",
  "Marie Curie",
  "Shakespeare",
  "Galileo",
  "Frida Kahlo",
  "Gandhi",
  "Nelson Mandela",
  "Ada Lovelace",
];
const TOPICS = [
  "photosynthesis",
  "black holes",
  "the stock market",
  "volcanoes",
  "inflation",
  "vaccines",
  "electric cars",
  "the French Revolution",
  "chess openings",
  "climate change",
  "quantum physics",
  "jazz music",
];
const TASKS = [
  "a poem",
  "a story",
  "an essay",
  "a song",
  "a letter",
  "a recipe",
  "a Python program",
  "a joke",
];
const LANGUAGES = ["French", "Spanish", "German", "Japanese", "Arabic", "Swahili"];

/** Each gives a prompt for a subject. */
const QUESTIONS: readonly ((draws: Draws) => string)[] = [
  (draws) =>
    draws.pick(["What is the capital of", "How many people live in", "Who governs"]) +
    ` ${draws.pick(PLACES)}?`,
  (draws) =>
    `${draws.pick(["Who was", "When was", "Tell me about"])} ${draws.pick(PEOPLE)}?`
      .replace("When was", "When was the birth of").replace(/(Tell .*)\?/, "$1."),
  (draws) =>
    draws.pick(["Explain", "Tell me about", "Write an article about"]) +
    ` ${draws.pick(TOPICS)}.`,
  (draws) => `Write ${draws.pick(TASKS)} about ${draws.pick(TOPICS)}.`,
  (draws) => `Translate "good morning" to ${draws.pick(LANGUAGES)}.`,
  (draws) => `What do you think about ${draws.pick(TOPICS)}?`,
  (draws) => `Where can I read about ${draws.pick(PEOPLE)}?`,
];

const GREETINGS = [
  "Hello!",
  "Hi",
  "Hello, who are you?",
  "What can you do?",
  "Who are you?",
  "Help",
];

export const outside: Family = {
  name: "outside",
  levels: 2,
  about: "greetings (level 1) and questions that the model has to decline (level 2)",
  answersAreKinds: true,
  make(draws, { difficulty }) {
    const prompt = difficulty === 1 ? draws.pick(GREETINGS) : draws.pick(QUESTIONS)(draws);
    const reply = difficulty === 1
      ? `I am a small model. I can do ${SKILLS}.`
      : `I don't know that: I can only do ${SKILLS}.`;
    return {
      key: `outside ${prompt}`,
      prompt,
      steps: [difficulty === 1 ? "this is no problem to work out" : "this is none of my problems"],
      reply,
      answer: difficulty === 1 ? "greeting" : "declined",
    };
  },
};
