/** Shows a training run as it goes: asks for its state every second, and for the figure when it has grown. */

const STATE_MS = 1000;
const FIGURE_MS = 3000;
/** Pixels of a panel that can be read. */
const PANEL_WIDTH = 340;

/** What is shown of the last step, by TRL's names. */
const SHOWN = [
  ["loss", "loss"],
  ["reward", "reward"],
  ["entropy", "entropy"],
  ["kl", "KL"],
  ["clip_ratio/region_mean", "clipped"],
  ["completions/mean_length", "tokens of an answer"],
  ["expert_load", "expert load"],
  ["grad_norm", "gradient norm"],
  ["learning_rate", "learning rate"],
];

const OUTCOMES = {
  "done": "The run is done.",
  "stopped": "The run was stopped; --resume goes on with it.",
  "below the gate": "The run has ended below a gate: no model is shipped.",
  "failed": "The run has failed; its terminal says why.",
};

const $ = (id) => document.getElementById(id);
let figure = { bytes: -1, asked: -Infinity };
let isOver = false;

async function show() {
  try {
    const response = await fetch("state.json");
    if (!response.ok) throw new Error(`the server answers ${response.status}`);
    const run = await response.json();
    showState(run);
    await showFigure(run.bytes);
  } catch {
    if (!isOver) say("The run can't be reached: it has ended, or its machine is gone.", true);
  }
  setTimeout(show, STATE_MS);
}

function showState({ name, phases, progress, outcome, events, example }) {
  isOver = outcome !== null;
  document.title = `${name}: training run`;
  $("name").textContent = name;
  say(outcome === null ? doing(progress) : OUTCOMES[outcome], isOver && outcome !== "done");
  $("phases").replaceChildren(
    ...phases.map((phase) => phaseItem(phase, !isOver && phase.name === progress?.phase)),
  );
  $("metrics").replaceChildren(
    ...figures(progress).map(([label, value]) => pair(label, value)),
  );
  $("heldout").hidden = example === null;
  $("example").textContent = example ?? "";
  $("news").hidden = events.length === 0;
  $("events").replaceChildren(...events.toReversed().map((event) => element("li", event)));
}

function doing(progress) {
  if (progress === null) return "The first step is under way.";
  const { phase, step, steps, secondsLeft } = progress;
  const rest = step < steps
    ? `${time(secondsLeft)} left`
    : step === steps
    ? "to be evaluated"
    : "beyond its planned steps, to its gate";
  return `${phase}: step ${step} of ${steps}, ${rest}`;
}

function phaseItem({ name, kind, steps, done, gate, share, accuracy }, isCurrent) {
  const item = document.createElement("li");
  item.className = isCurrent ? "current" : "";
  const bar = document.createElement("progress");
  bar.max = steps;
  bar.value = Math.min(done, steps);
  bar.ariaLabel = `steps of ${name}`;
  const solved = accuracy === null ? "not evaluated yet" : `${percent(accuracy)} solved`;
  item.append(
    element("strong", name === kind ? name : `${name} (${kind})`),
    bar,
    element("span", `${done} of ${steps} steps, ${percent(share)} of the compute`),
    element("span", `${solved}, gate ${gate === 0 ? "open" : percent(gate)}`),
  );
  return item;
}

function figures(progress) {
  if (progress === null) return [];
  const { metrics, tokensPerSecond } = progress;
  const rewards = Object.keys(metrics).flatMap((key) => {
    const match = /^rewards\/(.*)\/mean$/.exec(key);
    return match === null ? [] : [[key, match[1].replaceAll("_", " ")]];
  });
  return [
    ...[...SHOWN, ...rewards].filter(([key]) => key in metrics)
      .map(([key, label]) => [label, String(Number(metrics[key].toPrecision(3)))]),
    ["tokens per second", Math.round(tokensPerSecond).toLocaleString("en")],
  ];
}

async function showFigure(bytes) {
  if (bytes === figure.bytes || performance.now() - figure.asked < FIGURE_MS && !isOver) return;
  figure = { bytes, asked: performance.now() };
  const columns = Math.max(1, Math.min(3, Math.floor(innerWidth / PANEL_WIDTH)));
  const response = await fetch(`figure.svg?columns=${columns}`);
  if (!response.ok) return;
  const drawn = new DOMParser().parseFromString(await response.text(), "image/svg+xml");
  $("figure").replaceChildren(document.importNode(drawn.documentElement, true));
}

function say(text, isTrouble) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").className = isTrouble ? "trouble" : "";
}

function pair(label, value) {
  const box = document.createElement("div");
  box.append(element("dt", label), element("dd", value));
  return box;
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function percent(share) {
  return `${Number((100 * share).toFixed(1))} %`;
}

function time(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

show();
