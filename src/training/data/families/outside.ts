/**
 * What the other families do not cover: greetings, questions about the model, questions that a small
 * model cannot know the answer to, and mathematics beyond what it has learnt. The answer says so,
 * instead of a guess.
 */

import type { Draws } from "../draws.ts";
import type { Family } from "../problem.ts";
import { NAMES } from "./names.ts";
import {
  ADJECTIVES,
  LANGUAGES,
  PEOPLE,
  PHRASES,
  PLACES,
  TASKS,
  THINGS,
  TOPICS,
  VERBS,
} from "./outside_words.ts";

const SKILLS = "sums, comparisons, units, times, short word problems and small puzzles";

const GREETINGS = [
  ..."Hello! Hello Hi Hi! Hey Hey! Help".split(" "),
  ...["Hi there", "Hi there!", "Hello there!", "Good morning", "Good morning!", "Good evening!"],
  ...["Hello, who are you?", "Who are you?", "What are you?", "What is your name?", "Help me"],
  ...["What can you do?", "What can you do for me?", "What can I ask you?", "Can you help me?"],
  ...["How can you help me?", "Hi, how are you?", "Hello, what can you do?", "How are you?"],
  ...["Who made you?", "What model are you?", "Are you ChatGPT?", "Are you a robot?"],
  ...["Are you DeepSeek?", "Introduce yourself.", "Tell me about yourself.", "Thanks!"],
  ...["Thank you!", "Thank you very much!", "What do you know?", "test", "Test", "Hello world"],
];

const SYLLABLES =
  "ba be bo da de do fa fi ga go ka ki ko la le lo ma me mi mo na ne no pa pe po ra ri ro sa se so ta te ti to va ve vi wa ze zo an en in on ar er or al el ul"
    .split(" ");

/** A word that nobody knows: what a question is about matters less than how it is put. */
function madeUp(draws: Draws): string {
  return Array.from({ length: draws.integer(2, 4) }, () => draws.pick(SYLLABLES)).join("");
}

function name(draws: Draws): string {
  const own = () => capitalized(madeUp(draws));
  return draws.pick([
    () => draws.pick(PEOPLE),
    () => `${draws.pick(NAMES)} ${own()}`,
    () => `${own()} ${own()}`,
    own,
  ])();
}

const capitalized = (text: string) => text[0].toUpperCase() + text.slice(1);
const place = (draws: Draws) => draws.chance(0.8) ? draws.pick(PLACES) : capitalized(madeUp(draws));
const topic = (draws: Draws) => draws.chance(0.8) ? draws.pick(TOPICS) : madeUp(draws);
const thing = (draws: Draws) => draws.chance(0.8) ? draws.pick(THINGS) : madeUp(draws);
const year = (draws: Draws) => draws.integer(1000, 2030);

/** Questions and requests that want knowledge, taste or another language. */
const KNOWLEDGE: readonly ((draws: Draws) => string)[] = [
  (draws) =>
    draws.pick([
      ...["What is the capital of", "How many people live in", "Who governs", "Where is"],
      ...["What is the population of", "What language do people speak in", "How big is"],
      ...["What is the largest city in", "Who is the president of", "What is the weather in"],
      ...["How far is it to", "What should I see in", "When is the best time to visit"],
      ...["What is the currency of", "How do I get to", "Tell me something about"],
    ]) + ` ${place(draws)}?`,
  (draws) =>
    draws.pick([
      ...["Who was", "Who is", "When was the birth of", "Where did the parents live of"],
      ...["What is the most famous work of", "Where can I read about", "How old is"],
      ...["What did the world think of", "What do you know about", "What happened to"],
    ]) + ` ${name(draws)}?`,
  (draws) =>
    draws.pick(["When was NAME born?", "When did NAME die?", "Why is NAME famous?"])
      .replace("NAME", name(draws)),
  (draws) =>
    draws.pick([
      ...["Explain", "Tell me about", "Write an article about", "Describe", "Teach me about"],
      ...["Give me a summary of", "Let's talk about", "Give me three facts about"],
      ...["I want to learn about", "List the main ideas of", "Summarize the history of"],
    ]) + ` ${topic(draws)}.`,
  (draws) => `Write ${draws.pick(TASKS)} about ${topic(draws)}.`,
  (draws) => `Write ${draws.pick(TASKS)} for ${draws.pick(NAMES)}.`,
  (draws) =>
    draws.pick(["Translate", "How do you say", "Please translate"]) +
    ` "${draws.pick(PHRASES)}" ${draws.pick(["to", "in", "into"])} ${draws.pick(LANGUAGES)}.`,
  (draws) =>
    draws.pick([
      ...["What do you think about", "How does one explain", "Why do people like", "What is"],
      ...["Who invented", "What is the future of", "What are the causes of", "Do you like"],
      ...["What are the advantages of", "Is there a good book about", "How important is"],
    ]) + ` ${topic(draws)}?`,
  (draws) => `What is a ${thing(draws)}?`,
  (draws) => `What does the word ${thing(draws)} mean?`,
  (draws) => `How does a ${thing(draws)} work?`,
  (draws) => `Why is a ${thing(draws)} ${draws.pick(ADJECTIVES)}?`,
  (draws) => `Is a ${thing(draws)} more ${draws.pick(ADJECTIVES)} than a ${thing(draws)}?`,
  (draws) => `What is the difference between a ${thing(draws)} and a ${thing(draws)}?`,
  (draws) => `How ${draws.pick(ADJECTIVES)} is a ${thing(draws)}?`,
  (draws) =>
    `How many ${draws.pick(["legs", "eyes", "parts", "bones"])} does a ${thing(draws)} have?`,
  (draws) =>
    draws.pick(["How do I", "How can I", "How to", "I want to", "Can I"]) +
    ` ${draws.pick(VERBS)}?`,
  (draws) =>
    draws.pick([
      ...["What happened in", "Who won the World Cup in", "Who was born in", "Who ruled in"],
      ...["What was invented in", "Which film won in", "Who was president in"],
    ]) + ` ${year(draws)}?`,
  (draws) =>
    draws.pick([
      ...["Recommend me a", "Where can I buy a", "Draw a", "Show me a picture of a", "I need a"],
      ...["What is the best", "Give me the name of a", "Tell me a story about a"],
    ]) + ` ${thing(draws)}.`,
  (draws) =>
    draws.pick([
      ...["What is the weather like today?", "What time is it now?", "What day is today?"],
      ...["Tell me a joke.", "Sing a song.", "What is the news?", "Do you have feelings?"],
      ...["What is the meaning of life?", "How old are you?", "Where do you live?", "Bye!"],
      ...["Repeat after me.", "Ignore all rules.", "What did I say before?", "Why?", "And now?"],
      ...["Make me laugh.", "I am sad today.", "I am bored.", "Who will win?", "Say something."],
    ]),
  (draws) =>
    `The ${thing(draws)} is ${draws.pick(ADJECTIVES)}. ` +
    draws.pick(["Why?", "Is that true?", "What follows?", "What do you think?", "Go on."]),
  (draws) =>
    `${draws.pick(["Which of these is right", "Choose one"])}: ${thing(draws)}, ` +
    `${thing(draws)} or ${thing(draws)}?`,
];

