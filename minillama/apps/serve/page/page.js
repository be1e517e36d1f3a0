// The prompt, the stream of tokens, and what each token tells. All text goes in as textContent.

import { clearHeads, showHeads } from "/heads.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "seed"];
const ENDS = {
  end: "the model set its end mark",
  length: "max tokens reached",
  context: "the model's context is full",
};
let model = null;
let running = null; // what stops the request under way
let tokens = []; // what the last completion told: prompt first, then one a token

export function make(tag, text = "", name = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = name;
  return element;
}

export const percent = (p) => `${(100 * p).toFixed(p > 0.9995 || p < 0.0995 ? 2 : 1)}%`;
export const visible = (piece) => piece.replaceAll(" ", "␣").replaceAll("\n", "↵");

function complain(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

async function reasonOf(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

export async function ask(path, wish, signal) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify(wish);
  const response = await fetch(path, { method: "POST", headers, body, signal });
  if (!response.ok) throw new Error(await reasonOf(response));
  return response;
}

// Server-sent events of a response: [name, data], as they arrive.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const [name, data] = block.split("\n");
      yield [name.slice("event: ".length), JSON.parse(data.slice("data: ".length))];
    }
  }
}

async function generate() {
  if (running || !model) return;
  running = new AbortController();
  tokens = [];
  complain("");
  clearHeads();
  hideTip();
  working(true);
  const given = $("prompt").value;
  const began = performance.now();
  let written = 0;
  let end = "";
  try {
    const response = await ask("/api/generate", wish(given), running.signal);
    $("text").replaceChildren(make("span", given, "given"));
    for await (const [name, told] of events(response)) {
      if (name === "prompt") tokens = told.tokens;
      if (name === "token") {
        addToken(told, written++);
        report(written, performance.now() - began, "writing");
      }
      if (name === "end") {
        end = ENDS[told.reason];
        report(told.tokens, 1000 * told.seconds, end);
      }
      if (name === "error") throw new Error(told.error);
    }
    if (!end) throw new Error("The connection broke off.");
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (stopped) report(written, performance.now() - began, "stopped by you");
    else {
      $("status").textContent = "";
      complain(error instanceof TypeError ? "The server does not answer." : error.message);
    }
  } finally {
    running = null;
    working(false);
  }
  if (tokens.length) showHeads(tokens, model);
}

function wish(prompt) {
  const fields = { prompt };
  for (const name of NUMBERS) if ($(name)) fields[name] = Number($(name).value);
  return fields;
}

function working(now) {
  $("go").disabled = now;
  $("stop").disabled = !now;
  $("text").classList.toggle("writing", now);
  if (now) $("status").textContent = "reading the prompt";
}

function report(count, milliseconds, how) {
  const words = [`${count} token${count === 1 ? "" : "s"}`];
  if (count) words.push(`${((1000 * count) / milliseconds).toFixed(0)} tokens/s`);
  $("status").textContent = [...words, how].join(" · ");
}

function addToken(told, index) {
  const span = make("span", told.text, "token");
  const surprise = Math.min(1, -Math.log10(Math.max(told.p, 1e-9)) / 3);
  span.style.setProperty("--surprising", surprise.toFixed(3));
  if (!told.text) span.dataset.sign = told.piece; // a mark, or a part of a character
  if (told.text.includes("\n")) span.dataset.sign = "↵";
  span.tabIndex = index ? -1 : 0; // one stop for Tab; arrow keys go on from there
  span.told = told;
  tokens.push(told);
  $("text").append(span);
}

// ---- what a token tells ----

function showTip(span) {
  const { told } = span;
  const first = make("p");
  first.append("chosen: ", make("code", visible(told.piece)), ` ${percent(told.p)}`);
  const list = make("ol");
  for (const other of told.top) {
    const item = make("li", "", other.id === told.id ? "chosen" : "");
    item.style.setProperty("--p", other.p);
    item.append(make("code", visible(other.piece)), make("span", percent(other.p)));
    list.append(item);
  }
  const tip = $("tip");
  tip.replaceChildren(first, list, make("small", "the model's own, before sampling settings"));
  tip.hidden = false;
  const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const below = box.bottom + 8 + tip.offsetHeight < window.innerHeight;
  const top = below ? box.bottom + 8 : Math.max(4, box.top - tip.offsetHeight - 8);
  tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
  tip.style.top = `${top + window.scrollY}px`;
}

function hideTip() {
  $("tip").hidden = true;
}

function speak({ piece, p, top }) {
  const others = top.map((other) => `${other.piece} ${percent(other.p)}`).join(", ");
  $("spoken").textContent = `${piece}: ${percent(p)}. Likeliest: ${others}`;
}

function watchTokens() {
  const tokenOf = (event) => event.target.closest?.(".token");
  $("text").addEventListener("pointerover", (event) => tokenOf(event) && showTip(tokenOf(event)));
  $("text").addEventListener("pointerleave", hideTip);
  $("text").addEventListener("focusin", (event) => {
    const span = tokenOf(event);
    $("text").querySelectorAll('[tabindex="0"]').forEach((old) => (old.tabIndex = -1));
    span.tabIndex = 0;
    showTip(span);
    speak(span.told);
  });
  $("text").addEventListener("focusout", hideTip);
  $("text").addEventListener("keydown", (event) => {
    const all = [...$("text").querySelectorAll(".token")];
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape") hideTip();
    if (to === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(to, all.length - 1))]?.focus();
  });
}

// ---- settings and model ----

function showValues() {
  for (const shown of document.querySelectorAll("#settings output")) {
    const { value, step, id } = $(shown.htmlFor.value);
    const decimals = (step.split(".")[1] ?? "").length;
    shown.textContent = id === "top_k" && value === "0" ? "all" : Number(value).toFixed(decimals);
  }
}

async function describe() {
  const response = await fetch("/api/model");
  model = await response.json();
  for (const name of NUMBERS) {
    if (!(name in model.limits)) $(name).closest(".setting").remove();
    else {
      [$(name).min, $(name).max] = model.limits[name];
      $(name).value = $(name).defaultValue; // a slider had cut it to its own limits
    }
  }
  $("top_k").max = Math.min(100, $("top_k").max);
  showValues();
  const many = (n) => n.toLocaleString("en");
  const parts = [`${many(model.parameters)} parameters`,
    `${model.layers} layers of ${model.heads} heads`, `context of ${many(model.context)} tokens`];
  if (model.loss) {
    parts.push(`validation loss ${model.loss.toFixed(2)} after ${many(model.step)} steps`);
  }
  $("model").replaceChildren(make("b", model.name), ` · ${parts.join(" · ")}`);
  document.title = `${model.name} · minillama`;
  working(false);
}

function listen() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("settings").addEventListener("input", showValues);
  $("reseed").addEventListener("click", () => {
    $("seed").value = Math.floor(Math.random() * 1e6);
  });
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      $("prompt").value = chip.textContent;
      $("prompt").focus();
    });
  }
  watchTokens();
}

listen();
describe().catch(() => complain("The server does not answer."));