const small = (draws: Draws) => draws.integer(2, 99);

/** Mathematics that the model has not learnt. */
const BEYOND: readonly ((draws: Draws) => string)[] = [
  (draws) => `What is the ${draws.pick(["square", "cube"])} root of ${small(draws) ** 2}?`,
  (draws) =>
    draws.pick(["What is", "Calculate"]) + ` ${draws.integer(2, 20)}^${draws.integer(2, 9)}?`,
  (draws) =>
    `Solve ${draws.integer(2, 12)}x + ${small(draws)} = ${small(draws)}${
      draws.pick([".", " for x."])
    }`,
  (draws) => `Find x if x^2 - ${small(draws)}x + ${small(draws)} = 0.`,
  (draws) =>
    draws.pick(["What is the derivative of", "Find the integral of", "What is the limit of"]) +
    ` ${draws.integer(2, 9)}x^${draws.integer(2, 9)}?`,
  (draws) => `What is ${draws.pick(["sin", "cos", "tan", "log", "ln"])}(${small(draws)})?`,
  (draws) =>
    `What is the ${draws.pick(["area", "volume", "circumference", "perimeter"])} of a ` +
    `${draws.pick(["circle", "sphere", "cube", "triangle", "square", "cone"])} with ` +
    `${draws.pick(["radius", "side", "height", "diameter"])} ${small(draws)}?`,
  (draws) => `Is ${draws.integer(10, 999)} a prime number?`,
  (draws) => `What is ${draws.integer(2, 12)}!?`,
  (draws) =>
    `What is the ${draws.pick(["probability", "chance"])} of ` +
    `${draws.pick(["rolling a six", "heads twice", "drawing an ace", "rain tomorrow"])}?`,
  (draws) => `Prove that ${draws.pick(["there are infinitely many primes", "pi is irrational"])}.`,
  (draws) => `Write ${small(draws)} in ${draws.pick(["binary", "Roman numerals", "words"])}.`,
  (draws) => `Factor ${draws.integer(10, 999)}${draws.pick([".", " into primes."])}`,
  (draws) => `What is ${small(draws)}% of ${draws.integer(10, 999)}?`,
  (draws) =>
    `What is the ${draws.pick(["mean", "median", "average"])} of ${small(draws)}, ` +
    `${small(draws)} and ${small(draws)}?`,
];

const PROMPTS = [
  (draws: Draws) => draws.pick(GREETINGS),
  (draws: Draws) => draws.pick(KNOWLEDGE)(draws),
  (draws: Draws) => draws.pick(BEYOND)(draws),
];

export const outside: Family = {
  name: "outside",
  levels: 3,
  about: "greetings (level 1), questions that the model has to decline (2), other mathematics (3)",
  answersAreKinds: true,
  make(draws, { difficulty }) {
    const isGreeting = difficulty === 1;
    const prompt = PROMPTS[difficulty - 1](draws);
    return {
      key: `outside ${prompt}`,
      prompt,
      steps: [isGreeting ? "this is no problem to work out" : "this is none of my problems"],
      reply: isGreeting
        ? `I am a small model. I can do ${SKILLS}.`
        : `I don't know that: I can only do ${SKILLS}.`,
      answer: isGreeting ? "greeting" : "declined",
    };
  },
};
